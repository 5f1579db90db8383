//! [`Exchange`]: the state of each block, and what each input does to it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::announce::Demand;
use super::inflight::{Times, transfers_max};
use super::neighbours::{Neighbours, Place};
use super::peers::{Liars, Neighbour};
use super::serve::Uploads;
use super::wake::Wake;
use super::{FetchError, Input, Output, Source, Stats, Why};
use crate::content::BlockSet;
use crate::id::{BlockIndex, NodeId};
use crate::limits::{NEIGHBOURS_MAX, STUCK_AFTER, STUCK_BLOCKS_MAX};
use crate::rng::mix;
use crate::time::Time;

/// One content's trade with the neighbours; the rules are at the head of [`super`].
#[derive(Debug)]
pub struct Exchange {
    pub(super) block_bytes: Vec<u32>,
    pub(super) blocks: Vec<State>,
    /// The blocks in state `Missing`.
    pub(super) missing: BlockSet,
    /// The blocks in state `Have`.
    pub(super) have: BlockSet,
    /// These, and those of which the rest is about to arrive.
    pub(super) offers: BlockSet,
    /// Bytes lacking of blocks of which neighbours sent parts, unless that was said already.
    pub(super) begun: BTreeMap<BlockIndex, u32>,
    /// Whether one of them may have come to be left off ([`Exchange::is_left_off`]) since that was last said: it became
    /// missing, was put in while it is, or a neighbour has it no more.
    pub(super) may_be_left_off: bool,
    pub(super) neighbours: Neighbours,
    /// How many neighbours have each block.
    pub(super) copies: Vec<u32>,
    /// Neighbours whose pace is slow beside what is usual ([`Exchange::note_slow`]).
    pub(super) slow: Vec<Place>,
    /// Every open request, the oldest first.
    pub(super) requests: Vec<(Time, Place, BlockIndex)>,
    pub(super) requested_bytes: u64,
    /// How many blocks this node reads over the WAN or is about to.
    pub(super) leased: usize,
    /// How long such a block takes, as far as is known.
    pub(super) read_pace: Option<Duration>,
    /// How many requests may be open, and how many are served at a time.
    pub(super) transfers_max: usize,
    /// Neighbours that rest, and until when: whose rest ends first is the first.
    pub(super) resting: Vec<(Time, Place)>,
    pub(super) times: Times,
    /// No request is looked at for being slow before this.
    pub(super) slow_from: Time,
    pub(super) uploads: Uploads,
    pub(super) outputs: VecDeque<Output>,
    pub(super) seed: u64,
    pub(super) stats: Stats,
    /// No neighbour is to be told anything before this.
    pub(super) announce_at: Option<Time>,
    pub(super) demand: Demand,
    pub(super) liars: Liars,
    pub(super) stuck_at: Time,
    wake: Wake,
    times_stuck: u32,
    said_complete: bool,
}

/// The one state that a block is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Missing,
    Leased,
    /// Asked of `from`, and of `also` when the end is near.
    Requested {
        from: Place,
        also: Option<Place>,
    },
    Have,
}

impl Exchange {
    /// An exchange for a content whose blocks have these sizes in bytes, on a node that has `have` of them.
    pub fn new(block_bytes: &[u32], have: &BlockSet, seed: u64) -> Self {
        let count = u32::try_from(block_bytes.len()).unwrap_or(u32::MAX);
        let mut has = BlockSet::new(count);
        has.union_with(have);
        let state = |block| if has.contains(BlockIndex(block)) { State::Have } else { State::Missing };
        let transfers_max = transfers_max(block_bytes);
        Self {
            block_bytes: block_bytes.to_vec(),
            blocks: (0..count).map(state).collect(),
            missing: has.missing(),
            offers: has.clone(),
            have: has,
            begun: BTreeMap::new(),
            may_be_left_off: false,
            neighbours: Neighbours::default(),
            copies: vec![0; block_bytes.len()],
            slow: Vec::new(),
            requests: Vec::new(),
            requested_bytes: 0,
            leased: 0,
            read_pace: None,
            resting: Vec::new(),
            times: Times::default(),
            slow_from: Time::ZERO,
            uploads: Uploads::new(transfers_max),
            transfers_max,
            outputs: VecDeque::new(),
            seed: mix(seed),
            stats: Stats::default(),
            announce_at: None,
            demand: Demand::new(count),
            liars: Liars::default(),
            stuck_at: Time::ZERO,
            wake: Wake::default(),
            times_stuck: 0,
            said_complete: false,
        }
    }

    /// Takes one input; [`Exchange::poll`] has what follows from it. `now` never goes back.
    pub fn handle(&mut self, input: Input, now: Time) {
        if self.stuck_at == Time::ZERO {
            self.stuck_at = now + STUCK_AFTER;
        }
        match input {
            Input::NeighbourUp { node } => self.neighbour_up(node, now),
            Input::NeighbourDown { node } => self.drop_neighbour(node),
            Input::NeighbourHas { node, blocks } => self.neighbour_has(node, &blocks),
            Input::NeighbourLanded { node, blocks } => self.neighbour_landed(node, &blocks),
            Input::Landed { block, from } => self.landed(block, Some(from), now),
            Input::Fetched { node, block, bytes, took } => self.fetched(node, block, bytes, took, now),
            Input::Arrives { block, arrived } => {
                if !self.arrives(block, arrived, now) && self.wake.is_quiet(now) {
                    return;
                }
            }
            Input::FetchFailed { node, block, why } => self.fetch_failed(node, block, why, now),
            Input::LeaseHeld { blocks } => blocks.iter().for_each(|block| self.lease_held(*block)),
            Input::LeaseOver { blocks } => blocks.iter().for_each(|block| self.lease_over(*block)),
            Input::UploadAsked { node, request, block, bytes } => self.upload_asked(node, request, block, bytes, now),
            Input::UploadDone { node, request } => self.uploads.done(node, request, now),
            Input::Offered { node } => self.offered(node, now),
            Input::Tick => {}
        }
        self.act(now);
        self.wake = self.wake_after(now);
    }

    /// What the shell is to do next, if anything.
    pub fn poll(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            // The next ones begin where these began, so that one part of the memory is used again and again.
            self.outputs.clear();
        }
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due unless another input comes first, and why.
    pub fn next_wake(&self) -> Option<(Time, Why)> {
        self.wake.next
    }

    /// The blocks that this node has.
    pub fn have(&self) -> &BlockSet {
        &self.have
    }

    /// How many neighbours have a block, as far as they said; 0 for one that the content does not have.
    pub fn copies(&self, block: BlockIndex) -> u32 {
        self.copies.get(block.index()).copied().unwrap_or(0)
    }

    /// What follows from the state, whatever led to it.
    fn act(&mut self, now: Time) {
        self.wake_rested(now);
        self.look_for_slow(now);
        self.ask(now);
        self.offer(now);
        self.say_left_off();
        self.say_stuck(now);
        self.announce(now);
        if self.have.is_full() && !self.said_complete {
            self.said_complete = true;
            self.outputs.push_back(Output::Complete);
        }
    }

    fn announce(&mut self, now: Time) {
        if self.announce_at.is_none_or(|at| at > now) {
            return;
        }
        for (node, neighbour) in self.neighbours.iter_mut() {
            if let Some(blocks) = neighbour.untold.take_due(now).filter(|_| !neighbour.has.is_full()) {
                self.outputs.push_back(Output::Announce { to: node, blocks });
            }
        }
        self.announce_at = self.neighbours.iter().filter_map(|(_, neighbour)| neighbour.untold.due()).min();
    }

    pub(super) fn may_be_stuck(&self) -> bool {
        self.stuck_at > Time::ZERO && (!self.missing.is_empty() || !self.requests.is_empty())
    }

    fn say_stuck(&mut self, now: Time) {
        if !self.may_be_stuck() || now < self.stuck_at {
            return;
        }
        let waits = |block: &BlockIndex| self.blocks[block.index()] != State::Leased;
        let blocks = self.have.iter_missing().filter(waits).take(STUCK_BLOCKS_MAX).collect();
        self.outputs.push_back(Output::Stuck { blocks });
        self.times_stuck = self.times_stuck.saturating_add(1);
        self.stuck_at = now + STUCK_AFTER * (1 << self.times_stuck.min(6));
    }

    fn neighbour_up(&mut self, node: NodeId, now: Time) {
        let known = self.neighbours.contains(&node);
        if known || self.liars.is_banned(node) || self.neighbours.len() >= NEIGHBOURS_MAX {
            return;
        }
        let tie = u64::from_le_bytes(node.0[..8].try_into().expect("a node id has 32 bytes"));
        let mut neighbour = Neighbour::new(self.have.count(), mix(self.seed ^ tie));
        neighbour.window.begin(now);
        let Some(came) = self.neighbours.insert(node, neighbour) else { return };
        self.move_places(|place| place.behind(came));
        if let Some(until) = self.liars.rests_until(node) {
            self.rest_until(came, until);
        }
        self.outputs.push_back(Output::AnnounceAll { to: node });
    }

    fn drop_neighbour(&mut self, node: NodeId) {
        let Some(gone) = self.neighbours.place(&node) else { return };
        let asked: Vec<_> = self.neighbours[gone].asked_blocks().collect();
        asked.into_iter().for_each(|block| self.end_request(gone, block));
        self.may_be_left_off = true;
        self.slow.retain(|slow| *slow != gone);
        let neighbour = self.neighbours.remove(gone);
        neighbour.has.iter().for_each(|block| self.copies[block.index()] -= 1);
        self.forget_rest(gone, neighbour.rests_until);
        self.move_places(|place| place.without(gone));
        self.uploads.forget(node);
    }

    /// Neighbours stand elsewhere than they did.
    fn move_places(&mut self, moved: impl Fn(Place) -> Place) {
        for state in &mut self.blocks {
            if let State::Requested { from, also } = state {
                (*from, *also) = (moved(*from), also.map(&moved));
            }
        }
        self.requests.iter_mut().for_each(|(_, from, _)| *from = moved(*from));
        self.resting.iter_mut().for_each(|(_, place)| *place = moved(*place));
        self.slow.iter_mut().for_each(|place| *place = moved(*place));
    }

    fn neighbour_has(&mut self, node: NodeId, blocks: &BlockSet) {
        let Some(place) = self.neighbours.place(&node) else { return };
        let neighbour = &mut self.neighbours[place];
        let mut has = BlockSet::new(neighbour.has.count());
        has.union_with(blocks);
        // While it seemed to have everything it was told nothing.
        if neighbour.has.is_full() && !has.is_full() {
            self.outputs.push_back(Output::AnnounceAll { to: node });
        }
        neighbour.has.iter().for_each(|block| self.copies[block.index()] -= 1);
        has.iter().for_each(|block| self.copies[block.index()] += 1);
        self.may_be_left_off = true;
        neighbour.has = has;
        self.neighbours.make_ready(place);
    }

    fn neighbour_landed(&mut self, node: NodeId, blocks: &[BlockIndex]) {
        let Some(place) = self.neighbours.place(&node) else { return };
        let neighbour = &mut self.neighbours[place];
        for block in blocks {
            if neighbour.has.insert(*block) {
                self.copies[block.index()] += 1;
            }
        }
        self.neighbours.make_ready(place);
    }

    fn landed(&mut self, block: BlockIndex, source: Option<Source>, now: Time) {
        let Some(state) = self.blocks.get(block.index()).copied().filter(|state| *state != State::Have) else { return };
        if let State::Requested { from, also } = state {
            std::iter::once(from).chain(also).for_each(|asked| self.cancel(asked, block));
        }
        self.leased -= usize::from(state == State::Leased);
        self.blocks[block.index()] = State::Have;
        self.missing.remove(block);
        self.begun.remove(&block);
        self.have.insert(block);
        self.offer_block(block, source, now);
        self.stuck_at = now + STUCK_AFTER;
        self.times_stuck = 0;
    }

    fn fetched(&mut self, node: NodeId, block: BlockIndex, bytes: u64, took: Duration, now: Time) {
        let Some(state) = self.blocks.get(block.index()).copied() else { return };
        self.stats.fetched_bytes = self.stats.fetched_bytes.saturating_add(bytes);
        if let Some(from) = self.neighbours.place(&node) {
            self.forget_request(from, block);
            self.neighbours[from].delivered(took, now);
            self.times.add(took);
            self.neighbours.make_ready(from);
            self.note_slow();
        }
        if state == State::Have {
            self.stats.duplicate_bytes = self.stats.duplicate_bytes.saturating_add(bytes);
        } else {
            self.landed(block, None, now);
        }
    }

    fn fetch_failed(&mut self, node: NodeId, block: BlockIndex, why: FetchError, now: Time) {
        let Some(from) = self.neighbours.place(&node) else { return };
        let asked = self.neighbours[from].was_asked(block);
        self.end_request(from, block);
        let neighbour = &mut self.neighbours[from];
        match why {
            FetchError::Corrupt => self.lied(from, block, now),
            // No lie: a node that lost power forgets what it had, one that is done closes it. All that it costs is the
            // question, and who announces again and again what it does not have is asked ever more rarely.
            FetchError::Gone => {
                let rests = neighbour.rests_until > now;
                if neighbour.has.is_full() {
                    self.outputs.push_back(Output::AnnounceAll { to: node });
                }
                if neighbour.has.remove(block) {
                    self.copies[block.index()] -= 1;
                    self.may_be_left_off = true;
                }
                self.neighbours.make_ready(from);
                if asked && !rests {
                    self.rest(from, now);
                }
            }
            FetchError::Refused if asked => self.refused(from, now),
            FetchError::Timeout if asked => self.rest(from, now),
            FetchError::Refused | FetchError::Timeout => {}
        }
    }

    /// A neighbour sent wrong bytes (VERIFIED: it is named, dropped and reported). It rests for long, for the first time
    /// may have been an accident; it is served all the same. The second time it is no neighbour any more.
    fn lied(&mut self, liar: Place, block: BlockIndex, now: Time) {
        let node = self.neighbours.id(liar);
        if !self.liars.caught(node, now) {
            return;
        }
        let asked: Vec<_> = self.neighbours[liar].asked_blocks().collect();
        for block in asked {
            self.outputs.push_back(Output::Cancel { node, block });
            self.end_request(liar, block);
        }
        if self.liars.is_banned(node) {
            self.drop_neighbour(node);
        } else if let Some(until) = self.liars.rests_until(node) {
            self.rest_until(liar, until);
        }
        self.outputs.push_back(Output::Lied { node, block });
    }

    fn lease_held(&mut self, block: BlockIndex) {
        let Some(state) = self.blocks.get(block.index()).copied().filter(|state| *state != State::Have) else { return };
        if let State::Requested { from, also } = state {
            std::iter::once(from).chain(also).for_each(|asked| self.cancel(asked, block));
            self.withdraw(block);
        }
        self.leased += usize::from(state != State::Leased);
        self.blocks[block.index()] = State::Leased;
        self.missing.remove(block);
    }

    fn lease_over(&mut self, block: BlockIndex) {
        if self.blocks.get(block.index()) == Some(&State::Leased) {
            self.leased -= 1;
            self.set_missing(block);
        }
    }

    /// Nobody brings the block any more: everyone who has it may be asked.
    pub(super) fn set_missing(&mut self, block: BlockIndex) {
        self.withdraw(block);
        self.blocks[block.index()] = State::Missing;
        self.missing.insert(block);
        self.may_be_left_off = true;
        self.neighbours.make_holders_ready(block);
    }

    fn upload_asked(&mut self, node: NodeId, request: u64, block: BlockIndex, bytes: u64, now: Time) {
        self.demand.asked(block);
        let progress = progress(&self.neighbours, &self.offers);
        self.outputs.push_back(if !self.neighbours.contains(&node) {
            Output::Refuse { node, request }
        } else if !self.offers.contains(block) {
            Output::Decline { node, request }
        } else if self.uploads.ask(node, request, block, now, progress) {
            self.stats.served_bytes = self.stats.served_bytes.saturating_add(bytes);
            Output::Serve { node, request }
        } else {
            Output::Refuse { node, request }
        });
    }

    fn offer(&mut self, now: Time) {
        while let Some(to) = self.uploads.offer(now, progress(&self.neighbours, &self.offers)) {
            self.outputs.push_back(Output::Offer { to });
        }
    }

    /// A neighbour that refused has room: it is asked before others, unless it rests for a lie.
    fn offered(&mut self, node: NodeId, now: Time) {
        let Some(place) = self.neighbours.place(&node) else { return };
        if self.liars.rests_until(node).is_some_and(|until| until > now) {
            return;
        }
        self.rest_until(place, now);
        self.neighbours[place].delivered_at = now;
    }
}

/// How many blocks a neighbour has, if it lacks one that this node offers.
fn progress<'a>(neighbours: &'a Neighbours, offers: &'a BlockSet) -> impl Fn(NodeId) -> Option<u32> + Copy + 'a {
    |node| {
        neighbours.get(&node).filter(|neighbour| !offers.is_subset(&neighbour.has)).map(|neighbour| neighbour.has.len())
    }
}
