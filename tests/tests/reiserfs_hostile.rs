//! `ReiserFS` that is damaged or lies: never a panic, and never more free space than its journal leaves.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::fuzz_reiserfs::{Crashed, Logged, bits, leaf, node, reiserfs};
use failback_tests::lab::noise;
use failback_units::{ByteCount, ByteOffset};
use failback_volumes::{FreeMap, ReadError, State, Volume, file_systems};

/// Whether everything that is free in one is free in the other.
fn is_within(one: &FreeMap, other: &FreeMap) -> bool {
    one.extents().iter().all(|extent| other.covers(*extent))
}

#[track_caller]
fn map_of(crashed: &Crashed) -> FreeMap {
    crashed.inspected().unwrap().map.unwrap()
}

#[track_caller]
fn refused(crashed: &Crashed, words: &str) {
    let reason = crashed.inspected().unwrap().map.unwrap_err().to_string();
    assert!(reason.contains(words), "{reason}");
}

/// The free blocks of a map of blocks of 512 bytes.
fn blocks(map: &FreeMap) -> Vec<(u64, u64)> {
    map.extents().iter().map(|extent| (extent.start().get() / 512, extent.end().get() / 512)).collect()
}

#[test]
fn both_versions_must_call_a_block_free() {
    let busy = Crashed::busy();
    let found = busy.inspected().unwrap();
    assert_eq!(found.state, State::Replayed { transactions: 3 });
    assert_eq!((found.version, found.label.as_deref()), (Some("3.6"), Some("a label")));
    assert_eq!(blocks(&found.map.unwrap()), [(400, 600), (610, 4096), (4097, 4101), (4146, 8092)]);
}

/// What a kernel would make of a busy one: everything replayed, or all but the last transaction, whose end is then torn.
fn honest() -> [FreeMap; 2] {
    // Its newest bitmaps, as `Crashed::busy` logs them.
    [(55, 1), (51, 0)].map(|(newest, whole)| {
        let mut replayed = Crashed::busy();
        let (first, second) = (replayed.place(newest), replayed.place(49));
        replayed.window.copy_within(first..first + 512, 512);
        replayed.second.copy_from_slice(&replayed.window[second..second + 512]);
        let commit = replayed.place(57);
        replayed.window[commit] ^= 1 - whole;
        map_of(&replayed)
    })
}

/// Flips a bit of the window, or of the second bitmap behind it.
fn flip(crashed: &mut Crashed, place: usize, bit: u32) {
    let len = crashed.window.len();
    let byte = if place < len { &mut crashed.window[place] } else { &mut crashed.second[place - len] };
    *byte ^= 1 << bit;
}

#[test]
fn no_flipped_bit_frees_anything() {
    let (mut busy, honest) = (Crashed::busy(), honest());
    let (mut flips, mut accepted) = (0, 0);
    // The superblock, the first bitmap, all of the transactions' blocks, the header, and the second bitmap.
    let (journal, header) = (busy.place(40)..busy.place(58), busy.header_place());
    let places = (0..204).chain(512..1024).chain(journal).chain(header..header + 44);
    let places = places.chain(busy.window.len()..busy.window.len() + 512);
    for (place, bit) in places.flat_map(|place| (0..8).map(move |bit| (place, bit))) {
        flip(&mut busy, place, bit);
        let found = busy.inspected();
        flip(&mut busy, place, bit);
        flips += 1;
        let Some(found) = found else { continue };
        let Ok(map) = found.map else { continue };
        accepted += 1;
        let is_honest = honest.iter().any(|honest| is_within(&map, honest));
        assert!(is_honest, "bit {bit} of byte {place} frees something: {:?} {:?}", found.state, blocks(&map));
    }
    println!("{flips} flipped bits, {accepted} of them without consequence for the map");
    assert!(accepted > 100 && accepted < flips);
}

#[test]
fn nothing_makes_it_panic() {
    let mut accepted = 0;
    for seed in 0..6000_u64 {
        let changes = noise(3 + usize::try_from(seed % 16).unwrap() * 3, seed);
        accepted += u32::from(reiserfs(&changes));
    }
    // Any one of the journal's blocks, and any stretch of bytes, torn off or overwritten.
    for seed in 0..3000_u64 {
        let mut crashed = Crashed::busy();
        let dice = noise(16, seed ^ 0x5151);
        let start = usize::from(u16::from_le_bytes([dice[0], dice[1]])) % crashed.window.len();
        let end = (start + usize::from(dice[2]) * 8).min(crashed.window.len());
        let fill = if dice[3] < 128 { vec![0; end - start] } else { noise(end - start, seed) };
        crashed.window[start..end].copy_from_slice(&fill);
        accepted += u32::from(crashed.inspected().is_some_and(|found| found.map.is_ok()));
    }
    println!("{accepted} of 9000 have a map");
    assert!(accepted > 100);
}

/// A volume with two short transactions from a place on, after a flushed one that ends there.
fn two(at: usize, mounts: [u32; 3]) -> Crashed {
    let mut made = Crashed::new(512, 32);
    let superblock = made.superblock(1);
    let blocks = || vec![(128, &superblock[..])];
    let mut next = at;
    for (number, mount) in (20..).zip(mounts) {
        next = made.log(next, &Logged { number, mount, blocks: blocks() });
    }
    made.header(20, (at + 3) % made.journal_len(), 30);
    made
}

#[test]
fn a_journal_is_followed_as_the_kernel_does() {
    let replayed = |crashed: &Crashed| {
        let found = crashed.inspected().unwrap();
        found.map.unwrap_or_else(|reason| panic!("{reason}"));
        match found.state {
            State::Clean => 0,
            State::Replayed { transactions } => transactions,
            state => panic!("{state:?}"),
        }
    };
    // Anywhere in the ring, also across its end.
    let len = Crashed::new(512, 32).journal_len();
    for at in [0, 1, 30, len - 9, len - 8, len - 5, len - 4, len - 3, len - 2, len - 1] {
        assert_eq!(replayed(&two(at, [30; 3])), 2, "{at}");
    }
    // A torn tail ends it.
    let mut torn = two(10, [30; 3]);
    let commit = torn.place(10 + 8);
    torn.window[commit] = 0;
    assert_eq!(replayed(&torn), 1);
    // Something missing before a committed one is damage.
    let mut missing = two(10, [30; 3]);
    let commit = missing.place(10 + 5);
    missing.window[commit] = 0;
    refused(&missing, "transaction 22 was committed, and one before it is missing");
    // So is a newer transaction of another mount than the header's.
    refused(&two(10, [30, 30, 31]), "transaction 22 was committed");
    refused(&two(10, [30, 29, 29]), "transaction 21 was committed");
    // And a number that was left out.
    let mut jump = two(10, [30; 3]);
    for place in [16, 18] {
        let at = jump.place(place);
        jump.window[at] = 23;
    }
    refused(&jump, "transaction 23 in its journal is out of order");
    // A header that skips them.
    let mut skipping = two(10, [30; 3]);
    skipping.header(22, 19, 30);
    assert_eq!(replayed(&skipping), 0);
    skipping.header(22, 18, 30);
    refused(&skipping, "transaction 22 is not where the header of its journal says");
    skipping.header(23, 19, 30);
    refused(&skipping, "transaction 23 is not where the header of its journal says");
}

#[test]
fn a_fresh_journal_is_searched_for_its_oldest() {
    let searched = |mounts: [u32; 3]| {
        let mut made = two(10, mounts);
        made.header(0, 0, 0);
        made
    };
    assert_eq!(searched([10; 3]).inspected().unwrap().state, State::Replayed { transactions: 3 });
    // The kernel leaves those of an older mount out, or stops at them; either way something committed is not replayed.
    refused(&searched([10, 11, 11]), "was committed");
    assert!(searched([11, 11, 10]).inspected().unwrap().map.is_err());
    // Nothing at all.
    let mut fresh = Crashed::new(512, 32);
    fresh.header(0, 0, 0);
    assert_eq!(fresh.inspected().unwrap().state, State::Clean);
}

#[test]
fn a_list_of_places_runs_on_in_the_commit_block() {
    let mut made = Crashed::new(1024, 256);
    let superblock_block = made.superblock_block();
    let full = bits(1024, &[(0, 8192)]);
    let superblock = made.superblock(0);
    let leaf = [1; 1024];
    // 250 places are in the descriptor. The superblock and the bitmap come behind them.
    let mut blocks: Vec<(u32, &[u8])> = (0..254).map(|number| (4000 + number, &leaf[..])).collect();
    blocks.push((superblock_block, &superblock));
    blocks.push((superblock_block + 1, &full));
    assert_eq!(blocks.len(), made.transaction_max());
    assert_eq!(map_of(&made).bytes().get(), 1024);
    made.log(300, &Logged { number: 10, mount: 10, blocks });
    assert!(map_of(&made).is_empty());
    assert_eq!(made.inspected().unwrap().state, State::Replayed { transactions: 1 });
}

#[test]
fn a_transaction_that_writes_where_it_must_not() {
    for (target, is_fine) in
        [(0, false), (127, false), (128, true), (129, false), (130, false), (8091, true), (8092, false)]
    {
        let mut made = Crashed::new(512, 32);
        made.window[512..1024].copy_from_slice(&bits(512, &[(0, 4095)]));
        let superblock = made.superblock(1);
        made.window[..512].copy_from_slice(&superblock);
        made.second = bits(512, &[(0, 4096)]);
        made.log(0, &Logged { number: 10, mount: 10, blocks: vec![(target, &superblock)] });
        assert_eq!(made.inspected().unwrap().map.is_ok(), is_fine, "{target}");
    }
}

#[test]
fn a_superblock_is_not_believed() {
    let with = |at: usize, bytes: &[u8]| {
        let mut made = Crashed::busy();
        made.window[at..at + bytes.len()].copy_from_slice(bytes);
        made
    };
    for (at, bytes, words) in [
        (0, &[0xFF; 4][..], "bytes of a volume that has"),
        (8, &[0xFF; 4], "a rebuild of its tree was broken off"),
        (8, &[3, 0, 0, 0], "the root of its tree lies outside of it"),
        (12, &[129, 0, 0, 0], "cannot begin at block 129"),
        (12, &[0xFF; 4], "cannot begin at block 4294967295"),
        (16, &[1, 8, 0, 0], "its journal is on another device"),
        (20, &[0xFF; 4], "its journal of 4294967295 blocks"),
        (44, &[0, 0], "its blocks have an impossible size, 0 bytes"),
        (44, &[0, 0x40], "impossible size, 16384 bytes"),
        (44, &[0, 3], "impossible size, 768 bytes"),
        (50, &[3, 0], "a version, a flag or a state that is not known"),
        (52, b"ReIsEr3Fs", "its journal is on another device"),
        (62, &[1, 0], "a check called it damaged"),
        (64, &[4, 0], "a version, a flag or a state that is not known"),
        (70, &[3, 0], "it claims 3 bitmap blocks where it must have 2"),
        (80, &[3, 0], "a version, a flag or a state that is not known"),
    ] {
        refused(&with(at, bytes), words);
    }
    // A journal of its own sort, on this device: its magic must be the header's.
    let mut own = with(52, b"ReIsEr3Fs");
    let reserved = u16::try_from(own.journal_len() + 1).unwrap().to_le_bytes();
    own.window[74..76].copy_from_slice(&reserved);
    refused(&own, "its journal changes its size or its format");
    let header = own.header_place();
    own.window[header + 28] ^= 1;
    refused(&own, "its journal belongs to another file system");
    let limit = with(header + 24, &[0, 0, 0, 0]);
    refused(&limit, "the limits in the header of its journal are impossible");
}

#[test]
fn what_must_be_in_use_is() {
    let with_free = |first: &[usize], second: &[usize]| {
        let mut made = Crashed::new(512, 32);
        let mut versions = [bits(512, &[(0, 4096)]), bits(512, &[(0, 4096)])];
        for (version, free) in versions.iter_mut().zip([first, second]) {
            for block in free {
                version[block / 8] &= !(1 << (block % 8));
            }
        }
        let superblock = made.superblock(first.len() + second.len());
        made.window[..512].copy_from_slice(&superblock);
        made.window[512..1024].copy_from_slice(&versions[0]);
        made.second.copy_from_slice(&versions[1]);
        made
    };
    // Behind the journal's header and the root everything may be free.
    assert_eq!(blocks(&map_of(&with_free(&[199], &[1]))), [(199, 200), (4097, 4098)]);
    for block in [0, 127, 128, 129, 130, 196, 197, 198] {
        refused(&with_free(&[block], &[]), "bitmap 0 calls blocks free that hold its superblock");
    }
    refused(&with_free(&[], &[0]), "bitmap 1 calls blocks free");
}

/// A file system of more bitmaps than a number of 16 bits counts: each has its own bit set, as `mkreiserfs` leaves them.
struct Many(Crashed);

impl Many {
    const BITMAPS: u64 = 65_540;
    const BLOCKS: u64 = Self::BITMAPS * 4096;

    fn new(stated: u16) -> Self {
        let mut made = Crashed::new(512, 32);
        made.window[512..1024].copy_from_slice(&bits(512, &[(0, 4095)]));
        let free = 1 + (Self::BITMAPS - 1) * 4095;
        for (at, number) in [(0, Self::BLOCKS), (4, free)] {
            made.window[at..at + 4].copy_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
        }
        made.window[70..72].copy_from_slice(&stated.to_le_bytes());
        Self(made)
    }
}

impl Volume for Many {
    fn size(&self) -> ByteCount {
        ByteCount::new(Self::BLOCKS * 512).unwrap()
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), ReadError> {
        if at.get() < 4096 * 512 {
            return self.0.read(at, into);
        }
        into.fill(0);
        into[0] = u8::from((at.get() / 512).is_multiple_of(4096));
        Ok(())
    }
}

#[test]
fn more_bitmaps_than_the_superblock_can_count() {
    for stated in [0, 4] {
        let found = file_systems(&Many::new(stated)).pop().unwrap();
        let map = found.map.unwrap();
        assert_eq!(map.extents().len() as u64, Many::BITMAPS);
        assert_eq!(map.bytes().get(), (1 + (Many::BITMAPS - 1) * 4095) * 512);
        assert_eq!(found.remarks, ["its superblock cannot count 65540 bitmap blocks, so their number was computed"]);
    }
    let wrong = file_systems(&Many::new(5)).pop().unwrap();
    assert!(wrong.map.unwrap_err().to_string().contains("it claims 5 bitmap blocks where it must have 65540"));
}

/// One whose root, block 198, has leaves as children; all of them are in their places.
struct Tall {
    made: Crashed,
    /// The children, behind the root and in the window.
    children: Vec<u32>,
}

impl Tall {
    fn new(children: u32) -> Self {
        let mut made = Crashed::new(512, 32);
        let children: Vec<u32> = (1..=children).map(|number| made.root_block() + number).collect();
        let root = made.root_place();
        made.window.truncate(root);
        made.window.extend(node(512, 2, &children));
        made.window.extend(leaf(512).repeat(children.len()));
        made.window[68] = 3;
        Self { made, children }
    }

    /// Where in the window a child is, counted from 0.
    fn child(&self, number: usize) -> usize {
        self.made.root_place() + (1 + number) * 512
    }

    fn refused(&self, words: &str) {
        refused(&self.made, words);
    }
}

/// Superblock, bitmaps and journal of a file system that something else has overwritten.
#[test]
fn what_is_left_under_something_else_is_not_believed() {
    let is_no_node = |block: u32| format!("block {block} is not the node of its tree that it should be");
    let mut over = Crashed::new(512, 32);
    map_of(&over);
    let root = over.root_place();
    for content in [vec![0; 512], vec![0xFF; 512], noise(512, 7), node(512, 2, &[300, 301])] {
        over.window[root..].copy_from_slice(&content);
        refused(&over, &is_no_node(198));
    }
    // The root alone is left. All of its first children must be there.
    for number in 0..3 {
        let mut tall = Tall::new(3);
        map_of(&tall.made);
        let at = tall.child(number);
        tall.made.window[at..at + 512].copy_from_slice(&noise(512, 8));
        tall.refused(&is_no_node(tall.children[number]));
    }
    // A root of one level for another, and levels that no root has.
    let mut tall = Tall::new(3);
    for (height, words) in [
        (2, is_no_node(198)),
        (4, is_no_node(198)),
        (0, "its tree cannot have a height of 0".to_owned()),
        (1, "its tree cannot have a height of 1".to_owned()),
        (7, "its tree cannot have a height of 7".to_owned()),
    ] {
        tall.made.window[68] = height;
        tall.refused(&words);
    }
    // Of a root with very many children only the first are read.
    let mut wide = Tall::new(18);
    let (last_read, behind) = (wide.child(15), wide.child(16));
    wide.made.window[behind] ^= 1;
    map_of(&wide.made);
    wide.made.window[last_read] ^= 1;
    wide.refused(&is_no_node(wide.children[15]));
}

#[test]
fn nodes_lie_where_nodes_can() {
    // Before the superblock, in it, a bitmap, the journal, its header, the second bitmap, behind the end, far behind.
    for block in [0, 127, 128, 129, 130, 196, 197, 4096, 8092, u32::MAX] {
        let mut tall = Tall::new(2);
        let root = tall.made.root_place();
        tall.made.window[root..root + 512].copy_from_slice(&node(512, 2, &[tall.children[0], block]));
        tall.refused(&format!("a block of its tree cannot be block {block}"));
    }
    for block in [130, 197, 4096] {
        let mut made = Crashed::new(512, 32);
        made.window[8..12].copy_from_slice(&u32::to_le_bytes(block));
        refused(&made, &format!("a block of its tree cannot be block {block}"));
    }
    // A child that the bitmap calls free.
    let mut tall = Tall::new(2);
    tall.made.window[512..1024].copy_from_slice(&bits(512, &[(0, 200), (201, 4096)]));
    tall.refused("bitmap 0 calls blocks free that hold its superblock");
}

/// The tree that counts is the one that the replay leaves behind.
#[test]
fn nodes_are_those_that_the_journal_brings() {
    let with = |logged: Vec<(u32, Vec<u8>)>| {
        let mut made = Crashed::new(512, 32);
        let blocks = logged.iter().map(|(block, content)| (*block, content.as_slice())).collect();
        made.log(0, &Logged { number: 10, mount: 10, blocks });
        made
    };
    // One on the disk that is no node yet, or no longer.
    let mut late = with(vec![(198, leaf(512))]);
    let root = late.root_place();
    late.window[root..].fill(0);
    map_of(&late);
    // One in the journal that is none.
    refused(&with(vec![(198, noise(512, 9))]), "block 198 is not the node");
    // A new root above the old one: the superblock names it, and all but one of its leaves are new, too.
    let taller = |second: Vec<u8>| {
        let mut superblock = Crashed::new(512, 32).superblock(1);
        superblock[8..12].copy_from_slice(&u32::to_le_bytes(300));
        superblock[68] = 3;
        with(vec![(300, node(512, 2, &[198, 301])), (301, second), (128, superblock)])
    };
    map_of(&taller(leaf(512)));
    refused(&taller(vec![0; 512]), "block 301 is not the node");
    let mut torn = taller(leaf(512));
    let old_leaf = torn.root_place();
    torn.window[old_leaf] = 0;
    refused(&torn, "block 198 is not the node");
}
