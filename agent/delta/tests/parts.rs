//! Where the parts of a delta end, as its bytes arrive in pieces of any length.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{diff_used, noise, sign};
use failback_delta::{DeltaReader, Item, Parts};
use proptest::prelude::*;

/// The ends of the parts, as a reader finds them: of the header with the map, then of each frame and the trailer.
fn ends(delta: &[u8]) -> Vec<u64> {
    let mut reader = DeltaReader::open(delta).unwrap();
    let mut ends = vec![reader.position()];
    loop {
        let item = reader.next_item().unwrap();
        ends.push(reader.position());
        if matches!(item, Item::Trailer(_)) {
            return ends;
        }
    }
}

fn delta(used: bool) -> Vec<u8> {
    let from = noise(1, 9 << 20);
    let mut to = from.clone();
    to.iter_mut().step_by(20_000).for_each(|byte| *byte ^= 1);
    let free: Vec<_> = (0..9 << 8).map(|block| block % 3 == 0).collect();
    diff_used(&sign(&from, 12), &to, used.then_some(free.as_slice()), None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn pieces_of_any_length(lens in prop::collection::vec(1_usize..300_000, 1..20), small in any::<bool>()) {
        let delta = delta(false);
        let ends = ends(&delta);
        let mut parts = Parts::new();
        let (mut at, mut lens) = (0, lens.iter().cycle());
        while at < delta.len() {
            let len = if small && at < 3000 { 1 } else { *lens.next().unwrap() };
            let end = delta.len().min(at + len);
            parts.take(&delta[at..end]).unwrap();
            at = end;
            let whole = ends.iter().rev().find(|end| **end <= at as u64).copied().unwrap_or(0);
            prop_assert_eq!(parts.whole(), whole);
            prop_assert_eq!(parts.key().is_some(), whole > 0);
        }
        prop_assert!(parts.is_complete());
        prop_assert_eq!(parts.key().unwrap(), *DeltaReader::open(delta.as_slice()).unwrap().key());
        prop_assert!(parts.take(b"x").is_err(), "nothing follows the trailer");
    }

    #[test]
    fn anything_else_is_refused_or_harmless(at in 0_usize..200_000, byte in any::<u8>(), cut in 1_usize..5000) {
        let mut delta = delta(false);
        delta.truncate(200_001);
        delta[at] = byte;
        let mut parts = Parts::new();
        for piece in delta.chunks(cut) {
            if parts.take(piece).is_err() {
                break;
            }
        }
        prop_assert!(parts.whole() <= delta.len() as u64);
    }
}

#[test]
fn what_does_not_begin_as_a_delta_is_refused_at_once() {
    for start in [&b"\x89FBSIG\r\n"[..], b"garbage!", &[0; 8]] {
        assert!(Parts::new().take(start).is_err());
    }
    let delta = delta(true);
    let mut parts = Parts::new();
    parts.take(&delta).unwrap();
    assert!(parts.is_complete());
    // A frame that says to be longer than one may be.
    let at = usize::try_from(ends(&delta)[0]).unwrap();
    let mut long = delta.clone();
    long[at + 44..at + 48].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Parts::new().take(&long).unwrap_err().to_string().contains("longer than it may be"));
    // What stands in the place of a frame.
    let mut other = delta;
    other[at] = b'X';
    assert!(Parts::new().take(&other).unwrap_err().to_string().contains("begins as no part"));
}
