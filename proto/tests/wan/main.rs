//! What a ledger does in the situations that its promises are about, told as what happens to a site.

mod lost;
mod table;

use std::time::Duration;

use shoal_proto::id::{BlockIndex, LeaseId};
use shoal_proto::limits::{CREDIT_BYTES_MIN, LEASE_TIME_MIN, READERS_MIN, REPLICATION_WAIT_MAX, REVOKE_ANSWER_MAX};
use shoal_proto::time::Time;
use shoal_proto::wan::{self, Absence, BlockRange, HeldLease, Input, Notice, Outcome};
use table::{A, B, MIB, Table, nodes};

#[test]
fn who_lacks_the_fewest_bytes_reads_a_block() {
    let mut table = Table::new(40);
    let few = |which: u32| move |block: u32| if block % 2 == which { MIB / 4 } else { MIB };
    table.wants(A, few(0), Vec::new());
    table.wants(B, few(1), Vec::new());
    for _ in 0..100 {
        for lease in std::mem::take(&mut table.revoked) {
            table.grants.retain(|(_, granted, _)| *granted != lease);
            table.ends(A, lease, 0, &[], Outcome::Revoked);
        }
        for (node, lease, blocks) in std::mem::take(&mut table.grants) {
            let other = if node == A { B } else { A };
            let read_bytes = blocks.len() as u64 * u64::from(MIB / 4);
            let alone = table.ledger.stats().read_bytes == 0;
            assert!(alone || blocks.iter().all(|block| (block % 2 == 0) == (node == A)), "{blocks:?}");
            table.ends(node, lease, read_bytes, &blocks, Outcome::Done);
            table.lands(other, &blocks);
        }
    }
    let stats = table.ledger.stats();
    assert_eq!((stats.in_site_bytes, stats.missing_bytes), (40 * u64::from(MIB), 0));
}

#[test]
fn no_node_has_more_at_stake_than_the_budget_once_it_is_not_alone() {
    let mut table = Table::new(400);
    table.wants(A, |_| MIB, Vec::new());
    assert!(table.granted_to(A).len() > 4, "alone it gets large leases");
    table.wants(B, |_| MIB, Vec::new());
    assert!(!table.revoked.is_empty(), "and gives back what would be too much to lose");
    for lease in std::mem::take(&mut table.revoked) {
        table.ends(A, lease, 0, &[], Outcome::Revoked);
    }
    let (to_a, to_b) = (table.granted_to(A), table.granted_to(B));
    assert!(to_a.len() <= 4 && to_b.len() <= 4, "1 % of 400 MiB: {to_a:?} {to_b:?}");
    // What B has too is no longer at stake, so that A gets more; alone with it, it gets none.
    table.lands(A, &to_a);
    assert_eq!(table.granted_to(A), [] as [u32; 0]);
    table.lands(B, &to_a);
    assert_eq!(table.granted_to(A).len(), to_a.len());
    assert_eq!(table.ledger.stats().budget_used_bytes, 0);
}

#[test]
fn what_another_node_has_is_not_at_stake_whoever_says_so_first() {
    let mut table = Table::together(&[A, B], 400);
    let to_a = table.granted_to(A);
    assert_eq!(table.granted_to(A), [] as [u32; 0], "all that it may have at stake: {to_a:?}");
    // Readers tell of what landed a moment later than who got it of them.
    table.lands(B, &to_a);
    let more = table.granted_to(A);
    assert_eq!(more.len(), to_a.len());
    // It is lost with B, and at stake again.
    table.tell(Input::NodeDown { node: B, absence: Absence::Unheard });
    table.lands(A, &to_a);
    table.lands(A, &more);
    assert_eq!(table.ledger.stats().budget_used_bytes, 0);
}

/// A few bytes at stake leave room for no whole block: they are waited for as much at stake would be, and no longer.
#[test]
fn a_reader_whose_blocks_nobody_fetches_goes_on_after_a_while_however_little_is_at_stake() {
    let mut table = Table::new(2);
    table.tell(Input::Await { nodes: vec![B], until: table.now + Duration::from_secs(1) });
    table.wants(A, |block| if block == 0 { MIB / 8 } else { MIB }, Vec::new());
    table.wants(B, |_| MIB, Vec::new());
    let (_, lease, _) = table.grants.iter().find(|(to, ..)| *to == B).cloned().unwrap();
    table.ends(B, lease, 0, &[], Outcome::Failed { retryable: false });
    assert_eq!(table.granted_to(A), [0], "an eighth of a block");
    table.lands(A, &[0]);
    assert_eq!(table.granted_to(A), [] as [u32; 0], "B may fetch that first");
    table.pass(REPLICATION_WAIT_MAX);
    assert_eq!(table.granted_to(A), [1]);
}

#[test]
fn leases_of_an_earlier_run_are_not_granted_again() {
    let mut table = Table::new(8);
    let blocks = vec![BlockRange { start: BlockIndex(0), end: BlockIndex(5) }];
    let held = vec![HeldLease { lease: LeaseId(77), blocks }];
    table.wants(A, |_| MIB, held);
    assert_eq!(table.granted_to(A), [5, 6, 7]);
    assert_eq!(table.ledger.stats().budget_used_bytes, 0, "held or granted, it is a block's first");
    table.ends(A, LeaseId(77), 5 * u64::from(MIB), &[0, 1, 2, 3, 4], Outcome::Done);
    assert_eq!(table.ledger.stats().read_bytes, 5 * u64::from(MIB));
}

#[test]
fn an_empty_budget_waits_for_an_operator_and_says_so_once() {
    let mut table = Table::new(2);
    table.wants(A, |_| MIB, Vec::new());
    let (_, lease, _) = table.grants.remove(0);
    let (_, second, _) = table.grants.remove(0);
    // Everything was read, and nothing of it is there: wrong bytes, say.
    table.ends(A, lease, u64::from(MIB), &[], Outcome::Failed { retryable: true });
    table.ends(A, second, u64::from(MIB), &[], Outcome::Failed { retryable: true });
    table.pass(Duration::from_secs(20));
    table.tell(Input::Tick);
    assert_eq!(table.granted_to(A), [] as [u32; 0]);
    let empty =
        table.notices.iter().filter(|notice| matches!(notice, Notice::BudgetEmpty { wanted_bytes: 2_097_152, .. }));
    assert_eq!(empty.count(), 1, "{:?}", table.notices);
    table.tell(Input::Override { node: None, bytes: 2 * u64::from(MIB) });
    table.pass(Duration::from_secs(20));
    assert_eq!(table.granted_to(A), [0, 1]);
}

#[test]
fn a_failing_origin_is_asked_ever_more_rarely_and_its_return_is_told() {
    let mut table = Table::new(4);
    table.wants(A, |_| MIB, Vec::new());
    let mut tries = Vec::new();
    for _ in 0..4 {
        let leases: Vec<_> = table.grants.drain(..).collect();
        let (_, first, _) = leases[0].clone();
        table.ends(A, first, 0, &[], Outcome::Failed { retryable: true });
        leases[1..].iter().for_each(|(_, lease, _)| table.ends(A, *lease, 0, &[], Outcome::Revoked));
        let Some(Notice::OriginFailing { retry_at, .. }) = table.notices.last() else { panic!("not told") };
        let wait = retry_at.since(table.now);
        tries.push(wait.as_secs());
        assert_eq!(table.grants, [], "nobody reads before that");
        table.pass(wait);
    }
    assert_eq!(tries, [2, 4, 8, 16]);
    let (_, _, blocks) = table.grants[0].clone();
    table.lands(A, &blocks[..1]);
    assert_eq!(table.notices.last(), Some(&Notice::OriginBack));
}

/// Of an origin that is known to ignore ranges, A has the one lease, and B wants everything too.
fn read_in_one_go(blocks: u32) -> (Table, LeaseId) {
    let mut table = Table::new(blocks);
    table.wants(A, |_| MIB, Vec::new());
    let leases: Vec<_> = table.grants.drain(..).collect();
    let (_, first, _) = leases[0].clone();
    table.tell(Input::LeaseEnded {
        node: A,
        lease: first,
        read_bytes: 0,
        landed: Vec::new(),
        begun: Vec::new(),
        outcome: Outcome::Failed { retryable: true },
        whole_rest: true,
    });
    for (_, lease, _) in &leases[1..] {
        assert!(table.revoked.contains(lease));
        assert_eq!(table.grants, [], "nobody reads before all have stopped");
        table.ends(A, *lease, 0, &[], Outcome::Revoked);
    }
    let [(node, lease, granted)] = &table.grants[..] else { panic!("one lease: {:?}", table.grants) };
    assert_eq!((*node, granted), (A, &(0..blocks).collect::<Vec<_>>()));
    let lease = *lease;
    table.revoked.clear();
    table.wants(B, |_| MIB, Vec::new());
    (table, lease)
}

#[test]
fn an_origin_that_ignores_ranges_gets_one_lease_for_the_rest() {
    let (mut table, lease) = read_in_one_go(64);
    // What B got of A may be told before A tells that it has it: A goes on, since B would have to begin anew.
    table.lands(A, &(0..40).collect::<Vec<_>>());
    table.lands(B, &(0..60).collect::<Vec<_>>());
    assert_eq!(table.revoked, []);
    // So does B's return with it.
    table.wants(B, |block| if block < 60 { 0 } else { MIB }, Vec::new());
    assert_eq!(table.revoked, []);
    table.lands(A, &(40..64).collect::<Vec<_>>());
    table.ends(A, lease, 64 * u64::from(MIB), &[], Outcome::Done);
    assert_eq!(table.ledger.stats().budget_used_bytes, 0);
}

#[test]
fn who_reads_in_one_go_is_stopped_only_once_nothing_comes() {
    let (mut table, lease) = read_in_one_go(64);
    for block in 0..4 {
        table.pass(Duration::from_secs(60));
        table.lands(A, &[block]);
        table.lands(B, &[block]);
        assert_eq!(table.revoked, [], "slow as it is, it is the only way");
    }
    table.pass(Duration::from_secs(600));
    assert_eq!(table.revoked, [lease]);
}

#[test]
fn a_lease_that_does_not_end_is_revoked_and_in_the_end_lost() {
    let mut table = Table::new(1);
    table.wants(A, |_| MIB, Vec::new());
    table.wants(B, |_| MIB, Vec::new());
    let (holder, lease, _) = table.grants.remove(0);
    let other = if holder == A { B } else { A };
    table.pass(Duration::from_secs(60));
    assert!(table.revoked.contains(&lease));
    // Nobody else may read it before the holder answered, or is given up.
    assert_eq!(table.granted_to(other), [] as [u32; 0]);
    table.pass(REVOKE_ANSWER_MAX);
    assert_eq!(table.ledger.stats().leases, 0);
    assert_eq!(table.granted_to(other), [] as [u32; 0], "1 MiB is beyond the budget of one block");
    assert!(matches!(table.notices.last(), Some(Notice::BudgetEmpty { .. } | Notice::OriginFailing { .. })));
    table.ends(holder, lease, 0, &[], Outcome::Revoked);
    table.pass(Duration::from_secs(600));
    assert_eq!(table.grants.len(), 1, "nothing was read, so that a first grant is free again");
}

/// As on a line of 400 kbit/s that six read: a block takes two minutes, and a step longer than a lease is given at least.
#[test]
fn a_reader_of_a_very_slow_wan_reads_on_for_as_long_as_it_asks_for_more() {
    let mut table = Table::together(&[A, B], 400);
    let (reader, lease, blocks) = table.grants.remove(0);
    let lease_bytes = blocks.len() as u64 * u64::from(MIB);
    // At first while half a step is left, then a whole one after the other.
    let (mut asked, mut until_next) = (CREDIT_BYTES_MIN, LEASE_TIME_MIN * 5 / 9);
    while asked < lease_bytes {
        table.pass(until_next);
        assert!(!table.revoked.contains(&lease), "{asked} of {lease_bytes} bytes were asked for");
        (asked, until_next) = (asked + CREDIT_BYTES_MIN, LEASE_TIME_MIN * 10 / 9);
        table.tell(Input::CreditWanted { node: reader, lease, bytes: asked });
    }

    // What stands still is waited for as long as three steps take and no longer, whatever is said.
    for bytes in [asked, lease_bytes + CREDIT_BYTES_MIN] {
        table.tell(Input::CreditWanted { node: reader, lease, bytes });
    }
    table.pass(8 * LEASE_TIME_MIN);
    assert!(table.revoked.contains(&lease), "nothing more came");
}

/// Two nodes read by turns, B a fifth as fast as A; whether B is given more after a while.
fn slow_reader_goes_on(allowed: Option<u64>) -> bool {
    let mut table = Table::new(2_000);
    table.tell(Input::Allowed { rate: allowed });
    table.wants(A, |_| MIB, Vec::new());
    table.wants(B, |_| MIB, Vec::new());
    let mut last_of_b = Time::ZERO;
    for tenth in 0..200 {
        table.pass(Duration::from_millis(100));
        for node in [A, B] {
            let turn = node == A || tenth % 5 == 0;
            let Some(at) = table.grants.iter().position(|(to, ..)| *to == node).filter(|_| turn) else { continue };
            let block = table.grants[at].2.remove(0);
            if node == B {
                last_of_b = table.now;
            }
            table.lands(node, &[block]);
            table.lands(if node == A { B } else { A }, &[block]);
            if table.grants[at].2.is_empty() {
                let (_, lease, _) = table.grants.remove(at);
                table.ends(node, lease, u64::from(MIB), &[block], Outcome::Done);
            }
        }
    }
    table.now.since(last_of_b) < Duration::from_secs(3)
}

#[test]
fn a_slow_reader_rests_unless_a_limit_makes_it_slow() {
    assert!(!slow_reader_goes_on(None), "without a limit it is left out for a while");
    assert!(slow_reader_goes_on(Some(u64::from(MIB) * 4)), "it may be as slow as that under a limit");
    assert!(!slow_reader_goes_on(Some(u64::from(MIB) * 100)), "far below what it may is slow");
}

#[test]
fn what_a_stalled_reader_has_not_read_is_given_to_another_once_nothing_else_is_left() {
    let mut table = Table::together(&[A, B], 400);
    table.read(&[A, B], &[B], Duration::from_secs(4));
    assert_eq!(table.revoked, [], "A has enough to read, and what B began would be paid for again");
    let held: Vec<_> = table.grants.iter().filter(|(to, ..)| *to == B).cloned().collect();
    while table.revoked.is_empty() {
        assert!(table.now < Time::ZERO + LEASE_TIME_MIN, "B is waited for");
        table.read(&[A, B], &[B], Duration::from_millis(100));
    }
    assert_eq!(table.ledger.stats().missing_blocks, 0, "A has read all else");
    let revoked: Vec<_> = held.iter().map(|(_, lease, _)| *lease).collect();
    assert_eq!(table.revoked, revoked);
    for (_, lease, _) in &held {
        table.grants.retain(|(_, granted, _)| granted != lease);
        table.ends(B, *lease, 0, &[], Outcome::Revoked);
    }
    let rest: Vec<_> = held.iter().flat_map(|(.., blocks)| blocks.clone()).collect();
    assert_eq!(table.granted_to(A), rest);
}

#[test]
fn no_more_is_taken_from_those_that_stall_at_a_time_than_the_budget_pays_for() {
    let nodes = nodes(9);
    let mut table = Table::together(&nodes, 400);
    let stalled = &nodes[1..];
    while table.revoked.is_empty() {
        assert!(table.now < Time::ZERO + 4 * LEASE_TIME_MIN, "those that stall are waited for");
        table.read(&nodes, stalled, Duration::from_millis(100));
    }
    let holders = |table: &Table, leases: &[LeaseId]| {
        let of = table.grants.iter().filter(|(_, lease, _)| leases.contains(lease));
        of.map(|(node, ..)| *node).collect::<std::collections::BTreeSet<_>>().len()
    };
    let all: Vec<_> = table.grants.iter().map(|(_, lease, _)| *lease).collect();
    // 1 % of 400 blocks: of each that stops, what it read of a block may be lost.
    assert!(holders(&table, &all) > 4 && (1..=4).contains(&holders(&table, &table.revoked)), "{:?}", table.revoked);
}

#[test]
fn others_read_beside_those_that_stall_and_nobody_is_late_when_nobody_lands_anything() {
    let nodes = nodes(9);
    let mut table = Table::together(&nodes, 4_000);
    let readers: Vec<_> = nodes.iter().copied().filter(|node| !table.granted_to(*node).is_empty()).collect();
    assert_eq!(readers.len(), READERS_MIN as usize, "so many at first");
    table.pass(LEASE_TIME_MIN - Duration::from_millis(1));
    assert_eq!((&table.grants[..], &table.revoked[..]), (&[][..], &[][..]), "the WAN is slow");

    let mut table = Table::together(&nodes, 4_000);
    let reads = readers[0];
    let stalled: Vec<_> = nodes.iter().copied().filter(|node| *node != reads).collect();
    table.read(&nodes, &stalled, LEASE_TIME_MIN / 2);
    assert!(stalled.iter().all(|node| !table.granted_to(*node).is_empty()), "none waits for one that stalls");
}

#[test]
fn a_lease_gets_the_time_that_a_limit_makes_it_take() {
    let revoked_after = |allowed: Option<u64>, span| {
        let mut table = Table::new(40);
        table.wants(A, |_| MIB, Vec::new());
        table.wants(B, |_| MIB, Vec::new());
        table.pass(Duration::from_secs(1));
        // What A was granted while it was alone is more than it may have at stake beside B.
        for lease in std::mem::take(&mut table.revoked) {
            table.ends(A, lease, 0, &[], Outcome::Revoked);
        }
        // Set while leases are held: they were granted for another rate.
        table.tell(Input::Allowed { rate: allowed });
        table.pass(span);
        !table.revoked.is_empty()
    };
    let minutes = |count: u64| Duration::from_secs(60 * count);
    assert!(revoked_after(None, minutes(3)));
    assert!(!revoked_after(Some(16 * 1024), minutes(3)));
    assert!(revoked_after(Some(16 * 1024), minutes(600)), "in the end it is late all the same");
}

#[test]
fn what_moves_is_told_apart_by_where_it_came_from() {
    let mut table = Table::new(40);
    // What B has already has not moved.
    table.wants(B, |block| if block < 10 { 0 } else { MIB }, Vec::new());
    table.wants(A, |_| MIB, Vec::new());
    assert_eq!(table.ledger.rates(table.now), wan::Rates::default());
    let read = table.granted_to(B);
    table.pass(Duration::from_millis(500));
    table.lands(B, &read);
    table.lands(A, &[0, 1, 2]);
    let (mib, read_bytes) = (u64::from(MIB), read.len() as u64 * u64::from(MIB));
    assert_eq!(table.ledger.rates(table.now), wan::Rates { wan: read_bytes, peers: 3 * mib }, "in the first second");
    let held: Vec<_> = table.ledger.held_bytes().collect();
    assert_eq!(held, [(B, 10 * mib + read_bytes), (A, 3 * mib)]);
    table.pass(Duration::from_secs(3));
    assert_eq!(table.ledger.rates(table.now), wan::Rates::default(), "nothing moves any more");
}

#[test]
fn a_lease_of_which_a_node_that_came_back_has_most_is_taken_back() {
    let mut table = Table::new(8);
    table.wants(A, |_| MIB, Vec::new());
    let [(_, first, _), ..] = &table.grants[..] else { panic!("A reads") };
    let (first, of_first) = (*first, table.grants[0].2.clone());
    assert!(of_first.len() >= 3, "{of_first:?}");
    // B has all of it but one block.
    let lacks = of_first[0];
    table.wants(B, |block| if block == lacks { MIB } else { 0 }, Vec::new());
    assert!(table.revoked.contains(&first), "{:?}", table.revoked);
    table.ends(A, first, 0, &[], Outcome::Revoked);
    assert_eq!(table.ledger.stats().missing_bytes, u64::from(MIB));
}

/// Blocks of a package of many GiB, each with the segment that ends it.
#[test]
fn blocks_larger_than_the_smallest_lease_are_granted_however_slow_the_reader_is() {
    const LARGE: u32 = 4 * MIB + 100_000;
    for readers in [1, 2] {
        let readers = nodes(readers);
        let mut table = Table::of_blocks(12, LARGE);
        readers.iter().for_each(|node| table.wants(*node, |_| LARGE, Vec::new()));
        let mut landed = 0;
        while let Some((reader, lease, blocks)) = table.grants.first().cloned() {
            table.grants.remove(0);
            for block in &blocks {
                table.pass(Duration::from_secs(4));
                table.lands(reader, &[*block]);
                landed += 1;
            }
            table.ends(reader, lease, u64::from(LARGE) * blocks.len() as u64, &blocks, Outcome::Done);
            readers.iter().for_each(|node| table.lands(*node, &blocks));
        }
        assert_eq!(landed, 12, "{} readers", readers.len());
    }
}
