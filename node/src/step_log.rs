//! The file in which a node writes down which runs of steps it starts, before it starts them (GATE).
//!
//! Append-only; each record is its length, its checksum and its bytes, and is on the disk when [`StepLog::append`]
//! returns. Room for many records is kept from the start, so that a disk that is full, of what a step wrote for instance,
//! stops neither the steps that need none nor the report of how they ended. A torn record at the end, from a crash in mid-write, was never acted on and is cut off. The file is rewritten
//! at start without the records of deployments that are over.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use shoal_proto::codec;
use shoal_proto::limits::STEP_LOG_ROOM_BYTES;
use shoal_proto::runs::StepRecord;
use thiserror::Error;
use tracing::warn;

use crate::disk::{keep_room, replace};

/// Bytes of one record: an outcome with its cause, or what a step wrote for later ones.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// Bytes before each record: its length and the first half of its BLAKE3 hash.
const HEAD_BYTES: usize = 4 + 16;

/// The log, open for appending.
#[derive(Debug)]
pub struct StepLog {
    file: File,
    path: PathBuf,
}

/// Why the log cannot be used; without it no step may start.
#[derive(Debug, Error)]
pub enum StepLogError {
    /// The disk refuses.
    #[error("the step log {path} cannot be used: {source}; once that is mended, start the node again")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record that is not the last one is damaged.
    #[error("the step log {path} is damaged at byte {offset}: move it away only if no deployment is under way")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: usize,
    },
}

impl StepLog {
    /// Opens the log at `path`, made if it is missing; returns what it holds of deployments that are not over.
    ///
    /// # Errors
    /// [`StepLogError`].
    pub fn open(path: &Path) -> Result<(Self, Vec<StepRecord>), StepLogError> {
        let fail = |source| StepLogError::Io { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => drop(file.read_to_end(&mut bytes).map_err(fail)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
        let records = forget(parse(&bytes, path)?);
        let compact: Vec<u8> = records.iter().flat_map(frame).collect();
        let write = || {
            replace(path, &compact, Some(0o600))?;
            let file = OpenOptions::new().append(true).open(path)?;
            keep_room(&file, compact.len() as u64 + STEP_LOG_ROOM_BYTES)?;
            Ok(file)
        };
        let file = write().map_err(fail)?;
        Ok((Self { file, path: path.to_owned() }, records))
    }

    /// Appends a record; it is durable when this returns.
    ///
    /// # Errors
    /// [`StepLogError::Io`]; what was written of it is cut off again, as far as the disk allows.
    pub fn append(&mut self, record: &StepRecord) -> Result<(), StepLogError> {
        let fail = |source| StepLogError::Io { path: self.path.clone(), source };
        let end = self.file.seek(io::SeekFrom::End(0)).map_err(fail)?;
        let written = self.file.write_all(&frame(record)).and_then(|()| self.file.sync_data());
        written.map_err(|source| {
            if let Err(error) = self.file.set_len(end) {
                warn!(%error, "a torn record stays at the end of the step log");
            }
            StepLogError::Io { path: self.path.clone(), source }
        })
    }
}

fn frame(record: &StepRecord) -> Vec<u8> {
    let bytes = codec::encode(record, RECORD_BYTES_MAX).expect("causes and outputs are bounded to a few kilobytes");
    let len = u32::try_from(bytes.len()).expect("below the limit");
    [&len.to_le_bytes()[..], &blake3::hash(&bytes).as_bytes()[..16], &bytes].concat()
}

fn parse(bytes: &[u8], path: &Path) -> Result<Vec<StepRecord>, StepLogError> {
    let mut records = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let rest = &bytes[offset..];
        let Some((record, len)) = parse_one(rest) else {
            let claimed = rest.get(..4).map(|len| u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize);
            let torn = claimed.is_none_or(|len| len > RECORD_BYTES_MAX || rest.len() <= HEAD_BYTES + len);
            if !torn {
                return Err(StepLogError::Damaged { path: path.to_owned(), offset });
            }
            warn!(path = %path.display(), offset, "a record torn by a crash is cut off the step log");
            break;
        };
        records.push(record);
        offset += len;
    }
    Ok(records)
}

fn parse_one(bytes: &[u8]) -> Option<(StepRecord, usize)> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let body = rest.get(..len).filter(|_| len <= RECORD_BYTES_MAX)?;
    let intact = blake3::hash(body).as_bytes()[..16] == head[4..];
    let record = intact.then(|| codec::decode(body, RECORD_BYTES_MAX).ok()).flatten()?;
    Some((record, HEAD_BYTES + len))
}

/// Without the records of deployments that are over.
fn forget(records: Vec<StepRecord>) -> Vec<StepRecord> {
    let mut kept: Vec<StepRecord> = Vec::new();
    for record in records {
        match record {
            StepRecord::Forgotten(id) => kept.retain(|kept| match kept {
                StepRecord::Started(run) | StepRecord::Wrote { run, .. } | StepRecord::Ended { run, .. } => {
                    run.deployment != id
                }
                StepRecord::Forgotten(_) => false,
            }),
            other => kept.push(other),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use shoal_proto::id::{DeploymentId, StepIndex};
    use shoal_proto::manifest::{Phase, StepRef};
    use shoal_proto::rollout::StepOutcome;
    use shoal_proto::wire::StepRun;

    use super::*;

    fn run(deployment: u64, index: u16) -> StepRun {
        let step = StepRef { phase: Phase::Steps, index: StepIndex(index) };
        StepRun { deployment: DeploymentId(deployment), step, attempt: 1 }
    }

    #[test]
    fn what_was_appended_is_there_after_any_tear() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.log");
        let ended = StepRecord::Ended { run: run(1, 0), outcome: StepOutcome::Succeeded };
        let all = [StepRecord::Started(run(1, 0)), ended, StepRecord::Started(run(1, 1))];
        let (mut log, found) = StepLog::open(&path).unwrap();
        assert_eq!(found, []);
        let mut ends = vec![0];
        for record in &all {
            log.append(record).unwrap();
            ends.push(std::fs::metadata(&path).unwrap().len());
        }
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut as u64).count() - 1;
            assert_eq!(StepLog::open(&path).unwrap().1, all[..whole], "cut at {cut}");
        }
    }

    #[test]
    fn damage_before_the_end_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.log");
        let (mut log, _) = StepLog::open(&path).unwrap();
        log.append(&StepRecord::Started(run(1, 0))).unwrap();
        log.append(&StepRecord::Started(run(1, 1))).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEAD_BYTES] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(StepLog::open(&path), Err(StepLogError::Damaged { offset: 0, .. })));
    }

    #[test]
    fn deployments_that_are_over_leave_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.log");
        let (mut log, _) = StepLog::open(&path).unwrap();
        for record in
            [StepRecord::Started(run(1, 0)), StepRecord::Started(run(2, 0)), StepRecord::Forgotten(DeploymentId(1))]
        {
            log.append(&record).unwrap();
        }
        assert_eq!(StepLog::open(&path).unwrap().1, [StepRecord::Started(run(2, 0))]);
        assert_eq!(StepLog::open(&path).unwrap().1, [StepRecord::Started(run(2, 0))], "also once rewritten");
    }
}
