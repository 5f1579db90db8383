//! Rate limits of sites and nodes, as an origin and the summary see them.

use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_tests::{Mesh, Origin, package, until};

const WITHIN: Duration = Duration::from_secs(90);

const SECOND: Duration = Duration::from_secs(1);

/// What a deployment file ends with.
const TARGETS: &str = "targets:\n  - { select: all, packages: [model] }\nsteps: [{ name: go, run: 'true' }]\n";

fn file(feed: &str, acquire: &str) -> String {
    format!(
        "name: model\nrelease: '1'\npackages:\n  model: {{ {feed}, id: model.bin }}\nacquire: {{ {acquire} }}\n{TARGETS}"
    )
}

fn site(mesh: &Mesh, name: &str) -> Value {
    let sites = mesh.shoal(&["sites", "ls", "-o", "json"]).json();
    sites["sites"].as_array().unwrap().iter().find(|site| site["name"] == name).unwrap().clone()
}

/// Waits until `moment`.
fn pass(moment: Instant) {
    until("time passes", WITHIN, || (Instant::now() >= moment).then_some(()));
}

/// What an origin sent to a site that has a limit.
struct Sent<'a> {
    origin: &'a Origin,
    rate: u64,
    from: Instant,
}

impl Sent<'_> {
    fn within(&self, from: Duration, span: Duration) -> u64 {
        let from = self.from + from;
        self.origin.sent_between("/osl/", from, from + span)
    }

    /// No second of `span` is a burst. What is paid for is 125 % at most; on a machine that is busy with other things some
    /// of it is sent late, beside what is due.
    fn is_smooth(&self, span: Duration) {
        for tenth in 0..span.as_millis() / 100 - 9 {
            let second = self.within(SECOND * u32::try_from(tenth).unwrap() / 10, SECOND);
            assert!(second <= self.rate / 100 * 150, "{second} bytes in the second after {tenth} tenths");
        }
    }

    /// No 10 s are more than 5 % above the limit.
    fn is_kept(&self) {
        for tenth in 0..(self.from.elapsed() - 10 * SECOND).as_millis() / 100 {
            let ten = self.within(SECOND * u32::try_from(tenth).unwrap() / 10, 10 * SECOND);
            assert!(ten <= self.rate * 10 / 100 * 105, "{ten} bytes in the 10 s after {tenth} tenths");
        }
    }

    /// Waits for 10 s that are no more than 5 % below the limit: the first, unless the machine is busy with other things.
    fn await_use(&self) {
        let least = self.rate * 10 / 100 * 95;
        until("10 s at 95 % of the limit", 17 * SECOND, || {
            let from = self.from.elapsed().checked_sub(10 * SECOND)?;
            (self.within(from, 10 * SECOND) >= least).then_some(())
        });
    }
}

#[test]
fn a_site_keeps_to_its_wan_limit_and_to_changes_of_it() {
    const RATE: u64 = 2_000_000;
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(11, 44_000_000));
    let settings = "[[site]]\nname = 'osl'\ntimezone = 'Europe/Oslo'\nwan_limit = '50 Mbit/s'\n\
                    calendar = [{ days = 'daily', from = '00:00', to = '24:00', wan_limit = '2 MB/s' }]\n";
    let mut mesh = Mesh::start(&(origin.feed(&["osl"]) + settings));
    mesh.join("osl", &["one", "two", "three"]);
    let shown = site(&mesh, "osl");
    assert_eq!((&shown["wan_limit"], &shown["limited_by"]), (&RATE.into(), &"calendar".into()), "{shown}");
    assert_eq!((&shown["base_limit"], &shown["timezone"]), (&6_250_000.into(), &"Europe/Oslo".into()), "{shown}");

    let id = mesh.begin(&file("feed: files", "swarm: true"));
    let from = until("the site reads", WITHIN, || origin.first_sent("/osl/"));
    let sent = Sent { origin: &origin, rate: RATE, from };
    sent.await_use();
    sent.is_smooth(from.elapsed());
    sent.is_kept();

    let limited = mesh.shoal(&["sites", "limit", "osl", "1MB/s", "--for", "1h"]);
    assert_eq!(limited.code, 0, "{limited:?}");
    assert!(limited.stdout.contains("1000000 B/s") && limited.stdout.contains("until"), "{limited:?}");
    let changed = Instant::now();
    pass(changed + 4 * SECOND);
    let slow = origin.sent_between("/osl/", changed + SECOND, changed + 4 * SECOND);
    assert!((2_700_000..3_300_000).contains(&slow), "{slow} bytes in 3 s of 1 MB/s");
    assert_eq!(site(&mesh, "osl")["limited_by"], "operator");

    // What an operator said outlives the coordinator (ACKED-IS-KEPT).
    mesh.kill_coordinator();
    mesh.start_coordinator();
    assert_eq!(site(&mesh, "osl")["wan_limit"], 1_000_000);
    let free = mesh.shoal(&["sites", "limit", "osl", "none"]);
    assert_eq!(free.code, 0, "{free:?}");
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    assert!(status["sites"][0]["copies"].as_f64().unwrap() <= 1.05, "{status:#}");
    let back = mesh.shoal(&["sites", "limit", "osl", "default"]);
    assert_eq!((back.code, site(&mesh, "osl")["wan_limit"].as_u64()), (0, Some(RATE)), "{back:?}");
}

#[test]
fn limits_that_cannot_be_set_are_refused_with_their_reason() {
    let mut mesh = Mesh::start("[[site]]\nname = 'osl'\n");
    let refused = |site: &str, rest: &[&str]| {
        let ran = mesh.shoal(&[&["sites", "limit", site], rest].concat());
        assert_eq!(ran.code, 2, "{ran:?}");
        ran.stderr
    };
    let nowhere = refused("nowhere", &["1MB/s"]);
    assert!(nowhere.contains("there is no site nowhere") && nowhere.contains("shoal sites ls"), "{nowhere}");
    let little = refused("osl", &["1kB/s"]);
    assert!(little.contains("at least 16384 B/s"), "{little}");
    let nothing = refused("osl", &["0 B/s"]);
    assert!(nothing.contains("`0 B/s` is no rate"), "{nothing}");
    let past = refused("osl", &["1MB/s", "--until", "2020-01-01T00:00:00Z"]);
    assert!(past.contains("is over"), "{past}");
    let never = refused("osl", &["1MB/s", "--until", "noon"]);
    assert!(never.contains("`noon` is no time"), "{never}");
    // What was refused changes nothing, and what was not is kept.
    assert_eq!(site(&mesh, "osl")["wan_limit"], Value::Null);
    assert_eq!(mesh.shoal(&["sites", "limit", "osl", "1MB/s", "--until", "2120-01-01T00:00:00Z"]).code, 0);
    mesh.kill_coordinator();
    mesh.start_coordinator();
    let kept = site(&mesh, "osl");
    assert_eq!((&kept["wan_limit"], &kept["limited_until"]), (&1_000_000.into(), &"2120-01-01T00:00:00Z".into()));
}

#[test]
fn nodes_that_do_not_trade_keep_to_their_sites_limit_together() {
    const RATE: u64 = 2_000_000;
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(13, 12_000_000));
    let mut mesh = Mesh::start(&(origin.feed(&["osl"]) + "[[site]]\nname = 'osl'\nwan_limit = '2 MB/s'\n"));
    mesh.join("osl", &["one", "two", "three"]);
    let id = mesh.begin(&file("feed: files", "swarm: false"));
    let from = until("the site reads", WITHIN, || origin.first_sent("/osl/"));
    let sent = Sent { origin: &origin, rate: RATE, from };
    sent.await_use();
    sent.is_smooth(from.elapsed());
    sent.is_kept();
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    assert_eq!(status["sites"][0]["nodes_acquired"], 3, "{status:#}");
}

#[test]
fn deputies_keep_to_their_sites_limit() {
    const RATE: u64 = 2_000_000;
    const SIZE: usize = 32_000_000;
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(14, SIZE));
    let mut mesh = Mesh::start(&(origin.feed(&["osl"]) + "[[site]]\nname = 'osl'\nwan_limit = '2 MB/s'\n"));
    mesh.set_node_args(&["--coordinator-grace", "2s"]);
    mesh.join("osl", &["one", "two", "three"]);
    mesh.begin(&file("feed: files", "swarm: true"));
    let from = until("the site reads", WITHIN, || origin.first_sent("/osl/"));
    until("the recipe is everywhere", WITHIN, || (origin.sent("/osl/") > 4_000_000).then_some(()));
    mesh.kill_coordinator();
    let (killed, before) = (Instant::now(), origin.sent("/osl/"));
    until("deputies have read", WITHIN, || (origin.sent("/osl/") > before + 16_000_000).then_some(()));
    let span = killed.elapsed();
    // It may take four times what the limit allows: a deputy has its part, also if others have nothing more to read.
    assert!(span < 40 * SECOND, "{span:?}");
    let sent = Sent { origin: &origin, rate: RATE, from };
    sent.is_smooth(from.elapsed());
    sent.is_kept();
}

#[test]
fn what_the_coordinator_pushes_counts_as_well() {
    const SIZE: u64 = 6_000_000;
    let mut mesh = Mesh::start(
        "[[feed]]\nname = 'files'\nkind = 'folder'\npath = 'files'\n[[site]]\nname = 'osl'\nwan_limit = '1 MB/s'\n",
    );
    let files = mesh.path("files");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("model.bin"), package::bytes(15, SIZE as usize)).unwrap();
    mesh.join("osl", &["one", "two"]);
    let ran = mesh.deploy(&file("feed: files", "source: coordinator"), &["--watch", "-q", "-o", "json"]).json();
    let took_ms = ran["sites"][0]["acquire_ms"].as_u64().unwrap();
    assert!((5_500..9_000).contains(&took_ms), "{SIZE} bytes at 1 MB/s took {took_ms} ms: {ran:#}");
}

#[test]
fn nodes_keep_to_their_upload_limit() {
    const LIMIT: u64 = 1_000_000;
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(12, 6_000_000));
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.set_node_args(&["--upload-limit", "1MB/s"]);
    mesh.join("osl", &["one", "two"]);
    let ran = mesh.deploy(&file("feed: files", "swarm: true"), &["--watch", "-q", "-o", "json"]).json();
    let site = &ran["sites"][0];
    // Each has a share of its own to send: one that sends more than half needs longer.
    let (peer_bytes, took_ms) = (site["peer_bytes"].as_u64().unwrap(), site["acquire_ms"].as_u64().unwrap());
    let least_ms = peer_bytes / 2 * 1000 / LIMIT;
    assert!(took_ms >= least_ms / 100 * 90, "{peer_bytes} bytes in {took_ms} ms");
    assert!(took_ms <= 8_000, "a limited neighbour is no broken one: {took_ms} ms");
    assert!(site["copies"].as_f64().unwrap() <= 1.05, "{site}");
}

#[test]
fn nodes_keep_to_their_download_limit_over_the_wan_and_among_themselves() {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(16, 6_000_000));
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.set_node_args(&["--download-limit", "1MB/s"]);
    mesh.join("osl", &["one", "two"]);
    let ran = mesh.deploy(&file("feed: files", "swarm: true"), &["--watch", "-q", "-o", "json"]).json();
    let site = &ran["sites"][0];
    let took_ms = site["acquire_ms"].as_u64().unwrap();
    assert!((5_500..10_000).contains(&took_ms), "6 MB to each at 1 MB/s took {took_ms} ms: {site}");
    assert!(site["copies"].as_f64().unwrap() <= 1.05, "{site}");
}
