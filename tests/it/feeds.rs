//! `shoal feeds test`: what it finds out of a feed, and the sentence that tells what to change.

use std::fs;

use serde_json::{Value, json};
use shoal_tests::{Behaviour, Credentials, Fault, Mesh, Origin, package};

const SIZE: usize = 4_000_000;

/// Tries the feed `files` with the file that all of these tests have; how each place did, and the exit code.
fn tried(mesh: &Mesh, code: i32) -> Value {
    let ran = mesh.shoal(&["feeds", "test", "files", "model.bin", "-o", "json"]);
    assert_eq!(ran.code, code, "{ran:?}");
    let test: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    assert_eq!((&test["schema"], &test["feed"]), (&json!("shoal.feed-test/v1"), &json!("files")), "{test}");
    assert_eq!(test["works"], code == 0, "{test}");
    test
}

fn advice(test: &Value, place: usize) -> &str {
    test["places"][place]["advice"].as_str().unwrap_or_else(|| panic!("place {place} of {test}"))
}

#[test]
fn each_place_of_a_feed_is_tried_and_what_to_change_is_said() {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(8, SIZE));
    origin.behave("/syd/", Behaviour { ignore_ranges: true, ..Behaviour::default() });
    let mesh = Mesh::start(&origin.feed(&["osl", "syd"]));
    let test = tried(&mesh, 0);
    assert_eq!((&test["package"], &test["bytes"]), (&json!("files model.bin"), &json!(SIZE)), "{test}");
    assert_eq!(test["auth"], "none");
    let [main, osl, syd] = [0, 1, 2].map(|place| &test["places"][place]);
    assert_eq!((main["url"].as_str(), &main["sites"]), (Some(&*origin.url("/main/model.bin")), &json!([])), "{test}");
    assert_eq!((&osl["sites"], &syd["sites"]), (&json!(["osl"]), &json!(["syd"])), "{test}");
    assert!(main["rate"].as_u64() > Some(0) && main["latency_ms"].is_u64(), "{test}");
    assert!(main["validator"].as_str().is_some_and(|etag| etag.starts_with('"')), "{test}");
    assert_eq!([main, osl, syd].map(|place| &place["ranges"]), [true, true, false], "{test}");
    assert_eq!([0, 1].map(|place| advice(&test, place)), ["nothing is wrong with it"; 2]);
    assert!(advice(&test, 2).contains("put a server or proxy before it that answers `Range` with 206"), "{test}");
    // No more than a little is read.
    let read = origin.sent("/main/");
    assert!(read <= SIZE as u64 + 1000, "{read} bytes of {SIZE}");

    let table = mesh.shoal(&["feeds", "test", "files", "model.bin"]);
    assert_eq!(table.code, 0, "{table:?}");
    assert!(
        table.stdout.starts_with("files model.bin   4.0 MB   auth: none   the feed's own hash: none told\n"),
        "{table:?}"
    );
    assert!(
        table.stdout.contains(&format!("{}: nothing is wrong with it\n", origin.url("/osl/model.bin"))),
        "{table:?}"
    );

    let none = mesh.shoal(&["feeds", "test", "files", "modle.bin"]);
    assert!(none.code == 2 && none.stderr.contains("feed `files` has no modle.bin: check its id"), "{none:?}");
    let no_feed = mesh.shoal(&["feeds", "test", "flies"]);
    assert!(no_feed.code == 2 && no_feed.stderr.contains("did you mean `files`?"), "{no_feed:?}");
}

#[test]
fn validators_that_promise_too_little_are_named() {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(8, SIZE));
    let mesh = Mesh::start(&origin.feed(&[]));
    for (fault, wanted) in [(Fault::WeakEtag, "its `ETag` is a weak one"), (Fault::NoEtag, "it gives no validator")] {
        origin.behave("/main/", Behaviour::faulty(fault, |_| true));
        let test = tried(&mesh, 0);
        assert!(advice(&test, 0).starts_with(wanted), "{test}");
        assert_eq!(test["places"][0]["validator"], Value::Null, "{test}");
    }
}

#[test]
fn a_place_that_cannot_be_read_is_named_with_its_cause() {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(8, SIZE));
    let mesh = Mesh::start(&origin.feed(&["osl"]));
    let osl = origin.url("/osl/model.bin");
    // The first request to it is that of resolving, the second the trial's question, the third its read.
    let table = [
        (Behaviour::faulty(Fault::Status(403, None), |number| number > 0), format!("{osl} answered 403")),
        (Behaviour::faulty(Fault::Status(503, Some(3600)), |number| number > 1), format!("{osl} answered 503")),
        (Behaviour::faulty(Fault::WrongRange, |number| number > 1), "were asked for".to_owned()),
        (Behaviour::faulty(Fault::Status(404, None), |_| true), format!("{osl} answered 404")),
    ];
    for (behaviour, wanted) in table {
        origin.behave("/osl/", behaviour);
        let test = tried(&mesh, 1);
        assert!(advice(&test, 1).contains(&wanted), "{wanted} is not in {test}");
        assert_eq!((&test["places"][0]["works"], &test["places"][1]["works"]), (&json!(true), &json!(false)), "{test}");
    }
    // A mirror that has another package is not used for this one.
    origin.behave("/osl/", Behaviour::default());
    origin.put("/osl/model.bin", package::bytes(9, SIZE + 1));
    let test = tried(&mesh, 1);
    assert!(advice(&test, 1).contains("it is not used for this package"), "{test}");
    assert!(advice(&test, 1).contains("4000001 of them, and the feed 4000000"), "{test}");
}

#[test]
fn what_keeps_a_feed_from_answering_is_said_with_or_without_a_package() {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(8, SIZE));
    let wants = Some(Credentials { user: "ci", password: "correct horse" });
    origin.behave("/", Behaviour { wants, ..Behaviour::default() });
    let settings = origin.feed(&[]) + "username = 'ci'\npassword_env = 'FEED_PASSWORD'\n";
    let mesh = Mesh::start_in(&settings, &[("FEED_PASSWORD", "wrong horse")]);
    let ran = mesh.shoal(&["feeds", "test", "files", "model.bin"]);
    let wanted = "feed `files` answered 401 for model.bin: check `username` and `password_file`";
    assert!(ran.code == 1 && ran.stderr.contains(wanted), "{ran:?}");
    let ran = mesh.shoal(&["feeds", "test", "files"]);
    assert!(ran.code == 1 && ran.stdout.contains("it does not answer as it should: "), "{ran:?}");
    assert!(ran.stdout.contains("answered 401: check the feed's user name and password file"), "{ran:?}");
    drop(mesh);

    let mesh = Mesh::start_in(&settings, &[("FEED_PASSWORD", "correct horse")]);
    assert_eq!(tried(&mesh, 0)["auth"], "password");
    let ran = mesh.shoal(&["feeds", "test", "files"]);
    assert!(ran.code == 0 && ran.stdout.contains("it answers: name a package to see"), "{ran:?}");
    assert!(!mesh.coordinator_log().contains("correct horse"));
    // A server that shows no root may be well.
    for (status, code) in [(403, 0), (404, 0), (503, 1)] {
        origin.behave("/", Behaviour::faulty(Fault::Status(status, Some(3600)), |_| true));
        let ran = mesh.shoal(&["feeds", "test", "files"]);
        assert_eq!(ran.code, code, "{status}: {ran:?}");
    }
}

#[test]
fn a_private_authority_that_nobody_named_is_said_to_be_missing() {
    let origin = Origin::start_tls();
    origin.put("model.bin", package::bytes(8, SIZE));
    let mesh = Mesh::start(&origin.feed(&[]));
    for args in [&["feeds", "test", "files", "model.bin"][..], &["feeds", "test", "files"]] {
        let ran = mesh.shoal(args);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == 1 && said.contains("name its authority's in the feed's `ca_file`"), "{ran:?}");
    }
}

#[test]
fn a_folder_is_read_by_the_coordinator() {
    let mesh = Mesh::start("[[feed]]\nname = 'files'\nkind = 'folder'\npath = 'packages'\n");
    let missing = mesh.shoal(&["feeds", "test", "files"]);
    assert!(missing.code == 1 && missing.stdout.contains("there is no such folder"), "{missing:?}");
    fs::create_dir(mesh.path("packages")).unwrap();
    fs::write(mesh.path("packages/model.bin"), "a package").unwrap();
    assert_eq!(mesh.shoal(&["feeds", "test", "files"]).code, 0);
    let test = tried(&mesh, 0);
    assert_eq!((&test["bytes"], &test["places"][0]["ranges"]), (&json!(9), &Value::Null), "{test}");
    assert!(advice(&test, 0).contains("the coordinator is the origin"), "{test}");
}
