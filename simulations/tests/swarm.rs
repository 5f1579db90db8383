//! How near a site comes to the least possible time, kept from getting worse: small cases of `shoal-sim bench swarm`.

use shoal_simulations::bench::{Case, Outcome, run};

const SMALL: Case = Case { nodes: 60, blocks: 128, ..Case::DEFAULT };

/// Runs a case whose nodes must all be done within `ratio_max` bounds, with every byte over the WAN once.
fn within(ratio_max: f64, case: &Case) -> Outcome {
    let outcome = run(&Case { check: true, ..case.clone() });
    assert_eq!(outcome.done[0], case.nodes - (case.nodes as f64 * (1.0 - case.quorum)).round() as usize, "{outcome}");
    assert!((1.0..=1.001).contains(&outcome.wan_copies), "WAN-ONCE: {outcome}");
    assert!((1.0..=ratio_max).contains(&outcome.ratio()), "at most {ratio_max}: {outcome}");
    outcome
}

#[test]
fn a_thin_wan_is_the_bound() {
    within(1.04, &Case { wan: 0.25, ..SMALL });
}

#[test]
fn a_wan_like_a_link_and_a_fast_one_keep_all_links_busy() {
    within(1.21, &Case { wan: 1.0, ..SMALL });
    within(1.12, &Case { wan: 4.0, ..SMALL });
}

#[test]
fn a_few_nodes_and_a_full_mesh_come_near_the_bound() {
    within(1.12, &Case { nodes: 8, wan: 4.0, ..SMALL });
    within(1.21, &Case { nodes: 24, wan: 1.0, ..SMALL });
}

/// A reader asks the coordinator before it reads on: with 20 ms to the answer and 25 to 50 MB/s, far ahead.
#[test]
fn a_few_nodes_far_from_the_coordinator_fill_a_fast_wan() {
    let fast = Case { blocks: 1024, block_bytes: 256 * 1024, lan: 100e6, ..Case::DEFAULT };
    within(1.06, &Case { nodes: 4, ..fast });
    within(1.06, &Case { nodes: 2, blocks: 4096, ..fast });
}

/// Each of its readers takes far longer for a block than a lease is given at least.
#[test]
fn a_very_slow_wan_is_read_once_and_to_the_end() {
    for wan in [0.02, 0.002] {
        within(1.01, &Case { nodes: 16, blocks: 256, wan, ..Case::DEFAULT });
    }
}

#[test]
fn all_end_near_together() {
    let outcome = within(1.12, &Case { wan: 4.0, ..SMALL });
    let spread = outcome.ratio() - outcome.ratio_at(0.5);
    assert!(spread < 0.03, "half is done at {} and all at {}", outcome.ratio_at(0.5), outcome.ratio());
}

#[test]
fn slow_nodes_that_the_quorum_does_not_need_slow_nobody_much() {
    const SEEDS: u64 = 4;
    let outcomes = (1..=SEEDS).map(|seed| run(&Case { slow: 0.05, quorum: 0.95, seed, ..SMALL }));
    // What a slow reader began may be read again, from the budget.
    let outcomes: Vec<_> = outcomes.inspect(|outcome| assert!(outcome.wan_copies <= 1.01, "{outcome}")).collect();
    let mean = outcomes.iter().map(Outcome::ratio).sum::<f64>() / SEEDS as f64;
    assert!(mean <= 1.31, "{mean} x bound");
}

/// What lost readers had read or might have is paid from the budget of 1 %: it lasts, and nobody waits for an operator.
#[test]
fn a_fifth_of_the_nodes_may_be_lost() {
    for seed in 1..=2 {
        let blocks = Case { blocks: 512, block_bytes: 512 * 1024, ..SMALL };
        let outcome = run(&Case { churn: 0.2, seed, ..blocks });
        assert_eq!(outcome.done, [48, 48], "{outcome}");
        assert!(outcome.wan_copies <= 1.01 && outcome.ratio() < 1.25, "{outcome}");
    }
}

#[test]
fn runs_repeat() {
    assert_eq!(run(&Case { nodes: 24, blocks: 32, ..SMALL }), run(&Case { nodes: 24, blocks: 32, ..SMALL }));
}
