//! Packages of all shapes, cut, encoded, laid out, and held against their own bytes.

use std::io::{Cursor, Write};

use fastcdc::v2020::FastCDC;
use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::*;
use crate::id::{BlockIndex, ContentId, PackageId, SegmentHash};
use crate::limits::{
    BLOCK_BYTES_MIN, RECIPE_BYTES_MAX, SEGMENT_BYTES_AVG, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, ZIP_GAP_BYTES_MAX,
};

/// Bytes that neither compress nor repeat, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn scan(package: &[u8]) -> Shape {
    let mut scan = ZipScan::new(package.len() as u64);
    while let Some(range) = scan.wants() {
        scan.provide(&package[range.start as usize..range.end as usize]);
    }
    scan.finish()
}

fn is_zip(package: &[u8]) -> bool {
    matches!(scan(package), Shape::Zip(_))
}

fn cut_pushing(package: &[u8], push_lens: &[usize]) -> Recipe {
    let mut cutter = Cutter::new(scan(package)).unwrap();
    let mut rest = package;
    for len in push_lens.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (bytes, tail) = rest.split_at((*len).clamp(1, rest.len()));
        cutter.push(bytes);
        rest = tail;
    }
    cutter.finish().unwrap()
}

/// Cuts, and holds the recipe against the package.
fn cut(package: &[u8]) -> Recipe {
    let recipe = cut_pushing(package, &[package.len().max(1)]);
    check(&recipe, package);
    recipe
}

/// Every byte of the package is in exactly one part, and that part says what the byte is.
fn check(recipe: &Recipe, package: &[u8]) {
    assert_eq!(recipe.package(), PackageId(*blake3::hash(package).as_bytes()));
    assert_eq!(recipe.size(), package.len() as u64);
    let mut position = 0;
    for part in recipe.parts() {
        let (offset, len) = match part {
            Part::Segment(segment) => (segment.offset, segment.len as usize),
            Part::Repeat(repeat) => (repeat.offset, recipe.segments()[repeat.segment as usize].len as usize),
            Part::Glue { offset, bytes } => (offset, bytes.len()),
        };
        assert_eq!(offset, position as u64, "parts follow each other");
        let bytes = &package[position..position + len];
        match part {
            Part::Segment(segment) => assert_eq!(segment.hash, SegmentHash::of(bytes)),
            Part::Repeat(repeat) => {
                assert_eq!(recipe.segments()[repeat.segment as usize].hash, SegmentHash::of(bytes));
            }
            Part::Glue { bytes: glue, .. } => assert_eq!(glue, bytes),
        }
        position += len;
    }
    assert_eq!(position, package.len());
    let plain = recipe.encode();
    assert_eq!(&Recipe::decode(&plain).unwrap(), recipe);
    assert_eq!(recipe.id().0, *blake3::hash(&plain).as_bytes());
}

#[derive(Clone, Debug)]
struct File {
    seed: u64,
    len: usize,
    deflated: bool,
}

impl File {
    fn new(seed: u64, len: usize) -> Self {
        Self { seed, len, deflated: false }
    }

    fn plain(&self) -> Vec<u8> {
        // Half noise, half the same byte, so that deflating makes a difference.
        let mut bytes = noise(self.seed, self.len.div_ceil(2));
        bytes.resize(self.len, 7);
        bytes
    }
}

#[derive(Clone, Copy, Debug)]
struct Style {
    year: u16,
    streamed: bool,
    zip64: bool,
}

const STYLE: Style = Style { year: 2024, streamed: false, zip64: false };

fn write_zip<W: Write + std::io::Seek>(mut zip: ZipWriter<W>, files: &[File], style: Style) -> ZipWriter<W> {
    for (index, file) in files.iter().enumerate() {
        let method = if file.deflated { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let time = DateTime::from_date_and_time(style.year, 3, 1, 12, 30, 0).unwrap();
        let options =
            SimpleFileOptions::default().compression_method(method).last_modified_time(time).large_file(style.zip64);
        zip.start_file(format!("folder/file-{index}.txt"), options).unwrap();
        zip.write_all(&file.plain()).unwrap();
    }
    zip
}

fn make_zip(files: &[File], style: Style) -> Vec<u8> {
    if style.streamed {
        let zip = write_zip(ZipWriter::new_stream(Vec::new()), files, style);
        zip.finish().unwrap().into_inner()
    } else {
        let zip = write_zip(ZipWriter::new(Cursor::new(Vec::new())), files, style);
        zip.finish().unwrap().into_inner()
    }
}

fn hashes(recipe: &Recipe) -> Vec<SegmentHash> {
    recipe.segments().iter().map(|segment| segment.hash).collect()
}

/// The position of the `nth` occurrence of a signature.
fn find(package: &[u8], signature: &[u8; 4], nth: usize) -> usize {
    (0..package.len()).filter(|at| package[*at..].starts_with(signature)).nth(nth).unwrap()
}

const LOCAL: &[u8; 4] = b"PK\x03\x04";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const END: &[u8; 4] = b"PK\x05\x06";

fn files() -> impl Strategy<Value = Vec<File>> {
    let len = prop_oneof![Just(0usize), 1usize..100, 100usize..5_000, 60_000usize..300_000];
    let file = (0u64..5, len, any::<bool>()).prop_map(|(seed, len, deflated)| File { seed, len, deflated });
    prop::collection::vec(file, 0..8)
}

fn style() -> impl Strategy<Value = Style> {
    (1990u16..2030, any::<bool>(), any::<bool>()).prop_map(|(year, streamed, zip64)| Style { year, streamed, zip64 })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_recipe_tiles_its_package_however_it_is_pushed(
        files in files(),
        style in style(),
        push_lens in prop::collection::vec(prop_oneof![1usize..200, 1_000usize..400_000], 1..5),
    ) {
        let package = make_zip(&files, style);
        prop_assert_eq!(is_zip(&package), !files.is_empty());
        prop_assert_eq!(cut_pushing(&package, &push_lens), cut(&package));
    }

    #[test]
    fn a_damaged_zip_is_cut_all_the_same(
        files in files(),
        style in style(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        at_the_end: bool,
    ) {
        let mut package = make_zip(&files, style);
        let hit = if at_the_end { package.len().min(200) } else { package.len() };
        for (index, byte) in damage {
            let at = package.len() - 1 - index.index(hit);
            package[at] = byte;
        }
        cut(&package);
    }

    #[test]
    fn a_scan_of_any_bytes_ends(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 0u64..400) {
        let mut scan = ZipScan::new(size);
        let mut rounds = 0;
        while let Some(range) = scan.wants() {
            prop_assert!(range.start < range.end && range.end <= size);
            scan.provide(&bytes[..bytes.len().min((range.end - range.start) as usize)]);
            rounds += 1;
            prop_assert!(rounds < 100);
        }
    }

    #[test]
    fn blocks_partition_the_segments(files in files(), big in 0usize..3_000_000) {
        let mut files = files;
        files.push(File::new(9, big));
        let recipe = cut(&make_zip(&files, STYLE));
        let layout = Layout::of_recipe(&recipe);
        let (mut segment, mut bytes) = (0, 0);
        for block in layout.blocks() {
            let range = layout.block_segments(block);
            prop_assert_eq!(range.start, segment);
            let in_block = &layout.segments()[range.clone()];
            let len: u64 = in_block.iter().map(|segment| u64::from(segment.len)).sum();
            prop_assert_eq!(layout.block_bytes(block), len);
            prop_assert_eq!(layout.block_span(block), in_block[0].offset..in_block[in_block.len() - 1].end());
            // The target of a small package: reached by the last segment, not by those before it.
            let before = len - u64::from(in_block[in_block.len() - 1].len);
            prop_assert!(before < BLOCK_BYTES_MIN);
            prop_assert!(len >= BLOCK_BYTES_MIN || block.0 + 1 == layout.block_count());
            prop_assert!(range.clone().all(|index| layout.block_of_segment(index) == Some(block)));
            segment = range.end;
            bytes += len;
        }
        prop_assert_eq!((segment, bytes), (layout.segments().len(), layout.transfer_bytes()));
        let beyond = BlockIndex(layout.block_count());
        prop_assert_eq!((layout.block_segments(beyond), layout.block_bytes(beyond)), (0..0, 0));
        prop_assert_eq!(layout.block_of_segment(segment), None);
    }

    #[test]
    fn an_outline_lays_out_the_plain_form(len in 1usize..1_500_000, same: bool) {
        let plain = if same { vec![7; len] } else { noise(1, len) };
        let outline = Outline::of_plain_form(&plain);
        let layout = Layout::of_outline(&outline).unwrap();
        prop_assert_eq!((layout.size(), layout.content()), (len as u64, outline.recipe.into()));
        prop_assert_eq!(layout.block_count() as usize, layout.segments().len());
        let mut filled = vec![None; len];
        let places = layout.segments().iter().map(|segment| (segment, segment.offset));
        let again = layout.repeats().iter().map(|repeat| (&layout.segments()[repeat.segment as usize], repeat.offset));
        for (segment, offset) in places.chain(again) {
            let range = offset as usize..offset as usize + segment.len as usize;
            prop_assert_eq!(segment.hash, SegmentHash::of(&plain[range.clone()]));
            filled[range].iter_mut().for_each(fill_once);
        }
        prop_assert!(filled.iter().all(Option::is_some));
    }
}

/// Marks a byte as filled; twice is an overlap.
fn fill_once(place: &mut Option<()>) {
    assert!(place.replace(()).is_none(), "two segments on one byte");
}

#[test]
fn an_unchanged_file_is_the_same_segment_in_the_next_version() {
    let mut files: Vec<File> = (0..20).map(|seed| File { seed, len: 9_000, deflated: seed % 2 == 0 }).collect();
    let old = cut(&make_zip(&files, STYLE));
    files[3].seed = 100;
    files.insert(7, File::new(101, 500));
    for (what, style) in [
        ("other times", Style { year: 2026, ..STYLE }),
        ("written as a stream", Style { streamed: true, ..STYLE }),
        ("ZIP64", Style { zip64: true, ..STYLE }),
        ("all of it", Style { year: 1999, streamed: true, zip64: true }),
    ] {
        let new = cut(&make_zip(&files, style));
        let fresh = hashes(&new).iter().filter(|hash| !hashes(&old).contains(hash)).count();
        assert_eq!((new.segments().len(), fresh), (21, 2), "{what}");
    }
}

#[test]
fn each_kind_of_entry_becomes_what_the_table_says() {
    let package =
        make_zip(&[File::new(1, 63), File::new(2, 64), File::new(3, 128 * 1024), File::new(4, 600_000)], STYLE);
    let recipe = cut(&package);
    let lens: Vec<u32> = recipe.segments().iter().map(|segment| segment.len).collect();
    assert_eq!(lens[..2], [64, 128 * 1024]);
    assert_eq!(lens[2..].iter().sum::<u32>(), 600_000);
    assert!(lens.len() > 4, "the last entry is cut further: {lens:?}");
    assert_eq!(recipe.glue().count(), 4, "headers, 63 bytes of data and the central directory");
}

#[test]
fn a_recipe_stays_in_its_budget() {
    let files = [File::new(1, 5_000), File::new(2, 8_000_000), File::new(3, 2_000_000), File::new(4, 40)];
    let mut zip = write_zip(ZipWriter::new(Cursor::new(Vec::new())), &files, STYLE);
    zip.set_raw_comment(noise(5, 60_000).into()).unwrap();
    let package = zip.finish().unwrap().into_inner();
    let size = package.len() as u64;
    let coarse = 64 + 40 * (size / SEGMENT_BYTES_MAX as u64 + 3 * (files.len() as u64 + 2));
    for (shape, fine) in [(scan(&package), cut(&package)), (Shape::Plain { size }, cut(&package[..package.len() - 1]))]
    {
        for budget in [coarse, coarse + 100, coarse + 1_000, coarse + 59_000, coarse + 200_000] {
            let mut segments = Segmenter::with_budget(shape.clone(), budget).unwrap();
            segments.push(&package);
            let recipe = segments.finish(PackageId(*blake3::hash(&package).as_bytes())).unwrap();
            check(&recipe, &package);
            let len = recipe.encode().len() as u64;
            assert!(len <= budget, "{len} bytes in a budget of {budget}");
            let is_fine = recipe.segments()[..20] == fine.segments()[..20];
            assert!(is_fine || budget < coarse + 59_000, "no coarser than the budget asks for");
        }
    }
}

#[test]
fn equal_files_are_one_segment() {
    let recipe = cut(&make_zip(&[File::new(1, 5_000), File::new(2, 700), File::new(1, 5_000)], STYLE));
    let layout = Layout::of_recipe(&recipe);
    assert_eq!((recipe.segments().len(), recipe.repeats().len()), (2, 1));
    assert_eq!((recipe.repeats()[0].segment, layout.transfer_bytes()), (0, 5_700));
    assert_eq!(layout.content(), ContentId(recipe.package().0));
}

#[test]
fn a_plain_package_is_cut_where_fastcdc_cuts_the_whole() {
    let package = noise(1, 3_000_000);
    let recipe = cut_pushing(&package, &[100_000, 1, 700_001]);
    let whole = FastCDC::new(&package, SEGMENT_BYTES_MIN, SEGMENT_BYTES_AVG, SEGMENT_BYTES_MAX);
    let expected: Vec<(u64, u32)> = whole.map(|chunk| (chunk.offset as u64, chunk.length as u32)).collect();
    let found: Vec<(u64, u32)> = recipe.segments().iter().map(|segment| (segment.offset, segment.len)).collect();
    assert_eq!(found, expected);
    assert_eq!(recipe.glue_bytes(), 0);
}

#[test]
fn bytes_before_a_zip_do_not_hide_it() {
    let files = [File::new(1, 5_000), File::new(2, 200_000)];
    let package = make_zip(&files, STYLE);
    for prefix_len in [1_000, ZIP_GAP_BYTES_MAX as usize, 300_000] {
        let recipe = cut(&[noise(7, prefix_len), package.clone()].concat());
        assert!(hashes(&recipe).ends_with(&hashes(&cut(&package))), "{prefix_len}");
        let prefix_is_glue = recipe.glue_bytes() > prefix_len;
        assert_eq!(prefix_is_glue, prefix_len as u64 <= ZIP_GAP_BYTES_MAX, "{prefix_len}");
    }
}

#[test]
fn a_zip_that_contradicts_itself_is_plain() {
    let files = [File::new(1, 5_000), File::new(2, 6_000), File::new(3, 7_000)];
    let good = make_zip(&files, STYLE);
    assert!(is_zip(&good));
    let (first, second, end) = (find(&good, CENTRAL, 0), find(&good, CENTRAL, 1), find(&good, END, 0));
    let with = |at: usize, bytes: &[u8]| {
        let mut package = good.clone();
        package[at..at + bytes.len()].copy_from_slice(bytes);
        package
    };
    for (why, package) in [
        ("truncated", good[..good.len() - 1].to_vec()),
        ("bytes at the end", [&good[..], b"x"].concat()),
        ("data that reaches into the next entry", with(first + 20, &5_400u32.to_le_bytes())),
        ("data that reaches beyond the package", with(second + 20, &900_000u32.to_le_bytes())),
        ("entries that overlap", with(second + 42, &17u32.to_le_bytes())),
        ("an entry beyond the package", with(second + 42, &900_000u32.to_le_bytes())),
        ("a ZIP64 size without its field", with(first + 20, &u32::MAX.to_le_bytes())),
        ("a wrong signature in the directory", with(second, b"PKxx")),
        ("a name longer than the directory", with(second + 28, &60_000u16.to_le_bytes())),
        ("more entries than there are", with(end + 10, &4u16.to_le_bytes())),
        ("several disks", with(end + 4, &1u16.to_le_bytes())),
        ("a directory longer than the package", with(end + 12, &900_000u32.to_le_bytes())),
        ("a directory behind its end", with(end + 16, &900_000u32.to_le_bytes())),
    ] {
        assert!(!is_zip(&package), "{why}");
        cut(&package);
    }
}

#[test]
fn a_local_header_that_lies_costs_only_its_entry() {
    let files = [File::new(1, 5_000), File::new(2, 100_000), File::new(3, 7_000)];
    let good = make_zip(&files, STYLE);
    let expected = hashes(&cut(&good));
    let second = find(&good, LOCAL, 1);
    for (at, bytes) in [(second, *b"PKxx"), (second + 28, [0xff, 0xff, 0, 0])] {
        let mut package = good.clone();
        package[at..at + bytes.len()].copy_from_slice(&bytes);
        assert!(is_zip(&package));
        let found = hashes(&cut(&package));
        assert_eq!((found.first(), found.last()), (expected.first(), expected.last()));
        assert!(!found.contains(&expected[1]));
    }
}

/// A zip whose entries and directory tell their sizes and places in ZIP64 fields alone, as one over 4 GiB does.
fn make_zip64(files: &[File], comment: &[u8]) -> Vec<u8> {
    let (mut package, mut directory) = (Vec::new(), Vec::new());
    for file in files {
        let (data, header_at) = (file.plain(), package.len() as u64);
        package.extend([&LOCAL[..], &[0; 22], &[1, 0, 0, 0], b"n"].concat());
        package.extend(&data);
        let sizes = [data.len() as u64, data.len() as u64, header_at].map(u64::to_le_bytes).concat();
        let (other, long) = ([0x99, 0x99, 2, 0, 7, 7], [1, 0, sizes.len() as u8, 0]);
        let extra = [&other[..], &long, &sizes].concat();
        directory.extend([&CENTRAL[..], &[0; 16], &[0xff; 8], &[1, 0, extra.len() as u8, 0], &[0; 10]].concat());
        directory.extend([&[0xff; 4], &b"n"[..], &extra].concat());
    }
    let numbers = [files.len(), files.len(), directory.len(), package.len()].map(|n| (n as u64).to_le_bytes()).concat();
    package.extend(directory);
    let record_at = package.len() as u64;
    package.extend([b"PK\x06\x06", &44u64.to_le_bytes()[..], &[0; 12], &numbers].concat());
    package.extend([b"PK\x06\x07", &[0; 4][..], &record_at.to_le_bytes(), &[1, 0, 0, 0]].concat());
    package.extend([&END[..], &[0; 4], &[0xff; 12], &(comment.len() as u16).to_le_bytes(), comment].concat());
    package
}

#[test]
fn zip64_fields_are_read() {
    let files = [File::new(1, 5_000), File::new(2, 6_000), File::new(3, 7_000)];
    let expected: Vec<SegmentHash> = files.iter().map(|file| SegmentHash::of(&file.plain())).collect();
    for comment in [&b""[..], b"a comment", &[b'x'; 65_535]] {
        let package = make_zip64(&files, comment);
        assert!(is_zip(&package));
        assert_eq!(hashes(&cut(&package)), expected);
        assert_eq!(hashes(&cut(&[&[1; 500], &package[..]].concat())), expected, "behind other bytes");
    }
    let good = make_zip64(&files, b"");
    let record = find(&good, b"PK\x06\x06", 0);
    for (at, why) in [(record, "no record"), (record + 32, "another count"), (record + 40, "another length")] {
        let mut package = good.clone();
        package[at] ^= 1;
        assert!(!is_zip(&package), "{why}");
        cut(&package);
    }
}

#[test]
fn two_names_may_share_one_entry() {
    let mut zip = write_zip(ZipWriter::new(Cursor::new(Vec::new())), &[File::new(1, 5_000)], STYLE);
    zip.shallow_copy_file("folder/file-0.txt", "again.txt").unwrap();
    let package = zip.finish().unwrap().into_inner();
    assert!(is_zip(&package));
    assert_eq!(cut(&package).segments()[0].hash, SegmentHash::of(&File::new(1, 5_000).plain()));
}

#[test]
fn many_small_entries_stay_glue_and_a_long_directory_is_read_in_pieces() {
    let package = make_zip(&vec![File::new(1, 0); 20_000], STYLE);
    assert!(is_zip(&package));
    let recipe = cut_pushing(&package, &[1_000_000]);
    assert_eq!((recipe.glue_bytes(), recipe.segments().len()), (package.len(), 0));
    assert_eq!(Layout::of_recipe(&recipe).block_count(), 0);
}

#[test]
fn a_wrong_size_is_told() {
    let cut = |bytes: &[u8]| {
        let mut cutter = Cutter::new(Shape::Plain { size: 100 }).unwrap();
        cutter.push(bytes);
        cutter.finish()
    };
    assert!(cut(&[1; 100]).is_ok());
    assert_eq!(cut(&[1; 99]), Err(CutError::Size { expected: 100, found: 99 }));
    assert_eq!(cut(&[1; 101]), Err(CutError::Size { expected: 100, found: 101 }));
    assert!(matches!(Cutter::new(Shape::Plain { size: u64::MAX }), Err(CutError::TooLarge { .. })));
}

#[test]
fn an_outline_that_cannot_be_is_refused() {
    let good = Outline::of_plain_form(&noise(1, SEGMENT_BYTES_MAX + 1));
    assert_eq!(good.validate(), Ok(()));
    let refuse = |change: fn(&mut Outline)| {
        let mut outline = good.clone();
        change(&mut outline);
        Layout::of_outline(&outline).unwrap_err()
    };
    let too_large = RECIPE_BYTES_MAX as u64 + 1;
    assert_eq!(refuse(|outline| outline.size = 0), OutlineError::Size { size: 0 });
    assert_eq!(refuse(|outline| outline.size = RECIPE_BYTES_MAX as u64 + 1), OutlineError::Size { size: too_large });
    assert!(matches!(refuse(|outline| outline.size = 5), OutlineError::PieceCount { found: 2, size: 5 }));
    assert!(matches!(refuse(|outline| outline.pieces.clear()), OutlineError::PieceCount { found: 0, .. }));
    assert_eq!(refuse(|outline| outline.pieces[1] = outline.pieces[0]), OutlineError::SameHash);
}
