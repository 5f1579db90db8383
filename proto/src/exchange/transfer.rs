//! The exchange.

use std::collections::VecDeque;

use super::{Input, Output, Stats, Why};
use crate::content::BlockSet;
use crate::time::Time;

/// One content's trade with the neighbours.
#[derive(Debug)]
pub struct Exchange {
    have: BlockSet,
    outputs: VecDeque<Output>,
}

impl Exchange {
    /// An exchange for a content whose blocks have these sizes in bytes, on a node that has `have` of them.
    pub fn new(_block_bytes: &[u32], have: BlockSet, _seed: u64) -> Self {
        Self { have, outputs: VecDeque::new() }
    }

    /// Takes one input; [`Exchange::poll`] has what follows from it. `now` never goes back.
    pub fn handle(&mut self, _input: Input, _now: Time) {}

    /// What the shell is to do next, if anything.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due unless another input comes first, and why.
    pub fn next_wake(&self) -> Option<(Time, Why)> {
        None
    }

    /// The blocks that this node has.
    pub fn have(&self) -> &BlockSet {
        &self.have
    }

    /// The sums, for progress and metrics.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Asserts every invariant; a panic is a bug of this crate.
    pub fn check(&self) {}
}
