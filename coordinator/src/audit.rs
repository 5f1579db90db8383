//! The audit log: one file of frames, only ever appended to, each linked to the one before it by its hash. It is the truth
//! of record of the coordinator.
//!
//! Invariant: when [`AuditLog::append`] has returned a frame's number, the frame is on disk (ACKED-IS-KEPT) and frames
//! are numbered from 1 without a gap. What a frame's payload means is left to [`crate::journal`].
//!
//! A process that is killed, or a machine that loses power, can leave at most one frame unfinished, at the end: it was
//! answered to nobody, and is cut off. Bytes that are wrong with a whole frame behind them, and whole frames that do not
//! follow each other, are damage, and no part of the file is then believed or changed. Damage to the very last frame looks
//! like an unfinished one.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `frame` | the bytes, and the chain that they make |
//! | `verify` | whether a log is whole, without opening it; what a chain cannot show |

mod frame;
mod verify;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shoal_proto::limits::{AUDIT_BYTES_MAX, RECORD_BYTES_MAX};
use thiserror::Error;

pub use frame::{Flaw, Head};
use frame::{Frames, MAGIC, Next};
pub use verify::{Broken, Cause, Verdict, verify};

/// How long another process may hold the lock before it counts as one that runs.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// How long between two tries.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Why the audit log cannot be used.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file system refused.
    #[error("cannot {doing} the audit log {path}")]
    Io {
        /// What was tried: `open`, `write`, …
        doing: &'static str,
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No room.
    #[error("the disk is full: cannot write the audit log {path}; make room, then repeat the command")]
    DiskFull {
        /// The log.
        path: PathBuf,
    },
    /// Over [`AUDIT_BYTES_MAX`].
    #[error(
        "the audit log {path} is over {AUDIT_BYTES_MAX} bytes: stop the coordinator and move its data folder aside"
    )]
    Full {
        /// The log.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("another coordinator runs on {path}")]
    Locked {
        /// The log.
        path: PathBuf,
    },
    /// Not an audit log.
    #[error("{path} is no audit log of this version of Shoal")]
    NoLog {
        /// The file.
        path: PathBuf,
    },
    /// Wrong bytes with whole frames behind them.
    #[error(
        "the audit log {path} is damaged at byte {offset}, after entry {after}: `shoal audit verify --file` says how; restore it from a backup"
    )]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Where, in bytes from the start of the file.
        offset: u64,
        /// The last good frame before it.
        after: u64,
    },
    /// One payload over [`RECORD_BYTES_MAX`].
    #[error("a record of {len} bytes where at most {RECORD_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its size in bytes.
        len: usize,
    },
    /// An earlier write failed, so that it is unknown what is on disk.
    #[error("an earlier write to the audit log {path} failed: restart the coordinator")]
    Poisoned {
        /// The log.
        path: PathBuf,
    },
}

/// One frame: its number and payload.
pub type Frame = (u64, Vec<u8>);

/// The log, open for appending; no other process has it open.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: File,
    len_bytes: u64,
    head: Head,
    poisoned: bool,
}

/// Locks the file. A process that was killed, or that is just starting a child, may hold it for a moment longer.
fn lock(file: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            locked => return locked,
        }
    }
}

impl AuditLog {
    /// Opens or makes the log at `path`, reads all of it through `each`, and cuts an unfinished frame off its end.
    ///
    /// # Errors
    /// Every [`AuditError`] but those of one append; [`AuditError::Damaged`] leaves the file as it is.
    pub fn open(path: &Path, mut each: impl FnMut(Frame)) -> Result<Self, AuditError> {
        let io = |doing| move |source| AuditError::Io { doing, path: path.to_owned(), source };
        // Records hold secrets of join tokens and scripts of deployment files.
        let file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(io("open"))?;
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(AuditError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
        let mut log = Self { path: path.to_owned(), file, len_bytes: 0, head: Head::START, poisoned: false };
        log.start().map_err(io("start"))?;
        log.check_magic()?;
        let end = log.scan(&mut each)?;
        log.cut(end).map_err(io("cut"))?;
        Ok(log)
    }

    /// Reads all of the log again, through `each`.
    ///
    /// # Errors
    /// [`AuditError::Io`] and [`AuditError::Damaged`].
    pub fn replay(&mut self, mut each: impl FnMut(Frame)) -> Result<(), AuditError> {
        self.check_magic()?;
        self.scan(&mut each).map(drop)
    }

    /// Number of the last frame; 0 in an empty log.
    pub fn last(&self) -> u64 {
        self.head.number
    }

    /// The last frame, and the link that stands for all of the log.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The file, and how many bytes of it are frames that were appended.
    pub fn file(&self) -> (&Path, u64) {
        (&self.path, self.len_bytes)
    }

    /// Appends one frame and waits until it is on disk; returns its number.
    ///
    /// # Errors
    /// Every [`AuditError`] of writing. The log is then as before, or refuses everything until it is opened again.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, AuditError> {
        if self.poisoned {
            return Err(AuditError::Poisoned { path: self.path.clone() });
        }
        if payload.len() > RECORD_BYTES_MAX {
            return Err(AuditError::TooLarge { len: payload.len() });
        }
        let header = frame::header(&self.head, payload);
        let frame = [header.as_slice(), payload].concat();
        if self.len_bytes + frame.len() as u64 > AUDIT_BYTES_MAX {
            return Err(AuditError::Full { path: self.path.clone() });
        }
        if let Err(source) = self.file.write_all(&frame) {
            // A part of the frame must not stay, or the next one would stand behind wrong bytes.
            self.poisoned = self.file.set_len(self.len_bytes).is_err();
            return Err(self.write_error(source));
        }
        if let Err(source) = self.file.sync_data() {
            // After a failed fsync nobody knows what is on disk; a second one would say "fine" and be wrong.
            self.poisoned = true;
            return Err(self.write_error(source));
        }
        self.len_bytes += frame.len() as u64;
        self.head = frame::head(&header);
        Ok(self.head.number)
    }

    fn write_error(&self, source: io::Error) -> AuditError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AuditError::DiskFull { path },
            _ => AuditError::Io { doing: "write", path, source },
        }
    }

    /// Gives an empty file, or one that was killed while it was made, its first bytes.
    fn start(&mut self) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        if len < MAGIC.len() as u64 {
            let mut found = vec![0; len as usize];
            self.file.seek(SeekFrom::Start(0))?;
            self.file.read_exact(&mut found)?;
            if MAGIC.starts_with(&found) {
                self.file.set_len(0)?;
                self.file.write_all(MAGIC)?;
                self.file.sync_all()?;
                // The file's name is on disk only when its folder is.
                let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
                File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
            }
        }
        self.len_bytes = self.file.metadata()?.len();
        Ok(())
    }

    fn check_magic(&mut self) -> Result<(), AuditError> {
        let mut found = [0; MAGIC.len()];
        let read = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.read_exact(&mut found));
        if read.is_err() || found != *MAGIC {
            return Err(AuditError::NoLog { path: self.path.clone() });
        }
        Ok(())
    }

    /// Passes every whole frame to `each`; returns where the last one ends.
    fn scan(&mut self, each: &mut impl FnMut(Frame)) -> Result<u64, AuditError> {
        let io = |source| AuditError::Io { doing: "read", path: self.path.clone(), source };
        let mut frames = Frames::new(&self.file);
        let flaw = loop {
            match frames.next().map_err(io)? {
                Next::Frame(payload) => each((frames.head.number, payload)),
                Next::End => break None,
                Next::Flaw(flaw) => break Some(flaw),
            }
        };
        let (offset, after) = (frames.position, frames.head.number);
        let damaged = match flaw {
            None => false,
            Some(Flaw::NotWhole) => verify::frame_behind(&self.path, offset, self.len_bytes, after)?,
            Some(Flaw::Number { .. } | Flaw::Link) => true,
        };
        if damaged {
            return Err(AuditError::Damaged { path: self.path.clone(), offset, after });
        }
        self.head = frames.head;
        Ok(offset)
    }

    fn cut(&mut self, end: u64) -> io::Result<()> {
        let torn_bytes = self.len_bytes - end;
        if torn_bytes > 0 {
            tracing::warn!(path = %self.path.display(), offset = end, torn_bytes, "cut an unfinished record off the audit log");
            self.file.set_len(end)?;
            self.file.sync_all()?;
            self.len_bytes = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(path: &Path) -> Result<Vec<Frame>, AuditError> {
        let mut frames = Vec::new();
        AuditLog::open(path, |frame| frames.push(frame))?;
        Ok(frames)
    }

    /// A log of three frames; returns its bytes and where each frame ends.
    fn written(path: &Path) -> (Vec<u8>, Vec<usize>) {
        let mut log = AuditLog::open(path, |_| {}).unwrap();
        let ends = [b"one".as_slice(), b"", &[7; 300]].map(|payload| {
            log.append(payload).unwrap();
            log.len_bytes as usize
        });
        (fs::read(path).unwrap(), ends.to_vec())
    }

    #[test]
    fn every_prefix_opens_with_the_frames_that_are_whole_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let (bytes, ends) = written(&path);
        for len in 0..=bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            let whole = ends.iter().filter(|end| **end <= len).count();
            assert_eq!(read(&path).unwrap().len(), whole, "prefix of {len} bytes");
            let mut log = AuditLog::open(&path, |_| {}).unwrap();
            assert_eq!(log.append(b"next").unwrap(), whole as u64 + 1);
            drop(log);
            assert_eq!(read(&path).unwrap().pop(), Some((whole as u64 + 1, b"next".to_vec())));
        }
    }

    #[test]
    fn a_wrong_byte_before_the_last_frame_is_damage_at_its_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let (bytes, ends) = written(&path);
        for at in MAGIC.len()..ends[1] {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x10;
            fs::write(&path, &wrong).unwrap();
            let frame_at = if at < ends[0] { MAGIC.len() } else { ends[0] };
            match read(&path) {
                Err(AuditError::Damaged { offset, .. }) => assert_eq!(offset, frame_at as u64, "byte {at}"),
                other => panic!("byte {at}: {other:?}"),
            }
            assert_eq!(fs::read(&path).unwrap(), wrong, "a damaged log is left alone");
        }
    }

    #[test]
    fn what_was_changed_removed_or_put_in_is_found_at_its_entry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let (bytes, ends) = written(&path);
        let part = |from: usize, to: usize| &bytes[from..to];
        let (magic, first, second, third) =
            (part(0, MAGIC.len()), part(MAGIC.len(), ends[0]), part(ends[0], ends[1]), part(ends[1], ends[2]));
        // An entry of another log: whole, of the right number, but not written behind the first one.
        let other = [&frame::header(&Head { number: 1, link: [9; 32] }, b"put in")[..], b"put in"].concat();
        let number = |found| Cause::Frame(Flaw::Number { found });
        let table = [
            ("nothing", [magic, first, second, third].concat(), None),
            ("the first is removed", [magic, second, third].concat(), Some((1, number(2)))),
            ("the second is removed", [magic, first, third].concat(), Some((2, number(3)))),
            ("two are exchanged", [magic, first, third, second].concat(), Some((2, number(3)))),
            ("one is repeated", [magic, first, first, second].concat(), Some((2, number(1)))),
            ("one is replaced", [magic, first, &other, third].concat(), Some((2, Cause::Frame(Flaw::Link)))),
            ("the last is half there", [magic, first, second, &third[..50]].concat(), Some((3, Cause::Torn))),
        ];
        for (what, bytes, wanted) in table {
            fs::write(&path, &bytes).unwrap();
            let verdict = verify(&path, u64::MAX, None, |_| {}).unwrap();
            let found = verdict.broken.map(|broken| (broken.number, broken.cause));
            assert_eq!(found, wanted, "{what}");
            // Only what a crash can leave is mended when the coordinator starts; nothing that was answered is ever lost.
            let mended = wanted.is_none_or(|(_, cause)| cause == Cause::Torn);
            assert_eq!(read(&path).is_ok(), mended, "{what}");
            assert_eq!(fs::read(&path).unwrap() == bytes, what != "the last is half there", "{what}");
        }
    }

    #[test]
    fn any_byte_that_was_changed_is_found_at_its_entry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let (bytes, ends) = written(&path);
        for at in MAGIC.len()..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x10;
            fs::write(&path, &wrong).unwrap();
            let broken = verify(&path, u64::MAX, None, |_| {}).unwrap().broken.map(|broken| broken.number);
            let entry = 1 + ends.iter().filter(|end| **end <= at).count() as u64;
            assert_eq!(broken, Some(entry), "byte {at}");
        }
    }

    #[test]
    fn a_tail_that_was_cut_shows_against_a_known_head_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let (bytes, ends) = written(&path);
        let known = verify(&path, u64::MAX, None, |_| {}).unwrap().head;
        assert_eq!(known.number, 3);
        assert_eq!(known.to_string().parse(), Ok(known));
        let verdict = |known| verify(&path, u64::MAX, known, |_| {}).unwrap();
        assert_eq!(verdict(Some(known)).broken, None);
        fs::write(&path, &bytes[..ends[1]]).unwrap();
        assert_eq!(verdict(None).broken, None, "the chain itself cannot show it");
        let cut = Broken { number: 3, offset: ends[1] as u64, cause: Cause::Short { known } };
        assert_eq!(verdict(Some(known)).broken, Some(cut));
        // Written anew by who can compute hashes: whole in itself, but another chain.
        let mut log = AuditLog::open(&path, |_| {}).unwrap();
        log.append(b"another third").unwrap();
        drop(log);
        assert_eq!(verdict(None).broken, None);
        let broken = verdict(Some(known)).broken.unwrap();
        assert_eq!((broken.number, broken.cause), (3, Cause::OtherChain { known }));
    }

    #[test]
    fn a_power_cut_that_left_the_last_frame_full_of_zeros_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let (mut bytes, ends) = written(&path);
        bytes[ends[1]..].fill(0);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path).unwrap().len(), 2);
        assert_eq!(fs::metadata(&path).unwrap().len(), ends[1] as u64);
    }

    #[test]
    fn other_files_and_other_processes_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let _log = AuditLog::open(&path, |_| {}).unwrap();
        assert!(matches!(read(&path), Err(AuditError::Locked { .. })));
        for text in ["x", "a text that is longer than the first bytes"] {
            let other = folder.path().join("other");
            fs::write(&other, text).unwrap();
            assert!(matches!(read(&other), Err(AuditError::NoLog { .. })), "{text}");
            assert_eq!(fs::read(&other).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut log = AuditLog::open(&path, |_| {}).unwrap();
        assert!(matches!(log.append(&vec![0; RECORD_BYTES_MAX + 1]), Err(AuditError::TooLarge { .. })));
        assert_eq!(log.append(b"x").unwrap(), 1);
    }
}
