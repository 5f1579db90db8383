//! What happened in a run, as a hash that two runs of one seed must share, and as lines for people.

use std::fmt;
use std::io::Write;

use shoal_proto::time::Time;

/// Every event and output of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    hasher: blake3::Hasher,
    print: bool,
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Self { hasher: blake3::Hasher::new(), print }
    }

    pub(crate) fn note(&mut self, at: Time, what: fmt::Arguments<'_>) {
        write!(self.hasher, "{} {what}", at.as_nanos()).expect("a hasher takes all bytes");
        if self.print {
            // Nobody reads any more: the run goes on for its verdict.
            let _ = writeln!(std::io::stdout().lock(), "{:>12.6} {what}", at.since(Time::ZERO).as_secs_f64());
        }
    }

    pub(crate) fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}
