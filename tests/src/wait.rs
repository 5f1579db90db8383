//! Waiting for something that happens in other processes, which can only be asked.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

/// How often is asked: short against what tests wait for, long against what asking costs.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Asks `probe` until it says something.
///
/// # Panics
/// If it has not after `within`; `what` says what was awaited.
pub fn until<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    until_seen(what, within, || probe().ok_or_else(String::new))
}

/// The same for a probe that says what it saw instead: the panic shows what was seen last, which is only then worked out.
///
/// # Panics
/// As [`until`].
pub fn until_seen<T, S: Display>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<T, S>) -> T {
    let end = Instant::now() + within;
    loop {
        match probe() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < end, "waited {within:?} for this: {what}\n{seen}"),
        }
        std::thread::sleep(POLL_EVERY);
    }
}

/// A text that is worked out when it is shown.
pub struct Lazily<F>(pub F);

impl<F: Fn() -> String> Display for Lazily<F> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&(self.0)())
    }
}
