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
    assert!(Parts::new().take(&long).unwrap_err().to_string().contains("larger than a frame may be"));
    let mut long = delta.clone();
    long[at + 32..at + 36].copy_from_slice(&257_u32.to_le_bytes());
    assert!(Parts::new().take(&long).unwrap_err().to_string().contains("longer than it may be"));
    // What stands in the place of a frame.
    let mut other = delta;
    other[at] = b'X';
    assert!(Parts::new().take(&other).unwrap_err().to_string().contains("begins as no part"));
}

/// The pieces between the ends of the parts.
fn cut(delta: &[u8], ends: &[u64]) -> Vec<Vec<u8>> {
    let ends = ends.iter().map(|end| usize::try_from(*end).unwrap());
    let starts = std::iter::once(0).chain(ends.clone());
    starts.zip(ends).map(|(start, end)| delta[start..end].to_vec()).collect()
}

/// What is said of parts in another order.
fn said(parts: &[&[u8]]) -> String {
    let mut taken = Parts::new();
    parts.iter().find_map(|part| taken.take(part).err()).map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn a_frame_that_comes_again_or_out_of_order_is_refused_before_its_payload_is_taken() {
    let from = noise(1, 9 << 20);
    let mut to = from.clone();
    to.iter_mut().step_by(5000).for_each(|byte| *byte ^= 1);
    let delta = diff_used(&sign(&from, 12), &to, None, None);
    let pieces = cut(&delta, &ends(&delta));
    let [start, first, second, third, ..] = pieces.as_slice() else { panic!("several frames") };
    assert_eq!(said(&[start, first, second, third]), "");
    for wrong in [
        &[start.as_slice(), first, first][..],
        &[start, second],
        &[start, first, third],
        &[start, first, second, first],
        &[start, start],
    ] {
        let error = said(wrong);
        assert!(error.contains("does not follow") || error.contains("begins as no part"), "{error}");
    }
    // One that has the right number, and extents that were there.
    let mut again = first.clone();
    again[8] = 1;
    again[16..24].copy_from_slice(&second[16..24]);
    let mut taken = Parts::new();
    taken.take(start).unwrap();
    taken.take(first).unwrap();
    let outline = 80 + 8 * usize::try_from(u32::from_le_bytes(again[32..36].try_into().unwrap())).unwrap();
    let whole = taken.whole();
    let error = taken.take(&again[..outline]).unwrap_err().to_string();
    assert!(error.contains("starts before its predecessor ends"), "{error}");
    assert_eq!(taken.whole(), whole);
}

#[test]
fn a_map_comes_once_before_the_frames_and_within_the_disk() {
    let delta = delta(true);
    let start = usize::try_from(ends(&delta)[0]).unwrap();
    let identity = usize::try_from(u32::from_le_bytes(delta[20..24].try_into().unwrap())).unwrap();
    let (header, map) = delta[..start].split_at(128 + identity);
    let frame = &delta[start..];
    assert_eq!(said(&[header, map, frame]), "");
    assert!(said(&[header, map, map]).contains("not the one that comes here"));
    assert!(said(&[header, frame]).contains("the map of its free space is missing"));
    let mut more = map.to_vec();
    more[4] = 0;
    more[68..72].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(said(&[header, &more]).contains("a run does not lie on the disk"));
    let without = self::delta(false);
    let start = usize::try_from(ends(&without)[0]).unwrap();
    assert!(said(&[&without[..start], map]).contains("not the one that comes here"));
}

#[test]
fn a_header_that_was_changed_is_refused_when_it_arrives() {
    let mut delta = delta(false);
    delta[32] ^= 1;
    assert!(said(&[&delta]).contains("hash does not fit"), "{}", said(&[&delta]));
}

/// A frame that changes one block, as far as it is looked at when it arrives.
fn lone_frame(index: u64, block: u64) -> Vec<u8> {
    let mut frame = b"FBFR\0\0\0\0".to_vec();
    for number in [index, block, block] {
        frame.extend(number.to_le_bytes());
    }
    for number in [1_u32, 2, 4096, 4096] {
        frame.extend(number.to_le_bytes());
    }
    frame.extend([0; 32]);
    frame.extend([0, 0, 0, 0, 1, 0, 1, 1]);
    frame.extend(noise(index, 64 + 4096));
    frame
}

#[test]
fn no_delta_that_is_taken_is_longer_than_is_said_before() {
    let disk = noise(1, 64 * 4096);
    let delta = diff_used(&sign(&disk, 12), &disk, None, None);
    let start = usize::try_from(ends(&delta)[0]).unwrap();
    let longest = DeltaReader::open(delta.as_slice()).unwrap().header().longest();
    // Each block in a frame of its own is the longest that there can be.
    let mut parts = Parts::new();
    parts.take(&delta[..start]).unwrap();
    for block in 0..64 {
        parts.take(&lone_frame(block, block)).unwrap();
    }
    assert_eq!(parts.whole(), start as u64 + 64 * (152 + 4096));
    assert_eq!(longest, 128 + 4096 + 64 * (152 + 4096) + 216 + 4096);
    assert!(parts.take(&lone_frame(64, 64)).unwrap_err().to_string().contains("behind the disk's end"));
    assert!(parts.take(&lone_frame(64, 0)).is_err());
}
