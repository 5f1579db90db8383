//! How much moves of late, for people: bytes of the last second or two, so that a rate is neither stale nor nervous.

use std::time::Duration;

use crate::time::Time;

/// The least time that a rate is taken over.
const SPAN: Duration = Duration::from_secs(1);

/// Counts bytes in two spans of a second at least: the one that goes on, and the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    /// When the span that goes on began; `None` before the first byte.
    since: Option<Time>,
    bytes: u64,
    /// The span before: when it began, and its bytes.
    before: Option<(Time, u64)>,
}

impl Meter {
    /// `bytes` moved.
    pub(super) fn add(&mut self, bytes: u64, now: Time) {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.since(since);
        if elapsed >= SPAN {
            // After a pause the span before says nothing of what moves.
            self.before = (elapsed < 2 * SPAN).then_some((since, self.bytes));
            (self.since, self.bytes) = (Some(now), 0);
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Bytes a second of late; 0 if nothing moved for two spans.
    pub(super) fn rate(&self, now: Time) -> u64 {
        let Some(since) = self.since.filter(|since| now.since(*since) < 2 * SPAN) else { return 0 };
        let (began, before) = self.before.unwrap_or((since, 0));
        let elapsed = now.since(began).max(SPAN);
        let bytes = u128::from(self.bytes) + u128::from(before);
        u64::try_from(bytes * 1_000_000_000 / elapsed.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_two_seconds() {
        let mut meter = Meter::default();
        let rate_at = |meter: &Meter, millis| meter.rate(Time::from_millis(millis));
        assert_eq!(rate_at(&meter, 0), 0);
        (0..100).for_each(|tick| meter.add(1_000, Time::from_millis(100 * tick)));
        let steady = rate_at(&meter, 9_900);
        assert!((9_000..=11_000).contains(&steady), "{steady}");
        assert!(rate_at(&meter, 10_700) < steady, "it falls when nothing moves");
        assert_eq!(rate_at(&meter, 12_000), 0);
        meter.add(500, Time::from_millis(60_000));
        assert_eq!(rate_at(&meter, 60_000), 500, "a pause is not averaged in");
    }
}
