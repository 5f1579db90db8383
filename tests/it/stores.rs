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
    Store { dialect, id: "GOOG1EXAMPLE", secret: "correct-horse" }
}

/// A store with an object, and two nodes that read from it, with these arguments.
fn site(kind: &str, object: &[u8], behaviour: Behaviour, settings: &str, node_args: &[&str]) -> (Origin, Mesh) {
    let origin = Origin::start();
    origin.put("/releases/model/8.bin", object);
    origin.behave("/releases/", behaviour);
    let feed = format!(
        "[[feed]]\nname = 'store'\nkind = '{kind}'\nurl = '{}'\nusername = 'GOOG1EXAMPLE'\npassword_env = 'KEY'\n{settings}",
        origin.url("/releases")
    );
    let mut mesh = Mesh::start_in(&feed, &[("KEY", "correct-horse")]);
    mesh.set_node_args(node_args);
    mesh.join("osl", &["one", "two"]);
    (origin, mesh)
}

fn read_bytes(status: &Value) -> u64 {
    status["sites"][0]["wan_bytes"].as_u64().unwrap_or(0)
}

#[test]
fn the_version_that_was_resolved_is_read_whatever_comes_after_it() {
    for (kind, dialect) in KINDS {
        let behaviour = Behaviour { store: Some(store(dialect)), rate: Some(SIZE as u64 / 2), ..Behaviour::default() };
        let (origin, mesh) = site(kind, &package::bytes(8, SIZE), behaviour, "", &[]);
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
fn a_url_that_ends_under_way_is_followed_by_another() {
    for (kind, dialect) in KINDS {
        // The coordinator needs many requests and, as a node does for a block, longer than a URL lives. What a read that ends
        // loses is a segment, which here are small.
        let object = package::zip(&package::files(9, 70, 6_000));
        let size = object.len();
        let behaviour = Behaviour {
            store: Some(store(dialect)),
            rate: Some(size as u64 / 6),
            fault: Some(Fault::Truncate(size / 6)),
            ..Behaviour::default()
        };
        let slowly = ["--download-limit", "50 kB/s"];
        let (origin, mesh) = site(kind, &object, behaviour, "signed_for = '2s'\n", &slowly);
        let id = mesh.begin(FILE);
        let by_coordinator = origin.refused("/");
        assert!(by_coordinator > 0, "{kind}: the coordinator's URL ended while it read");
        let status = mesh.await_state(&id, "succeeded", WITHIN);
        assert!(origin.refused("/") > by_coordinator, "{kind}: a node's URL ended while it read");
        let log = mesh.coordinator_log();
        assert!(log.contains("a signed URL ended under way: the rest is read with another"), "{kind}: {log}");
        assert!(read_bytes(&status) <= size as u64 * 12 / 10, "{kind}: {status}");
    }
}

#[test]
fn a_key_that_is_not_the_stores_is_refused_and_named() {
    for (kind, dialect) in KINDS {
        let other = Store { secret: "another", ..store(dialect) };
        let (_origin, mesh) =
            site(kind, &package::bytes(8, SIZE), Behaviour { store: Some(other), ..Behaviour::default() }, "", &[]);
        let ran = mesh.deploy(FILE, &["-q"]);
        assert!(ran.code == 1 && ran.stderr.contains("feed `store` answered 403 for"), "{kind}: {ran:?}");
        let ran = mesh.shoal(&["feeds", "test", "store"]);
        assert!(ran.code == 0 && ran.stdout.contains("auth: signed URL"), "{kind}: {ran:?}");
    }
}
