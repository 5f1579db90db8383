//! What storms add up to.

use std::collections::BTreeMap;
use std::fmt;

use crate::absences::During;

/// Sums of one run or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) events: u64,
    pub(crate) node_crashes: u64,
    pub(crate) coordinator_crashes: u64,
    pub(crate) leases: u64,
    pub(crate) lies: u64,
    pub(crate) steps: u64,
    pub(crate) overrides: u64,
    pub(crate) rollbacks: u64,
    pub(crate) joined: u64,
    /// Deployments that went in waves.
    pub(crate) in_waves: u64,
    /// Nodes that were away for too long, of which the others went on.
    pub(crate) left_behind: u64,
    /// How often a node that was asked for its site hung longer than it may, and how often another was asked in its place.
    pub(crate) late_answers: u64,
    pub(crate) passed_over: u64,
    /// Moments at which two operators said contrary things, and how often one of them was refused.
    pub(crate) disagreements: u64,
    pub(crate) disagreements_refused: u64,
    /// How often the coordinator was away for hours, by what a deployment was doing.
    pub(crate) hours_away: BTreeMap<During, u64>,
    /// Requests that were served while the block still arrived, and how many of them were broken off.
    pub(crate) passed_on: u64,
    pub(crate) broken_off: u64,
    /// Leases that deputies granted themselves.
    pub(crate) own_leases: u64,
    /// Packages on nodes that had to be complete while the coordinator was away, and were.
    pub(crate) completed_away: u64,
    pub(crate) wan_bytes: u64,
    /// What each site read of each content, in thousandths of what it lacked.
    pub(crate) wan: Vec<u64>,
}

impl Totals {
    pub(crate) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.node_crashes += other.node_crashes;
        self.coordinator_crashes += other.coordinator_crashes;
        self.leases += other.leases;
        self.lies += other.lies;
        self.steps += other.steps;
        self.overrides += other.overrides;
        self.rollbacks += other.rollbacks;
        self.joined += other.joined;
        self.in_waves += other.in_waves;
        self.left_behind += other.left_behind;
        self.late_answers += other.late_answers;
        self.passed_over += other.passed_over;
        self.disagreements += other.disagreements;
        self.disagreements_refused += other.disagreements_refused;
        for (during, count) in other.hours_away {
            *self.hours_away.entry(during).or_default() += count;
        }
        self.passed_on += other.passed_on;
        self.broken_off += other.broken_off;
        self.own_leases += other.own_leases;
        self.completed_away += other.completed_away;
        self.wan_bytes += other.wan_bytes;
        self.wan.extend(other.wan);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, node_crashes, coordinator_crashes, leases, lies, steps, overrides, wan_bytes, wan, .. } =
            self;
        writeln!(f, "{events} events, {node_crashes} crashes of nodes, {coordinator_crashes} of coordinators")?;
        writeln!(f, "{steps} steps started, {leases} leases, {lies} wrong blocks sent, {overrides} overrides")?;
        let Self { own_leases, completed_away, rollbacks, joined, .. } = self;
        writeln!(f, "the coordinator away: {own_leases} leases of deputies, {completed_away} packages completed")?;
        let Self { passed_on, broken_off, .. } = self;
        writeln!(f, "{passed_on} blocks passed on while they arrived, {broken_off} of them broken off")?;
        writeln!(f, "{rollbacks} deployments taken back, {joined} late joiners")?;
        let Self { in_waves, left_behind, disagreements, disagreements_refused, hours_away, .. } = self;
        writeln!(f, "{in_waves} deployments in waves, {left_behind} nodes away for too long")?;
        writeln!(f, "two operators at once: {disagreements} times, one of them refused {disagreements_refused} times")?;
        let hours = |during| hours_away.get(&during).copied().unwrap_or(0);
        let [acquire, steps, bake] = [During::Acquire, During::Steps, During::Bake].map(hours);
        writeln!(f, "away for hours: {acquire} times in `acquire`, {steps} times in `steps`, {bake} times in a bake")?;
        let Self { late_answers, passed_over, .. } = self;
        writeln!(
            f,
            "asked for a site: {late_answers} answers too late, {passed_over} times another was asked meanwhile"
        )?;
        let mut sorted = wan.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let copies = sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0);
            format!("{}.{:03}", copies / 1000, copies % 1000)
        };
        write!(f, "{} MiB over {} WANs and contents; ", wan_bytes >> 20, sorted.len())?;
        write!(f, "copies of what was lacking: median {}, 90 % {}, 99 % {}, most {}", at(50), at(90), at(99), at(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_shown_by_rank() {
        let totals = Totals { wan: (1..=100).rev().map(|rank| rank * 100).collect(), ..Totals::default() };
        let text = totals.to_string();
        assert!(text.ends_with("median 5.000, 90 % 9.000, 99 % 9.900, most 10.000"), "{text}");
        assert!(Totals::default().to_string().ends_with("most 0.000"), "nothing to show is no panic");
    }
}
