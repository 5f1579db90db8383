//! Processes are killed with `kill -9` at bad moments, and what was promised holds.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::{Behaviour, Mesh, Origin, package};

/// Long: a debug build on a loaded machine, and a node that is believed dead only after a while.
const WITHIN: Duration = Duration::from_secs(120);

const SIZE: usize = 24_000_000;

/// What a killed reader had on its way, and range requests for it: beside the 1 % of WAN-ONCE.
const BESIDE_BYTES: u64 = 256 * 1024;

/// A mesh of one site with a package that takes six seconds to cross its WAN.
fn slow_site(names: &[&str]) -> (Origin, Mesh) {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(7, SIZE));
    origin.behave("/osl/", Behaviour { rate: Some(SIZE as u64 / 6), ..Behaviour::default() });
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.join("osl", names);
    (origin, mesh)
}

fn file(acquire: &str, steps: &str) -> String {
    format!(
        "name: model\nrelease: '1'\npackages:\n  model: {{ feed: files, id: model.bin }}\n\
         targets:\n  - {{ select: all, packages: [model] }}\nacquire: {{ {acquire} }}\nsteps:\n{steps}"
    )
}

fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("{name} is no target: {status:#}"))
}

/// Waits until between a quarter of the package and most of it has crossed the WAN.
fn await_middle(mesh: &Mesh, origin: &Origin, id: &str) {
    mesh.await_status(id, "in the middle of acquire", WITHIN, |status| {
        status["stage"] != "acquire" || status["sites"][0]["wan_bytes"].as_u64() > Some(SIZE as u64 / 4)
    });
    assert!(origin.sent("/osl/") < SIZE as u64 * 9 / 10, "too fast to be in the middle");
}

fn assert_once(origin: &Origin) {
    let sent = origin.sent("/osl/");
    assert!(sent <= SIZE as u64 * 101 / 100 + BESIDE_BYTES, "{sent} of {SIZE} crossed the WAN");
}

#[test]
fn a_node_killed_in_mid_acquire_resumes() {
    let (origin, mut mesh) = slow_site(&["one", "two"]);
    // What is lost is what came within a moment and was not written yet: less of it, since the budget of a package as small
    // as this one has to pay for it.
    origin.behave("/osl/", Behaviour { rate: Some(SIZE as u64 / 12), ..Behaviour::default() });
    let id = mesh.begin(&file("", "  - { name: go, run: 'cmp $SHOAL_PACKAGE_MODEL $SHOAL_PACKAGE_MODEL' }\n"));
    await_middle(&mesh, &origin, &id);
    mesh.kill_node("one");
    mesh.start_node("one");
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    assert_once(&origin);
    assert_eq!(status["sites"][0]["nodes_acquired"], 2);
}

#[test]
fn a_node_alone_at_its_site_resumes() {
    let (origin, mut mesh) = slow_site(&["one"]);
    let id = mesh.begin(&file("", "  - { name: go, run: 'true' }\n"));
    await_middle(&mesh, &origin, &id);
    mesh.kill_node("one");
    mesh.start_node("one");
    mesh.await_state(&id, "succeeded", WITHIN);
    assert_once(&origin);
}

#[test]
fn a_holder_that_is_lost_costs_the_others_no_more_than_the_budget() {
    let (origin, mut mesh) = slow_site(&["one", "two", "three"]);
    let id = mesh.begin(&file("quorum: all-1, stragglers: exclude, after: 10s", "  - { name: go, run: 'true' }\n"));
    await_middle(&mesh, &origin, &id);
    mesh.kill_node("one");
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    assert_once(&origin);
    assert_eq!(node(&status, "one")["state"], "excluded");
    for name in ["two", "three"] {
        let node = node(&status, name);
        assert_eq!((&node["state"], &node["acquired"]), (&json!("succeeded"), &json!(true)), "{node}");
    }
    assert_eq!(mesh.shoal(&["watch", &id, "-q"]).code, 4, "succeeded without some nodes");
}

/// A step that notes each of its runs, and ends when the file `go` is there (or the test has gone).
fn noted_step(mesh: &Mesh, name: &str, waits: bool) -> String {
    let folder = mesh.path("").display().to_string();
    let wait = if waits {
        format!("; while [ -d {folder} ] && [ ! -e {folder}/go ]; do sleep 0.1; done")
    } else {
        String::new()
    };
    format!("  - {{ name: {name}, run: 'echo $SHOAL_NODE $SHOAL_STEP >> {folder}/runs{wait}' }}\n")
}

/// How often each step ran on each node.
fn runs(mesh: &Mesh) -> BTreeMap<String, u32> {
    let mut runs = BTreeMap::new();
    for line in fs::read_to_string(mesh.path("runs")).unwrap_or_default().lines() {
        *runs.entry(line.to_owned()).or_default() += 1;
    }
    runs
}

fn step_states(status: &Value, step: usize) -> Vec<Value> {
    status["nodes"].as_array().unwrap().iter().map(|node| node["steps"][step]["state"].clone()).collect()
}

#[test]
fn a_coordinator_killed_twice_goes_on_where_it_was() {
    let (origin, mut mesh) = slow_site(&["one", "two"]);
    let steps = [("before", false), ("during", true), ("after", false)];
    let steps: String = steps.iter().map(|(name, waits)| noted_step(&mesh, name, *waits)).collect();
    let id = mesh.begin(&file("", &steps));
    await_middle(&mesh, &origin, &id);
    mesh.kill_coordinator();
    mesh.start_coordinator();
    mesh.await_status(&id, "both nodes are in the second step", WITHIN, |status| {
        step_states(status, 1) == ["running", "running"]
    });
    assert_once(&origin);
    mesh.kill_coordinator();
    // The steps end while nobody is there to be told.
    fs::write(mesh.path("go"), "").unwrap();
    mesh.start_coordinator();
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    for node in status["nodes"].as_array().unwrap() {
        for step in node["steps"].as_array().unwrap() {
            assert_eq!((&step["state"], &step["attempts"]), (&json!("succeeded"), &json!(1)), "{node}");
        }
    }
    let wanted =
        ["one", "two"].iter().flat_map(|node| ["before", "during", "after"].map(|step| format!("{node} {step}")));
    assert_eq!(runs(&mesh), wanted.map(|run| (run, 1)).collect(), "each step ran once on each node");
}

#[test]
fn a_deployment_that_was_answered_for_survives_a_coordinator_killed_at_once() {
    let (_origin, mut mesh) = slow_site(&["one"]);
    let id = mesh.begin(&file("gate: manual", "  - { name: go, run: 'true' }\n"));
    mesh.kill_coordinator();
    mesh.start_coordinator();
    assert_eq!(mesh.shoal(&["release", &id]).code, 0);
    mesh.kill_coordinator();
    mesh.start_coordinator();
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    assert_eq!(status["gate"]["open"], true, "the answered release is kept");
}

#[test]
fn a_step_whose_end_nobody_saw_is_unknown_until_an_operator_answers() {
    let (origin, mut mesh) = slow_site(&["one", "two"]);
    origin.behave("/osl/", Behaviour::default());
    let id = mesh.begin(&file("", &(noted_step(&mesh, "during", true) + &noted_step(&mesh, "after", false))));
    mesh.await_status(&id, "both nodes are in the step", WITHIN, |status| {
        step_states(status, 0) == ["running", "running"]
    });
    mesh.kill_node("one");
    fs::write(mesh.path("go"), "").unwrap();
    mesh.start_node("one");
    mesh.await_state(&id, "paused", WITHIN);
    mesh.await_status(&id, "the other's end is told too", WITHIN, |status| {
        step_states(status, 0) == ["unknown", "succeeded"]
    });
    assert_eq!(runs(&mesh)["one during"], 1, "it is not run again by itself");
    let shown = mesh.shoal(&["status", &id]).stdout;
    assert!(shown.contains("unknown") && shown.contains("one"), "{shown}");
    assert_eq!(mesh.shoal(&["retry", &id, "--node", "one"]).code, 0);
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    assert_eq!(node(&status, "one")["steps"][0]["attempts"], 2);
    assert_eq!((runs(&mesh)["one during"], runs(&mesh)["two during"]), (2, 1));
}

/// A cancel, with either side killed before it, and the coordinator as soon as it was answered.
#[test]
fn what_always_runs_does_after_a_cancel_whoever_was_killed() {
    let mut mesh = Mesh::start("");
    mesh.join("osl", &["one", "two"]);
    let ran = mesh.path("ran").display().to_string();
    let say = |what: &str| format!("echo {what} $SHOAL_NODE >> {ran}");
    let file = format!(
        "name: task\nrelease: '1'\ntargets: [{{ select: all }}]\n\
         before_acquire:\n  - {{ name: vpn, run: '{}', always_after: '{}' }}\n\
         steps:\n  - {{ name: endless, run: 'sleep 500' }}\n  - {{ name: clean, on: always, run: '{}' }}\n",
        say("up"),
        say("down"),
        say("clean")
    );
    let id = mesh.begin(&file);
    let endless = |status: &Value, name: &str| node(status, name)["steps"][1]["state"].clone();
    let run = |status: &Value| ["one", "two"].iter().all(|name| endless(status, name) == "running");
    mesh.await_status(&id, "both run", WITHIN, run);
    mesh.kill_node("two");
    mesh.kill_coordinator();
    mesh.start_coordinator();
    mesh.start_node("two");
    mesh.await_status(&id, "what ran is not known", WITHIN, |status| endless(status, "two") == "unknown");
    mesh.await_online("one");
    assert_eq!(mesh.shoal(&["cancel", &id]).code, 0);
    mesh.kill_coordinator();
    mesh.start_coordinator();
    mesh.await_state(&id, "cancelled", WITHIN);
    let text = fs::read_to_string(&ran).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["clean one", "clean two", "down one", "down two", "up one", "up two"], "each once");
}
