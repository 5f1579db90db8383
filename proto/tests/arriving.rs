//! Blocks that are passed on while they still arrive: when they are offered, and when what was begun is broken off.

use std::time::Duration;

use shoal_proto::content::BlockSet;
use shoal_proto::exchange::{Arrived, Exchange, FetchError, Input, Output};
use shoal_proto::id::{BlockIndex, NodeId};
use shoal_proto::limits::{SLOW_AGE_FIRST, SLOW_AGE_MIN};
use shoal_proto::time::Time;

const A: NodeId = NodeId([1; 32]);
const B: NodeId = NodeId([2; 32]);
const C: NodeId = NodeId([3; 32]);
const BLOCK_BYTES: u32 = 1000;

fn set(count: u32, blocks: impl IntoIterator<Item = u32>) -> BlockSet {
    let mut set = BlockSet::new(count);
    blocks.into_iter().for_each(|block| assert!(set.insert(BlockIndex(block))));
    set
}

/// An exchange that lacks everything, with neighbours A, which has everything, and B and C, which have nothing.
struct Table {
    core: Exchange,
    now: Time,
    /// What was asked of A, in order.
    asked_of_a: Vec<u32>,
}

impl Table {
    fn new(blocks: u32) -> Self {
        let sizes = vec![BLOCK_BYTES; blocks as usize];
        let core = Exchange::new(&sizes, &BlockSet::new(blocks), 3);
        let mut table = Self { core, now: Time::from_millis(1), asked_of_a: Vec::new() };
        for node in [A, B, C] {
            table.tell(Input::NeighbourUp { node });
        }
        table.tell(Input::NeighbourHas { node: A, blocks: BlockSet::full(blocks) });
        table
    }

    fn tell(&mut self, input: Input) -> Vec<Output> {
        self.core.handle(input, self.now);
        self.core.check();
        let outputs: Vec<_> = std::iter::from_fn(|| self.core.poll()).collect();
        self.asked_of_a.extend(outputs.iter().filter_map(|output| match output {
            Output::Fetch { node: A, block } => Some(block.0),
            _ => None,
        }));
        outputs
    }

    /// What is announced once `bytes` of a block came from a neighbour, in so many milliseconds.
    fn arrives(&mut self, from: Option<NodeId>, block: u32, bytes: u64, took_ms: u64) -> Vec<Output> {
        let took = Duration::from_millis(took_ms);
        let arrived = Arrived { from, bytes, of: u64::from(BLOCK_BYTES), took };
        self.tell(Input::Arrives { block: BlockIndex(block), arrived })
    }

    fn asked(&mut self, node: NodeId, block: u32) -> Vec<Output> {
        let bytes = u64::from(BLOCK_BYTES);
        self.tell(Input::UploadAsked { node, request: 7, block: BlockIndex(block), bytes })
    }

    fn fetched(&mut self, node: NodeId, block: u32, took_ms: u64) -> Vec<Output> {
        let (bytes, took) = (u64::from(BLOCK_BYTES), Duration::from_millis(took_ms));
        self.tell(Input::Fetched { node, block: BlockIndex(block), bytes, took })
    }

    fn failed(&mut self, node: NodeId, block: u32, why: FetchError) -> Vec<Output> {
        self.tell(Input::FetchFailed { node, block: BlockIndex(block), why })
    }
}

/// The announcement of a block to those who do not have everything.
fn announced(block: u32) -> [Output; 2] {
    [B, C].map(|to| Output::Announce { to, blocks: vec![BlockIndex(block)] })
}

const SERVED: Output = Output::Serve { node: B, request: 7 };
const BROKEN_OFF: Output = Output::BreakOff { node: B, request: 7 };
const DECLINED: Output = Output::Decline { node: B, request: 7 };

#[test]
fn as_long_as_nobody_knows_what_is_usual_the_first_part_is_passed_on() {
    let mut table = Table::new(1);
    assert_eq!(table.asked(B, 0), [DECLINED], "nothing of it is here");
    assert_eq!(table.arrives(Some(A), 0, 1, 900), announced(0));
    assert_eq!(table.asked(B, 0), [SERVED]);
    assert_eq!(table.arrives(Some(A), 0, 500, 900), [], "said once");
    assert_eq!(table.fetched(A, 0, 1000), [Output::Complete], "and they know already");
}

#[test]
fn a_block_is_offered_when_its_rest_takes_no_longer_than_blocks_do() {
    let mut table = Table::new(6);
    for took_ms in 100..104 {
        let oldest = table.asked_of_a.remove(0);
        table.fetched(A, oldest, took_ms);
    }
    let block = table.asked_of_a[0];
    assert_eq!(table.arrives(Some(A), block, 400, 100), [], "150 ms more");
    assert_eq!(table.asked(B, block), [DECLINED]);
    assert_eq!(table.arrives(Some(A), block, 500, 90), announced(block), "90 ms more");
    assert_eq!(table.asked(B, block), [SERVED]);
}

#[test]
fn only_what_the_present_source_sends_counts() {
    let mut table = Table::new(1);
    assert_eq!(table.arrives(Some(B), 0, 500, 1), [], "an answer to what was taken back");
    assert_eq!(table.arrives(None, 0, 500, 1), [], "no lease is held");
    table.tell(Input::LeaseHeld { blocks: vec![BlockIndex(0)] });
    assert_eq!(table.arrives(Some(A), 0, 500, 1), [], "it was taken back");
    assert_eq!(table.arrives(None, 0, 500, 1), announced(0));
    assert_eq!(table.asked(B, 0), [SERVED]);
    assert!(table.tell(Input::LeaseOver { blocks: vec![BlockIndex(0)] }).contains(&BROKEN_OFF));
}

#[test]
fn when_the_source_fails_what_was_begun_is_broken_off_and_the_block_offered_anew_when_it_is_there() {
    for why in [FetchError::Refused, FetchError::Gone, FetchError::Timeout, FetchError::Corrupt] {
        let mut table = Table::new(2);
        table.arrives(Some(A), 0, 500, 1);
        assert_eq!(table.asked(B, 0), [SERVED]);
        assert!(table.failed(A, 0, why).contains(&BROKEN_OFF), "{why:?}");
        table.tell(Input::UploadDone { node: B, request: 7 });
        assert_eq!(table.asked(B, 0), [DECLINED], "{why:?}");
        let landed = Input::Landed { block: BlockIndex(0), from: shoal_proto::exchange::Source::Wan };
        assert!(table.tell(landed).contains(&announced(0)[0]), "B may have heard that it is gone");
        assert!(table.asked(B, 0).contains(&SERVED));
    }
}

#[test]
fn a_source_that_is_left_for_a_faster_one_breaks_off_what_it_fed() {
    let mut table = Table::new(16);
    let first = table.asked_of_a[0];
    assert_eq!(table.arrives(Some(A), first, 500, 1), announced(first));
    assert_eq!(table.asked(B, first), [SERVED]);
    table.tell(Input::NeighbourHas { node: C, blocks: set(16, [first]) });
    table.now = table.now + SLOW_AGE_FIRST + SLOW_AGE_MIN;
    let outputs = table.tell(Input::Tick);
    let at = |wanted: &Output| outputs.iter().position(|output| output == wanted);
    let asked = at(&Output::Fetch { node: C, block: BlockIndex(first) }).expect("C is faster than nothing");
    assert!(at(&BROKEN_OFF).expect("B waits for A's parts") < asked, "before C is asked, which may wait for B");
    assert_eq!(table.arrives(Some(A), first, 700, 1), [], "A's answer is late");
    assert!(!table.arrives(Some(C), first, 700, 1).is_empty());
}

#[test]
fn who_seemed_to_have_everything_says_that_it_does_not_and_is_told_what_it_missed() {
    let mut table = Table::new(1);
    table.arrives(Some(A), 0, 500, 1);
    let withdrawn = table.failed(A, 0, FetchError::Timeout);
    for to in [A, B, C] {
        assert!(withdrawn.contains(&Output::AnnounceAll { to }), "{to}");
    }
    assert!(table.core.offers().is_empty());
    let has = Input::NeighbourHas { node: A, blocks: BlockSet::new(1) };
    let nobody_brings_it = Output::LeftOff { lacking: vec![(BlockIndex(0), 500)] };
    assert_eq!(table.tell(has), [Output::AnnounceAll { to: A }, nobody_brings_it]);
}
