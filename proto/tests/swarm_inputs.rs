//! Whatever a ledger or an exchange is told, in whatever order, it keeps its invariants and does not panic: unknown
//! nodes, stale leases, blocks that do not exist, reports that contradict each other.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use shoal_proto::content::BlockSet;
use shoal_proto::exchange::{self, Arrived, Exchange, FetchError, Source};
use shoal_proto::id::{BlockIndex, Epoch, LeaseId, NodeId};
use shoal_proto::time::Time;
use shoal_proto::wan::{self, Absence, BlockRange, HeldLease, Lacking, Outcome, WanLedger};

/// Blocks of the content; inputs name a few more.
const BLOCKS: u32 = 12;
const BLOCK_BYTES: [u32; BLOCKS as usize] =
    [100_000, 1, 300_000, 5_000_000, 70_000, 70_000, 70_000, 4_000_000, 200_000, 200_000, 200_000, 9];

fn node() -> impl Strategy<Value = NodeId> {
    (0u8..5).prop_map(|number| NodeId([number; 32]))
}

fn block() -> impl Strategy<Value = BlockIndex> {
    prop_oneof![20 => 0..BLOCKS, 1 => any::<u32>()].prop_map(BlockIndex)
}

fn blocks() -> impl Strategy<Value = Vec<BlockIndex>> {
    vec(block(), 0..8)
}

/// Numbers that a ledger of epoch 1 grants, mostly.
fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![10 => (1u64 << 32)..(1 << 32) + 24, 1 => any::<u64>()].prop_map(LeaseId)
}

fn lacking() -> impl Strategy<Value = Vec<Lacking>> {
    let one = (block(), prop_oneof![Just(u32::MAX), any::<u32>(), 0u32..200_000]);
    vec(one.prop_map(|(block, bytes)| Lacking { block, bytes }), 0..20)
}

fn absence() -> impl Strategy<Value = Absence> {
    prop_oneof![Just(Absence::Closed), Just(Absence::Unheard)]
}

fn everything() -> Vec<Lacking> {
    (0..BLOCKS).map(|block| Lacking { block: BlockIndex(block), bytes: u32::MAX }).collect()
}

fn held() -> impl Strategy<Value = Vec<HeldLease>> {
    let range = (0..BLOCKS + 2, 0..BLOCKS + 2);
    let range = range.prop_map(|(start, end)| BlockRange { start: BlockIndex(start), end: BlockIndex(end) });
    vec((lease(), vec(range, 0..3)).prop_map(|(lease, blocks)| HeldLease { lease, blocks }), 0..3)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Done),
        Just(Outcome::Revoked),
        any::<bool>().prop_map(|retryable| Outcome::Failed { retryable })
    ]
}

fn ended() -> impl Strategy<Value = wan::Input> {
    let read_bytes = prop_oneof![8 => 0u64..10_000_000, 1 => any::<u64>()];
    let whole_rest = proptest::bool::weighted(0.05);
    (node(), lease(), read_bytes, blocks(), lacking(), outcome(), whole_rest).prop_map(
        |(node, lease, read_bytes, landed, begun, outcome, whole_rest)| wan::Input::LeaseEnded {
            node,
            lease,
            read_bytes,
            landed,
            begun,
            outcome,
            whole_rest,
        },
    )
}

fn wan_input() -> impl Strategy<Value = wan::Input> {
    use wan::Input;
    let begun = lacking();
    let lacking = prop_oneof![1 => Just(everything()), 2 => lacking()];
    prop_oneof![
        4 => (node(), lacking, held()).prop_map(|(node, lacking, held)| Input::Wants { node, lacking, held }),
        6 => (node(), blocks()).prop_map(|(node, blocks)| Input::Landed { node, blocks }),
        4 => ended(),
        2 => (node(), begun).prop_map(|(node, lacking)| Input::Begun { node, lacking }),
        2 => (node(), lease(), any::<u32>())
            .prop_map(|(node, lease, bytes)| Input::CreditWanted { node, lease, bytes: bytes.into() }),
        2 => node().prop_map(|node| Input::NodeUp { node }),
        2 => (node(), absence()).prop_map(|(node, absence)| Input::NodeDown { node, absence }),
        1 => node().prop_map(|node| Input::Release { node }),
        2 => (node(), blocks()).prop_map(|(node, blocks)| Input::Stuck { node, blocks }),
        1 => prop_oneof![0u64..1_000_000, any::<u64>()].prop_map(|bytes| Input::Override { node: None, bytes }),
        4 => Just(Input::Tick),
    ]
}

fn exchange_input() -> impl Strategy<Value = exchange::Input> {
    use exchange::Input;
    let took = (0u64..5_000).prop_map(Duration::from_millis);
    let bytes = prop_oneof![8 => 0u64..10_000_000, 1 => any::<u64>()];
    let source = prop_oneof![Just(Source::Wan), Just(Source::Local)];
    let why = prop_oneof![
        6 => Just(FetchError::Refused),
        3 => Just(FetchError::Gone),
        1 => Just(FetchError::Corrupt),
        3 => Just(FetchError::Timeout)
    ];
    let set = (blocks(), prop_oneof![9 => Just(BLOCKS), 1 => 0u32..100]).prop_map(|(blocks, count)| {
        let mut set = BlockSet::new(count);
        blocks.into_iter().for_each(|block| {
            set.insert(block);
        });
        set
    });
    let request = 0u64..40;
    prop_oneof![
        4 => node().prop_map(|node| Input::NeighbourUp { node }),
        1 => node().prop_map(|node| Input::NeighbourDown { node }),
        4 => (node(), set).prop_map(|(node, blocks)| Input::NeighbourHas { node, blocks }),
        4 => (node(), blocks()).prop_map(|(node, blocks)| Input::NeighbourLanded { node, blocks }),
        1 => (block(), source).prop_map(|(block, from)| Input::Landed { block, from }),
        4 => (node(), block(), bytes.clone(), took.clone())
            .prop_map(|(node, block, bytes, took)| Input::Fetched { node, block, bytes, took }),
        4 => (prop::option::of(node()), block(), bytes.clone(), bytes, took).prop_map(
            |(from, block, bytes, of, took)| Input::Arrives { block, arrived: Arrived { from, bytes, of, took } }
        ),
        4 => (node(), block(), why).prop_map(|(node, block, why)| Input::FetchFailed { node, block, why }),
        1 => blocks().prop_map(|blocks| Input::LeaseHeld { blocks }),
        2 => blocks().prop_map(|blocks| Input::LeaseOver { blocks }),
        6 => (node(), request.clone(), block())
            .prop_map(|(node, request, block)| Input::UploadAsked { node, request, block, bytes: u64::MAX }),
        3 => (node(), request).prop_map(|(node, request)| Input::UploadDone { node, request }),
        3 => Just(Input::Tick),
    ]
}

/// Spans between inputs, so that every deadline passes now and then.
fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![4 => 0u64..200, 2 => 200u64..4_000, 1 => 4_000u64..100_000].prop_map(Duration::from_millis)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ledger_keeps_its_invariants(
        inputs in vec((span(), wan_input()), 0..150),
        swarm in proptest::bool::weighted(0.9),
        seed: u64,
    ) {
        let mut ledger = WanLedger::new(&wan::Config { epoch: Epoch(1), swarm, seed, resumed: seed % 2 == 0 }, &BLOCK_BYTES);
        let mut now = Time::ZERO;
        for (span, input) in inputs {
            now = now + span;
            ledger.handle(input, now);
            ledger.check();
            ledger.handle(wan::Input::Tick, now);
            ledger.check();
            while let Some(output) = ledger.poll() {
                if let wan::Output::Grant { blocks, deadline, .. } = output {
                    prop_assert!(deadline > now);
                    prop_assert!(!blocks.is_empty() && blocks.iter().all(|run| run.start < run.end && run.end.0 <= BLOCKS));
                }
            }
            let due = ledger.next_wake().filter(|(at, _)| *at <= now);
            prop_assert_eq!(due, None, "what is due was done at {:?}", now);
            let stats = ledger.stats();
            prop_assert!(swarm || stats.budget_used_bytes == 0 || stats.budget_bytes > 0);
        }
    }

    #[test]
    fn an_exchange_keeps_its_invariants(inputs in vec((span(), exchange_input()), 0..150), seed: u64) {
        let mut have = BlockSet::new(BLOCKS);
        have.insert(BlockIndex(seed as u32 % BLOCKS));
        let mut exchange = Exchange::new(&BLOCK_BYTES, &have, seed);
        let mut now = Time::ZERO;
        let mut completed = 0;
        for (span, input) in inputs {
            now = now + span;
            let before = exchange.have().clone();
            exchange.handle(input, now);
            exchange.check();
            exchange.handle(exchange::Input::Tick, now);
            exchange.check();
            prop_assert!(before.is_subset(exchange.have()), "what is there stays there");
            while let Some(output) = exchange.poll() {
                match output {
                    exchange::Output::Fetch { block, .. } => prop_assert!(!exchange.have().contains(block)),
                    exchange::Output::Announce { blocks, .. } => {
                        prop_assert!(blocks.iter().all(|block| exchange.offers().contains(*block)));
                    }
                    exchange::Output::Complete => completed += 1,
                    _ => {}
                }
            }
            prop_assert_eq!(completed, u32::from(exchange.have().is_full()));
            let due = exchange.next_wake().filter(|(at, _)| *at <= now);
            prop_assert_eq!(due, None, "what is due was done at {:?}", now);
        }
    }

    #[test]
    fn parts_that_change_nothing_hide_nothing_that_time_brings(
        inputs in vec((span(), exchange_input()), 0..150),
        seed: u64,
    ) {
        let new = || Exchange::new(&BLOCK_BYTES, &BlockSet::new(BLOCKS), seed);
        // One is told of the time after each part. Both are when something is due at once, as a shell does: to ask for the last
        // block makes others late by the endgame's measure.
        let (mut one, mut other) = (new(), new());
        let mut now = Time::ZERO;
        for (span, input) in inputs {
            now = now + span;
            let is_part = matches!(input, exchange::Input::Arrives { .. });
            one.handle(input.clone(), now);
            other.handle(input, now);
            let is_due = |exchange: &Exchange| exchange.next_wake().is_some_and(|(at, _)| at <= now);
            if is_part || is_due(&one) {
                one.handle(exchange::Input::Tick, now);
            }
            if is_due(&other) {
                other.handle(exchange::Input::Tick, now);
            }
            let outputs = |exchange: &mut Exchange| std::iter::from_fn(|| exchange.poll()).collect::<Vec<_>>();
            prop_assert_eq!(outputs(&mut one), outputs(&mut other));
            prop_assert_eq!(one.next_wake(), other.next_wake());
        }
    }
}
