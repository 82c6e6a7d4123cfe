//! What time it is, for what waits and measures; tests have clocks of their own.

use jiff::ZonedDateTime;
use std::thread;
use std::time::{Duration, Instant};

/// A clock.
pub trait Clock: Send + Sync {
    /// The time since some moment. It never goes back.
    fn now(&self) -> Duration;

    /// The time since midnight on the clocks of this place, less than 24 h.
    fn time_of_day(&self) -> Duration;

    /// Waits.
    fn sleep(&self, time: Duration);
}

/// The clock of this machine, in its time zone.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn time_of_day(&self) -> Duration {
        // The zone is looked up each time: summer may begin meanwhile.
        let time = ZonedDateTime::now().time();
        let part = |number: i8, seconds: u64| u64::from(number.unsigned_abs()) * seconds;
        Duration::from_secs(part(time.hour(), 3600) + part(time.minute(), 60) + part(time.second(), 1))
            + Duration::from_nanos(time.subsec_nanosecond().unsigned_abs().into())
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }
}

/// A clock that moves when somebody waits, and when it is moved.
#[cfg(test)]
pub(crate) struct FakeClock {
    start: Duration,
    now: std::sync::Mutex<Duration>,
}

#[cfg(test)]
impl FakeClock {
    /// Begins at a time of day.
    pub(crate) fn at(start: Duration) -> Self {
        Self { start, now: std::sync::Mutex::default() }
    }
}

#[cfg(test)]
impl Clock for FakeClock {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }
    fn time_of_day(&self) -> Duration {
        let time = self.start + self.now();
        time.saturating_sub(Duration::from_secs(time.as_secs() / 86_400 * 86_400))
    }
    fn sleep(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_clock_goes_on_within_the_day() {
        let clock = SystemClock::default();
        let before = clock.now();
        clock.sleep(Duration::from_millis(2));
        assert!(clock.now() >= before + Duration::from_millis(2));
        assert!(clock.time_of_day() < Duration::from_secs(86_400));
    }
}
