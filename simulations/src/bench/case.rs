//! What one run is made of, and the least time that it could take.

use std::time::Duration;

use shoal_proto::limits::{PART_TIME, TRANSFERS_MIN};
use shoal_proto::rng::Rng;
use shoal_proto::wan::credit::Terms;

/// Bytes of a segment, on average.
const SEGMENT_BYTES: f64 = 64.0 * 1024.0;

/// Blocks that a node's link is shared by.
const BLOCKS_AT_A_TIME: f64 = TRANSFERS_MIN as f64;

/// One site and one package. Rates in bytes a second.
#[derive(Clone, Debug)]
pub struct Case {
    /// Nodes of the site.
    pub nodes: usize,
    /// Blocks of the package.
    pub blocks: u32,
    /// Bytes of each block.
    pub block_bytes: u32,
    /// An ordinary node's link, each way.
    pub lan: f64,
    /// The site's WAN as multiple of `lan`.
    pub wan: f64,
    /// The part of the nodes that is killed, at random times before the bound.
    pub churn: f64,
    /// The part of the nodes that is slow.
    pub slow: f64,
    /// The speed of a slow node as multiple of `lan`.
    pub slow_speed: f64,
    /// Other nodes' speeds are from `1 / spread` to `spread` times `lan`.
    pub spread: f64,
    /// The part of the nodes that must be done.
    pub quorum: f64,
    /// A message's way to a neighbour.
    pub to_neighbour: Duration,
    /// A message's way to the coordinator.
    pub to_coordinator: Duration,
    /// Where random choices start from.
    pub seed: u64,
    /// Whether every core's invariants are checked now and then, which takes long.
    pub check: bool,
}

impl Case {
    /// 200 equal nodes, 256 MiB in 256 blocks, a WAN like a node's link.
    pub const DEFAULT: Self = Self {
        nodes: 200,
        blocks: 256,
        block_bytes: 1024 * 1024,
        lan: 25e6,
        wan: 1.0,
        churn: 0.0,
        slow: 0.0,
        slow_speed: 0.1,
        spread: 1.0,
        quorum: 1.0,
        to_neighbour: Duration::from_micros(500),
        to_coordinator: Duration::from_millis(10),
        seed: 1,
        check: false,
    };

    /// Bytes of the package.
    pub(super) fn package_bytes(&self) -> f64 {
        f64::from(self.blocks) * f64::from(self.block_bytes)
    }

    /// How many parts a block comes in. A node passes on what it wrote, which is what came within [`PART_TIME`], and one
    /// segment at least. Over the WAN parts are read as a whole here, so that a reader's first credit pays for one.
    pub(super) fn parts(&self) -> u32 {
        let credit = Terms::first_step(self.block_bytes) as f64;
        let written = (self.lan / BLOCKS_AT_A_TIME * PART_TIME.as_secs_f64()).max(SEGMENT_BYTES).min(credit);
        ((f64::from(self.block_bytes) / written).ceil() as u32).max(1)
    }

    /// Bytes of a part.
    pub(super) fn part_bytes(&self) -> f64 {
        f64::from(self.block_bytes) / f64::from(self.parts())
    }

    /// The WAN's rate.
    pub(super) fn wan_rate(&self) -> f64 {
        self.wan * self.lan
    }

    /// The rate of each node's link. The slow ones are scattered.
    pub(super) fn speeds(&self, rng: &mut Rng) -> Vec<f64> {
        let unit = |rng: &mut Rng| rng.below(1 << 32) as f64 / f64::from(u32::MAX);
        let mut speeds: Vec<_> = (0..self.nodes).map(|_| self.lan * self.spread.powf(2.0 * unit(rng) - 1.0)).collect();
        let slow = (self.slow * self.nodes as f64).round() as usize;
        pick(self.nodes, slow, rng).into_iter().for_each(|node| speeds[node] = self.lan * self.slow_speed);
        speeds
    }

    /// Who is killed, and when as part of the bound.
    pub(super) fn victims(&self, rng: &mut Rng) -> Vec<(usize, f64)> {
        let count = (self.churn * self.nodes as f64).round() as usize;
        let victims = pick(self.nodes, count.min(self.nodes.saturating_sub(1)), rng);
        victims.into_iter().map(|node| (node, rng.below(1000) as f64 / 1000.0)).collect()
    }

    /// How many of `alive` nodes must be done.
    pub(super) fn needed(&self, alive: usize) -> usize {
        ((self.quorum * alive as f64).ceil() as usize).clamp(1, alive)
    }

    /// The least time until the quorum of nodes with these speeds is done, in seconds.
    pub(super) fn bound(&self, speeds: &[f64]) -> f64 {
        let package = self.package_bytes();
        let mut sorted = speeds.to_vec();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let needed = self.needed(speeds.len());
        let slowest = sorted[needed - 1];
        let senders = self.wan_rate() + speeds.iter().sum::<f64>();
        (package / self.wan_rate()).max(package / slowest).max(needed as f64 * package / senders)
    }
}

/// `count` different numbers below `of`.
fn pick(of: usize, count: usize, rng: &mut Rng) -> Vec<usize> {
    let mut all: Vec<_> = (0..of).collect();
    for at in 0..count.min(of) {
        let other = at + rng.below((of - at) as u64) as usize;
        all.swap(at, other);
    }
    all.truncate(count);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_the_narrowest_place() {
        let case = Case { nodes: 4, blocks: 100, block_bytes: 1000, lan: 1000.0, ..Case::DEFAULT };
        let bound = |case: &Case, speeds: &[f64]| case.bound(speeds);
        let equal = [1000.0; 4];
        assert_eq!(bound(&Case { wan: 0.5, ..case }, &equal), 200.0, "the WAN");
        assert_eq!(bound(&Case { wan: 4.0, ..case }, &equal), 100.0, "a node's link");
        assert_eq!(bound(&case, &[1000.0, 1000.0, 1000.0, 100.0]), 1000.0, "the slowest node");
        let quorum = Case { quorum: 0.75, ..case };
        assert_eq!(bound(&quorum, &[1000.0, 1000.0, 1000.0, 100.0]), 100.0, "which the quorum does not need");
        let fast = Case { wan: 10.0, quorum: 0.25, ..case };
        assert_eq!(bound(&fast, &[10.0, 10.0, 10.0, 1000.0]), 100.0);
    }

    #[test]
    fn a_readers_first_credit_pays_for_a_part_however_fast_the_links_are() {
        for (lan, block_bytes) in
            [(25e6, 1 << 20), (300e6, 1 << 20), (300e6, 3_000_000), (10e9, 4 << 20), (1e9, 1 << 17)]
        {
            let case = Case { lan, block_bytes, ..Case::DEFAULT };
            let parts = (case.part_bytes(), case.parts());
            assert!(parts.0 <= Terms::first_step(block_bytes) as f64, "{parts:?} of {block_bytes} at {lan}");
        }
    }

    #[test]
    fn as_many_are_picked_as_were_asked_for_and_each_once() {
        let mut picked = pick(50, 20, &mut Rng::new(3));
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked.len(), 20);
        assert!(picked.iter().all(|node| *node < 50));
        assert_eq!(Case { churn: 1.0, nodes: 9, ..Case::DEFAULT }.victims(&mut Rng::new(1)).len(), 8, "one lives");
    }
}
