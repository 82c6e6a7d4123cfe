//! The fuzzer's targets over a fixed corpus and a few thousand fixed mutations of it, on any toolchain.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::fuzz;
use failback_tests::lab::Dice;
use peak_alloc::PeakAlloc;
use std::path::PathBuf;
use std::time::{Duration, Instant};

// It counts what Rust allocates; zstd's own allocations, some 300 KiB for each call, are not in it.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// More than any reader here needs for a frame, read and written again; far less than what a hostile header can claim.
const MEMORY_MAX: usize = 16 << 20;
/// Of each file.
const MUTATIONS: usize = 1500;
const CORPUS_MAX: u64 = 60 << 10;

struct Target {
    name: &'static str,
    run: fn(&[u8]) -> bool,
}

const TARGETS: [Target; 3] = [
    Target { name: "signature", run: fuzz::signature },
    Target { name: "delta", run: fuzz::delta },
    Target { name: "delta_resealed", run: fuzz::delta_resealed },
];

/// The files of a target's corpus, in the order of their names.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Where it hurts: mostly in the first bytes of a file, where the structures are.
fn place(dice: &mut Dice, len: usize) -> usize {
    let reach = if dice.below(4) == 0 { len } else { len.min(700) };
    dice.below(reach)
}

fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    const INTERESTING: [u64; 12] =
        [0, 1, 2, 3, 0x7f, 0xff, 0x100, 0xffff, 0x10_0000, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];
    for _ in 0..=dice.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = place(dice, bytes.len());
        match dice.below(8) {
            0 | 1 => bytes[at] ^= 1_u8 << dice.below(8),
            2 => bytes[at] = dice.roll().to_le_bytes()[0],
            3 | 4 => {
                let width = [1, 2, 4, 8][dice.below(4)];
                let at = at / width * width;
                let value = INTERESTING[dice.below(INTERESTING.len())].to_le_bytes();
                let width = width.min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            5 => bytes[at] = bytes[at].wrapping_add(if dice.below(2) == 0 { 1 } else { 255 }),
            6 => bytes.truncate(at),
            _ => {
                let end = at + dice.below((bytes.len() - at).min(200));
                let part = bytes[at..end].to_vec();
                let to = place(dice, bytes.len());
                bytes.splice(to..to, part);
            }
        }
    }
}

/// Runs a target in bounded memory.
fn run(target: &Target, bytes: &[u8], what: &dyn std::fmt::Debug) -> bool {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let accepted = (target.run)(bytes);
    let used = MEMORY.peak_usage().saturating_sub(before);
    assert!(used < MEMORY_MAX, "{} of {what:?} took {used} bytes of memory", target.name);
    accepted
}

/// One test, so that nothing else allocates beside it.
#[test]
fn nothing_panics_and_memory_is_bounded() {
    let started = Instant::now();
    let mut total = 0;
    for (number, target) in TARGETS.iter().enumerate() {
        let files = corpus(target.name);
        total += files.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        let accepted = files.iter().filter(|(path, bytes)| run(target, bytes, path)).count();
        assert!(accepted > 0, "some file of {} is accepted", target.name);
        let mut mutated_and_accepted = 0;
        for (file, round) in (0..files.len()).flat_map(|file| (0..MUTATIONS).map(move |round| (file, round))) {
            let (path, bytes) = &files[file];
            let seed = ((number as u64) << 40) ^ ((file as u64) << 20) ^ (round as u64 + 1);
            let mut dice = Dice::new(0x9E37_79B9_7F4A_7C15 ^ seed);
            let mut mutated = bytes.clone();
            mutate(&mut mutated, &mut dice);
            let accepted = run(target, &mutated, &(path, round));
            // Nothing but the file itself passes where nobody makes the hashes good again.
            assert!(!accepted || target.name != "delta" || mutated == *bytes, "{path:?} {round}");
            mutated_and_accepted += u32::from(accepted);
        }
        println!("{}: {accepted} of {} files and {mutated_and_accepted} mutations accepted", target.name, files.len());
    }
    assert!(total < CORPUS_MAX, "the corpus has {total} bytes");
    println!("{:?}", started.elapsed());
    // It takes a few seconds; a single input that asks for unbounded work takes more than this.
    assert!(started.elapsed() < Duration::from_secs(60), "something took far too long");
}
