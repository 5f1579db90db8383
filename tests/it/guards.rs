//! What went wrong in other tools that deploy: one test for each, named for what it guards. Others of them stand where they
//! belong: cancels and failed acquisitions in `rollouts`, retention in `cache`.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Behaviour, Mesh, Origin, package, until};

/// Long: a debug build on a loaded machine.
const WITHIN: Duration = Duration::from_secs(90);

/// Range requests, HTTP probes and the recipe: what a site may read beside the package, of packages this small.
const BESIDE_BYTES: u64 = 64 * 1024;

const SIZE: usize = 2_000_000;

fn once() -> u64 {
    SIZE as u64 * 101 / 100 + BESIDE_BYTES
}

fn lines(mesh: &Mesh, path: &str) -> Vec<String> {
    fs::read_to_string(mesh.path(path)).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn file(release: u32, packages: &[&str], steps: &str) -> String {
    let package = |name: &&str| format!("  {name}: {{ feed: files, id: {name}.bin }}\n");
    format!(
        "name: guard\nrelease: '{release}'\npackages:\n{}targets: [{{ select: all, packages: [{}] }}]\nsteps:\n{steps}",
        packages.iter().map(package).collect::<String>(),
        packages.join(", ")
    )
}

fn mesh(origin: &Origin, names: &[&str]) -> Mesh {
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.join("osl", names);
    mesh
}

#[test]
fn a_package_that_five_steps_of_a_node_use_crosses_once() {
    let origin = Origin::start();
    origin.put("web.bin", package::bytes(1, SIZE));
    let mesh = mesh(&origin, &["one", "two"]);
    let ran = mesh.path("ran").display().to_string();
    let step = |number| format!("  - {{ name: use{number}, run: 'wc -c < $SHOAL_PACKAGE_WEB >> {ran}' }}\n");
    let ended = mesh.deploy(&file(1, &["web"], &(1..=5).map(step).collect::<String>()), &["--watch", "-q"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(lines(&mesh, "ran"), vec![SIZE.to_string(); 10]);
    assert!(origin.sent("/osl/") <= once(), "{} bytes crossed", origin.sent("/osl/"));
}

#[test]
fn transfers_of_two_packages_do_not_wait_for_each_other() {
    let origin = Origin::start();
    let small = package::bytes(2, SIZE);
    origin.put("large.bin", package::bytes(1, 4 * SIZE));
    origin.put("small.bin", small.clone());
    origin.behave("/osl/large.bin", Behaviour { rate: Some(50_000), ..Behaviour::default() });
    let mesh = mesh(&origin, &["one", "two"]);
    let id = mesh.begin(&file(1, &["large", "small"], "  - { name: go, run: 'true' }\n"));
    until("the large package is under way", WITHIN, || (origin.sent("/osl/large.bin") > 0).then_some(()));
    let held = |node: &str| mesh.path(node).join("packages").join(blake3::hash(&small).to_hex().as_str()).exists();
    until("the small one is there", WITHIN, || (held("one") && held("two")).then_some(()));
    assert!(origin.sent("/osl/large.bin") < SIZE as u64, "it did not wait for the large one");
    assert_eq!(mesh.status(&id)["stage"], "acquire");
    assert_eq!(mesh.shoal(&["cancel", &id]).code, 0);
    mesh.await_state(&id, "cancelled", WITHIN);
}

#[test]
fn an_answer_is_not_reused_for_nodes_that_fail_later() {
    let origin = Origin::start();
    let mesh = mesh(&origin, &["one", "two", "three"]);
    let ran = mesh.path("ran").display().to_string();
    let step = format!("  - {{ name: go, run: 'echo $SHOAL_NODE >> {ran}; exit 3', window: 1 }}\n");
    let text = format!("name: guard\nrelease: '1'\ntargets: [{{ select: all }}]\nsteps:\n{step}");
    let id = mesh.begin(&text);
    let asks = |failed: usize| {
        let status = mesh.await_status(&id, "an operator is asked", WITHIN, |status| {
            status["state"] == "paused" && lines(&mesh, "ran").len() == failed
        });
        let asked = lines(&mesh, "ran")[failed - 1].clone();
        assert!(status["waiting"].to_string().contains(&asked), "{asked} waits for its own answer: {status:#}");
    };
    for failed in 1..=3 {
        asks(failed);
        // For all that wait; the others have not failed yet.
        assert_eq!(mesh.shoal(&["ignore", &id]).code, 0);
    }
    mesh.await_state(&id, "succeeded", WITHIN);
}

#[test]
fn a_late_joiner_has_the_package_and_runs_the_steps() {
    let origin = Origin::start();
    origin.put("web.bin", package::bytes(1, SIZE));
    let mut mesh = mesh(&origin, &["one"]);
    let (ran, go) = (mesh.path("ran").display().to_string(), mesh.path("go"));
    let steps = format!(
        "  - {{ name: first, run: 'until test -e {}; do sleep 0.05; done' }}\n  \
         - {{ name: then, run: 'echo $SHOAL_NODE $(wc -c < $SHOAL_PACKAGE_WEB) >> {ran}' }}\n",
        go.display()
    );
    let id = mesh.begin(&file(1, &["web"], &steps));
    mesh.await_status(&id, "it runs", WITHIN, |status| status["nodes"][0]["steps"][0]["state"] == "running");
    mesh.join("osl", &["late"]);
    let of_late = |status: &Value| status["nodes"].as_array().unwrap().iter().position(|node| node["name"] == "late");
    mesh.await_status(&id, "it is a target and has the package", WITHIN, |status| {
        of_late(status).is_some_and(|node| status["nodes"][node]["acquired"] == true)
    });
    fs::write(go, "").unwrap();
    mesh.await_state(&id, "succeeded", WITHIN);
    let mut ran = lines(&mesh, "ran");
    ran.sort();
    assert_eq!(ran, [format!("late {SIZE}"), format!("one {SIZE}")]);
    assert!(origin.sent("/osl/") <= once(), "{} bytes crossed", origin.sent("/osl/"));
}

/// What a disk spoilt after it was verified: the next release finds out when it takes segments from there, and reads those
/// again.
#[test]
fn a_corrupt_segment_in_the_cache_is_fetched_again() {
    let origin = Origin::start();
    let first = package::bytes(1, SIZE);
    let mut second = first.clone();
    second.extend(package::bytes(2, 100_000));
    origin.put("web.bin", first.clone());
    let mut mesh = mesh(&origin, &["one"]);
    let sum = mesh.path("sum").display().to_string();
    let step = format!("  - {{ name: sum, run: 'sha256sum < $SHOAL_PACKAGE_WEB > {sum}' }}\n");
    let deploy = |mesh: &Mesh, release| -> Value {
        mesh.deploy(&file(release, &["web"], &step), &["--watch", "-q", "-o", "json"]).json()
    };
    assert_eq!(deploy(&mesh, 1)["outcome"], "succeeded");
    mesh.kill_node("one");
    let path = mesh.path("one/packages").join(blake3::hash(&first).to_hex().as_str());
    let mut spoilt = fs::read(&path).unwrap();
    spoilt[SIZE / 2] ^= 1;
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "the file is the test's own")]
    permissions.set_readonly(false);
    fs::set_permissions(&path, permissions).unwrap();
    fs::write(&path, spoilt).unwrap();
    mesh.start_node("one");
    mesh.await_online("one");
    let sent = origin.sent("/osl/");
    origin.put("web.bin", second.clone());
    assert_eq!(deploy(&mesh, 2)["outcome"], "succeeded");
    let wanted = mesh.path("wanted");
    fs::write(&wanted, &second).unwrap();
    let sha = std::process::Command::new("sha256sum").stdin(fs::File::open(&wanted).unwrap()).output().unwrap();
    assert_eq!(fs::read(mesh.path("sum")).unwrap(), sha.stdout, "VERIFIED: the step sees the true bytes");
    let read = origin.sent("/osl/") - sent;
    assert!(read < SIZE as u64 / 2 + 100_000, "only what is new or spoilt is read: {read}");
}
