//! What came of a run.

use std::fmt;

/// The figures of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Until the quorum was done.
    pub seconds: f64,
    /// The least possible time.
    pub bound_seconds: f64,
    /// What crossed the WAN, in packages.
    pub wan_copies: f64,
    /// The part of what peers sent that was of no use: sent twice, or taken back half-way.
    pub wasted: f64,
    /// The most requests that one node had open at the same time.
    pub in_flight_max: usize,
    /// Control messages for each block that a node got.
    pub messages_per_block: f64,
    /// Requests that were taken from a slow neighbour.
    pub steals: u64,
    /// Nodes that were done and those alive at the end.
    pub done: [usize; 2],
    /// When each node that was done was, in seconds, ascending.
    pub done_at: Vec<f64>,
    /// Events that were simulated.
    pub events: u64,
}

impl Outcome {
    /// Completion in bounds.
    pub fn ratio(&self) -> f64 {
        self.seconds / self.bound_seconds
    }

    /// When this part of the nodes was done, in bounds.
    pub fn ratio_at(&self, part: f64) -> f64 {
        let rank = (part * self.done_at.len() as f64).ceil() as usize;
        self.done_at.get(rank.clamp(1, self.done_at.len().max(1)) - 1).map_or(f64::NAN, |at| at / self.bound_seconds)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [done, alive] = self.done;
        write!(
            f,
            "{:7.3} s {:6.4} x bound  copies {:6.4}  wasted {:6.4}  in flight {:3}  {:5.2} messages a block  {done}/{alive} done",
            self.seconds,
            self.ratio(),
            self.wan_copies,
            self.wasted,
            self.in_flight_max,
            self.messages_per_block,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_rank() {
        let outcome = Outcome {
            seconds: 20.0,
            bound_seconds: 10.0,
            wan_copies: 1.0,
            wasted: 0.0,
            in_flight_max: 1,
            messages_per_block: 1.0,
            steals: 0,
            done: [100, 100],
            done_at: (1..=100).map(f64::from).collect(),
            events: 0,
        };
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|part| outcome.ratio_at(part)), [0.1, 5.0, 9.9, 10.0]);
    }
}
