//! The coordinator's journal: entries in streams, in the order in which they were appended. The only file that knows sled.
//!
//! Invariant (ACKED-IS-KEPT): when [`Journal::append`] has returned, the entries are on disk in the audit log and in
//! sled. The audit log is the truth of record; sled holds the same batches, one record each, and what of it is missing,
//! unreadable or different is made again from the log at start. So sled is never the only copy, and a sled folder that
//! does not open costs a log line. What entries mean is left to those who append them.
//!
//! Everything here blocks for the time of a disk write: async code calls it where it may block.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_proto::codec::{self, CodecError};
use shoal_proto::id::Epoch;
use shoal_proto::limits::{JOURNAL_CACHE_BYTES, JOURNAL_VALUE_BYTES_MAX, JOURNAL_VALUES_MAX, RECORD_BYTES_MAX};
use thiserror::Error;

use crate::audit::{AuditError, AuditLog, Head};

/// Room that a batch leaves beside its entries' own bytes, so that its encoding is within [`RECORD_BYTES_MAX`].
const BATCH_BYTES_MAX: usize = RECORD_BYTES_MAX - 1024;
/// What an entry's encoding takes beside its bytes and its stream's name, at most.
const ENTRY_OVERHEAD: usize = 32;
const EPOCH_KEY: &str = "epoch";

/// Why the journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The data folder cannot be made, or sled's folder not moved aside.
    #[error("cannot prepare {path}")]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// sled failed, also with an empty folder.
    #[error("cannot keep the journal in {path}: {cause}")]
    Index {
        /// sled's folder.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A batch of another version, or none at all.
    #[error("record {number} of the audit log cannot be read")]
    Record {
        /// Which frame of the log.
        number: u64,
        /// Why.
        source: CodecError,
    },
    /// Batches that do not follow each other.
    #[error("record {number} of the audit log starts at entry {found}, but entry {wanted} is next")]
    Order {
        /// Which frame of the log.
        number: u64,
        /// The first sequence number in it.
        found: u64,
        /// The one that was to come.
        wanted: u64,
    },
    /// One entry does not fit in a record.
    #[error("an entry of {len} bytes where at most {max} are allowed", max = BATCH_BYTES_MAX - ENTRY_OVERHEAD)]
    TooLarge {
        /// Its size in bytes, with its stream's name.
        len: usize,
    },
    /// A value over its limits, or too many of them.
    #[error(
        "value `{key}` of {len} bytes: at most {JOURNAL_VALUES_MAX} values of {JOURNAL_VALUE_BYTES_MAX} bytes are kept"
    )]
    Value {
        /// Its key.
        key: String,
        /// Its size in bytes, with its key.
        len: usize,
    },
}

/// What is appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Whose it is, such as a deployment's id.
    pub stream: String,
    /// Opaque here.
    pub bytes: Vec<u8>,
}

/// What was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number, from 1, over all streams and without a gap.
    pub sequence: u64,
    /// The frame of the audit log that it stands in.
    pub frame: u64,
    /// The entry.
    pub entry: Entry,
}

/// What was found at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// This run's epoch, greater than every earlier one; it is on disk.
    pub epoch: Epoch,
    /// How many entries [`Journal::replay`] will give.
    pub entries: u64,
    /// sled's folder could not be used and was made again from the audit log.
    pub rebuilt: bool,
}

/// One frame of the audit log and one record of sled.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Batch {
    /// Sequence number of the first entry, or of the next one if there is none.
    first: u64,
    entries: Vec<Entry>,
    values: Vec<(String, Vec<u8>)>,
}

/// Entries in order, and a few small values beside them.
#[derive(Debug)]
pub struct Journal {
    audit: AuditLog,
    db: sled::Db,
    folder: PathBuf,
    next: u64,
    values: BTreeMap<String, Vec<u8>>,
}

impl Journal {
    /// Opens or makes the journal in the folder `data_dir`, and starts an epoch.
    ///
    /// # Errors
    /// Every [`JournalError`]; nothing that was recorded is changed then.
    pub fn open(data_dir: &Path) -> Result<(Self, Recovered), JournalError> {
        // sled makes its files readable by all, so that the folder must not be.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
        made.map_err(|source| JournalError::Folder { path: data_dir.to_owned(), source })?;
        let mut seen = Seen { next: 1, values: BTreeMap::new(), error: None };
        let mut audit = AuditLog::open(&data_dir.join("audit.log"), |(number, bytes)| seen.frame(number, &bytes))?;
        if let Some(error) = seen.error {
            return Err(error);
        }
        let folder = data_dir.join("journal");
        let (db, rebuilt) = open_index(&folder, &mut audit)?;
        let mut journal = Self { audit, db, folder, next: seen.next, values: seen.values };
        journal.restore_surplus()?;
        let epoch = Epoch(journal.epoch() + 1);
        journal.write(&[], &[(EPOCH_KEY.to_owned(), epoch.0.to_le_bytes().to_vec())])?;
        let recovered = Recovered { epoch, entries: journal.next - 1, rebuilt };
        Ok((journal, recovered))
    }

    /// Appends `entries` and waits until they are on disk; returns the sequence number of the last entry of all.
    ///
    /// More than a record holds becomes several: a crash may then keep the first ones alone, never later ones alone.
    ///
    /// # Errors
    /// Every [`JournalError`]; after one, nothing of `entries` may be taken as done.
    pub fn append(&mut self, entries: &[Entry]) -> Result<u64, JournalError> {
        if let Some(len) = entries.iter().map(entry_len).find(|len| *len > BATCH_BYTES_MAX) {
            return Err(JournalError::TooLarge { len: len - ENTRY_OVERHEAD });
        }
        let mut rest = entries;
        while !rest.is_empty() {
            let mut room = BATCH_BYTES_MAX;
            let fits = rest.iter().take_while(|entry| {
                let fits = entry_len(entry) <= room;
                room = room.saturating_sub(entry_len(entry));
                fits
            });
            let (batch, later) = rest.split_at(fits.count());
            self.write(batch, &[])?;
            rest = later;
        }
        Ok(self.next - 1)
    }

    /// Every entry of all streams, in order.
    pub fn replay(&self) -> impl Iterator<Item = Result<Stored, JournalError>> {
        self.db.iter().flat_map(|record| {
            let (batch, error) = match self.read(record) {
                Ok(batch) => (Some(batch), None),
                Err(error) => (None, Some(Err(error))),
            };
            let entries = batch.into_iter().flat_map(|(frame, batch)| {
                let stored = move |(entry, sequence)| Ok(Stored { sequence, frame, entry });
                batch.entries.into_iter().zip(batch.first..).map(stored)
            });
            entries.chain(error)
        })
    }

    /// A value that was kept by [`Journal::set_value`].
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key).map(Vec::as_slice)
    }

    /// Keeps a small value, as durable as entries are. Each change is a record, so that it is for what changes seldom.
    ///
    /// # Errors
    /// Every [`JournalError`].
    pub fn set_value(&mut self, key: &str, value: &[u8]) -> Result<(), JournalError> {
        let len = key.len() + value.len();
        let is_new = !self.values.contains_key(key);
        if len > JOURNAL_VALUE_BYTES_MAX || (is_new && self.values.len() >= JOURNAL_VALUES_MAX) {
            return Err(JournalError::Value { key: key.chars().take(64).collect(), len });
        }
        self.write(&[], &[(key.to_owned(), value.to_vec())])
    }

    /// The last frame of the audit log.
    pub fn head(&self) -> Head {
        self.audit.head()
    }

    /// The audit log, and how many bytes of it are durable.
    pub fn audit_file(&self) -> (&Path, u64) {
        self.audit.file()
    }

    fn read(&self, record: sled::Result<(sled::IVec, sled::IVec)>) -> Result<(u64, Batch), JournalError> {
        let (key, bytes) = record.map_err(|error| self.index_error(&error))?;
        let number = key.first_chunk().map_or(0, |key| u64::from_be_bytes(*key));
        let batch = decode(&bytes).map_err(|source| JournalError::Record { number, source })?;
        Ok((number, batch))
    }

    fn epoch(&self) -> u64 {
        let bytes = self.value(EPOCH_KEY).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// The only way in: first the audit log, then sled, each flushed.
    fn write(&mut self, entries: &[Entry], values: &[(String, Vec<u8>)]) -> Result<(), JournalError> {
        let batch = Batch { first: self.next, entries: entries.to_vec(), values: values.to_vec() };
        let number = self.audit.last() + 1;
        let bytes =
            codec::encode(&batch, RECORD_BYTES_MAX).map_err(|source| JournalError::Record { number, source })?;
        self.audit.append(&bytes)?;
        // What is in the log has happened, whatever becomes of sled: the next start takes it from there.
        self.next += entries.len() as u64;
        self.values.extend(values.iter().cloned());
        let kept = self.db.insert(number.to_be_bytes(), bytes).and_then(|_| self.db.flush());
        kept.map(drop).map_err(|error| self.index_error(&error))
    }

    /// Brings back into the log what only sled has: an older log was put in its place, or its end was lost.
    fn restore_surplus(&mut self) -> Result<(), JournalError> {
        let from = self.audit.last() + 1;
        let surplus = self.db.range(from.to_be_bytes()..).collect::<Result<Vec<_>, _>>();
        let surplus = surplus.map_err(|error| self.index_error(&error))?;
        for (number, (key, bytes)) in (from..).zip(surplus) {
            let mut seen = Seen { next: self.next, values: BTreeMap::new(), error: None };
            seen.frame(number, &bytes);
            if *key != number.to_be_bytes() || seen.error.is_some() {
                tracing::error!(number, "a record that only sled has does not follow the audit log: dropped");
                self.db.remove(key).map_err(|error| self.index_error(&error))?;
                continue;
            }
            tracing::warn!(number, "the audit log lacks a record that sled has: restored");
            self.audit.append(&bytes)?;
            self.next = seen.next;
            self.values.extend(seen.values);
        }
        Ok(())
    }

    fn index_error(&self, error: &sled::Error) -> JournalError {
        JournalError::Index { path: self.folder.clone(), cause: error.to_string() }
    }
}

fn entry_len(entry: &Entry) -> usize {
    entry.stream.len() + entry.bytes.len() + ENTRY_OVERHEAD
}

/// The entries of one frame of the audit log.
///
/// # Errors
/// Every [`CodecError`].
pub fn entries_of(bytes: &[u8]) -> Result<Vec<Entry>, CodecError> {
    decode(bytes).map(|batch| batch.entries)
}

fn decode(bytes: &[u8]) -> Result<Batch, CodecError> {
    codec::decode(bytes, RECORD_BYTES_MAX)
}

/// What reading the audit log tells: where it ends, the latest values, and the first thing that is wrong.
struct Seen {
    next: u64,
    values: BTreeMap<String, Vec<u8>>,
    error: Option<JournalError>,
}

impl Seen {
    fn frame(&mut self, number: u64, bytes: &[u8]) {
        if self.error.is_some() {
            return;
        }
        match decode(bytes) {
            Err(source) => self.error = Some(JournalError::Record { number, source }),
            Ok(batch) if batch.first != self.next => {
                self.error = Some(JournalError::Order { number, found: batch.first, wanted: self.next });
            }
            Ok(batch) => {
                self.next += batch.entries.len() as u64;
                self.values.extend(batch.values);
            }
        }
    }
}

/// sled with every batch of `audit`, and whether its folder had to be moved aside for that.
fn open_index(folder: &Path, audit: &mut AuditLog) -> Result<(sled::Db, bool), JournalError> {
    let cause = match synchronised(folder, audit)? {
        Ok(db) => return Ok((db, false)),
        Err(cause) => cause,
    };
    let aside = folder.with_extension("broken");
    tracing::error!(
        cause,
        folder = %folder.display(),
        aside = %aside.display(),
        "sled cannot use its folder: moved aside, and made again from the audit log"
    );
    let moved = remove_if_there(&aside).and_then(|()| std::fs::rename(folder, &aside));
    moved.map_err(|source| JournalError::Folder { path: aside, source })?;
    match synchronised(folder, audit)? {
        Ok(db) => Ok((db, true)),
        Err(cause) => Err(JournalError::Index { path: folder.to_owned(), cause }),
    }
}

/// Only the newest folder that was moved aside stays, so that they do not fill the disk.
fn remove_if_there(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens sled and puts into it what it lacks of `audit`; the inner error is sled's.
fn synchronised(folder: &Path, audit: &mut AuditLog) -> Result<Result<sled::Db, String>, AuditError> {
    let mut log_error = None;
    // sled panics on some damage instead of answering with an error.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let config = sled::Config::new().path(folder).cache_capacity(JOURNAL_CACHE_BYTES).flush_every_ms(None);
        let db = config.open()?;
        let mut failed = None;
        let replayed = audit.replay(|(number, bytes)| {
            if failed.is_none() {
                failed = synchronise(&db, number, &bytes).err();
            }
        });
        log_error = replayed.err();
        match failed {
            Some(error) => Err(error),
            None => db.flush().map(|_| db),
        }
    }));
    match (log_error, opened) {
        (Some(error), _) => Err(error),
        (None, Ok(opened)) => Ok(opened.map_err(|error| error.to_string())),
        (None, Err(_)) => Ok(Err("it panicked".to_owned())),
    }
}

fn synchronise(db: &sled::Db, number: u64, bytes: &[u8]) -> sled::Result<()> {
    let key = number.to_be_bytes();
    match db.get(key)? {
        Some(found) if found == bytes => Ok(()),
        found => {
            if found.is_some() {
                tracing::warn!(number, "a record in sled differs from the audit log: replaced");
            }
            db.insert(key, bytes).map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entry(stream: &str, text: impl Into<Vec<u8>>) -> Entry {
        Entry { stream: stream.to_owned(), bytes: text.into() }
    }

    fn texts(journal: &Journal) -> Vec<(u64, String)> {
        let stored = journal.replay().map(|stored| stored.unwrap());
        stored
            .map(|s| (s.sequence, format!("{} {}", s.entry.stream, String::from_utf8(s.entry.bytes).unwrap())))
            .collect()
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for item in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let target = to.join(item.file_name());
            if item.path().is_dir() {
                copy(&item.path(), &target)
            } else {
                fs::copy(item.path(), target).map(drop).unwrap()
            }
        }
    }

    /// A journal of three appends and a value, closed.
    fn written(folder: &Path) {
        let (mut journal, recovered) = Journal::open(folder).unwrap();
        assert_eq!(recovered, Recovered { epoch: Epoch(1), entries: 0, rebuilt: false });
        assert_eq!(journal.append(&[entry("d1", "a"), entry("d2", "b")]).unwrap(), 2);
        journal.set_value("tokens", b"7").unwrap();
        assert_eq!(journal.append(&[entry("d1", "c")]).unwrap(), 3);
        assert_eq!(journal.append(&[]).unwrap(), 3);
        assert_eq!(journal.append(&[entry("d1", "d")]).unwrap(), 4);
    }

    fn all() -> Vec<(u64, String)> {
        [(1, "d1 a"), (2, "d2 b"), (3, "d1 c"), (4, "d1 d")].map(|(n, text)| (n, text.to_owned())).to_vec()
    }

    #[test]
    fn entries_values_and_epochs_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        for epoch in 2..5 {
            let (journal, recovered) = Journal::open(folder.path()).unwrap();
            assert_eq!(recovered, Recovered { epoch: Epoch(epoch), entries: 4, rebuilt: false });
            assert_eq!(texts(&journal), all());
            assert_eq!(journal.value("tokens"), Some(b"7".as_slice()));
            assert_eq!(journal.value("none"), None);
        }
    }

    #[test]
    fn a_journal_killed_at_any_byte_has_a_prefix_that_holds_all_that_was_answered() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        let log = folder.path().join("audit.log");
        let mut answered = Vec::new();
        for number in 0..4 {
            let entries = [entry("d1", format!("{number}a")), entry("d1", format!("{number}b"))];
            let last = journal.append(&entries).unwrap();
            answered.push((fs::metadata(&log).unwrap().len() as usize, last));
        }
        drop(journal);
        let bytes = fs::read(&log).unwrap();
        for len in (0..=bytes.len()).rev().step_by(3) {
            let crashed = tempfile::tempdir().unwrap();
            fs::write(crashed.path().join("audit.log"), &bytes[..len]).unwrap();
            let (journal, recovered) = Journal::open(crashed.path()).unwrap();
            let promised = answered.iter().filter(|(end, _)| *end <= len).map(|(_, last)| *last).max().unwrap_or(0);
            assert_eq!(recovered.entries, promised, "killed at byte {len}");
            let found = texts(&journal);
            let wanted: Vec<_> =
                (0..promised).map(|n| (n + 1, format!("d1 {}{}", n / 2, ["a", "b"][n as usize % 2]))).collect();
            assert_eq!(found, wanted, "killed at byte {len}");
        }
    }

    #[test]
    fn sled_destroyed_in_any_way_gives_the_same_replay() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let pieces = ["db", "conf"];
        let sizes = pieces.map(|name| fs::metadata(folder.path().join("journal").join(name)).unwrap().len());
        let mut rebuilt = 0;
        for (piece, size) in pieces.iter().zip(sizes) {
            for (part, flip) in [(0, false), (1, false), (3, false), (1, true), (2, true)] {
                let crashed = tempfile::tempdir().unwrap();
                copy(folder.path(), crashed.path());
                let path = crashed.path().join("journal").join(piece);
                let mut bytes = fs::read(&path).unwrap();
                let at = (size * part / 4) as usize;
                if flip {
                    bytes[at..at + 8].fill(0xa5)
                } else {
                    bytes.truncate(at)
                }
                fs::write(&path, bytes).unwrap();
                let (journal, recovered) = Journal::open(crashed.path()).unwrap();
                assert_eq!(texts(&journal), all(), "{piece} {part} {flip}");
                assert_eq!(recovered.epoch, Epoch(2));
                rebuilt += u32::from(recovered.rebuilt);
            }
        }
        assert!(rebuilt > 0, "none of this damage kept sled from opening: damage it more");

        fs::remove_dir_all(folder.path().join("journal")).unwrap();
        fs::write(folder.path().join("journal"), "a file where sled wants a folder").unwrap();
        let (journal, recovered) = Journal::open(folder.path()).unwrap();
        assert!(recovered.rebuilt && folder.path().join("journal.broken").exists());
        assert_eq!(texts(&journal), all());
    }

    #[test]
    fn what_only_sled_has_comes_back_into_the_log() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let log = folder.path().join("audit.log");
        let bytes = fs::read(&log).unwrap();
        // The last frame is lost; then all of them.
        for len in [bytes.len() - 1, 0] {
            fs::write(&log, &bytes[..len]).unwrap();
            let (journal, _) = Journal::open(folder.path()).unwrap();
            assert_eq!(texts(&journal), all());
            assert_eq!(journal.value("tokens"), Some(b"7".as_slice()));
            drop(journal);
            let other = tempfile::tempdir().unwrap();
            fs::copy(&log, other.path().join("audit.log")).unwrap();
            assert_eq!(texts(&Journal::open(other.path()).unwrap().0), all());
        }
    }

    #[test]
    fn damage_in_the_middle_of_the_log_is_an_error_that_says_where() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let log = folder.path().join("audit.log");
        let mut bytes = fs::read(&log).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&log, &bytes).unwrap();
        let error = Journal::open(folder.path()).unwrap_err();
        assert!(matches!(error, JournalError::Audit(AuditError::Damaged { .. })), "{error}");
        assert!(error.to_string().contains("is damaged at byte"), "{error}");
    }

    #[test]
    fn appends_over_a_record_are_split_and_entries_over_it_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        let large = || entry("d1", vec![b'x'; RECORD_BYTES_MAX / 3]);
        assert_eq!(journal.append(&[large(), large(), large(), large()]).unwrap(), 4);
        let sequences: Vec<_> = journal.replay().map(|stored| stored.unwrap().sequence).collect();
        assert_eq!(sequences, [1, 2, 3, 4]);
        let refused = journal.append(&[entry("d1", "small"), entry("d1", vec![0; RECORD_BYTES_MAX])]);
        assert!(matches!(refused, Err(JournalError::TooLarge { .. })));
        assert_eq!(journal.append(&[]).unwrap(), 4, "nothing of a refused append is kept");
        assert!(matches!(journal.set_value("k", &vec![0; JOURNAL_VALUE_BYTES_MAX]), Err(JournalError::Value { .. })));
    }
}
