//! How fast a job is, and how long it takes. Nothing of that is stored: it is true for a moment only.

use failback_units::ByteCount;
use std::collections::VecDeque;
use std::time::Duration;

/// Over which time the rate is taken.
const WINDOW: Duration = Duration::from_secs(60);
/// How far samples are apart at least, so that there are few of them.
const APART: Duration = Duration::from_millis(500);

/// What was durable at which time, over the last minute.
///
/// Times are told by the caller, from any moment on, by a clock that nobody sets.
#[derive(Clone, Debug, Default)]
pub struct RateMeter {
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    durable: u64,
}

impl RateMeter {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// At the time `at`, `durable` bytes were. Where that is less than before, or earlier, it begins anew.
    pub fn record(&mut self, at: Duration, durable: ByteCount) {
        let sample = Sample { at, durable: durable.get() };
        if self.samples.back().is_some_and(|last| at < last.at || sample.durable < last.durable) {
            self.samples.clear();
        }
        if let [.., earlier, last] = self.samples.make_contiguous()
            && last.at.saturating_sub(earlier.at) < APART
        {
            self.samples.pop_back();
        }
        self.samples.push_back(sample);
        // The last one before the window says how much there was when it began.
        while self.samples.get(1).is_some_and(|second| second.at + WINDOW <= at) {
            self.samples.pop_front();
        }
    }

    /// Bytes per second over the minute before `now`, or since the first sample, if that is less; `None` where that is no time.
    #[must_use]
    pub fn rate(&self, now: Duration) -> Option<u64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let begin = now.saturating_sub(WINDOW).max(first.at);
        let millis = now.checked_sub(begin)?.as_millis();
        let bytes = u128::from(last.durable.checked_sub(self.durable_at(begin)?)?);
        u64::try_from((bytes * 1000).checked_div(millis)?).ok()
    }

    /// How much was durable at that time: between two samples, as if it had grown evenly.
    fn durable_at(&self, at: Duration) -> Option<u64> {
        let next = self.samples.partition_point(|sample| sample.at <= at);
        let earlier = self.samples.get(next.checked_sub(1)?)?;
        let Some(later) = self.samples.get(next) else { return Some(earlier.durable) };
        let grown = u128::from(later.durable - earlier.durable) * at.saturating_sub(earlier.at).as_millis();
        let grown = grown.checked_div(later.at.saturating_sub(earlier.at).as_millis()).unwrap_or(0);
        Some(earlier.durable + u64::try_from(grown).ok()?)
    }

    /// How long it takes from `now` on until `total` bytes are durable, at the rate of the last minute; `None` where nothing moves.
    #[must_use]
    pub fn eta(&self, now: Duration, total: ByteCount) -> Option<Duration> {
        let left = total.get().saturating_sub(self.samples.back()?.durable);
        if left == 0 {
            return Some(Duration::ZERO);
        }
        let rate = self.rate(now).filter(|rate| *rate > 0)?;
        Some(Duration::from_secs(left.div_ceil(rate)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn bytes(count: u64) -> ByteCount {
        ByteCount::new(count).unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A meter that has seen these.
    fn seen(samples: &[(u64, u64)]) -> RateMeter {
        let mut meter = RateMeter::new();
        for (second, durable) in samples {
            meter.record(at(*second), bytes(*durable));
        }
        meter
    }

    #[test]
    fn nothing_is_known_at_first() {
        let meter = RateMeter::new();
        assert_eq!((meter.rate(at(5)), meter.eta(at(5), bytes(1))), (None, None));
        let meter = seen(&[(5, 0)]);
        assert_eq!((meter.rate(at(5)), meter.rate(at(4))), (None, None), "no time has passed");
        assert_eq!(meter.rate(at(6)), Some(0));
        assert_eq!(meter.eta(at(6), bytes(1)), None, "nothing moves");
        assert_eq!(meter.eta(at(6), bytes(0)), Some(Duration::ZERO), "nothing is left");
    }

    #[test]
    fn what_was_there_before_counts_for_nothing() {
        let meter = seen(&[(100, 500 * MIB), (110, 510 * MIB)]);
        assert_eq!(meter.rate(at(110)), Some(MIB));
        assert_eq!(meter.eta(at(110), bytes(610 * MIB)), Some(at(100)));
        assert_eq!(meter.eta(at(110), bytes(610 * MIB + 1)), Some(at(101)), "not before it is there");
        assert_eq!(meter.eta(at(110), bytes(MIB)), Some(Duration::ZERO), "more than was thought");
    }

    #[test]
    fn it_is_the_last_minute_that_counts() {
        let meter = seen(&[(0, 0), (100, 100 * MIB), (160, 700 * MIB)]);
        assert_eq!(meter.rate(at(160)), Some(10 * MIB));
        // The minute before 130 lies between the samples in part: 30 s at 1 MiB/s, and what came later is known as well.
        let sparse = seen(&[(0, 0), (100, 100 * MIB)]);
        assert_eq!(sparse.rate(at(130)), Some(30 * MIB / 60));
    }

    #[test]
    fn what_stands_still_gets_slower_and_is_nothing_after_a_minute() {
        let meter = seen(&[(0, 0), (10, 60 * MIB)]);
        assert_eq!(meter.rate(at(10)), Some(6 * MIB));
        assert_eq!(meter.rate(at(60)), Some(MIB));
        assert_eq!(meter.rate(at(70)), Some(0));
        assert_eq!(meter.eta(at(70), bytes(61 * MIB)), None);
    }

    #[test]
    fn less_than_before_begins_anew() {
        for (second, durable) in [(20, 0), (5, 60 * MIB)] {
            let mut meter = seen(&[(0, 0), (10, 60 * MIB)]);
            meter.record(at(second), bytes(durable));
            meter.record(at(second + 1), bytes(durable + MIB));
            assert_eq!(meter.rate(at(second + 1)), Some(MIB), "{second}");
        }
    }

    proptest! {
        /// However often it is told, it keeps few samples, and at an even speed it tells that one.
        #[test]
        fn few_samples_tell_an_even_speed(steps in prop::collection::vec(1_u64..400, 2..2000)) {
            let mut meter = RateMeter::new();
            let mut millis = 0;
            for step in steps {
                millis += step;
                meter.record(Duration::from_millis(millis), bytes(millis * 1000));
                prop_assert!(meter.samples.len() <= 124, "{}", meter.samples.len());
            }
            prop_assert_eq!(meter.rate(Duration::from_millis(millis)), Some(1_000_000));
        }

        /// No numbers make it panic.
        #[test]
        fn no_numbers_are_too_large(samples in prop::collection::vec((any::<u64>(), 0..i64::MAX.unsigned_abs()), 0..8), now: u64, total in 0..i64::MAX.unsigned_abs()) {
            let mut meter = RateMeter::new();
            for (millis, durable) in samples {
                meter.record(Duration::from_millis(millis), bytes(durable));
            }
            let now = Duration::from_millis(now);
            prop_assert_eq!(meter.rate(now).is_none() && meter.eta(now, bytes(total)).is_some_and(|eta| !eta.is_zero()), false);
        }
    }
}
