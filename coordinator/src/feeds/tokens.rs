//! Tokens that feeds lend for a while: kept in memory until shortly before they end, or until somebody was refused with
//! one. Never written anywhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_proto::id::Name;
use shoal_proto::limits::FEED_TOKENS_MAX;

/// What a token is for: a feed, and there a scope such as a repository.
type Key = (Name, String);

/// The tokens of all feeds.
#[derive(Default)]
pub(super) struct Tokens(Mutex<BTreeMap<Key, Token>>);

struct Token {
    /// The value of `Authorization`; none where nothing is wanted.
    authorization: Option<String>,
    until: Instant,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.all().len())
    }
}

impl Tokens {
    /// What to send, if that is known; `Some(None)` for nothing.
    pub(super) fn find(&self, feed: &Name, scope: &str) -> Option<Option<String>> {
        let all = self.all();
        let token = all.get(&(feed.clone(), scope.to_owned()))?;
        (Instant::now() < token.until).then(|| token.authorization.clone())
    }

    /// Keeps what is good for `life`, of which the last part is not used: who is given it has some time to read.
    pub(super) fn keep(&self, feed: &Name, scope: &str, authorization: Option<String>, life: Duration) {
        let until = Instant::now() + life - (life / 2).min(Duration::from_secs(60));
        let mut all = self.all();
        if all.len() >= FEED_TOKENS_MAX {
            let now = Instant::now();
            all.retain(|_, token| now < token.until);
        }
        if all.len() >= FEED_TOKENS_MAX {
            all.pop_first();
        }
        all.insert((feed.clone(), scope.to_owned()), Token { authorization, until });
    }

    /// Forgets those of a feed: somebody was refused with one.
    pub(super) fn forget(&self, feed: &Name) {
        self.all().retain(|(of, _), _| of != feed);
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Key, Token>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        assert_eq!(tokens.all().len(), FEED_TOKENS_MAX);
        assert!(tokens.find(&feed, &(FEED_TOKENS_MAX + 9).to_string()).is_some());
    }
}
