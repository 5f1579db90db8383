//! Times of day as operators write them and read them, in a time zone.
//!
//! A time without a zone of its own is on the clocks of whoever it is for: of the coordinator, or of a site. Where clocks
//! that go back show a time twice, the first that is to come is meant; one that they skip is as long after the last that
//! they do show. What is shown carries its offset, so that nobody has to guess.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use shoal_proto::rollout::units::parse_duration;
use shoal_proto::time::WallTime;
use shoal_proto::wan::calendar;

/// What is said of a text that is no time.
const EXAMPLES: &str =
    "`22:00`, `2026-11-28 22:00`, `2026-11-28 22:00 Europe/Oslo`, `2026-11-28T22:00:00+01:00` or `in 2h`";

/// The time that `text` means when it is `now`: a point in time as RFC 3339; a date and time, or the next time that clocks
/// show `18:00`, in the zone that the text names or else in `zone`; or `in` so long.
///
/// # Errors
/// Text that is none of these, or that no clock shows.
pub fn parse(text: &str, zone: &TimeZone, now: WallTime) -> Result<WallTime, String> {
    let wrong = || format!("`{text}` is no time: write for instance {EXAMPLES}");
    let text = text.trim();
    if let Some(span) = text.strip_prefix("in ") {
        return Ok(now + parse_duration(span).map_err(|error| error.to_string())?);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(wall(at));
    }
    let (text, zone) = with_zone(text, zone)?;
    if let Ok(minute) = calendar::minute(text) {
        return next(minute, &zone, now).ok_or_else(wrong);
    }
    let shown: DateTime = text.parse().map_err(|_| wrong())?;
    moment(shown, &zone).ok_or_else(wrong)
}

/// The same, or a span after `from`.
///
/// # Errors
/// As [`parse`].
pub fn parse_or_after(text: &str, zone: &TimeZone, now: WallTime, from: WallTime) -> Result<WallTime, String> {
    match parse_duration(text) {
        Ok(span) => Ok(from + span),
        Err(_) => parse(text, zone, now),
    }
}

/// When clocks of `zone` show `shown`; none beyond the years that there are.
pub fn moment(shown: DateTime, zone: &TimeZone) -> Option<WallTime> {
    Some(wall(zone.to_ambiguous_zoned_datetime(shown).compatible().ok()?.timestamp()))
}

/// What clocks of `zone` show at `at`; the last moment that there is where that is beyond it.
pub fn shown(at: WallTime, zone: &TimeZone) -> DateTime {
    timestamp(at).to_zoned_datetime(zone.clone()).datetime()
}

/// `Sat 2026-11-28 22:00 +01:00`: with the offset, so that it is one moment wherever it is read.
pub fn show(at: WallTime, zone: &TimeZone) -> String {
    timestamp(at).to_zoned_datetime(zone.clone()).strftime("%a %Y-%m-%d %H:%M %:z").to_string()
}

/// A text's zone behind a space, if it has one, and what stands before it.
fn with_zone<'a>(text: &'a str, zone: &TimeZone) -> Result<(&'a str, TimeZone), String> {
    match text.rsplit_once(' ') {
        Some((rest, name)) if name.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            let zone = TimeZone::get(name)
                .map_err(|_| format!("`{name}` in `{text}` is no time zone: write for instance `Europe/Oslo`"))?;
            Ok((rest.trim_end(), zone))
        }
        _ => Ok((text, zone.clone())),
    }
}

/// The next time that clocks of `zone` show so many minutes after midnight.
fn next(minute: u16, zone: &TimeZone, now: WallTime) -> Option<WallTime> {
    let today = shown(now, zone).date();
    for day in 0..=1 {
        let midnight = today.checked_add(day.days()).ok()?.to_datetime(Time::midnight());
        let meant = zone.to_ambiguous_zoned_datetime(midnight.checked_add(i64::from(minute).minutes()).ok()?);
        for at in [meant.clone().compatible(), meant.later()] {
            let at = wall(at.ok()?.timestamp());
            if at > now {
                return Some(at);
            }
        }
    }
    None
}

fn wall(at: Timestamp) -> WallTime {
    WallTime(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

fn timestamp(at: WallTime) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(at.0).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(utc: &str) -> WallTime {
        wall(utc.parse().unwrap())
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    #[test]
    fn times_are_on_the_clocks_of_the_zone() {
        let sydney = zone("Australia/Sydney");
        let cases = [
            ("18:00", "2026-11-26T06:59:00Z", "2026-11-26T07:00:00Z"),
            ("18:00", "2026-11-26T07:00:00Z", "2026-11-27T07:00:00Z"),
            ("24:00", "2026-11-26T06:59:00Z", "2026-11-26T13:00:00Z"),
            // Clocks go forward in this night: the day has 23 hours.
            ("18:00", "2026-10-03T09:00:00Z", "2026-10-04T07:00:00Z"),
            // At 03:00 they go back to 02:00: half past two comes twice, and then only on the day after.
            ("02:30", "2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z"),
            ("02:30", "2026-04-04T15:30:00Z", "2026-04-04T16:30:00Z"),
            ("02:30", "2026-04-04T16:30:00Z", "2026-04-05T16:30:00Z"),
            // At 02:00 they go on to 03:00: half past two never comes.
            ("02:30", "2026-10-03T15:59:00Z", "2026-10-03T16:30:00Z"),
            ("18:00 Europe/Oslo", "2026-11-26T06:00:00Z", "2026-11-26T17:00:00Z"),
            ("2026-11-28 22:00", "2026-11-26T06:00:00Z", "2026-11-28T11:00:00Z"),
            ("2026-11-28T22:00:30", "2026-11-26T06:00:00Z", "2026-11-28T11:00:30Z"),
            ("2026-11-28 22:00 Europe/Oslo", "2026-11-26T06:00:00Z", "2026-11-28T21:00:00Z"),
            ("2026-11-28", "2026-11-26T06:00:00Z", "2026-11-27T13:00:00Z"),
            ("2026-11-26T18:00:00+11:00", "2026-11-26T06:00:00Z", "2026-11-26T07:00:00Z"),
            ("in 1h 30m", "2026-11-26T06:00:00Z", "2026-11-26T07:30:00Z"),
        ];
        for (text, now, wanted) in cases {
            assert_eq!(parse(text, &sydney, at(now)), Ok(at(wanted)), "{text} at {now}");
        }
        let spans = [("8h", "2026-11-27T06:00:00Z"), ("in 8h", "2026-11-26T14:00:00Z")];
        for (text, wanted) in spans {
            let (now, from) = (at("2026-11-26T06:00:00Z"), at("2026-11-26T22:00:00Z"));
            assert_eq!(parse_or_after(text, &sydney, now, from), Ok(at(wanted)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_what_could_be() {
        for text in ["soon", "", "25:00", "2026-13-01 10:00", "2026-02-30", "in a while", "22:00 Oslo", "1320"] {
            let error = parse(text, &TimeZone::UTC, WallTime(0)).unwrap_err();
            assert!(error.contains("for instance"), "{text}: {error}");
        }
    }

    #[test]
    fn a_time_is_shown_with_its_offset() {
        let late = at("2026-11-28T21:00:00Z");
        assert_eq!(show(late, &zone("Europe/Oslo")), "Sat 2026-11-28 22:00 +01:00");
        assert_eq!(show(late, &TimeZone::UTC), "Sat 2026-11-28 21:00 +00:00");
        assert!(show(WallTime(u64::MAX), &TimeZone::UTC).contains("9999"), "no year beyond");
    }
}
