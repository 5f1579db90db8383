//! What feeds and clouds lend for a while: kept in memory until shortly before it ends, or until somebody was refused with it.
//! Never written anywhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_proto::id::Name;
use shoal_proto::limits::FEED_TOKENS_MAX;

/// What was lent, by what it is for.
pub(super) struct Lent<T>(Mutex<BTreeMap<String, (T, Instant)>>);

/// The values of `Authorization`, or signed URLs, of all feeds; none where nothing is wanted.
#[derive(Debug, Default)]
pub(super) struct Tokens(Lent<Option<String>>);

impl<T> Default for Lent<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> std::fmt::Debug for Lent<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} lent", self.all().len())
    }
}

impl<T> Lent<T> {
    /// Keeps what is good for `life`, of which the last part is not used: who is given it has some time to read.
    pub(super) fn keep(&self, key: &str, lent: T, life: Duration) {
        let until = Instant::now() + life - (life / 2).min(Duration::from_secs(60));
        let mut all = self.all();
        if all.len() >= FEED_TOKENS_MAX {
            let now = Instant::now();
            all.retain(|_, (_, until)| now < *until);
        }
        if all.len() >= FEED_TOKENS_MAX {
            all.pop_first();
        }
        all.insert(key.to_owned(), (lent, until));
    }

    /// Forgets all whose key begins so.
    pub(super) fn forget(&self, start: &str) {
        self.all().retain(|key, _| !key.starts_with(start));
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, (T, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Lent<T> {
    /// What was lent, if it is still good.
    pub(super) fn find(&self, key: &str) -> Option<T> {
        let all = self.all();
        let (lent, until) = all.get(key)?;
        (Instant::now() < *until).then(|| lent.clone())
    }
}

impl Tokens {
    /// What to send, if that is known; `Some(None)` for nothing.
    pub(super) fn find(&self, feed: &Name, scope: &str) -> Option<Option<String>> {
        self.0.find(&key(feed, scope))
    }

    pub(super) fn keep(&self, feed: &Name, scope: &str, authorization: Option<String>, life: Duration) {
        self.0.keep(&key(feed, scope), authorization, life);
    }

    /// Forgets those of a feed: somebody was refused with one.
    pub(super) fn forget(&self, feed: &Name) {
        self.0.forget(&key(feed, ""));
    }
}

/// A feed, and there a scope such as a repository. Names have no blanks.
fn key(feed: &Name, scope: &str) -> String {
    format!("{feed} {scope}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_given_until_shortly_before_their_end_and_never_after_a_refusal() {
        let (tokens, feed) = (Tokens::default(), Name::new("oci").unwrap());
        let token = Some("Bearer x".to_owned());
        tokens.keep(&feed, "web", token.clone(), Duration::from_secs(300));
        tokens.keep(&feed, "open", None, Duration::from_secs(300));
        tokens.keep(&feed, "short", token.clone(), Duration::ZERO);
        assert_eq!(tokens.find(&feed, "web"), Some(token));
        assert_eq!(tokens.find(&feed, "open"), Some(None), "it is known that nothing is wanted");
        assert_eq!((tokens.find(&feed, "short"), tokens.find(&feed, "api")), (None, None));
        assert!(!format!("{tokens:?}").contains('x'));
        tokens.forget(&Name::new("other").unwrap());
        assert!(tokens.find(&feed, "web").is_some());
        tokens.forget(&feed);
        assert_eq!(tokens.find(&feed, "web"), None);
    }

    #[test]
    fn their_number_is_bounded() {
        let (tokens, feed) = (Tokens::default(), Name::new("oci").unwrap());
        for number in 0..FEED_TOKENS_MAX + 10 {
            tokens.keep(&feed, &number.to_string(), None, Duration::from_secs(300));
        }
        assert_eq!(tokens.0.all().len(), FEED_TOKENS_MAX);
        assert!(tokens.find(&feed, &(FEED_TOKENS_MAX + 9).to_string()).is_some());
    }
}
