//! What operators did: who, what, to what and why, as entries of the audit log beside what followed from it.
//!
//! An act stands in the log as JSON, so that it can be read in years to come, and in one frame with the first of what it
//! led to: neither is there without the other (ACKED-IS-KEPT). It holds no secret. Who did it is what the client says; what
//! is certain is that it had the operator's token.

use std::collections::VecDeque;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::api::limits::{ACT_TEXT_BYTES_MAX, ACTS_KEPT_MAX};
use crate::api::types::{Act, AuditEntry};
use crate::audit::{self, AuditError, Head, Verdict};
use crate::journal::{self, Entry};

/// The stream of acts in the journal.
pub const STREAM: &str = "operators";

/// On whose behalf something is asked, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// Who, as the client says.
    pub who: String,
    /// Why, if it was said.
    pub reason: Option<String>,
}

/// An act as an entry of the journal. Texts that are too long are cut.
pub fn entry(mut act: Act) -> Entry {
    for text in [&mut act.who, &mut act.what].into_iter().chain(&mut act.reason).chain(&mut act.refused) {
        text.truncate(text.floor_char_boundary(ACT_TEXT_BYTES_MAX));
    }
    let bytes = serde_json::to_vec(&act).expect("an act is texts and numbers");
    Entry { stream: STREAM.to_owned(), bytes }
}

/// The act that an entry of frame `number` holds, if it holds one that can be read.
pub fn act(number: u64, entry: &Entry) -> Option<AuditEntry> {
    let act = (entry.stream == STREAM).then(|| serde_json::from_slice(&entry.bytes).ok()).flatten()?;
    Some(AuditEntry { entry: number, act })
}

/// The newest acts.
#[derive(Debug, Default)]
pub struct Trail {
    kept: VecDeque<AuditEntry>,
}

impl Trail {
    /// Takes one more; the oldest goes where there are too many.
    pub fn push(&mut self, entry: AuditEntry) {
        if self.kept.len() >= ACTS_KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(entry);
    }

    /// The newest `count`, oldest first.
    pub fn newest(&self, count: usize) -> Vec<AuditEntry> {
        self.kept.iter().skip(self.kept.len().saturating_sub(count)).cloned().collect()
    }
}

/// Reads the audit log at `path` without a coordinator: its newest `count` acts, and whether it is whole.
///
/// # Errors
/// As [`audit::verify`].
pub fn read(path: &Path, count: usize, known: Option<Head>) -> Result<(Vec<AuditEntry>, Verdict), AuditError> {
    let mut acts = VecDeque::new();
    let verdict = audit::verify(path, u64::MAX, known, |(number, bytes)| {
        let entries = journal::entries_of(&bytes).unwrap_or_default();
        acts.extend(entries.iter().filter_map(|entry| act(number, entry)));
        while acts.len() > count {
            acts.pop_front();
        }
    })?;
    Ok((acts.into(), verdict))
}
