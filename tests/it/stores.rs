//! Stores of objects: nodes read by URLs that are signed for a while, and the version that was resolved.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Behaviour, Dialect, Fault, Mesh, Origin, Store, package};

const WITHIN: Duration = Duration::from_secs(120);

const SIZE: usize = 4_000_000;

const KINDS: [(&str, Dialect); 2] = [("s3", Dialect::Amazon), ("gcs", Dialect::Google)];

const FILE: &str = "name: model\nrelease: '1'\npackages:\n  model: { feed: store, id: 'model/{version}.bin', version: '8' }\n\
                    targets:\n  - { select: all, packages: [model] }\nsteps: [{ name: go, run: 'true' }]\n";

fn store(dialect: Dialect) -> Store {
    Store { dialect, id: "GOOG1EXAMPLE", secret: "correct-horse", keeps_versions: true }
}

/// A store with an object, and two nodes that read from it.
fn site(kind: &str, object: &[u8], behaviour: Behaviour, settings: &str) -> (Origin, Mesh) {
    let (origin, mut mesh) = store_alone(kind, object, behaviour, settings);
    mesh.join("osl", &["one", "two"]);
    (origin, mesh)
}

/// The same without nodes.
fn store_alone(kind: &str, object: &[u8], behaviour: Behaviour, settings: &str) -> (Origin, Mesh) {
    let origin = Origin::start();
    origin.put("/releases/model/8.bin", object);
    origin.behave("/releases/", behaviour);
    let feed = format!(
        "[[feed]]\nname = 'store'\nkind = '{kind}'\nurl = '{}'\nusername = 'GOOG1EXAMPLE'\npassword_env = 'KEY'\n{settings}",
        origin.url("/releases")
    );
    let mesh = Mesh::start_in(&feed, &[("KEY", "correct-horse")]);
    (origin, mesh)
}

fn read_bytes(status: &Value) -> u64 {
    status["sites"][0]["wan_bytes"].as_u64().unwrap_or(0)
}

#[test]
fn the_version_that_was_resolved_is_read_whatever_comes_after_it() {
    for (kind, dialect) in KINDS {
        let behaviour = Behaviour { store: Some(store(dialect)), rate: Some(SIZE as u64 / 2), ..Behaviour::default() };
        let (origin, mesh) = site(kind, &package::bytes(8, SIZE), behaviour, "");
        let id = mesh.begin(FILE);
        mesh.await_status(&id, "it has begun", WITHIN, |status| read_bytes(status) > 0);
        origin.put("/releases/model/8.bin", package::bytes(9, SIZE));
        let status = mesh.await_state(&id, "succeeded", WITHIN);
        assert!(read_bytes(&status) <= SIZE as u64 * 102 / 100 + 64 * 1024, "{kind}: {status}");
        assert_eq!(origin.refused("/"), 0, "{kind}: every URL was signed as it must be");
        let log = mesh.coordinator_log();
        assert!(!log.contains("Signature") && !log.contains("correct-horse"), "{kind}: a secret is in the log: {log}");
    }
}

#[test]
fn urls_that_end_under_way_cost_nothing() {
    // A URL without a version has no parameters before it is signed.
    for ((kind, dialect), keeps_versions) in [(KINDS[0], true), (KINDS[1], true), (KINDS[0], false)] {
        // The coordinator needs many requests, and a node for one lease longer than several URLs live.
        let object = package::bytes(9, 400_000);
        let size = object.len();
        let behaviour = Behaviour {
            store: Some(Store { keeps_versions, ..store(dialect) }),
            rate: Some(size as u64 / 6),
            fault: Some(Fault::Truncate(size / 6)),
            ..Behaviour::default()
        };
        let (origin, mut mesh) = store_alone(kind, &object, behaviour, "signed_for = '2s'\n");
        mesh.set_node_args(&["--download-limit", "70 kB/s"]);
        // One node: of two, the slower one's last blocks are read by the other as well.
        mesh.join("osl", &["one"]);
        let id = mesh.begin(FILE);
        let by_coordinator = origin.refused("/");
        assert!(by_coordinator > 0, "{kind}: the coordinator's URL ended while it read");
        let status = mesh.await_state(&id, "succeeded", WITHIN);
        assert_eq!(origin.refused("/"), by_coordinator, "{kind}: nodes have another before theirs ends");
        let log = mesh.coordinator_log();
        assert!(!log.contains("ended under way") && !log.contains("was refused"), "{kind}: {log}");
        assert!(read_bytes(&status) <= size as u64 * 101 / 100 + 16 * 1024, "{kind}: {status}\n{log}");
    }
}

#[test]
fn a_store_that_refuses_what_it_signed_before_is_read_on_with_another_key() {
    let behaviour = |secret| Behaviour {
        store: Some(Store { secret, ..store(Dialect::Amazon) }),
        rate: Some(SIZE as u64 / 6),
        ..Behaviour::default()
    };
    let origin = Origin::start();
    origin.put("/releases/model/8.bin", package::bytes(8, SIZE));
    origin.behave("/releases/", behaviour("correct-horse"));
    let feed = format!(
        "[[feed]]\nname = 'store'\nkind = 's3'\nurl = '{}'\nusername = 'GOOG1EXAMPLE'\npassword_file = 'key'\n",
        origin.url("/releases")
    );
    let mut mesh = Mesh::start(&feed);
    std::fs::write(mesh.path("key"), "correct-horse\n").unwrap();
    mesh.set_node_args(&["--download-limit", "400 kB/s"]);
    mesh.join("osl", &["one"]);
    let id = mesh.begin(FILE);
    mesh.await_status(&id, "it has begun", WITHIN, |status| read_bytes(status) > 0);
    // The operator changes the key here and there.
    std::fs::write(mesh.path("key"), "another-horse\n").unwrap();
    origin.behave("/releases/", behaviour("another-horse"));
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    assert!(origin.refused("/") > 0, "nodes were refused");
    assert!(mesh.coordinator_log().contains("a node was refused under way: it is told how to read on"));
    assert!(read_bytes(&status) <= SIZE as u64 * 101 / 100 + 16 * 1024, "{status}");
}

#[test]
fn a_mirror_that_is_signed_for_and_fails_is_left_for_the_store() {
    let origin = Origin::start();
    for folder in ["releases", "osl"] {
        origin.put(&format!("/{folder}/model/8.bin"), package::bytes(8, SIZE));
    }
    let store = Some(store(Dialect::Amazon));
    origin.behave("/releases/", Behaviour { store, ..Behaviour::default() });
    // The coordinator asks a mirror for a byte before anybody reads there.
    origin.behave("/osl/", Behaviour { store, ..Behaviour::faulty(Fault::Status(500, None), |request| request > 0) });
    let feed = format!(
        "[[feed]]\nname = 'store'\nkind = 's3'\nurl = '{}'\nmirrors = [{{ sites = ['osl'], url = '{}' }}]\n\
         username = 'GOOG1EXAMPLE'\npassword_env = 'KEY'\n",
        origin.url("/releases"),
        origin.url("/osl")
    );
    let mut mesh = Mesh::start_in(&feed, &[("KEY", "correct-horse")]);
    mesh.join("osl", &["one", "two"]);
    let id = mesh.begin(FILE);
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    let log = mesh.coordinator_log();
    assert!(log.contains("a mirror failed: the next one is read for a while"), "{log}");
    assert!(!log.contains("Signature"), "a signed URL is in the log: {log}");
    assert!(read_bytes(&status) <= SIZE as u64 * 101 / 100 + 16 * 1024, "{status}");
}

#[test]
fn a_key_that_is_not_the_stores_is_refused_and_named() {
    for (kind, dialect) in KINDS {
        let other = Store { secret: "another", ..store(dialect) };
        let (_origin, mesh) =
            site(kind, &package::bytes(8, SIZE), Behaviour { store: Some(other), ..Behaviour::default() }, "");
        let ran = mesh.deploy(FILE, &["-q"]);
        assert!(ran.code == 1 && ran.stderr.contains("feed `store` answered 403 for"), "{kind}: {ran:?}");
        let ran = mesh.shoal(&["feeds", "test", "store"]);
        assert!(ran.code == 0 && ran.stdout.contains("auth: signed URL"), "{kind}: {ran:?}");
    }
}
