//! Rate limits of sites and nodes, as an origin and the summary see them.

use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_tests::{Mesh, Origin, package, until};

const WITHIN: Duration = Duration::from_secs(90);

const SECOND: Duration = Duration::from_secs(1);

const FILE: &str = "name: model\nrelease: '1'\npackages:\n  model: { feed: files, id: model.bin }\n\
                    targets:\n  - { select: all, packages: [model] }\nsteps: [{ name: go, run: 'true' }]\n";

fn site(mesh: &Mesh, name: &str) -> Value {
    let sites = mesh.shoal(&["sites", "ls", "-o", "json"]).json();
    sites["sites"].as_array().unwrap().iter().find(|site| site["name"] == name).unwrap().clone()
}

/// Waits until `moment`.
fn pass(moment: Instant) {
    until("time passes", WITHIN, || (Instant::now() >= moment).then_some(()));
}

#[test]
fn a_site_keeps_to_its_wan_limit_and_to_changes_of_it() {
    const RATE: u64 = 4_000_000;
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(11, 40_000_000));
    let settings = "[[site]]\nname = 'osl'\ntimezone = 'Europe/Oslo'\nwan_limit = '50 Mbit/s'\n\
                    calendar = [{ days = 'daily', from = '00:00', to = '24:00', wan_limit = '4 MB/s' }]\n";
    let mut mesh = Mesh::start(&(origin.feed(&["osl"]) + settings));
    mesh.join("osl", &["one", "two", "three"]);
    let shown = site(&mesh, "osl");
    assert_eq!((&shown["wan_limit"], &shown["limited_by"]), (&RATE.into(), &"calendar".into()), "{shown}");
    assert_eq!((&shown["base_limit"], &shown["timezone"]), (&6_250_000.into(), &"Europe/Oslo".into()), "{shown}");

    let id = mesh.begin(FILE);
    let began = until("the site reads", WITHIN, || origin.first_sent("/osl/"));
    pass(began + 7 * SECOND);
    let sent = |from: Instant, span: Duration| origin.sent_between("/osl/", from, from + span);
    for tenth in 0..60 {
        let second = sent(began + SECOND * tenth / 10, SECOND);
        assert!(second <= RATE / 100 * 125, "{second} bytes in the second after {tenth} tenths");
    }
    let five = sent(began + 2 * SECOND, 5 * SECOND);
    assert!((RATE * 5 / 100 * 95..=RATE * 5 / 100 * 105).contains(&five), "{five} bytes in 5 s");

    let limited = mesh.shoal(&["sites", "limit", "osl", "1MB/s", "--for", "1h"]);
    assert_eq!(limited.code, 0, "{limited:?}");
    assert!(limited.stdout.contains("1000000 B/s") && limited.stdout.contains("until"), "{limited:?}");
    let changed = Instant::now();
    pass(changed + 4 * SECOND);
    let slow = sent(changed + SECOND, 3 * SECOND);
    assert!((2_700_000..3_300_000).contains(&slow), "{slow} bytes in 3 s of 1 MB/s");
    assert_eq!(site(&mesh, "osl")["limited_by"], "operator");

    // What an operator said outlives the coordinator.
    mesh.kill_coordinator();
    mesh.start_coordinator();
    assert_eq!(site(&mesh, "osl")["wan_limit"], 1_000_000);
    let free = mesh.shoal(&["sites", "limit", "osl", "none"]);
    assert_eq!(free.code, 0, "{free:?}");
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    assert!(status["sites"][0]["copies"].as_f64().unwrap() <= 1.05, "{status:#}");
    let back = mesh.shoal(&["sites", "limit", "osl", "default"]);
    assert_eq!((back.code, site(&mesh, "osl")["wan_limit"].as_u64()), (0, Some(RATE)), "{back:?}");
    assert_eq!(mesh.shoal(&["sites", "limit", "nowhere", "none"]).code, 2);
}

#[test]
fn nodes_keep_to_their_upload_limit() {
    const LIMIT: u64 = 1_000_000;
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(12, 6_000_000));
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.set_node_args(&["--upload-limit", "1MB/s"]);
    mesh.join("osl", &["one", "two"]);
    let ran = mesh.deploy(FILE, &["--watch", "-q", "-o", "json"]).json();
    let site = &ran["sites"][0];
    // Each has a share of its own to send: one that sends more than half needs longer.
    let (peer_bytes, took_ms) = (site["peer_bytes"].as_u64().unwrap(), site["acquire_ms"].as_u64().unwrap());
    let least_ms = peer_bytes / 2 * 1000 / LIMIT;
    assert!(took_ms >= least_ms / 100 * 90, "{peer_bytes} bytes in {took_ms} ms");
    assert!(took_ms <= 8_000, "a limited neighbour is no broken one: {took_ms} ms");
    assert!(site["copies"].as_f64().unwrap() <= 1.05, "{site}");
}
