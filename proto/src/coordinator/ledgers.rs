//! The ledgers of all sites and contents: which of them may have something to say, and when the next one is due.
//!
//! There are as many as sites times contents, and most messages concern one. Invariant (`check`): once all were heard,
//! each is due when its ledger says so, and has nothing to say. So nothing is told to a ledger but by this file.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::supply::{Purpose, Supply};
use crate::id::{ContentId, Name, NodeId};
use crate::time::Time;
use crate::wan::{self, WanLedger};

/// A site, and what is read into it.
pub(super) type Key = (Name, ContentId);

/// The keys of everything of one site.
pub(super) fn of_site(site: &Name) -> RangeInclusive<Key> {
    (site.clone(), ContentId([0; 32]))..=(site.clone(), ContentId([u8::MAX; 32]))
}

#[derive(Debug, Default)]
pub(super) struct Ledgers {
    all: BTreeMap<Key, Supply>,
    /// Those that were told something since they were last heard.
    touched: BTreeSet<Key>,
    /// When the others are due.
    due: BTreeSet<(Time, Key)>,
}

impl Ledgers {
    pub(super) fn get(&self, key: &Key) -> Option<&Supply> {
        self.all.get(key)
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.all.contains_key(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Supply)> {
        self.all.iter()
    }

    pub(super) fn of_site(&self, site: &Name) -> impl Iterator<Item = (&Key, &Supply)> + use<'_> {
        self.all.range(of_site(site))
    }

    /// Those that were told something since they were last heard.
    pub(super) fn touched(&self) -> impl Iterator<Item = (&Key, &Supply)> {
        self.touched.iter().filter_map(|key| self.all.get_key_value(key))
    }

    pub(super) fn insert(&mut self, key: Key, supply: Supply) {
        self.touched.insert(key.clone());
        self.all.insert(key, supply);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(supply) = self.all.remove(key) {
            self.touched.remove(key);
            supply.due.map(|at| self.due.remove(&(at, key.clone())));
        }
    }

    pub(super) fn reassign(&mut self, key: &Key, purpose: Purpose) {
        if let Some(supply) = self.all.get_mut(key) {
            supply.purpose = purpose;
        }
    }

    /// Tells one, if there is one, what `input` makes of it.
    pub(super) fn tell(&mut self, key: &Key, now: Time, input: impl FnOnce(&mut Supply) -> wan::Input) {
        if let Some(supply) = self.all.get_mut(key) {
            let input = input(supply);
            supply.ledger.handle(input, now);
            self.touched.insert(key.clone());
        }
    }

    pub(super) fn tell_site(&mut self, site: &Name, input: &wan::Input, now: Time) {
        for (key, supply) in self.all.range_mut(of_site(site)) {
            supply.ledger.handle(input.clone(), now);
            self.touched.insert(key.clone());
        }
    }

    /// Tells a site's how fast each of its readers may be; whether that is news to any.
    pub(super) fn allow(&mut self, site: &Name, rate: Option<u64>, now: Time) -> bool {
        let mut news = false;
        for (key, supply) in self.all.range_mut(of_site(site)).filter(|(_, supply)| supply.allowed != rate) {
            supply.allowed = rate;
            supply.ledger.handle(wan::Input::Allowed { rate }, now);
            self.touched.insert(key.clone());
            news = true;
        }
        news
    }

    /// Wakes those that are due.
    pub(super) fn tick(&mut self, now: Time) {
        let due: Vec<Key> = self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key.clone()).collect();
        due.iter().for_each(|key| self.tell(key, now, |_| wan::Input::Tick));
    }

    pub(super) fn next_wake(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Hears all that have something to say.
    pub(super) fn heard(&mut self) -> Vec<(Key, wan::Output)> {
        let mut said = Vec::new();
        for key in std::mem::take(&mut self.touched) {
            let Some(supply) = self.all.get_mut(&key) else { continue };
            said.extend(std::iter::from_fn(|| supply.ledger.poll()).map(|output| (key.clone(), output)));
            let due = wake_of(&supply.ledger);
            if supply.due != due {
                supply.due.map(|at| self.due.remove(&(at, key.clone())));
                due.map(|at| self.due.insert((at, key.clone())));
                supply.due = due;
            }
        }
        said
    }

    /// The nodes that hold leases in a site.
    pub(super) fn holders(&self, site: &Name) -> BTreeSet<NodeId> {
        self.of_site(site).flat_map(|(_, supply)| supply.ledger.holders()).collect()
    }

    pub(super) fn check(&self) {
        assert!(self.touched.is_empty(), "a ledger that was not heard");
        for (key, supply) in &self.all {
            supply.ledger.check();
            assert_eq!(supply.due, wake_of(&supply.ledger), "a ledger that is due at another time");
            assert!(supply.due.is_none_or(|at| self.due.contains(&(at, key.clone()))), "a ledger that will sleep on");
        }
        assert_eq!(self.due.len(), self.all.values().filter(|supply| supply.due.is_some()).count());
    }
}

fn wake_of(ledger: &WanLedger) -> Option<Time> {
    ledger.next_wake().map(|(at, _)| at)
}
