//! Where the program prints: data to one stream, progress and messages to the other, as the global options say.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::args::{Color, Format, Global};
use super::exit::{CliError, Exit};
use super::table::{Paint, Style, printable};

/// The two streams and how to use them.
pub struct Terminal {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// How results are printed.
    pub format: Format,
    /// Colours of results.
    pub paint: Paint,
    /// Colours of messages.
    pub err_paint: Paint,
    /// Whether results are seen by a person: control characters are kept from the terminal.
    pub out_is_terminal: bool,
    /// Whether progress can be drawn over itself.
    pub err_is_terminal: bool,
    /// No progress.
    pub quiet: bool,
    /// Every node's progress.
    pub verbose: bool,
}

impl Terminal {
    /// The process's own streams.
    pub fn standard(global: &Global) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let mut terminal = Self::new(global, Box::new(io::sink()), Box::new(io::sink()));
        terminal.out_is_terminal = out.is_terminal();
        terminal.err_is_terminal = err.is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if global.color == Color::Auto && !plain {
            terminal.paint.on = terminal.out_is_terminal;
            terminal.err_paint.on = terminal.err_is_terminal;
        }
        Self { out: Box::new(out), err: Box::new(err), ..terminal }
    }

    /// Other streams, neither a terminal.
    pub fn new(global: &Global, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        let paint = Paint { on: global.color == Color::Always };
        Self {
            out,
            err,
            format: global.output,
            paint,
            err_paint: paint,
            out_is_terminal: false,
            err_is_terminal: false,
            quiet: global.quiet,
            verbose: global.verbose > 0,
        }
    }

    /// Prints a result for people, or for programs in lines.
    ///
    /// # Errors
    /// If standard output does not take it.
    pub fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Prints one document in one line.
    ///
    /// # Errors
    /// If standard output does not take it.
    pub fn json(&mut self, document: &impl Serialize) -> Result<(), CliError> {
        let mut line = serde_json::to_string(document).map_err(io::Error::from)?;
        line.push('\n');
        self.text(&line)
    }

    /// Prints `document` as the format asks: a table made by `table`, one document, or one line for each of its `items`.
    ///
    /// # Errors
    /// If standard output does not take it.
    pub fn list<D: Serialize, I: Serialize>(
        &mut self,
        document: &D,
        items: &[I],
        table: impl FnOnce(&D, Paint) -> String,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Table => self.text(&table(document, self.paint)),
            Format::Json => self.json(document),
            Format::Jsonl => items.iter().try_for_each(|item| self.json(item)),
        }
    }

    /// Says something beside the results, unless it is to be quiet.
    pub fn note(&mut self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// Says why the command was not done.
    pub fn error(&mut self, error: &CliError) {
        let word = match error.exit {
            // Not errors: what was asked for is still going on.
            Exit::Detached | Exit::TimedOut | Exit::Blocked => String::new(),
            _ => self.err_paint.paint(Style::Bad, "error:") + " ",
        };
        let lines: Vec<_> = error.to_string().lines().map(printable).collect();
        self.say(&format!("{word}{}", lines.join("\n")));
    }

    fn say(&mut self, text: &str) {
        // Nothing is left to do when not even this can be written.
        let _ = writeln!(self.err, "{text}").and_then(|()| self.err.flush());
    }
}
