//! Damaged and hostile images: never a panic, and with checksums never a used byte that is called free.

use crate::fixtures::{V4, fill, made, write_synced};
use failback_tests::fuzz_xfs::{Changed, look};
use failback_tests::lab::{Place, lone, noise, tool};
use failback_tests::proof::{mapped, prototype_free_copy, survives, with_live};
use failback_volumes::{FreeMap, State};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Small enough to be held and looked at thousands of times.
const SMALL: u64 = 32 << 20;
const OPTIONS: &[&str] = &["-d", "agcount=2", "-l", "size=5m"];

/// The same numbers in every run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() % limit.max(1) as u64).unwrap()
    }
}
