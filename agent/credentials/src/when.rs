//! A time for people.

use std::fmt;
use time::OffsetDateTime;

/// Seconds since 1970, shown as a date with the time of day.
pub(crate) struct When(pub(crate) i64);

impl fmt::Display for When {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match OffsetDateTime::from_unix_timestamp(self.0) {
            Ok(at) => {
                let (date, (hour, minute, second)) = (at.date(), at.to_hms());
                let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
                write!(out, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
            }
            Err(_) => write!(out, "{} seconds after 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_as_people_write_it() {
        assert_eq!(When(0).to_string(), "1970-01-01 00:00:00 UTC");
        assert_eq!(When(1_795_644_001).to_string(), "2026-11-25 22:00:01 UTC");
        assert_eq!(When(i64::MAX).to_string(), "9223372036854775807 seconds after 1970");
    }
}
