//! Variables come to the machines that they are for, and secrets to nobody else: not into logs, nor the journal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use shoal_tests::{Mesh, package};

const SECRET: &str = "correct-horse-battery";

fn file(mesh: &Mesh) -> String {
    let folder = mesh.path("").display().to_string();
    format!(
        r#"
name: shop
release: "1"
packages: {{ app: {{ feed: files, id: app.bin }} }}
targets: [{{ select: all, packages: [app] }}]
variables:
  - {{ name: port, value: 80 }}
  - {{ name: port, value: 81, site: syd }}
  - {{ name: port, value: 82, node: osl-2 }}
  - {{ name: greeting, value: "it's {{ not a template }}" }}
  - {{ name: password, value_file: "{folder}/password", site: osl }}
steps:
  - name: say
    run: |
      echo "port {{{{ port }}}} $SHOAL_VAR_PORT"
      echo {{{{ greeting | quote }}}}
      printf '%s' "password=$SHOAL_VAR_PASSWORD;" >&2
      printf 'password = {{% raw %}}{{{{ password }}}}{{% endraw %}}\nport = {{% raw %}}{{{{ port }}}}{{% endraw %}}\n' > {folder}/$SHOAL_NODE.j2
      true
  - {{ name: own, on: coordinator, run: "echo own {{{{ port }}}} [$SHOAL_VAR_PASSWORD]" }}
  - {{ name: config, template: "{folder}/${{SHOAL_NODE}}.j2", to: "{folder}/${{SHOAL_NODE}}.conf", mode: "0640", on_failure: ignore }}
"#
    )
}

/// What a step wrote on a node.
fn said(mesh: &Mesh, node: &str, step: &str) -> Vec<String> {
    let logs = mesh.shoal(&["logs", "d1", "--node", node, "--step", step, "-o", "jsonl"]);
    let text = |line: &str| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
    logs.stdout.lines().map(text).collect()
}

/// The files below `folder` in which a text stands.
fn holding(folder: &Path, text: &str, found: &mut Vec<String>) {
    for item in fs::read_dir(folder).unwrap().flatten() {
        let path = item.path();
        if path.is_dir() {
            holding(&path, text, found);
        } else if fs::read(&path).unwrap_or_default().windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    found.sort();
}

#[test]
fn variables_come_where_they_belong_and_secrets_nowhere_else() {
    let mut mesh = Mesh::start("[[feed]]\nname = 'files'\nkind = 'folder'\npath = 'packages'\n");
    mesh.join("osl", &["osl-1", "osl-2"]);
    mesh.join("syd", &["syd-1"]);
    fs::create_dir(mesh.path("packages")).unwrap();
    fs::write(mesh.path("packages/app.bin"), package::bytes(1, 20_000)).unwrap();
    fs::write(mesh.path("password"), format!("{SECRET}\n")).unwrap();
    let ran = mesh.deploy(&file(&mesh), &["--watch", "-q", "-o", "json"]);
    assert_eq!(ran.json()["outcome"], "succeeded", "{ran:?}");

    let greeting = "it's { not a template }".to_owned();
    for (node, port) in [("osl-1", "80"), ("osl-2", "82"), ("syd-1", "81")] {
        let said = said(&mesh, node, "say");
        assert!(said.contains(&format!("port {port} {port}")) && said.contains(&greeting), "{node}: {said:?}");
        let masked = if node == "syd-1" { "password=;" } else { "password=***;" };
        assert!(said.iter().any(|line| line == masked), "{node}: {said:?}");
    }
    assert_eq!(said(&mesh, "coordinator", "own"), ["own 80 []"], "a secret of a site is not the coordinator's");
    let conf = mesh.path("osl-2.conf");
    assert_eq!(fs::read_to_string(&conf).unwrap(), format!("password = {SECRET}\nport = 82\n"));
    assert_eq!(fs::metadata(&conf).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(!mesh.path("syd-1.conf").exists(), "a node that is not told a secret cannot fill it in");

    let mut found = Vec::new();
    holding(&mesh.path(""), SECRET, &mut found);
    assert_eq!(
        found,
        ["d1", "osl-1.conf", "osl-2.conf", "password"],
        "neither journals nor logs; the coordinator's own file, for a rollback"
    );
}

#[test]
fn what_is_given_with_the_command_wins_and_is_part_of_the_plan() {
    let mut mesh = Mesh::start("[[feed]]\nname = 'files'\nkind = 'folder'\npath = 'packages'\n");
    mesh.join("osl", &["osl-1"]);
    fs::create_dir(mesh.path("packages")).unwrap();
    fs::write(mesh.path("packages/app.bin"), package::bytes(1, 20_000)).unwrap();
    fs::write(mesh.path("password"), SECRET).unwrap();
    let text = file(&mesh);
    fs::write(mesh.path("deploy.yaml"), &text).unwrap();
    let hash = |args: &[&str]| mesh.shoal(&[&["plan", "-f", "deploy.yaml", "-q", "-o", "json"], args].concat()).json();
    let plain = hash(&[])["hash"].clone();
    assert_eq!(hash(&["-V", "port=90", "--out", "plan.json"])["name"], "shop");
    let moved = mesh.shoal(&["deploy", "--plan", "plan.json", "-q"]);
    assert_eq!((moved.code, moved.stderr.contains("a variable has another value")), (5, true), "{moved:?}");
    let ran = mesh.shoal(&["deploy", "--plan", "plan.json", "-V", "port=90", "--watch", "-q"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(said(&mesh, "osl-1", "say").contains(&"port 90 90".to_owned()));
    assert!(!fs::read_to_string(mesh.path("plan.json")).unwrap().contains(SECRET));
    // Another secret is another plan, though neither stands in it.
    fs::write(mesh.path("password"), "another-secret").unwrap();
    assert_ne!(hash(&[])["hash"], plain);
    let wrong = mesh.deploy(&text.replace("{{ port }}", "{{ prot }}"), &["-q"]);
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(
        wrong.stderr.contains("step `say`: line 1: it names a variable or an output that there is not"),
        "{wrong:?}"
    );
    let unknown = mesh.shoal(&["deploy", "-f", "deploy.yaml", "-q", "-V", "prot=1"]);
    assert!(unknown.stderr.contains("(is `port` meant?)"), "{unknown:?}");
    assert_eq!(json!(unknown.code), 2);
}
