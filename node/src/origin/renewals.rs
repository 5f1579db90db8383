//! What a read proves at its origin. A signature or a token may end under way: the read then waits for another one, and goes on
//! where it was, so that nothing is read twice (WAN-ONCE).

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::origin::HttpOrigin;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

/// Where a package is read, as it was told last: at one place all the time, with one proof after another.
pub struct Renewals {
    first: Arc<HttpOrigin>,
    told: watch::Receiver<Option<Arc<HttpOrigin>>>,
    /// Asks for another word; none where nobody gives one.
    ask: Option<mpsc::Sender<()>>,
    /// Held by the request that asks, while others wait for what it hears.
    turn: Mutex<()>,
}

impl Renewals {
    /// `first` until something else is `told`, which `ask` asks for.
    pub fn new(
        first: HttpOrigin,
        told: watch::Receiver<Option<Arc<HttpOrigin>>>,
        ask: Option<mpsc::Sender<()>>,
    ) -> Self {
        Self { first: Arc::new(first), told, ask, turn: Mutex::default() }
    }

    /// `origin` for good.
    pub(super) fn never(origin: &HttpOrigin) -> Self {
        Self::new(origin.clone(), watch::channel(None).1, None)
    }

    /// What is proved with at the moment.
    pub(super) fn current(&self) -> Arc<HttpOrigin> {
        self.told.borrow().clone().unwrap_or_else(|| Arc::clone(&self.first))
    }

    /// Whether there is another word than the one that was refused; waits for it, but not for longer than `patience`.
    pub(super) async fn after(&self, refused: &HttpOrigin, patience: Duration) -> bool {
        let _turn = self.turn.lock().await;
        let mut told = self.told.clone();
        told.mark_unchanged();
        if *self.current() != *refused {
            return true;
        }
        let Some(ask) = &self.ask else { return false };
        if ask.send(()).await.is_err() {
            return false;
        }
        // The same word again is an answer too: there is no better one.
        matches!(timeout(patience, told.changed()).await, Ok(Ok(()))) && *self.current() != *refused
    }
}
