//! Readers that are lost: what stays charged, what it costs to read again, and what a holder that comes back says.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_proto::id::{BlockIndex, LeaseId, NodeId};
use shoal_proto::limits::{
    CAME_TOLD_EVERY, CLOSED_HOLDER_GRACE, CLOSED_HOLDER_GRACE_AT_END, HOLDER_GRACE, READERS_MIN, SEGMENT_BYTES_MAX,
};
use shoal_proto::wan::{Absence, BlockRange, HeldLease, Input, Lacking, Outcome};

use crate::table::{A, B, MIB, Table, nodes};

/// A site of two in which A was granted leases and landed the first block of them; with what they are.
fn with_a_holder() -> (Table, Vec<(LeaseId, Vec<u32>)>) {
    let mut table = Table::new(400);
    table.wants(B, |_| MIB, Vec::new());
    table.wants(A, |_| MIB, Vec::new());
    for lease in std::mem::take(&mut table.revoked) {
        table.grants.retain(|(_, granted, _)| *granted != lease);
        table.ends(B, lease, 0, &[], Outcome::Revoked);
    }
    let mine = table.grants.iter().filter(|(node, _, _)| *node == A);
    let leases: Vec<_> = mine.map(|(_, lease, blocks)| (*lease, blocks.clone())).collect();
    table.grants.retain(|(node, _, _)| *node != A);
    table.lands(A, &leases[0].1[..1]);
    (table, leases)
}

/// A site of three that want everything at once, one of its readers with its first lease, and the two others.
fn with_a_reader_of_three() -> (Table, (NodeId, LeaseId, Vec<u32>), Vec<NodeId>) {
    let nodes = nodes(3);
    let table = Table::together(&nodes, 400);
    let lease = table.grants[0].clone();
    let others = nodes.into_iter().filter(|node| *node != lease.0).collect();
    (table, lease, others)
}

/// A node says how far it reads, and gets it confirmed.
fn asks(table: &mut Table, node: NodeId, lease: LeaseId, bytes: u64) {
    table.tell(Input::CreditWanted { node, lease, bytes });
    assert_eq!(table.credits.pop(), Some((lease, bytes)));
}

#[test]
fn a_lost_holder_is_paid_from_the_budget_after_its_grace() {
    let (first, second) = (2 * u64::from(MIB), u64::from(MIB / 2));
    let cases = [
        // It may read on: all of the leases that it has credit for.
        (Absence::Unheard, HOLDER_GRACE, [first, second], 2 * first),
        (Absence::Unheard, HOLDER_GRACE, [first, 0], first),
        // It does not: what it had credit for, and what landed in any case.
        (Absence::Closed, CLOSED_HOLDER_GRACE, [first, second], first + second),
        (Absence::Closed, CLOSED_HOLDER_GRACE, [first, 0], first),
        (Absence::Closed, CLOSED_HOLDER_GRACE, [0, 0], u64::from(MIB)),
    ];
    for (absence, grace, credit, paid) in cases {
        lost_and_read_again(absence, grace, credit, paid);
    }
}

fn lost_and_read_again(absence: Absence, grace: Duration, credit: [u64; 2], paid: u64) {
    let (mut table, leases) = with_a_holder();
    assert_eq!(leases.iter().map(|(_, blocks)| blocks.len()).collect::<Vec<_>>(), [2, 2]);
    for ((lease, _), bytes) in leases.iter().zip(credit).filter(|(_, bytes)| *bytes > 0) {
        asks(&mut table, A, *lease, bytes);
    }
    let blocks: Vec<_> = leases.into_iter().flat_map(|(_, blocks)| blocks).collect();
    table.tell(Input::NodeDown { node: A, absence });
    table.pass(grace - Duration::from_millis(1));
    let granted = table.grants.iter().flat_map(|(_, _, of_lease)| of_lease);
    assert!(granted.copied().all(|block| !blocks.contains(&block)), "it may come back");
    table.pass(Duration::from_millis(1));
    let mut again: Vec<u32> = Vec::new();
    while again.len() < blocks.len() {
        let leases: Vec<_> = table.grants.drain(..).collect();
        assert!(!leases.is_empty(), "B reads on");
        for (node, lease, of_lease) in leases {
            again.extend(of_lease.iter().filter(|block| blocks.contains(block)));
            table.ends(node, lease, u64::from(MIB) * of_lease.len() as u64, &of_lease, Outcome::Done);
        }
    }
    let used = table.ledger.stats().budget_used_bytes;
    assert_eq!(used, paid, "{absence:?} {credit:?}: what A landed and nobody else had is read again too");
    assert!(paid <= table.ledger.stats().budget_bytes);
}

#[test]
fn a_holder_that_comes_back_goes_on_with_its_leases() {
    let (short, long) = (Duration::from_secs(1), HOLDER_GRACE * 2);
    for (away, absence) in [(short, Absence::Unheard), (long, Absence::Unheard), (long, Absence::Closed)] {
        let (mut table, leases) = with_a_holder();
        table.grants.clear();
        table.tell(Input::NodeDown { node: A, absence });
        // Alone, B would read on with what A lost; without it there is nobody else.
        table.tell(Input::NodeDown { node: B, absence: Absence::Unheard });
        table.pass(away);
        let landed = leases[0].1[0];
        let range = |block: &u32| BlockRange { start: BlockIndex(*block), end: BlockIndex(*block + 1) };
        let open = |blocks: &[u32]| blocks.iter().filter(|block| **block != landed).map(range).collect();
        let held = leases.iter().map(|(lease, blocks)| HeldLease { lease: *lease, blocks: open(blocks) }).collect();
        table.wants(A, |block| if block == landed { 0 } else { MIB }, held);
        let mut granted = table.grants.iter().flat_map(|(_, _, blocks)| blocks);
        let own = |block: &u32| leases.iter().any(|(_, blocks)| blocks.contains(block));
        assert!(!granted.any(own), "nothing of it is granted again after {away:?}");
        assert!(leases.iter().all(|(lease, _)| !table.revoked.contains(lease)));
        asks(&mut table, A, leases[0].0, 2 * u64::from(MIB));
    }
}

/// The connection of A ended, as that of a process that ends does; what of its first lease it then says that it has read.
fn budget_used_once_a_lost_holder_says(read_bytes: u64, landed: &[usize]) -> u64 {
    let (mut table, leases) = with_a_holder();
    let (lease, blocks) = &leases[0];
    asks(&mut table, A, *lease, u64::from(MIB) * 3 / 2);
    table.tell(Input::NodeDown { node: A, absence: Absence::Closed });
    table.pass(CLOSED_HOLDER_GRACE);
    let lacking = |block: u32| if blocks[..1].contains(&block) { 0 } else { MIB };
    let held = vec![HeldLease { lease: *lease, blocks: Vec::new() }];
    table.wants(A, lacking, held);
    let landed: Vec<_> = landed.iter().map(|place| blocks[*place]).collect();
    table.ends(A, *lease, read_bytes, &landed, Outcome::Revoked);
    // Whatever is charged beyond what landed is paid when the block is read by somebody.
    let mut left = blocks[1..].to_vec();
    while left.iter().any(|block| !landed.contains(block)) {
        let grants: Vec<_> = table.grants.drain(..).collect();
        assert!(!grants.is_empty(), "somebody reads");
        for (node, lease, granted) in grants {
            left.retain(|block| !granted.contains(block));
            table.ends(node, lease, u64::from(MIB) * granted.len() as u64, &granted, Outcome::Done);
        }
        if left.is_empty() {
            break;
        }
    }
    table.ledger.stats().budget_used_bytes
}

#[test]
fn what_a_lost_holder_read_is_charged_once_it_says_so() {
    let mib = u64::from(MIB);
    assert_eq!(budget_used_once_a_lost_holder_says(mib, &[0]), 0, "less than it had credit for");
    assert_eq!(budget_used_once_a_lost_holder_says(mib * 3 / 2, &[0]), mib / 2, "as much, and none of it was kept");
    assert_eq!(budget_used_once_a_lost_holder_says(2 * mib, &[0, 1]), 0, "more: it read on, and has what it read");
}

#[test]
fn who_asks_for_what_it_does_not_hold_is_told_to_stop() {
    let (mut table, leases) = with_a_holder();
    let (lease, blocks) = &leases[0];
    table.ends(A, *lease, 2 * u64::from(MIB), blocks, Outcome::Done);
    for lease in [*lease, LeaseId(77)] {
        table.tell(Input::CreditWanted { node: A, lease, bytes: 1 });
        assert_eq!((table.revoked.pop(), table.credits.pop()), (Some(lease), None));
    }
}

#[test]
fn a_block_of_which_others_have_a_part_is_paid_for_the_rest_alone() {
    let (mut table, (reader, lease, blocks), others) = with_a_reader_of_three();
    asks(&mut table, reader, lease, u64::from(MIB));
    let first = BlockIndex(blocks[0]);
    table.tell(Input::NodeDown { node: reader, absence: Absence::Closed });
    for (node, bytes) in others.iter().zip([MIB / 4, MIB / 8]) {
        table.tell(Input::Begun { node: *node, lacking: vec![Lacking { block: first, bytes }] });
    }
    table.pass(CLOSED_HOLDER_GRACE);
    let granted =
        |node: NodeId| move |grant: &&(NodeId, LeaseId, Vec<u32>)| grant.0 == node && grant.2.contains(&first.0);
    for _ in 0..400 {
        if let Some((node, ..)) = table.grants.iter().find(granted(others[1])) {
            assert_eq!(*node, others[1]);
            assert_eq!(table.ledger.stats().budget_used_bytes, u64::from(MIB / 8));
            return;
        }
        assert_eq!(table.grants.iter().find(granted(others[0])), None, "it lacks more of the block");
        table.read(&others, &[], Duration::from_millis(20));
    }
    panic!("nobody reads the rest");
}

#[test]
fn a_reader_that_ended_is_waited_for_less_when_nothing_else_is_left() {
    let (mut table, (reader, _, blocks), others) = with_a_reader_of_three();
    while table.ledger.stats().missing_blocks > 0 {
        table.read(&[&others[..], &[reader]].concat(), &[reader], Duration::from_millis(100));
    }
    table.tell(Input::NodeDown { node: reader, absence: Absence::Closed });
    table.pass(CLOSED_HOLDER_GRACE_AT_END - Duration::from_millis(1));
    let again =
        |table: &Table| table.grants.iter().any(|(node, _, of)| others.contains(node) && of.contains(&blocks[0]));
    assert!(!again(&table));
    table.pass(Duration::from_millis(1));
    assert!(again(&table));
}

#[test]
fn a_lease_of_one_block_waits_behind_the_one_that_is_read_and_comes_without_credit() {
    let nodes = nodes(64);
    let mut table = Table::together(&nodes, 400);
    let mut leases: BTreeMap<NodeId, Vec<(LeaseId, usize)>> = BTreeMap::new();
    for (node, lease, blocks) in &table.grants {
        leases.entry(*node).or_default().push((*lease, blocks.len()));
    }
    assert_eq!(leases.len(), READERS_MIN as usize);
    let sizes = |leases: &Vec<(LeaseId, usize)>| leases.iter().map(|(_, blocks)| *blocks).collect::<Vec<_>>();
    assert!(leases.values().all(|leases| sizes(leases) == [1, 1]), "{leases:?}");
    let credits = table.terms.iter().map(|terms| terms.first_bytes > 0).collect::<Vec<_>>();
    assert_eq!(credits.iter().filter(|first| **first).count(), READERS_MIN as usize);
    // Where nodes vanish whose reading on nobody can rule out, one block is at stake.
    for node in nodes.iter().filter(|node| !leases.contains_key(node)).take(20) {
        table.tell(Input::NodeDown { node: *node, absence: Absence::Unheard });
    }
    let (reader, of_reader) = leases.iter().next().unwrap();
    let blocks: Vec<_> = table.grants.iter().filter(|(node, ..)| node == reader).map(|(.., of)| of[0]).collect();
    table.grants.clear();
    table.lands(*reader, &blocks[..1]);
    let up = nodes.iter().rev().take(2);
    up.for_each(|node| table.lands(*node, &blocks[..1]));
    table.ends(*reader, of_reader[0].0, u64::from(MIB), &blocks[..1], Outcome::Done);
    assert_eq!(table.granted_to(*reader), [] as [u32; 0], "one is at stake already");
}

#[test]
fn a_holder_that_comes_back_without_its_leases_is_refunded_but_for_a_segment() {
    let (mut table, leases) = with_a_holder();
    table.tell(Input::NodeDown { node: A, absence: Absence::Unheard });
    table.pass(Duration::from_secs(1));
    let landed = leases[0].1[0];
    table.wants(A, |block| if block == landed { 0 } else { MIB }, Vec::new());
    let stats = table.ledger.stats();
    assert!(stats.budget_used_bytes <= SEGMENT_BYTES_MAX as u64, "{stats:?}");
    assert_eq!(stats.read_bytes, u64::from(MIB) + SEGMENT_BYTES_MAX as u64, "what it landed, and what is in doubt");
}

#[test]
fn what_came_before_a_restart_and_is_gone_is_paid_for() {
    for told in [false, true] {
        let nodes = nodes(3);
        let mut table = Table::together(&nodes, 400);
        let (reader, _, blocks) = table.grants[0].clone();
        table.lands(reader, &blocks[..1]);
        assert_eq!(table.came, [], "told with others");
        // Who leaves may be the only one who can say that it came.
        let span = if told { CAME_TOLD_EVERY } else { Duration::from_millis(1) };
        table.pass(span);
        if !told {
            table.tell(Input::Release { node: reader });
        }
        let range = BlockRange { start: BlockIndex(blocks[0]), end: BlockIndex(blocks[0] + 1) };
        assert_eq!(table.came, [range]);
        let mut table = table.restarted();
        let others = nodes.iter().copied().filter(|node| *node != reader);
        others.for_each(|node| table.wants(node, |_| MIB, Vec::new()));
        table.pass(Duration::from_secs(1));
        assert!(table.grants.iter().any(|(_, _, granted)| granted.contains(&blocks[0])), "{:?}", table.grants);
        let stats = table.ledger.stats();
        assert_eq!(stats.budget_used_bytes, u64::from(MIB), "of all blocks only that one came before");
        assert_eq!(stats.budget_bytes, 4 * u64::from(MIB), "1 % of all that was lacking at first");
        table.pass(CAME_TOLD_EVERY);
        assert_eq!(table.came, [], "what is on record is not told again");
    }
}
