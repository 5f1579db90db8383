//! Identities: hashes of content, keys of members, names that people choose, and the small numbers that index them.
//!
//! A hash type says what was hashed, so that a segment's hash cannot be passed where a package's id is wanted. Names are
//! checked when they are made ([`Name::new`]); decoding a message makes them the same way.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::limits::NAME_LEN_MAX;

/// Why a text is not the id it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdError {
    /// Not 64 hexadecimal digits.
    #[error("`{0}` is not an id: 64 hexadecimal digits are wanted")]
    NotHex(String),
    /// A name that is empty, too long, or has characters that would not survive a file name or a log line.
    #[error(
        "`{0}` is not a name: 1 to {NAME_LEN_MAX} letters, digits, `-`, `_` and `.` are wanted, starting with a letter or digit"
    )]
    NotName(String),
    /// Not a deployment id such as `d12`.
    #[error("`{0}` is not a deployment id: `d` and a number are wanted, such as `d12`")]
    NotDeployment(String),
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        // By bytes, as derived, but most differ in the first eight, which are one comparison: ids are keys of the
        // cores' tables.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                let head = |id: &Self| id.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                head(self).cmp(&head(other)).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The first eight hexadecimal digits, for logs.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}…)"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self).ok_or_else(|| IdError::NotHex(text.to_owned()))
            }
        }
    };
}

hash_id! {
    /// BLAKE3-256 of a package's bytes.
    PackageId
}
hash_id! {
    /// BLAKE3-256 of a recipe's plain form.
    RecipeId
}
hash_id! {
    /// BLAKE3-256 of a segment's bytes.
    SegmentHash
}
hash_id! {
    /// A member of the mesh: its Ed25519 public key.
    NodeId
}
hash_id! {
    /// BLAKE3-256 of what the mesh trades: a package's bytes or a recipe's plain form.
    ContentId
}
hash_id! {
    /// What a deployment would do, to which nodes: BLAKE3-256 of all that a plan settles.
    PlanHash
}
hash_id! {
    /// BLAKE3-256 of a deployment file's text.
    FileHash
}

hash_id! {
    /// BLAKE3-256 of what a deployment's variables come to.
    ValuesHash
}

impl FileHash {
    /// The hash of a file's text.
    pub fn of(text: &str) -> Self {
        Self(*blake3::hash(text.as_bytes()).as_bytes())
    }
}

impl SegmentHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl From<PackageId> for ContentId {
    fn from(id: PackageId) -> Self {
        Self(id.0)
    }
}

impl From<RecipeId> for ContentId {
    fn from(id: RecipeId) -> Self {
        Self(id.0)
    }
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(bytes)
}

macro_rules! index {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $int);

        impl $name {
            /// As an index into a slice.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index! {
    /// Position of a block in its content, from 0.
    BlockIndex, u32
}
index! {
    /// Position of a step in its deployment's `steps`, from 0.
    StepIndex, u16
}
index! {
    /// Position of a package in its deployment's manifest, from 0.
    PackageIndex, u16
}
index! {
    /// Position of a target node among its deployment's target nodes, sorted, from 0.
    TargetIndex, u16
}
index! {
    /// Position of a wave in its deployment, from 0.
    WaveIndex, u16
}
index! {
    /// Position of a lane among those of all waves of its deployment, from 0.
    LaneIndex, u16
}

/// A deployment's number, counted by its coordinator from 1; people read and write it as `d12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeploymentId(pub u64);

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}", self.0)
    }
}

impl FromStr for DeploymentId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let number = text.strip_prefix('d').and_then(|digits| digits.parse().ok());
        number.map(Self).ok_or_else(|| IdError::NotDeployment(text.to_owned()))
    }
}

/// A lease's number: unique for one run of the coordinator that granted it (see [`Epoch`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

impl LeaseId {
    /// Set in the numbers of leases that deputies grant themselves; runs of a coordinator never come that far.
    const OWN: u64 = 1 << 63;

    /// The first number of a deputy's process; `random` tells it from every other process of the site.
    pub fn first_own(random: u64) -> Self {
        Self(Self::OWN | random << 32)
    }

    /// Whether a deputy granted it to itself while the coordinator was away.
    pub fn is_own(self) -> bool {
        self.0 & Self::OWN != 0
    }

    /// The run of the coordinator that granted it, unless it is a deputy's own.
    pub fn epoch(self) -> Option<Epoch> {
        (!self.is_own()).then_some(Epoch(self.0 >> 32))
    }
}

/// Which run of the coordinator said something: grows with each start, so that answers to an earlier run are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// A version of what a node is to do for a deployment; grows with every change, and a node refuses an older one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u32);

impl Generation {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A name that a person chose for a site, node, feed, package, step or release: 1 to 128 letters, digits, `-`, `_`, `.`,
/// the first a letter or digit. Safe as a file name and in a log line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`IdError::NotName`] if it is empty, too long or has other characters.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts_well && text.len() <= NAME_LEN_MAX && text.chars().all(allowed) {
            Ok(Self(text))
        } else {
            Err(IdError::NotName(text.chars().take(NAME_LEN_MAX).collect()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Name {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_text_round_trips_and_bad_text_is_named() {
        let id = PackageId([0xaf; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("xyz".parse::<PackageId>(), Err(IdError::NotHex("xyz".into())));
        assert!("é".repeat(32).parse::<PackageId>().is_err(), "64 bytes, but not digits");
    }

    #[test]
    fn ids_are_in_the_order_of_their_bytes() {
        let id = |at: usize, byte| {
            let mut bytes = [0x80; 32];
            bytes[at] = byte;
            NodeId(bytes)
        };
        for at in [0, 1, 7, 8, 31] {
            assert!(id(at, 0x01) < id(at, 0xfe), "byte {at}");
        }
        assert!(id(0, 0x81) > id(31, 0xff) && id(7, 0x81) > id(8, 0xff), "the first that differs decides");
        assert_eq!(id(3, 9).cmp(&id(3, 9)), Ordering::Equal);
    }

    #[test]
    fn names_are_safe_as_file_names() {
        for good in ["web", "Acme.Web", "2026.11.3", "a_b-c"] {
            assert_eq!(Name::new(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "a\n", "-x", &"x".repeat(129)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn deployment_ids_read_as_people_write_them() {
        assert_eq!("d12".parse(), Ok(DeploymentId(12)));
        assert!("12".parse::<DeploymentId>().is_err());
    }
}
