//! What a plan says comes true, a deployment is held to it, and what is as wanted is left alone.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::{Mesh, Origin, package};

/// Long: a debug build on a loaded machine.
const WITHIN: Duration = Duration::from_secs(90);

fn file(release: u32, steps: &str) -> String {
    format!(
        "name: model\nrelease: '{release}'\npackages:\n  model: {{ feed: files, id: model.bin }}\n\
         targets:\n  - {{ select: all, packages: [model] }}\nsteps:\n{steps}"
    )
}

/// Plans the mesh's deployment file.
fn plan(mesh: &Mesh, text: &str, args: &[&str]) -> Value {
    fs::write(mesh.path("deploy.yaml"), text).unwrap();
    mesh.shoal(&[&["plan", "-f", "deploy.yaml", "-q", "-o", "json"], args].concat()).json()
}

/// The figures of the only site: wanted, already there, over the WAN, from peers.
fn figures(plan: &Value) -> [u64; 4] {
    let site = &plan["sites"][0];
    assert_eq!((&site["nodes"], &site["known_nodes"]), (&json!(2), &json!(2)), "{plan}");
    ["wanted_bytes", "local_bytes", "wan_bytes", "peer_bytes"].map(|key| site[key].as_u64().unwrap())
}

#[test]
fn a_plan_says_what_moves_and_the_deployment_is_held_to_it() {
    let origin = Origin::start();
    let limit = "[[site]]\nname = 'osl'\nwan_limit = '80 Mbit/s'\n";
    let mut mesh = Mesh::start(&(origin.feed(&["osl"]) + limit));
    mesh.join("osl", &["one", "two"]);
    let bytes = package::bytes(3, 4_000_000);
    origin.put("model.bin", bytes.clone());
    let go = "  - { name: go, run: 'true' }\n";

    let first = plan(&mesh, &file(1, go), &["--out", "plan.json"]);
    assert_eq!(figures(&first), [8_000_000, 0, 4_000_000, 4_000_000]);
    assert_eq!((&first["estimate_ms"], &first["blockers"]), (&json!(400), &json!([])));
    let deployed = mesh.shoal(&["deploy", "--plan", "plan.json", "--watch", "-q", "-o", "json"]).json();
    assert_eq!((&deployed["outcome"], &deployed["nodes"]), (&json!("succeeded"), &json!(2)));

    // The same file again: nothing is done, and nothing would move.
    let again = plan(&mesh, &file(1, go), &[]);
    assert_eq!((&again["hash"], &again["as_wanted_since"]), (&first["hash"], &json!("d1")));
    assert_eq!(figures(&again), [8_000_000, 8_000_000, 0, 0]);
    let same = mesh.deploy(&file(1, go), &["--watch", "-o", "json"]);
    assert_eq!(same.code, 0, "{same:?}");
    assert_eq!((&same.json()["id"], &same.json()["unchanged"]), (&json!("d1"), &json!(true)));
    assert!(same.stderr.contains("nothing was done: all is as wanted since d1"), "{}", same.stderr);
    let forced = mesh.deploy(&file(1, go), &["--again", "--watch", "-q"]);
    assert_eq!(forced.code, 0, "{forced:?}");
    assert_eq!(mesh.status("d2")["state"], "succeeded");

    // Another version: what it shares is there.
    let mut changed = bytes;
    changed.truncate(3_000_000);
    changed.extend(package::bytes(4, 1_000_000));
    origin.put("model.bin", changed);
    let next = figures(&plan(&mesh, &file(2, go), &[]));
    assert!((900_000..1_600_000).contains(&next[2]) && next[3] == next[2], "{next:?}");
    let summary = mesh.deploy(&file(2, go), &["--watch", "-q", "-o", "json"]).json();
    let wan = summary["sites"][0]["wan_bytes"].as_u64().unwrap();
    assert!(wan.abs_diff(next[2]) < 50_000, "planned {}, read {wan}", next[2]);
}

#[test]
fn a_plan_says_which_node_goes_with_which_wave() {
    let mut mesh = Mesh::start("");
    mesh.join("osl", &["one", "two"]);
    mesh.join("syd", &["three", "four"]);
    let waves = "waves:\n  - { name: canary, select: 'name=two', bake: 10m }\n  \
                 - { name: sites, per: site, max_parallel: 1, success: '67%', max_failures: '34%', max_failures_per_site: 1 }\n";
    let text = format!(
        "name: task\nrelease: '1'\ntargets: [{{ select: all }}]\nsteps: [{{ name: go, run: 'true' }}]\n{waves}"
    );
    let planned = plan(&mesh, &text, &[]);
    let canary = json!({
        "name": "canary", "nodes": 1, "groups": 1, "groups_at_a_time": 1, "needed": 1, "max_failures": 0, "bake_ms": 600_000
    });
    let sites = json!({
        "name": "sites", "nodes": 3, "groups": 2, "groups_at_a_time": 1, "needed": 3, "max_failures": 1,
        "max_failures_per_site": "1", "bake_ms": 0
    });
    assert_eq!(planned["waves"], json!([canary, sites]));
    let of = |node: &Value| format!("{} {}", node["name"].as_str().unwrap(), node["wave"].as_str().unwrap());
    let nodes: Vec<String> = planned["nodes"].as_array().unwrap().iter().map(of).collect();
    assert_eq!(nodes, ["one sites", "two canary", "four sites", "three sites"]);
    let shown = mesh.shoal(&["plan", "-f", "deploy.yaml", "-q"]).stdout;
    assert!(shown.contains("canary  1      all") && shown.contains("sites   3      1 of 2 sites"), "{shown}");
}

#[test]
fn a_plan_of_a_world_that_moved_is_refused_and_told_apart() {
    let origin = Origin::start();
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.join("osl", &["one"]);
    origin.put("model.bin", package::bytes(3, 200_000));
    let text = file(1, "  - { name: go, run: 'true' }\n");
    plan(&mesh, &text, &["--out", "plan.json"]);
    origin.put("model.bin", package::bytes(4, 200_000));
    mesh.join("osl", &["two"]);
    let ran = mesh.deploy(&(text + "  - { name: more, run: 'true' }\n"), &["-q", "--plan", "plan.json"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (5, ""), "{ran:?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert!(lines[0].starts_with("not deployed: plan ") && lines[0].ends_with(" does not hold any more:"), "{lines:?}");
    assert_eq!(lines[1], "  the deployment file was changed");
    assert!(lines[2].starts_with("  package `model` resolves to "), "{lines:?}");
    assert_eq!(lines[3], "  node `two` of site `osl` is meant as well");
    let list = mesh.shoal(&["status", "--list", "-o", "json"]).json();
    assert_eq!(list["deployments"].as_array().map(Vec::len), Some(0), "nothing began");
}

#[test]
fn a_second_operator_is_told_who_has_the_nodes_and_can_wait() {
    let origin = Origin::start();
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.join("osl", &["one"]);
    origin.put("model.bin", package::bytes(3, 200_000));
    let held = file(1, "  - { name: go, run: 'true' }\n") + "acquire: { gate: manual }\n";
    let first = mesh.begin(&held);
    mesh.await_state(&first, "blocked", WITHIN);
    // The lock is not lost with the process that holds it.
    mesh.kill_coordinator();
    mesh.start_coordinator();
    let text = file(2, "  - { name: go, run: 'true' }\n");
    let ran = mesh.deploy(&text, &["-q"]);
    let said = format!("not deployed: {first} deploys `model` to 1 of these nodes and is not over\n");
    assert_eq!((ran.code, ran.stderr.starts_with(&said)), (5, true), "{ran:?}");
    let blockers = plan(&mesh, &text, &[])["blockers"].to_string();
    assert!(blockers.contains(&format!("{first} deploys `model` to 1 of these nodes")), "{blockers}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| mesh.shoal(&["deploy", "-f", "deploy.yaml", "--wait", "--watch", "-q"]));
        mesh.await_online("one");
        assert_eq!(mesh.shoal(&["release", &first]).code, 0);
        let ran = waiting.join().unwrap();
        assert_eq!(ran.code, 0, "{ran:?}");
    });
    assert_eq!(mesh.status("d2")["release"], "2");
}
