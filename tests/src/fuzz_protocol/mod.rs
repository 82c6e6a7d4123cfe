//! What must hold of any bytes that the other side of a replication session sends.
//!
//! [`target`] and [`source`] take the bytes of the other side as they are: all connections of it one after the other, each
//! beginning with a preface. [`target_steps`] and [`source_steps`] take them for the steps of somebody who knows the protocol and
//! breaks it: whole messages with hostile fields, out of order, beside honest ones, deltas that were changed and sealed again.
//!
//! Whatever comes, a session ends by itself, what it says keeps to the protocol, the disk of a target is as it was unless a
//! delta was proven from its base to a root that is then the disk's, and a source is done only when it was told so with the
//! root of its own disk, and then has sent a delta that proves to lead there. The functions panic where that is not so, and otherwise say
//! whether the pass was done.
//!
//! To search, with what an honest other side says to begin with (`FAILBACK_SEEDS` names where the test writes it):
//!
//! ```text
//! FAILBACK_SEEDS=/tmp/seeds cargo test -p failback-tests --test fuzz_protocol
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz protocol_target /tmp/found /tmp/seeds/protocol_target -- -detect_leaks=0
//! ```
//!
//! A session has threads, and what one of them still holds when it is just about to end looks like a leak.

mod disks;
mod frames;
mod seeds;
mod source;
mod steps;
mod target;

pub use seeds::{Seed, seeds};
pub use source::{source, source_steps};
pub use target::{target, target_steps};

use failback_replication::wire::MAGIC;
use std::time::{Duration, Instant};

/// The longest that an input may take on a busy machine. What takes longer waits for something.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a hostile side waits for what a source is going to say. It says it at once, or waits itself.
const PATIENCE: Duration = Duration::from_millis(20);

/// What one side says over its connections: each begins with a preface, but for the first if it has none.
fn connections(bytes: &[u8]) -> Vec<&[u8]> {
    let mut starts: Vec<_> = (1..bytes.len()).filter(|at| bytes[*at..].starts_with(&MAGIC)).collect();
    starts.insert(0, 0);
    starts.push(bytes.len());
    starts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

/// Runs something that may not take long.
fn timed<T>(run: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let value = run();
    assert!(started.elapsed() < LONGEST, "it took {:?}", started.elapsed());
    value
}

/// A sentence that is shown to people: nothing in it moves a cursor or begins a line.
#[track_caller]
fn is_shown(sentence: &str) {
    assert!(!sentence.is_empty() && !sentence.contains(char::is_control), "{sentence:?}");
}
