//! How much of a lease its holder may read before the ledger has heard that it does.
//!
//! A node that dies cannot say how much it read, so that all that it may have read stays charged (WAN-ONCE). If that were
//! the whole lease, a few dead readers would use up a site's budget with bytes that nobody read. So a holder asks before it
//! reads on, some way ahead of what it reads, and reads no further than was confirmed: flow control by credit, as in
//! QUIC (RFC 9000, section 4), where the ledger takes notice instead of making room.
//!
//! Not guaranteed: what a connection holds when credit ends, a chunk at most, was read beyond it.

use serde::{Deserialize, Serialize};

use crate::limits::{CREDIT_BYTES_MIN, CREDIT_STEPS_PER_BLOCK};

/// A reader that has to wait for an answer asks so many times further ahead from then on. It is not many times that it
/// waits before it asks as far ahead as it reads meanwhile.
const STEP_GROWTH: u64 = 4;

/// What of a lease may be read, and how far ahead its holder asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Bytes that may be read before anything was asked for; 0 for a lease that waits for others of its holder.
    pub first_bytes: u64,
    /// Bytes to ask for at a time.
    pub step_bytes: u64,
}

impl Terms {
    /// All may be read.
    pub const UNLIMITED: Self = Self { first_bytes: u64::MAX, step_bytes: u64::MAX };

    /// How far the reader of a content whose largest block has `block_bytes` asks ahead at first.
    pub fn first_step(block_bytes: u32) -> u64 {
        (u64::from(block_bytes) / CREDIT_STEPS_PER_BLOCK).max(CREDIT_BYTES_MIN)
    }

    /// The terms of a lease. Only one that is read at once comes with credit: a round trip before the first byte would idle
    /// the WAN.
    pub fn new(step_bytes: u64, at_once: bool) -> Self {
        Self { first_bytes: if at_once { step_bytes } else { 0 }, step_bytes }
    }
}

/// The credit of one lease, as its reader sees it.
#[derive(Clone, Copy, Debug)]
pub struct Credit {
    lease_bytes: u64,
    confirmed_bytes: u64,
    asked_bytes: u64,
    step_bytes: u64,
    /// Whether nothing more can be read until more is confirmed.
    waits: bool,
}

impl Credit {
    /// What came with a lease for so many bytes.
    pub fn new(terms: Terms, lease_bytes: u64) -> Self {
        let Terms { first_bytes, step_bytes } = terms;
        let asked_bytes = first_bytes.min(lease_bytes);
        let step_bytes = step_bytes.min(lease_bytes).max(1);
        Self { lease_bytes, confirmed_bytes: first_bytes, asked_bytes, step_bytes, waits: false }
    }

    /// How many bytes may be read of the lease in all.
    pub fn confirmed_bytes(&self) -> u64 {
        self.confirmed_bytes
    }

    /// What to ask for after `read_bytes` of the lease, of a reader that wants to read `more_bytes` next, if it is time: while
    /// half a step is left of what was asked for, so that the answer is here before that is read. A reader that has to wait
    /// for an answer all the same asks further ahead at once, and from then on. What is asked for at last is beyond the
    /// lease's end: then it is the turn of the next one.
    pub fn ask(&mut self, read_bytes: u64, more_bytes: u64) -> Option<u64> {
        let waits = read_bytes.saturating_add(more_bytes) > self.confirmed_bytes && self.confirmed_bytes > 0;
        let begins_to_wait = waits && !std::mem::replace(&mut self.waits, waits);
        if begins_to_wait {
            self.step_bytes = self.step_bytes.saturating_mul(STEP_GROWTH);
        }
        let all_asked = self.asked_bytes >= self.lease_bytes && read_bytes < self.lease_bytes;
        let ahead = self.asked_bytes.saturating_sub(read_bytes);
        if ahead > self.step_bytes / 2 && (!begins_to_wait || all_asked) {
            return None;
        }
        self.asked_bytes = self.asked_bytes.max(read_bytes).saturating_add(self.step_bytes);
        Some(self.asked_bytes)
    }

    /// Up to `bytes` may be read.
    pub fn confirm(&mut self, bytes: u64) {
        self.waits &= bytes <= self.confirmed_bytes;
        self.confirmed_bytes = self.confirmed_bytes.max(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { first_bytes: 100, step_bytes: 100 };

    #[test]
    fn a_reader_whose_answers_come_in_time_never_waits() {
        let mut credit = Credit::new(TERMS, 1000);
        let mut asked = Vec::new();
        for read in (0..1000).step_by(10) {
            assert!(read < credit.confirmed_bytes(), "{read}");
            if let Some(bytes) = credit.ask(read, 10) {
                asked.push((read, bytes));
                credit.confirm(bytes);
            }
        }
        assert_eq!(asked[..3], [(50, 200), (150, 300), (250, 400)], "a step at a time, half a step before its end");
        assert_eq!(asked.last(), Some(&(950, 1100)), "at last beyond the end");
    }

    #[test]
    fn a_reader_that_has_to_wait_asks_further_ahead() {
        let mut credit = Credit::new(TERMS, 10_000);
        assert_eq!(credit.ask(60, 10), Some(200));
        assert_eq!(credit.ask(90, 10), None, "asked already");
        assert_eq!(credit.ask(100, 10), Some(600), "no answer came in time");
        assert_eq!(credit.ask(100, 10), None, "it is the same wait");
        credit.confirm(200);
        assert_eq!(credit.ask(190, 10), None, "half of a longer step is still ahead");
        assert_eq!(credit.ask(200, 10), Some(2200), "it waits again");
        credit.confirm(100);
        assert_eq!(credit.ask(200, 10), None, "what was confirmed before ends no wait");
        credit.confirm(2200);
        assert_eq!(credit.confirmed_bytes(), 2200);
        assert_eq!((credit.ask(1390, 10), credit.ask(1400, 10)), (None, Some(3800)));
    }

    /// How long a reader takes that reads a byte at a time, if each answer takes so long.
    fn time_to_read(lease_bytes: u64, answer_takes: u64) -> u64 {
        let mut credit = Credit::new(TERMS, lease_bytes);
        let (mut now, mut read, mut answers) = (0, 0, std::collections::VecDeque::new());
        while read < lease_bytes {
            let due = answers.iter().take_while(|(at, _)| *at <= now).count();
            answers.drain(..due).for_each(|(_, bytes)| credit.confirm(bytes));
            answers.extend(credit.ask(read, 1).map(|bytes| (now + answer_takes, bytes)));
            read += u64::from(read < credit.confirmed_bytes());
            now += 1;
        }
        now
    }

    #[test]
    fn answers_that_take_long_cost_no_more_than_a_few_waits() {
        assert_eq!(time_to_read(100_000, 49), 100_000, "they come while half a step is read");
        for answer_takes in [60, 200, 1000, 3000] {
            let took = time_to_read(100_000, answer_takes);
            assert!(took <= 100_000 + 4 * answer_takes, "{took} for answers that take {answer_takes}");
        }
    }

    #[test]
    fn half_of_a_small_lease_is_read_before_it_is_the_next_ones_turn() {
        for terms in [TERMS, Terms::UNLIMITED] {
            let mut credit = Credit::new(terms, 80);
            assert_eq!(credit.ask(39, 1), None);
            assert_eq!(credit.ask(40, 1), Some(160));
            assert_eq!(credit.ask(80, 0), None, "all was confirmed");
        }
        let mut waits = Credit::new(Terms::new(100, false), 80);
        assert_eq!((waits.confirmed_bytes(), waits.ask(0, 1), waits.ask(0, 1)), (0, Some(80), None));
    }

    #[test]
    fn a_step_is_a_quarter_of_a_large_block() {
        const MIB: u32 = 1 << 20;
        let steps = [MIB / 8, MIB, 4 * MIB].map(Terms::first_step);
        assert_eq!(steps, [256 << 10, 256 << 10, 1 << 20]);
    }
}
