//! What the core says is made durable before anything that it wants is done (ACKED-IS-KEPT), with one flush for all of it.
//!
//! A disk takes milliseconds to flush, and a core microseconds to decide. So events that wait are handled together, and their
//! records are appended together: under load, a flush carries as much as came while the one before was made. A record that
//! is durable earlier than effects that were said before it is no harm: a crash in between is one in which these were lost,
//! and what restarts says them again.

use shoal_proto::codec;
use shoal_proto::coordinator::{Coordinator, Output, Record};
use shoal_proto::limits::RECORD_BYTES_MAX;
use tokio::task::block_in_place;

use crate::journal::{Entry, Journal, JournalError};

/// Events that are handled before what follows from them is made durable, at most: so many that a thousand nodes that report at
/// once are a few flushes, so few that the first of them is answered soon.
pub const EVENTS_TOGETHER_MAX: usize = 512;

/// What is to be done, with everything durable that comes before it.
#[derive(Debug, Default)]
pub struct Committed {
    /// In their order, without [`Output::Persist`].
    pub outputs: Vec<Output>,
    /// The records.
    pub records: Vec<Record>,
    /// The frame of the audit log in which `acts` begin, if anything was appended.
    pub frame: Option<u64>,
}

/// Takes all that `core` says, and appends its records, after `acts`.
///
/// Blocks for the time of a flush if there is anything to append. Other tasks of a runtime go on meanwhile, on another thread,
/// which is only woken then: most of what nodes say leaves no record.
///
/// # Errors
/// [`JournalError`]; nothing may be done then.
///
/// # Panics
/// In a runtime of a single thread.
pub fn commit(core: &mut Coordinator, journal: &mut Journal, acts: &[Entry]) -> Result<Committed, JournalError> {
    let mut committed = Committed::default();
    while let Some(output) = core.poll() {
        match output {
            Output::Persist(record) => committed.records.push(record),
            other => committed.outputs.push(other),
        }
    }
    if !acts.is_empty() || !committed.records.is_empty() {
        committed.frame = Some(journal.head().number + 1);
        // Acts stand first, and are small: in the first frame that is written.
        let entries: Vec<Entry> = acts.iter().cloned().chain(committed.records.iter().map(entry)).collect();
        block_in_place(|| journal.append(&entries))?;
    }
    Ok(committed)
}

fn entry(record: &Record) -> Entry {
    let stream = match record {
        Record::Directory(_) => "directory".to_owned(),
        Record::SiteLimit { .. } | Record::Freeze { .. } => "sites".to_owned(),
        Record::Created(_) | Record::Joined(_) => "deployments".to_owned(),
        Record::Rollout { deployment, .. }
        | Record::Acquired { deployment, .. }
        | Record::Read { deployment, .. }
        | Record::Budget { deployment, .. }
        | Record::Came { deployment, .. } => deployment.to_string(),
        Record::Step(_) => "steps".to_owned(),
    };
    let bytes = codec::encode(record, RECORD_BYTES_MAX).expect("records are made of bounded parts");
    Entry { stream, bytes }
}
