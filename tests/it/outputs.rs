//! What steps write to `$SHOAL_OUTPUT` is seen by later steps where it is for them, also after everything was killed.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::Mesh;

/// Long: a debug build on a loaded machine.
const WITHIN: Duration = Duration::from_secs(120);

const SECRET: &str = "correct-horse-battery";

fn file(steps: &str) -> String {
    format!("name: shop\nrelease: '1'\ntargets: [{{ select: all }}]\nsteps:\n{steps}")
}

fn sorted_lines(mesh: &Mesh, path: &str) -> Vec<String> {
    let text = fs::read_to_string(mesh.path(path)).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn two_sites() -> Mesh {
    let mut mesh = Mesh::start("");
    mesh.join("osl", &["osl-1", "osl-2"]);
    mesh.join("syd", &["syd-1"]);
    mesh
}

#[test]
fn outputs_cross_machines_and_outlive_them() {
    let mut mesh = two_sites();
    let folder = mesh.path("").display().to_string();
    let say = "{{ outputs.db_migrate.version }} {{ outputs.elect.site }} {{ outputs.own.id }} \
               $SHOAL_OUTPUT_DB_MIGRATE_VERSION $SHOAL_VALUE_ID";
    let steps = format!(
        "  - {{ name: db-migrate, on: coordinator, run: 'echo version=7 >> $SHOAL_OUTPUT' }}\n  \
         - {{ name: elect, on: site, run: 'echo site=$SHOAL_SITE >> $SHOAL_OUTPUT' }}\n  \
         - {{ name: own, run: 'echo id=$SHOAL_NODE-own >> $SHOAL_OUTPUT' }}\n  \
         - {{ name: hold, idempotent: true, run: 'until test -e {folder}/go; do sleep 0.05; done' }}\n  \
         - {{ name: say, run: 'echo $SHOAL_NODE {say} >> {folder}/said' }}\n  \
         - {{ name: last, on: coordinator, run: 'echo {{{{ outputs.db_migrate.version }}}} >> {folder}/last' }}\n"
    );
    let id = mesh.begin(&file(&steps));
    let holds = |status: &Value| {
        let nodes = status["nodes"].as_array().unwrap().iter();
        let steps = nodes.flat_map(|node| node["steps"].as_array().unwrap());
        steps.filter(|step| step["name"] == "hold" && step["state"] == "running").count() == 3
    };
    mesh.await_status(&id, "all hold", WITHIN, holds);
    for node in ["osl-1", "osl-2", "syd-1"] {
        mesh.kill_node(node);
    }
    mesh.kill_coordinator();
    mesh.start_coordinator();
    for node in ["osl-1", "osl-2", "syd-1"] {
        mesh.start_node(node);
    }
    fs::write(mesh.path("go"), "").unwrap();
    mesh.await_state(&id, "succeeded", WITHIN);
    let said =
        ["osl-1 7 osl osl-1-own 7 osl-1-own", "osl-2 7 osl osl-2-own 7 osl-2-own", "syd-1 7 syd syd-1-own 7 syd-1-own"];
    assert_eq!(sorted_lines(&mesh, "said"), said);
    assert_eq!(sorted_lines(&mesh, "last"), ["7"]);

    let all = mesh.shoal(&["outputs", &id, "-o", "json"]).json();
    assert_eq!(all["schema"], "shoal.outputs/v1");
    let outputs = all["outputs"].as_array().unwrap();
    assert_eq!(
        outputs[0],
        json!({ "node": "coordinator", "step": "db-migrate", "attempt": 1, "values": { "version": "7" } })
    );
    assert_eq!(outputs.len(), 1 + 2 + 3, "{all:#}");
    let one = mesh.shoal(&["outputs", &id, "--node", "syd-1", "--step", "own"]).stdout;
    assert_eq!(one, "node   step  key  value\nsyd-1  own   id   syd-1-own\n");
    let status = mesh.status(&id);
    assert_eq!(status["coordinator_steps"][0]["outputs"], json!({ "version": "7" }));
}

#[test]
fn what_no_step_before_can_have_written_is_an_error_before_anything_begins() {
    let mesh = two_sites();
    let refused = |steps: &str, wanted: &str| {
        let ran = mesh.deploy(&file(steps), &["-q"]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains(wanted), "{wanted}: {ran:?}");
    };
    let migrate = "  - { name: migrate, run: 'true' }\n";
    let named = |name: &str, more: &str, step: &str| {
        format!("  - {{ name: {name}, {more}run: 'echo {{{{ outputs.{step}.version }}}}' }}\n")
    };
    let wrong = format!("{migrate}{}", named("say", "", "migrat"));
    refused(&wrong, "step `say`: `outputs.migrat`: no step `migrat` comes before this one");
    refused(&format!("{}{migrate}", named("say", "", "migrate")), "no step `migrate` comes before this one");
    let elsewhere = format!("{migrate}{}", named("say", "on: coordinator, ", "migrate"));
    refused(&elsewhere, "writes where it is seen here: none does");
    let skipped = format!("  - {{ name: migrate, rollback: skip, run: 'true' }}\n{}", named("say", "", "migrate"));
    refused(&skipped, "step `say`, when a later release is rolled back to this one: `outputs.migrate`");
    // A key that the step did not write: nobody can know before.
    let id = mesh.begin(&file(&format!("{migrate}{}", named("say", "", "migrate"))));
    let status = mesh.await_state(&id, "paused", WITHIN);
    assert!(status.to_string().contains("it names a variable or an output that there is not"), "{status:#}");
}

#[test]
fn a_secret_is_not_handed_on() {
    let mesh = two_sites();
    fs::write(mesh.path("password"), SECRET).unwrap();
    let variables = format!("variables: [{{ name: password, value_file: '{}' }}]\n", mesh.path("password").display());
    let step = "  - { name: leak, on: coordinator, on_failure: fail, run: 'echo \"at=x$SHOAL_VAR_PASSWORD\" >> $SHOAL_OUTPUT' }\n";
    let id = mesh.begin(&(variables + &file(step)));
    let status = mesh.await_state(&id, "failed", WITHIN);
    assert!(status.to_string().contains("`at` in $SHOAL_OUTPUT holds a secret"), "{status:#}");
    assert_eq!(mesh.shoal(&["outputs", &id]).stdout, "no step wrote anything to $SHOAL_OUTPUT\n");
    for file in ["coordinator/audit.log", "coordinator/logs"] {
        let path = mesh.path(file);
        let files = if path.is_dir() {
            fs::read_dir(path).unwrap().map(|item| item.unwrap().path()).collect()
        } else {
            vec![path]
        };
        for file in files.into_iter().filter(|file| file.is_file()) {
            let bytes = fs::read(&file).unwrap();
            assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "{} has it", file.display());
        }
    }
}
