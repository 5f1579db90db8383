//! How the program ends: exit codes that scripts rely on, and errors that name the next step.

use std::fmt;
use std::process::ExitCode;

use shoal_proto::id::DeploymentId;

use crate::api::types::DeploymentState;
use crate::api::{ApiError, ErrorCode};

/// Exit codes (PRODUCT.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Something unexpected.
    Unexpected = 1,
    /// The command line, or a file, is wrong.
    Usage = 2,
    /// The deployment failed or was cancelled.
    Failed = 3,
    /// The deployment succeeded without some nodes.
    WithoutSome = 4,
    /// A gate, an operator or another deployment is waited for, or a plan does not hold any more.
    Blocked = 5,
    /// The wait timed out; the deployment goes on.
    TimedOut = 6,
    /// The coordinator cannot be reached.
    Unreachable = 7,
    /// The coordinator does not know the token.
    NotAllowed = 8,
    /// Bytes do not have the hash that they must have.
    Integrity = 9,
    /// Ctrl-C; the deployment goes on.
    Detached = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// For a deployment that ended in `state`, without `excluded` of its nodes.
    pub fn of_deployment(state: DeploymentState, excluded: usize) -> Self {
        match state {
            DeploymentState::Succeeded if excluded == 0 => Self::Done,
            DeploymentState::Succeeded => Self::WithoutSome,
            DeploymentState::Failed | DeploymentState::Cancelled => Self::Failed,
            DeploymentState::Running => Self::TimedOut,
            DeploymentState::Paused | DeploymentState::Blocked => Self::Blocked,
        }
    }
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// The exit code.
    pub exit: Exit,
    /// What happened, naming the thing and the cause; empty if there is nothing to say.
    pub message: String,
    /// What to do about it, if something can be said.
    pub next: Option<String>,
    /// The deployment that is in the way, if it is one.
    pub held: Option<DeploymentId>,
}

impl CliError {
    /// An error without a next step.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), next: None, held: None }
    }

    /// The same error with a next step.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        self.next.as_ref().map_or(Ok(()), |next| write!(f, "\n  {next}"))
    }
}

impl std::error::Error for CliError {}

impl From<ApiError> for CliError {
    fn from(error: ApiError) -> Self {
        let exit = match error.code {
            ErrorCode::BadRequest | ErrorCode::NotFound | ErrorCode::Conflict => Exit::Usage,
            ErrorCode::Blocked => Exit::Blocked,
            ErrorCode::NotAllowed => Exit::NotAllowed,
            ErrorCode::Integrity => Exit::Integrity,
            ErrorCode::Unavailable => Exit::Unreachable,
            ErrorCode::Failed | ErrorCode::Other => Exit::Unexpected,
        };
        let held = error.held.and_then(|id| id.parse().ok());
        Self { exit, message: error.message, next: error.next, held }
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // The reader, such as `head`, has seen enough.
            std::io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::new(Exit::Unexpected, format!("cannot print: {error}")),
        }
    }
}
