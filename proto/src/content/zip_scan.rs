//! Where the entries of a zip stand, from its central directory.
//!
//! Sans-IO: [`ZipScan`] says which bytes of the package it wants, the caller reads them. What comes out is either a list
//! of entries that are in order, apart from each other and inside the package, or [`Shape::Plain`]: a package that is no
//! zip, or a zip that contradicts itself. Sizes are taken from the central directory alone, so that entries written as a
//! stream (sizes after the data) are like any other; local headers are left to the cutter, which meets them on its way.
//!
//! Format: PKWARE APPNOTE 6.3.10, sections 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end), 4.5.3 (ZIP64).

use std::ops::Range;

use crate::limits::ZIP_ENTRIES_MAX;

/// Bytes of a local header without name and extra field.
pub(super) const LOCAL_HEADER_LEN: u64 = 30;
pub(super) const LOCAL_HEADER_SIGNATURE: u32 = 0x0403_4b50;
const ENTRY_LEN: usize = 46;
const ENTRY_SIGNATURE: u32 = 0x0201_4b50;
const END_LEN: usize = 22;
const END_SIGNATURE: u32 = 0x0605_4b50;
const END64_LEN: usize = 56;
const END64_SIGNATURE: u32 = 0x0606_4b50;
const LOCATOR_LEN: usize = 20;
const LOCATOR_SIGNATURE: u32 = 0x0706_4b50;
const ZIP64_EXTRA: u16 = 1;

/// The end of the directory with the longest comment, and its ZIP64 forms before it.
const TAIL_LEN_MAX: u64 = (END64_LEN + LOCATOR_LEN + END_LEN + u16::MAX as usize) as u64;
/// The directory is read in pieces of this many bytes; one entry of it is always shorter.
const DIRECTORY_PIECE_LEN: u64 = 1024 * 1024;

/// How a package is to be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As bytes without structure.
    Plain {
        /// The package's size in bytes.
        size: u64,
    },
    /// Along the entries of a zip.
    Zip(ZipEntries),
}

/// Where the entries of a zip stand: ascending, without overlap, all before the central directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZipEntries {
    pub(super) size: u64,
    pub(super) entries: Vec<ZipEntry>,
    pub(super) directory_at: u64,
}

/// One entry as the central directory tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ZipEntry {
    /// Where its local header starts in the package, in bytes.
    pub(super) header_at: u64,
    /// How many bytes its data has, as stored.
    pub(super) data_len: u64,
}

/// Finds the entries of a zip.
#[derive(Debug)]
pub struct ZipScan {
    size: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Wants the end of the package.
    Tail,
    /// Wants the next piece of the central directory.
    Directory(Directory),
    /// Wants nothing more.
    Done(Shape),
}

/// The central directory, partly read.
#[derive(Debug)]
struct Directory {
    at: Range<u64>,
    /// How far it was read.
    position: u64,
    /// What to add to an offset that the zip speaks of: bytes before the zip, such as a self-extractor.
    prefix: u64,
    /// How many entries the end of the directory speaks of.
    count: EntryCount,
    entries: Vec<ZipEntry>,
    seen: u64,
}

#[derive(Clone, Copy, Debug)]
enum EntryCount {
    /// As ZIP64 tells it.
    Exact(u64),
    /// In 16 bits, in which writers without ZIP64 let it wrap.
    Wrapping(u16),
}

impl ZipScan {
    /// Starts on a package of `size` bytes.
    pub fn new(size: u64) -> Self {
        let plain = size < END_LEN as u64;
        Self { size, stage: if plain { Stage::Done(Shape::Plain { size }) } else { Stage::Tail } }
    }

    /// The range of the package to be given to [`ZipScan::provide`] next, at most 1 MiB; none at the end.
    pub fn wants(&self) -> Option<Range<u64>> {
        match &self.stage {
            Stage::Tail => Some(self.size.saturating_sub(TAIL_LEN_MAX)..self.size),
            Stage::Directory(directory) => Some(directory.wants()),
            Stage::Done(_) => None,
        }
    }

    /// Takes the bytes of the range that was wanted. Fewer or more of them end the search: the package is plain.
    pub fn provide(&mut self, bytes: &[u8]) {
        let Some(wanted) = self.wants() else { return };
        if bytes.len() as u64 != wanted.end - wanted.start {
            self.stage = Stage::Done(Shape::Plain { size: self.size });
            return;
        }
        let next = match &mut self.stage {
            Stage::Tail => find_directory(wanted.start, bytes).map(Stage::Directory),
            Stage::Directory(directory) => match directory.read(bytes) {
                Some(()) if directory.position < directory.at.end => return,
                Some(()) => directory.finish(self.size).map(|entries| Stage::Done(Shape::Zip(entries))),
                None => None,
            },
            Stage::Done(_) => return,
        };
        self.stage = next.unwrap_or(Stage::Done(Shape::Plain { size: self.size }));
    }

    /// What was found; a search that was given up makes the package plain.
    pub fn finish(self) -> Shape {
        match self.stage {
            Stage::Done(shape) => shape,
            Stage::Tail | Stage::Directory(_) => Shape::Plain { size: self.size },
        }
    }
}

impl Directory {
    fn wants(&self) -> Range<u64> {
        self.position..self.at.end.min(self.position + DIRECTORY_PIECE_LEN)
    }

    /// Reads the whole entries at the start of `bytes`; what is left of them is wanted again with the next piece.
    fn read(&mut self, mut bytes: &[u8]) -> Option<()> {
        let is_last = self.wants().end == self.at.end;
        while !bytes.is_empty() {
            let Some((entry, len)) = read_entry(bytes, self.prefix) else {
                // Cut off by the end of the piece, or malformed. A piece holds at least one whole entry.
                let whole_lost = is_last || bytes.len() > ENTRY_LEN + 3 * usize::from(u16::MAX);
                return (!whole_lost).then_some(());
            };
            self.seen += 1;
            self.entries.push(entry);
            if self.entries.len() > ZIP_ENTRIES_MAX {
                return None;
            }
            self.position += len as u64;
            bytes = &bytes[len..];
        }
        Some(())
    }

    fn finish(&mut self, size: u64) -> Option<ZipEntries> {
        let count_is_true = match self.count {
            EntryCount::Exact(count) => self.seen == count,
            EntryCount::Wrapping(count) => self.seen as u16 == count,
        };
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_unstable();
        // Two names may share one local header and its data.
        entries.dedup();
        let ends = entries.iter().map(|entry| entry.header_at.checked_add(LOCAL_HEADER_LEN + entry.data_len));
        let next = entries.iter().skip(1).map(|entry| entry.header_at).chain([self.at.start]);
        let apart = ends.zip(next).all(|(end, next)| end.is_some_and(|end| end <= next));
        (count_is_true && apart).then_some(ZipEntries { size, entries, directory_at: self.at.start })
    }
}

/// Finds the central directory in the last bytes of a package, which start at `tail_at`.
fn find_directory(tail_at: u64, tail: &[u8]) -> Option<Directory> {
    let is_end = |at: &usize| {
        u32_at(tail, *at) == Some(END_SIGNATURE)
            && u16_at(tail, at + 20).is_some_and(|comment| at + END_LEN + usize::from(comment) == tail.len())
    };
    let end_at = (0..=tail.len() - END_LEN).rev().find(is_end)?;
    let on_one_disk = u16_at(tail, end_at + 4)? == 0 && u16_at(tail, end_at + 6)? == 0;
    let locator_at = end_at.checked_sub(LOCATOR_LEN).filter(|at| u32_at(tail, *at) == Some(LOCATOR_SIGNATURE));
    let (count, len, offset, end_at) = if let Some(locator_at) = locator_at {
        // As all known writers do: the record stands right before its locator, without an extensible data sector.
        let at = locator_at.checked_sub(END64_LEN).filter(|at| u32_at(tail, *at) == Some(END64_SIGNATURE))?;
        (EntryCount::Exact(u64_at(tail, at + 32)?), u64_at(tail, at + 40)?, u64_at(tail, at + 48)?, at)
    } else {
        let (len, offset) = (u32_at(tail, end_at + 12)?, u32_at(tail, end_at + 16)?);
        (EntryCount::Wrapping(u16_at(tail, end_at + 10)?), len.into(), offset.into(), end_at)
    };
    let end = tail_at + end_at as u64;
    let start = end.checked_sub(len)?;
    let prefix = start.checked_sub(offset)?;
    let directory = Directory { at: start..end, position: start, prefix, count, entries: Vec::new(), seen: 0 };
    (on_one_disk && len > 0).then_some(directory)
}

/// The first entry of a central directory and its length there.
fn read_entry(bytes: &[u8], prefix: u64) -> Option<(ZipEntry, usize)> {
    if u32_at(bytes, 0)? != ENTRY_SIGNATURE {
        return None;
    }
    let field_len = |at| u16_at(bytes, at).map(usize::from);
    let (name_len, extra_len, comment_len) = (field_len(28)?, field_len(30)?, field_len(32)?);
    let extra_at = ENTRY_LEN + name_len;
    let len = extra_at + extra_len + comment_len;
    let extra = bytes.get(..len)?.get(extra_at..extra_at + extra_len)?;

    let (data_len, plain_len, header_at) = (u32_at(bytes, 20)?, u32_at(bytes, 24)?, u32_at(bytes, 42)?);
    // The ZIP64 field holds, in this order, only those values that the entry itself has no room for.
    let mut long = zip64_extra(extra).into_iter().flat_map(|field| field.as_chunks().0).map(|v| u64::from_le_bytes(*v));
    let mut widen = |value: u32| if value == u32::MAX { long.next() } else { Some(value.into()) };
    widen(plain_len)?;
    let (data_len, header_at) = (widen(data_len)?, widen(header_at)?);
    let bounded = data_len.checked_add(LOCAL_HEADER_LEN).is_some();
    bounded.then_some((ZipEntry { header_at: header_at.checked_add(prefix)?, data_len }, len))
}

fn zip64_extra(mut extra: &[u8]) -> Option<&[u8]> {
    loop {
        let (id, len) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let field = extra.get(4..4 + len)?;
        if id == ZIP64_EXTRA {
            return Some(field);
        }
        extra = &extra[4 + len..];
    }
}

/// How long a local header at the start of `bytes` is, name and extra field included; none if it is not one.
pub(super) fn local_header_len(bytes: &[u8]) -> Option<u64> {
    let is_header = u32_at(bytes, 0)? == LOCAL_HEADER_SIGNATURE;
    let (name_len, extra_len) = (u16_at(bytes, 26)?, u16_at(bytes, 28)?);
    is_header.then_some(LOCAL_HEADER_LEN + u64::from(name_len) + u64::from(extra_len))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}
