//! How far a read of a lease may go before the coordinator has heard that it does ([`shoal_proto::wan::credit`]).

use std::sync::{Arc, Mutex, PoisonError};

use shoal_proto::wan::credit::{Credit, Habit, Terms};
use tokio::sync::{mpsc, watch};

/// How far ahead the readers of a node ask. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Habits(Arc<Mutex<Habit>>);

impl Habits {
    fn latest(&self) -> Habit {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, habit: Habit) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = habit;
    }
}

/// The credit of one lease. Everything that is read for the lease is taken from it.
pub struct LeaseCredit {
    state: Mutex<State>,
    /// The most that was confirmed.
    told: watch::Receiver<u64>,
    /// Asks for more; none where nobody can be asked, and what came is all there is.
    ask: Option<mpsc::Sender<u64>>,
    habits: Habits,
}

struct State {
    credit: Credit,
    taken_bytes: u64,
}

impl LeaseCredit {
    /// For a lease of so many bytes, on `terms` until more is `told`, which `ask` asks for.
    pub fn new(
        terms: Terms,
        lease_bytes: u64,
        told: watch::Receiver<u64>,
        ask: mpsc::Sender<u64>,
        habits: Habits,
    ) -> Self {
        let state = Mutex::new(State { credit: Credit::new(terms, lease_bytes, habits.latest()), taken_bytes: 0 });
        Self { state, told, ask: Some(ask), habits }
    }

    /// Credit for all.
    pub fn unlimited() -> Self {
        let credit = Credit::new(Terms::UNLIMITED, u64::MAX, Habit::default());
        let (state, told) = (Mutex::new(State { credit, taken_bytes: 0 }), watch::channel(u64::MAX).1);
        Self { state, told, ask: None, habits: Habits::default() }
    }

    /// Waits until more may be read.
    pub async fn ready(&self) {
        self.take_up_to(0, 1).await;
    }

    /// Takes `bytes`, which were read or are about to be, and waits until they may be. Cancelled, they are taken all the same.
    pub async fn take(&self, bytes: u64) {
        self.take_up_to(bytes, 0).await;
    }

    /// Takes `bytes` and waits until `more` than that may be read.
    async fn take_up_to(&self, bytes: u64, more: u64) {
        let (wanted, ask) = {
            let mut state = self.state.lock().expect("no panic while held");
            state.credit.confirm(*self.told.borrow());
            state.taken_bytes = state.taken_bytes.saturating_add(bytes);
            let taken = state.taken_bytes;
            let asked = state.credit.ask(taken, more);
            self.habits.learn(state.credit.habit());
            (taken.saturating_add(more), asked)
        };
        if let (Some(bytes), Some(asks)) = (ask, &self.ask) {
            // Its receiver is gone only when the process ends, and so is who tells.
            let _ = asks.send(bytes).await;
        }
        let _ = self.told.clone().wait_for(|confirmed| *confirmed >= wanted).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const TERMS: Terms = Terms { first_bytes: 100, step_bytes: 100, step_max_bytes: 100 };

    async fn waits(take: impl Future<Output = ()>) -> bool {
        timeout(Duration::from_millis(20), take).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_goes_as_far_as_was_confirmed() {
        let (told, heard) = watch::channel(TERMS.first_bytes);
        let (ask, mut asked) = mpsc::channel(8);
        let credit = LeaseCredit::new(TERMS, 1000, heard, ask, Habits::default());
        assert!(!waits(credit.take(40)).await);
        assert!(asked.try_recv().is_err(), "most of the first step is left");
        assert!(!waits(credit.take(40)).await);
        assert_eq!(asked.try_recv(), Ok(200), "before it is read");
        assert!(waits(credit.take(40)).await, "120 bytes of 100");
        told.send_replace(200);
        assert!(!waits(credit.take(80)).await);
        assert!(waits(credit.ready()).await, "200 bytes were read");
        told.send_replace(u64::MAX);
        assert!(!waits(credit.take(1 << 40)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_waits_goes_on_when_it_is_told() {
        let (told, heard) = watch::channel(0);
        let (ask, mut asked) = mpsc::channel(8);
        let credit = LeaseCredit::new(Terms { first_bytes: 0, ..TERMS }, 1000, heard, ask, Habits::default());
        let (_, ()) = tokio::join!(
            async {
                let bytes = asked.recv().await.unwrap();
                assert_eq!(bytes, 150, "50 bytes and a step");
                told.send_replace(bytes);
            },
            credit.take(50),
        );
        let (_told, heard) = watch::channel(0);
        let (ask, mut asked) = mpsc::channel(8);
        let waiting = LeaseCredit::new(Terms { first_bytes: 0, ..TERMS }, 1000, heard, ask, Habits::default());
        assert!(waits(waiting.ready()).await, "it waits behind another lease");
        assert_eq!(asked.try_recv(), Ok(100));
        assert!(!waits(LeaseCredit::unlimited().take(u64::MAX)).await);
    }
}
