//! Rollouts that operators steer: waves, windows, pauses, and ends that come early.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shoal_tests::{Behaviour, Mesh, Origin, package, until};

const WITHIN: Duration = Duration::from_secs(60);

fn mesh(names: &[&str]) -> Mesh {
    let mut mesh = Mesh::start("");
    mesh.join("osl", names);
    mesh
}

fn file(steps: &str, more: &str) -> String {
    format!("name: task\nrelease: '1'\ntargets:\n  - {{ select: all }}\nsteps:\n{steps}{more}")
}

fn lines(mesh: &Mesh, path: &str) -> Vec<String> {
    fs::read_to_string(mesh.path(path)).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn step(status: &Value, node: usize, step: usize) -> &Value {
    &status["nodes"][node]["steps"][step]
}

#[test]
fn a_canary_goes_first_and_is_promoted() {
    let mesh = mesh(&["one", "two", "three"]);
    let (ran, go) = (mesh.path("ran").display().to_string(), mesh.path("go"));
    let waves = "waves:\n  - { name: canary, select: 'name=two', bake: 1h }\n  - { name: rest }\n";
    let step = format!("until test -e {}; do sleep 0.05; done; echo $SHOAL_NODE >> {ran}", go.display());
    let id = mesh.begin(&file(&format!("  - {{ name: go, run: '{step}' }}\n"), waves));
    assert_eq!(mesh.shoal(&["promote", &id]).code, 2, "not before it is through");
    fs::write(go, "").unwrap();
    let status = mesh.await_status(&id, "it bakes", WITHIN, |status| status["waves"][0]["state"] == "baking");
    assert_eq!(lines(&mesh, "ran"), ["two"]);
    assert_eq!((&status["waves"][0]["done"], &status["waves"][1]["state"]), (&json!(1), &json!("pending")));
    let text = mesh.shoal(&["status", &id]).stdout;
    assert!(text.contains("wave canary bakes for") && text.contains("shoal promote"), "{text}");
    assert_eq!(mesh.shoal(&["promote", &id]).code, 0);
    mesh.await_state(&id, "succeeded", WITHIN);
    assert_eq!(lines(&mesh, "ran").len(), 3);
}

#[test]
fn a_barrier_shows_within_what_time_each_wave_started() {
    const BAKE_MS: u64 = 8_000;
    let mesh = mesh(&["one", "two", "three"]);
    let waves = "waves:\n  - { name: canary, count: 2, bake: 8s }\n  - { name: rest }\n";
    let id = mesh.begin(&file("  - { name: swap, sync: barrier, run: 'true' }\n", waves));
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    assert!(status["duration_ms"].as_u64() >= Some(BAKE_MS), "{status:#}");
    let within = status["steps"][0]["started_within_ms"].as_u64();
    assert!(within.is_some_and(|within| within < BAKE_MS), "the skew is not the time between two waves: {within:?}");
    let text = mesh.shoal(&["status", &id]).stdout;
    assert!(text.contains("started within"), "{text}");
}

#[test]
fn rolling_stops_at_the_first_failure() {
    let mesh = mesh(&["one", "two", "three", "four"]);
    let ran = mesh.path("ran").display().to_string();
    let id =
        mesh.begin(&file(&format!("  - {{ name: go, run: 'echo $SHOAL_NODE >> {ran}; exit 3', window: 1 }}\n"), ""));
    let status = mesh.await_state(&id, "paused", WITHIN);
    assert_eq!(lines(&mesh, "ran").len(), 1, "one started, and no other");
    let pending = (0..4).filter(|node| step(&status, *node, 0)["state"] == "pending").count();
    assert_eq!(pending, 3);
    let node = lines(&mesh, "ran")[0].clone();
    assert_eq!(mesh.shoal(&["ignore", &id, "--node", &node]).code, 0);
    let status = mesh.await_status(&id, "the next has failed", WITHIN, |status| {
        status["state"] == "paused" && lines(&mesh, "ran").len() == 2
    });
    assert!(status["waiting"].to_string().contains("exit code 3"), "the answer is not reused: {status:#}");
    assert_eq!(mesh.shoal(&["cancel", &id]).code, 0);
    mesh.await_state(&id, "cancelled", WITHIN);
    assert_eq!(lines(&mesh, "ran").len(), 2);
}

#[test]
fn a_pause_starts_nothing_until_it_is_resumed() {
    let mesh = mesh(&["one"]);
    let go = mesh.path("go").display().to_string();
    let steps = format!(
        "  - {{ name: wait, run: 'until test -e {go}; do sleep 0.05; done' }}\n  - {{ name: then, run: 'echo then' }}\n"
    );
    let id = mesh.begin(&file(&steps, ""));
    mesh.await_status(&id, "it runs", WITHIN, |status| step(status, 0, 0)["state"] == "running");
    assert_eq!(mesh.shoal(&["pause", &id]).code, 0);
    assert_eq!(mesh.shoal(&["pause", &id]).code, 2, "it is paused");
    fs::write(&go, "").unwrap();
    let status =
        mesh.await_status(&id, "what ran is done", WITHIN, |status| step(status, 0, 0)["state"] == "succeeded");
    assert_eq!((&status["state"], &step(&status, 0, 1)["state"]), (&json!("paused"), &json!("pending")));
    assert!(status["waiting"].to_string().contains("shoal resume"), "{status:#}");
    assert_eq!(mesh.shoal(&["watch", &id, "-q", "--wait-max", "1s"]).code, 5);
    assert_eq!(mesh.shoal(&["resume", &id]).code, 0);
    mesh.await_state(&id, "succeeded", WITHIN);
}

#[test]
fn a_cancel_reaches_a_node_that_was_offline() {
    let mut mesh = mesh(&["one", "two"]);
    let ended = mesh.path("ended").display().to_string();
    let steps = format!(
        "  - {{ name: endless, run: 'sleep 200' }}\n  - {{ name: clean, on: always, run: 'echo $SHOAL_NODE >> {ended}' }}\n"
    );
    let id = mesh.begin(&file(&steps, ""));
    mesh.await_status(&id, "both run", WITHIN, |status| (0..2).all(|node| step(status, node, 0)["state"] == "running"));
    mesh.kill_node("two");
    mesh.await_offline("two");
    assert_eq!(mesh.shoal(&["cancel", &id]).code, 0);
    mesh.start_node("two");
    let status = mesh.await_state(&id, "cancelled", WITHIN);
    let two = status["nodes"].as_array().unwrap().iter().position(|node| node["name"] == "two").unwrap();
    assert_eq!(step(&status, two, 0)["state"], "unknown", "nobody saw how it ended: {status:#}");
    let mut ended = lines(&mesh, "ended");
    ended.sort();
    assert_eq!(ended, ["one", "two"], "what always runs did, also where the node was away");
}

fn slow_package(mesh: &mut Mesh, origin: &Origin, bytes: usize) -> String {
    mesh.join("osl", &["one", "two"]);
    origin.put("model.bin", package::bytes(7, bytes));
    origin.behave("/osl/", Behaviour { rate: Some(300_000), ..Behaviour::default() });
    let ran = mesh.path("ran").display().to_string();
    format!(
        "name: model\nrelease: '1'\npackages:\n  model: {{ feed: files, id: model.bin }}\n\
         targets:\n  - {{ select: all, packages: [model] }}\n\
         steps:\n  - {{ name: go, run: 'echo go >> {ran}' }}\n  - {{ name: clean, on: always, run: 'echo clean >> {ran}' }}\n"
    )
}

/// Waits until nothing more is sent to the site, and says how long that took.
fn until_silent(origin: &Origin) -> Duration {
    let begun = Instant::now();
    let mut last = (origin.sent("/osl/"), Instant::now());
    until("transfers have stopped", WITHIN, || {
        let sent = origin.sent("/osl/");
        if sent != last.0 {
            last = (sent, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(700)).then_some(())
    });
    last.1 - begun
}

#[test]
fn pause_and_cancel_stop_transfers() {
    let origin = Origin::start();
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    let file = slow_package(&mut mesh, &origin, 20_000_000);
    let id = mesh.begin(&file);
    until("bytes flow", WITHIN, || (origin.sent("/osl/") > 100_000).then_some(()));
    assert_eq!(mesh.shoal(&["pause", &id]).code, 0);
    let took = until_silent(&origin);
    assert!(took <= Duration::from_secs(2), "after a pause it took {took:?}");
    let sent = origin.sent("/osl/");
    assert_eq!(mesh.shoal(&["resume", &id]).code, 0);
    until("bytes flow again", WITHIN, || (origin.sent("/osl/") > sent + 100_000).then_some(()));
    assert_eq!(mesh.shoal(&["cancel", &id]).code, 0);
    let took = until_silent(&origin);
    assert!(took <= Duration::from_secs(2), "after a cancel it took {took:?}");
    mesh.await_state(&id, "cancelled", WITHIN);
    assert_eq!(lines(&mesh, "ran"), ["clean", "clean"]);
}

#[test]
fn where_acquisition_fails_no_step_runs_but_those_that_always_do() {
    let origin = Origin::start();
    let mut mesh = Mesh::start(&origin.feed(&[]));
    let file = slow_package(&mut mesh, &origin, 3_000_000);
    origin.behave("/main/", Behaviour { rate: Some(300_000), ..Behaviour::default() });
    let id = mesh.begin(&file);
    // The coordinator has read it once for its recipe.
    let before = origin.sent("/main/");
    until("bytes flow", WITHIN, || (origin.sent("/main/") > before + 100_000).then_some(()));
    // Another file under the same name: the deployment's is not to be had any more.
    origin.put("model.bin", package::bytes(8, 3_000_000));
    let status = mesh.await_state(&id, "failed", WITHIN);
    assert!(status["waiting"].to_string().contains("changed"), "{status:#}");
    assert_eq!(lines(&mesh, "ran"), ["clean", "clean"]);
}
