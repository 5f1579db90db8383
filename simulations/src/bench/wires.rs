//! Bytes on the move: for each pair of nodes, and each reader of the WAN, one flow that carries one part of a block after
//! another.
//!
//! Invariant: a wire has a flow while parts wait on it. A flow goes on from one part to the next: only a wire that has
//! nothing to carry at the end of a moment is closed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use shoal_proto::id::BlockIndex;
use shoal_proto::time::Time;

use crate::net::{FlowId, Fluid, Topology};

/// Bytes below which a part has arrived: times are in whole nanoseconds.
const ROUNDING_BYTES: f64 = 1.0;

/// Where bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Node(usize),
    Wan,
}

/// A part of a block that arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) from: Sender,
    pub(super) to: usize,
    pub(super) part: Part,
}

/// A part of a block; its parts are sent in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) block: BlockIndex,
    pub(super) index: u32,
}

/// Parts of one block that follow each other.
#[derive(Clone, Debug)]
struct Run {
    block: BlockIndex,
    parts: Range<u32>,
    /// Of each part.
    bytes: f64,
}

#[derive(Debug)]
struct Wire {
    from: Sender,
    to: usize,
    /// None is empty.
    runs: VecDeque<Run>,
    flow: FlowId,
    /// Bytes left of the first part, at `since`.
    left: f64,
    rate: f64,
    since: Time,
    /// When this wire is looked at next, at the latest when its part has arrived.
    look_at: Option<Time>,
    open: bool,
}

impl Wire {
    fn pass(&mut self, now: Time) {
        self.left -= self.rate * now.since(self.since).as_secs_f64();
        self.since = now;
    }

    /// Takes the part that has arrived.
    fn take_part(&mut self) -> Option<Part> {
        let run = self.runs.front_mut()?;
        let part = Part { block: run.block, index: run.parts.next()? };
        if run.parts.is_empty() {
            self.runs.pop_front();
        }
        Some(part)
    }

    fn arrives(&self) -> Option<Time> {
        let seconds = (self.left.max(0.0) / self.rate).min(1e9);
        (self.rate > 0.0).then(|| self.since + Duration::from_nanos((seconds * 1e9).ceil() as u64))
    }
}

/// Every wire.
pub(super) struct Wires {
    topology: Topology,
    fluid: Fluid,
    wires: Vec<Wire>,
    free: Vec<usize>,
    /// The open wires of each sender, the WAN last.
    of_sender: Vec<Vec<(usize, usize)>>,
    of_flow: Vec<usize>,
    idle: Vec<usize>,
    looks: BinaryHeap<Reverse<(Time, usize)>>,
    changed: Vec<FlowId>,
    unsettled: bool,
}

impl Wires {
    pub(super) fn new(topology: Topology, nodes: usize) -> Self {
        let fluid = Fluid::new(&topology);
        Self {
            topology,
            fluid,
            wires: Vec::new(),
            free: Vec::new(),
            of_sender: vec![Vec::new(); nodes + 1],
            of_flow: Vec::new(),
            idle: Vec::new(),
            looks: BinaryHeap::new(),
            changed: Vec::new(),
            unsettled: false,
        }
    }

    /// Sends parts of so many bytes behind those that are on their way.
    pub(super) fn send(
        &mut self,
        from: Sender,
        to: usize,
        block: BlockIndex,
        parts: Range<u32>,
        bytes: f64,
        now: Time,
    ) {
        if parts.is_empty() {
            return;
        }
        let at = self.find(from, to).unwrap_or_else(|| self.open(from, to, now));
        let wire = &mut self.wires[at];
        let follows = |run: &&mut Run| run.block == block && run.parts.end == parts.start && run.bytes == bytes;
        if let Some(run) = wire.runs.back_mut().filter(follows) {
            run.parts.end = parts.end;
            return;
        }
        wire.runs.push_back(Run { block, parts, bytes });
        if wire.runs.len() == 1 {
            (wire.left, wire.since) = (bytes, now);
            self.look(at, now);
        }
    }

    /// Takes back what is left of a block; how much of the part that was on its way was sent, if there was one.
    pub(super) fn take_back(&mut self, from: Sender, to: usize, block: BlockIndex, now: Time) -> Option<f64> {
        let at = self.find(from, to)?;
        let wire = &mut self.wires[at];
        let (first, bytes) = wire.runs.front().map(|run| (run.block, run.bytes))?;
        let before = wire.runs.len();
        wire.runs.retain(|run| run.block != block);
        if first != block {
            return (wire.runs.len() < before).then_some(0.0);
        }
        wire.pass(now);
        let sent = bytes - wire.left.clamp(0.0, bytes);
        self.next_part(at, now);
        Some(sent)
    }

    /// Ends all that a node sends and gets; how many bytes of it were sent in vain by peers.
    pub(super) fn drop_node(&mut self, node: usize, now: Time) -> f64 {
        let ends = |(at, wire): (usize, &Wire)| {
            let of_node = wire.open && (wire.to == node || wire.from == Sender::Node(node));
            of_node.then_some((at, wire.from, wire.to))
        };
        let ending: Vec<_> = self.wires.iter().enumerate().filter_map(ends).collect();
        let mut lost = 0.0;
        for (at, from, to) in ending {
            while let Some(block) = self.wires[at].runs.front().map(|run| run.block) {
                let sent = self.take_back(from, to, block, now).unwrap_or(0.0);
                lost += if from == Sender::Wan { 0.0 } else { sent };
            }
        }
        lost
    }

    /// When something happens here next.
    pub(super) fn next(&mut self) -> Option<Time> {
        while let Some(Reverse((at, wire))) = self.looks.peek().copied() {
            if self.wires[wire].look_at == Some(at) {
                break;
            }
            self.looks.pop();
        }
        let look = self.looks.peek().map(|Reverse((at, _))| *at);
        look.into_iter().chain(self.fluid.due()).min()
    }

    /// A part that has arrived by `now`, if any.
    pub(super) fn arrival(&mut self, now: Time) -> Option<Arrival> {
        while self.next().is_some_and(|at| at <= now) {
            let Some(Reverse((at, index))) = self.looks.peek().copied().filter(|Reverse((at, _))| *at <= now) else {
                break;
            };
            debug_assert!(at <= now);
            self.looks.pop();
            let wire = &mut self.wires[index];
            wire.look_at = None;
            wire.pass(now);
            if wire.left > ROUNDING_BYTES {
                self.look(index, now);
                continue;
            }
            let Some(part) = wire.take_part() else { continue };
            let (from, to) = (wire.from, wire.to);
            self.next_part(index, now);
            return Some(Arrival { from, to, part });
        }
        if self.fluid.due().is_some_and(|due| due <= now) {
            self.unsettled = true;
        }
        None
    }

    /// Brings all rates up to date after what happened at `now`.
    pub(super) fn settle(&mut self, now: Time) {
        while let Some(at) = self.idle.pop() {
            if self.wires[at].open && self.wires[at].runs.is_empty() {
                self.close(at);
            }
        }
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        let mut changed = std::mem::take(&mut self.changed);
        self.fluid.settle(now, &mut changed);
        for flow in &changed {
            let at = self.of_flow[flow.0 as usize];
            let wire = &mut self.wires[at];
            wire.pass(now);
            wire.rate = self.fluid.rate(*flow);
            self.look(at, now);
        }
        self.changed = changed;
    }

    fn sender_row(&self, from: Sender) -> usize {
        match from {
            Sender::Node(node) => node,
            Sender::Wan => self.of_sender.len() - 1,
        }
    }

    fn find(&self, from: Sender, to: usize) -> Option<usize> {
        self.of_sender[self.sender_row(from)].iter().find(|(receiver, _)| *receiver == to).map(|(_, wire)| *wire)
    }

    fn open(&mut self, from: Sender, to: usize, now: Time) -> usize {
        let route = match from {
            Sender::Node(from) => self.topology.between(from, to),
            Sender::Wan => self.topology.over_wan(to),
        };
        let flow = self.fluid.open(&route);
        self.unsettled = true;
        let wire = |runs| Wire { from, to, runs, flow, left: 0.0, rate: 0.0, since: now, look_at: None, open: true };
        let at = self.free.pop().unwrap_or(self.wires.len());
        if at == self.wires.len() {
            self.wires.push(wire(VecDeque::new()))
        } else {
            self.wires[at] = wire(std::mem::take(&mut self.wires[at].runs))
        }
        let row = self.sender_row(from);
        self.of_sender[row].push((to, at));
        if self.of_flow.len() <= flow.0 as usize {
            self.of_flow.resize(flow.0 as usize + 1, usize::MAX);
        }
        self.of_flow[flow.0 as usize] = at;
        at
    }

    fn close(&mut self, at: usize) {
        let wire = &mut self.wires[at];
        (wire.open, wire.look_at) = (false, None);
        let (from, to) = (wire.from, wire.to);
        self.fluid.close(wire.flow);
        self.unsettled = true;
        let row = self.sender_row(from);
        self.of_sender[row].retain(|(receiver, _)| *receiver != to);
        self.free.push(at);
    }

    fn next_part(&mut self, at: usize, now: Time) {
        let wire = &mut self.wires[at];
        match wire.runs.front() {
            Some(run) => {
                (wire.left, wire.since) = (run.bytes, now);
                self.look(at, now);
            }
            None => {
                wire.look_at = None;
                self.idle.push(at);
            }
        }
    }

    /// Sees to it that the wire is looked at when its part arrives. A look that comes too early looks again.
    fn look(&mut self, at: usize, now: Time) {
        let wire = &mut self.wires[at];
        if wire.runs.is_empty() {
            return;
        }
        let Some(arrives) = wire.arrives().map(|at| at.max(now)) else { return };
        if wire.look_at.is_none_or(|set| arrives < set) {
            wire.look_at = Some(arrives);
            self.looks.push(Reverse((arrives, at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a block in one part.
    fn send(wires: &mut Wires, to: usize, block: u32, bytes: f64) {
        wires.send(Sender::Node(0), to, BlockIndex(block), 0..1, bytes, Time::ZERO);
    }

    const MIB: f64 = 1024.0 * 1024.0;

    fn wires(nodes: usize) -> Wires {
        let mut topology = Topology::default();
        let site = topology.add_site(MIB);
        (0..nodes).for_each(|_| {
            topology.add_node(site, MIB, MIB);
        });
        Wires::new(topology, nodes)
    }

    /// Runs until nothing is on its way; when what arrived, in milliseconds.
    fn arrivals(wires: &mut Wires) -> Vec<(usize, u32, u128)> {
        let mut arrived = Vec::new();
        wires.settle(Time::ZERO);
        while let Some(now) = wires.next() {
            while let Some(Arrival { to, part, .. }) = wires.arrival(now) {
                arrived.push((to, part.block.0, now.since(Time::ZERO).as_millis()));
            }
            wires.settle(now);
        }
        arrived
    }

    #[test]
    fn a_pair_sends_one_block_after_the_other_and_senders_share() {
        let mut wires = wires(3);
        for block in 0..2 {
            send(&mut wires, 1, block, MIB);
        }
        send(&mut wires, 2, 9, MIB / 2.0);
        // Half each until 9 is there after 1 s, then all for the other.
        assert_eq!(arrivals(&mut wires), [(2, 9, 1000), (1, 0, 1500), (1, 1, 2500)]);
    }

    #[test]
    fn what_is_taken_back_lets_the_next_go_first() {
        let mut wires = wires(2);
        for block in 0..3 {
            send(&mut wires, 1, block, MIB);
        }
        wires.settle(Time::ZERO);
        let half = Time::from_millis(500);
        assert_eq!(wires.take_back(Sender::Node(0), 1, BlockIndex(1), half), Some(0.0));
        assert_eq!(wires.take_back(Sender::Node(0), 1, BlockIndex(0), half), Some(MIB / 2.0));
        assert_eq!(wires.take_back(Sender::Node(0), 1, BlockIndex(0), half), None);
        wires.settle(half);
        assert_eq!(arrivals(&mut wires), [(1, 2, 1500)]);
    }
}
