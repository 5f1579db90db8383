//! The ledger.

use std::collections::VecDeque;

use super::{Config, Input, Output, Stats, Why};
use crate::time::Time;

/// The leases of one site for one content.
#[derive(Debug)]
pub struct WanLedger {
    outputs: VecDeque<Output>,
}

impl WanLedger {
    /// A ledger for a content whose blocks have these sizes in bytes, that knows of no node.
    pub fn new(_config: Config, _block_bytes: &[u32]) -> Self {
        Self { outputs: VecDeque::new() }
    }

    /// Takes one input; [`WanLedger::poll`] has what follows from it. `now` never goes back.
    pub fn handle(&mut self, _input: Input, _now: Time) {}

    /// What the shell is to do next, if anything.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due unless another input comes first, and why.
    pub fn next_wake(&self) -> Option<(Time, Why)> {
        None
    }

    /// The sums, for progress and summary.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Asserts every invariant; a panic is a bug of this crate.
    pub fn check(&self) {}
}
