//! What steps wrote, line by line: kept in one file per deployment, as JSON lines.
//!
//! Not part of the journal: a crash may lose the last lines, never a decision. Lines that are still without an end are held
//! back until they have one or their run is over.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use shoal_proto::id::{DeploymentId, NodeId};
use shoal_proto::limits::OUTPUT_CHUNK_BYTES_MAX;
use shoal_proto::wire::{OutputStream, StepRun};
use tracing::warn;

use crate::api::command::LogFilter;
use crate::api::types::{LogLine, Stream, Timestamp};

/// Lines kept in memory and given out per deployment; the file has all of them.
const LINES_KEPT_MAX: usize = 100_000;

/// Letters of one line; a longer one is cut in two.
const LINE_LEN_MAX: usize = OUTPUT_CHUNK_BYTES_MAX;

/// Output of all deployments that were looked at or wrote something since the start.
#[derive(Debug)]
pub(super) struct LogBook {
    folder: PathBuf,
    books: BTreeMap<DeploymentId, Book>,
}

#[derive(Debug, Default)]
struct Book {
    lines: VecDeque<LogLine>,
    last: u64,
    file: Option<File>,
    begun: BTreeMap<(Option<NodeId>, StepRun, u8), String>,
}

/// Whose output it is.
pub(super) struct Writer {
    pub(super) node: Option<NodeId>,
    pub(super) node_name: String,
    pub(super) step_name: String,
    pub(super) run: StepRun,
    pub(super) stream: OutputStream,
}

impl LogBook {
    /// Keeps files in `folder`, made when the first line comes.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, books: BTreeMap::new() }
    }

    fn book(&mut self, id: DeploymentId) -> &mut Book {
        let folder = &self.folder;
        self.books.entry(id).or_insert_with(|| {
            let path = folder.join(format!("{id}.jsonl"));
            let mut book = Book::default();
            if let Ok(file) = File::open(&path) {
                // A line torn by a crash is left out.
                let lines = BufReader::new(file).lines().map_while(Result::ok);
                lines.filter_map(|line| serde_json::from_str(&line).ok()).for_each(|line| book.keep(line));
            }
            let opened =
                fs::create_dir_all(folder).and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
            match opened {
                Ok(file) => book.file = Some(file),
                Err(error) => warn!(path = %path.display(), %error, "output of steps is kept in memory only"),
            }
            book
        })
    }

    /// Takes a piece of output.
    pub(super) fn write(&mut self, writer: &Writer, text: &str) {
        let book = self.book(writer.run.deployment);
        let key = (writer.node, writer.run, writer.stream as u8);
        let mut begun = book.begun.remove(&key).unwrap_or_default();
        begun.push_str(text);
        while let Some(end) = line_end(&begun) {
            let rest = begun.split_off(end);
            book.line(writer, begun.trim_end_matches(['\n', '\r']));
            begun = rest;
        }
        if !begun.is_empty() {
            book.begun.insert(key, begun);
        }
    }

    /// Gives the lines of a run that is over their end.
    pub(super) fn end(&mut self, writer: &Writer) {
        let book = self.book(writer.run.deployment);
        for stream in [OutputStream::Stdout, OutputStream::Stderr, OutputStream::Notice] {
            if let Some(begun) = book.begun.remove(&(writer.node, writer.run, stream as u8)) {
                let node_name = writer.node_name.clone();
                let writer = Writer { stream, node_name, step_name: writer.step_name.clone(), ..*writer };
                book.line(&writer, &begun);
            }
        }
    }

    /// Lines after number `after` that `filter` lets through, at most `max`; the number to go on from.
    pub(super) fn after(
        &mut self,
        id: DeploymentId,
        after: u64,
        filter: &LogFilter,
        max: usize,
    ) -> (Vec<LogLine>, u64) {
        let book = self.book(id);
        let start = book.lines.partition_point(|line| line.seq <= after);
        let wanted = |line: &&LogLine| {
            filter.node.as_ref().is_none_or(|node| line.node == node.as_str())
                && filter.step.as_ref().is_none_or(|step| line.step == step.as_str())
        };
        let lines: Vec<LogLine> = book.lines.range(start..).filter(wanted).take(max).cloned().collect();
        let next = match lines.last() {
            Some(last) if lines.len() == max => last.seq,
            _ => book.last.max(after),
        };
        (lines, next)
    }

    /// The last lines of a step on a node.
    pub(super) fn tail(&mut self, id: DeploymentId, node: &str, step: &str, max: usize) -> Vec<String> {
        let lines = self.book(id).lines.iter().rev().filter(|line| line.node == node && line.step == step);
        let mut tail: Vec<String> = lines.take(max).map(|line| line.text.clone()).collect();
        tail.reverse();
        tail
    }
}

/// Where the first line of `text` ends, its line end included.
fn line_end(text: &str) -> Option<usize> {
    let end = text.find('\n').map(|at| at + 1);
    let cut = (text.len() > LINE_LEN_MAX).then(|| text.floor_char_boundary(LINE_LEN_MAX));
    end.into_iter().chain(cut).min()
}

impl Book {
    fn line(&mut self, writer: &Writer, text: &str) {
        let stream = match writer.stream {
            OutputStream::Stdout => Stream::Stdout,
            OutputStream::Stderr => Stream::Stderr,
            OutputStream::Notice => Stream::Notice,
        };
        let line = LogLine {
            seq: self.last + 1,
            time: Timestamp::now(),
            node: writer.node_name.clone(),
            step: writer.step_name.clone(),
            attempt: writer.run.attempt,
            stream,
            text: text.to_owned(),
        };
        if let (Some(file), Ok(mut json)) = (&mut self.file, serde_json::to_string(&line)) {
            json.push('\n');
            if let Err(error) = file.write_all(json.as_bytes()) {
                warn!(%error, "output of steps is kept in memory only");
                self.file = None;
            }
        }
        self.keep(line);
    }

    fn keep(&mut self, line: LogLine) {
        self.last = self.last.max(line.seq);
        self.lines.push_back(line);
        if self.lines.len() > LINES_KEPT_MAX {
            self.lines.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::id::StepIndex;
    use shoal_proto::manifest::{Phase, StepRef};

    use super::*;

    fn writer(node: &str) -> Writer {
        let step = StepRef { phase: Phase::Steps, index: StepIndex(0) };
        let run = StepRun { deployment: DeploymentId(3), step, attempt: 1 };
        let (node_name, step_name) = (node.to_owned(), "prove".to_owned());
        Writer { node: None, node_name, step_name, run, stream: OutputStream::Stdout }
    }

    fn texts(book: &mut LogBook, after: u64) -> Vec<String> {
        book.after(DeploymentId(3), after, &LogFilter::default(), 100).0.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_whole_and_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = LogBook::new(folder.path().join("logs"));
        book.write(&writer("a"), "one\r\ntw");
        assert_eq!(texts(&mut book, 0), ["one"]);
        book.write(&writer("a"), "o\nthree");
        assert_eq!(texts(&mut book, 1), ["two"]);
        book.end(&writer("a"));
        let mut again = LogBook::new(folder.path().join("logs"));
        assert_eq!(texts(&mut again, 0), ["one", "two", "three"]);
        again.write(&writer("b"), "four\n");
        assert_eq!(texts(&mut again, 3), ["four"]);
        let only = LogFilter { node: Some(shoal_proto::id::Name::new("b").unwrap()), step: None };
        assert_eq!(again.after(DeploymentId(3), 0, &only, 100).0.len(), 1);
        assert_eq!(again.tail(DeploymentId(3), "a", "prove", 2), ["two", "three"]);
    }
}
