//! Figures as people read them: bytes by powers of ten, times, ratios. How they are written is in `proto`.

use shoal_proto::limits::RATE_LIMIT_MIN;
use shoal_proto::rollout::units::{UnitError, parse_duration, parse_rate, parse_size};

use jiff::tz::TimeZone;

use crate::api::limits::TEXT_LEN_MAX;
use crate::api::types::Timestamp;
use crate::moment;

/// `51.5 MB`; powers of ten, as networks and feeds count.
pub fn bytes(bytes: u64) -> String {
    const STEPS: [(f64, &str, usize); 4] = [(1e3, "kB", 1), (1e6, "MB", 1), (1e9, "GB", 2), (1e12, "TB", 2)];
    // A figure that rounds up to 1000 of its unit is 1 of the next.
    let fits = |(scale, _, decimals): &(f64, &str, usize)| {
        bytes as f64 / scale < 1000.0 - 0.5 / 10f64.powi(i32::try_from(*decimals).unwrap_or(0))
    };
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (scale, unit, decimals) = STEPS.into_iter().find(fits).unwrap_or(STEPS[3]);
    format!("{:.decimals$} {unit}", bytes as f64 / scale)
}

/// `6.2 MB/s`.
pub fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// `850 ms`, `9.1 s`, `1m 52s`, `2h 05m` or `3d 04h`.
pub fn duration(ms: u64) -> String {
    let seconds = (ms + 500) / 1000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..59_950 => format!("{:.1} s", ms as f64 / 1000.0),
        _ if seconds < 3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ if seconds < 86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// `Sat 2026-11-28 22:00 +01:00`, on the clock of this machine.
pub fn local(time: Timestamp) -> String {
    moment::show(time.into(), &TimeZone::system())
}

/// `91 %`.
pub fn percent(ratio: f64) -> String {
    format!("{:.0} %", ratio * 100.0)
}

/// `0.13`; halves round up, as people do it.
pub fn ratio(ratio: f64) -> String {
    format!("{:.2}", (ratio * 100.0).round() / 100.0)
}

/// `1 node`, `8 nodes`.
pub fn count(number: u32, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Seconds of a join string's life.
///
/// # Errors
/// As [`parse_duration`].
pub fn parse_ttl_s(text: &str) -> Result<u64, UnitError> {
    parse_duration(text).map(|time| time.as_secs())
}

/// A site's WAN limit as an operator gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// What the calendar says.
    Default,
    /// No limit.
    None,
    /// Bytes per second.
    Rate(u64),
}

/// `2MB/s`, `none` or `default`.
pub fn parse_limit(text: &str) -> Result<Limit, String> {
    match text {
        "default" => Ok(Limit::Default),
        "none" => Ok(Limit::None),
        rate => match parse_rate(rate).map_err(|error| error.to_string())? {
            rate if rate < RATE_LIMIT_MIN => Err(format!("at least {RATE_LIMIT_MIN} B/s are wanted")),
            rate => Ok(Limit::Rate(rate)),
        },
    }
}

/// A line of text for the audit log.
///
/// # Errors
/// Text that is too long or no line.
pub fn parse_reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        text if text.len() > TEXT_LEN_MAX => Err(format!("it has over {TEXT_LEN_MAX} bytes")),
        text if text.chars().any(char::is_control) => Err("it is one line".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// `port=8080`.
///
/// # Errors
/// Text without `=`, or with nothing before it.
pub fn parse_variable(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "write NAME=VALUE".to_owned())
}

/// A size in bytes that is not 0.
///
/// # Errors
/// Text that is no size, or 0.
pub fn parse_positive_size(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(0) => Err("0 allows nothing".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_as_people_say_them() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (51_500_000, "51.5 MB"),
            (999_949_999, "999.9 MB"),
            (1_442_000_000, "1.44 GB"),
            (999_994_000_000, "999.99 GB"),
            (2_500_000_000_000_000, "2500.00 TB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn times_read_as_people_say_them() {
        let cases = [
            (0, "0 ms"),
            (999, "999 ms"),
            (9_100, "9.1 s"),
            (59_949, "59.9 s"),
            (59_950, "1m 00s"),
            (112_000, "1m 52s"),
            (3_599_600, "1h 00m"),
            (7_500_000, "2h 05m"),
            (273_600_000, "3d 04h"),
        ];
        for (ms, text) in cases {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn ratios_round_half_up() {
        assert_eq!([0.125, 0.0, 1.0049, 2.0].map(ratio), ["0.13", "0.00", "1.00", "2.00"]);
        assert_eq!([0.911, 1.0].map(percent), ["91 %", "100 %"]);
    }
}
