//! When an exchange has to be woken, and when it need not look at what to do next.
//!
//! Of the parts of a block, each of which is told, one is news to neighbours and the others change nothing that decisions
//! look at. So [`Exchange::act`] says until when it would find nothing to do if nothing else happened.

use super::Why;
use super::transfer::Exchange;
use crate::time::Time;

/// What mere time brings.
#[derive(Debug, Default)]
pub(super) struct Wake {
    /// When to wake the exchange, and why.
    pub(super) next: Option<(Time, Why)>,
    /// Before this, nothing follows from what was known. Of one that was told nothing, nothing is known.
    quiet_until: Time,
}

impl Wake {
    /// Whether there is nothing to do at `now` unless something happened.
    pub(super) fn is_quiet(&self, now: Time) -> bool {
        now < self.quiet_until
    }
}

impl Exchange {
    /// What mere time brings after all was done that follows from the state at `now`.
    pub(super) fn wake_after(&self, now: Time) -> Wake {
        let announce = self.announce_at.map(|at| (at, Why::Announce));
        let stuck = self.may_be_stuck().then_some((self.stuck_at, Why::Stuck));
        let slow = self.slow_wake().map(|at| (at, Why::Slow));
        let offer = self.uploads.next_wake().map(|at| (at, Why::Offer));
        let next = announce.into_iter().chain(stuck).chain(slow).chain(offer).chain(self.retry_wake()).min();
        // These change what may be asked and served with the next message, and are not worth a wake-up of their own.
        let changes = self.room_changes(now).into_iter().chain(self.uploads.room_changes(now));
        let quiet_until = next.map(|(at, _)| at).into_iter().chain(changes).min();
        Wake { next, quiet_until: quiet_until.unwrap_or(Time::from_nanos(u64::MAX)) }
    }
}
