//! What a node asks for of its leases, so that it may read on: for the lease that it reads as its reader says ([`credit`]),
//! and what that asks for beyond the lease's end of those behind it, so that there is no pause between one and the next,
//! however small they are.
//!
//! [`credit`]: super::credit

use std::collections::BTreeMap;

use super::credit::Terms;
use crate::id::LeaseId;

/// The leases of one content, in the order in which they are read.
#[derive(Debug, Default)]
pub struct Credits {
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
    pub fn granted(&mut self, lease: LeaseId, lacking_bytes: u64, terms: Terms) {
        let Terms { first_bytes, step_bytes, .. } = terms;
        let (asked_bytes, confirmed) = (first_bytes.min(lacking_bytes), first_bytes > 0);
        self.leases.insert(lease, Asked { lacking_bytes, step_bytes, asked_bytes, confirmed });
    }

    /// The reader of a lease asks for so much. [`Credits::due`] may have more to ask.
    pub fn wanted(&mut self, lease: LeaseId, bytes: u64) {
        if let Some(asked) = self.leases.get_mut(&lease) {
            asked.asked_bytes = asked.asked_bytes.max(bytes);
        }
    }

    /// The coordinator confirmed some of a lease.
    pub fn confirmed(&mut self, lease: LeaseId) {
        if let Some(asked) = self.leases.get_mut(&lease) {
            asked.confirmed = true;
        }
    }

    /// Nobody can be asked any more: the lease to read to its end, if one was begun, and those to give back. The coordinator
    /// may not have heard of the end of those before it, and counts on those of which it confirmed nothing not being read.
    pub fn on_its_own(&self) -> (Option<LeaseId>, impl Iterator<Item = LeaseId>) {
        let first = self.leases.first_key_value().filter(|(_, asked)| asked.confirmed).map(|(lease, _)| *lease);
        (first, self.leases.keys().copied().filter(move |lease| Some(*lease) != first))
    }

    /// A lease is over. [`Credits::due`] may have something to ask.
    pub fn ended(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
    }

    /// What to ask for that no reader asks for, one lease at a time: what was asked for beyond the end of the leases before
    /// it, and the first step of a lease that came to be the first without that.
    pub fn due(&mut self) -> Option<(LeaseId, u64)> {
        let first = self.leases.first_key_value().filter(|(_, asked)| asked.asked_bytes == 0);
        let mut beyond = first.map_or(0, |(_, asked)| asked.step_bytes);
        for (lease, asked) in &mut self.leases {
            let bytes = beyond.min(asked.lacking_bytes.max(1));
            if bytes > asked.asked_bytes {
                asked.asked_bytes = bytes;
                return Some((*lease, bytes));
            }
            beyond = beyond.max(asked.asked_bytes).saturating_sub(asked.lacking_bytes);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(first_bytes: u64, step_bytes: u64) -> Terms {
        Terms { first_bytes, step_bytes, step_max_bytes: step_bytes }
    }

    #[test]
    fn the_lease_behind_is_asked_for_when_the_first_is_about_to_be_read() {
        let (first, second, third) = (LeaseId(1), LeaseId(2), LeaseId(3));
        let waits = terms(0, 10);
        let mut credits = Credits::default();
        credits.granted(first, 40, terms(10, 10));
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
        assert_eq!(credits.due(), Some((third, 5)));
    }

    #[test]
    fn a_reader_that_asks_far_ahead_asks_for_all_the_small_leases_behind() {
        let mut credits = Credits::default();
        credits.granted(LeaseId(1), 10, terms(10, 40));
        for lease in 2..=5 {
            credits.granted(LeaseId(lease), 10, terms(0, 40));
        }
        assert_eq!(credits.due(), None);
        credits.wanted(LeaseId(1), 35);
        let due: Vec<_> = std::iter::from_fn(|| credits.due()).collect();
        assert_eq!(due, [(LeaseId(2), 10), (LeaseId(3), 10), (LeaseId(4), 5)]);
        credits.ended(LeaseId(1));
        assert_eq!(credits.due(), None, "what was asked for stays asked for");
        credits.wanted(LeaseId(2), 50);
        assert_eq!(credits.due(), Some((LeaseId(4), 10)));
        assert_eq!(credits.due(), Some((LeaseId(5), 10)));
        credits.granted(LeaseId(6), 30, terms(0, 40));
        assert_eq!(credits.due(), Some((LeaseId(6), 10)), "the reader asked beyond what there was");
    }

    #[test]
    fn who_is_cut_off_reads_what_it_has_begun() {
        let own = |credits: &Credits| {
            let (read, given_back) = credits.on_its_own();
            (read, given_back.collect::<Vec<_>>())
        };
        let (first, second) = (LeaseId(1), LeaseId(2));
        let mut credits = Credits::default();
        credits.granted(first, 40, terms(10, 10));
        credits.granted(second, 40, terms(0, 10));
        assert_eq!(own(&credits), (Some(first), vec![second]));
        credits.ended(first);
        assert_eq!(own(&credits), (None, vec![second]), "nobody knows that it would be read");
        credits.confirmed(second);
        assert_eq!(own(&credits), (Some(second), vec![]));
    }

    #[test]
    fn a_lease_that_becomes_the_first_is_asked_for() {
        let mut credits = Credits::default();
        credits.granted(LeaseId(1), 40, terms(10, 10));
        credits.granted(LeaseId(2), 40, terms(0, 10));
        credits.ended(LeaseId(1));
        assert_eq!(credits.due(), Some((LeaseId(2), 10)));
    }
}
