//! A cache that is too small for all that was deployed: what deployments need stays, the oldest of the rest goes.

use std::fs;
use std::time::Duration;

use shoal_tests::{Mesh, Origin, package, until};

/// Long: a debug build on a loaded machine.
const WITHIN: Duration = Duration::from_secs(90);

const SIZE: usize = 1_000_000;

const PACKAGES: [&str; 4] = ["staged", "live", "first", "second"];

fn file(name: &str, gate: &str) -> String {
    format!(
        "name: {name}\nrelease: '1'\npackages:\n  it: {{ feed: files, id: {name}.bin }}\n\
         targets:\n  - {{ select: all, packages: [it] }}\nacquire: {{ gate: {gate} }}\n\
         steps: [{{ name: prove, run: 'test -s $SHOAL_PACKAGE_IT' }}]\n"
    )
}

/// Which packages the node has.
fn held(mesh: &Mesh) -> Vec<&'static str> {
    let folder = mesh.path("one/packages");
    let bytes = PACKAGES.iter().zip(0..).map(|(name, seed)| (*name, package::bytes(seed, SIZE)));
    let held = bytes.filter(|(_, bytes)| folder.join(blake3::hash(bytes).to_hex().as_str()).exists());
    held.map(|(name, _)| name).collect()
}

#[test]
fn what_deployments_need_stays_in_a_cache_that_is_too_small() {
    let origin = Origin::start();
    for (name, seed) in PACKAGES.iter().zip(0..) {
        origin.put(&format!("{name}.bin"), package::bytes(seed, SIZE));
    }
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.set_node_args(&["--cache-max", "3.5 MB"]);
    mesh.join("osl", &["one"]);
    let ran = mesh.deploy(&file("staged", "auto"), &["--stage-only", "--watch", "-q"]);
    assert_eq!(ran.code, 0, "{ran:?}");

    // A node whose index is lost knows what is staged by the coordinator's word.
    mesh.kill_node("one");
    let index = mesh.path("one/index");
    fs::remove_dir_all(&index).unwrap();
    fs::create_dir(&index).unwrap();
    mesh.start_node("one");

    let live = mesh.begin(&file("live", "manual"));
    mesh.await_state(&live, "blocked", WITHIN);
    for name in ["first", "second"] {
        let ran = mesh.deploy(&file(name, "auto"), &["--watch", "-q"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    until("the oldest package that no deployment needs is dropped", WITHIN, || {
        (!held(&mesh).contains(&"first")).then_some(())
    });
    assert_eq!(held(&mesh), ["staged", "live", "second"]);
    assert!(mesh.path("one/set-aside/index").is_dir(), "the index was lost");

    let sent = origin.sent("/osl/");
    assert_eq!(mesh.shoal(&["release", &live]).code, 0);
    mesh.await_state(&live, "succeeded", WITHIN);
    let ran = mesh.deploy(&file("staged", "auto"), &["--watch", "-q"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    // The coordinator asks each mirror for a byte.
    assert!(origin.sent("/osl/") - sent < 1000, "what was staged is not read again");
}
