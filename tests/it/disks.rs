//! A disk that is full: who lacks room, where and how much is said, and nothing that was done is lost.

use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::{Behaviour, Mesh, Origin, disk, package};

const WITHIN: Duration = Duration::from_secs(90);

const FILES: u64 = 60;

const FILE_BYTES: usize = 100_000;

/// Steps after the disk is full, before one that needs room: what a node notes of them is more than a page of its file
/// system, which a disk that is full to the last byte may still have.
const STEPS: usize = 150;

/// Its first step fills up the disk of node `one` to the last byte.
fn file(mesh: &Mesh) -> String {
    let fill =
        format!("if [ $SHOAL_NODE = one ]; then cat /dev/zero > {} || true; fi", mesh.path("one/fill").display());
    let steps: String = (0..STEPS).map(|number| format!("  - {{ name: s{number}, run: 'true' }}\n")).collect();
    let to = mesh.path("${SHOAL_NODE}/srv");
    format!(
        "name: web
release: '1'
packages:
  web: {{ feed: files, id: web.zip }}
targets:
  - {{ select: all, packages: [web] }}
steps:
  - {{ name: fill, run: '{fill}' }}
{steps}  - {{ name: unpack, unpack: web, to: '{}', on_failure: pause }}
",
        to.display()
    )
}

/// The node of this name in a status.
fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap()
}

fn assert_says(mesh: &Mesh, status: &Value, words: &[&str]) {
    let waiting = mesh.plain(&status["waiting"].to_string());
    for word in words {
        assert!(waiting.contains(word), "{word} is not in {waiting}");
    }
}

#[test]
fn a_full_disk_is_named_and_a_retry_goes_on_once_there_is_room() {
    if let Some(why) = disk::unavailable() {
        println!("not run: a small disk cannot be mounted here: {why}");
        return;
    }
    let files = package::files(30, FILES, FILE_BYTES);
    let size = FILES * FILE_BYTES as u64;
    let origin = Origin::start();
    origin.put("web.zip", package::zip(&files));
    origin.behave("/osl/", Behaviour { rate: Some(size), ..Behaviour::default() });
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.set_disk("one", "4m");
    mesh.join("osl", &["one", "two"]);
    let id = mesh.begin(&file(&mesh));

    // The package does not fit: it is not begun, and the other node gets it.
    let refused = |status: &Value| node(status, "one")["state"] == "needs-answer";
    let status = mesh.await_status(&id, "one has no room and two has the package", WITHIN, |status| {
        refused(status) && node(status, "two")["acquired"] == true
    });
    assert_eq!((&status["state"], &status["stage"]), (&json!("blocked"), &json!("acquire")));
    let answer = format!("free some, or lower cache_max; answer with `shoal retry|exclude|fail {id} --node one`");
    assert_says(
        &mesh,
        &status,
        &["one cannot have web: no space in FOLDER/one/packages: ", " bytes needed, ", &answer],
    );
    assert_eq!(mesh.shoal(&["watch", &id, "-q", "--wait-max", "1s"]).code, 5);

    // It fits, but then there is not one byte left for what is unpacked from it, nor for the node's own notes.
    mesh.set_disk("one", "12m");
    assert_eq!(mesh.shoal(&["retry", &id, "--node", "one"]).code, 0);
    let unpacked = |status: &Value| node(status, "two")["steps"][1 + STEPS]["state"] == "succeeded";
    let status = mesh.await_status(&id, "one cannot unpack and two has", WITHIN, |status| {
        node(status, "one")["acquired"] == true && refused(status) && unpacked(status)
    });
    assert_eq!(node(&status, "one")["steps"][0]["state"], "succeeded");
    let full = "step unpack failed: no space in FOLDER/one/srv/releases: ";
    assert_says(&mesh, &status, &[full, " bytes free: free some on one: answer with `shoal retry|"]);

    mesh.set_disk("one", "32m");
    assert_eq!(mesh.shoal(&["retry", &id]).code, 0);
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    for (name, attempts) in [("one", 2), ("two", 1)] {
        let step = &node(&status, name)["steps"][1 + STEPS];
        assert_eq!((&step["state"], &step["attempts"]), (&json!("succeeded"), &json!(attempts)), "{name}");
        assert_eq!(package::read(&mesh.path_on(name, &format!("{name}/srv/current"))), files, "what {name} unpacked");
    }
    let sent = origin.sent("/osl/");
    assert!(sent <= size * 101 / 100 + 64 * 1024, "nothing was read again, but {sent} of {size} were");

    // The node is as it was before: another release needs what the disk refused.
    origin.put("web.zip", package::zip(&package::tenth_changed(&files, 31)));
    let ran =
        mesh.deploy(&file(&mesh).replace("- { name: fill", "- { on: coordinator, name: fill"), &["--watch", "-q"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}
