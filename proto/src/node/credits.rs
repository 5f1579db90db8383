//! What a node asks for of its leases, so that it may read on: for the lease that it reads as its reader says, and for the
//! one behind it as soon as all of that was asked for, so that there is no pause between the two.

use std::collections::BTreeMap;

use crate::id::LeaseId;
use crate::wan::credit::Terms;

/// The leases of one content, in the order in which they are read.
#[derive(Debug, Default)]
pub(super) struct Credits {
    leases: BTreeMap<LeaseId, Asked>,
}

#[derive(Debug)]
struct Asked {
    /// Bytes that were lacking when it was granted.
    lacking_bytes: u64,
    step_bytes: u64,
    asked_bytes: u64,
    /// Whether any of it may be read.
    confirmed: bool,
}

impl Credits {
    /// A lease came. [`Credits::due`] may have something to ask.
    pub(super) fn granted(&mut self, lease: LeaseId, lacking_bytes: u64, terms: Terms) {
        let Terms { first_bytes, step_bytes } = terms;
        let (asked_bytes, confirmed) = (first_bytes.min(lacking_bytes), first_bytes > 0);
        self.leases.insert(lease, Asked { lacking_bytes, step_bytes, asked_bytes, confirmed });
    }

    /// The reader of a lease asks for so much. [`Credits::due`] may have more to ask.
    pub(super) fn wanted(&mut self, lease: LeaseId, bytes: u64) {
        if let Some(asked) = self.leases.get_mut(&lease) {
            asked.asked_bytes = asked.asked_bytes.max(bytes);
        }
    }

    /// The coordinator confirmed some of a lease.
    pub(super) fn confirmed(&mut self, lease: LeaseId) {
        if let Some(asked) = self.leases.get_mut(&lease) {
            asked.confirmed = true;
        }
    }

    /// Nobody can be asked any more: the lease to read to its end, if one was begun, and those to give back. The coordinator
    /// may not have heard of the end of those before it, and counts on those of which it confirmed nothing not being read.
    pub(super) fn on_its_own(&self) -> (Option<LeaseId>, impl Iterator<Item = LeaseId>) {
        let first = self.leases.first_key_value().filter(|(_, asked)| asked.confirmed).map(|(lease, _)| *lease);
        (first, self.leases.keys().copied().filter(move |lease| Some(*lease) != first))
    }

    /// A lease is over. [`Credits::due`] may have something to ask.
    pub(super) fn ended(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
    }

    /// What to ask for that no reader asks for yet: the first step of the first lease that was not asked for beyond its end,
    /// as a reader does when it is about to come there.
    pub(super) fn due(&mut self) -> Option<(LeaseId, u64)> {
        let mut open = self.leases.iter_mut().filter(|(_, asked)| asked.asked_bytes <= asked.lacking_bytes);
        let (lease, asked) = open.next().filter(|(_, asked)| asked.asked_bytes == 0)?;
        asked.asked_bytes = asked.step_bytes.min(asked.lacking_bytes).max(1);
        Some((*lease, asked.asked_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_behind_is_asked_for_when_the_first_is_about_to_be_read() {
        let (first, second, third) = (LeaseId(1), LeaseId(2), LeaseId(3));
        let waits = Terms { first_bytes: 0, step_bytes: 10 };
        let mut credits = Credits::default();
        credits.granted(first, 40, Terms { first_bytes: 10, step_bytes: 10 });
        credits.granted(second, 15, waits);
        assert_eq!(credits.due(), None);
        credits.wanted(first, 30);
        assert_eq!(credits.due(), None);
        credits.wanted(first, 40);
        assert_eq!(credits.due(), None, "it has a step left to read");
        credits.wanted(first, 50);
        assert_eq!(credits.due(), Some((second, 10)));
        assert_eq!(credits.due(), None, "its reader asks for the rest");
        credits.granted(third, 15, waits);
        credits.wanted(second, 20);
        assert_eq!(credits.due(), Some((third, 10)));
    }

    #[test]
    fn who_is_cut_off_reads_what_it_has_begun() {
        let own = |credits: &Credits| {
            let (read, given_back) = credits.on_its_own();
            (read, given_back.collect::<Vec<_>>())
        };
        let (first, second) = (LeaseId(1), LeaseId(2));
        let mut credits = Credits::default();
        credits.granted(first, 40, Terms { first_bytes: 10, step_bytes: 10 });
        credits.granted(second, 40, Terms { first_bytes: 0, step_bytes: 10 });
        assert_eq!(own(&credits), (Some(first), vec![second]));
        credits.ended(first);
        assert_eq!(own(&credits), (None, vec![second]), "nobody knows that it would be read");
        credits.confirmed(second);
        assert_eq!(own(&credits), (Some(second), vec![]));
    }

    #[test]
    fn a_lease_that_becomes_the_first_is_asked_for() {
        let mut credits = Credits::default();
        credits.granted(LeaseId(1), 40, Terms { first_bytes: 10, step_bytes: 10 });
        credits.granted(LeaseId(2), 40, Terms { first_bytes: 0, step_bytes: 10 });
        credits.ended(LeaseId(1));
        assert_eq!(credits.due(), Some((LeaseId(2), 10)));
    }
}
