//! What operators did, written down with what followed from it, listed, and verified.

use shoal_proto::id::DeploymentId;

use super::{ServeError, Server};
use crate::api::command::Reply;
use crate::api::types::{Act, Action, Answer, Audit, AuditSchema, AuditVerdict};
use crate::api::{ApiError, ErrorCode};
use crate::audit::{self, Broken, Cause, Head};
use crate::trail::{self, By};

/// An act in the making: what, but not yet by whom.
pub(super) fn done(command: &str, what: String) -> Act {
    Act { command: command.to_owned(), what, ..Act::default() }
}

/// What steers a deployment.
pub(super) fn of_action(id: DeploymentId, action: &Action) -> Act {
    let (command, what) = match action {
        Action::Pause => ("pause", id.to_string()),
        Action::Resume => ("resume", id.to_string()),
        Action::Release { now: false } => ("release", id.to_string()),
        Action::Release { now: true } => ("release", format!("{id} now")),
        Action::AnyHour => ("override-window", id.to_string()),
        Action::KeepHours => ("override-window", format!("{id} ends")),
        Action::Promote => ("promote", id.to_string()),
        Action::Cancel => ("cancel", id.to_string()),
        Action::Rollback { .. } => ("rollback", id.to_string()),
        Action::Answer { answer, node, step } => {
            let command = match answer {
                Answer::Retry => "retry",
                Answer::Ignore => "ignore",
                Answer::Exclude => "exclude",
                Answer::Fail => "fail",
            };
            let node = node.as_ref().map_or_else(String::new, |node| format!(" on {node}"));
            let step = step.as_ref().map_or_else(String::new, |step| format!(" step {step}"));
            (command, format!("{id}{step}{node}"))
        }
    };
    let plan = match action {
        Action::Rollback { plan } => plan.clone(),
        _ => None,
    };
    Act { deployment: Some(id.to_string()), plan, ..done(command, what) }
}

impl Server {
    /// Has an act and what follows from it made durable, then answers (ACKED-IS-KEPT).
    pub(super) async fn conclude<T>(
        &mut self,
        by: By,
        act: Act,
        answer: Result<T, ApiError>,
        reply: Reply<T>,
    ) -> Result<(), ServeError> {
        self.note_act(by, act, answer.as_ref().err());
        self.settle().await?;
        // The operator's client may be gone.
        let _ = reply.send(answer);
        Ok(())
    }

    /// Puts an act before all that is not durable yet.
    pub(super) fn note_act(&mut self, by: By, act: Act, refused: Option<&ApiError>) {
        let By { who, reason } = by;
        let refused = refused.map(|error| error.message.clone());
        self.acts.push(trail::entry(Act { time: self.now().wall.into(), who, reason, refused, ..act }));
    }

    pub(super) fn audit(&self, count: usize) -> Audit {
        Audit { schema: AuditSchema::V1, entries: self.trail.newest(count), head: self.journal.head().to_string() }
    }

    /// Reads the log from its first byte, in a task, up to where it is at this moment.
    pub(super) fn verify_audit(&self, known: Option<Head>, reply: Reply<AuditVerdict>) {
        let (path, len_bytes) = self.journal.audit_file();
        let (path, head) = (path.to_owned(), self.journal.head());
        tokio::task::spawn_blocking(move || {
            let verdict = audit::verify(&path, len_bytes, known, |_| {}).map(|mut verdict| {
                // What this process wrote is not there, or not as it wrote it.
                if verdict.broken.is_none() && verdict.head != head {
                    let cause = Cause::Short { known: head };
                    verdict.broken = Some(Broken { number: verdict.head.number + 1, offset: len_bytes, cause });
                }
                AuditVerdict::from(verdict)
            });
            let failed = |error: audit::AuditError| ApiError::new(ErrorCode::Failed, error.to_string());
            let _ = reply.send(verdict.map_err(failed));
        });
    }
}
