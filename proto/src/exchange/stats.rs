//! What an exchange counts, and its invariants derived a second time from the raw tables.

use serde::{Deserialize, Serialize};

use super::neighbours::Place;
use super::transfer::{Exchange, State};
use crate::id::BlockIndex;
use crate::limits::{NEIGHBOURS_MAX, REQUESTED_BYTES_MAX};
use crate::time::Time;

/// The sums of one exchange, in bytes unless named otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Blocks that this node has.
    pub have_blocks: u32,
    /// Their bytes.
    pub have_bytes: u64,
    /// Blocks that neighbours were asked for.
    pub requested_blocks: u32,
    /// Blocks that this node reads over the WAN.
    pub leased_blocks: u32,
    /// Neighbours that are connected.
    pub neighbours: u32,
    /// Fetched from neighbours.
    pub fetched_bytes: u64,
    /// Of these, for blocks that were there already.
    pub duplicate_bytes: u64,
    /// Served to neighbours, as far as they asked.
    pub served_bytes: u64,
    /// Requests taken from a slow neighbour.
    pub steals: u64,
    /// Requests that neighbours refused.
    pub refused: u64,
}

impl Exchange {
    /// The sums, for progress and metrics.
    pub fn stats(&self) -> Stats {
        let count = |of: fn(&State) -> bool| self.blocks.iter().filter(|state| of(state)).count() as u32;
        let have_bytes = self.have.iter().map(|block| u64::from(self.block_bytes[block.index()])).sum();
        Stats {
            have_blocks: self.have.len(),
            have_bytes,
            requested_blocks: count(|state| matches!(state, State::Requested { .. })),
            leased_blocks: self.leased as u32,
            neighbours: self.neighbours.len() as u32,
            ..self.stats
        }
    }

    /// Asserts every invariant; a panic is a bug of this crate.
    pub fn check(&self) {
        self.check_blocks();
        self.check_requests();
        for (index, copies) in self.copies.iter().enumerate() {
            let block = BlockIndex(index as u32);
            let counted = self.neighbours.iter().filter(|(_, neighbour)| neighbour.has.contains(block)).count();
            assert_eq!(*copies as usize, counted, "copies of block {block}");
        }
        let due = self.neighbours.iter().filter_map(|(_, neighbour)| neighbour.untold.due()).min();
        assert!(due.is_none_or(|due| self.announce_at.is_some_and(|at| at <= due)), "who is untold is told in time");
        let left_off = self.begun.keys().find(|block| self.is_left_off(**block));
        assert!(left_off.is_none() || self.may_be_left_off, "block {left_off:?} is left off, and that was not said");
        assert!(self.neighbours.len() <= NEIGHBOURS_MAX, "neighbours are bounded");
        self.liars.check(&self.neighbours);
        let slow =
            self.neighbours.iter().filter(|(_, neighbour)| neighbour.pace.is_some_and(|it| self.times.is_slow(it)));
        assert_eq!(self.slow, slow.map(|(place, _)| place).collect::<Vec<_>>(), "who is slow");
        assert!(self.resting.is_sorted(), "whose rest ends first is asked first");
        let rests = |(until, place): &(Time, Place)| self.neighbours[*place].rests_until == *until;
        assert!(self.resting.iter().all(rests), "who rests is known");
        assert_eq!(self.next_wake(), self.wake_after(Time::ZERO).next, "when to be woken is known");
        self.uploads.check(|node| self.neighbours.contains(&node));
    }

    fn check_blocks(&self) {
        let leased = self.blocks.iter().filter(|state| **state == State::Leased).count();
        assert_eq!(self.leased, leased, "blocks that are read");
        for (index, state) in self.blocks.iter().enumerate() {
            let block = BlockIndex(index as u32);
            assert_eq!(self.missing.contains(block), *state == State::Missing, "block {block} is missing");
            assert_eq!(self.have.contains(block), *state == State::Have, "block {block} is there");
            let offered = self.offers.contains(block);
            assert!(offered || *state != State::Have, "block {block} is there and not offered");
            assert!(!offered || *state != State::Missing, "block {block} is offered and nobody brings it");
            let asked = self.neighbours.iter().filter(|(_, neighbour)| neighbour.was_asked(block));
            let mut asked: Vec<_> = asked.map(|(place, _)| place).collect();
            let mut expected = match state {
                State::Requested { from, also } => std::iter::once(*from).chain(*also).collect(),
                State::Missing | State::Leased | State::Have => Vec::new(),
            };
            asked.sort_unstable();
            expected.sort_unstable();
            assert_eq!(asked, expected, "block {block} was asked of");
        }
    }

    fn check_requests(&self) {
        let mut requests = 0;
        let mut bytes = 0;
        assert!(self.requests.is_sorted(), "the oldest request is the first");
        for (place, neighbour) in self.neighbours.iter() {
            requests += neighbour.requests.len();
            for (block, asked) in &neighbour.requests {
                assert!(self.requests.contains(&(*asked, place, *block)), "a request is in the table of all");
                bytes += u64::from(self.block_bytes[block.index()]);
            }
        }
        assert_eq!(self.requests.len(), requests, "open requests");
        assert_eq!(self.requested_bytes, bytes, "bytes asked for");
        assert!(bytes <= REQUESTED_BYTES_MAX || requests == 1 || self.missing.is_empty(), "BOUNDED: {bytes} asked for");
    }
}
