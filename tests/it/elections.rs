//! A step `on: site` runs on one node of the site, once, whatever becomes of the node that it was meant for.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Mesh, until_seen};

/// Long: a debug build on a loaded machine, and a node that is believed dead only after a while.
const WITHIN: Duration = Duration::from_secs(120);

const NAMES: [&str; 3] = ["one", "two", "three"];

fn lines(mesh: &Mesh, path: &str) -> Vec<String> {
    fs::read_to_string(mesh.path(path)).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Waits for an event of a deployment whose message contains all of `words`.
fn await_event(mesh: &Mesh, id: &str, words: &[&str]) -> String {
    until_seen(&format!("{id}: {words:?}"), WITHIN, || {
        let events = mesh.shoal(&["watch", id, "-q", "-o", "jsonl", "--wait-max", "100ms"]).stdout;
        let messages = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut messages = messages.filter_map(|event| event["message"].as_str().map(str::to_owned));
        messages.find(|message| words.iter().all(|word| message.contains(word))).ok_or(events)
    })
}

/// A site's step, and one that all nodes run after it.
fn file(mesh: &Mesh) -> String {
    let folder = mesh.path("").display().to_string();
    let step = |name: &str, more: &str| {
        format!("  - {{ name: {name}, {more}run: 'echo $SHOAL_NODE >> {folder}/{name}; {folder}/wait {name}' }}\n")
    };
    format!(
        "name: shop\nrelease: '1'\ntargets: [{{ select: all }}]\nacquire: {{ gate: manual }}\nsteps:\n{}{}",
        step("migrate", "on: site, "),
        step("start", "")
    )
}

/// Scripts call it with their name: it waits while there is a file of that name in the folder `held`.
fn mesh() -> Mesh {
    let mut mesh = Mesh::start("");
    fs::create_dir(mesh.path("held")).unwrap();
    let held = mesh.path("held").display().to_string();
    let script = format!("#!/bin/sh\nwhile [ -e {held}/$1 ]; do sleep 0.05; done\n");
    fs::write(mesh.path("wait"), script).unwrap();
    let mut permissions = fs::metadata(mesh.path("wait")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(mesh.path("wait"), permissions).unwrap();
    mesh.join("osl", &NAMES);
    mesh
}

/// The node that a deployment's gate would have run its site's step: found out with one that is cancelled after it.
fn chosen(mesh: &Mesh) -> String {
    fs::write(mesh.path("held/migrate"), "").unwrap();
    let id = mesh.begin(&file(mesh));
    assert_eq!(mesh.shoal(&["release", &id]).code, 0);
    let ran = until_seen("the step of the site runs", WITHIN, || match &lines(mesh, "migrate")[..] {
        [one] => Ok(one.clone()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(mesh.shoal(&["cancel", &id]).code, 0);
    mesh.await_state(&id, "cancelled", WITHIN);
    fs::remove_file(mesh.path("held/migrate")).unwrap();
    fs::remove_file(mesh.path("migrate")).unwrap();
    ran
}

#[test]
fn a_node_lost_before_it_starts_is_replaced_and_does_not_run_the_step_when_it_is_back() {
    let mut mesh = mesh();
    let lost = chosen(&mesh);
    let id = mesh.begin(&file(&mesh));
    mesh.freeze_node(&lost);
    assert_eq!(mesh.shoal(&["release", &id]).code, 0);
    await_event(&mesh, &id, &["migrate", &lost, "if that answers"]);
    assert_eq!(lines(&mesh, "migrate"), [""; 0], "nobody runs it before it answered");
    mesh.kill_node(&lost);
    await_event(&mesh, &id, &[&lost, "was not told to run migrate"]);
    // The step after it is for all nodes, so that it is under way when the lost one is back.
    mesh.await_status(&id, "the step after it runs", WITHIN, |status| lines_of(status, "start") > 0);
    assert_eq!(lines(&mesh, "migrate").len(), 1, "another node ran it, once");
    mesh.start_node(&lost);
    mesh.await_state(&id, "succeeded", WITHIN);
    let ran = lines(&mesh, "migrate");
    assert!(ran.len() == 1 && ran[0] != lost, "{lost} was lost, and the step ran on {ran:?}");
    let mut started = lines(&mesh, "start");
    started.sort();
    assert_eq!(started, ["one", "three", "two"]);
}

#[test]
fn a_node_that_hangs_is_passed_over_and_its_late_answer_starts_nothing() {
    let mesh = mesh();
    let hangs = chosen(&mesh);
    fs::write(mesh.path("held/start"), "").unwrap();
    let id = mesh.begin(&file(&mesh));
    mesh.freeze_node(&hangs);
    assert_eq!(mesh.shoal(&["release", &id]).code, 0);
    await_event(&mesh, &id, &["migrate", &hangs, "if that answers"]);
    await_event(&mesh, &id, &[&hangs, "was not told to run migrate"]);
    mesh.await_status(&id, "another node has run it", WITHIN, |status| lines_of(status, "start") > 0);
    let ran = lines(&mesh, "migrate");
    assert!(ran.len() == 1 && ran[0] != hangs, "{hangs} hangs, and the step ran on {ran:?}");
    // What it was asked it hears by now, and answers.
    mesh.thaw_node(&hangs);
    mesh.await_status(&id, "it goes on with the others", WITHIN, |status| lines_of(status, "start") == NAMES.len());
    fs::remove_file(mesh.path("held/start")).unwrap();
    mesh.await_state(&id, "succeeded", WITHIN);
    assert_eq!(lines(&mesh, "migrate"), ran, "it is run once");
    assert_eq!(lines(&mesh, "start").len(), NAMES.len());
}

/// On how many nodes a step was started.
fn lines_of(status: &Value, step: &str) -> usize {
    let nodes = status["nodes"].as_array().unwrap().iter();
    let steps = nodes.flat_map(|node| node["steps"].as_array().unwrap());
    steps.filter(|of| of["name"] == step && of["state"] != "pending").count()
}

#[test]
fn a_node_lost_after_it_started_is_not_replaced() {
    let mut mesh = mesh();
    fs::write(mesh.path("held/migrate"), "").unwrap();
    let id = mesh.begin(&file(&mesh));
    assert_eq!(mesh.shoal(&["release", &id]).code, 0);
    await_event(&mesh, &id, &["migrate runs on"]);
    let ran = lines(&mesh, "migrate");
    mesh.kill_node(&ran[0]);
    mesh.await_offline(&ran[0]);
    fs::remove_file(mesh.path("held/migrate")).unwrap();
    let blocked = mesh.await_status(&id, "it waits for the node", WITHIN, |status| status["state"] == "blocked");
    assert!(blocked["waiting"].to_string().contains(&ran[0]), "{blocked:#}");
    mesh.start_node(&ran[0]);
    mesh.await_status(&id, "an operator is asked", WITHIN, |status| status["state"] == "paused");
    assert_eq!(lines(&mesh, "migrate"), ran, "nobody saw how it ended: it is not run again");
    assert_eq!(mesh.shoal(&["ignore", &id]).code, 0);
    mesh.await_state(&id, "succeeded", WITHIN);
    assert_eq!(lines(&mesh, "migrate"), ran);
}
