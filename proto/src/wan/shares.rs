//! How one site's WAN limit is divided among the nodes that read over its WAN, for all contents at once.
//!
//! Max-min fairness ([`divide`]): everybody gets the same, but what one cannot use goes to the others. Invariant
//! (`Shares::check`): what the readers were told never adds up to more than the limit. A share is therefore raised only a
//! moment after others were lowered, when these have heard of it. A node that reads without a lease (it was given up while
//! only the coordinator was out of reach) is a reader as long as it says that it reads. Nodes that were not heard of since the
//! coordinator started may read by what an earlier run of it told them: as much is left for each of them as readers get.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::NodeId;
use crate::limits::{SHARE_LINGER, SHARE_RAISE_DELAY, SHARES_EVERY, WAN_RATE_EVERY};
use crate::time::Time;

/// What to tell a node: bytes a second that it may read over the WAN, none for as many as it can.
pub type Told = (NodeId, Option<u64>);

/// What [`Shares::reckon`] comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reckoned {
    /// To be told, in this order: who is to read less comes first.
    pub told: Vec<Told>,
    /// Whether shares were reckoned, or only newcomers told to wait.
    pub anew: bool,
}

/// The shares of one site's readers.
#[derive(Debug, Default)]
pub struct Shares {
    limit: Option<u64>,
    readers: BTreeMap<NodeId, Reader>,
    /// Something changed since shares were last reckoned.
    stale: bool,
    /// Shares are not reckoned again before this.
    reckoned_next: Time,
    /// Nobody's share is raised before this.
    raise_at: Time,
    /// Somebody's share is to be raised then.
    raises: bool,
    /// Nodes that may read beside the readers, and until when they are reckoned with.
    unheard: usize,
    unheard_until: Time,
}

#[derive(Debug, Default)]
struct Reader {
    /// What it was told: outer none for nothing so far, inner none for no limit.
    told: Option<Option<u64>>,
    /// What it can use, in bytes a second; none for all that it gets.
    wants: Option<u64>,
    /// What it read of late, in bytes a second.
    used: u64,
    /// Until when its share is kept, if it has no lease.
    until: Option<Time>,
}

impl Shares {
    /// Sets what the site may read in all, in bytes a second.
    pub fn set_limit(&mut self, limit: Option<u64>) {
        if self.limit != limit {
            (self.limit, self.stale, self.reckoned_next) = (limit, true, Time::ZERO);
        }
    }

    /// What the site may read in all, in bytes a second.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Says who reads. One that stopped keeps its share for a moment: leases are short, and the next one comes soon.
    pub fn set_readers(&mut self, readers: &BTreeSet<NodeId>, now: Time) {
        let before = self.readers.len();
        self.readers.retain(|node, reader| {
            if readers.contains(node) {
                reader.until = None;
            }
            readers.contains(node) || *reader.until.get_or_insert(now + SHARE_LINGER) > now
        });
        self.stale |= self.readers.len() != before;
        for node in readers {
            self.readers.entry(*node).or_insert_with(|| {
                self.stale = true;
                Reader::default()
            });
        }
    }

    /// How many nodes may read, until `until`, that were not heard of since the coordinator started.
    pub fn set_unheard(&mut self, unheard: usize, until: Time) {
        self.stale |= self.unheard != unheard;
        (self.unheard, self.unheard_until) = (unheard, until);
    }

    /// How many nodes may read beside the readers.
    pub fn unheard(&self) -> usize {
        self.unheard
    }

    /// A node connected: it has forgotten what it was told.
    pub fn forget(&mut self, node: NodeId) {
        if let Some(reader) = self.readers.get_mut(&node) {
            reader.told = None;
            self.stale = true;
        }
    }

    /// A node says how fast it reads, in bytes a second. One that leaves a fifth of its share unused is given less, with
    /// room to show that it can do more. One that is not known to read goes by what it was told long ago, if anything.
    pub fn used(&mut self, node: NodeId, rate: u64, now: Time) {
        let floor = self.limit.unwrap_or(0) / (8 * self.readers.len().max(1) as u64);
        if rate > 0 && !self.readers.contains_key(&node) {
            self.readers.insert(node, Reader { told: Some(None), until: Some(now), ..Reader::default() });
            self.stale = true;
        }
        let Some(reader) = self.readers.get_mut(&node) else { return };
        reader.used = rate;
        if rate > 0 {
            // It says so again in time, or has ended.
            reader.until = reader.until.map(|until| until.max(now + 2 * WAN_RATE_EVERY));
        }
        let Some(Some(told)) = reader.told else { return };
        let idle = u128::from(rate) * 5 < u128::from(told) * 4;
        let wants = idle.then(|| rate.saturating_add(rate / 4).saturating_add(floor.max(1)));
        self.stale |= reader.wants != wants;
        reader.wants = wants;
    }

    /// Something else that goes by who reads changed.
    pub fn reckon_anew(&mut self) {
        self.stale = true;
    }

    /// What the nodes are to be told by now. Readers that just came wait until shares are reckoned, which is not for each
    /// of them: then all would be told anew each time.
    pub fn reckon(&mut self, now: Time) -> Reckoned {
        let anew = self.stale && now >= self.reckoned_next || self.raises && now >= self.raise_at;
        if !anew {
            let nothing = self.limit.map(|_| 0);
            let newcomers = self.readers.iter_mut().filter(|(_, reader)| reader.told.is_none());
            let told = newcomers.map(|(node, reader)| {
                reader.told = Some(nothing);
                (*node, nothing)
            });
            return Reckoned { told: told.collect(), anew };
        }
        (self.stale, self.raises, self.reckoned_next) = (false, false, now + SHARES_EVERY);
        let told = match self.limit {
            Some(limit) => self.divide_anew(self.for_readers(limit), now),
            None => self.free_all(),
        };
        Reckoned { told, anew }
    }

    /// What of `limit` is the readers', beside nodes that were not heard of.
    fn for_readers(&self, limit: u64) -> u64 {
        let readers = self.readers.len() as u64;
        let part = u128::from(limit) * u128::from(readers) / u128::from((readers + self.unheard as u64).max(1));
        u64::try_from(part).unwrap_or(limit)
    }

    fn free_all(&mut self) -> Vec<Told> {
        let tell = |(node, reader): (&NodeId, &mut Reader)| {
            let news = reader.told != Some(None);
            (reader.told, reader.wants) = (Some(None), None);
            news.then_some((*node, None))
        };
        self.readers.iter_mut().filter_map(tell).collect()
    }

    fn divide_anew(&mut self, limit: u64, now: Time) -> Vec<Told> {
        let wants: Vec<_> = self.readers.values().map(|reader| reader.wants).collect();
        let targets = divide(limit, &wants);
        let mut told = Vec::new();
        for ((node, reader), target) in self.readers.iter_mut().zip(&targets) {
            if reader.told.is_some_and(|had| had.is_none_or(|had| had > *target)) {
                reader.told = Some(Some(*target));
                told.push((*node, Some(*target)));
                self.raise_at = now + SHARE_RAISE_DELAY;
            }
        }
        for ((node, reader), target) in self.readers.iter_mut().zip(&targets) {
            let had = reader.told.flatten();
            let raised = had.is_none_or(|had| had < *target);
            self.raises |= raised && now < self.raise_at;
            if raised && now >= self.raise_at || had.is_none() {
                let share = if now >= self.raise_at { *target } else { 0 };
                reader.told = Some(Some(share));
                told.push((*node, Some(share)));
            }
        }
        told
    }

    /// When [`Shares::reckon`] has something to say, unless something else happens before.
    pub fn next_wake(&self) -> Option<Time> {
        let raise = self.raises.then_some(self.raise_at);
        let lingering = self.readers.values().filter_map(|reader| reader.until);
        let heard = (self.unheard > 0).then_some(self.unheard_until);
        raise.into_iter().chain(self.stale.then_some(self.reckoned_next)).chain(lingering).chain(heard).min()
    }

    /// What the readers said that they read of late, in bytes a second.
    pub fn rate(&self) -> u64 {
        self.readers.values().map(|reader| reader.used).sum()
    }

    /// The nodes that read.
    pub fn readers(&self) -> impl Iterator<Item = NodeId> {
        self.readers.keys().copied()
    }

    /// Asserts the invariant.
    ///
    /// # Panics
    /// If it does not hold: a bug.
    pub fn check(&self) {
        // A limit that was only just set binds once it was reckoned with.
        if let Some(limit) = self.limit.filter(|_| !self.stale) {
            let told: u128 = self.readers.values().filter_map(|r| r.told.flatten()).map(u128::from).sum();
            assert!(told <= u128::from(limit), "shares of {told} bytes a second where {limit} are allowed");
        }
    }
}

/// Divides `limit` among readers that can use so much (none for any amount): max-min fair, and nothing is left over where
/// somebody may use it. What nobody is known to use is spread over all.
///
/// Progressive filling, as in Bertsekas and Gallager, Data Networks, 6.5.2.
pub fn divide(limit: u64, wants: &[Option<u64>]) -> Vec<u64> {
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_by_key(|index| (wants[*index].is_none(), wants[*index]));
    let mut shares = vec![0; wants.len()];
    let mut left = limit;
    for (place, index) in order.iter().enumerate() {
        let even = left / (order.len() - place) as u64;
        shares[*index] = wants[*index].map_or(even, |wants| wants.min(even));
        left -= shares[*index];
    }
    let spread = left / (wants.len().max(1)) as u64;
    shares.iter_mut().for_each(|share| *share += spread);
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_one_cannot_use_goes_to_the_others() {
        type Case = (u64, &'static [Option<u64>], &'static [u64]);
        let cases: [Case; 6] = [
            (90, &[None, None, None], &[30, 30, 30]),
            (90, &[Some(10), None, None], &[10, 40, 40]),
            (90, &[Some(10), Some(20), None], &[10, 20, 60]),
            (90, &[Some(40), None], &[40, 50]),
            (90, &[Some(10), Some(20)], &[40, 50]),
            (90, &[], &[]),
        ];
        for (limit, wants, shares) in cases {
            assert_eq!(divide(limit, wants), shares, "{limit} among {wants:?}");
        }
    }

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    #[test]
    fn a_second_reader_is_let_in_after_the_first_was_lowered() {
        let mut shares = Shares::default();
        shares.set_limit(Some(100));
        shares.set_readers(&[node(1)].into(), Time::ZERO);
        assert_eq!(shares.reckon(Time::ZERO).told, [(node(1), Some(100))]);
        shares.set_readers(&[node(1), node(2)].into(), Time::ZERO);
        assert_eq!(shares.reckon(Time::ZERO).told, [(node(2), Some(0))], "shares were only just reckoned");
        let again = shares.next_wake().expect("the second waits for its share");
        assert_eq!(again, Time::ZERO + SHARES_EVERY);
        assert_eq!(shares.reckon(again).told, [(node(1), Some(50))]);
        let raised = shares.next_wake().expect("until the first has heard");
        assert_eq!(raised, again + SHARE_RAISE_DELAY);
        assert_eq!(shares.reckon(raised).told, [(node(2), Some(50))]);
        assert_eq!(shares.next_wake(), None);
        shares.set_readers(&[node(2)].into(), raised);
        let later = raised + SHARE_LINGER;
        assert_eq!(shares.next_wake(), Some(later));
        shares.set_readers(&[node(2)].into(), later);
        assert_eq!(shares.reckon(later).told, [(node(2), Some(100))]);
        shares.set_limit(None);
        assert_eq!(shares.reckon(later).told, [(node(2), None)]);
    }

    #[test]
    fn one_that_reads_without_a_lease_is_counted_until_it_ends() {
        let mut shares = Shares::default();
        shares.set_limit(Some(100));
        let holders = [node(1)].into();
        shares.set_readers(&holders, Time::ZERO);
        assert_eq!(shares.reckon(Time::ZERO).told, [(node(1), Some(100))]);
        let mut now = Time::ZERO + SHARES_EVERY;
        shares.used(node(2), 70, now);
        shares.set_readers(&holders, now);
        let told = shares.reckon(now).told;
        assert_eq!(told, [(node(1), Some(50)), (node(2), Some(50))], "whatever it was told before");
        for _ in 0..5 {
            now = now + WAN_RATE_EVERY;
            shares.used(node(2), 50, now);
            shares.set_readers(&holders, now);
            assert_eq!(shares.reckon(now).told, [], "it still reads");
        }
        let ended = shares.next_wake().expect("it may have ended");
        shares.set_readers(&holders, ended);
        assert_eq!(shares.reckon(ended).told, [(node(1), Some(100))]);
    }

    #[test]
    fn those_not_heard_of_are_left_as_much_as_readers_get_for_a_while() {
        let mut shares = Shares::default();
        let until = Time::from_millis(15_000);
        shares.set_limit(Some(90));
        shares.set_unheard(2, until);
        shares.set_readers(&[node(1)].into(), Time::ZERO);
        assert_eq!(shares.reckon(Time::ZERO).told, [(node(1), Some(30))]);
        assert_eq!(shares.next_wake(), Some(until));
        shares.set_unheard(0, until);
        assert_eq!(shares.reckon(until).told, [(node(1), Some(90))]);
        assert_eq!(shares.next_wake(), None);
    }

    proptest! {
        #[test]
        fn shares_keep_the_limit_and_waste_nothing(
            limit in 0_u64..1_000_000_000,
            wants in prop::collection::vec(prop::option::of(0_u64..100_000_000), 1..40),
        ) {
            let shares = divide(limit, &wants);
            let sum: u64 = shares.iter().sum();
            prop_assert!(sum <= limit);
            prop_assert!(limit - sum < 2 * wants.len() as u64, "{} are wasted", limit - sum);
            let even = limit / wants.len() as u64;
            for (share, wants) in shares.iter().zip(&wants) {
                prop_assert!(*share >= wants.unwrap_or(u64::MAX).min(even), "one starves");
            }
        }

        #[test]
        fn what_was_told_never_exceeds_the_limit(
            events in prop::collection::vec((0_u8..4, 0_u8..6, 0_u64..2_000_000, 0_u64..400), 1..80),
        ) {
            let mut shares = Shares::default();
            let (mut readers, mut now_ms) = (BTreeSet::new(), 0);
            let mut told = BTreeMap::new();
            shares.set_limit(Some(1_000_000));
            for (what, who, amount, wait_ms) in events {
                now_ms += wait_ms;
                match what {
                    0 => drop(readers.insert(node(who))),
                    1 => drop(readers.remove(&node(who))),
                    2 => shares.used(node(who), amount, Time::from_millis(now_ms)),
                    _ => shares.set_limit(Some(amount)),
                }
                shares.set_readers(&readers, Time::from_millis(now_ms));
                told.retain(|node, _| shares.readers.contains_key(node));
                told.extend(shares.reckon(Time::from_millis(now_ms)).told);
                shares.check();
            }
            // Left alone, everybody who reads comes to a share.
            while let Some(at) = shares.next_wake() {
                shares.set_readers(&readers, at);
                told.retain(|node, _| shares.readers.contains_key(node));
                told.extend(shares.reckon(at).told);
                shares.check();
            }
            let sum: u64 = told.values().map(|rate| rate.expect("limited")).sum();
            prop_assert!(sum <= shares.limit().expect("limited"));
            prop_assert!(sum + 2 * told.len() as u64 >= shares.limit().expect("limited") || told.is_empty());
        }
    }
}
