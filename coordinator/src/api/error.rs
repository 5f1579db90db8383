//! What goes wrong with a request: a code for programs, a message and a next step for people.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::types::ErrorSchema;

/// Why a request was refused or could not be answered; its body in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct ApiError {
    /// What this is.
    #[serde(default)]
    pub schema: ErrorSchema,
    /// Which kind, for programs.
    pub code: ErrorCode,
    /// What happened, naming the thing and the cause.
    pub message: String,
    /// What to do about it, if something can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The id of the deployment that is in the way, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// Kinds of errors that programs tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request, or the file in it, is wrong.
    BadRequest,
    /// The bearer token is missing or wrong.
    NotAllowed,
    /// Nothing has that id or name.
    NotFound,
    /// It cannot be done as things stand, such as answering for a deployment that ended.
    Conflict,
    /// A deployment does not begin: another one has its nodes, or its plan does not hold any more.
    Blocked,
    /// Bytes do not have the hash that they must have, such as a package that changed in its feed.
    Integrity,
    /// The coordinator is starting, stopping, or did not answer in time.
    Unavailable,
    /// Something outside failed, such as a feed or a disk.
    Failed,
    /// A kind that this program does not know.
    #[serde(other)]
    Other,
}

impl ApiError {
    /// An error without a next step.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { schema: ErrorSchema::V1, code, message: message.into(), next: None, held: None }
    }

    /// The same error with a next step.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}
