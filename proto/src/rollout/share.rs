//! The arithmetic of shares: how many nodes `3` or `25%` of some nodes are.
//!
//! What is to be had is rounded up (a window, a canary's `count`), what is let go is rounded down (`max_failures`): so a
//! percentage never stops too late. A failure budget is exceeded by strictly more failures than it has.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::manifest::Share;

/// Why a text is no share.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no number of nodes: write one such as `3`, or a share from `0%` to `100%`")]
pub struct ShareError(String);

impl Share {
    /// How many of `nodes` nodes it is at least: per cents are rounded up; never more than there are.
    pub fn rounded_up(self, nodes: usize) -> usize {
        self.of(nodes, usize::div_ceil)
    }

    /// How many of `nodes` nodes it is at most: per cents are rounded down; never more than there are.
    pub fn rounded_down(self, nodes: usize) -> usize {
        self.of(nodes, |a, b| a / b)
    }

    fn of(self, nodes: usize, divide: fn(usize, usize) -> usize) -> usize {
        match self {
            Self::Count(count) => usize::try_from(count).unwrap_or(usize::MAX).min(nodes),
            Self::Percent(share) => divide(nodes.saturating_mul(usize::from(share.min(100))), 100),
        }
    }

    /// Whether it is none of any nodes.
    pub fn is_none(self) -> bool {
        matches!(self, Self::Count(0) | Self::Percent(0))
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let wrong = || ShareError(text.to_owned());
        match text.strip_suffix('%') {
            None => text.parse().map(Self::Count).map_err(|_| wrong()),
            Some(share) => match share.trim().parse() {
                Ok(share @ 0..=100) => Ok(Self::Percent(share)),
                _ => Err(wrong()),
            },
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the manual.
    #[test]
    fn shares_of_1_2_3_and_200_nodes() {
        let table = [
            // share, of these nodes at least, at most
            ("0", [0, 0, 0, 0], [0, 0, 0, 0]),
            ("0%", [0, 0, 0, 0], [0, 0, 0, 0]),
            ("1", [1, 1, 1, 1], [1, 1, 1, 1]),
            ("1%", [1, 1, 1, 2], [0, 0, 0, 2]),
            ("2%", [1, 1, 1, 4], [0, 0, 0, 4]),
            ("25%", [1, 1, 1, 50], [0, 0, 0, 50]),
            ("34%", [1, 1, 2, 68], [0, 0, 1, 68]),
            ("50%", [1, 1, 2, 100], [0, 1, 1, 100]),
            ("99%", [1, 2, 3, 198], [0, 1, 2, 198]),
            ("100%", [1, 2, 3, 200], [1, 2, 3, 200]),
            ("3", [1, 2, 3, 3], [1, 2, 3, 3]),
        ];
        for (text, up, down) in table {
            let share: Share = text.parse().unwrap();
            assert_eq!([1, 2, 3, 200].map(|nodes| share.rounded_up(nodes)), up, "{text}");
            assert_eq!([1, 2, 3, 200].map(|nodes| share.rounded_down(nodes)), down, "{text}");
        }
    }

    #[test]
    fn rounding_is_exact_for_every_share() {
        for nodes in 1..300 {
            for share in 0..=100 {
                let (up, down) = (Share::Percent(share).rounded_up(nodes), Share::Percent(share).rounded_down(nodes));
                let exact = nodes * usize::from(share);
                assert!(down * 100 <= exact && exact < (down + 1) * 100, "{share}% of {nodes}");
                assert!(up == down || up == down + 1 && !exact.is_multiple_of(100), "{share}% of {nodes}");
            }
        }
    }

    #[test]
    fn bad_shares_say_what_to_write() {
        for text in ["", "-1", "101%", "300%", "-5%", "2.5%", "x", "%", "1 %%", "4294967296"] {
            let error = text.parse::<Share>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is no number of nodes: write one such as `3`")), "{error}");
        }
        assert_eq!("25 %".parse(), Ok(Share::Percent(25)));
        assert_eq!([Share::Count(3), Share::Percent(25)].map(|share| share.to_string()), ["3", "25%"]);
    }
}
