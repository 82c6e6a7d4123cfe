//! Progress on standard error: a bar on a terminal, a line now and then in a log. And SIGINT.

use crate::published::Published;
use crate::report::tell;
use crate::signals::stop_flag;
use failback_orchestrate::{HumanBytes, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines of a log.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows how far a job is, and passes on that the user wants it to stop.
pub(crate) struct Meter {
    bar: Option<ProgressBar>,
    stop: Arc<AtomicBool>,
    done: AtomicU64,
    log: Mutex<Log>,
    published: Option<Published>,
}

struct Log {
    what: &'static str,
    total: Option<u64>,
    started: Instant,
    last_line: Instant,
}

impl Meter {
    /// Begins to listen to SIGINT and SIGTERM: the first asks the job to stop, the second ends the program, as SIGQUIT does. SIGHUP asks
    /// it to stop.
    pub(crate) fn new() -> io::Result<Self> {
        let stop = stop_flag()?;
        let now = Instant::now();
        let log = Mutex::new(Log { what: "", total: None, started: now, last_line: now });
        let bar = io::stderr().is_terminal().then(ProgressBar::no_length);
        Ok(Self { bar, stop, done: AtomicU64::new(0), log, published: Published::here() })
    }

    /// Takes the bar away before something else is printed.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Meter {
    fn phase(&self, what: &'static str, total: Option<u64>) {
        self.done.store(0, Ordering::Relaxed);
        let now = Instant::now();
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Log { what, total, started: now, last_line: now };
        if let Some(published) = &self.published {
            published.phase(what, total);
        }
        if let Some(bar) = &self.bar {
            let template = if total.is_some() {
                "{msg} {bytes} of {total_bytes} [{bar:30}] {binary_bytes_per_sec}, {eta} left"
            } else {
                "{msg} {bytes} {binary_bytes_per_sec}"
            };
            bar.reset();
            bar.set_style(ProgressStyle::with_template(template).expect("the template is well formed"));
            bar.set_message(what);
            match total {
                Some(total) => bar.set_length(total),
                None => bar.unset_length(),
            }
        }
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(published) = &self.published {
            published.advance(done);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.last_line.elapsed() >= LINE_EVERY {
            log.last_line = Instant::now();
            tell(&line(&log, done));
        }
    }

    fn note(&self, sentence: &str) {
        match &self.bar {
            Some(bar) => bar.println(sentence),
            None => tell(sentence),
        }
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// One line of a log: bytes, rate and the time left.
fn line(log: &Log, done: u64) -> String {
    let milliseconds = u64::try_from(log.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1000) / milliseconds;
    let (what, bytes, speed) = (log.what, HumanBytes(done), HumanBytes(rate));
    match log.total {
        Some(total) if rate > 0 => {
            let left = total.saturating_sub(done) / rate;
            format!("{what}: {bytes} of {}, {speed}/s, {left} s left", HumanBytes(total))
        }
        _ => format!("{what}: {bytes}, {speed}/s"),
    }
}
