//! The store as its users see it: real files in a temporary folder, real recipes from the cutter.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use proptest::prelude::*;
use shoal_proto::content::{Cutter, ZipScan};
use shoal_proto::id::SegmentHash;
use shoal_proto::node::Pin;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::room::Promised;
use super::*;

/// Bytes that do not repeat, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A zip with an entry for each seed: the same seed, the same bytes. Every seventh is longer than a segment may be.
fn zip_of(seeds: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    for (position, seed) in seeds.into_iter().enumerate() {
        zip.start_file(format!("file-{position}"), options).unwrap();
        let len = if seed % 7 == 0 { 400_000 } else { 3_000 + seed as usize * 100 };
        zip.write_all(&noise(seed, len)).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn cut(package: &[u8]) -> Recipe {
    let mut scan = ZipScan::new(package.len() as u64);
    while let Some(range) = scan.wants() {
        scan.provide(&package[range.start as usize..range.end as usize]);
    }
    let mut cutter = Cutter::new(scan.finish()).unwrap();
    cutter.push(package);
    cutter.finish().unwrap()
}

/// A package with its recipe.
struct Made {
    bytes: Vec<u8>,
    recipe: Recipe,
}

impl Made {
    fn new(bytes: Vec<u8>) -> Self {
        let recipe = cut(&bytes);
        Self { bytes, recipe }
    }

    /// 30 files; the first two are the same, so that there is a repeat.
    fn usual() -> Self {
        let made = Self::new(zip_of((1..31).map(|n| if n == 1 { 2 } else { n })));
        assert!(made.recipe.repeats().len() == 1 && made.recipe.glue_bytes() > 0);
        made
    }

    fn id(&self) -> PackageId {
        self.recipe.package()
    }

    fn content(&self) -> ContentId {
        self.id().into()
    }

    fn segment(&self, segment: usize) -> &[u8] {
        let place = &self.recipe.segments()[segment];
        &self.bytes[place.offset as usize..place.end() as usize]
    }

    fn len(&self, segment: usize) -> u64 {
        self.segment(segment).len() as u64
    }

    fn count(&self) -> usize {
        self.recipe.segments().len()
    }

    fn write(&self, content: &Content, segments: impl IntoIterator<Item = usize>) {
        for segment in segments {
            content.write_segment(segment, self.segment(segment)).unwrap();
        }
    }

    fn seal_in(&self, store: &Store) {
        let content = store.begin_package(&self.recipe).unwrap().content;
        self.write(&content, 0..self.count());
        store.seal(&content).unwrap();
    }
}

/// Replaces what is pinned.
fn pin(store: &Store, pins: &[(&Made, u64)]) {
    let pin = |(made, deployment): &(&Made, u64)| Pin {
        package: made.id(),
        deployment: DeploymentId(*deployment),
        recipe: made.recipe.id(),
    };
    store.replace_pins(&pins.iter().map(pin).collect()).unwrap();
}

fn pins_of(store: &Store, made: &Made) -> Vec<u64> {
    let held = store.list().into_iter().find(|holding| holding.content == made.content()).unwrap();
    held.pins.into_iter().map(|deployment| deployment.0).collect()
}

fn missing(content: &Content) -> Vec<usize> {
    let blocks = content.layout().blocks();
    blocks.flat_map(|block| content.missing_segments(block)).flatten().collect()
}

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

fn part_of(folder: &TempDir, made: &Made) -> PathBuf {
    folder.path().join("packages").join(format!("{}.part", made.id()))
}

fn file_of(folder: &TempDir, made: &Made) -> PathBuf {
    folder.path().join("packages").join(made.id().to_string())
}

#[test]
fn concurrent_writers_in_any_order_make_the_package_and_each_end_is_told_once() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    let store = Store::open(folder.path()).unwrap();
    let content = store.begin_package(&made.recipe).unwrap().content;
    assert_eq!(content.missing_bytes(), content.layout().transfer_bytes());
    let start = Barrier::new(4);
    let told: Vec<Written> = thread::scope(|scope| {
        let writer = |stride: usize| {
            let (content, made, start) = (&content, &made, &start);
            move || {
                start.wait();
                let order = (0..made.count()).map(|n| (n * stride + stride) % made.count());
                order.map(|segment| content.write_segment(segment, made.segment(segment)).unwrap()).collect::<Vec<_>>()
            }
        };
        // Strides that share no factor with the count go through every segment, each in another order.
        let coprime = (1..).filter(|stride| (2..=*stride).all(|d| stride % d > 0 || made.count() % d > 0));
        let threads: Vec<_> = coprime.take(4).map(|stride| scope.spawn(writer(stride))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(told.iter().filter(|written| written.fresh).count(), made.count());
    let blocks = content.layout().block_count();
    assert!(blocks > 3, "{blocks}");
    assert_eq!(told.iter().filter(|written| written.block_complete).count(), blocks as usize);
    assert_eq!(told.iter().filter(|written| written.complete).count(), 1);
    assert!(content.complete_blocks().is_full() && content.lacking().is_empty());

    assert_eq!(store.holds(made.content()), Held::Partial);
    assert!(store.path_of(made.id()).is_err());
    store.seal(&content).unwrap();
    store.seal(&content).unwrap();
    assert_eq!(store.holds(made.content()), Held::Sealed);
    assert!(fs::read(store.path_of(made.id()).unwrap()).unwrap() == made.bytes);
    assert!(!part_of(&folder, &made).exists());
}

#[test]
fn wrong_bytes_are_refused_and_nothing_is_marked_or_written() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    let store = Store::open(folder.path()).unwrap();
    let content = store.begin_package(&made.recipe).unwrap().content;
    let (before, file_before) = (content.lacking(), fs::read(part_of(&folder, &made)).unwrap());
    let mut wrong = made.segment(5).to_vec();
    wrong[100] ^= 1;
    for bytes in [&wrong[..], &made.segment(5)[1..], made.segment(6), &[]] {
        let refused = content.write_segment(5, bytes);
        assert!(matches!(refused, Err(WriteError::Mismatch { segment: 5, .. })), "{refused:?}");
    }
    let refused = content.write_segment(made.count(), &wrong);
    assert!(matches!(refused, Err(WriteError::NoSuchSegment { .. })), "{refused:?}");
    assert_eq!(content.lacking(), before);
    assert!(fs::read(part_of(&folder, &made)).unwrap() == file_before);
    assert!(matches!(store.seal(&content), Err(StoreError::Incomplete { .. })));
}

#[test]
fn a_batch_is_written_like_its_segments_and_not_at_all_if_one_is_wrong() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    let store = Store::open(folder.path()).unwrap();
    let content = store.begin_package(&made.recipe).unwrap().content;
    let (before, file_before) = (content.lacking(), fs::read(part_of(&folder, &made)).unwrap());
    let all: Vec<_> = (0..made.count()).collect();
    let bytes = all.iter().map(|segment| made.segment(*segment)).collect::<Vec<_>>().concat();
    let mut wrong = bytes.clone();
    *wrong.last_mut().unwrap() ^= 1;
    for wrong in [&wrong[..], &bytes[..bytes.len() - 1]] {
        let refused = content.write_segments(&all, wrong);
        assert!(matches!(refused, Err(WriteError::Mismatch { segment, .. }) if segment + 1 == made.count()));
    }
    assert_eq!(content.lacking(), before);
    assert!(fs::read(part_of(&folder, &made)).unwrap() == file_before);
    let landed = content.write_segments(&all, &bytes).unwrap();
    assert_eq!(landed, content.layout().blocks().collect::<Vec<_>>());
    assert_eq!(content.write_segments(&all, &bytes).unwrap(), [], "they are there already");
    store.seal(&content).unwrap();
    assert!(fs::read(store.path_of(made.id()).unwrap()).unwrap() == made.bytes);
}

#[test]
fn only_present_segments_are_read_and_a_run_is_theirs_without_the_glue() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    let store = Store::open(folder.path()).unwrap();
    let content = store.begin_package(&made.recipe).unwrap().content;
    made.write(&content, [3, 4, 5, 7]);
    let mut buffer = vec![9; 3];
    content.read_segments(3..6, &mut buffer).unwrap();
    assert!(buffer == [made.segment(3), made.segment(4), made.segment(5)].concat());
    let (whole, mut cached) = (buffer.clone(), vec![9; 3]);
    // Not every file system says what memory has of a file.
    assert!(!content.read_cached_segments(3..6, &mut cached).unwrap() || cached == whole);
    for (run, absent) in [(3..8, 6), (0..4, 0), (7..9, 8), (made.count()..made.count() + 1, made.count())] {
        let refused = content.read_segments(run.clone(), &mut buffer);
        assert!(matches!(refused, Err(ReadError::Absent { segment, .. }) if segment == absent), "{refused:?}");
        let refused = content.read_cached_segments(run, &mut buffer);
        assert!(matches!(refused, Err(ReadError::Absent { segment, .. }) if segment == absent), "{refused:?}");
    }
    let block = content.layout().block_of_segment(5).unwrap();
    let own = content.layout().block_segments(block);
    assert_eq!(missing(&content), (0..made.count()).filter(|n| ![3, 4, 5, 7].contains(n)).collect::<Vec<_>>());
    assert!(content.missing_segments(block).iter().all(|run| own.start <= run.start && run.end <= own.end));
}

#[test]
fn no_more_than_a_block_is_read_at_once() {
    let (folder, made) = (TempDir::new().unwrap(), Made::new(noise(1, 6_000_000)));
    let store = Store::open(folder.path()).unwrap();
    made.seal_in(&store);
    let content = store.content(made.content()).unwrap().unwrap();
    let refused = content.read_segments(0..made.count(), &mut Vec::new());
    assert!(matches!(refused, Err(ReadError::TooLong { len_bytes: 6_000_000, .. })), "{refused:?}");
}

#[test]
fn a_stopped_acquire_resumes_with_what_was_written_but_not_with_what_rotted() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    {
        let store = Store::open(folder.path()).unwrap();
        made.write(&store.begin_package(&made.recipe).unwrap().content, (0..made.count()).filter(|n| n % 3 > 0));
    }
    flip(&part_of(&folder, &made), made.recipe.segments()[4].offset + 7);
    let repeat = made.recipe.repeats()[0];
    flip(&part_of(&folder, &made), repeat.offset);
    let glue_at = made.recipe.glue().next().unwrap().0;
    flip(&part_of(&folder, &made), glue_at);

    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.holds(made.content()), Held::Partial);
    assert!(store.content(made.content()).unwrap().is_none(), "not believed before it is hashed");
    let opened = store.begin_package(&made.recipe).unwrap();
    let lacking: Vec<_> = (0..made.count()).filter(|n| n % 3 == 0 || *n == 4).collect();
    assert_eq!(missing(&opened.content), lacking);
    let lacking_bytes: u64 = lacking.iter().map(|n| made.len(*n)).sum();
    assert_eq!(opened.content.missing_bytes(), lacking_bytes);
    assert_eq!(opened.resumed_bytes, opened.content.layout().transfer_bytes() - lacking_bytes);
    assert_eq!(opened.content.lacking().iter().map(|(_, bytes)| u64::from(*bytes)).sum::<u64>(), lacking_bytes);
    made.write(&opened.content, lacking);
    store.seal(&opened.content).unwrap();
    assert!(fs::read(store.path_of(made.id()).unwrap()).unwrap() == made.bytes);
}

#[test]
fn a_new_version_lacks_only_what_changed() {
    let folder = TempDir::new().unwrap();
    let old = Made::new(zip_of(1..41));
    let new = Made::new(zip_of((1..41).map(|n| if n % 10 == 0 { n + 1000 } else { n }).chain([50])));
    {
        let store = Store::open(folder.path()).unwrap();
        old.seal_in(&store);
    }
    // The index of segments is derived anew at each start.
    let store = Store::open(folder.path()).unwrap();
    let opened = store.begin_package(&new.recipe).unwrap();
    let known: BTreeSet<_> = old.recipe.segments().iter().map(|segment| segment.hash).collect();
    let changed: Vec<_> = (0..new.count()).filter(|n| !known.contains(&new.recipe.segments()[*n].hash)).collect();
    assert_eq!(changed.len(), 5);
    assert_eq!(missing(&opened.content), changed);
    assert_eq!(opened.reused_bytes + opened.content.missing_bytes(), opened.content.layout().transfer_bytes());
    assert_eq!(opened.suspects, []);
    new.write(&opened.content, changed);
    store.seal(&opened.content).unwrap();
    assert!(fs::read(store.path_of(new.id()).unwrap()).unwrap() == new.bytes);
}

#[test]
fn a_damaged_donor_is_noticed_not_copied_and_can_be_mended() {
    let (folder, old) = (TempDir::new().unwrap(), Made::new(zip_of(1..21)));
    let new = Made::new(zip_of((1..21).chain([50])));
    let store = Store::open(folder.path()).unwrap();
    old.seal_in(&store);
    flip(&file_of(&folder, &old), old.recipe.segments()[3].offset);

    let opened = store.begin_package(&new.recipe).unwrap();
    assert_eq!(opened.suspects, [old.id()]);
    assert_eq!(missing(&opened.content), [3, new.count() - 1]);

    let donor = store.content(old.content()).unwrap().unwrap();
    assert_eq!(store.recheck(&donor).unwrap(), old.len(3));
    assert_eq!(store.holds(old.content()), Held::Partial);
    assert!(store.path_of(old.id()).is_err());
    assert!(matches!(donor.read_segments(3..4, &mut Vec::new()), Err(ReadError::Absent { segment: 3, .. })));
    donor.read_segments(4..5, &mut Vec::new()).unwrap();
    old.write(&donor, [3]);
    store.seal(&donor).unwrap();
    assert!(fs::read(store.path_of(old.id()).unwrap()).unwrap() == old.bytes);
    assert_eq!(store.recheck(&donor).unwrap(), 0);
    assert!(donor.is_sealed());
}

#[test]
fn damaged_glue_and_lost_ends_are_mended_from_the_recipe_and_the_mesh() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    let store = Store::open(folder.path()).unwrap();
    made.seal_in(&store);
    let content = store.content(made.content()).unwrap().unwrap();
    flip(&file_of(&folder, &made), made.recipe.glue().next().unwrap().0);
    assert_eq!(store.recheck(&content).unwrap(), 0);
    assert!(!content.is_sealed(), "it was damaged, so it must be sealed again");
    store.seal(&content).unwrap();
    assert!(fs::read(store.path_of(made.id()).unwrap()).unwrap() == made.bytes);

    let last = made.count() - 1;
    content.shared.file.set_len(made.recipe.segments()[last].offset + 1).unwrap();
    assert_eq!(store.recheck(&content).unwrap(), made.len(last));
    made.write(&content, [last]);
    store.seal(&content).unwrap();
    assert!(fs::read(store.path_of(made.id()).unwrap()).unwrap() == made.bytes);
}

/// Everything written, stopped before the seal.
fn stopped_before_seal(folder: &TempDir, made: &Made) {
    let store = Store::open(folder.path()).unwrap();
    made.write(&store.begin_package(&made.recipe).unwrap().content, 0..made.count());
}

#[test]
fn a_crash_before_the_rename_leaves_a_partial_file_that_lacks_nothing() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    stopped_before_seal(&folder, &made);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.holds(made.content()), Held::Partial);
    let opened = store.begin_package(&made.recipe).unwrap();
    assert_eq!(opened.content.missing_bytes(), 0);
    store.seal(&opened.content).unwrap();
    assert_eq!(store.holds(made.content()), Held::Sealed);
}

#[test]
fn a_crash_between_rename_and_record_is_settled_by_hashing() {
    for damage in [false, true] {
        let (folder, made) = (TempDir::new().unwrap(), Made::usual());
        stopped_before_seal(&folder, &made);
        fs::rename(part_of(&folder, &made), file_of(&folder, &made)).unwrap();
        if damage {
            flip(&file_of(&folder, &made), made.recipe.segments()[2].offset);
        }
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.holds(made.content()), if damage { Held::Partial } else { Held::Sealed });
        let opened = store.begin_package(&made.recipe).unwrap();
        assert_eq!(missing(&opened.content), if damage { vec![2] } else { vec![] });
    }
}

#[test]
fn a_record_is_not_believed_against_the_file() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    {
        let store = Store::open(folder.path()).unwrap();
        pin(&store, &[(&made, 1)]);
        made.seal_in(&store);
    }
    let file = File::options().write(true).open(file_of(&folder, &made)).unwrap();
    file.set_len(made.recipe.size() - 1).unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.holds(made.content()), Held::Partial);
    drop(store);
    fs::remove_file(part_of(&folder, &made)).unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.holds(made.content()), Held::No);
    made.seal_in(&store);
    assert_eq!(pins_of(&store, &made), [1], "a pin outlives the file");
}

#[test]
fn a_damaged_index_is_moved_aside_and_rebuilt_from_the_files() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    let bad = Made::new(zip_of(60..80));
    {
        let store = Store::open(folder.path()).unwrap();
        made.seal_in(&store);
        bad.seal_in(&store);
        pin(&store, &[(&made, 3)]);
    }
    flip(&file_of(&folder, &bad), bad.recipe.segments()[1].offset);
    for entry in fs::read_dir(folder.path().join("index")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(path, noise(1, 5000)).unwrap();
        }
    }
    let store = Store::open(folder.path()).unwrap();
    assert!(folder.path().join("set-aside/index").is_dir());
    assert_eq!(store.holds(made.content()), Held::Sealed);
    assert_eq!(store.holds(bad.content()), Held::Partial, "hashed, not believed");
    assert!(fs::read(store.path_of(made.id()).unwrap()).unwrap() == made.bytes);

    // Pins are unknown until they are said again.
    assert_eq!(store.collect(0).unwrap().packages, 0);
    pin(&store, &[(&made, 4)]);
    assert_eq!(store.collect(0).unwrap().packages, 1);
    assert_eq!(store.holds(made.content()), Held::Sealed);
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!((store.holds(made.content()), pins_of(&store, &made)), (Held::Sealed, vec![4]), "by the record");
}

#[test]
fn an_index_that_lost_its_records_is_not_taken_for_an_empty_one() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    {
        let store = Store::open(folder.path()).unwrap();
        made.seal_in(&store);
    }
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    fs::create_dir(folder.path().join("index")).unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.collect(0).unwrap().packages, 0, "it may be pinned");
    assert_eq!(store.holds(made.content()), Held::Sealed);
    pin(&store, &[]);
    assert_eq!(store.collect(0).unwrap().packages, 1);
}

#[test]
fn room_is_made_oldest_first_and_never_from_what_is_pinned_or_open() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let packages: Vec<_> = (0..5).map(|n| Made::new(noise(n, 50_000))).collect();
    for made in &packages {
        made.seal_in(&store);
    }
    let partial = Made::new(noise(9, 50_000));
    store.begin_package(&partial.recipe).unwrap();
    pin(&store, &[(&packages[0], 1)]);
    let open = store.content(packages[1].content()).unwrap().unwrap();
    store.path_of(packages[2].id()).unwrap();
    let held =
        |store: &Store| packages.iter().map(|made| store.holds(made.content()) == Held::Sealed).collect::<Vec<_>>();

    let total: u64 = store.list().iter().map(|holding| holding.bytes).sum();
    let collected = store.collect(u64::MAX).unwrap();
    assert_eq!((collected.packages, store.holds(partial.content())), (1, Held::No), "nothing wants it");
    assert_eq!(collected.freed_bytes + collected.left_bytes, total);
    assert_eq!(held(&store), [true; 5]);
    store.collect(collected.left_bytes - 1).unwrap();
    assert_eq!(held(&store), [true, true, true, false, true], "3 is the oldest that may go");
    assert_eq!(store.collect(0).unwrap().packages, 2);
    assert_eq!(held(&store), [true, true, false, false, false]);
    let recipes = fs::read_dir(folder.path().join("recipes")).unwrap().count();
    assert_eq!(recipes, 2, "recipes go with their packages");

    drop(open);
    pin(&store, &[]);
    assert_eq!(store.collect(0).unwrap().left_bytes, 0);
    drop(store);
    assert_eq!(Store::open(folder.path()).unwrap().list(), []);
}

#[test]
fn what_was_dropped_is_not_reused() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (old, new) = (Made::new(zip_of(1..5)), Made::new(zip_of(1..6)));
    old.seal_in(&store);
    store.collect(0).unwrap();
    let opened = store.begin_package(&new.recipe).unwrap();
    assert_eq!((opened.reused_bytes, opened.suspects), (0, vec![]));
}

#[test]
fn pins_are_replaced_as_a_whole_and_survive() {
    let folder = TempDir::new().unwrap();
    let made: Vec<_> = (0..3).map(|n| Made::new(noise(n, 50_000))).collect();
    let all = |store: &Store| made.iter().map(|made| pins_of(store, made)).collect::<Vec<_>>();
    {
        let store = Store::open(folder.path()).unwrap();
        // One is pinned before it is there, and the other while.
        pin(&store, &[(&made[0], 1), (&made[0], 2)]);
        made.iter().for_each(|made| made.seal_in(&store));
        pin(&store, &[(&made[0], 2), (&made[1], 2), (&made[1], 3)]);
        assert_eq!(all(&store), [vec![2], vec![2, 3], vec![]]);
    }
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(all(&store), [vec![2], vec![2, 3], vec![]]);
    assert_eq!(store.collect(0).unwrap().packages, 1, "what the index remembers stays");
    pin(&store, &[(&made[1], 3)]);
    assert_eq!((pins_of(&store, &made[0]), pins_of(&store, &made[1])), (vec![], vec![3]));
    assert_eq!(store.collect(0).unwrap().packages, 1);
    assert_eq!(store.holds(made[1].content()), Held::Sealed);
}

#[test]
fn a_package_that_more_deployments_pin_than_are_named_stays_until_the_last_is_over() {
    let (folder, made) = (TempDir::new().unwrap(), Made::new(noise(1, 50_000)));
    let named_max = shoal_proto::limits::PINS_PER_PACKAGE_MAX as u64;
    // Numbers that are as long as any, so that the record is.
    let first = u64::MAX - named_max - 4;
    let from = |first: u64| (first..=u64::MAX).map(|n| (&made, n)).collect::<Vec<_>>();
    {
        let store = Store::open(folder.path()).unwrap();
        made.seal_in(&store);
        pin(&store, &from(first));
        assert_eq!(pins_of(&store, &made).len() as u64, named_max);
    }
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.collect(0).unwrap().packages, 0);
    // Those that were named are over, the oldest ones are not.
    pin(&store, &from(first)[..4]);
    assert_eq!(pins_of(&store, &made), [first, first + 1, first + 2, first + 3]);
    assert_eq!(store.collect(0).unwrap().packages, 0);
    pin(&store, &[]);
    assert_eq!(store.collect(0).unwrap().packages, 1);
}

#[test]
fn a_recipe_is_fetched_like_a_package_and_then_serves_both() {
    let (folder, made) = (TempDir::new().unwrap(), Made::new(zip_of((0..9000).map(|n| n % 3 + 1))));
    let plain = made.recipe.encode();
    let outline = Outline::of_plain_form(&plain);
    assert!(outline.pieces.len() > 2, "{} pieces", outline.pieces.len());
    let id = made.recipe.id();
    {
        let store = Store::open(folder.path()).unwrap();
        pin(&store, &[(&made, 1)]);
        let content = store.begin_recipe(&outline).unwrap().content;
        for (segment, place) in content.missing() {
            assert!(store.recipe(id).unwrap().is_none());
            content.write_segment(segment, &plain[place.offset as usize..place.end() as usize]).unwrap();
        }
        store.seal(&content).unwrap();
        drop(content);
        assert_eq!(store.collect(0).unwrap().freed_bytes, 0, "the pin keeps the recipe too");
    }
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.recipe(id).unwrap().unwrap(), made.recipe);
    let served = store.content(id.into()).unwrap().unwrap();
    let mut buffer = Vec::new();
    served.read_segments(1..2, &mut buffer).unwrap();
    assert_eq!(SegmentHash::of(&buffer), outline.pieces[1]);
    drop(served);

    // A recipe that rotted is noticed when it is read, and is then to be fetched again.
    flip(&folder.path().join("recipes").join(id.to_string()), 300_000);
    assert!(store.recipe(id).unwrap().is_none());
    assert_eq!(store.holds(id.into()), Held::Partial);
    let opened = store.begin_recipe(&outline).unwrap();
    assert_eq!(missing(&opened.content), [1]);
}

#[test]
fn a_package_sealed_by_one_recipe_is_hashed_again_for_another() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    let mut cutter = Cutter::new(shoal_proto::content::Shape::Plain { size: made.bytes.len() as u64 }).unwrap();
    cutter.push(&made.bytes);
    let other = cutter.finish().unwrap();
    assert_eq!(other.package(), made.id());
    let store = Store::open(folder.path()).unwrap();
    made.seal_in(&store);
    let open = store.content(made.content()).unwrap().unwrap();
    assert!(matches!(store.begin_package(&other), Err(StoreError::Busy(_))), "open by the first recipe");
    drop(open);
    let opened = store.begin_package(&other).unwrap();
    assert_eq!(opened.resumed_bytes, opened.content.layout().transfer_bytes());
    store.seal(&opened.content).unwrap();
    assert_eq!(store.list()[0].recipe, Some(other.id()));
}

#[test]
fn files_are_imported_by_copy_or_taken_and_changed_ones_are_refused() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    let store = Store::open(folder.path()).unwrap();
    let source = folder.path().join("source.zip");
    fs::write(&source, &made.bytes).unwrap();
    flip(&source, made.recipe.segments()[8].offset);
    let refused = store.import(&source, &made.recipe, Import::Copy);
    assert!(matches!(refused, Err(WriteError::Mismatch { segment: 8, .. })), "{refused:?}");
    fs::write(&source, &made.bytes[..made.bytes.len() / 2]).unwrap();
    for import in [Import::Copy, Import::Take] {
        let refused = store.import(&source, &made.recipe, import);
        assert!(matches!(refused, Err(WriteError::Mismatch { .. })), "{refused:?}");
    }
    assert!(source.exists(), "a refused file stays");

    fs::write(&source, &made.bytes).unwrap();
    store.import(&source, &made.recipe, Import::Copy).unwrap();
    assert!(source.exists());
    assert!(fs::read(store.path_of(made.id()).unwrap()).unwrap() == made.bytes);
    store.import(&source, &made.recipe, Import::Take).unwrap();
    assert!(!source.exists());

    let other = Made::new(zip_of(100..110));
    fs::write(&source, &other.bytes).unwrap();
    store.import(&source, &other.recipe, Import::Take).unwrap();
    assert!(!source.exists());
    assert!(fs::read(store.path_of(other.id()).unwrap()).unwrap() == other.bytes);
    // Taken packages are donors like all others.
    let next = Made::new(zip_of(100..111));
    assert_eq!(missing(&store.begin_package(&next.recipe).unwrap().content), [next.count() - 1]);
}

#[test]
fn a_second_process_is_kept_out_and_odd_files_are_set_aside() {
    let (folder, made) = (TempDir::new().unwrap(), Made::usual());
    let store = Store::open(folder.path()).unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::InUse { .. })));
    drop(store);
    let packages = folder.path().join("packages");
    fs::write(packages.join("notes.txt"), "mine").unwrap();
    fs::create_dir(packages.join("folder")).unwrap();
    fs::write(packages.join(made.id().to_string()), &made.bytes).unwrap();
    fs::write(folder.path().join("recipes").join("notes.txt"), "also mine").unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.list(), []);
    let aside = folder.path().join("set-aside");
    assert_eq!(fs::read_to_string(aside.join("notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(aside.join("notes.txt.1")).unwrap(), "also mine");
    assert!(aside.join("folder").is_dir());
    assert!(fs::read(aside.join(made.id().to_string())).unwrap() == made.bytes, "no recipe for it");
}

#[test]
fn a_package_that_does_not_fit_says_so_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("huge.part");
    let error = files::preallocate(&path, 1 << 60, &Promised::default()).unwrap_err();
    let StoreError::NoSpace { folder: named, needed_bytes, free_bytes } = &error else { panic!("{error:?}") };
    assert_eq!((named.as_path(), *needed_bytes), (folder.path(), 1 << 60));
    assert!(*free_bytes > 0 && *free_bytes < 1 << 60);
    assert!(!path.exists());
    let text = error.to_string();
    assert!(text.contains(&folder.path().display().to_string()) && text.contains("cache_max"), "{text}");
    for errno in [nix::errno::Errno::ENOSPC, nix::errno::Errno::EDQUOT, nix::errno::Errno::EFBIG] {
        let error = StoreError::io("write", &path, 100, errno.into());
        assert!(matches!(error, StoreError::NoSpace { needed_bytes: 100, .. }), "{error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever a package is, cut and put together again in any order, with a stop on the way, it is itself.
    #[test]
    fn any_package_comes_out_as_it_went_in(
        pieces in proptest::collection::vec((0u64..6, 0usize..150_000), 0..6),
        seeds in proptest::collection::vec(1u64..40, 0..12),
        order in any::<u64>(),
        stop in 0usize..40,
    ) {
        let plain: Vec<u8> = pieces.iter().flat_map(|(seed, len)| noise(*seed, *len)).collect();
        let folder = TempDir::new().unwrap();
        for made in [Made::new(plain), Made::new(zip_of(seeds))] {
            let mut segments: Vec<_> = (0..made.count()).collect();
            segments.sort_by_key(|n| blake3::hash(&(order ^ *n as u64).to_le_bytes()).as_bytes()[0]);
            let stop = stop.min(segments.len());
            {
                let store = Store::open(folder.path()).unwrap();
                made.write(&store.begin_package(&made.recipe).unwrap().content, segments[..stop].iter().copied());
            }
            let store = Store::open(folder.path()).unwrap();
            let content = store.begin_package(&made.recipe).unwrap().content;
            prop_assert!(missing(&content).iter().all(|segment| !segments[..stop].contains(segment)));
            made.write(&content, segments[stop..].iter().copied());
            store.seal(&content).unwrap();
            prop_assert!(fs::read(store.path_of(made.id()).unwrap()).unwrap() == made.bytes);
        }
    }
}
