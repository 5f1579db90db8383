//! Keeps transfers to a rate: a token bucket that all transfers of one kind share, in the order in which they ask.
//!
//! Whoever wants to move bytes pays for them first ([`Pacer::take`]), a piece ([`Pacer::piece`]) at a time. A piece is what
//! the rate allows in a tenth of a second, so that a rate is kept without bursts; unused time is saved up for
//! a moment only. Over any span of `t` seconds at most `rate * (t + 0.25)` bytes are paid for, and a piece at the least.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, watch};
use tokio::time::{Instant, sleep};

use crate::net::{BlockClient, BlockError};

/// How much unused time is saved up: the gap between two leases, so that a node that reads by turns comes to its share.
const BURST: Duration = Duration::from_millis(150);

/// The least piece: a request for less is mostly headers.
const PIECE_BYTES_MIN: u64 = 8 * 1024;

/// The largest piece: above 40 MB/s several a tenth of a second are as smooth.
const PIECE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A rate, and who waits for it. Clones share it.
#[derive(Clone, Debug)]
pub struct Pacer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Bytes a second; none for no limit.
    rate: watch::Sender<Option<u64>>,
    bucket: Mutex<Bucket>,
    /// Held by who waits next: it is fair.
    turn: Turn<()>,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes that may be moved; below zero, what was paid ahead.
    tokens: f64,
    filled: Instant,
}

impl Pacer {
    /// A pacer for `rate` bytes a second; none for no limit, 0 to wait for another rate.
    pub fn new(rate: Option<u64>) -> Self {
        let bucket = Mutex::new(Bucket { tokens: 0.0, filled: Instant::now() });
        Self(Arc::new(Shared { rate: watch::Sender::new(rate), bucket, turn: Turn::new(()) }))
    }

    /// Sets another rate, also for those that wait; answers the one before.
    pub fn set(&self, rate: Option<u64>) -> Option<u64> {
        // What was saved up until here was at the rate before.
        let mut bucket = self.fill();
        let before = self.0.rate.send_replace(rate);
        // What was paid ahead is a moment's worth; it is not to become minutes of a lower rate.
        if let (Some(before), Some(rate)) = (before.filter(|before| *before > 0), rate.filter(|rate| *rate > 0)) {
            bucket.tokens *= rate as f64 / before as f64;
        }
        before
    }

    /// How much to move at once; none without a limit.
    pub fn piece(&self) -> Option<u64> {
        let rate = *self.0.rate.borrow();
        rate.map(|rate| (rate / 10).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX))
    }

    /// How much of `len` bytes to move at once.
    pub fn piece_of(&self, len: usize) -> usize {
        self.piece().map_or(len, |piece| len.min(usize::try_from(piece).unwrap_or(usize::MAX)))
    }

    /// Waits until `bytes` may be moved; false if that costs nothing, since there is no limit. Cancelled, it has paid nothing.
    pub async fn take(&self, bytes: u64) -> bool {
        if self.0.rate.borrow().is_none() {
            return false;
        }
        let _turn = self.0.turn.lock().await;
        let mut changes = self.0.rate.subscribe();
        loop {
            let Some(rate) = *changes.borrow_and_update() else { return false };
            let wait = {
                let mut bucket = self.fill();
                if rate > 0 && bucket.tokens >= 0.0 {
                    bucket.tokens -= bytes as f64;
                    return true;
                }
                (rate > 0).then(|| Duration::from_secs_f64(-bucket.tokens / rate as f64))
            };
            // A microsecond more than reckoned, or rounding would have it wait for nothing again and again.
            let waited = async move {
                match wait {
                    Some(wait) => sleep(wait + Duration::from_micros(1)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = waited => {}
                // The sender lives as long as this pacer.
                _ = changes.changed() => {}
            }
        }
    }

    /// Gives back what was paid for and not moved.
    pub fn give_back(&self, bytes: u64) {
        self.fill().tokens += bytes as f64;
    }

    /// Adds what the rate allowed since it was last filled.
    fn fill(&self) -> MutexGuard<'_, Bucket> {
        let rate = self.0.rate.borrow().unwrap_or(0) as f64;
        let mut bucket = self.0.bucket.lock().expect("no panic while held");
        let now = Instant::now();
        let gained = rate * now.duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + gained).min(rate * BURST.as_secs_f64());
        bucket.filled = now;
        bucket
    }
}

/// Waits until `bytes` may be moved as far as each of `pacers` goes. Answers those that had no limit: what was asked for
/// without one is paid for as it comes, if one is set meanwhile.
pub async fn take_all(pacers: &[Pacer], bytes: u64) -> Vec<Pacer> {
    let mut unpaid = Vec::new();
    for pacer in pacers {
        if !pacer.take(bytes).await {
            unpaid.push(pacer.clone());
        }
    }
    unpaid
}

/// How much of `len` bytes to move at once, so that each of `pacers` is kept without bursts.
pub fn piece_of_all(pacers: &[Pacer], len: u64) -> u64 {
    pacers.iter().filter_map(Pacer::piece).fold(len, u64::min)
}

/// Fills `buffer` from a block's payload, as fast as each of `pacers` allows.
pub async fn read_payload(client: &mut BlockClient, buffer: &mut [u8], pacers: &[Pacer]) -> Result<(), BlockError> {
    let mut rest = buffer;
    while !rest.is_empty() {
        let len = usize::try_from(piece_of_all(pacers, rest.len() as u64)).unwrap_or(rest.len());
        let (piece, after) = rest.split_at_mut(len);
        take_all(pacers, len as u64).await;
        client.read_payload(piece).await?;
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// When each of `count` takers that share a pacer got which bytes.
    async fn takes(pacer: &Pacer, count: usize, span: Duration) -> Vec<(Duration, u64)> {
        let began = Instant::now();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let takers = (0..count).map(|_| {
            let (pacer, taken) = (pacer.clone(), Arc::clone(&taken));
            tokio::spawn(async move {
                loop {
                    let piece = pacer.piece().unwrap_or(PIECE_BYTES_MAX);
                    pacer.take(piece).await;
                    taken.lock().unwrap().push((began.elapsed(), piece));
                }
            })
        });
        let takers: Vec<_> = takers.collect();
        sleep(span).await;
        takers.iter().for_each(|taker| taker.abort());
        std::mem::take(&mut *taken.lock().unwrap())
    }

    fn within(taken: &[(Duration, u64)], from: Duration, span: Duration) -> u64 {
        taken.iter().filter(|(at, _)| (from..from + span).contains(at)).map(|(_, bytes)| bytes).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn every_second_and_every_ten_are_within_their_bounds() {
        for (rate, count) in [(100_000_u64, 1), (4_000_000, 7), (50_000_000, 3)] {
            let taken = takes(&Pacer::new(Some(rate)), count, 30 * SECOND).await;
            for tenth in 0..200 {
                let from = SECOND * tenth / 10;
                let (one, ten) = (within(&taken, from, SECOND), within(&taken, from, 10 * SECOND));
                assert!(one <= rate / 4 * 5 && one >= rate / 5 * 4, "{one} bytes in a second at {rate}");
                assert!(ten <= rate / 100 * 1020 && ten >= rate / 100 * 980, "{ten} bytes in 10 s at {rate}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_holds_for_those_that_wait() {
        let pacer = Pacer::new(Some(0));
        let waiting = tokio::spawn({
            let pacer = pacer.clone();
            async move { takes(&pacer, 2, 10 * SECOND).await }
        });
        sleep(SECOND).await;
        pacer.set(Some(1_000_000));
        sleep(4 * SECOND).await;
        pacer.set(Some(100_000));
        let taken = waiting.await.unwrap();
        assert_eq!(within(&taken, Duration::ZERO, SECOND), 0);
        let fast = within(&taken, SECOND, 4 * SECOND);
        assert!((3_800_000..4_300_000).contains(&fast), "{fast}");
        let slow = within(&taken, 6 * SECOND, 4 * SECOND);
        assert!((350_000..450_000).contains(&slow), "{slow}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_paid_ahead_is_a_moment_at_any_rate() {
        let pacer = Pacer::new(Some(10_000_000));
        assert!(pacer.take(1_000_000).await);
        pacer.set(Some(20_000));
        let began = Instant::now();
        pacer.take(1).await;
        assert!(began.elapsed() < SECOND, "it waited {:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_is_hardly_saved_and_no_limit_never_waits() {
        let pacer = Pacer::new(Some(1_000_000));
        sleep(60 * SECOND).await;
        let taken = takes(&pacer, 1, SECOND).await;
        assert!(within(&taken, Duration::ZERO, SECOND) <= 1_250_000);
        let (free, began) = (Pacer::new(None), Instant::now());
        for _ in 0..1000 {
            assert!(!free.take(u64::MAX).await);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
