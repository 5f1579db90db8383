//! The clock of a loop: cores count time from its start, and say when they want to be woken.

use std::time::{Duration, Instant};

use shoal_proto::time::Time;

/// A clock that began at zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Begins.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// The time since it began.
    pub fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// When it shows `time`.
    pub fn at(&self, time: Time) -> Instant {
        self.started + Duration::from_nanos(time.as_nanos())
    }
}

/// Waits until `wake`; for ever if nothing is to be woken for.
pub async fn sleep_until(wake: Option<impl Into<tokio::time::Instant>>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
