//! Open requests: asking, taking back, and looking for a faster neighbour.
//!
//! Invariant: a request is in its neighbour's table, in the table of all by age, and in its block's state; or in none.

use std::cmp::Reverse;

use super::inflight::Times;
use super::neighbours::Place;
use super::peers::Neighbour;
use super::pick::rarest;
use super::transfer::{Exchange, State};
use super::{Output, Why};
use crate::content::BlockSet;
use crate::id::BlockIndex;
use crate::limits::{
    ENDGAME_BLOCKS_MAX, NEIGHBOUR_REST_MAX, READ_SLACK, REFUSALS_FREE, REQUESTED_BYTES_MAX, SLOW_AGE_MIN,
};
use crate::time::Time;

impl Exchange {
    /// Asks neighbours for as much as they have room for, one block at a time, the least busy neighbour first.
    pub(super) fn ask(&mut self, now: Time) {
        if self.missing.is_empty() {
            self.neighbours.retain_ready(|_| false);
            return;
        }
        if !self.neighbours.has_ready() {
            return;
        }
        let mut room = self.transfers_max.saturating_sub(self.requests_counted(now) + usize::from(self.reads_fast()));
        if room == 0 {
            return;
        }
        // Those without room are ready again when they have some.
        self.neighbours.retain_ready(|neighbour| neighbour.has_room(now));
        while room > 0
            && let Some((from, neighbour)) = self.neighbours.ready().min_by_key(|(place, it)| turn(*place, it))
        {
            let picked = if neighbour.has_room(now) { self.pick(from) } else { None };
            match picked {
                Some(block) if self.fits(block) => {
                    self.missing.remove(block);
                    self.blocks[block.index()] = State::Requested { from, also: None };
                    self.request(from, block, now);
                    room -= usize::from(!self.is_slow(from));
                }
                // When something arrives there is room again, and its neighbour is ready; then so are the others.
                Some(_) => return,
                None => self.neighbours.clear_ready(from),
            }
        }
    }

    /// Open requests, without those that take far longer than others or will: it is their neighbours that are slow.
    fn requests_counted(&self, now: Time) -> usize {
        let patience = self.times.patience(false);
        let is_recent = |(asked, _, _): &(Time, Place, BlockIndex)| *asked + patience > now;
        if self.slow.is_empty() && self.requests.first().is_none_or(is_recent) {
            return self.requests.len();
        }
        let recent = self.requests.iter().rev().take_while(|request| is_recent(request));
        recent.filter(|(_, from, _)| !self.is_slow(*from)).count()
    }

    /// When the next request is not counted any more.
    pub(super) fn room_changes(&self, now: Time) -> Option<Time> {
        let patience = self.times.patience(false);
        self.requests.iter().map(|(asked, _, _)| *asked + patience).find(|at| *at > now)
    }

    /// Whether what this node reads over the WAN is one more transfer, as fast as the others. It shares the link with them:
    /// with one request more, a reader of a WAN like its link would not read as fast as it can.
    fn reads_fast(&self) -> bool {
        let Some(pace) = self.read_pace.filter(|_| self.leased > 0) else { return false };
        self.times.usual().is_none_or(|usual| pace <= usual + usual / READ_SLACK)
    }

    fn is_slow(&self, neighbour: Place) -> bool {
        self.slow.contains(&neighbour)
    }

    /// A neighbour's pace changed, or what is usual did: says again who is slow. That is asked for at each message.
    pub(super) fn note_slow(&mut self) {
        let is_slow = |neighbour: &Neighbour| neighbour.pace.is_some_and(|pace| self.times.is_slow(pace));
        let slow = self.neighbours.iter().filter(|(_, neighbour)| is_slow(neighbour));
        self.slow.clear();
        self.slow.extend(slow.map(|(place, _)| place));
    }

    /// The rarest of the missing blocks of a neighbour.
    fn pick(&self, from: Place) -> Option<BlockIndex> {
        if self.is_slow(from) {
            return rarest(self.only_from(from)?.iter(), &self.copies, self.seed);
        }
        rarest(self.missing.common(&self.neighbours[from].has), &self.copies, self.seed)
    }

    /// What a slow neighbour is asked for, one block at a time: what no other has.
    fn only_from(&self, slow: Place) -> Option<BlockSet> {
        let neighbour = Some(&self.neighbours[slow]).filter(|neighbour| neighbour.requests.is_empty())?;
        let wanted = self.missing.intersection(&neighbour.has);
        let others = self.neighbours.iter().filter(|(other, _)| !self.is_slow(*other));
        Some(others.fold(wanted, |wanted, (_, other)| wanted.difference(&other.has)))
    }

    fn fits(&self, block: BlockIndex) -> bool {
        let bytes = u64::from(self.block_bytes[block.index()]);
        self.requests.is_empty() || self.requested_bytes + bytes <= REQUESTED_BYTES_MAX
    }

    fn request(&mut self, from: Place, block: BlockIndex, now: Time) {
        let neighbour = &mut self.neighbours[from];
        if neighbour.requests.is_empty() {
            neighbour.window.begin(now);
        }
        neighbour.asked(block, now);
        let request = (now, from, block);
        self.requests.insert(self.requests.partition_point(|other| *other < request), request);
        self.requested_bytes += u64::from(self.block_bytes[block.index()]);
        self.outputs.push_back(Output::Fetch { node: self.neighbours.id(from), block });
    }

    /// Takes a request out of the tables; whether there was one. The block's state is the caller's.
    pub(super) fn forget_request(&mut self, from: Place, block: BlockIndex) -> bool {
        let Some(asked) = self.neighbours[from].take_request(block) else { return false };
        let at = self.requests.binary_search(&(asked, from, block)).expect("a request is in the table of all");
        self.requests.remove(at);
        self.requested_bytes -= u64::from(self.block_bytes[block.index()]);
        self.neighbours.make_ready(from);
        true
    }

    /// Takes back a request. The block's state is the caller's.
    pub(super) fn cancel(&mut self, from: Place, block: BlockIndex) {
        if self.forget_request(from, block) {
            self.outputs.push_back(Output::Cancel { node: self.neighbours.id(from), block });
        }
    }

    /// A request is over without the block having landed yet.
    pub(super) fn end_request(&mut self, ended: Place, block: BlockIndex) {
        if !self.forget_request(ended, block) {
            return;
        }
        let State::Requested { from, also } = self.blocks[block.index()] else { return };
        match also {
            None => self.set_missing(block),
            Some(other) => {
                // Parts came from the one or the other, and it may be the other that waits for this node.
                self.withdraw(block);
                let from = if from == ended { other } else { from };
                self.blocks[block.index()] = State::Requested { from, also: None };
            }
        }
    }

    /// Whether the last blocks are on their way.
    fn endgame(&self) -> bool {
        self.missing.is_empty() && self.requests.len() <= ENDGAME_BLOCKS_MAX
    }

    fn patience(&self) -> std::time::Duration {
        Times::patience(&self.times, self.endgame())
    }

    /// When the oldest request is slow, unless it was looked at of late.
    pub(super) fn slow_wake(&self) -> Option<Time> {
        let (asked, _, _) = self.requests.first()?;
        Some((*asked + self.patience()).max(self.slow_from))
    }

    /// Asks a faster neighbour for what a slow one does not deliver: instead of it, or in the endgame beside it.
    pub(super) fn look_for_slow(&mut self, now: Time) {
        if self.slow_wake().is_none_or(|at| now < at) {
            return;
        }
        self.slow_from = now + SLOW_AGE_MIN / 4;
        let patience = self.patience();
        let slow: Vec<_> = self.requests.iter().take_while(|(asked, _, _)| *asked + patience <= now).copied().collect();
        let endgame = self.endgame();
        for (_, asked, block) in slow {
            let State::Requested { from, also: None } = self.blocks[block.index()] else { continue };
            let Some(other) = self.idler(asked, block, now) else { continue };
            if endgame && !self.fits(block) {
                continue;
            }
            if endgame {
                self.blocks[block.index()] = State::Requested { from, also: Some(other) };
            } else {
                self.cancel(asked, block);
                self.withdraw(block);
                self.rest(asked, now);
                self.neighbours[asked].lags(patience);
                self.note_slow();
                self.blocks[block.index()] = State::Requested { from: other, also: None };
                self.stats.steals += 1;
            }
            self.request(other, block, now);
        }
    }

    /// Another neighbour with the block and room, with fewer open requests than the one that was `asked`: one that has
    /// delivered.
    fn idler(&self, asked: Place, block: BlockIndex, now: Time) -> Option<Place> {
        let busy = self.neighbours[asked].requests.len();
        let able = self.neighbours.iter().filter(|(other, neighbour)| {
            *other != asked
                && neighbour.has.contains(block)
                && neighbour.has_room(now)
                && neighbour.requests.len() < busy
        });
        able.min_by_key(|(_, neighbour)| neighbour.requests.len()).map(|(other, _)| other)
    }

    /// The neighbour is not asked for a while.
    pub(super) fn rest(&mut self, place: Place, now: Time) {
        let neighbour = &mut self.neighbours[place];
        let before = neighbour.rests_until;
        neighbour.rest(now);
        let until = neighbour.rests_until;
        self.note_rest(place, before, until);
    }

    /// The neighbour has no slot free: others are asked meanwhile. One that goes on to refuse is asked ever more rarely: it
    /// says when it has room, unless it does not know this node.
    pub(super) fn refused(&mut self, place: Place, now: Time) {
        let neighbour = &mut self.neighbours[place];
        neighbour.window.shrink();
        self.stats.refused += 1;
        let rest = self.times.busy_rest() * (1 << neighbour.refused(now).saturating_sub(REFUSALS_FREE).min(16));
        let until = neighbour.rests_until.max(now + rest.min(NEIGHBOUR_REST_MAX));
        self.rest_until(place, until);
    }

    /// The neighbour is not asked before `until`.
    pub(super) fn rest_until(&mut self, place: Place, until: Time) {
        let before = std::mem::replace(&mut self.neighbours[place].rests_until, until);
        self.note_rest(place, before, until);
    }

    fn note_rest(&mut self, place: Place, before: Time, until: Time) {
        self.forget_rest(place, before);
        let rest = (until, place);
        self.resting.insert(self.resting.partition_point(|other| *other < rest), rest);
    }

    /// The neighbour does not rest any more, if it did.
    pub(super) fn forget_rest(&mut self, place: Place, until: Time) {
        if let Ok(at) = self.resting.binary_search(&(until, place)) {
            self.resting.remove(at);
        }
    }

    /// When the first of the neighbours that rest may be asked again.
    pub(super) fn retry_wake(&self) -> Option<(Time, Why)> {
        self.resting.first().map(|(at, place)| (*at, Why::Retry(self.neighbours.id(*place))))
    }

    /// Neighbours whose rest is over may be asked again.
    pub(super) fn wake_rested(&mut self, now: Time) {
        let over = self.resting.iter().take_while(|(at, _)| *at <= now).count();
        for (_, place) in self.resting.drain(..over) {
            self.neighbours.make_ready(place);
        }
    }
}

/// When it is a neighbour's turn to be asked. Of those that are asked for the least, the one that delivered last goes
/// first: the slot that it had for this node is free, so that pairs stay together for as long as one has what the other
/// lacks.
fn turn(place: Place, neighbour: &Neighbour) -> (usize, Reverse<Time>, u64, Place) {
    (neighbour.requests.len(), Reverse(neighbour.delivered_at), neighbour.tie, place)
}
