//! How many bytes a second may be sent, by time of day.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

/// The minutes of a day.
const DAY: u16 = 24 * 60;
/// The lowest limit, in bytes a second: the longest message takes 4 s then, and questions about the tree wait behind it.
const LOWEST: u64 = 16 << 10;
const UNITS: [(char, u64); 3] = [('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30)];

/// A limit for each minute of the day.
///
/// As text it is one limit, such as `20M`, or limits for parts of the day that make up all of it, such as
/// `08:00-18:00=5M,18:00-08:00=unlimited`. A limit is in bytes a second, with K, M or G for powers of 1024; `off` and `unlimited` both
/// mean that there is none. Times are those of the machine's own time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From which minute of the day on which limit holds, in order; the last one holds until the first one does.
    parts: Vec<(u16, Option<NonZeroU64>)>,
}

/// A text that is no schedule: a sentence that says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

impl Schedule {
    /// The limit that holds at a time of day, in bytes a second; `None` where there is none.
    #[must_use]
    pub fn at(&self, time_of_day: Duration) -> Option<NonZeroU64> {
        let minute = time_of_day.as_secs() / 60 % u64::from(DAY);
        let part = self.parts.iter().rev().find(|(from, _)| u64::from(*from) <= minute).or(self.parts.last());
        part.and_then(|(_, limit)| *limit)
    }

    /// How long from a time of day on it is until another limit may hold: more than nothing, and at most a day.
    #[must_use]
    pub fn until_change(&self, time_of_day: Duration) -> Duration {
        let day = Duration::from_secs(u64::from(DAY) * 60);
        let starts = self.parts.iter().map(|(from, _)| Duration::from_secs(u64::from(*from) * 60));
        let waits = starts
            .map(|start| if start > time_of_day { start } else { start + day })
            .map(|end| end.saturating_sub(time_of_day));
        waits.min().unwrap_or(day)
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        if !text.contains('=') {
            return Ok(Self { parts: vec![(0, limit(text)?)] });
        }
        let mut parts = text.split(',').map(part).collect::<Result<Vec<_>, _>>()?;
        parts.sort_by_key(|part| part.from);
        // Behind the last part of a day comes the first one of the next.
        let starts = parts.iter().skip(1).map(|part| part.from).chain(parts.first().map(|part| part.from + DAY));
        for (part, start) in parts.iter().zip(starts) {
            let end = part.from + part.minutes;
            if end > start {
                return Err(ScheduleError(format!(
                    "two limits hold from {} on: let each part of the day begin where the one before ends",
                    Minute(start)
                )));
            }
            if end < start {
                let gap = format!("{}-{}", Minute(end), Minute(start));
                return Err(ScheduleError(format!(
                    "nothing is said of {gap}: add {gap}=unlimited, or the limit that holds then"
                )));
            }
        }
        Ok(Self { parts: parts.into_iter().map(|part| (part.from, part.limit)).collect() })
    }
}

struct Part {
    /// The first minute of the day, and how many there are: 1 to a whole day.
    from: u16,
    minutes: u16,
    limit: Option<NonZeroU64>,
}

fn part(text: &str) -> Result<Part, ScheduleError> {
    let unclear = || ScheduleError(format!("'{}' is unclear: write parts of the day like 08:00-18:00=5M", plain(text)));
    let (times, limit_text) = text.split_once('=').ok_or_else(unclear)?;
    let (from, to) = times.split_once('-').ok_or_else(unclear)?;
    let (from, to) = (minute(from).ok_or_else(unclear)?, minute(to).ok_or_else(unclear)?);
    if from >= DAY {
        return Err(unclear());
    }
    // 08:00-08:00 could be nothing or all of it.
    if from == to {
        return Err(ScheduleError(format!("'{}' is unclear: a whole day is 00:00-24:00", plain(text))));
    }
    let minutes = if to > from { to - from } else { to + DAY - from };
    Ok(Part { from, minutes, limit: limit(limit_text)? })
}

/// A time such as 08:00, in minutes since midnight; 24:00 is the end of the day.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        (text.len() == 2).then(|| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>()))
    };
    let (hours, minutes) = (number(hours)??.ok()?, number(minutes)??.ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
}

fn limit(text: &str) -> Result<Option<NonZeroU64>, ScheduleError> {
    if text == "off" || text == "unlimited" {
        return Ok(None);
    }
    let unit = UNITS.into_iter().find(|(letter, _)| text.ends_with([*letter, letter.to_ascii_lowercase()]));
    let digits = if unit.is_some() { &text[..text.len() - 1] } else { text };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|_| is_number);
    let bytes = number.and_then(|number| number.checked_mul(unit.map_or(1, |(_, bytes)| bytes)));
    let Some(bytes) = bytes else {
        let text = plain(text);
        return Err(ScheduleError(format!("'{text}' is no limit: write bytes a second like 20M, or unlimited")));
    };
    if bytes < LOWEST {
        return Err(ScheduleError(format!(
            "a limit of {} is too low to keep a connection: give at least 16K a second, or stop the command instead",
            plain(text)
        )));
    }
    Ok(NonZeroU64::new(bytes))
}

/// What somebody wrote, as it may be printed.
fn plain(text: &str) -> String {
    text.chars().take(40).collect::<String>().escape_debug().to_string()
}

struct Minute(u16);

impl fmt::Display for Minute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minute = self.0 % DAY;
        write!(f, "{:02}:{:02}", minute / 60, minute % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(schedule: &str, time: &str) -> Option<u64> {
        let time = Duration::from_secs(u64::from(minute(time).unwrap()) * 60);
        schedule.parse::<Schedule>().unwrap().at(time).map(NonZeroU64::get)
    }

    #[test]
    fn limits_hold_at_their_times() {
        assert_eq!(
            (at("20M", "00:00"), at("20M", "23:59"), at("off", "12:00")),
            (Some(20 << 20), Some(20 << 20), None)
        );
        for office in ["08:00-18:00=5M,18:00-08:00=off", "18:00-08:00=unlimited,08:00-18:00=5m"] {
            let times = ["00:00", "07:59", "08:00", "17:59", "18:00", "23:59"];
            assert_eq!(times.map(|time| at(office, time).is_some()), [false, false, true, true, false, false]);
            assert_eq!(at(office, "12:00"), Some(5 << 20));
        }
        let three = "00:00-06:00=1G,06:00-20:30=64K,20:30-24:00=100000";
        assert_eq!(
            (at(three, "05:59"), at(three, "20:29"), at(three, "20:30")),
            (Some(1 << 30), Some(65536), Some(100_000))
        );
        assert_eq!(at("12:00-11:59=1M,11:59-12:00=2M", "11:59"), Some(2 << 20));
        assert_eq!(at("00:00-24:00=1M", "00:00"), Some(1 << 20));
    }

    #[test]
    fn the_next_change_is_known_to_the_nanosecond() {
        let office: Schedule = "08:00-18:00=5M,18:00-08:00=off".parse().unwrap();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let (office, always) = (|time| office.until_change(time), "1M".parse::<Schedule>().unwrap());
        assert_eq!((office(hours(0)), office(hours(8)), office(hours(20))), (hours(8), hours(10), hours(12)));
        assert_eq!(office(hours(8).saturating_sub(Duration::from_nanos(1))), Duration::from_nanos(1));
        assert_eq!(always.until_change(hours(0)), hours(24));
    }

    #[test]
    fn what_is_unclear_is_refused_with_a_sentence() {
        let refused =
            |text: &str| text.parse::<Schedule>().map(|schedule| format!("{schedule:?}")).unwrap_err().to_string();
        for (text, why) in [
            ("", "'' is no limit: write bytes a second"),
            ("fast", "'fast' is no limit"),
            ("+5M", "'+5M' is no limit"),
            ("5MB", "'5MB' is no limit"),
            ("99999999999999999999G", "is no limit"),
            ("18446744073709551615G", "is no limit"),
            ("0", "too low to keep a connection"),
            ("15K", "give at least 16K a second"),
            ("08:00-18:00=5M", "nothing is said of 18:00-08:00: add 18:00-08:00=unlimited"),
            ("08:00-12:00=5M,13:00-08:00=off", "nothing is said of 12:00-13:00"),
            ("08:00-18:00=5M,17:00-08:00=off", "two limits hold from 17:00 on"),
            ("08:00-18:00=5M,18:00-09:00=off", "two limits hold from 08:00 on"),
            ("08:00-18:00=5M,08:00-18:00=5M,18:00-08:00=off", "two limits hold"),
            ("00:00-24:00=5M,10:00-11:00=1M", "two limits hold"),
            ("08:00-08:00=5M", "a whole day is 00:00-24:00"),
            ("24:00-08:00=5M,08:00-24:00=1M", "is unclear"),
            ("8:00-18:00=5M,18:00-8:00=off", "is unclear"),
            ("08:60-18:00=5M,18:00-08:60=off", "is unclear"),
            ("08:00-25:00=5M", "is unclear"),
            ("08:00-18:00=5M,", "'' is unclear"),
            ("08:00-18:00=5M;18:00-08:00=off", "is no limit"),
            ("08:00=5M", "is unclear"),
            ("mon 08:00-18:00=5M", "is unclear"),
            ("a\x1b[2J=5M", "'a\\u{1b}[2J=5M' is unclear"),
        ] {
            let said = refused(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
