//! The arithmetic of the release gate's quorum.
//!
//! Counts are of target nodes that are not excluded. A quorum is never nobody, so that a gate never opens on its own.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::manifest::Quorum;

/// Why a text is no quorum.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuorumError {
    /// Neither form.
    #[error("`{0}` is no quorum: write a share of the target nodes such as `95%`, or `all-2` for all but two")]
    Form(String),
    /// Not between 1 and 100 per cent.
    #[error("`{0}` is no quorum: a share is from `1%` to `100%`")]
    Share(String),
}

impl Quorum {
    /// How many of `nodes` nodes it takes: a share is rounded up, and at least one is always needed.
    pub fn needed(self, nodes: usize) -> usize {
        let needed = match self {
            Self::Percent(share) => nodes.saturating_mul(usize::from(share.min(100))).div_ceil(100),
            Self::AllBut(spared) => nodes.saturating_sub(usize::try_from(spared).unwrap_or(usize::MAX)),
        };
        needed.max(1)
    }

    /// Whether it takes every node.
    pub fn takes_all(self) -> bool {
        matches!(self, Self::Percent(100..) | Self::AllBut(0))
    }
}

impl FromStr for Quorum {
    type Err = QuorumError;

    fn from_str(text: &str) -> Result<Self, QuorumError> {
        let form = || QuorumError::Form(text.to_owned());
        if text == "all" {
            return Ok(Self::Percent(100));
        }
        if let Some(spared) = text.strip_prefix("all-") {
            return spared.trim().parse().map(Self::AllBut).map_err(|_| form());
        }
        let share = text.strip_suffix('%').ok_or_else(form)?.trim();
        let share: u32 = share.parse().map_err(|_| form())?;
        match u8::try_from(share) {
            Ok(share @ 1..=100) => Ok(Self::Percent(share)),
            _ => Err(QuorumError::Share(text.to_owned())),
        }
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(share) => write!(f, "{share}%"),
            Self::AllBut(spared) => write!(f, "all-{spared}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorum_of_1_2_3_and_200_nodes() {
        let table = [
            ("100%", [1, 2, 3, 200]),
            ("99%", [1, 2, 3, 198]),
            ("95%", [1, 2, 3, 190]),
            ("67%", [1, 2, 3, 134]),
            ("66%", [1, 2, 2, 132]),
            ("50%", [1, 1, 2, 100]),
            ("1%", [1, 1, 1, 2]),
            ("all", [1, 2, 3, 200]),
            ("all-0", [1, 2, 3, 200]),
            ("all-1", [1, 1, 2, 199]),
            ("all-2", [1, 1, 1, 198]),
            ("all-500", [1, 1, 1, 1]),
        ];
        for (text, needed) in table {
            let quorum: Quorum = text.parse().unwrap();
            assert_eq!([1, 2, 3, 200].map(|nodes| quorum.needed(nodes)), needed, "{text}");
        }
    }

    #[test]
    fn a_quorum_never_asks_for_more_than_there_is() {
        for nodes in 1..300 {
            for share in 1..=100 {
                let needed = Quorum::Percent(share).needed(nodes);
                assert!((1..=nodes).contains(&needed), "{share}% of {nodes}");
                assert!(needed * 100 >= nodes * usize::from(share), "{share}% of {nodes} is rounded up");
                assert!((needed - 1) * 100 < nodes * usize::from(share), "{share}% of {nodes} is the least");
            }
        }
    }

    #[test]
    fn bad_quorums_say_what_to_write() {
        for text in ["", "95", "0%", "101%", "300%", "-5%", "all-", "all-x", "all-two", "half", "9 5%", "all--1"] {
            let error = text.parse::<Quorum>().unwrap_err().to_string();
            assert!(error.contains('%') && error.starts_with(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn which_quorums_leave_no_straggler() {
        for (text, all) in [("100%", true), ("all-0", true), ("99%", false), ("all-1", false)] {
            assert_eq!(text.parse::<Quorum>().unwrap().takes_all(), all, "{text}");
        }
    }
}
