//! The log as a ring of basic blocks of 512 bytes.

use crate::volume::bytes;
use crate::xfs::layout::{BASIC_BLOCK, RECORD_MAGIC};
use crate::{Unclear, Volume};

/// Basic blocks that are read at a time when the log is read from one end to the other: 1 MiB.
const WINDOW: u32 = 2048;

/// A basic block in memory.
pub(super) const BLOCK_LEN: usize = BASIC_BLOCK as usize;

/// The log, with the part of it that was read last.
pub(super) struct Ring<'a> {
    volume: &'a dyn Volume,
    /// In bytes.
    start: u64,
    blocks: u32,
    window: Vec<u8>,
    window_start: u32,
}

impl<'a> Ring<'a> {
    /// A log of `blocks` basic blocks from byte `start` on.
    pub(super) fn new(volume: &'a dyn Volume, start: u64, blocks: u32) -> Self {
        Self { volume, start, blocks, window: Vec::new(), window_start: 0 }
    }

    /// Its basic blocks.
    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The place `count` basic blocks behind `at`; `count` is at most the ring's length.
    pub(super) fn after(&self, at: u32, count: u32) -> u32 {
        let place = (u64::from(at) + u64::from(count)) % u64::from(self.blocks.max(1));
        u32::try_from(place).expect("it is less than the ring's length")
    }

    /// The place `count` basic blocks before `at`; `count` is at most the ring's length.
    pub(super) fn before(&self, at: u32, count: u32) -> u32 {
        self.after(at, self.blocks.saturating_sub(count))
    }

    /// How far it is from one place forward to another.
    pub(super) fn distance(&self, from: u32, to: u32) -> u32 {
        if from <= to { to - from } else { self.blocks - from + to }
    }

    /// Some basic blocks, around the end of the ring if need be. `count` is bounded by the caller: it is allocated.
    pub(super) fn read(&self, at: u32, count: u32) -> Result<Vec<u8>, Unclear> {
        let until_end = count.min(self.blocks.saturating_sub(at));
        let mut out = self.read_straight(at, until_end)?;
        if until_end < count {
            out.extend(self.read_straight(0, count - until_end)?);
        }
        Ok(out)
    }

    /// The same, reading ahead: for who goes through it from one end to the other.
    pub(super) fn read_next(&mut self, at: u32, count: u32) -> Result<Vec<u8>, Unclear> {
        let mut out = Vec::with_capacity(byte_len(count));
        let (mut at, mut left) = (at, count);
        while left > 0 {
            let held = u32::try_from(self.window.len() / BLOCK_LEN).expect("a window is short");
            let inside = at.checked_sub(self.window_start).filter(|inside| *inside < held);
            let Some(inside) = inside else {
                self.window = self.read_straight(at, WINDOW.min(self.blocks.saturating_sub(at)))?;
                self.window_start = at;
                if self.window.is_empty() {
                    return Err(Unclear::because("its log points behind its own end"));
                }
                continue;
            };
            let count = left.min(held - inside);
            out.extend_from_slice(&self.window[byte_len(inside)..byte_len(inside + count)]);
            left -= count;
            at = self.after(at, count);
        }
        Ok(out)
    }

    fn read_straight(&self, at: u32, count: u32) -> Result<Vec<u8>, Unclear> {
        let place = self.start.checked_add(u64::from(at) * u64::from(BASIC_BLOCK));
        Ok(bytes(self.volume, place.unwrap_or(u64::MAX), byte_len(count))?)
    }

    /// The cycle of a basic block: how often the log had been written around when it was written.
    pub(super) fn cycle(&self, at: u32) -> Result<u32, Unclear> {
        Ok(cycle_of(&self.read(at, 1)?))
    }

    /// The first of some basic blocks, which do not go around the end, that has this cycle.
    pub(super) fn first_with(&self, cycle: u32, at: u32, count: u32) -> Result<Option<u32>, Unclear> {
        let found = self.read(at, count)?.chunks_exact(BLOCK_LEN).position(|block| cycle_of(block) == cycle);
        Ok(found.and_then(|index| u32::try_from(index).ok()).map(|index| at + index))
    }
}

/// The length of basic blocks in bytes.
pub(super) fn byte_len(blocks: u32) -> usize {
    usize::try_from(blocks).expect("32 bits fit in memory") * BLOCK_LEN
}

/// The cycle of a basic block: its first word, or its second where the first says that a record begins.
pub(super) fn cycle_of(block: &[u8]) -> u32 {
    let word = |at: usize| block.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |w| u32::from_be_bytes(*w));
    if word(0) == RECORD_MAGIC { word(4) } else { word(0) }
}
