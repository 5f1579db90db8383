//! Unpacking: good archives whole, hostile ones not at all, releases replaced in one move.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tar::{EntryType, Header};
use zip::write::SimpleFileOptions;

use super::super::unpack::{Job, UnpackError, Unpacked, unpack};
use super::*;

/// An entry of a tar, written as it stands: no builder that would refuse it.
fn entry(kind: EntryType, name: &str, link: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, content: &str) -> Vec<u8> {
    entry(EntryType::Regular, name, "", 0o644, content.as_bytes())
}

fn link(name: &str, target: &str) -> Vec<u8> {
    entry(EntryType::Symlink, name, target, 0o777, b"")
}

fn hard_link(name: &str, target: &str) -> Vec<u8> {
    entry(EntryType::Link, name, target, 0o644, b"")
}

fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

fn zip(entries: &[(&str, u32, &str)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, content) in entries {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        match mode & 0o170_000 {
            0o120_000 => writer.add_symlink(*name, *content, options).unwrap(),
            _ => {
                writer.start_file(*name, options).unwrap();
                writer.write_all(content.as_bytes()).unwrap();
            }
        }
    }
    writer.finish().unwrap().into_inner()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A place to unpack to, and beside it a file that no archive may touch.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.0.path().join("outside")).unwrap();
        fs::write(place.0.path().join("outside/secret"), "untouched").unwrap();
        place
    }

    fn to(&self) -> PathBuf {
        self.0.path().join("srv/web")
    }

    fn job(&self, release: &str, package: &[u8]) -> Job {
        let path = self.0.path().join("package");
        fs::write(&path, package).unwrap();
        Job { package: path, to: self.to(), release: Name::new(release).unwrap(), keep: 3 }
    }

    fn unpack(&self, release: &str, package: &[u8]) -> Result<Unpacked, UnpackError> {
        unpack(&self.job(release, package), &|| false)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.to().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Names in `releases`, sorted, without the lock.
    fn releases(&self) -> Vec<String> {
        let entries = fs::read_dir(self.to().join("releases")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".shoal-lock");
        names.sort();
        names
    }

    /// Nothing outside was changed or added.
    fn assert_outside_untouched(&self) {
        let mut names: Vec<_> = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["outside", "package", "srv"]);
        let outside: Vec<_> = fs::read_dir(self.0.path().join("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1);
        assert_eq!(fs::read_to_string(self.0.path().join("outside/secret")).unwrap(), "untouched");
    }
}

#[test]
fn every_format_comes_out_the_same() {
    let plain = tar(&[
        entry(EntryType::Directory, "bin/", "", 0o750, b""),
        entry(EntryType::Regular, "bin/run", "", 0o6755, b"#!/bin/sh\n"),
        file("./conf/deep/app.toml", "a = 1"),
        link("conf/link", "deep/app.toml"),
        file("empty", ""),
    ]);
    let zipped = zip(&[
        ("bin/run", 0o106_755, "#!/bin/sh\n"),
        ("conf\\deep\\app.toml", 0o100_644, "a = 1"),
        ("conf/link", 0o120_777, "deep/app.toml"),
        ("empty", 0o100_644, ""),
    ]);
    let zst = zstd::encode_all(plain.as_slice(), 1).unwrap();
    for (package, entries) in [(gz(&plain), 5), (zst, 5), (plain, 5), (zipped, 4)] {
        let place = Place::new();
        let unpacked = place.unpack("r1", &package).unwrap();
        assert_eq!((unpacked.entries, unpacked.bytes, unpacked.removed.len()), (entries, 15, 0));
        assert_eq!(unpacked.folder, place.to().join("releases/r1"));
        assert_eq!(place.read("current/bin/run"), "#!/bin/sh\n");
        assert_eq!(place.read("current/conf/link"), "a = 1");
        assert_eq!(place.read("current/empty"), "");
        let mode =
            |path: &str| fs::metadata(place.to().join("current").join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("bin/run"), mode("empty")), (0o755, 0o644), "permissions are kept, but no set-user-id");
        assert_eq!(fs::read_link(place.to().join("current")).unwrap(), Path::new("releases/r1"));
        assert_eq!(place.releases(), ["r1"]);
    }
}

#[test]
fn no_entry_leaves_its_folder() {
    let outside = "../../../../outside";
    let hostile: [(&str, Vec<u8>); 15] = [
        ("zip slip", zip(&[("../../../../outside/secret", 0o100_644, "x")])),
        ("zip slip by backslashes", zip(&[("..\\..\\..\\..\\outside\\secret", 0o100_644, "x")])),
        ("zip absolute", zip(&[("/tmp/shoal-evil", 0o100_644, "x")])),
        ("zip link", zip(&[("out", 0o120_777, outside), ("out/secret", 0o100_644, "x")])),
        ("dots", tar(&[file("a/../../../../../outside/secret", "x")])),
        ("absolute", tar(&[file("/tmp/shoal-evil", "x")])),
        ("link out", tar(&[link("out", outside), file("out/secret", "x")])),
        ("absolute link", tar(&[link("out", "/etc")])),
        ("through a link inside", tar(&[file("d/a", ""), link("in", "d"), file("in/b", "x")])),
        ("link to a link's parent", tar(&[file("a/b/f", ""), link("a/b/up", "../.."), link("out", "a/b/up/../x")])),
        ("hard link out", tar(&[hard_link("out", "../../../../outside/secret")])),
        ("hard link, absolute", tar(&[hard_link("out", "/etc/passwd")])),
        ("hard link to a link", tar(&[file("a/b/f", ""), link("a/b/up", "../.."), hard_link("out", "a/b/up")])),
        (
            "hard link that moves a link up",
            tar(&[file("a/b/f", ""), link("a/b/up", "../../a/b/f"), hard_link("out", "a/b/up")]),
        ),
        ("hard link through a link", tar(&[file("d/a", ""), link("in", "d"), hard_link("out", "in/a")])),
    ];
    for (what, package) in hostile {
        let place = Place::new();
        let error = place.unpack("r1", &package).unwrap_err();
        assert!(matches!(error, UnpackError::Leaves { .. }), "{what}: {error}");
        place.assert_outside_untouched();
        assert_eq!(place.releases(), Vec::<String>::new(), "{what}: nothing stays");
        assert!(fs::symlink_metadata(place.to().join("current")).is_err(), "{what}");
    }
    assert!(!Path::new("/tmp/shoal-evil").exists());
}

#[test]
fn later_entries_replace_names_and_never_what_links_lead_to() {
    let place = Place::new();
    let package = tar(&[
        file("a", "first"),
        hard_link("b", "a"),
        file("b", "second"),
        link("c", "a"),
        file("c", "third"),
        file("a", "last"),
        link("x", "a"),
        link("x", "b"),
    ]);
    place.unpack("r1", &package).unwrap();
    let all = ["a", "b", "c", "x"].map(|name| place.read(&format!("current/{name}")));
    assert_eq!(all, ["last", "second", "third", "second"]);
}

#[test]
fn what_cannot_be_unpacked_is_named() {
    let special = tar(&[entry(EntryType::Fifo, "pipe", "", 0o644, b"")]);
    let zip_special = zip(&[("x", 0o100_644, "")]);
    let conflict = tar(&[file("a/b", ""), file("a", "")]);
    let under_file = tar(&[file("a", ""), file("a/b", "")]);
    let whole = zip(&[("a", 0o100_644, "content"), ("b", 0o100_644, "more")]);
    let cut_tar = tar(&[file("a", &"x".repeat(2000))]);
    type Matches = fn(&UnpackError) -> bool;
    let cases: [(&str, &[u8], Matches); 7] = [
        ("fifo", &special, |error| matches!(error, UnpackError::Special { entry } if entry == "pipe")),
        ("file over a folder", &conflict, |error| matches!(error, UnpackError::Conflict { .. })),
        ("file as a folder", &under_file, |error| matches!(error, UnpackError::Conflict { .. })),
        ("text", b"just some text", |error| matches!(error, UnpackError::NotAnArchive { .. })),
        ("nothing", b"", |error| matches!(error, UnpackError::NotAnArchive { .. })),
        ("half a zip", &whole[..whole.len() / 2], |error| matches!(error, UnpackError::Corrupt { .. })),
        ("half a tar", &cut_tar[..1000], |error| matches!(error, UnpackError::Corrupt { .. })),
    ];
    for (what, package, matches) in cases {
        let place = Place::new();
        let error = place.unpack("r1", package).unwrap_err();
        assert!(matches(&error), "{what}: {error}");
        assert_eq!(place.releases(), Vec::<String>::new(), "{what}");
    }
    assert!(Place::new().unpack("r1", &zip_special).is_ok());
}

#[test]
fn a_failed_run_changes_no_release() {
    let place = Place::new();
    place.unpack("r1", &tar(&[file("a", "old")])).unwrap();
    for release in ["r1", "r2"] {
        assert!(place.unpack(release, &tar(&[file("a", "new"), file("../x", "")])).is_err());
        assert_eq!((place.releases(), place.read("current/a")), (vec!["r1".to_owned()], "old".to_owned()));
    }
}

#[test]
fn the_same_release_is_replaced_whole() {
    let place = Place::new();
    place.unpack("r1", &tar(&[file("a", "old"), file("gone", "")])).unwrap();
    let unpacked = place.unpack("r1", &tar(&[file("a", "new")])).unwrap();
    assert_eq!((place.read("current/a"), unpacked.removed.len()), ("new".to_owned(), 0));
    assert!(!place.to().join("current/gone").exists());
    assert_eq!(place.releases(), ["r1"]);
}

#[test]
fn old_releases_go_and_the_rest_of_the_folder_stays() {
    let place = Place::new();
    let day = |number: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(number * 86_400);
    for (number, release) in ["r5", "r1", "r3", "r4"].iter().enumerate() {
        let folder = place.unpack(release, &tar(&[file("a", release)])).unwrap().folder;
        fs::File::open(folder).unwrap().set_modified(day(number as u64)).unwrap();
    }
    assert_eq!(place.releases(), ["r1", "r3", "r4"], "three stay, the last three");
    fs::create_dir(place.to().join("releases/_mine")).unwrap();
    symlink("/etc", place.to().join("releases/r0")).unwrap();

    // Back to an old release: it is the current one now, and stays, however old.
    let job = Job { keep: 1, ..place.job("r1", &tar(&[file("a", "r1 again")])) };
    let unpacked = unpack(&job, &|| false).unwrap();
    assert_eq!(unpacked.removed, ["r3", "r4"]);
    assert_eq!(place.releases(), ["_mine", "r0", "r1"]);
    assert_eq!(place.read("current/a"), "r1 again");
    assert!(unpacked.to_string().ends_with("removed r3, r4"), "{unpacked}");
    let job = Job { keep: 0, ..job };
    unpack(&job, &|| false).unwrap();
    assert_eq!(place.read("current/a"), "r1 again", "this one always stays");
}

#[test]
fn what_an_interrupted_run_left_is_cleared() {
    let place = Place::new();
    let left = place.to().join("releases/.shoal-new/half");
    fs::create_dir_all(&left).unwrap();
    fs::create_dir_all(place.to().join("releases/.shoal-going")).unwrap();
    symlink("releases/none", place.to().join(".shoal-current")).unwrap();
    place.unpack("r1", &tar(&[file("a", "x")])).unwrap();
    assert_eq!((place.releases(), place.read("current/a")), (vec!["r1".to_owned()], "x".to_owned()));
    assert!(!place.to().join("current/half").exists());
}

#[test]
fn runs_in_one_folder_take_turns() {
    let place = Place::new();
    let package = tar(&[file("a", "x"), file("b", "x")]);
    let job = place.job("r1", &package);
    let (waits, waiting) = mpsc::channel();
    std::thread::scope(|scope| {
        let second = RefCell::new(None);
        unpack(&job, &|| {
            if second.borrow().is_none() {
                let (job, waits) = (&job, waits.clone());
                *second.borrow_mut() = Some(scope.spawn(move || {
                    unpack(job, &|| {
                        let _ = waits.send(());
                        false
                    })
                }));
                waiting.recv_timeout(Duration::from_secs(10)).expect("the second run sees that the folder is taken");
            }
            false
        })
        .unwrap();
        second.into_inner().expect("it was started").join().unwrap().unwrap();
    });
    assert_eq!((place.releases(), place.read("current/b")), (vec!["r1".to_owned()], "x".to_owned()));
}

#[test]
fn a_run_that_waits_for_its_turn_can_be_stopped() {
    let place = Place::new();
    let package = tar(&[file("a", "x")]);
    let (job, inner) = (place.job("r1", &package), Cell::new(None));
    unpack(&job, &|| {
        inner.set(Some(matches!(unpack(&job, &|| true), Err(UnpackError::Stopped))));
        false
    })
    .unwrap();
    assert_eq!(inner.get(), Some(true));
}

#[test]
fn bad_places_are_refused() {
    let place = Place::new();
    let package = tar(&[file("a", "x")]);
    for to in ["srv/web", "/srv/../etc"] {
        let job = Job { to: to.into(), ..place.job("r1", &package) };
        assert!(matches!(unpack(&job, &|| false), Err(UnpackError::BadPath { .. })));
    }
    fs::create_dir_all(place.to().join("current")).unwrap();
    let error = place.unpack("r1", &package).unwrap_err();
    assert!(matches!(error, UnpackError::CurrentIsNoLink { .. }), "{error}");
    let job = Job { package: "/nonexistent".into(), to: place.0.path().join("b"), ..place.job("r1", &package) };
    assert!(matches!(unpack(&job, &|| false), Err(UnpackError::Io { doing: "open", .. })));
}

#[test]
fn a_bomb_is_stopped_at_its_bound() {
    let place = Place::new();
    // 1.5 GiB of zeros in a few kilobytes, made without ever holding them.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let len = 3_u64 << 29;
    let mut header = entry(EntryType::Regular, "zeros", "", 0o644, b"");
    let mut sized = Header::from_byte_slice(&header[..512]).clone();
    sized.set_size(len);
    sized.set_cksum();
    header[..512].copy_from_slice(sized.as_bytes());
    encoder.write_all(&header).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), len), &mut encoder).unwrap();
    let package = encoder.finish().unwrap();
    assert!(package.len() < 1 << 20);
    let error = place.unpack("r1", &package).unwrap_err();
    assert!(matches!(error, UnpackError::TooLarge { bytes_max } if bytes_max == 1 << 30), "{error}");
    assert_eq!(place.releases(), Vec::<String>::new());
}

#[test]
fn a_stop_is_obeyed_between_buffers() {
    let place = Place::new();
    let looks = Cell::new(0);
    let stop = || {
        looks.set(looks.get() + 1);
        looks.get() > 5
    };
    let big = tar(&[entry(EntryType::Regular, "big", "", 0o644, &vec![1; 10_000_000])]);
    let error = unpack(&place.job("r1", &big), &stop).unwrap_err();
    assert!(matches!(error, UnpackError::Stopped));
    assert_eq!((looks.get(), place.releases()), (6, vec![]));
}

#[tokio::test]
async fn the_folder_may_have_variables_in_it_that_lead_nowhere_else() {
    let place = Place::new();
    let job = place.job("r1", &gz(&tar(&[file("a", "x")])));
    let unpack = |to: &str| {
        let to = format!("{}/${{{to}}}", place.0.path().display());
        let action = Action::Unpack { package: PackageIndex(3), to, keep: 3 };
        let mut step = step(place.0.path(), action);
        let name = Name::new("web").unwrap();
        step.packages = vec![PackageFile { index: PackageIndex(3), name, path: job.package.clone() }];
        step.outputs = vec![wrote("choose", "out", "x/../../y")];
        step
    };
    let (outcome, _) = run_to_end(&unpack("SHOAL_NODE")).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    assert_eq!(fs::read_to_string(place.0.path().join("web-1/current/a")).unwrap(), "x");
    for (variable, wanted) in [("SHOAL_VALUE_OUT", "no absolute path without `..`"), ("PATH", "which there is not")] {
        let (outcome, _) = run_to_end(&unpack(variable)).await;
        assert!(matches!(outcome, Outcome::Failed { ref cause, .. } if cause.contains(wanted)), "{outcome:?}");
    }
}

#[tokio::test]
async fn unpack_is_a_step() {
    let place = Place::new();
    let job = place.job("r1", &gz(&tar(&[file("a", "x")])));
    let action = Action::Unpack { package: PackageIndex(3), to: place.to().display().to_string(), keep: 3 };
    let mut step = step(place.0.path(), action);
    let (outcome, _) = run_to_end(&step).await;
    assert!(
        matches!(outcome, Outcome::Failed { ref cause, .. } if cause.contains("not on this machine")),
        "{outcome:?}"
    );

    step.packages = vec![PackageFile { index: PackageIndex(3), name: Name::new("web").unwrap(), path: job.package }];
    let cancel = CancellationToken::new();
    cancel.cancel();
    let (output, _chunks) = tokio::sync::mpsc::channel(1);
    assert_eq!(run(&step, &output, &cancel).await, Outcome::Killed);
    assert_eq!(place.releases(), Vec::<String>::new());

    let (outcome, chunks) = run_to_end(&step).await;
    assert_eq!(outcome, Outcome::Succeeded { values: BTreeMap::new() });
    let expected = format!("unpacked 1 entries, 1 bytes to {}\n", place.to().join("releases/r1").display());
    assert_eq!(text(&chunks, OutputStream::Stdout), expected);
    assert_eq!(place.read("current/a"), "x");
}

/// Few names, so that entries meet; most of them plain, so that most entries are taken.
fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![8 => Just("a"), 8 => Just("b"), 2 => Just("c"), 1 => Just("..")];
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

/// Where links lead to: up, down, and up again.
fn target() -> impl Strategy<Value = String> {
    let part = prop_oneof![4 => Just(".."), 4 => Just("a"), 4 => Just("b"), 1 => Just("secret")];
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_mix_of_entries_reaches_outside(entries in proptest::collection::vec((0..5, name(), target()), 1..20)) {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("in");
        fs::create_dir(&root).unwrap();
        fs::create_dir(top.path().join("a")).unwrap();
        fs::write(top.path().join("secret"), "untouched").unwrap();
        let package = top.path().join("package");
        for (kind, name, target) in &entries {
            let entry = match kind {
                0 => file(name, "overwritten"),
                1 | 2 => link(name, target),
                3 => hard_link(name, target),
                _ => entry(EntryType::Directory, name, "", 0o755, b""),
            };
            // An entry that is refused would end its archive, so each one comes in its own, on top of those before.
            fs::write(&package, tar(&[entry])).unwrap();
            let _ = super::super::archive::extract(&package, &root, &|| false);
        }
        assert_links_stay_inside(&root);
        prop_assert_eq!(fs::read_to_string(top.path().join("secret")).unwrap(), "untouched");
        prop_assert_eq!(fs::read_dir(top.path().join("a")).unwrap().count(), 0);
        prop_assert_eq!(fs::read_dir(top.path()).unwrap().count(), 4);
    }
}

/// Every link that leads somewhere leads to a place below the folder.
fn assert_links_stay_inside(root: &Path) {
    let root = root.canonicalize().unwrap();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if let Ok(real) = entry.path().canonicalize() {
                assert!(real.starts_with(&root), "{} leads to {}", entry.path().display(), real.display());
            }
        }
    }
}
