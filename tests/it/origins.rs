//! Origins that lie, change or cannot do what they should.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Behaviour, Credentials, Fault, Mesh, Origin, Proxy, package, until};

const WITHIN: Duration = Duration::from_secs(90);

const SIZE: usize = 4_000_000;

const FILE: &str = "name: model\nrelease: '1'\npackages:\n  model: { feed: files, id: model.bin }\n\
                    targets:\n  - { select: all, packages: [model] }\nsteps: [{ name: go, run: 'true' }]\n";

/// With which requests something goes wrong.
type When = fn(u64) -> bool;

/// A feed without mirrors, so that nobody can get around it, and two nodes that read from it.
fn site(behaviour: Behaviour) -> (Origin, Mesh) {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(8, SIZE));
    origin.behave("/main/", behaviour);
    let mut mesh = Mesh::start(&origin.feed(&[]));
    mesh.join("osl", &["one", "two"]);
    (origin, mesh)
}

/// Has the coordinator read the package once, so that what the origin does from here on is done to nodes.
fn read_for_its_recipe(mesh: &mut Mesh) {
    mesh.join("lab", &["first"]);
    let ran = mesh.deploy(&FILE.replace("select: all", "select: site=lab"), &["--watch", "-q", "-o", "json"]);
    assert_eq!(ran.json()["outcome"], "succeeded");
}

/// Makes the recipe of the package with these bytes as where it is built, and gives it; the file that deploys that package.
fn give_recipe(mesh: &Mesh, bytes: &[u8]) -> String {
    let built = mesh.path("model.bin");
    fs::write(&built, bytes).unwrap();
    let made = mesh.shoal(&["recipe", "make", built.to_str().unwrap(), "-o", "json"]).json();
    let given = mesh.shoal(&["recipe", "add", made["file"].as_str().unwrap(), "-o", "json"]).json();
    let package = made["package"].as_str().unwrap();
    assert!(given["message"].as_str().unwrap().contains(package), "{given}");
    FILE.replace("id: model.bin", &format!("id: model.bin, blake3: {package}"))
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
    let (origin, mut mesh) = site(Behaviour::default());
    read_for_its_recipe(&mut mesh);
    origin.behave("/main/", Behaviour { flip: Some(SIZE / 2), ..Behaviour::default() });
    let id = mesh.begin(&FILE.replace("select: all", "select: site=osl"));
    let status = mesh.await_state(&id, "failed", WITHIN);
    assert_failed_and_names(&status, &["model", "wrong bytes"]);
    assert_eq!(mesh.shoal(&["watch", &id, "-q"]).code, 3);
}

#[test]
fn an_origin_without_ranges_is_read_once_all_the_same() {
    for fault in [None, Some(Fault::NoEtag)] {
        let rate = Some(SIZE as u64);
        let (origin, mesh) = site(Behaviour { ignore_ranges: true, rate, fault, ..Behaviour::default() });
        let ran = mesh.deploy(FILE, &["--watch", "-q", "-o", "json"]);
        let site = &ran.json()["sites"][0];
        assert!(site["copies"].as_f64().unwrap() <= 1.05, "{site}");
        // The coordinator reads it too. A probe that asks for one byte is answered with all of them, of which little is read
        // before it hangs up.
        assert!(origin.sent("/main/") < SIZE as u64 * 3, "{} of {SIZE}", origin.sent("/main/"));
    }
}

#[test]
fn the_coordinator_does_not_read_a_package_whose_recipe_it_was_given() {
    let (origin, mut mesh) = site(Behaviour::default());
    let file = give_recipe(&mesh, &package::bytes(8, SIZE));
    // What was answered for is kept, also by a coordinator that ends at once.
    mesh.kill_coordinator();
    mesh.start_coordinator();
    ["one", "two"].iter().for_each(|name| mesh.await_online(name));
    let ran = mesh.deploy(&file, &["--watch", "-q", "-o", "json"]);
    assert_eq!(ran.json()["outcome"], "succeeded");
    let sent = origin.sent("/main/");
    assert!(sent < SIZE as u64 * 105 / 100, "{sent} of {SIZE}, which the site alone reads");
    let acts = mesh.shoal(&["audit", "ls", "-o", "json"]).json();
    assert!(acts["entries"].as_array().unwrap().iter().any(|act| act["command"] == "recipe add"), "{acts}");
}

#[test]
fn what_does_not_match_the_recipe_that_was_given_is_refused_by_nodes() {
    let (origin, mesh) = site(Behaviour::default());
    let file = give_recipe(&mesh, &package::bytes(8, SIZE));
    // Built once more since, as large as before.
    origin.put("model.bin", package::bytes(9, SIZE));
    let id = mesh.begin(&file);
    let status = mesh.await_state(&id, "failed", WITHIN);
    assert_failed_and_names(&status, &["model", "wrong bytes"]);
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

#[test]
fn a_package_that_changes_at_a_mirror_and_at_its_feed_stops_the_deployment_too() {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(8, SIZE));
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    read_for_its_recipe(&mut mesh);
    mesh.join("osl", &["one", "two"]);
    for place in ["/main/", "/osl/"] {
        origin.behave(place, Behaviour { rate: Some(SIZE as u64 / 4), ..Behaviour::default() });
    }
    let id = mesh.begin(&FILE.replace("select: all", "select: site=osl"));
    mesh.await_status(&id, "it has begun", WITHIN, |status| status["sites"][0]["wan_bytes"].as_u64() > Some(0));
    origin.put("model.bin", package::bytes(9, SIZE));
    let status = mesh.await_state(&id, "failed", WITHIN);
    assert_failed_and_names(&status, &["model", "changed", "no other place has it as it was"]);
}

#[test]
fn what_goes_wrong_now_and_then_is_got_over_without_reading_twice() {
    let (origin, mesh) = site(Behaviour::default());
    let elsewhere = Origin::start();
    let third = |number: u64| number % 3 == 2;
    let always = |_: u64| true;
    let table: [(Fault, When); 8] = [
        (Fault::Truncate(100_000), third),
        (Fault::Status(503, Some(1)), third),
        (Fault::Status(429, Some(1)), third),
        (Fault::Status(500, None), third),
        (Fault::WeakEtag, always),
        (Fault::NoEtag, always),
        (Fault::Redirect(elsewhere.url("/store/")), always),
        // Its silence is waited for once, by the node that reads first.
        (Fault::Stall(50_000), |number| number == 6),
    ];
    for (number, (fault, when)) in table.into_iter().enumerate() {
        let (name, bytes) = (format!("model-{number}.bin"), package::bytes(100 + number as u64, SIZE));
        origin.put(&name, bytes.clone());
        elsewhere.put(&name, bytes);
        origin.behave("/main/", Behaviour::faulty(fault.clone(), when));
        let ran = mesh.deploy(&FILE.replace("model.bin", &name), &["--watch", "-q", "-o", "json"]);
        let (summary, log) = (ran.json(), mesh.coordinator_log());
        assert_eq!(summary["outcome"], "succeeded", "{fault:?}: {summary}\n{log}");
        let copies = summary["sites"][0]["copies"].as_f64().unwrap();
        assert!(copies <= 1.05, "{fault:?}: {copies} copies");
    }
}

#[test]
fn what_cannot_be_got_over_is_refused_with_its_cause() {
    let (origin, mesh) = site(Behaviour::default());
    let table = [
        (Fault::Gzip, "model.bin: http", "it is encoded (gzip), which was not asked for"),
        (Fault::NoLength, "feed `files`", "does not say how large model.bin is"),
        (Fault::WrongRange, "cannot read files model.bin", "were asked for"),
        (Fault::Status(416, None), "feed `files`", "does not say how large model.bin is"),
        (Fault::Status(403, None), "feed `files` answered 403 for model.bin", "a signed URL has expired"),
        (
            Fault::Status(500, None),
            "feed `files` cannot be asked for model.bin",
            "answered 500: it is overloaded or broken",
        ),
        (Fault::Truncate(0), "", "model.bin"),
    ];
    for (fault, subject, cause) in table {
        origin.behave("/main/", Behaviour::faulty(fault.clone(), |_| true));
        let ran = mesh.deploy(FILE, &["-q"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{fault:?}: {ran:?}");
        assert!(ran.stderr.contains(subject) && ran.stderr.contains(cause), "{fault:?}: {}", ran.stderr);
    }
    // Nothing of it is in the way of a deployment once the origin is well.
    origin.behave("/main/", Behaviour::default());
    assert_eq!(mesh.deploy(FILE, &["--watch", "-q", "-o", "json"]).json()["outcome"], "succeeded");
}

#[test]
fn what_breaks_under_way_is_told_and_goes_on_once_it_is_repaired() {
    let (origin, mut mesh) = site(Behaviour::default());
    read_for_its_recipe(&mut mesh);
    let table = [
        (Behaviour { wants: Some(Credentials { user: "ci", password: "x" }), ..Behaviour::default() }, "answered 401"),
        (Behaviour::faulty(Fault::Status(403, None), |_| true), "the signed URL has expired"),
        (Behaviour::faulty(Fault::Status(503, Some(3600)), |_| true), "answered 503: it is overloaded or broken"),
        (Behaviour::faulty(Fault::Gzip, |_| true), "it is encoded (gzip), which was not asked for"),
        (Behaviour::faulty(Fault::WrongRange, |_| true), "were asked for"),
        (Behaviour::faulty(Fault::Status(416, None), |_| true), "416"),
    ];
    for (number, (bad, cause)) in table.into_iter().enumerate() {
        let name = format!("under-way-{number}.bin");
        origin.put(&name, package::bytes(200 + number as u64, SIZE));
        origin.behave("/main/", Behaviour { rate: Some(SIZE as u64), ..Behaviour::default() });
        let id = mesh.begin(&FILE.replace("model.bin", &name).replace("select: all", "select: site=osl"));
        let begun = |status: &Value| status["sites"][0]["wan_bytes"].as_u64() > Some(0);
        mesh.await_status(&id, "it has begun", WITHIN, begun);
        origin.behave("/main/", bad);
        mesh.await_status(&id, cause, WITHIN, |status| status["waiting"].to_string().contains(cause));
        origin.behave("/main/", Behaviour::default());
        let status = mesh.await_state(&id, "succeeded", WITHIN);
        let read = status["sites"][0]["wan_bytes"].as_u64().unwrap();
        assert!(read <= SIZE as u64 * 102 / 100 + 64 * 1024, "{cause}: {read} bytes for {SIZE}");
    }
}

#[test]
fn credentials_stay_with_the_feed_when_it_redirects() {
    let (origin, elsewhere) = (Origin::start(), Origin::start());
    let ci = Credentials { user: "ci", password: "correct horse" };
    elsewhere.put("model.bin", package::bytes(8, SIZE));
    let wants = Some(ci.clone());
    let fault = Some(Fault::Redirect(elsewhere.url("/store/")));
    origin.behave("/main/", Behaviour { wants, fault, ..Behaviour::default() });
    let settings = origin.feed(&[]) + "username = 'ci'\npassword_env = 'FEED_PASSWORD'\n";
    let mut mesh = Mesh::start_in(&settings, &[("FEED_PASSWORD", ci.password)]);
    mesh.join("osl", &["one", "two"]);
    assert_eq!(mesh.deploy(FILE, &["--watch", "-q", "-o", "json"]).json()["outcome"], "succeeded");
    assert!(origin.authorized("/main/") > 0 && origin.refused("/main/") == 0, "the feed is told");
    assert!(elsewhere.sent("/store/") >= SIZE as u64 * 2, "coordinator and site read there");
    assert_eq!(elsewhere.authorized("/"), 0, "another host is not");
    assert!(!mesh.coordinator_log().contains(ci.password));
}

#[test]
fn a_private_authority_is_trusted_where_its_feed_says_so_also_through_a_proxy() {
    let (origin, proxy) = (Origin::start_tls(), Proxy::start());
    origin.put("model.bin", package::bytes(8, SIZE));
    let own = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(own.path(), origin.ca_pem()).unwrap();
    let trusting = origin.feed(&[]) + &format!("ca_file = '{}'\n", own.path().display());

    let mut mesh = Mesh::start(&trusting);
    mesh.join("osl", &["one", "two"]);
    assert_eq!(mesh.deploy(FILE, &["--watch", "-q", "-o", "json"]).json()["outcome"], "succeeded");
    drop(mesh);
    let mesh = Mesh::start(&origin.feed(&[]));
    let ran = mesh.deploy(FILE, &["-q"]);
    assert!(ran.code == 1 && ran.stderr.contains("certificate"), "{ran:?}");
    drop(mesh);

    let read_through = |no_proxy: &str| {
        let before = proxy.passed();
        let mut mesh = Mesh::start_in(&trusting, &[("HTTPS_PROXY", &proxy.url()), ("NO_PROXY", no_proxy)]);
        mesh.join("osl", &["one", "two"]);
        assert_eq!(mesh.deploy(FILE, &["--watch", "-q", "-o", "json"]).json()["outcome"], "succeeded");
        proxy.passed() - before
    };
    assert!(read_through("other.example.com") >= SIZE as u64 * 2, "coordinator and site read by the proxy");
    assert_eq!(read_through("127.0.0.1"), 0, "what needs no proxy does without");
}

#[test]
fn a_site_leaves_a_mirror_that_fails_and_comes_back_to_it() {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(8, SIZE));
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    read_for_its_recipe(&mut mesh);
    mesh.join("osl", &["one", "two"]);
    // The first request is the coordinator's; nodes find nothing but errors there.
    origin.behave("/osl/", Behaviour::faulty(Fault::Status(500, None), |number| number > 0));
    // Slow, so that the mirror is well again long before the site has all of it.
    origin.behave("/main/", Behaviour { rate: Some(SIZE as u64 / 40), ..Behaviour::default() });
    let read_before = origin.sent("/main/model.bin");
    let id = mesh.begin(&FILE.replace("select: all", "select: site=osl"));
    let read_by_site = || origin.sent("/main/model.bin") - read_before;
    until("the site reads the feed itself", WITHIN, || (read_by_site() > 100_000).then_some(()));
    let log = mesh.coordinator_log();
    assert!(
        log.contains("a mirror failed: the next one is read for a while") && log.contains("/osl/model.bin"),
        "{log}"
    );

    let mirror_before = origin.sent("/osl/model.bin");
    origin.behave("/osl/", Behaviour::default());
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    let mirrored = origin.sent("/osl/model.bin") - mirror_before;
    assert!(mirrored > SIZE as u64 / 4, "{mirrored} bytes came from the mirror that was well again");
    let read = status["sites"][0]["wan_bytes"].as_u64().unwrap();
    assert!(read <= SIZE as u64 * 102 / 100 + 64 * 1024, "{read} bytes for {SIZE}");
}
