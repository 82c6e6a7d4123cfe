//! The fuzzer's targets for both sides of the replication protocol and for enrolment, over what honest sides say and thousands of fixed mutations of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::fuzz_enrolment::{self, enrolment};
use failback_tests::fuzz_protocol::{Seed, seeds, source, source_steps, target, target_steps};
use failback_tests::lab::Dice;
use peak_alloc::PeakAlloc;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Two disks, a spool and the messages of both sides; 32 MiB of a delta may wait in a source. Far less than what lengths can claim.
const MEMORY_MAX: usize = 64 << 20;

struct Target {
    name: &'static str,
    run: fn(&[u8]) -> bool,
    /// Mutations of each seed, and inputs of chance.
    mutations: u64,
    random: u64,
}

const TARGETS: [Target; 5] = [
    Target { name: "protocol_target", run: target, mutations: 500, random: 0 },
    Target { name: "protocol_target_steps", run: target_steps, mutations: 150, random: 500 },
    Target { name: "protocol_source", run: source, mutations: 100, random: 0 },
    Target { name: "protocol_source_steps", run: source_steps, mutations: 100, random: 500 },
    Target { name: "enrolment", run: enrolment, mutations: 20_000, random: 0 },
];

fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    const NUMBERS: [u64; 8] = [0, 1, 0xff, 0xffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX, 64];
    for _ in 0..=dice.below(3) {
        let reach = if dice.below(3) == 0 { bytes.len() } else { bytes.len().min(300) };
        let at = dice.below(reach);
        if at >= bytes.len() {
            return;
        }
        match dice.below(7) {
            0 | 1 => bytes[at] ^= 1_u8 << dice.below(8),
            2 => bytes[at] = dice.roll().to_le_bytes()[0],
            3 => {
                let width = [1, 2, 4, 8][dice.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&NUMBERS[dice.below(8)].to_le_bytes()[..width]);
            }
            4 => bytes.truncate(at),
            5 => bytes.insert(at, dice.roll().to_le_bytes()[0]),
            _ => {
                let part = bytes[at..(at + dice.below(200)).min(bytes.len())].to_vec();
                let to = dice.below(bytes.len());
                bytes.splice(to..to, part);
            }
        }
    }
}

/// Runs a target in bounded memory.
fn run(target: &Target, bytes: &[u8]) -> bool {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let is_done = (target.run)(bytes);
    let used = MEMORY.peak_usage().saturating_sub(before);
    assert!(used < MEMORY_MAX, "{} took {used} bytes of memory", target.name);
    is_done
}

/// Tells the input of which a target panics.
struct Told<'a>(&'a Target, &'a [u8]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = env::temp_dir().join(format!("{}.failed", self.0.name));
            let _ = fs::write(&kept, self.1);
            eprintln!("{} of {} bytes: {}", self.0.name, self.1.len(), kept.display());
        }
    }
}

fn told(target: &Target, bytes: &[u8]) -> bool {
    let _told = Told(target, bytes);
    run(target, bytes)
}

/// One test, so that nothing else allocates beside it.
#[test]
fn whatever_the_other_side_says_a_session_ends_and_nothing_is_claimed() {
    let started = Instant::now();
    let enrolment = (0..).zip(fuzz_enrolment::seeds());
    let enrolment = enrolment.map(|(number, bytes)| Seed { target: "enrolment", name: number.to_string(), bytes });
    let seeds: Vec<_> = seeds().into_iter().chain(enrolment).collect();
    if let Some(directory) = env::var_os("FAILBACK_SEEDS") {
        for Seed { target, name, bytes } in &seeds {
            let directory = Path::new(&directory).join(target);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
    for (number, target) in (0_u64..).zip(&TARGETS) {
        let seeds: Vec<_> = seeds.iter().filter(|seed| seed.target == target.name).collect();
        let (mut done, mut total) = (0, 0);
        for (place, seed) in (0_u64..).zip(&seeds) {
            // A source that has all the time it needs was seen to come to its end.
            assert!(
                told(target, &seed.bytes) || target.name.starts_with("protocol_source"),
                "{} {}",
                target.name,
                seed.name
            );
            for round in 1..=target.mutations {
                let mut dice = Dice::new(0x9E37_79B9_7F4A_7C15 ^ (number << 40) ^ (place << 20) ^ round);
                let mut bytes = seed.bytes.clone();
                mutate(&mut bytes, &mut dice);
                done += u64::from(told(target, &bytes));
                total += 1;
            }
        }
        for round in 1..=target.random {
            let mut dice = Dice::new(0xD1B5_4A32_D192_ED03 ^ (number << 40) ^ round);
            let bytes: Vec<_> = (0..dice.below(120)).map(|_| dice.roll().to_le_bytes()[0]).collect();
            done += u64::from(told(target, &bytes));
            total += 1;
        }
        println!("{}: {done} of {total} are done, {:?}", target.name, started.elapsed());
        assert!(done > 0 && done < total, "what is changed matters, but not all of it");
    }
    assert!(started.elapsed() < Duration::from_secs(100), "something took far too long");
}
