//! Damaged file systems: a damaged map may cost time, never data, and nothing panics.

use super::journal::States;
use failback_tests::fuzz_ext::{Memory, ext, input_of, look_at};
use failback_tests::lab::Dice;
use failback_volumes::{FileSystem, FreeMap};
use std::fs;
use std::ops::Range;

/// A file system with checksums, two transactions in its journal.
struct Victim {
    bytes: Vec<u8>,
    /// Its map, and the one after the first transaction only.
    whole: FreeMap,
    without_last: FreeMap,
    /// Blocks of the first transaction.
    logged: Vec<(usize, Vec<u8>)>,
    block: usize,
}

fn victim() -> Victim {
    let states = States::new("-t ext4", 1024);
    let image = states.logged("-c -v 3", &[states.change(0, 1), states.change(1, 2)]);
    let bytes = fs::read(image).unwrap();
    let whole = states.map(0).intersection(&states.map(2));
    let without_last = states.map(0).intersection(&states.map(1));
    assert_eq!(look(&bytes).map.unwrap(), whole);
    Victim { bytes, whole, without_last, logged: states.change(0, 1).blocks, block: states.block }
}

fn look(bytes: &[u8]) -> FileSystem {
    look_at(&Memory(bytes)).unwrap()
}

/// Flips bits of a range, one at a time, and wants no map with more free space than `most` has.
fn flip(bytes: &mut [u8], range: Range<usize>, step: usize, most: &[&FreeMap]) -> u32 {
    let mut accepted = 0;
    for bit in (range.start * 8..range.end * 8).step_by(step) {
        let mask = 1 << (bit % 8);
        bytes[bit / 8] ^= mask;
        if let Some(found) = look_at(&Memory(bytes))
            && let Ok(map) = found.map
        {
            let is_safe = most.iter().any(|most| map.intersection(most) == map);
            assert!(is_safe, "bit {} of byte {}: {:?}", bit % 8, bit / 8, map.extents());
            accepted += 1;
        }
        bytes[bit / 8] ^= mask;
    }
    accepted
}

/// The blocks of the journal that are its own, by type and transaction.
fn control_blocks(victim: &Victim) -> Vec<(usize, u8, u8)> {
    let blocks = victim.bytes.chunks(victim.block).enumerate();
    let own = blocks.filter(|(_, bytes)| bytes.starts_with(&[0xC0, 0x3B, 0x39, 0x98]));
    own.map(|(number, bytes)| (number, bytes[7], bytes[11])).collect()
}

#[test]
fn no_bit_of_the_superblock_or_the_descriptors_frees_a_block() {
    let Victim { mut bytes, whole, .. } = victim();
    // On the disk and in the journal: the superblock is block 1, the descriptors block 2.
    assert!(flip(&mut bytes, 1024..2048, 3, &[&whole]) < 300);
    assert!(flip(&mut bytes, 2048..2048 + 64, 1, &[&whole]) < 600);
}

#[test]
fn no_bit_of_the_journal_frees_a_block() {
    let mut victim = victim();
    let own = control_blocks(&victim);
    assert!(own.len() >= 5, "{own:?}");
    for (number, kind, transaction) in own {
        let at = number * victim.block;
        let range = at..at + victim.block;
        // A damaged last transaction is like one that was torn, and neither we nor the kernel replay it.
        let most = [&victim.whole, &victim.without_last];
        let is_last = matches!(kind, 1 | 2 | 5) && transaction == 2;
        let most = if is_last { &most[..] } else { &most[..1] };
        flip(&mut victim.bytes, range, 7, most);
    }
}

#[test]
fn no_bit_of_a_logged_block_frees_a_block() {
    let mut victim = victim();
    // Superblock, descriptors, bitmaps and what else the first transaction holds: not where they belong, but in the log.
    for (number, content) in victim.logged.clone().into_iter().take(8) {
        let mut blocks = victim.bytes.chunks(victim.block).enumerate();
        let found = blocks.find(|(at, bytes)| *at != number && **bytes == content);
        let at = found.unwrap_or_else(|| panic!("block {number} is not in the log")).0 * victim.block;
        assert_eq!(flip(&mut victim.bytes, at..at + victim.block, 31, &[]), 0);
    }
}

#[test]
fn no_bit_of_a_bitmap_frees_a_block() {
    for options in ["-t ext4", "-t ext3", "-t ext2", "-t ext4 -O ^metadata_csum,uninit_bg"] {
        let states = States::new(options, 1024);
        let (mut bytes, map) = (fs::read(&states.images[2]).unwrap(), states.map(2));
        let blocks = states.change(1, 2);
        // A bitmap of 6144 blocks fills three quarters of a block; descriptor 0 names it.
        let at = u32::from_le_bytes(bytes[2048..2052].try_into().unwrap());
        assert!(blocks.blocks.iter().any(|(number, _)| *number == at as usize));
        let at = at as usize * 1024;
        let accepted = flip(&mut bytes, at..at + 768, 1, &[&map]);
        // The one bit that speaks of no block any more may be lost where there are no checksums.
        assert!(accepted == 0 || look(&bytes).map.is_ok(), "{options}: {accepted}");
    }
}

/// Thousands of mutations of real file systems, with and without checksums in the way.
#[test]
fn mutations_do_not_panic() {
    let mut accepted = 0;
    for (seed, (options, open)) in
        [("-t ext3", ""), ("-t ext4", "-c -v 3"), ("-t ext4 -O ^metadata_csum,bigalloc", "")].into_iter().enumerate()
    {
        let states = States::new(options, 1024);
        let image = states.logged(open, &[states.change(0, 1), states.change(1, 2)]);
        let input = input_of(&fs::read(image).unwrap());
        assert!(ext(&input), "{options}");
        let mut dice = Dice::new(seed as u64 + 1);
        for _ in 0..2000 {
            let mut mutated = input.clone();
            for _ in 0..=dice.below(3) {
                mutate(&mut mutated, &mut dice);
            }
            accepted += u32::from(ext(&mutated));
        }
    }
    assert!(accepted > 300, "{accepted}: the mutations hide what is behind the first check");
}

/// Flips a bit, overwrites a number, cuts the end off, or moves a piece elsewhere; mostly in blocks that have structure.
fn mutate(input: &mut Vec<u8>, dice: &mut Dice) {
    const PIECE: usize = 1028;
    let pieces = input.len() / PIECE;
    let reach = if dice.below(3) == 0 { pieces } else { pieces.min(12) };
    let piece = dice.below(reach) * PIECE;
    let depth = if dice.below(2) == 0 { 64 } else { PIECE - 8 };
    let at = piece + 4 + dice.below(depth);
    let Some(number) = input.get_mut(at..at + 4) else { return };
    match dice.below(8) {
        0 => number.fill(0xFF),
        1 => number.fill(0),
        2 => number[0] = number[0].wrapping_add(1),
        3 => {
            let target = u32::try_from(dice.below(6144)).unwrap().to_le_bytes();
            input[piece..piece + 4].copy_from_slice(&target);
        }
        4 if dice.below(8) == 0 => input.truncate(piece),
        _ => number[dice.below(4)] ^= 1 << dice.below(8),
    }
}
