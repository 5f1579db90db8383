//! Blocks that are passed on while they still arrive: who waits for whom, and that nobody waits for itself.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_proto::exchange::{Arrived, FetchError};
use shoal_proto::id::{BlockIndex, ContentId, LeaseId, NodeId};
use shoal_proto::node::Input;
use shoal_proto::time::Time;

use crate::host::{Host, Process};
use crate::transfer::{Fetch, Upload};
use crate::world::{Event, World};

impl Host {
    /// Whether a block is here or on its way.
    pub(crate) fn brings(&self, content: ContentId, block: BlockIndex) -> bool {
        let arrives = |process: &Process| {
            let fetched = process.fetches.values().any(|fetch| fetch.content == content && fetch.block == block);
            fetched || process.reads.iter().any(|read| read.has_yet(content, block))
        };
        self.disk.has(content, block) || self.process.as_ref().is_some_and(arrives)
    }
}

impl World {
    /// Half of what a neighbour sends has come.
    pub(crate) fn half_sent(&mut self, node: usize, request: u64) {
        let fetch = self.hosts[node].process.as_ref().and_then(|process| process.fetches.get(&request));
        let Some(Fetch { from, content, block, bytes, asked }) = fetch.copied() else { return };
        let kept = self.hosts[node].disk.store_part(content, block, bytes / 2);
        let (from, took) = (Some(self.scenario.nodes[from].id), self.now.since(asked));
        let arrived = Arrived { from, bytes: u64::from(kept), of: u64::from(bytes), took };
        self.feed_node(node, Input::Arrives { content, block, arrived });
    }

    /// Half of a piece of a lease was read.
    pub(crate) fn half_read(&mut self, node: usize, lease: LeaseId, piece: u64) {
        let read = self.hosts[node].process.as_ref().and_then(|process| process.reads.front());
        let Some((content, block, bytes, took)) = read.and_then(|read| read.half(lease, piece, self.now)) else {
            return;
        };
        let arrived = Arrived { from: None, bytes: bytes / 2, of: bytes, took };
        self.feed_node(node, Input::Arrives { content, block, arrived });
    }

    /// A node serves a block that it lacks: what it was asked for waits until the block is there. It has to be on its way,
    /// and not by way of who asked.
    pub(crate) fn wait(&mut self, server: usize, to: usize, request: u64, content: ContentId, block: BlockIndex) {
        self.totals.passed_on += 1;
        let brings = self.hosts[server].brings(content, block).then_some(());
        let Some(process) = &mut self.hosts[server].process else { return };
        if let Some(upload) = process.uploads.get_mut(&(to, request)) {
            upload.waits = true;
        }
        self.verify("VERIFIED", brings.ok_or(format!("node{server} offers block {block}, and nobody brings it")));
        let circle = self.is_in_circle(server, content, block);
        self.verify(
            "PASSING",
            (!circle).then_some(()).ok_or(format!("node{server} waits for itself for block {block}")),
        );
    }

    /// Whether the nodes that `node` waits for, directly or not, wait for it.
    fn is_in_circle(&self, node: usize, content: ContentId, block: BlockIndex) -> bool {
        let (mut seen, mut next) = (BTreeSet::new(), vec![node]);
        while let Some(waiting) = next.pop() {
            for (server, host) in self.hosts.iter().enumerate() {
                let uploads = host.process.iter().flat_map(|process| &process.uploads);
                let serves = |((to, _), upload): (&(usize, u64), &Upload)| {
                    *to == waiting && upload.waits && upload.content == content && upload.block == block
                };
                if uploads.into_iter().any(serves) {
                    if server == node {
                        return true;
                    }
                    if seen.insert(server) {
                        next.push(server);
                    }
                }
            }
        }
        false
    }

    /// A block came: it is sent to those who wait for it.
    pub(crate) fn pass_on(&mut self, server: usize, content: ContentId, block: BlockIndex) {
        let Some(process) = &mut self.hosts[server].process else { return };
        let waits = process
            .uploads
            .iter_mut()
            .filter(|(_, upload)| upload.waits && upload.content == content && upload.block == block);
        let waits: Vec<_> = waits
            .map(|(key, upload)| {
                upload.waits = false;
                *key
            })
            .collect();
        for (to, request) in waits {
            self.begin_sending(server, to, request);
        }
    }

    /// What a neighbour waits for does not come from here.
    pub(crate) fn break_off(&mut self, server: usize, to: NodeId, request: u64) {
        let Some(to) = self.scenario.node(to) else { return };
        let Some(process) = &mut self.hosts[server].process else { return };
        if process.uploads.get(&(to, request)).is_some_and(|upload| upload.waits) {
            self.totals.broken_off += 1;
            self.withdrawn(server, to, request);
            self.fail_fetch(to, request, FetchError::Gone, Duration::ZERO);
        }
    }

    /// The middle between `begins` and `ends`.
    pub(crate) fn half_way(begins: Time, ends: Time) -> Time {
        begins + ends.since(begins) / 2
    }

    pub(crate) fn push_half_sent(&mut self, at: Time, node: usize, request: u64) {
        let life = self.hosts[node].life;
        self.queue.push(at, Event::HalfSent { node, life, request });
    }
}
