//! A site's WAN limit: what its readers keep to never adds up to more for long, whoever is out of whose reach.
//!
//! Each reader is judged by the limit that held when it was told its part, since one that is cut off cannot know of a later
//! one. For a while the sum may be greater: until a broken connection is noticed at both ends, and leases are given up.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_proto::time::Time;
use shoal_proto::wire::WanRates;

/// How long the sum may be greater than the limit: as long as one end may take longer than the other to notice that a
/// connection is gone (12 s), and a moment to settle.
const OVER_MAX: Duration = Duration::from_secs(15);

/// What is known of limits.
#[derive(Debug, Default)]
pub(crate) struct Limit {
    /// As the coordinator knows it.
    limits: BTreeMap<usize, u64>,
    /// Under which limit each node was sent which rates.
    sent: BTreeMap<(usize, WanRatesKey), u64>,
    /// The limit of what each node was told last.
    told: BTreeMap<usize, u64>,
    over_since: BTreeMap<usize, Time>,
}

type WanRatesKey = (Option<u64>, Option<u64>, Option<u64>);

fn key(rates: WanRates) -> WanRatesKey {
    (rates.rate, rates.away, rates.alone)
}

impl Limit {
    pub(crate) fn changed(&mut self, site: usize, limit: Option<u64>) {
        match limit {
            Some(limit) => drop(self.limits.insert(site, limit)),
            None => drop(self.limits.remove(&site)),
        }
        self.over_since.remove(&site);
    }

    pub(crate) fn limit(&self, site: usize) -> Option<u64> {
        self.limits.get(&site).copied()
    }

    pub(crate) fn sent(&mut self, node: usize, site: usize, rates: WanRates) {
        self.sent.insert((node, key(rates)), self.limit(site).unwrap_or(u64::MAX));
    }

    pub(crate) fn heard(&mut self, node: usize, rates: WanRates) {
        if let Some(limit) = self.sent.get(&(node, key(rates))) {
            self.told.insert(node, *limit);
        }
    }

    /// Judges the readers of a site: which nodes, what each keeps to, and whether the coordinator reaches it.
    pub(crate) fn judge(
        &mut self,
        site: usize,
        readers: &[(usize, Option<u64>, bool)],
        now: Time,
    ) -> Result<(), String> {
        let part = |(node, rate, connected): &(usize, Option<u64>, bool)| match rate {
            Some(rate) => u128::from(*rate) * 1000 / u128::from(self.told.get(node).copied().unwrap_or(u64::MAX)),
            None => {
                if *connected {
                    1001
                } else {
                    0
                }
            }
        };
        let sum: u128 = readers.iter().map(part).sum();
        if sum <= 1000 {
            self.over_since.remove(&site);
            return Ok(());
        }
        let since = *self.over_since.entry(site).or_insert(now);
        if since + OVER_MAX > now {
            return Ok(());
        }
        Err(format!("site{site} may read {sum} thousandths of its limit since {since:?}: {readers:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(rate: u64) -> WanRates {
        WanRates { rate: Some(rate), ..WanRates::default() }
    }

    #[test]
    fn a_sum_that_stays_too_great_is_caught() {
        let mut limit = Limit::default();
        limit.changed(0, Some(100));
        for node in 0..2 {
            limit.sent(node, 0, rates(60));
            limit.heard(node, rates(60));
        }
        let at = |seconds: u64| Time::from_millis(seconds * 1000);
        let (one, both) = ([(0, Some(60), true)], [(0, Some(60), true), (1, Some(60), true)]);
        assert_eq!(limit.judge(0, &both, at(0)), Ok(()));
        assert_eq!(limit.judge(0, &one, at(14)), Ok(()));
        assert_eq!(limit.judge(0, &both, at(16)), Ok(()), "it was kept in between");
        assert!(limit.judge(0, &both, at(31)).is_err());
        assert_eq!(limit.judge(0, &[(0, None, false)], at(100)), Ok(()), "cut off before there was a limit");
        assert_eq!(limit.judge(0, &[(0, None, true)], at(100)), Ok(()));
        assert!(limit.judge(0, &[(0, None, true)], at(115)).is_err(), "it has had the time to be told");
    }
}
