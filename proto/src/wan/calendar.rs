//! A site's WAN limit at a time of the week, as its clocks show it.
//!
//! An operator's [`Override`] goes over the calendar while it lasts; of the calendar, the first entry that matches; without
//! one, the base limit. Time zones are the shell's: it says what the site's clocks show ([`LocalTime`]), so that an hour
//! that the clocks skip or show twice is skipped or limited twice here too.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::time::WallTime;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;

/// What a site's clocks show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// Days after Monday, 0 to 6.
    pub weekday: u8,
    /// Minutes after midnight.
    pub minute: u16,
}

/// Days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(u8);

/// A time of the day on some days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    days: Days,
    from: u16,
    to: u16,
}

/// A time of the week with a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    hours: Hours,
    limit: Option<u64>,
}

/// A site's limits; by default none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    /// Bytes a second where no entry matches; none for no limit.
    pub base: Option<u64>,
    /// The first that matches counts.
    pub entries: Vec<Entry>,
}

/// What an operator set in place of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Bytes a second; none for no limit.
    pub limit: Option<u64>,
    /// Until when; none for ever.
    pub until: Option<WallTime>,
}

/// Why a limit is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No entry of the calendar matches.
    Base,
    /// This entry of the calendar, from 0.
    Entry(usize),
    /// An operator set it, until then.
    Override(Option<WallTime>),
}

/// Why an entry is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Not days.
    #[error("`{0}` are no days: write for instance `mon-fri`, `sat,sun` or `daily`")]
    Days(String),
    /// Not a time.
    #[error("`{0}` is no time of day: write for instance `08:00`; a day ends at `24:00`")]
    Time(String),
    /// From and to are the same.
    #[error("from `{0}` to `{0}` is no time: for whole days, write from `00:00` to `24:00`")]
    Empty(String),
}

impl Days {
    /// Parses `mon-fri`, `sat,sun`, `fri-mon` or `daily`.
    ///
    /// # Errors
    /// [`EntryError::Days`].
    pub fn parse(text: &str) -> Result<Self, EntryError> {
        let wrong = || EntryError::Days(text.to_owned());
        if text.trim() == "daily" {
            return Ok(Self(0x7f));
        }
        let day = |name: &str| DAYS.iter().position(|day| *day == name.trim()).ok_or_else(wrong);
        let mut days = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (mut at, last) = (day(first)?, day(last)?);
            days |= 1 << at;
            while at != last {
                at = (at + 1) % 7;
                days |= 1 << at;
            }
        }
        Ok(Self(days))
    }

    fn contains(self, weekday: u8) -> bool {
        self.0 >> (weekday % 7) & 1 == 1
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0x7f {
            return f.write_str("daily");
        }
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for day in (0..DAYS.len()).filter(|day| self.0 >> day & 1 == 1) {
            match parts.last_mut().filter(|(_, last)| last + 1 == day) {
                Some((_, last)) => *last = day,
                None => parts.push((day, day)),
            }
        }
        let part = |(first, last): &(usize, usize)| match first == last {
            true => DAYS[*first].to_owned(),
            false => format!("{}-{}", DAYS[*first], DAYS[*last]),
        };
        f.write_str(&parts.iter().map(part).collect::<Vec<_>>().join(","))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { days, from, to } = self;
        write!(f, "{days} {:02}:{:02} to {:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl Hours {
    /// On `days` from a time to a time of day, both as `08:00`. If `to` is not after `from`, it is of the day after.
    ///
    /// # Errors
    /// Every [`EntryError`].
    pub fn new(days: Days, from: &str, to: &str) -> Result<Self, EntryError> {
        let (begin, end) = (minute(from)?, minute(to)?);
        if begin == end || begin == DAY_MINUTES {
            return Err(EntryError::Empty(from.to_owned()));
        }
        Ok(Self { days, from: begin, to: end })
    }

    /// Whether clocks that show `at` show one of these hours.
    pub fn contains(&self, at: LocalTime) -> bool {
        let (today, yesterday) = (self.days.contains(at.weekday), self.days.contains(at.weekday + 6));
        match self.from < self.to {
            true => today && (self.from..self.to).contains(&at.minute),
            false => today && at.minute >= self.from || yesterday && at.minute < self.to,
        }
    }

    /// When they begin next, after clocks showed `at`: so many days later, at this minute of the day.
    pub fn next_begin(&self, at: LocalTime) -> (u8, u16) {
        let begins = |ahead: &u8| self.days.contains(at.weekday + ahead) && (*ahead > 0 || self.from > at.minute);
        ((0..=7).find(begins).unwrap_or(7), self.from)
    }
}

impl Entry {
    /// An entry for `days` from a time to a time of day, as [`Hours::new`].
    ///
    /// # Errors
    /// Every [`EntryError`].
    pub fn new(days: Days, from: &str, to: &str, limit: Option<u64>) -> Result<Self, EntryError> {
        Ok(Self { hours: Hours::new(days, from, to)?, limit })
    }
}

/// Minutes after midnight of `08:00`; `24:00` is the end of a day.
///
/// # Errors
/// [`EntryError::Time`].
pub fn minute(text: &str) -> Result<u16, EntryError> {
    let wrong = || EntryError::Time(text.to_owned());
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    let number = |part: &str, len: usize| match part.bytes().all(|b| b.is_ascii_digit()) && part.len() <= len {
        true => part.parse::<u16>().map_err(|_| wrong()),
        false => Err(wrong()),
    };
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    let minute = hours * 60 + minutes;
    if minutes < 60 && minute <= DAY_MINUTES { Ok(minute) } else { Err(wrong()) }
}

impl Calendar {
    /// The limit in bytes a second, and why, when the site's clocks show `local`.
    pub fn at(&self, local: LocalTime) -> (Option<u64>, Reason) {
        let found = self.entries.iter().enumerate().find(|(_, entry)| entry.hours.contains(local));
        found.map_or((self.base, Reason::Base), |(index, entry)| (entry.limit, Reason::Entry(index)))
    }

    /// The same, with what an operator set.
    pub fn with_override(&self, local: LocalTime, over: Option<Override>, now: WallTime) -> (Option<u64>, Reason) {
        match over.filter(|over| over.until.is_none_or(|until| now < until)) {
            Some(over) => (over.limit, Reason::Override(over.until)),
            None => self.at(local),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: &str, time: &str) -> LocalTime {
        let weekday = DAYS.iter().position(|name| *name == day).unwrap();
        LocalTime { weekday: u8::try_from(weekday).unwrap(), minute: minute(time).unwrap() }
    }

    fn entry(days: &str, from: &str, to: &str, limit: u64) -> Entry {
        Entry::new(Days::parse(days).unwrap(), from, to, Some(limit)).unwrap()
    }

    #[test]
    fn the_first_entry_that_matches_counts() {
        let entries = vec![
            entry("mon-fri", "08:00", "18:00", 1),
            entry("fri", "12:00", "24:00", 2),
            entry("sat,sun", "22:00", "06:00", 3),
        ];
        let calendar = Calendar { base: Some(9), entries };
        let cases = [
            ("mon", "07:59", 9),
            ("mon", "08:00", 1),
            ("mon", "17:59", 1),
            ("mon", "18:00", 9),
            ("fri", "13:00", 1),
            ("fri", "18:00", 2),
            ("fri", "23:59", 2),
            ("sat", "00:00", 9),
            ("sat", "23:00", 3),
            ("sun", "05:59", 3),
            ("sun", "06:00", 9),
            ("mon", "00:00", 3),
            ("mon", "05:59", 3),
            ("tue", "00:00", 9),
        ];
        for (day, time, limit) in cases {
            assert_eq!(calendar.at(at(day, time)).0, Some(limit), "{day} {time}");
        }
    }

    #[test]
    fn hours_begin_next_on_one_of_their_days() {
        let hours = |days: &str| Hours::new(Days::parse(days).unwrap(), "22:00", "05:00").unwrap();
        for (days, day, time, ahead) in [
            ("mon-fri", "mon", "21:59", 0),
            ("mon-fri", "mon", "22:00", 1),
            ("mon-fri", "fri", "23:00", 3),
            ("mon-fri", "sat", "05:00", 2),
            ("sun", "sun", "22:00", 7),
            ("sun", "sun", "00:00", 0),
            ("daily", "sun", "12:00", 0),
        ] {
            assert_eq!(hours(days).next_begin(at(day, time)), (ahead, 22 * 60), "{days} after {day} {time}");
        }
    }

    #[test]
    fn an_override_lasts_until_its_time() {
        let calendar = Calendar { base: Some(9), entries: Vec::new() };
        let over = |limit, until| Some(Override { limit, until });
        let limit = |over, now| calendar.with_override(at("mon", "10:00"), over, WallTime(now));
        assert_eq!(limit(over(Some(5), Some(WallTime(100))), 99), (Some(5), Reason::Override(Some(WallTime(100)))));
        assert_eq!(limit(over(Some(5), Some(WallTime(100))), 100), (Some(9), Reason::Base));
        assert_eq!(limit(over(None, None), 1_000), (None, Reason::Override(None)));
    }

    #[test]
    fn days_and_times_that_are_none_are_refused() {
        for text in ["", "mon-", "monday", "mon--fri", "mon;tue"] {
            assert_eq!(Days::parse(text), Err(EntryError::Days(text.to_owned())));
        }
        assert_eq!(Days::parse("fri-mon").unwrap(), Days::parse("sat, sun,mon,fri").unwrap());
        for text in ["8", "24:01", "12:60", "-1:00", "+8:00", "08:00:00", ""] {
            assert_eq!(minute(text), Err(EntryError::Time(text.to_owned())));
        }
        let daily = Days::parse("daily").unwrap();
        assert!(
            Entry::new(daily, "08:00", "08:00", None).is_err() && Entry::new(daily, "24:00", "01:00", None).is_err()
        );
        assert!(Entry::new(daily, "00:00", "24:00", None).is_ok());
    }
}
