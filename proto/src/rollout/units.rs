//! Durations, sizes and rates as people write them: numbers with units.
//!
//! A number without a unit is refused, so that nobody has to guess. Decimal units (kB, MB) are powers of 1000, binary
//! ones (KiB, MiB) of 1024, as in IEC 80000-13; `bit` and `b` are bits, `B` is bytes. Used by deployment files and by the
//! configuration of the daemons; the `deserialize_*` functions are for `#[serde(deserialize_with)]`.

use std::fmt;
use std::time::Duration;

use serde::{Deserializer, de};
use thiserror::Error;

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnitError {
    /// A number alone.
    #[error("`{text}` has no unit: write for instance `{example}`")]
    NoUnit {
        /// What was written.
        text: String,
        /// What could be.
        example: String,
    },
    /// A unit that is none of these.
    #[error("`{unit}` in `{text}` is no unit of {quantity}: {units} are")]
    UnknownUnit {
        /// What was written.
        text: String,
        /// Its unit.
        unit: String,
        /// What is measured.
        quantity: &'static str,
        /// The units there are.
        units: &'static str,
    },
    /// Not a number and a unit at all.
    #[error("`{text}` is no {quantity}: write for instance `{example}`")]
    Malformed {
        /// What was written.
        text: String,
        /// What is wanted.
        quantity: &'static str,
        /// What could be.
        example: &'static str,
    },
    /// Beyond what can be counted.
    #[error("`{text}` is too large for a {quantity}")]
    TooLarge {
        /// What was written.
        text: String,
        /// What is wanted.
        quantity: &'static str,
    },
}

/// One kind of quantity: its units, each with how many of the smallest it has.
struct Quantity {
    name: &'static str,
    example: &'static str,
    units: &'static str,
    scale: fn(&str) -> Option<u64>,
}

const DURATION: Quantity = Quantity {
    name: "duration",
    example: "90s",
    units: "ms, s, m, h and d",
    scale: |unit| match unit {
        "ms" => Some(1_000_000),
        "s" | "sec" => Some(1_000_000_000),
        "m" | "min" => Some(60_000_000_000),
        "h" => Some(3_600_000_000_000),
        "d" => Some(86_400_000_000_000),
        _ => None,
    },
};

const SIZE: Quantity = Quantity {
    name: "size",
    example: "20 GiB",
    units: "B, kB, MB, GB, TB, KiB, MiB, GiB and TiB",
    scale: |unit| match unit.strip_suffix('B') {
        Some("") => Some(1),
        Some(prefix) => multiple(prefix),
        None => None,
    },
};

/// Its smallest is the bit per second: that of a byte is 8.
const RATE: Quantity = Quantity {
    name: "rate",
    example: "50 Mbit/s",
    units: "kbit/s, Mbit/s, Gbit/s, kB/s, MB/s, GB/s, KiB/s, MiB/s and GiB/s",
    scale: |unit| {
        let (unit, per_second) = match unit.strip_suffix("/s").or_else(|| unit.strip_suffix("ps")) {
            Some(unit) => (unit, true),
            None => (unit, false),
        };
        // `50mbit` is how traffic shapers write it; bytes without `/s` would be a size.
        match (unit.strip_suffix("bit"), unit.strip_suffix('B'), unit.strip_suffix('b')) {
            (Some(prefix), ..) => multiple_or_one(prefix),
            (_, Some(prefix), _) if per_second => multiple_or_one(prefix)?.checked_mul(8),
            (_, _, Some(prefix)) if per_second => multiple_or_one(prefix),
            _ => None,
        }
    },
};

fn multiple_or_one(prefix: &str) -> Option<u64> {
    if prefix.is_empty() { Some(1) } else { multiple(prefix) }
}

/// Capitals do not matter here: nobody means milli.
fn multiple(prefix: &str) -> Option<u64> {
    match prefix {
        "k" | "K" => Some(1_000),
        "m" | "M" => Some(1_000_000),
        "g" | "G" => Some(1_000_000_000),
        "t" | "T" => Some(1_000_000_000_000),
        "Ki" | "ki" => Some(1 << 10),
        "Mi" | "mi" => Some(1 << 20),
        "Gi" | "gi" => Some(1 << 30),
        "Ti" | "ti" => Some(1 << 40),
        _ => None,
    }
}

/// The duration that `text` says: `10m`, `1m 30s`, `250ms`, `1.5h`.
///
/// # Errors
/// Every [`UnitError`].
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let malformed = || DURATION.malformed(text);
    let mut rest = text.trim();
    let mut sum: u64 = 0;
    if rest.is_empty() {
        return Err(malformed());
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let after = after.trim_start();
        let unit = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit);
        let part = DURATION.value(text, digits, unit)?;
        sum = sum.checked_add(part).ok_or_else(|| DURATION.too_large(text))?;
        rest = next.trim_start();
    }
    Ok(Duration::from_nanos(sum))
}

/// The size in bytes that `text` says: `20 GiB`, `1.5MB`, `512 B`.
///
/// # Errors
/// Every [`UnitError`].
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    SIZE.parse(text)
}

/// The rate in bytes per second that `text` says, rounded down: `50 Mbit/s`, `2MB/s`, `50mbit`.
///
/// # Errors
/// Every [`UnitError`]; a rate below one byte per second is [`UnitError::Malformed`].
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    match RATE.parse(text)? / 8 {
        0 => Err(RATE.malformed(text)),
        rate => Ok(rate),
    }
}

impl Quantity {
    fn parse(&self, text: &str) -> Result<u64, UnitError> {
        let trimmed = text.trim();
        let number = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (digits, unit) = trimmed.split_at(number);
        self.value(text, digits, unit.trim())
    }

    /// `digits` of `unit`, in the smallest unit. Exact: decimals are scaled as integers, and what is left is cut.
    fn value(&self, text: &str, digits: &str, unit: &str) -> Result<u64, UnitError> {
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
        if whole.is_empty() || !all_digits(decimals) || (digits.contains('.') && decimals.is_empty()) {
            return Err(self.malformed(text));
        }
        if unit.is_empty() {
            let example = format!("{digits}{}", self.example.trim_start_matches(|c: char| c.is_ascii_digit()));
            return Err(UnitError::NoUnit { text: text.to_owned(), example });
        }
        let scale = (self.scale)(unit).ok_or_else(|| UnitError::UnknownUnit {
            text: text.to_owned(),
            unit: unit.to_owned(),
            quantity: self.name,
            units: self.units,
        })?;
        let too_large = || self.too_large(text);
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let whole = whole.checked_mul(scale).ok_or_else(too_large)?;
        whole.checked_add(fraction(decimals, scale)).ok_or_else(too_large)
    }

    fn malformed(&self, text: &str) -> UnitError {
        UnitError::Malformed { text: text.to_owned(), quantity: self.name, example: self.example }
    }

    fn too_large(&self, text: &str) -> UnitError {
        UnitError::TooLarge { text: text.to_owned(), quantity: self.name }
    }
}

/// `0.<decimals>` of `scale`; decimals beyond the twelfth are below every smallest unit that matters.
fn fraction(decimals: &str, scale: u64) -> u64 {
    let digits = decimals.bytes().take(12).map(|digit| u128::from(digit - b'0'));
    let (value, power) = digits.fold((0u128, 1u128), |(value, power), digit| (value * 10 + digit, power * 10));
    u64::try_from(value * u128::from(scale) / power).unwrap_or(u64::MAX)
}

/// For `#[serde(deserialize_with)]`: a duration as [`parse_duration`] reads it.
///
/// # Errors
/// Those of [`parse_duration`], with the deserializer's position.
pub fn deserialize_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(Text { quantity: &DURATION, parse: parse_duration })
}

/// For `#[serde(default, deserialize_with)]`: like [`deserialize_duration`], for a key that may be missing.
///
/// # Errors
/// Those of [`parse_duration`].
pub fn deserialize_duration_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    deserialize_duration(deserializer).map(Some)
}

/// For `#[serde(deserialize_with)]`: a size in bytes as [`parse_size`] reads it.
///
/// # Errors
/// Those of [`parse_size`].
pub fn deserialize_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Text { quantity: &SIZE, parse: parse_size })
}

/// For `#[serde(default, deserialize_with)]`: like [`deserialize_size`], for a key that may be missing.
///
/// # Errors
/// Those of [`parse_size`].
pub fn deserialize_size_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    deserialize_size(deserializer).map(Some)
}

/// For `#[serde(deserialize_with)]`: a rate in bytes per second as [`parse_rate`] reads it.
///
/// # Errors
/// Those of [`parse_rate`].
pub fn deserialize_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Text { quantity: &RATE, parse: parse_rate })
}

/// For `#[serde(default, deserialize_with)]`: like [`deserialize_rate`], for a key that may be missing.
///
/// # Errors
/// Those of [`parse_rate`].
pub fn deserialize_rate_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    deserialize_rate(deserializer).map(Some)
}

/// Reads a quantity from a string, and refuses a bare number with the same words.
struct Text<T> {
    quantity: &'static Quantity,
    parse: fn(&str) -> Result<T, UnitError>,
}

impl<T> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} such as `{}`", self.quantity.name, self.quantity.example)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let table = [
            ("10m", 600_000),
            ("1m 30s", 90_000),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("1.5h", 5_400_000),
            ("2 h", 7_200_000),
            ("1d 2h", 93_600_000),
            (" 60s ", 60_000),
            ("0s", 0),
            ("0.25s", 250),
        ];
        for (text, millis) in table {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn sizes() {
        let table = [
            ("20 GiB", 20 << 30),
            ("1.5MB", 1_500_000),
            ("512 B", 512),
            ("0B", 0),
            ("3kB", 3_000),
            ("3KB", 3_000),
            ("3KiB", 3_072),
            ("0.5KiB", 512),
            ("2TiB", 2 << 40),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn rates() {
        let table = [
            ("50 Mbit/s", 6_250_000),
            ("50mbit", 6_250_000),
            ("50Mbps", 6_250_000),
            ("50Mb/s", 6_250_000),
            ("2MB/s", 2_000_000),
            ("2 MiB/s", 2 << 20),
            ("1Gbit/s", 125_000_000),
            ("800kbit/s", 100_000),
            ("9bit/s", 1),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn errors_name_the_text_and_what_to_write() {
        let duration = |text| parse_duration(text).unwrap_err().to_string();
        assert_eq!(duration("60"), "`60` has no unit: write for instance `60s`");
        assert_eq!(duration("5 weeks"), "`weeks` in `5 weeks` is no unit of duration: ms, s, m, h and d are");
        assert_eq!(duration(""), "`` is no duration: write for instance `90s`");
        assert_eq!(duration("999999999999d"), "`999999999999d` is too large for a duration");
        let size = |text| parse_size(text).unwrap_err().to_string();
        assert_eq!(size("20"), "`20` has no unit: write for instance `20 GiB`");
        assert!(size("20 Gbit").contains("`Gbit` in `20 Gbit` is no unit of size"));
        let rate = |text| parse_rate(text).unwrap_err().to_string();
        assert!(rate("2MB").contains("`MB` in `2MB` is no unit of rate"), "a size is no rate");
        assert_eq!(rate("1bit/s"), "`1bit/s` is no rate: write for instance `50 Mbit/s`");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["s", "-5s", "1..5s", "1.s", ".5s", "5s s", "1m 30", "1 m,", "五s", "1e3s", "5s5"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "B", "1 2 B", "-1B", "99999999999999999999B", "20000000TiB", "1m", "1 b"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["", "Mbit/s", "0Mbit/s", "-1Mbit/s", "1 Mbit/m", "1b", "1/s", "1"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
