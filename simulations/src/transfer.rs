//! Bytes on the move: reads over the WAN under leases, and blocks between neighbours.
//!
//! A site's WAN and each node's two directions are pipes that serve one piece after the other. What is counted as read is
//! what crossed the WAN in this world, whatever anybody reports of it (WAN-ONCE).

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_proto::content::{Layout, Outline};
use shoal_proto::exchange::FetchError;
use shoal_proto::id::{BlockIndex, ContentId, LeaseId, NodeId};
use shoal_proto::node::Input;
use shoal_proto::time::Time;
use shoal_proto::wan::{Lacking, Outcome};
use shoal_proto::wire::{Fault, FaultKind, Grant, LeaseEnd};

use crate::checks::wan_once::Way;
use crate::world::{Event, World};

/// How long a node waits for an answer to a request.
const FETCH_PATIENCE: Duration = Duration::from_secs(20);

/// A lease that is worked on.
#[derive(Debug)]
pub(crate) struct Read {
    grant: Grant,
    blocks: Vec<BlockIndex>,
    next: usize,
    read_bytes: u64,
    /// How much may be read for it.
    credit_bytes: u64,
    piece: Option<Piece>,
    /// Since when it is held.
    pub(crate) since: Time,
    /// Blocks that the site had or read otherwise then.
    there: BTreeSet<BlockIndex>,
}

impl Read {
    /// Whether a block is still to be read.
    pub(crate) fn has_yet(&self, content: ContentId, block: BlockIndex) -> bool {
        self.grant.content == content && self.blocks[self.next..].contains(&block)
    }

    /// Two contents' leases may have the same number.
    fn is_for(&self, content: ContentId, lease: LeaseId) -> bool {
        (self.grant.content, self.grant.lease) == (content, lease)
    }

    /// The content, the block, the bytes and the age of a piece that is being read.
    pub(crate) fn half(&self, lease: LeaseId, piece: u64, now: Time) -> Option<(ContentId, BlockIndex, u64, Duration)> {
        let piece = self.piece.filter(|at| self.grant.lease == lease && at.number == piece)?;
        Some((self.grant.content, piece.block, u64::from(piece.bytes), now.since(piece.begins)))
    }
}

/// What a node reads at the moment.
#[derive(Clone, Copy, Debug)]
struct Piece {
    number: u64,
    block: BlockIndex,
    bytes: u32,
    begins: Time,
    ends: Time,
    /// Whether another node of the site had it or read it, when the lease was granted and when the piece was begun.
    there: [bool; 2],
    /// How it is going to fail, after how many bytes.
    fails: Option<(FaultKind, u32)>,
}

/// A block that was asked of a neighbour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    pub(crate) from: usize,
    pub(crate) content: ContentId,
    pub(crate) block: BlockIndex,
    pub(crate) bytes: u32,
    pub(crate) asked: Time,
}

/// A block that a neighbour asked for.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) content: ContentId,
    pub(crate) block: BlockIndex,
    bytes: u32,
    /// It is served once the block is there.
    pub(crate) waits: bool,
}

/// Bytes of each block of a recipe.
pub(crate) fn recipe_blocks(outline: &Outline) -> Vec<u32> {
    let layout = Layout::of_outline(outline).expect("outlines in scenarios are well-formed");
    layout.blocks().map(|block| u32::try_from(layout.block_bytes(block)).expect("a block fits 32 bits")).collect()
}

fn span(bytes: u32, rate: u64) -> Duration {
    Duration::from_nanos(u64::from(bytes) * 1_000_000_000 / rate.max(1))
}

impl World {
    fn rate(&self, node: usize) -> u64 {
        let rate = self.scenario.nodes[node].rate;
        if self.hosts[node].slow_until > self.now { rate / 10 } else { rate }
    }

    /// Which way a node's reads of a content go: its site's, or its own where nodes do not trade.
    pub(crate) fn way(&self, node: usize, content: ContentId) -> Way {
        let alone = (!self.scenario.swarm).then_some(node);
        Way { site: self.scenario.nodes[node].site, alone, content }
    }

    pub(crate) fn read(&mut self, node: usize, grant: Grant) {
        if grant.lease.is_own() {
            self.judge_own_lease(node, &grant);
        }
        let blocks: Vec<_> = grant.blocks.iter().flat_map(|range| range.iter()).collect();
        let there = blocks.iter().copied().filter(|block| self.is_in_site(node, grant.content, *block)).collect();
        let since = self.now;
        let Some(process) = &mut self.hosts[node].process else { return };
        let credit_bytes = grant.terms.first_bytes;
        process.reads.push_back(Read {
            grant,
            blocks,
            next: 0,
            read_bytes: 0,
            credit_bytes,
            piece: None,
            since,
            there,
        });
        if process.reads.len() == 1 {
            self.read_on(node);
        }
    }

    /// Begins the next piece of the first lease; ends leases that have none.
    pub(crate) fn read_on(&mut self, node: usize) {
        loop {
            let disk = &self.hosts[node].disk;
            let Some(read) = self.hosts[node].process.as_ref().and_then(|process| process.reads.front()) else {
                return;
            };
            if read.piece.is_some() {
                return;
            }
            let content = read.grant.content;
            let lacks = |block: &BlockIndex| disk.lacking(content, *block).is_some_and(|bytes| bytes > 0);
            match read.blocks[read.next..].iter().position(lacks) {
                Some(ahead) => return self.begin_piece(node, ahead),
                None => self.end_read(node, 0, Outcome::Done, None),
            }
        }
    }

    fn begin_piece(&mut self, node: usize, ahead: usize) {
        let paced = self.hosts[node].process.as_ref().and_then(|process| process.wan_rate);
        if paced == Some(0) {
            // It goes on when it is told another rate.
            return;
        }
        let number = self.number();
        let rate = self.rate(node);
        let site = self.scenario.nodes[node].site;
        let fails = self.read_fault();
        let host = &mut self.hosts[node];
        let Some(read) = host.process.as_mut().and_then(|process| process.reads.front_mut()) else { return };
        read.next += ahead;
        let (content, lease, block) = (read.grant.content, read.grant.lease, read.blocks[read.next]);
        let there_at_grant = read.there.contains(&block);
        let bytes = host.disk.lacking(content, block).unwrap_or(0);
        let wanted = read.read_bytes + u64::from(bytes);
        if wanted > read.credit_bytes {
            // It goes on when that is confirmed.
            let ahead = wanted + u64::from(bytes) / 2;
            return self.feed_node(node, Input::CreditWanted { content, lease, bytes: ahead });
        }
        let rate = rate.min(self.scenario.sites[site].wan_rate);
        let begins = self.wan_free[site].max(self.now);
        let fails = fails.map(|(kind, permille)| (kind, (u64::from(bytes) * permille / 1000) as u32));
        let moves = fails.map_or(bytes, |(_, bytes)| bytes);
        let ends = begins + span(moves, rate);
        self.wan_free[site] = ends;
        let ends = ends.max(self.now + paced.map_or(Duration::ZERO, |paced| span(moves, paced)));
        // An origin that is down is given up after a while.
        let patience = if fails.is_some() { Duration::from_millis(300) } else { Duration::ZERO };
        let there = [there_at_grant, self.is_in_site(node, content, block)];
        if let Some(read) = self.hosts[node].process.as_mut().and_then(|process| process.reads.front_mut()) {
            read.piece = Some(Piece { number, block, bytes, begins, ends, there, fails });
        }
        let life = self.hosts[node].life;
        if fails.is_none() {
            self.queue.push(Self::half_way(begins, ends), Event::HalfRead { node, life, lease, piece: number });
        }
        self.queue.push(ends + patience, Event::Piece { node, life, lease, piece: number });
    }

    /// More of a lease may be read.
    pub(crate) fn credit(&mut self, node: usize, content: ContentId, lease: LeaseId, bytes: u64) {
        let Some(process) = &mut self.hosts[node].process else { return };
        if let Some(read) = process.reads.iter_mut().find(|read| read.is_for(content, lease)) {
            read.credit_bytes = read.credit_bytes.max(bytes);
            self.read_on(node);
        }
    }

    /// Whether another connected node of the site has a block or reads it; nobody else counts where nodes do not trade.
    fn is_in_site(&self, node: usize, content: ContentId, block: BlockIndex) -> bool {
        let site = self.scenario.nodes[node].site;
        let near = |other: &usize| *other != node && self.scenario.nodes[*other].site == site && self.scenario.swarm;
        (0..self.hosts.len()).filter(near).filter(|other| self.is_connected(*other)).any(|other| {
            let reads = |read: &Read| read.has_yet(content, block);
            let host = &self.hosts[other];
            let opens = host.process.as_ref().is_some_and(|process| !process.unopened.contains(&content));
            opens && host.disk.has(content, block) || host.process.as_ref().is_some_and(|p| p.reads.iter().any(reads))
        })
    }

    fn read_fault(&mut self) -> Option<(FaultKind, u64)> {
        if self.origin_down_until > self.now {
            return Some((FaultKind::Passing, 0));
        }
        if self.mishap(self.scenario.mishaps.read_fails) {
            return Some((FaultKind::Passing, self.rng.below(1000)));
        }
        let wrong = self.mishap(self.scenario.mishaps.wrong_bytes);
        wrong.then_some((FaultKind::WrongBytes, 999))
    }

    pub(crate) fn piece_read(&mut self, node: usize, lease: LeaseId, number: u64) {
        let Some(process) = &mut self.hosts[node].process else { return };
        let Some(read) = process.reads.front_mut().filter(|read| read.grant.lease == lease) else { return };
        let Some(piece) = read.piece.filter(|piece| piece.number == number) else { return };
        read.piece = None;
        let content = read.grant.content;
        if let Some((kind, bytes)) = piece.fails {
            self.count_part(node, piece, bytes, kind != FaultKind::WrongBytes);
            let fault = Fault { kind, cause: "the origin does not answer as it should".to_owned() };
            let retryable = self.rng.below(4) > 0;
            self.end_read(node, 0, Outcome::Failed { retryable }, Some(fault));
            return self.read_on(node);
        }
        read.read_bytes += u64::from(piece.bytes);
        read.next += 1;
        let fresh = self.hosts[node].disk.store(content, piece.block);
        let wasted = if fresh { 0 } else { piece.bytes };
        self.count(node, content, lease, piece, piece.bytes, wasted);
        self.say_wan_rate(node, piece.bytes, self.now.since(piece.begins));
        if fresh {
            self.checks.away.stored(node, content, piece.block, self.now);
            self.feed_node(node, Input::Landed { content, block: piece.block });
            self.pass_on(node, content, piece.block);
        }
        self.read_on(node);
    }

    /// Counts what was read of a piece that did not come to its end, of the first lease.
    fn count_part(&mut self, node: usize, piece: Piece, bytes: u32, good: bool) {
        let host = &mut self.hosts[node];
        let Some(read) = host.process.as_mut().and_then(|process| process.reads.front_mut()) else { return };
        read.read_bytes += u64::from(bytes);
        let (content, lease) = (read.grant.content, read.grant.lease);
        let kept = if good { host.disk.store_part(content, piece.block, bytes) } else { 0 };
        self.count(node, content, lease, piece, bytes, bytes - kept);
    }

    fn count(&mut self, node: usize, content: ContentId, lease: LeaseId, piece: Piece, bytes: u32, wasted: u32) {
        self.totals.wan_bytes += u64::from(bytes);
        let way = self.way(node, content);
        // A grant for which nothing was read was none: the next one is the first.
        match bytes {
            0 => {}
            _ if lease.is_own() => self.checks.wan.begin_own(way, piece.block, piece.bytes),
            _ => self.checks.wan.begin(way, piece.block, piece.bytes, piece.there),
        }
        let verdict = self.checks.wan.read(way, lease, u64::from(bytes), u64::from(wasted));
        self.verify("WAN-ONCE", verdict);
    }

    /// Says that the lease at `index` is over.
    fn end_read(&mut self, node: usize, index: usize, outcome: Outcome, fault: Option<Fault>) {
        let host = &mut self.hosts[node];
        let Some(read) = host.process.as_mut().and_then(|process| process.reads.remove(index)) else { return };
        let content = read.grant.content;
        let lacking = |block: &BlockIndex| host.disk.lacking(content, *block).filter(|bytes| *bytes > 0);
        let begun = read.blocks.iter().take(read.next + 1);
        let begun = begun.filter_map(|block| Some(Lacking { block: *block, bytes: lacking(block)? })).collect();
        let (lease, read_bytes) = (read.grant.lease, read.read_bytes);
        let end = LeaseEnd { content, lease, read_bytes, landed: Vec::new(), outcome, fault };
        self.feed_node(node, Input::ReadEnded { end, begun });
    }

    pub(crate) fn read_stopped(&mut self, node: usize, content: ContentId, lease: LeaseId) {
        let Some(process) = &self.hosts[node].process else { return };
        let Some(index) = process.reads.iter().position(|read| read.is_for(content, lease)) else { return };
        if index == 0 {
            self.interrupt(node);
        }
        self.end_read(node, index, Outcome::Revoked, None);
        if index == 0 {
            self.read_on(node);
        }
    }

    /// Stops the piece that is being read, and counts what came of it.
    fn interrupt(&mut self, node: usize) {
        let read = self.hosts[node].process.as_mut().and_then(|process| process.reads.front_mut());
        let Some(piece) = read.and_then(|read| read.piece.take()) else { return };
        let whole = piece.ends.since(piece.begins).as_nanos().max(1);
        let elapsed = self.now.since(piece.begins).as_nanos().min(whole);
        let most = piece.fails.map_or(piece.bytes, |(_, bytes)| bytes);
        let bytes = u32::try_from(u128::from(most) * elapsed / whole).unwrap_or(most);
        let wrong = matches!(piece.fails, Some((FaultKind::WrongBytes, _)));
        self.count_part(node, piece, bytes, !wrong);
    }

    /// What a crash does to transfers; the disk keeps what was verified.
    pub(crate) fn drop_transfers(&mut self, node: usize) {
        self.interrupt(node);
        let uploads = self.hosts[node].process.as_ref().map(|process| process.uploads.keys().copied().collect());
        let uploads: Vec<(usize, u64)> = uploads.unwrap_or_default();
        for (to, request) in uploads {
            self.fail_fetch(to, request, FetchError::Timeout, FETCH_PATIENCE);
        }
        let fetches = self.hosts[node].process.as_ref().map(|process| process.fetches.iter());
        let fetches: Vec<_> = fetches.into_iter().flatten().map(|(request, fetch)| (*request, fetch.from)).collect();
        for (request, server) in fetches {
            let at = self.now + self.latency();
            self.queue.push(at, Event::Withdrawn { server, node, request });
        }
    }

    pub(crate) fn fail_fetch(&mut self, node: usize, request: u64, why: FetchError, within: Duration) {
        let at = self.now + self.latency() + self.within(Duration::ZERO, within);
        let life = self.hosts[node].life;
        self.queue.push(at, Event::FetchOver { node, life, request, why });
    }

    pub(crate) fn fetch(&mut self, node: usize, from: NodeId, content: ContentId, block: BlockIndex) {
        let Some(from) = self.scenario.node(from) else { return };
        let (request, latency, life) = (self.number(), self.latency(), self.hosts[node].life);
        let bytes = self.hosts[node].disk.lacking(content, block).unwrap_or(0);
        let Some(process) = &mut self.hosts[node].process else { return };
        process.fetches.insert(request, Fetch { from, content, block, bytes, asked: self.now });
        self.queue.push(self.now + latency, Event::Asked { node, life, request });
        let at = self.now + FETCH_PATIENCE;
        self.queue.push(at, Event::FetchOver { node, life, request, why: FetchError::Timeout });
    }

    pub(crate) fn cancel_fetch(&mut self, node: usize, from: NodeId, content: ContentId, block: BlockIndex) {
        let too_late = self.rng.below(3) == 0;
        let Some(process) = &mut self.hosts[node].process else { return };
        let Some(server) = self.scenario.node(from) else { return };
        let of_it = |fetch: &Fetch| fetch.from == server && fetch.content == content && fetch.block == block;
        let found = process.fetches.iter().find(|(_, fetch)| of_it(fetch)).map(|(request, _)| *request);
        if let Some(request) = found.filter(|_| !too_late) {
            process.fetches.remove(&request);
            let at = self.now + self.latency();
            self.queue.push(at, Event::Withdrawn { server, node, request });
        }
    }

    /// A request arrives at the neighbour.
    pub(crate) fn asked(&mut self, node: usize, request: u64) {
        let fetch = self.hosts[node].process.as_ref().and_then(|process| process.fetches.get(&request));
        let Some(Fetch { from, content, block, bytes, .. }) = fetch else { return };
        let (from, content, block, bytes) = (*from, *content, *block, *bytes);
        let Some(server) = &mut self.hosts[from].process else {
            return self.fail_fetch(node, request, FetchError::Timeout, Duration::from_secs(3));
        };
        server.uploads.insert((node, request), Upload { content, block, bytes, waits: false });
        let id = self.scenario.nodes[node].id;
        self.feed_node(from, Input::UploadAsked { node: id, request, content, block, bytes: u64::from(bytes) });
    }

    pub(crate) fn serve(&mut self, server: usize, to: NodeId, request: u64) {
        let Some(to) = self.scenario.node(to) else { return };
        let upload = self.hosts[server].process.as_ref().and_then(|process| process.uploads.get(&(to, request)));
        let Some(Upload { content, block, .. }) = upload else { return };
        let (content, block) = (*content, *block);
        match self.hosts[server].disk.has(content, block) {
            true => self.begin_sending(server, to, request),
            false => self.wait(server, to, request, content, block),
        }
    }

    pub(crate) fn begin_sending(&mut self, server: usize, to: usize, request: u64) {
        let upload = self.hosts[server].process.as_ref().and_then(|process| process.uploads.get(&(to, request)));
        let Some(Upload { content, block, bytes, .. }) = upload else { return };
        let (content, block, bytes) = (*content, *block, *bytes);
        let has = self.hosts[server].disk.has(content, block);
        self.verify("VERIFIED", has.then_some(()).ok_or(format!("node{server} sends block {block}, and lacks it")));
        let rate = self.rate(server).min(self.rate(to));
        let begins = self.hosts[server].up_free.max(self.hosts[to].down_free).max(self.now);
        let ends = begins + span(bytes, rate);
        (self.hosts[server].up_free, self.hosts[to].down_free) = (ends, ends);
        let (server_life, life) = (self.hosts[server].life, self.hosts[to].life);
        let latency = self.latency();
        self.push_half_sent(Self::half_way(begins, ends) + latency, to, request);
        self.queue.push(ends + latency, Event::Sent { server, server_life, node: to, life, request });
    }

    pub(crate) fn refuse(&mut self, server: usize, to: NodeId, request: u64, why: FetchError) {
        let Some(to) = self.scenario.node(to) else { return };
        let Some(process) = &mut self.hosts[server].process else { return };
        if process.uploads.remove(&(to, request)).is_some() {
            self.fail_fetch(to, request, why, Duration::ZERO);
        }
    }

    /// A request was taken back, or its sender is gone.
    pub(crate) fn withdrawn(&mut self, server: usize, node: usize, request: u64) {
        let Some(process) = &mut self.hosts[server].process else { return };
        if let Some(upload) = process.uploads.remove(&(node, request)) {
            let id = self.scenario.nodes[node].id;
            self.feed_node(server, Input::UploadDone { node: id, request, content: upload.content });
        }
    }

    /// A block was sent, if server and receiver still are the ones that they were.
    pub(crate) fn sent(&mut self, (server, server_life): (usize, u32), (node, life): (usize, u32), request: u64) {
        let serves = self.hosts[server].life == server_life && self.hosts[server].process.is_some();
        let of_it = |process: &crate::host::Process| process.uploads.contains_key(&(node, request));
        if !serves || !self.hosts[server].process.as_ref().is_some_and(of_it) {
            return;
        }
        self.withdrawn(server, node, request);
        let host = &mut self.hosts[node];
        let same = host.life == life;
        let Some(process) = host.process.as_mut().filter(|_| same) else { return };
        let Some(fetch) = process.fetches.remove(&request) else { return };
        let Fetch { content, block, bytes, asked, .. } = fetch;
        let from = self.scenario.nodes[server].id;
        if self.mishap(self.scenario.nodes[server].lies) {
            self.totals.lies += 1;
            self.checks.away.lied(server, node);
            let why = FetchError::Corrupt;
            return self.feed_node(node, Input::FetchFailed { node: from, content, block, why });
        }
        if self.hosts[node].disk.store(content, block) {
            self.checks.away.stored(node, content, block, self.now);
        }
        let took = self.now.since(asked);
        self.feed_node(node, Input::Fetched { node: from, content, block, bytes: u64::from(bytes), took });
        self.pass_on(node, content, block);
    }

    pub(crate) fn fetch_over(&mut self, node: usize, request: u64, why: FetchError) {
        let Some(process) = &mut self.hosts[node].process else { return };
        let Some(fetch) = process.fetches.remove(&request) else { return };
        let Fetch { from, content, block, .. } = fetch;
        let at = self.now + self.latency();
        self.queue.push(at, Event::Withdrawn { server: from, node, request });
        let from = self.scenario.nodes[from].id;
        self.feed_node(node, Input::FetchFailed { node: from, content, block, why });
    }

    /// Drops the requests of a neighbour whose connection is gone.
    pub(crate) fn drop_uploads_to(&mut self, node: usize, to: usize) {
        self.drop_uploads(node, |asker, _| asker == to);
    }

    fn drop_uploads(&mut self, node: usize, which: impl Fn(usize, &Upload) -> bool) {
        let Some(process) = &mut self.hosts[node].process else { return };
        let chosen = process.uploads.iter().filter(|((asker, _), upload)| which(*asker, upload));
        let chosen: Vec<_> = chosen.map(|(key, _)| *key).collect();
        for (asker, request) in chosen {
            if let Some(process) = &mut self.hosts[node].process {
                process.uploads.remove(&(asker, request));
            }
            self.fail_fetch(asker, request, FetchError::Gone, Duration::from_millis(100));
        }
    }

    /// A content is closed: nobody gets anything of it here, and nothing of it is fetched.
    pub(crate) fn close(&mut self, node: usize, content: ContentId) {
        self.drop_uploads(node, |_, upload| upload.content == content);
        let Some(process) = &mut self.hosts[node].process else { return };
        let of_it = process.fetches.iter().filter(|(_, fetch)| fetch.content == content);
        let of_it: Vec<_> = of_it.map(|(request, fetch)| (*request, fetch.from)).collect();
        process.fetches.retain(|_, fetch| fetch.content != content);
        for (request, server) in of_it {
            let at = self.now + self.latency();
            self.queue.push(at, Event::Withdrawn { server, node, request });
        }
    }
}
