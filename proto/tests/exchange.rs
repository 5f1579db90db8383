//! What an exchange does with good, slow, full and lying neighbours, told as what happens to one node.

use std::time::Duration;

use shoal_proto::content::BlockSet;
use shoal_proto::exchange::{Exchange, FetchError, Input, Output, Source};
use shoal_proto::id::{BlockIndex, NodeId};
use shoal_proto::limits::{ANNOUNCE_EVERY, LIAR_REST, STUCK_AFTER};
use shoal_proto::time::Time;

const A: NodeId = NodeId([1; 32]);
const B: NodeId = NodeId([2; 32]);
const BLOCK_BYTES: u32 = 1000;

/// An exchange with a clock.
struct Table {
    core: Exchange,
    now: Time,
}

impl Table {
    /// A content of `blocks` blocks of which the node has `have`, with neighbours A and B that have what is said. What
    /// follows from that is not polled yet.
    fn new(blocks: u32, have: &[u32], of_a: &[u32], of_b: &[u32]) -> Self {
        let sizes = vec![BLOCK_BYTES; blocks as usize];
        let mut table = Self { core: Exchange::new(&sizes, &set(blocks, have), 3), now: Time::from_millis(1) };
        for node in [A, B] {
            assert_eq!(table.tell(Input::NeighbourUp { node }), [Output::AnnounceAll { to: node }]);
        }
        for (node, has) in [(A, of_a), (B, of_b)] {
            table.core.handle(Input::NeighbourHas { node, blocks: set(blocks, has) }, table.now);
            table.core.check();
        }
        table
    }

    fn tell(&mut self, input: Input) -> Vec<Output> {
        self.core.handle(input, self.now);
        self.core.check();
        std::iter::from_fn(|| self.core.poll()).collect()
    }

    /// Lets time pass, with a wake-up whenever the core wants one.
    fn pass(&mut self, span: Duration) -> Vec<Output> {
        let until = self.now + span;
        let mut outputs = Vec::new();
        while let Some((at, _)) = self.core.next_wake().filter(|(at, _)| *at <= until) {
            self.now = at;
            outputs.extend(self.tell(Input::Tick));
        }
        self.now = until;
        outputs
    }

    fn fetched(&mut self, node: NodeId, block: u32, took_ms: u64) -> Vec<Output> {
        let (bytes, took) = (u64::from(BLOCK_BYTES), Duration::from_millis(took_ms));
        self.tell(Input::Fetched { node, block: BlockIndex(block), bytes, took })
    }
}

fn set(count: u32, blocks: &[u32]) -> BlockSet {
    let mut set = BlockSet::new(count);
    blocks.iter().for_each(|block| assert!(set.insert(BlockIndex(*block))));
    set
}

fn fetch(node: NodeId, block: u32) -> Output {
    Output::Fetch { node, block: BlockIndex(block) }
}

#[test]
fn a_block_that_is_read_over_the_wan_is_not_asked_of_neighbours() {
    let mut table = Table::new(2, &[], &[0], &[]);
    assert_eq!(table.tell(Input::Tick), [fetch(A, 0)]);
    let blocks = vec![BlockIndex(0), BlockIndex(1)];
    let cancel = Output::Cancel { node: A, block: BlockIndex(0) };
    assert_eq!(table.tell(Input::LeaseHeld { blocks: blocks.clone() }), [cancel]);
    assert_eq!(table.tell(Input::NeighbourLanded { node: B, blocks }), []);
    // When the lease is over without it, neighbours are asked again.
    assert_eq!(table.tell(Input::LeaseOver { blocks: vec![BlockIndex(1)] }), [fetch(B, 1)]);
}

#[test]
fn what_lands_over_the_wan_is_announced_at_once_and_the_last_block_completes() {
    let mut table = Table::new(2, &[], &[], &[]);
    let landed = table.tell(Input::Landed { block: BlockIndex(1), from: Source::Wan });
    let announce = |to, block| Output::Announce { to, blocks: vec![BlockIndex(block)] };
    assert_eq!(landed, [announce(A, 1), announce(B, 1)]);
    let landed = table.tell(Input::Landed { block: BlockIndex(0), from: Source::Local });
    assert_eq!(landed, [announce(A, 0), announce(B, 0), Output::Complete]);
}

#[test]
fn common_blocks_are_announced_together() {
    let mut core = Exchange::new(&[BLOCK_BYTES; 4], &BlockSet::new(4), 1);
    let now = Time::from_millis(1);
    let neighbours = (1..=5).map(|number| NodeId([number; 32]));
    for node in neighbours {
        core.handle(Input::NeighbourUp { node }, now);
        core.handle(Input::NeighbourHas { node, blocks: set(4, &[0, 1]) }, now);
    }
    while core.poll().is_some() {}
    for block in [0, 1] {
        core.handle(Input::Landed { block: BlockIndex(block), from: Source::Local }, now);
    }
    let said = |core: &mut Exchange| {
        std::iter::from_fn(|| core.poll()).filter(|o| matches!(o, Output::Announce { .. })).count()
    };
    assert_eq!(said(&mut core), 0);
    core.handle(Input::Tick, now + ANNOUNCE_EVERY);
    assert_eq!(said(&mut core), 5, "one message to each neighbour");
}

#[test]
fn who_lacks_a_block_is_told_at_once_and_who_has_it_with_others() {
    let mut table = Table::new(4, &[], &[0, 1], &[]);
    let told = |outputs: Vec<Output>| -> Vec<(NodeId, Vec<BlockIndex>)> {
        let told = outputs.into_iter().filter_map(|output| match output {
            Output::Announce { to, blocks } => Some((to, blocks)),
            _ => None,
        });
        told.collect()
    };
    let landed = |block: u32| Input::Landed { block: BlockIndex(block), from: Source::Wan };
    let blocks = |blocks: &[u32]| -> Vec<BlockIndex> { blocks.iter().copied().map(BlockIndex).collect() };
    assert_eq!(told(table.tell(landed(0))), [(B, blocks(&[0]))]);
    assert_eq!(told(table.tell(landed(1))), [(B, blocks(&[1]))]);
    assert_eq!(told(table.pass(ANNOUNCE_EVERY)), [(A, blocks(&[0, 1]))]);
    assert_eq!(told(table.tell(landed(2))), [(A, blocks(&[2])), (B, blocks(&[2]))]);
    assert_eq!(told(table.pass(ANNOUNCE_EVERY)), []);
}

#[test]
fn what_nobody_asks_this_node_for_is_told_with_others_until_somebody_does() {
    let all: Vec<u32> = (0..150).collect();
    let mut table = Table::new(150, &[], &all, &[]);
    let told = |table: &mut Table, block: u32| -> usize {
        let outputs = table.fetched(A, block, 1);
        outputs.iter().filter(|output| matches!(output, Output::Announce { to: B, .. })).count()
    };
    let at_once: Vec<usize> = all[..120].iter().map(|block| told(&mut table, *block)).collect();
    assert_eq!(at_once[..20], [1; 20], "what is rare is told at once");
    assert_eq!(at_once[104..].iter().sum::<usize>(), 2, "eight at a time");
    for block in [118, 119] {
        let asked = Input::UploadAsked { node: B, request: block, block: BlockIndex(block as u32), bytes: 1000 };
        assert!(table.tell(asked).contains(&Output::Serve { node: B, request: block }));
    }
    assert_eq!((told(&mut table, 120), told(&mut table, 121)), (1, 1));
}

/// A neighbour sent wrong bytes of a block.
fn corrupt(node: NodeId, block: u32) -> Input {
    Input::FetchFailed { node, block: BlockIndex(block), why: FetchError::Corrupt }
}

fn lied(node: NodeId, block: u32) -> Output {
    Output::Lied { node, block: BlockIndex(block) }
}

/// What was asked of a neighbour, in whatever order.
fn asked_of(outputs: &[Output], of: NodeId) -> Vec<u32> {
    let asked = outputs.iter().filter_map(|output| match output {
        Output::Fetch { node, block } if *node == of => Some(block.0),
        _ => None,
    });
    let mut asked: Vec<_> = asked.collect();
    asked.sort_unstable();
    asked
}

/// A node whose neighbour A has everything and was asked for two blocks.
fn with_two_asked_of_a() -> Table {
    let mut table = Table::new(2, &[], &[0, 1], &[]);
    let mut asked = table.tell(Input::Tick);
    asked.extend(table.pass(Duration::from_secs(1)));
    assert_eq!(asked_of(&asked, A), [0, 1]);
    table
}

#[test]
fn a_neighbour_that_lies_is_reported_and_its_blocks_are_asked_of_others() {
    let mut table = with_two_asked_of_a();
    table.tell(Input::NeighbourLanded { node: B, blocks: vec![BlockIndex(0)] });
    let outputs = table.tell(corrupt(A, 0));
    assert!(outputs.contains(&Output::Cancel { node: A, block: BlockIndex(1) }));
    assert!(outputs.contains(&lied(A, 0)));
    assert!(outputs.contains(&fetch(B, 0)));
    // What it was asked for before, and sent all the same, is of the same offence.
    assert_eq!(table.tell(corrupt(A, 1)), []);
}

#[test]
fn after_a_first_lie_a_neighbour_rests_and_is_asked_again() {
    let mut table = with_two_asked_of_a();
    table.tell(corrupt(A, 0));
    let rested = table.pass(LIAR_REST - Duration::from_millis(1));
    assert_eq!(asked_of(&rested, A), [] as [u32; 0], "though nobody else has anything");
    // It wants to be served meanwhile, as any other: it may lack what this node has.
    table.tell(Input::Landed { block: BlockIndex(0), from: Source::Wan });
    let wants = Input::UploadAsked { node: A, request: 1, block: BlockIndex(0), bytes: 1 };
    assert!(table.tell(wants).contains(&Output::Serve { node: A, request: 1 }));
    let asked = table.pass(Duration::from_millis(1));
    assert_eq!(asked_of(&asked, A), [1]);
    let outputs = table.fetched(A, 1, 10);
    assert!(outputs.contains(&Output::Complete), "{outputs:?}");
}

#[test]
fn coming_back_clears_no_lie() {
    let mut table = with_two_asked_of_a();
    table.tell(corrupt(A, 0));
    let come_back = |table: &mut Table| {
        let mut outputs = table.tell(Input::NeighbourDown { node: A });
        outputs.extend(table.tell(Input::NeighbourUp { node: A }));
        outputs.extend(table.tell(Input::NeighbourHas { node: A, blocks: set(2, &[0, 1]) }));
        outputs
    };
    table.pass(LIAR_REST / 2);
    let mut outputs = come_back(&mut table);
    outputs.extend(table.pass(LIAR_REST / 2 - Duration::from_millis(1)));
    assert_eq!(asked_of(&outputs, A), [] as [u32; 0], "it rests on");
    let mut outputs = table.pass(Duration::from_millis(1));
    outputs.extend(come_back(&mut table));
    outputs.extend(table.pass(Duration::from_secs(1)));
    assert!(!asked_of(&outputs, A).is_empty(), "and is asked again after the rest");
    let again = table.tell(corrupt(A, 0));
    assert!(again.contains(&lied(A, 0)), "{again:?}");
    assert_eq!(come_back(&mut table), [], "it is no neighbour any more");
    assert_eq!(asked_of(&table.pass(LIAR_REST * 100), A), [] as [u32; 0]);
    table.tell(Input::Landed { block: BlockIndex(0), from: Source::Wan });
    let wants = Input::UploadAsked { node: A, request: 1, block: BlockIndex(0), bytes: 1 };
    assert_eq!(table.tell(wants), [Output::Refuse { node: A, request: 1 }]);
    assert_eq!(table.tell(corrupt(A, 1)), [], "it is reported twice in all");
}

#[test]
fn who_announces_what_it_does_not_have_is_asked_ever_more_rarely() {
    let mut table = Table::new(1, &[], &[0], &[]);
    assert_eq!(table.tell(Input::Tick), [fetch(A, 0)]);
    let mut waits = Vec::new();
    for _ in 0..4 {
        let gone = Input::FetchFailed { node: A, block: BlockIndex(0), why: FetchError::Gone };
        assert_eq!(table.tell(gone), [Output::AnnounceAll { to: A }], "no lie is reported");
        assert_eq!(table.tell(Input::NeighbourLanded { node: A, blocks: vec![BlockIndex(0)] }), []);
        let from = table.now;
        while asked_of(&table.pass(Duration::from_millis(10)), A).is_empty() {}
        waits.push((table.now - from).as_millis());
    }
    assert!(waits.windows(2).all(|pair| pair[1] >= 2 * pair[0] - 10), "{waits:?}");
    assert!(table.fetched(A, 0, 10).contains(&Output::Complete), "in the end it has it");
}

#[test]
fn a_slow_neighbour_loses_a_request_to_an_idle_one() {
    let mut table = Table::new(40, &[], &(0..40).collect::<Vec<_>>(), &[]);
    let mut asked = table.tell(Input::Tick);
    asked.extend(table.pass(Duration::from_millis(300)));
    let [Output::Fetch { block: first, .. }, Output::Fetch { block: second, .. }] = asked[..] else {
        panic!("{asked:?}");
    };
    table.fetched(A, first.0, 100);
    table.tell(Input::NeighbourLanded { node: B, blocks: vec![second] });
    let outputs = table.pass(Duration::from_secs(2));
    let steal = [Output::Cancel { node: A, block: second }, Output::Fetch { node: B, block: second }];
    assert!(outputs.windows(2).any(|pair| pair == steal), "{outputs:?}");
    assert!(table.core.stats().steals > 0);
}

#[test]
fn a_neighbour_that_is_known_to_be_slow_is_asked_only_for_what_no_other_has() {
    let (all, most): (Vec<_>, Vec<_>) = ((0..60).collect(), (0..50).collect());
    let mut table = Table::new(60, &[], &all, &most);
    let mut open = table.tell(Input::Tick);
    let (mut of_a, mut slow_is_known) = (Vec::new(), false);
    while let Some(at) = open.iter().position(|output| matches!(output, Output::Fetch { node: B, .. })) {
        let Output::Fetch { block, .. } = open.swap_remove(at) else { continue };
        open.extend(table.fetched(B, block.0, 100));
        let asked = open.iter().filter_map(|output| match output {
            Output::Fetch { node: A, block } => Some(block.0),
            _ => None,
        });
        let asked: Vec<_> = asked.collect();
        let known = table.core.have().len() > 4;
        if known && !slow_is_known && !asked.is_empty() {
            slow_is_known = true;
            open.retain(|output| !matches!(output, Output::Fetch { node: A, .. }));
            asked.iter().for_each(|block| open.extend(table.fetched(A, *block, 5_000)));
        } else if slow_is_known {
            assert!(asked.len() <= 1, "one at a time: {asked:?}");
            of_a.extend(asked);
        }
    }
    assert!(slow_is_known && table.core.have().len() >= 50, "{}", table.core.have().len());
    assert!(!of_a.is_empty() && of_a.iter().all(|block| *block >= 50), "{of_a:?}");
}

#[test]
fn the_last_block_is_asked_of_two_and_the_loser_is_cancelled() {
    let mut table = Table::new(1, &[], &[0], &[0]);
    let asked = table.tell(Input::Tick);
    let [Output::Fetch { node: first, .. }] = asked[..] else { panic!("{asked:?}") };
    let second = if first == A { B } else { A };
    let outputs = table.pass(Duration::from_secs(4));
    assert!(outputs.contains(&fetch(second, 0)), "{outputs:?}");
    let outputs = table.fetched(second, 0, 10);
    assert!(outputs.contains(&Output::Cancel { node: first, block: BlockIndex(0) }), "{outputs:?}");
    assert!(outputs.contains(&Output::Complete));
    table.fetched(first, 0, 4000);
    assert_eq!(table.core.stats().duplicate_bytes, u64::from(BLOCK_BYTES));
}

#[test]
fn a_node_that_nobody_serves_says_so_ever_more_rarely() {
    let mut table = Table::new(3, &[0], &[0], &[]);
    assert_eq!(table.pass(STUCK_AFTER - Duration::from_millis(1)), []);
    let stuck = [Output::Stuck { blocks: vec![BlockIndex(1), BlockIndex(2)] }];
    assert_eq!(table.pass(Duration::from_millis(2)), stuck);
    assert_eq!(table.pass(STUCK_AFTER), []);
    assert_eq!(table.pass(STUCK_AFTER), stuck);
}

#[test]
fn what_a_node_has_is_served_and_what_it_lacks_is_declined() {
    let mut table = Table::new(2, &[0], &[], &[]);
    let ask = |request, block| Input::UploadAsked { node: A, request, block: BlockIndex(block), bytes: 1000 };
    assert_eq!(table.tell(ask(1, 0)), [Output::Serve { node: A, request: 1 }]);
    assert_eq!(table.tell(ask(2, 1)), [Output::Decline { node: A, request: 2 }]);
    assert_eq!(table.core.stats().served_bytes, 1000);
}
