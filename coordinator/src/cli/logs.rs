//! `shoal logs`: what steps wrote, page by page, and on request until the deployment ends.

use std::time::Duration;

use super::args::{Format, LogsArgs};
use super::client::Client;
use super::exit::CliError;
use super::table::{Style, printable};
use super::terminal::Terminal;
use super::watch::patiently;
use crate::api::command::LogFilter;
use crate::api::limits::WAIT_MS_MAX;
use crate::api::types::{LogLine, Logs, Stream};

/// Prints the lines that `args` asks for.
///
/// # Errors
/// If the coordinator does not answer or standard output cannot be written.
pub async fn run(client: &Client, terminal: &mut Terminal, args: LogsArgs) -> Result<(), CliError> {
    let filter = LogFilter { node: args.node, step: args.step };
    let wait = if args.follow { Duration::from_millis(WAIT_MS_MAX) } else { Duration::ZERO };
    let mut after = 0;
    loop {
        let request = || client.logs(args.id, &filter, after, wait);
        // Once there were lines, a coordinator that restarts is waited for.
        let page = if after > 0 { patiently(terminal, request).await? } else { request().await? };
        print(terminal, &page)?;
        // A page without lines can still move on: past lines of other nodes and steps.
        let (at_end, moved) = (page.lines.is_empty() && page.next <= after, page.next > after);
        after = page.next.max(after);
        if (page.ended && !moved) || (at_end && !args.follow) {
            return Ok(());
        }
    }
}

fn print(terminal: &mut Terminal, page: &Logs) -> Result<(), CliError> {
    match terminal.format {
        Format::Json if page.lines.is_empty() => Ok(()),
        Format::Json => terminal.json(page),
        Format::Jsonl => page.lines.iter().try_for_each(|line| terminal.json(line)),
        Format::Table => page.lines.iter().try_for_each(|line| terminal.text(&shown(terminal, line))),
    }
}

fn shown(terminal: &Terminal, line: &LogLine) -> String {
    let attempt = if line.attempt > 1 { format!(" #{}", line.attempt) } else { String::new() };
    let origin = terminal.paint.paint(Style::Dim, &format!("{} {}{attempt}:", line.node, line.step));
    let text = if terminal.out_is_terminal { printable(&line.text) } else { line.text.clone() };
    let style = if line.stream == Stream::Notice { Style::Warn } else { Style::Plain };
    format!("{origin} {}\n", terminal.paint.paint(style, &text))
}
