//! How values that have a text form stand in JSON: points in time as RFC 3339, ids as people write them (`d12`).

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shoal_proto::time::WallTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time of the coordinator's wall clock, to the millisecond; RFC 3339 in JSON and on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(WallTime);

impl Timestamp {
    /// This moment.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Milliseconds from `earlier` to this; zero if it is not after it.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.0.saturating_sub(earlier.0.0)
    }
}

impl From<WallTime> for Timestamp {
    fn from(time: WallTime) -> Self {
        Self(time)
    }
}

impl From<Timestamp> for WallTime {
    fn from(time: Timestamp) -> Self {
        time.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0.0) * 1_000_000;
        let text = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().and_then(|time| time.format(&Rfc3339).ok());
        f.pad(text.as_deref().unwrap_or("9999-12-31T23:59:59Z"))
    }
}

impl FromStr for Timestamp {
    type Err = time::error::Parse;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let nanos = OffsetDateTime::parse(text, &Rfc3339)?.unix_timestamp_nanos();
        Ok(Self(WallTime(u64::try_from(nanos / 1_000_000).unwrap_or(0))))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        as_text::deserialize(deserializer)
    }
}

/// For `#[serde(with = …)]`: a value by its `Display` and `FromStr`.
pub(super) mod as_text {
    use super::*;

    pub(in super::super) fn serialize<T: fmt::Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_come_back() {
        let time = Timestamp::from(WallTime(1_795_383_838_250));
        assert_eq!(time.to_string(), "2026-11-22T21:43:58.25Z");
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!("2026-11-22T22:43:58.25+01:00".parse(), Ok(time), "any offset is the same moment");
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn a_time_beyond_the_calendar_is_still_text() {
        let end = Timestamp::from(WallTime(u64::MAX));
        assert!(end.to_string().parse::<Timestamp>().is_ok());
    }
}
