//! Thousands of damaged extents: nothing panics, what is refused is refused with a sentence, and memory is bounded.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::fuzz_streams;
use failback_tests::lab::noise;
use failback_tests::vmdk_made::{self as made, Made, scattered};
use failback_tests::vmdk_read::mutated;
use peak_alloc::PeakAlloc;
use std::time::{Duration, Instant};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// More than a reader holds: a stretch of the file, a piece of both tables, and grains of up to 1 MiB, packed and unpacked;
/// and the simulated disk beside. Far less than what a header can claim.
const MEMORY_MAX: usize = 8 << 20;

/// A name, what must hold, a sound file, how many mutations.
type Fixture = (&'static str, fn(&[u8]) -> bool, Vec<u8>, u64);

fn fixtures() -> [Fixture; 5] {
    let few = [vec![5; 5120], noise(3072, 9), vec![0; 128 << 10], vec![1; 512]].concat();
    let (mut cowd, _) = scattered(9000, 1, &[0, 4095, 4096, 8999]);
    cowd.push((7, Made::Zero));
    let (mut sesparse, _) = scattered(40_003, 8, &[0, 4095, 4096, 5000]);
    sesparse.push((9, Made::Unmapped));
    [
        ("stream", fuzz_streams::stream, made::stream(&noise(300 << 10, 3), 128, "", false), 1000),
        ("small grains", fuzz_streams::stream, made::stream(&few, 8, "", false), 2000),
        ("one grain", fuzz_streams::stream, made::stream(&[9; 512], 128, "", true), 2000),
        ("host sparse", fuzz_streams::cowd, made::cowd(9000, 1, &cowd), 1500),
        ("space-efficient", fuzz_streams::sesparse, made::sesparse(40_003, 0, &sesparse), 1500),
    ]
}

/// Runs a target in bounded memory.
fn run(target: fn(&[u8]) -> bool, bytes: &[u8], what: &str) -> bool {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let read = target(bytes);
    let used = MEMORY.peak_usage().saturating_sub(before);
    assert!(used < MEMORY_MAX, "{what} took {used} bytes of memory");
    read
}

/// One test, so that nothing else allocates beside it.
#[test]
fn damaged_extents_do_no_harm() {
    let started = Instant::now();
    for (name, target, bytes, rounds) in fixtures() {
        assert!(run(target, &bytes, name), "{name} is sound");
        let mut read = 0;
        for round in 1..=rounds {
            read += u64::from(run(target, &mutated(&bytes, round), &format!("{name}, {round}")));
        }
        println!("{name}: {read} of {rounds} mutations are read");
        assert!(read > 0 && read < rounds, "{name}: {read} of {rounds} mutations are read");
    }
    // It takes a few seconds; a single input that asks for unbounded work takes more than this.
    assert!(started.elapsed() < Duration::from_secs(60), "something took far too long");
}
