//! A neighbour that sends wrong bytes: one on whose disk a byte of a package has changed.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_tests::{Mesh, Origin, package, until};

const WITHIN: Duration = Duration::from_secs(90);

/// Small enough that the floor of the WAN budget pays for all of it.
const SIZE: usize = 200_000;

/// The file in `folder` that has exactly these bytes.
fn find(folder: &Path, bytes: &[u8]) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).find_map(|path| match fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => find(&path, bytes),
        Ok(meta) if meta.len() == bytes.len() as u64 => fs::read(&path).ok().filter(|f| f == bytes).map(|_| path),
        _ => None,
    })
}

fn file(release: u32, select: &str) -> String {
    format!(
        "name: model\nrelease: '{release}'\npackages:\n  model: {{ feed: files, id: model.bin }}\n\
         targets:\n  - {{ select: '{select}', packages: [model] }}\nsteps: [{{ name: go, run: 'true' }}]\n"
    )
}

#[test]
fn a_lying_neighbour_is_named_and_the_package_arrives_whole_all_the_same() {
    let bytes = package::bytes(5, SIZE);
    let origin = Origin::start();
    origin.put("model.bin", bytes.clone());
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.join("osl", &["one", "two"]);
    let staged = mesh.deploy(&file(1, "name=one"), &["--stage-only", "--watch", "-q"]);
    assert_eq!(staged.code, 0, "{staged:?}");
    let held = find(&mesh.path("one"), &bytes).expect("it is staged");
    let mut held = fs::OpenOptions::new().write(true).open(held).unwrap();
    held.seek(SeekFrom::Start(SIZE as u64 / 2)).unwrap();
    held.write_all(&[!bytes[SIZE / 2]]).unwrap();
    let id = mesh.begin(&file(2, "all"));
    let said = until("the coordinator names the liar", WITHIN, || {
        let log = mesh.coordinator_log();
        log.lines().find(|line| line.contains("a node sent wrong bytes")).map(str::to_owned)
    });
    assert!(said.contains("one") && said.contains("two"), "{said}");
    mesh.await_state(&id, "succeeded", WITHIN);
    assert!(find(&mesh.path("two"), &bytes).is_some(), "VERIFIED: what it was sent first is not there");
}
