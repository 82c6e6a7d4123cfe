//! Sending no faster than is allowed.

use crate::{Clock, Link, Schedule};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is written at once up to this length passes without waiting, and is paid for by what follows: questions, and that this side is
/// still there.
const SMALL: usize = 1 << 10;
/// What may be sent at once after a pause, as a part of a second's bytes.
const BURST: Duration = Duration::from_millis(100);
/// The longest wait between two looks at whether the connection is still there.
const TICK: Duration = Duration::from_millis(200);
const NANOS: i128 = 1_000_000_000;

/// Holds what is sent over one connection after the other to a [`Schedule`]; what comes back is not held up.
///
/// In any time no more is sent than the limits of that time allow, and a tenth of a second's bytes, and what was small.
#[derive(Clone)]
pub struct Throttle {
    clock: Arc<dyn Clock>,
    schedule: Arc<Schedule>,
    bucket: Arc<Mutex<Bucket>>,
}

struct Bucket {
    /// What may be sent at once, in bytes times [`NANOS`], so that no part of a byte is lost; less than 0 after small writes.
    tokens: i128,
    /// Up to when it has been filled.
    filled: Duration,
}

impl Throttle {
    /// Holds all that is sent through it to `schedule`.
    #[must_use]
    pub fn new(schedule: Schedule, clock: Arc<dyn Clock>) -> Self {
        let filled = clock.now();
        Self { clock, schedule: Arc::new(schedule), bucket: Arc::new(Mutex::new(Bucket { tokens: 0, filled })) }
    }

    /// The same connection, held to the schedule.
    #[must_use]
    pub fn hold(&self, link: Link) -> Link {
        let broken = Arc::new(AtomicBool::new(false));
        let writer = Throttled { throttle: self.clone(), writer: link.writer, broken: Arc::clone(&broken) };
        let inner = link.breaker;
        let breaker = Arc::new(move || {
            broken.store(true, Ordering::Release);
            inner();
        });
        Link { reader: link.reader, writer: Box::new(writer), breaker }
    }

    /// How many bytes of `wanted` may be sent now, or how long to wait before it is asked again.
    fn take(&self, wanted: usize) -> Result<usize, Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, time_of_day) = (self.clock.now(), self.clock.time_of_day());
        bucket.fill(&self.schedule, now, time_of_day);
        let Some(limit) = self.schedule.at(time_of_day) else {
            // Also what was small has been paid for now.
            bucket.tokens = bucket.tokens.max(0);
            return Ok(wanted);
        };
        let bytes = i128::try_from(wanted).unwrap_or(i128::MAX / NANOS);
        if wanted <= SMALL {
            bucket.tokens -= bytes * NANOS;
            return Ok(wanted);
        }
        // Pieces of some size: not a system call for each byte.
        let limit = i128::from(limit.get());
        let piece = bytes.min(burst(limit) / NANOS).max(1);
        if bucket.tokens >= piece * NANOS {
            let piece = bytes.min(bucket.tokens / NANOS);
            bucket.tokens -= piece * NANOS;
            return Ok(usize::try_from(piece).unwrap_or(wanted));
        }
        let missing = piece * NANOS - bucket.tokens;
        let wait = Duration::from_nanos(u64::try_from((missing + limit - 1) / limit).unwrap_or(u64::MAX));
        Err(wait.min(self.schedule.until_change(time_of_day)).min(TICK))
    }
}

/// The most tokens that there are: at 16 KiB a second 1638 bytes.
fn burst(limit: i128) -> i128 {
    limit * i128::try_from(BURST.as_nanos()).unwrap_or(0)
}

impl Bucket {
    /// Fills it with what the time since it was filled last allows, by the limits that held then.
    fn fill(&mut self, schedule: &Schedule, now: Duration, time_of_day: Duration) {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        // What is longer than a day fills any bucket.
        let mut left = now.saturating_sub(self.filled).min(DAY);
        self.filled = now;
        let mut at = time_of_day.checked_sub(left).unwrap_or_else(|| (time_of_day + DAY).saturating_sub(left));
        while left > Duration::ZERO {
            let part = left.min(schedule.until_change(at));
            if let Some(limit) = schedule.at(at) {
                let limit = i128::from(limit.get());
                let nanos = i128::try_from(part.as_nanos()).unwrap_or(i128::MAX / limit);
                self.tokens = (self.tokens + limit * nanos).min(burst(limit));
            } else {
                self.tokens = self.tokens.max(0);
            }
            left -= part;
            at = (at + part).checked_sub(DAY).unwrap_or(at + part);
        }
    }
}

struct Throttled {
    throttle: Throttle,
    writer: Box<dyn Write + Send>,
    broken: Arc<AtomicBool>,
}

impl Write for Throttled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while !self.broken.load(Ordering::Acquire) {
            match self.throttle.take(bytes.len()) {
                // What is passed on in part only is paid for in full: that errs to the slow side, and happens to what is large only.
                Ok(now) => return self.writer.write(&bytes[..now]),
                Err(wait) => self.throttle.clock.sleep(wait),
            }
        }
        Err(io::Error::new(io::ErrorKind::BrokenPipe, "the connection was ended"))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FakeClock;

    /// What was written, and when.
    #[derive(Clone)]
    struct Log(Arc<FakeClock>, Arc<Mutex<Vec<(Duration, usize)>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.lock().unwrap().push((self.0.now(), bytes.len()));
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Case {
        clock: Arc<FakeClock>,
        log: Log,
        link: Link,
    }

    /// A link that is held to a schedule, beginning at a time of day in seconds.
    fn case(schedule: &str, time_of_day: u64) -> Case {
        let clock = Arc::new(FakeClock::at(Duration::from_secs(time_of_day)));
        let log = Log(Arc::clone(&clock), Arc::default());
        let throttle = Throttle::new(schedule.parse().unwrap(), clock.clone());
        let (reader, writer) = (Box::new(io::empty()), Box::new(log.clone()));
        let link = throttle.hold(Link { reader, writer, breaker: Arc::new(|| {}) });
        Case { clock, log, link }
    }

    impl Case {
        /// Bytes that were written from one second on until another.
        fn between(&self, from: u64, to: u64) -> usize {
            let during = Duration::from_secs(from)..Duration::from_secs(to);
            let log = self.log.1.lock().unwrap();
            log.iter().filter(|(at, _)| during.contains(at)).map(|(_, bytes)| bytes).sum()
        }

        fn longest_silence(&self) -> Duration {
            let log = self.log.1.lock().unwrap();
            log.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0)).max().unwrap_or_default()
        }
    }

    const MESSAGE: usize = (64 << 10) + 16;

    #[test]
    fn bytes_take_the_time_that_the_limit_says() {
        let mut case = case("1M", 0);
        for _ in 0..160 {
            case.link.writer.write_all(&vec![0; MESSAGE]).unwrap();
        }
        // The bucket is empty at first: no second has more than its bytes, and none is wasted.
        let all = 160 * MESSAGE as u64;
        let exact = Duration::from_nanos(all * 1_000_000_000 / (1 << 20));
        let took = case.clock.now();
        assert!(
            (exact.saturating_sub(Duration::from_millis(2))..=exact + Duration::from_micros(10)).contains(&took),
            "{took:?} {exact:?}"
        );
        for second in 0..10 {
            let sent = case.between(second, second + 1);
            assert!(sent.abs_diff(1 << 20) <= (1 << 20) / 10 + 1, "second {second}: {sent}");
        }
    }

    #[test]
    fn the_limit_changes_at_the_boundary_and_not_later() {
        // Ten seconds before eight: 64 KiB a second, and 1 MiB a second from then on until a minute later.
        let schedule = "08:01-08:00=64K,08:00-08:01=1M";
        let mut case = case(schedule, 8 * 3600 - 10);
        while case.clock.now() < Duration::from_secs(90) {
            case.link.writer.write_all(&vec![0; MESSAGE]).unwrap();
        }
        for (from, to, limit) in [(0, 10, 64 << 10), (10, 70, 1 << 20), (70, 90, 64 << 10)] {
            let (sent, allowed) = (case.between(from, to), usize::try_from(to - from).unwrap() * limit);
            assert!(sent <= allowed + (1 << 20) / 10 + 1, "{from}: {sent} of {allowed}");
            assert!(sent >= allowed - (1 << 20) / 10 - 1, "{from}: {sent} of {allowed}");
        }
    }

    #[test]
    fn an_end_of_the_limit_is_not_slept_through() {
        let mut case = case("18:00-08:00=off,08:00-18:00=16K", 18 * 3600 - 2);
        case.link.writer.write_all(&vec![0; 64 << 20]).unwrap();
        assert_eq!(case.clock.now(), Duration::from_secs(2));
        assert!(case.between(0, 2).abs_diff(32 << 10) <= 1700, "{}", case.between(0, 2));
        // And back again, 14 hours later: nothing is owed, and nothing is saved up.
        case.clock.sleep(Duration::from_secs(14 * 3600));
        let before = case.clock.now();
        case.link.writer.write_all(&vec![0; 32 << 10]).unwrap();
        let took = case.clock.now().saturating_sub(before);
        assert!((Duration::from_millis(1800)..=Duration::from_secs(2)).contains(&took), "{took:?}");
    }

    #[test]
    fn what_is_small_passes_at_once_and_is_paid_for() {
        let mut case = case("16K", 0);
        // That this side is there, and sixteen questions.
        for _ in 0..17 {
            case.link.writer.write_all(&[0; 8]).unwrap();
            case.link.writer.write_all(&[0; 1000]).unwrap();
        }
        assert_eq!(case.clock.now(), Duration::ZERO);
        let start = 17 * 1008;
        case.link.writer.write_all(&vec![0; 16 << 10]).unwrap();
        let owed = Duration::from_nanos((start + (16 << 10)) * 1_000_000_000 / (16 << 10));
        let took = case.clock.now();
        assert!(
            took <= owed + Duration::from_micros(10) && took + Duration::from_millis(70) >= owed,
            "{took:?} of {owed:?}"
        );
    }

    #[test]
    fn the_lowest_limit_is_never_silent_for_long() {
        let mut case = case("16K", 0);
        for _ in 0..20 {
            case.link.writer.write_all(&vec![0; MESSAGE]).unwrap();
        }
        assert!(case.clock.now() > Duration::from_secs(70));
        assert!(case.longest_silence() < Duration::from_secs(1), "{:?}", case.longest_silence());
    }

    #[test]
    fn two_connections_share_one_limit() {
        let clock = Arc::new(FakeClock::at(Duration::ZERO));
        let throttle = Throttle::new("1M".parse().unwrap(), clock.clone());
        for _ in 0..4 {
            let (reader, writer) = (Box::new(io::empty()), Box::new(io::sink()));
            let mut link = throttle.hold(Link { reader, writer, breaker: Arc::new(|| {}) });
            link.writer.write_all(&vec![0; 1 << 20]).unwrap();
        }
        assert!(
            clock.now() >= Duration::from_millis(3990) && clock.now() <= Duration::from_millis(4001),
            "{:?}",
            clock.now()
        );
    }

    #[test]
    fn a_connection_that_is_ended_waits_no_longer() {
        let Case { link, .. } = case("16K", 0);
        let mut writer = link.writer;
        (link.breaker)();
        assert_eq!(writer.write_all(&vec![0; MESSAGE]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
