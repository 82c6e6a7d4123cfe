//! A small `ReiserFS` that crashed, made here byte by byte, and what must hold of whatever becomes of it.
//!
//! The same function is called by the fuzzer in `tests/fuzz` and by tests on the stable toolchain.

#![expect(clippy::must_use_candidate, reason = "helpers of tests are called for what they do")]

use failback_units::{ByteCount, ByteOffset, ByteRange};
use failback_volumes::{FileSystem, Kind, ReadError, Volume, file_systems};
use std::cell::Cell;

/// Where the superblock is, in bytes.
pub const SUPERBLOCK: usize = 64 << 10;

/// More reads of metadata than any volume of this size can be worth.
const READS_MAX: u32 = 10_000;

/// A volume of which only the part from the superblock to the root behind the journal's header, and the second bitmap, are
/// not zeroes.
pub struct Crashed {
    /// From [`SUPERBLOCK`] on.
    pub window: Vec<u8>,
    /// The second bitmap block.
    pub second: Vec<u8>,
    block_size: usize,
    transaction_max: usize,
    reads: Cell<u32>,
}

/// A transaction to be written: its number, its mount, and its blocks with their places.
pub struct Logged<'a> {
    /// Its number.
    pub number: u32,
    /// The mount it is of.
    pub mount: u32,
    /// The blocks, and where they belong.
    pub blocks: Vec<(u32, &'a [u8])>,
}

impl Volume for Crashed {
    fn size(&self) -> ByteCount {
        ByteCount::new(u64::from(self.blocks()) * self.block_size as u64).expect("it is small")
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), ReadError> {
        self.reads.set(self.reads.get() + 1);
        assert!(self.reads.get() < READS_MAX, "it is read for ever");
        let wanted = ByteRange::new(at, ByteCount::of_memory(into.len())).ok_or(ReadError::Beyond)?;
        if !wanted.fits(self.size()) {
            return Err(ReadError::Beyond);
        }
        let at = usize::try_from(at.get()).expect("it is small");
        into.fill(0);
        let second = self.blocks_in_bitmap() * self.block_size;
        for (start, bytes) in [(SUPERBLOCK, &self.window), (second, &self.second)] {
            let (from, to) = (at.max(start), (at + into.len()).min(start + bytes.len()));
            if from < to {
                into[from - at..to - at].copy_from_slice(&bytes[from - start..to - start]);
            }
        }
        Ok(())
    }
}

impl Crashed {
    /// One with blocks of so many bytes and transactions of so many blocks, in which nothing is logged yet. Its first bitmap
    /// has one free block.
    pub fn new(block_size: usize, transaction_max: usize) -> Self {
        let mut made = Self {
            window: vec![0; (2 + 2 * transaction_max + 3 + 2) * block_size],
            second: bits(block_size, &[(0, block_size * 8 - 1)]),
            block_size,
            transaction_max,
            reads: Cell::new(0),
        };
        let first = bits(block_size, &[(0, block_size * 8 - 1)]);
        made.window[block_size..2 * block_size].copy_from_slice(&first);
        let superblock = made.superblock(1);
        made.window[..superblock.len()].copy_from_slice(&superblock);
        let parameters = made.parameters();
        let header = made.header_place();
        made.window[header + 12..header + 44].copy_from_slice(&parameters);
        let root = made.root_place();
        made.window[root..].copy_from_slice(&leaf(block_size));
        made
    }

    /// How many blocks a bitmap block describes.
    pub fn blocks_in_bitmap(&self) -> usize {
        self.block_size * 8
    }

    /// All blocks: a full bitmap and a short one.
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.blocks_in_bitmap() * 2 - 100).expect("it is small")
    }

    /// The superblock's block; the first bitmap follows, then the journal.
    pub fn superblock_block(&self) -> u32 {
        u32::try_from(SUPERBLOCK / self.block_size).expect("it is small")
    }

    /// Blocks in the journal.
    pub fn journal_len(&self) -> usize {
        2 * self.transaction_max + 3
    }

    /// How many blocks a transaction may log.
    pub fn transaction_max(&self) -> usize {
        self.transaction_max
    }

    /// Where in the window a place of the journal is, round the ring.
    pub fn place(&self, place: usize) -> usize {
        (2 + place % self.journal_len()) * self.block_size
    }

    /// Where in the window the journal's header is.
    pub fn header_place(&self) -> usize {
        (2 + self.journal_len()) * self.block_size
    }

    /// The block that is the root.
    pub fn root_block(&self) -> u32 {
        self.superblock_block() + u32::try_from(2 + self.journal_len() + 1).expect("it is small")
    }

    /// Where in the window the root is.
    pub fn root_place(&self) -> usize {
        self.header_place() + self.block_size
    }

    fn parameters(&self) -> Vec<u8> {
        let max = self.transaction_max;
        let numbers = [self.superblock_block() as usize + 2, 0, self.journal_len(), max, 7, max * 900 / 1024, 30, 30];
        words(&numbers)
    }

    /// A superblock that counts so many free blocks, filled up to a block.
    pub fn superblock(&self, free: usize) -> Vec<u8> {
        let mut bytes = words(&[self.blocks() as usize, free, self.root_block() as usize]);
        bytes.extend(self.parameters());
        let block_size = u16::try_from(self.block_size).expect("8192 at most");
        bytes.extend([block_size, 100, 2, 1].into_iter().flat_map(u16::to_le_bytes));
        bytes.extend(b"ReIsEr2Fs\0\0\0");
        bytes.extend(words(&[3]));
        bytes.extend([2, 2, 2, 0].into_iter().flat_map(u16::to_le_bytes));
        bytes.extend(words(&[0, 1]));
        bytes.extend([0x5A; 16]);
        bytes.extend(b"a label\0\0\0\0\0\0\0\0\0");
        bytes.resize(self.block_size, 0);
        bytes
    }

    /// Sets the journal's header.
    pub fn header(&mut self, last_flushed: usize, first_unflushed: usize, mount: usize) {
        let at = self.header_place();
        self.window[at..at + 12].copy_from_slice(&words(&[last_flushed, first_unflushed, mount]));
    }

    /// Writes a transaction at a place of the journal; returns the place behind it.
    pub fn log(&mut self, at: usize, transaction: &Logged) -> usize {
        let len = transaction.blocks.len();
        let (descriptor, commit) = (self.place(at), self.place(at + len + 1));
        let numbers = [transaction.number as usize, len, transaction.mount as usize];
        self.window[descriptor..descriptor + 12].copy_from_slice(&words(&numbers));
        self.window[commit..commit + 8].copy_from_slice(&words(&numbers[..2]));
        let magic = descriptor + self.block_size - 12;
        self.window[magic..magic + 8].copy_from_slice(b"ReIsErLB");
        let room = (self.block_size - 24) / 4;
        for (number, (target, content)) in transaction.blocks.iter().enumerate() {
            let entry = if number < room { descriptor + 12 + 4 * number } else { commit + 8 + 4 * (number - room) };
            self.window[entry..entry + 4].copy_from_slice(&target.to_le_bytes());
            let to = self.place(at + 1 + number);
            self.window[to..to + content.len()].copy_from_slice(content);
        }
        (at + len + 2) % self.journal_len()
    }

    /// One that went down while busy: a transaction that is in its place, and three that are not.
    pub fn busy() -> Self {
        let mut made = Self::new(512, 32);
        let (superblock, size) = (made.superblock_block(), made.block_size);
        let (all, second) = (made.blocks_in_bitmap(), u32::try_from(made.blocks_in_bitmap()).expect("it is small"));
        let short = all - 100;
        let versions = [
            bits(size, &[(0, 250)]),
            bits(size, &[(0, 300)]),
            bits(size, &[(0, 220), (230, 400)]),
            bits(size, &[(0, 220), (230, 400), (600, 610)]),
        ];
        let seconds = [bits(size, &[(0, 1)]), bits(size, &[(0, 1), (5, 50)])];
        let mut superblocks = Vec::new();
        for (first, second) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
            superblocks.push(made.superblock(zeroes(&versions[first], all) + zeroes(&seconds[second], short)));
        }
        made.window[..size].copy_from_slice(&superblocks[0]);
        made.window[size..2 * size].copy_from_slice(&versions[0]);
        made.second.clone_from(&seconds[0]);
        let leaf = vec![0xAB; size];
        let mut at = 40;
        let first = at + 3;
        let logged: [Vec<(u32, &[u8])>; 4] = [
            vec![(superblock, &superblocks[0])],
            vec![(superblock, &superblocks[1]), (superblock + 1, &versions[1]), (280, &leaf)],
            vec![(second, &seconds[1]), (superblock, &superblocks[2]), (superblock + 1, &versions[2]), (350, &leaf)],
            vec![(superblock + 1, &versions[3]), (superblock, &superblocks[3])],
        ];
        for (number, blocks) in (14..).zip(logged) {
            at = made.log(at, &Logged { number, mount: 12, blocks });
        }
        made.header(14, first, 12);
        made
    }

    /// What is found on it.
    pub fn inspected(&self) -> Option<FileSystem> {
        self.reads.set(0);
        let mut found = file_systems(self);
        assert!(found.len() < 2, "nothing else is on it");
        let found = found.pop()?;
        assert_eq!((found.kind, found.checked), (Kind::ReiserFs, false));
        if let Ok(map) = &found.map {
            let size = found.size.expect("a file system with a map has a size");
            assert!(size <= self.size(), "it is no larger than its volume");
            assert!(map.extents().last().is_none_or(|last| last.end() <= size.as_end()), "nothing is free behind it");
            let first = map.extents().first().map_or(u64::MAX, |extent| extent.start().get());
            assert!(first >= SUPERBLOCK as u64 + 116, "its superblock is in use");
        }
        Some(found)
    }
}

/// A busy one with bytes of it changed, three for each change: where, twice, and to what. Returns whether it has a map.
pub fn reiserfs(changes: &[u8]) -> bool {
    let mut crashed = Crashed::busy();
    let (changes, _) = changes.as_chunks::<3>();
    for [low, high, value] in changes {
        let at = usize::from(u16::from_le_bytes([*low, *high])) % (crashed.window.len() + crashed.second.len());
        let len = crashed.window.len();
        let byte = if at < len { &mut crashed.window[at] } else { &mut crashed.second[at - len] };
        *byte = *value;
    }
    crashed.inspected().is_some_and(|found| found.map.is_ok())
}

/// A leaf as `mkreiserfs` leaves the root behind: two items, of 44 and 48 bytes.
pub fn leaf(block_size: usize) -> Vec<u8> {
    let number = |number: usize| u16::try_from(number).expect("8192 at most").to_le_bytes();
    let mut bytes = [1, 2, block_size - 24 - 2 * 24 - 44 - 48].into_iter().flat_map(number).collect::<Vec<_>>();
    for (head, [len, at]) in [[44, block_size - 44], [48, block_size - 92]].into_iter().enumerate() {
        bytes.resize(24 + head * 24 + 18, 0);
        bytes.extend([len, at].into_iter().flat_map(number));
    }
    bytes.resize(block_size, 0);
    bytes
}

/// A node of this level, with these children.
pub fn node(block_size: usize, level: u16, children: &[u32]) -> Vec<u8> {
    let keys = children.len() - 1;
    let free = block_size - 24 - keys * 16 - children.len() * 8;
    let numbers = [level.into(), keys, free];
    let mut bytes = Vec::new();
    for number in numbers {
        bytes.extend(u16::try_from(number).expect("8192 at most").to_le_bytes());
    }
    bytes.resize(24 + keys * 16, 0);
    bytes.extend(children.iter().flat_map(|child| [child.to_le_bytes(), [0; 4]]).flatten());
    bytes.resize(block_size, 0);
    bytes
}

/// A bitmap block in which these blocks are in use: from the first, and up to the second.
pub fn bits(block_size: usize, used: &[(usize, usize)]) -> Vec<u8> {
    let mut bits = vec![0; block_size];
    for bit in used.iter().flat_map(|(start, end)| *start..*end) {
        bits[bit / 8] |= 1 << (bit % 8);
    }
    bits
}

/// How many of the first `count` blocks a bitmap calls free.
pub fn zeroes(bits: &[u8], count: usize) -> usize {
    (0..count).filter(|bit| bits[bit / 8] & (1 << (bit % 8)) == 0).count()
}

/// Numbers as they stand on the disk.
fn words(numbers: &[usize]) -> Vec<u8> {
    numbers.iter().flat_map(|number| u32::try_from(*number).expect("it is small").to_le_bytes()).collect()
}
