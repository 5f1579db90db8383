//! The coordinator is killed in mid-acquire and stays away: the site gets the package all the same, once over its WAN.

use std::fs;
use std::path::Path;
use std::time::Duration;

use shoal_tests::{Behaviour, Mesh, Origin, package, until};

/// Long: a debug build on a loaded machine.
const WITHIN: Duration = Duration::from_secs(120);

const SIZE: usize = 24_000_000;

/// Whether some file in `folder` has exactly these bytes.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| match fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => holds(&path, bytes),
        Ok(meta) if meta.len() == bytes.len() as u64 => fs::read(&path).is_ok_and(|found| found == bytes),
        _ => false,
    })
}

#[test]
fn a_site_completes_a_package_while_the_coordinator_is_away() {
    let names = ["one", "two", "three"];
    let bytes = package::bytes(7, SIZE);
    let origin = Origin::start();
    origin.put("model.bin", bytes.clone());
    origin.behave("/osl/", Behaviour { rate: Some(SIZE as u64 / 12), ..Behaviour::default() });
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.set_node_args(&["--coordinator-grace", "2s"]);
    mesh.join("osl", &names);
    let id = mesh.begin(
        "name: model\nrelease: '1'\npackages:\n  model: { feed: files, id: model.bin }\n\
         targets:\n  - { select: all, packages: [model] }\nsteps:\n  - { name: go, run: 'true' }\n",
    );
    mesh.await_status(&id, "in the middle of acquire", WITHIN, |status| {
        status["stage"] != "acquire" || status["sites"][0]["wan_bytes"].as_u64() > Some(SIZE as u64 / 8)
    });
    mesh.kill_coordinator();
    let sent = origin.sent("/osl/");
    assert!(sent < SIZE as u64 * 3 / 4, "{sent} bytes were read before: deputies have nothing to do");
    until("all nodes have the package, the coordinator being away", WITHIN, || {
        names.iter().all(|name| holds(&mesh.path(name), &bytes)).then_some(())
    });
    let log = |name: &str| fs::read_to_string(mesh.path(&format!("{name}.log"))).unwrap_or_default();
    assert!(names.iter().any(|name| log(name).contains("as a deputy")), "somebody says that it read as a deputy");
    let sent = origin.sent("/osl/");
    assert!(sent <= SIZE as u64 * 105 / 100, "{sent} of {SIZE} crossed the WAN");
    mesh.start_coordinator();
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    let site = &status["sites"][0];
    let counted = site["wan_bytes"].as_u64().unwrap();
    // The recipe came from the coordinator and is counted too.
    assert!((SIZE as u64..=SIZE as u64 * 101 / 100).contains(&counted), "{counted} counted, {sent} sent: {site:#}");
    assert!(origin.sent("/osl/") <= SIZE as u64 * 105 / 100, "nothing is read again when it is back");
    assert_eq!(site["nodes_acquired"], 3);
}
