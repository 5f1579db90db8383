//! `shoal audit`: what operators did, and whether the log of it is as it was written; over the API, or from the file.

use std::path::PathBuf;

use super::args::{AuditCommand, AuditSource};
use super::client::Client;
use super::exit::{CliError, Exit};
use super::render::or_none;
use super::summary::UNKNOWN;
use super::table::{Cell, Paint, Style, Table};
use super::terminal::Terminal;
use crate::api::types::{Audit, AuditSchema, AuditVerdict};
use crate::audit::{AuditError, Head, Verdict};
use crate::trail;

/// Does `command` on the file that it names; none if it names none, and the coordinator is to be asked.
///
/// # Errors
/// If the file is no audit log.
pub fn offline(terminal: &mut Terminal, command: &AuditCommand) -> Result<Option<Exit>, CliError> {
    let (source, count, known) = match command {
        AuditCommand::Ls { source, count } => (source, *count as usize, None),
        AuditCommand::Verify { source, head } => (source, 0, *head),
    };
    let Some(path) = path(source) else { return Ok(None) };
    let failed = |error: AuditError| {
        let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
        CliError::new(Exit::Usage, format!("{error}{cause}"))
    };
    let (entries, verdict) = trail::read(&path, count, known).map_err(failed)?;
    let head = verdict.head.to_string();
    match command {
        AuditCommand::Ls { .. } => {
            let exit = if verdict.broken.is_some() { Exit::Integrity } else { Exit::Done };
            list(terminal, &Audit { schema: AuditSchema::V1, entries, head })?;
            if exit == Exit::Integrity {
                terminal.note(&broken_sentence(&AuditVerdict::from(verdict)));
            }
            Ok(Some(exit))
        }
        AuditCommand::Verify { .. } => conclude(terminal, &verdict.into()).map(Some),
    }
}

/// Asks the coordinator.
///
/// # Errors
/// If it does not answer.
pub async fn online(client: &Client, terminal: &mut Terminal, command: AuditCommand) -> Result<Exit, CliError> {
    match command {
        AuditCommand::Ls { count, .. } => {
            list(terminal, &client.audit(count).await?)?;
            Ok(Exit::Done)
        }
        AuditCommand::Verify { head, .. } => conclude(terminal, &client.verify_audit(head).await?),
    }
}

fn path(source: &AuditSource) -> Option<PathBuf> {
    source.file.clone().or_else(|| Some(source.data_dir.as_ref()?.join("audit.log")))
}

fn list(terminal: &mut Terminal, audit: &Audit) -> Result<(), CliError> {
    terminal.list(audit, &audit.entries, render)?;
    terminal.note(&format!("the log ends at {}", audit.head));
    Ok(())
}

fn conclude(terminal: &mut Terminal, verdict: &AuditVerdict) -> Result<Exit, CliError> {
    let sentence = match &verdict.broken {
        Some(_) => broken_sentence(verdict),
        None => format!("{} entries are as they were written; the log ends at {}", verdict.entries, verdict.head),
    };
    match terminal.format {
        super::args::Format::Table => terminal.text(&format!("{sentence}\n"))?,
        _ => terminal.json(verdict)?,
    }
    Ok(if verdict.broken.is_some() { Exit::Integrity } else { Exit::Done })
}

fn broken_sentence(verdict: &AuditVerdict) -> String {
    let Some(broken) = &verdict.broken else { return String::new() };
    let (entry, offset) = (broken.entry, broken.offset);
    format!(
        "entry {entry} at byte {offset} is not as it was written: {}; {} before it are",
        broken.cause, verdict.entries
    )
}

fn render(audit: &Audit, paint: Paint) -> String {
    let mut table = Table::new(0, &["entry", "time", "who", "command", "what", "plan", "reason"]);
    for entry in &audit.entries {
        let act = &entry.act;
        let plan = act.plan.as_ref().map_or(UNKNOWN, |plan| &plan[..plan.floor_char_boundary(8)]);
        let what = match &act.refused {
            Some(cause) => Cell::new(format!("{} (refused: {cause})", act.what), Style::Warn),
            None => act.what.as_str().into(),
        };
        table.row([
            entry.entry.to_string().into(),
            act.time.to_string().into(),
            act.who.as_str().into(),
            act.command.as_str().into(),
            what,
            plan.into(),
            act.reason.as_deref().unwrap_or(UNKNOWN).into(),
        ]);
    }
    or_none(audit.entries.is_empty(), "no operator did anything yet", table, paint)
}

impl From<Verdict> for AuditVerdict {
    fn from(verdict: Verdict) -> Self {
        let broken = verdict.broken.map(|broken| crate::api::types::AuditBreak {
            entry: broken.number,
            offset: broken.offset,
            cause: broken.cause.to_string(),
        });
        let Head { number, .. } = verdict.head;
        Self { schema: Default::default(), entries: number, head: verdict.head.to_string(), broken }
    }
}
