//! Reading without the coordinator: who of a site goes on reading a package when nobody grants leases.
//!
//! The coordinator names a few *deputies* for each content of each site and tells them where it is read ([`Standby`]). Once
//! it is out of reach, a deputy grants itself leases. The messages: [`ToNeighbour::Reach`] (see [`super::reach`]) and
//! [`ToNeighbour::Reading`], which a node that is cut off sends its neighbours before it reads and whenever what it reads
//! changes. The rules:
//!
//! - A deputy reads only while the coordinator has been out of its reach for the time of grace and reaches nobody in sight,
//!   and no neighbour is unaccounted for; and only when this view has stood for [`crate::limits::VIEW_SETTLED`].
//! - Blocks come in runs of about [`DEPUTY_RUN_BYTES`], the same for everyone. Of the deputies that are connected, trade
//!   the content and do not say that their reads fail, the one with the greatest rendezvous weight reads the run.
//! - It reads only blocks that no neighbour has and that no neighbour says that it reads, one run at a time.
//! - Of two that read the same block, the one without a coordinator's lease yields, else the one with the lower weight. A
//!   deputy yields as well when a node comes in sight that the coordinator reaches: then leases are granted again.
//!
//! WAN-ONCE therefore holds while the views of the deputies agree: each run is read once. Each change of a view may cost what
//! was being read: a run for each deputy. Not guaranteed in sites of more than 24 nodes: that a lease of a node that is no
//! deputy's neighbour is known to them; what it had left after the time of grace may be read twice.
//!
//! What a deputy read is told to the coordinator as ended leases with numbers of their own ([`LeaseId::is_own`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::contents::Contents;
use super::reach::Reach;
use super::trade::{Trade, ranges};
use super::{Input, Output, Why};
use crate::id::{BlockIndex, ContentId, LeaseId, NodeId};
use crate::limits::{
    COORDINATOR_GRACE, DEPUTIES_MAX, DEPUTY_LOOKS, DEPUTY_RUN_BYTES, LEASE_RUNS_MAX, READ_BACKOFF_MAX, READ_BACKOFF_MIN,
};
use crate::rendezvous::weight;
use crate::rng::mix;
use crate::time::Time;
use crate::wan::credit::Terms;
use crate::wan::{BlockRange, Outcome};
use crate::wire::{Grant, LeaseEnd, Origin, Standby, ToNeighbour, ToNode};

/// A node's part in reading without the coordinator.
#[derive(Debug)]
pub(super) struct Deputy {
    me: NodeId,
    pub(super) reach: Reach,
    standbys: BTreeMap<ContentId, Standing>,
    /// What connected neighbours read.
    heard: BTreeMap<(NodeId, ContentId), Reading>,
    /// What they were told of this node.
    said_hops: BTreeMap<NodeId, u8>,
    said: BTreeMap<(NodeId, ContentId), Reading>,
    own: Option<Own>,
    next_lease: u64,
    look_at: Time,
}

#[derive(Debug)]
struct Standing {
    standby: Standby,
    failures: u32,
    rests: bool,
    rests_until: Time,
}

/// What one node reads of one content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reading {
    granted: Vec<BlockRange>,
    own: Vec<BlockRange>,
    fails: bool,
}

/// The lease that this deputy granted itself.
#[derive(Clone, Copy, Debug)]
struct Own {
    content: ContentId,
    lease: LeaseId,
    run: u32,
    yielded: bool,
}

impl Deputy {
    pub(super) fn new(me: NodeId, seed: u64) -> Self {
        Self {
            me,
            reach: Reach::new(COORDINATOR_GRACE),
            standbys: BTreeMap::new(),
            heard: BTreeMap::new(),
            said_hops: BTreeMap::new(),
            said: BTreeMap::new(),
            own: None,
            next_lease: LeaseId::first_own(mix(seed ^ mix(u64::from(me.0[0])))).0,
            look_at: Time::ZERO,
        }
    }

    /// Whether nodes that are no deputies may read, as far as is known: those that still hold leases, and this one itself.
    pub(super) fn others_read(&self) -> bool {
        let deputies: BTreeSet<&NodeId> =
            self.standbys.values().flat_map(|standing| &standing.standby.deputies).collect();
        let mut holders =
            self.heard.iter().filter(|(_, reading)| !reading.granted.is_empty()).map(|((node, _), _)| node);
        self.standbys.is_empty() || holders.any(|node| !deputies.contains(node))
    }

    /// Takes notice of what concerns it.
    pub(super) fn note(&mut self, input: &Input, contents: &Contents, now: Time) {
        match input {
            Input::CoordinatorDown => self.reach.coordinator_down(now),
            Input::Coordinator(ToNode::Welcome { .. }) => self.reach.coordinator_up(),
            Input::Coordinator(ToNode::Roster(roster)) => {
                self.reach.roster(roster.neighbours.iter().map(|neighbour| neighbour.node), now);
            }
            Input::Coordinator(ToNode::Standby(standby)) => self.on_standby(standby, contents),
            Input::NeighbourUp(node) => {
                self.forget(*node);
                self.reach.neighbour_up(*node, now);
            }
            Input::NeighbourDown(node) => {
                self.forget(*node);
                self.reach.neighbour_down(*node, now);
            }
            Input::Neighbour { from, message } if self.reach.is_connected(*from) => match message {
                ToNeighbour::Reach { hops } => self.reach.neighbour_says(*from, *hops, now),
                ToNeighbour::Reading { content, granted, own, fails } if contents.knows(*content) => {
                    self.on_reading(*from, *content, granted, own, *fails, now);
                }
                _ => {}
            },
            Input::ReadEnded { end, .. } => self.on_read_ended(end, now),
            // What neighbours have of it they say when they hear that this node has opened it too.
            Input::Opened { .. } => self.reach.changed(now),
            _ => {}
        }
    }

    fn on_standby(&mut self, standby: &Standby, contents: &Contents) {
        let named = standby.deputies.contains(&self.me) && standby.deputies.len() <= DEPUTIES_MAX;
        if !named || !matches!(standby.origin, Origin::Http(_)) || !contents.knows(standby.content) {
            self.standbys.remove(&standby.content);
            return;
        }
        let standing = Standing { standby: standby.clone(), failures: 0, rests: false, rests_until: Time::ZERO };
        self.standbys.entry(standby.content).or_insert(standing).standby = standby.clone();
    }

    fn on_reading(
        &mut self,
        from: NodeId,
        content: ContentId,
        granted: &[BlockRange],
        own: &[BlockRange],
        fails: bool,
        now: Time,
    ) {
        let some = |ranges: &[BlockRange]| ranges.iter().copied().take(4 * LEASE_RUNS_MAX).collect();
        let reading = Reading { granted: some(granted), own: some(own), fails };
        let before = self.heard.insert((from, content), reading);
        if before.is_some_and(|before| before.fails) != fails {
            self.reach.changed(now);
        }
    }

    fn on_read_ended(&mut self, end: &LeaseEnd, now: Time) {
        let Some(own) = self.own.filter(|own| own.lease == end.lease) else { return };
        self.own = None;
        self.look_at = now;
        let Some(standing) = self.standbys.get_mut(&own.content) else { return };
        match end.outcome {
            Outcome::Done => standing.failures = 0,
            Outcome::Failed { .. } => {
                let wait = READ_BACKOFF_MIN * 2u32.saturating_pow(standing.failures.min(16));
                standing.failures = standing.failures.saturating_add(1);
                standing.rests = true;
                standing.rests_until = now + wait.min(READ_BACKOFF_MAX);
                self.reach.changed(now);
            }
            Outcome::Revoked => {}
        }
    }

    /// A deputy whose reads failed is one again after a rest, once the others know.
    fn end_rests(&mut self, now: Time) {
        for standing in self.standbys.values_mut().filter(|standing| standing.rests && standing.rests_until <= now) {
            standing.rests = false;
            self.reach.changed(now);
        }
    }

    fn forget(&mut self, node: NodeId) {
        self.heard.retain(|(of, _), _| *of != node);
        self.said.retain(|(to, _), _| *to != node);
        self.said_hops.remove(&node);
    }

    /// Says and does what follows from all that was noted.
    pub(super) fn act(&mut self, contents: &mut Contents, now: Time, out: &mut VecDeque<Output>) {
        self.standbys.retain(|content, _| contents.knows(*content));
        self.heard.retain(|(_, content), _| contents.knows(*content));
        self.end_rests(now);
        if self.own.is_some_and(|own| contents.traded(own.content).is_none_or(|t| !t.leases.contains_key(&own.lease))) {
            self.own = None;
        }
        self.say_hops(out);
        self.yield_own(contents, out);
        let grant = self.begin_own(contents, now, out);
        // Neighbours are told before the first byte is asked for.
        self.say_reading(contents, out);
        out.extend(grant.map(Output::Read));
    }

    /// Takes the next lease that this deputy may grant itself, if it is time.
    fn begin_own(&mut self, contents: &mut Contents, now: Time, out: &mut VecDeque<Output>) -> Option<Grant> {
        if self.own.is_some() || now < self.look_at || self.reach.free_at().is_none_or(|at| now < at) {
            return None;
        }
        self.look_at = now + DEPUTY_LOOKS;
        let grant = self.choose(contents)?;
        let run = self.run_of(contents, &grant);
        self.own = Some(Own { content: grant.content, lease: grant.lease, run, yielded: false });
        contents.hold_own(&grant, now, out);
        Some(grant)
    }

    fn say_hops(&mut self, out: &mut VecDeque<Output>) {
        let hops = self.reach.hops();
        for to in self.reach.connected() {
            if self.said_hops.insert(to, hops).unwrap_or(0) != hops {
                out.push_back(Output::Neighbour { to, message: ToNeighbour::Reach { hops } });
            }
        }
    }

    fn say_reading(&mut self, contents: &Contents, out: &mut VecDeque<Output>) {
        if !self.reach.is_cut() {
            return;
        }
        for (content, trade) in contents.all_traded() {
            let reading = self.reading(content, trade);
            for to in self.reach.connected() {
                let said = self.said.entry((to, content)).or_default();
                if *said != reading {
                    *said = reading.clone();
                    let Reading { granted, own, fails } = reading.clone();
                    out.push_back(Output::Neighbour {
                        to,
                        message: ToNeighbour::Reading { content, granted, own, fails },
                    });
                }
            }
        }
        self.said.retain(|(_, content), _| contents.traded(*content).is_some());
    }

    fn reading(&self, content: ContentId, trade: &Trade) -> Reading {
        let of = |own: bool| {
            let leases = trade.leases.iter().filter(move |(lease, _)| lease.is_own() == own);
            ranges(leases.flat_map(|(_, blocks)| trade.open(blocks)))
        };
        let fails = self.standbys.get(&content).is_some_and(|standing| standing.rests);
        Reading { granted: of(false), own: of(true), fails }
    }

    /// Stops reading what another node reads, or what the coordinator grants again.
    fn yield_own(&mut self, contents: &Contents, out: &mut VecDeque<Output>) {
        // While the coordinator is there, its ledger says what becomes of the lease.
        let Some(own) = self.own.filter(|own| !own.yielded && self.reach.is_cut()) else { return };
        let Some(trade) = contents.traded(own.content) else { return };
        let blocks: BTreeSet<_> = trade.leases.get(&own.lease).into_iter().flat_map(|b| trade.open(b)).collect();
        let overlaps =
            |ranges: &[BlockRange]| ranges.iter().any(|r| blocks.range(r.start..).next().is_some_and(|b| *b < r.end));
        let loses =
            self.heard.iter().filter(|((_, content), _)| *content == own.content).any(|((node, _), reading)| {
                let greater = weight(own.content, own.run, *node) > weight(own.content, own.run, self.me);
                overlaps(&reading.granted) || greater && overlaps(&reading.own)
            });
        if loses || !self.reach.is_lost() {
            self.own = Some(Own { yielded: true, ..own });
            out.push_back(Output::CancelRead { content: own.content, lease: own.lease });
        }
    }

    /// The next run that is this deputy's to read, as a lease.
    fn choose(&mut self, contents: &Contents) -> Option<Grant> {
        let ready = self.standbys.values().filter(|standing| !standing.rests);
        let (standby, blocks) = ready.into_iter().find_map(|standing| {
            let trade = contents.traded(standing.standby.content)?;
            Some((&standing.standby, self.next_run(&standing.standby, trade)?))
        })?;
        let (content, origin) = (standby.content, standby.origin.clone());
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        Some(Grant {
            content,
            lease,
            blocks: ranges(blocks.into_iter()),
            origin,
            whole: false,
            terms: Terms::UNLIMITED,
        })
    }

    fn next_run(&self, standby: &Standby, trade: &Trade) -> Option<Vec<BlockIndex>> {
        let content = standby.content;
        let able = |node: &NodeId| {
            *node == self.me
                || self.reach.is_connected(*node)
                    && trade.has_partner(*node)
                    && !self.heard.get(&(*node, content)).is_some_and(|reading| reading.fails)
        };
        let able: Vec<NodeId> = standby.deputies.iter().copied().filter(able).collect();
        let mut others = BTreeSet::new();
        for ((_, of), reading) in &self.heard {
            let ranges = reading.granted.iter().chain(&reading.own).filter(|_| *of == content);
            others.extend(ranges.flat_map(|range| range.start.0..range.end.0.min(trade.exchange.have().count())));
        }
        let held: BTreeSet<_> = trade.leases.values().flatten().copied().collect();
        let free = |block: &BlockIndex| {
            !held.contains(block) && !others.contains(&block.0) && trade.exchange.copies(*block) == 0
        };
        let mut chosen: Option<(u32, Vec<BlockIndex>)> = None;
        for block in trade.lacking_blocks().filter(free) {
            let run = trade.run_of(block);
            match &mut chosen {
                Some((of, blocks)) if *of == run => blocks.push(block),
                Some(_) => break,
                None if able.iter().max_by_key(|node| weight(content, run, **node)) == Some(&self.me) => {
                    chosen = Some((run, vec![block]));
                }
                None => {}
            }
        }
        chosen.map(|(_, blocks)| blocks)
    }

    fn run_of(&self, contents: &Contents, grant: &Grant) -> u32 {
        let first = grant.blocks.first().map_or(BlockIndex(0), |range| range.start);
        contents.traded(grant.content).map_or(0, |trade| trade.run_of(first))
    }

    /// When it wants to look again.
    pub(super) fn next_wake(&self, contents: &Contents, now: Time) -> Option<(Time, Why)> {
        let lacks = |standing: &Standing| contents.traded(standing.standby.content).is_some_and(Trade::lacks);
        let free_at = self.reach.free_at().filter(|_| self.own.is_none())?;
        let rests = self.standbys.values().filter(|standing| lacks(standing)).map(|standing| standing.rests_until);
        Some((rests.min()?.max(free_at).max(self.look_at).max(now), Why::Deputy))
    }

    pub(super) fn check(&self, contents: &Contents) {
        for (content, standing) in &self.standbys {
            assert_eq!(standing.standby.content, *content);
            assert!(standing.standby.deputies.contains(&self.me), "a standby for others");
        }
        let own = contents.all_traded().flat_map(|(_, trade)| trade.leases.keys()).filter(|lease| lease.is_own());
        assert!(own.count() <= 1, "a deputy reads one run at a time");
    }
}

/// Which run each block is of: runs are adjacent blocks that reach [`DEPUTY_RUN_BYTES`] together, the same for all nodes.
pub(super) fn run_starts(block_bytes: &[u32]) -> Vec<u32> {
    let mut starts = Vec::new();
    let mut bytes = DEPUTY_RUN_BYTES;
    for (block, size) in (0..).zip(block_bytes) {
        if bytes >= DEPUTY_RUN_BYTES {
            starts.push(block);
            bytes = 0;
        }
        bytes += u64::from(*size);
    }
    starts
}
