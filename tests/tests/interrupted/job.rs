//! An apply to be stopped, and what is said of it afterwards.

use failback_tests::failback;
use failback_tests::lab::{Place, Program, Running, noise, root_of_file};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ChildStdin;
use std::time::{Duration, Instant};

pub(crate) const MIB: usize = 1 << 20;

/// How often a signal may come too late before that is a failure.
pub(crate) const ATTEMPTS: usize = 8;

pub(crate) struct Job {
    pub(crate) place: Place,
    pub(crate) base: Vec<u8>,
    pub(crate) result: PathBuf,
    pub(crate) delta: PathBuf,
    pub(crate) target: PathBuf,
}

impl Job {
    /// A change of all of `size` bytes.
    pub(crate) fn new(place: Place, size: usize) -> Self {
        let base = noise(size, 1);
        let (target, result) = (place.file("target.img", &base), place.noisy("result.img", size, 2));
        let delta = place.delta("d", &target, &result, "64K");
        Self { place, base, result, delta, target }
    }

    pub(crate) fn reset(&self) {
        fs::write(&self.target, &self.base).unwrap();
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.place.path("target.img.failback-intent")
    }

    pub(crate) fn status(&self) -> String {
        settled(&|| failback!("status", self.target).json())
    }

    pub(crate) fn apply(&self) -> Program {
        failback!("apply", self.delta, self.target, "--yes")
    }

    /// The same command again, to the end.
    pub(crate) fn finish(&self, call: Program) {
        let interrupted = self.status() == "interrupted";
        let applied = call.json();
        assert_eq!(applied["resumed"], interrupted, "{applied}");
        assert_eq!(root_of_file(&self.target), root_of_file(&self.result));
        assert_eq!(self.status(), "at-rest");
    }
}

/// The state that a status tells, once nobody has the disk. The kernel lets go of what `io_uring` holds a moment after a
/// killed process is gone.
pub(crate) fn settled(status: &dyn Fn() -> Value) -> String {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let state = status()["state"].as_str().unwrap().to_owned();
        if !["running", "in-use"].contains(&state.as_str()) || Instant::now() > end {
            return state;
        }
    }
}

/// Feeds the first `bytes` of a delta to an apply that reads a pipe, and gives it time to write them.
pub(crate) fn half_fed(job: &Job, delta: &[u8], bytes: usize) -> (Running, ChildStdin) {
    let mut running = failback!("apply", "-", job.target, "--yes").start();
    let mut stdin = running.stdin();
    stdin.write_all(&delta[..bytes]).unwrap();
    assert!(running.wait_until(|| job.record().exists()));
    (running, stdin)
}
