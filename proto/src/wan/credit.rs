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

/// A reader that had to wait for an answer so many times in a row asks further ahead from then on. Once may be an accident:
/// for a moment it had the WAN for itself.
const WAITS_IN_A_ROW: u32 = 3;

/// How many times further. Growth is cheap, and what a reader may read is lost with it.
const STEP_GROWTH: u64 = 2;

/// What of a lease may be read, and how far ahead its holder asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Bytes that may be read before anything was asked for; 0 for a lease that waits for others of its holder.
    pub first_bytes: u64,
    /// Bytes to ask for at a time; [`u64::MAX`] for the whole lease.
    pub step_bytes: u64,
    /// Bytes to ask for at a time at most, however far ahead the answers want it.
    pub step_max_bytes: u64,
}

impl Terms {
    /// All may be read.
    pub const UNLIMITED: Self = Self { first_bytes: u64::MAX, step_bytes: u64::MAX, step_max_bytes: u64::MAX };

    /// How far the reader of a content whose largest block has `block_bytes` asks ahead at first.
    pub fn first_step(block_bytes: u32) -> u64 {
        (u64::from(block_bytes) / CREDIT_STEPS_PER_BLOCK).max(CREDIT_BYTES_MIN)
    }

    /// The terms of a lease. Only one that is read `at_once` comes with credit: a round trip before the first byte would idle
    /// the WAN.
    pub fn new(step_bytes: u64, step_max_bytes: u64, at_once: bool) -> Self {
        Self { first_bytes: if at_once { step_bytes } else { 0 }, step_bytes, step_max_bytes }
    }
}

/// How far ahead a node asks, as it learned from one lease to the next: it has to be as far as it reads until an answer comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Habit {
    step_bytes: u64,
    /// How many times in a row nothing more could be read until more was confirmed.
    waits_in_a_row: u32,
}

/// The credit of one lease, as its reader sees it.
#[derive(Clone, Copy, Debug)]
pub struct Credit {
    lease_bytes: u64,
    confirmed_bytes: u64,
    asked_bytes: u64,
    step_bytes: u64,
    step_max_bytes: u64,
    /// Whether nothing more can be read until more is confirmed.
    waits: bool,
    habit: Habit,
}

impl Credit {
    /// What came with a lease for so many bytes, to a node of this habit.
    pub fn new(terms: Terms, lease_bytes: u64, mut habit: Habit) -> Self {
        let Terms { first_bytes, step_bytes, step_max_bytes } = terms;
        let asked_bytes = first_bytes.min(lease_bytes);
        let step_max_bytes = step_max_bytes.max(step_bytes);
        let learned = step_bytes.max(habit.step_bytes).min(step_max_bytes);
        let step_bytes = if step_bytes == u64::MAX { lease_bytes } else { learned }.max(1);
        if first_bytes >= lease_bytes {
            habit.waits_in_a_row = 0;
        }
        Self { lease_bytes, confirmed_bytes: first_bytes, asked_bytes, step_bytes, step_max_bytes, waits: false, habit }
    }

    /// What the node is to begin its next lease with.
    pub fn habit(&self) -> Habit {
        self.habit
    }

    /// How many bytes may be read of the lease in all.
    pub fn confirmed_bytes(&self) -> u64 {
        self.confirmed_bytes
    }

    /// What to ask for after `read_bytes` of the lease, of a reader that wants to read `more_bytes` next, if it is time: while
    /// half a step is left of what was asked for, so that the answer is here before that is read. A reader that has to wait
    /// for answers all the same, again and again, asks further ahead. What is asked for at last is beyond the lease's end:
    /// then it is the turn of the next one.
    pub fn ask(&mut self, read_bytes: u64, more_bytes: u64) -> Option<u64> {
        let waits = read_bytes.saturating_add(more_bytes) > self.confirmed_bytes;
        let begins_to_wait = waits && !std::mem::replace(&mut self.waits, waits);
        self.habit.waits_in_a_row += u32::from(begins_to_wait);
        let grows = begins_to_wait && self.habit.waits_in_a_row >= WAITS_IN_A_ROW;
        if grows {
            self.step_bytes = self.step_bytes.saturating_mul(STEP_GROWTH).min(self.step_max_bytes);
            self.habit = Habit { step_bytes: self.step_bytes, waits_in_a_row: 0 };
        }
        let all_asked = self.asked_bytes >= self.lease_bytes && read_bytes < self.lease_bytes;
        let ahead = self.asked_bytes.saturating_sub(read_bytes);
        if ahead > self.step_bytes / 2 && (!grows || all_asked) {
            return None;
        }
        self.asked_bytes = self.asked_bytes.max(read_bytes).saturating_add(self.step_bytes);
        Some(self.asked_bytes)
    }

    /// Up to `bytes` may be read.
    pub fn confirm(&mut self, bytes: u64) {
        if bytes > self.confirmed_bytes && !std::mem::take(&mut self.waits) {
            self.habit.waits_in_a_row = 0;
        }
        self.confirmed_bytes = self.confirmed_bytes.max(bytes);
        // It may have been asked for before there was a reader.
        self.asked_bytes = self.asked_bytes.max(bytes.min(self.lease_bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { first_bytes: 100, step_bytes: 100, step_max_bytes: 100_000 };

    #[test]
    fn a_reader_whose_answers_come_in_time_never_waits() {
        let mut credit = Credit::new(TERMS, 1000, Habit::default());
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
    fn a_reader_that_has_to_wait_again_and_again_asks_further_ahead() {
        let mut credit = Credit::new(TERMS, 10_000, Habit::default());
        assert_eq!(credit.ask(60, 10), Some(200));
        for waits in [100, 200] {
            assert_eq!((credit.ask(waits, 10), credit.ask(waits, 10)), (None, None), "no answer came in time");
            credit.confirm(waits + 100);
            assert_eq!(credit.ask(waits + 60, 10), Some(waits + 200));
        }
        assert_eq!((credit.ask(300, 10), credit.ask(300, 10)), (Some(600), None), "the third time");
        credit.confirm(400);
        credit.confirm(600);
        assert_eq!((credit.ask(490, 10), credit.ask(500, 10)), (None, Some(800)), "half of a longer step is left");
        for waits in [600, 800] {
            assert_eq!(credit.ask(waits, 10), None);
            credit.confirm(waits + 200);
            assert_eq!(credit.ask(waits + 100, 10), Some(waits + 400));
        }
        credit.confirm(1200);
        assert_eq!(credit.ask(1100, 10), Some(1400), "this answer came in time");
        assert_eq!(credit.ask(1200, 10), None, "so that this wait is a first one");
    }

    /// How long a reader takes that reads a byte at a time, if each answer takes so long.
    fn time_to_read(lease_bytes: u64, answer_takes: u64) -> u64 {
        let mut credit = Credit::new(TERMS, lease_bytes, Habit::default());
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
            assert!(took <= 100_000 + 16 * answer_takes, "{took} for answers that take {answer_takes}");
        }
    }

    #[test]
    fn a_lease_that_may_be_read_at_once_is_half_read_before_it_is_the_next_ones_turn() {
        let mut credit = Credit::new(Terms::UNLIMITED, 80, Habit::default());
        assert_eq!((credit.ask(39, 1), credit.ask(40, 1)), (None, Some(160)));
        assert_eq!(credit.ask(80, 0), None, "all was confirmed");
    }

    #[test]
    fn a_reader_looks_a_step_ahead_however_small_its_lease_is() {
        let mut small = Credit::new(TERMS, 80, Habit::default());
        assert_eq!((small.ask(29, 1), small.ask(30, 1)), (None, Some(180)));
        let mut waits = Credit::new(Terms::new(100, 100_000, false), 80, Habit::default());
        assert_eq!((waits.confirmed_bytes(), waits.ask(0, 1), waits.ask(0, 1)), (0, Some(100), None));
        let mut asked_before = Credit::new(Terms::new(100, 100_000, false), 80, Habit::default());
        asked_before.confirm(80);
        assert_eq!((asked_before.ask(29, 1), asked_before.ask(30, 1)), (None, Some(180)));
    }

    #[test]
    fn a_step_is_a_quarter_of_a_large_block() {
        const MIB: u32 = 1 << 20;
        let steps = [MIB / 8, MIB, 4 * MIB].map(Terms::first_step);
        assert_eq!(steps, [256 << 10, 256 << 10, 1 << 20]);
    }
}
