//! Origins that lie, change or cannot do what they should.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Behaviour, Mesh, Origin, package};

const WITHIN: Duration = Duration::from_secs(90);

const SIZE: usize = 4_000_000;

const FILE: &str = "name: model\nrelease: '1'\npackages:\n  model: { feed: files, id: model.bin }\n\
                    targets:\n  - { select: all, packages: [model] }\nsteps: [{ name: go, run: 'true' }]\n";

fn site(behaviour: Behaviour) -> (Origin, Mesh) {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(8, SIZE));
    origin.behave("/osl/", behaviour);
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.join("osl", &["one", "two"]);
    (origin, mesh)
}

fn assert_failed_and_names(status: &Value, words: &[&str]) {
    let reasons = status["waiting"].to_string();
    for word in words {
        assert!(reasons.contains(word), "{word} is not in {reasons}");
    }
    for node in status["nodes"].as_array().unwrap() {
        assert_eq!(node["acquired"], false, "{node}");
        assert_eq!(node["steps"][0]["attempts"], 0, "GATE: {node}");
    }
}

#[test]
fn an_origin_that_lies_fails_the_deployment_and_is_named() {
    let (_origin, mesh) = site(Behaviour { flip: Some(SIZE / 2), ..Behaviour::default() });
    let id = mesh.begin(FILE);
    let status = mesh.await_state(&id, "failed", WITHIN);
    assert_failed_and_names(&status, &["model", "wrong bytes"]);
    assert_eq!(mesh.shoal(&["watch", &id, "-q"]).code, 3);
}

#[test]
fn an_origin_without_ranges_is_read_once_all_the_same() {
    let (origin, mesh) = site(Behaviour { ignore_ranges: true, rate: Some(SIZE as u64), ..Behaviour::default() });
    let ran = mesh.deploy(FILE, &["--watch", "-q", "-o", "json"]);
    let site = &ran.json()["sites"][0];
    assert!(site["copies"].as_f64().unwrap() <= 1.05, "{site}");
    // A probe that asks for one byte is answered with all of them, of which little is read before it hangs up.
    assert!(origin.sent("/osl/") < SIZE as u64 * 2, "{} of {SIZE}", origin.sent("/osl/"));
}

#[test]
fn a_package_that_changes_under_way_stops_the_deployment_and_is_named() {
    let (origin, mesh) = site(Behaviour { rate: Some(SIZE as u64 / 4), ..Behaviour::default() });
    let id = mesh.begin(FILE);
    mesh.await_status(&id, "it has begun", WITHIN, |status| status["sites"][0]["wan_bytes"].as_u64() > Some(0));
    origin.put("model.bin", package::bytes(9, SIZE));
    let status = mesh.await_state(&id, "failed", WITHIN);
    assert_failed_and_names(&status, &["model", "changed"]);
}
