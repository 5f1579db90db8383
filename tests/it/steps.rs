//! Steps that fail, and what an operator does about it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use shoal_tests::{Mesh, until};

const WITHIN: Duration = Duration::from_secs(60);

fn file(steps: &str) -> String {
    format!("name: task\nrelease: '1'\ntargets:\n  - {{ select: all }}\nsteps:\n{steps}")
}

fn mesh(names: &[&str]) -> Mesh {
    let mut mesh = Mesh::start("");
    mesh.join("osl", names);
    mesh
}

#[test]
fn a_failed_step_pauses_until_it_is_answered() {
    let mesh = mesh(&["one", "two"]);
    let fails = "  - { name: flaky, run: 'echo on $SHOAL_NODE >&2; test $SHOAL_NODE != one || exit 3' }\n\
                 \x20 - { name: then, run: 'echo then' }\n";
    let ran = mesh.deploy(&file(fails), &["--watch", "-q", "--wait-max", "20s"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    let status = mesh.shoal(&["status", "-o", "json"]).json();
    assert_eq!((&status["state"], &status["stage"]), (&json!("paused"), &json!("steps")));
    let (one, two) = (&status["nodes"][0], &status["nodes"][1]);
    assert_eq!(one["state"], "needs-answer");
    let step = &one["steps"][0];
    assert_eq!((&step["state"], &step["exit_code"], &step["attempts"]), (&json!("failed"), &json!(3), &json!(1)));
    assert_eq!(step["tail"], json!(["on one"]));
    assert_eq!((&two["steps"][0]["state"], &two["steps"][1]["state"]), (&json!("succeeded"), &json!("pending")));

    let id = status["id"].as_str().unwrap();
    assert_eq!(mesh.shoal(&["retry", id, "--node", "two"]).code, 2, "nothing waits there");
    assert_eq!(mesh.shoal(&["retry", id]).code, 0);
    mesh.await_status(id, "the retry has failed too", WITHIN, |status| {
        status["state"] == "paused" && status["nodes"][0]["steps"][0]["attempts"] == 2
    });
    assert_eq!(mesh.shoal(&["ignore", id, "--node", "one", "--step", "flaky"]).code, 0);
    let status = mesh.await_state(id, "succeeded", WITHIN);
    assert_eq!(status["nodes"][0]["steps"][1]["state"], "succeeded");
    assert_eq!(mesh.shoal(&["retry", id]).code, 2, "it is over");
}

#[test]
fn a_failed_step_is_answered_by_exclude_or_fail() {
    let mesh = mesh(&["one", "two"]);
    let fails = "  - { name: flaky, run: 'test $SHOAL_NODE != one' }\n";
    let id = mesh.begin(&file(fails));
    mesh.await_state(&id, "paused", WITHIN);
    assert_eq!(mesh.shoal(&["exclude", &id, "--node", "one"]).code, 0);
    mesh.await_state(&id, "succeeded", WITHIN);
    assert_eq!(mesh.shoal(&["watch", &id, "-q"]).code, 4);

    let id = mesh.begin(&file(fails));
    mesh.await_state(&id, "paused", WITHIN);
    assert_eq!(mesh.shoal(&["fail", &id]).code, 0);
    let status = mesh.await_state(&id, "failed", WITHIN);
    assert!(status["waiting"].to_string().contains("flaky"), "{status:#}");
    assert_eq!(mesh.shoal(&["watch", &id, "-q"]).code, 3);
}

#[test]
fn retries_and_timeouts_are_kept_to() {
    let mesh = mesh(&["one"]);
    let marks = mesh.path("marks").display().to_string();
    let steps = format!(
        "  - {{ name: third-time, retries: 2, run: 'echo x >> {marks}; test $(wc -l < {marks}) = 3' }}\n\
         \x20 - {{ name: endless, run: 'sleep 1000', timeout: 1s, on_failure: pause }}\n"
    );
    let id = mesh.begin(&file(&steps));
    let status = mesh.await_state(&id, "paused", WITHIN);
    let steps = &status["nodes"][0]["steps"];
    assert_eq!((&steps[0]["state"], &steps[0]["attempts"]), (&json!("succeeded"), &json!(3)));
    assert_eq!((&steps[1]["state"], &steps[1]["exit_code"]), (&json!("failed"), &json!(null)));
    assert!(steps[1]["error"].as_str().unwrap().contains("took too long"), "{steps}");
}

#[test]
fn cancel_kills_what_runs_within_two_seconds() {
    let mesh = mesh(&["one", "two"]);
    let folder = mesh.path("").display().to_string();
    let step = format!("  - {{ name: endless, run: 'echo $$ > {folder}/$SHOAL_NODE.pid; sleep 1000 & wait' }}\n");
    let id = mesh.begin(&file(&step));
    let pid = |node: &str| {
        let path = mesh.path(&format!("{node}.pid"));
        until("the step runs", WITHIN, || fs::read_to_string(&path).ok().filter(|pid| pid.ends_with('\n')))
    };
    let pids = [pid("one"), pid("two")];
    let gone = |pid: &String| !Path::new("/proc").join(pid.trim()).exists();
    assert!(!pids.iter().any(gone), "they run");
    let asked = Instant::now();
    assert_eq!(mesh.shoal(&["cancel", &id]).code, 0);
    until("the processes are gone", WITHIN, || pids.iter().all(gone).then_some(()));
    assert!(asked.elapsed() <= Duration::from_secs(2), "it took {:?}", asked.elapsed());
    let status = mesh.await_state(&id, "cancelled", WITHIN);
    assert_eq!(status["nodes"][0]["steps"][0]["attempts"], 1);
    assert_eq!(mesh.shoal(&["watch", &id, "-q"]).code, 3);
}
