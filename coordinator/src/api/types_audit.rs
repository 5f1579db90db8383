//! The audit log: what operators did, and whether the log is as it was written.

use serde::{Deserialize, Serialize};
use shoal_proto::time::WallTime;

use super::text::Timestamp;
use super::types::{AuditSchema, VerdictSchema};

/// Answer to `GET /v1/audit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// What this is.
    pub schema: AuditSchema,
    /// What operators did, oldest first.
    pub entries: Vec<AuditEntry>,
    /// The log's end at this moment, `number:link`: noted elsewhere, it lets `audit verify --head` find a tail that was cut.
    pub head: String,
}

/// One thing that an operator did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Number of the log's entry that it stands in.
    pub entry: u64,
    /// What.
    #[serde(flatten)]
    pub act: Act,
}

/// What an operator did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// When.
    pub time: Timestamp,
    /// Who, as the client said.
    pub who: String,
    /// The command: `deploy`, `release`, `token create`, …
    pub command: String,
    /// To what, in words.
    pub what: String,
    /// The deployment's id, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// The plan's hash, if it began a deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Why, if the operator said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it was not done, if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Answer to `GET /v1/audit/verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditVerdict {
    /// What this is.
    pub schema: VerdictSchema,
    /// Entries from the first on that are as they were written.
    pub entries: u64,
    /// Where they end, `number:link`.
    pub head: String,
    /// The first thing that is wrong.
    #[serde(default)]
    pub broken: Option<AuditBreak>,
}

/// Where the log is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditBreak {
    /// The first entry that is not.
    pub entry: u64,
    /// Where it should stand, in bytes from the start of the file.
    pub offset: u64,
    /// What is wrong.
    pub cause: String,
}

impl Default for Act {
    fn default() -> Self {
        Self {
            time: WallTime(0).into(),
            who: String::new(),
            command: String::new(),
            what: String::new(),
            deployment: None,
            plan: None,
            reason: None,
            refused: None,
        }
    }
}
