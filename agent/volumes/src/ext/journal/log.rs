//! The log of a journal: its superblock, and its blocks by their place in it.

use super::layout::{
    CHECKSUM_CRC32C, HEADER_LEN, Header, JOURNAL_CHECKSUM_AT, JOURNAL_SUPERBLOCK_LEN, JournalSuperblock, MAGIC,
    block_type, feature,
};
use super::places::Places;
use crate::Unclear;
use crate::ext::blocks::Blocks;
use crate::ext::checksum::{CRC32C_START, crc32c};
use crate::ext::geometry::Geometry;
use std::ops::Range;
use zerocopy::FromBytes;

/// How blocks of the log are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checks {
    /// By their signature and number only.
    None,
    /// By crc32c, of which tags have the lower half.
    V2 { seed: u32 },
    /// By crc32c.
    V3 { seed: u32 },
}

impl Checks {
    /// What a checksum starts from, where there are any.
    pub(super) fn seed(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::V2 { seed } | Self::V3 { seed } => Some(seed),
        }
    }
}

/// A log, found and understood as far as its superblock goes.
pub(super) struct Log<'a> {
    blocks: Blocks<'a>,
    places: Places,
    /// Bytes of a block.
    pub(super) block_len: usize,
    /// Its blocks begin here and end before `end`, and then begin again.
    pub(super) first: u64,
    end: u64,
    /// Where its first transaction begins; 0 if there is none.
    pub(super) start: u64,
    /// The number of its first transaction.
    pub(super) sequence: u32,
    /// Whether block numbers have 64 bits.
    pub(super) wide: bool,
    pub(super) checks: Checks,
    /// Why its transactions cannot be followed, if there are any.
    refusal: Option<&'static str>,
}

impl<'a> Log<'a> {
    /// The log of the journal in an inode.
    pub(super) fn open(geometry: &Geometry, blocks: Blocks<'a>, inode: u32) -> Result<Self, Unclear> {
        let places = Places::of_inode(geometry, blocks, inode)?;
        let wrong = |what: &str| Unclear::because(format!("its journal's superblock is wrong: {what}"));
        let (at, _) = places.find(0).ok_or_else(|| wrong("it is not there"))?;
        let block = blocks.one(at)?;
        let (head, _) = JournalSuperblock::ref_from_prefix(&block).map_err(|_| wrong("it is cut short"))?;
        let has_features = match (head.header.magic.get(), head.header.block_type.get()) {
            (MAGIC, block_type::SUPERBLOCK_V2) => true,
            (MAGIC, block_type::SUPERBLOCK_V1) => false,
            _ => return Err(wrong("its signature is not there")),
        };
        let incompatible = if has_features { head.incompatible.get() } else { 0 };
        let checks = checks(&block, head, incompatible)?;
        let (first, end, start) = (head.first.get().into(), head.blocks.get().into(), head.start.get().into());
        if head.block_size.get() != geometry.block_size {
            return Err(wrong("the size of a block"));
        }
        if first == 0 || first >= end || end > places.count() {
            return Err(wrong("where the log lies"));
        }
        if start != 0 && !(first..end).contains(&start) {
            return Err(wrong("where the log begins"));
        }
        if head.error.get() != 0 {
            return Err(Unclear::because("its journal notes an error of the file system: let e2fsck check it"));
        }
        Ok(Self {
            blocks,
            places,
            block_len: geometry.block_len(),
            first,
            end,
            start,
            sequence: head.sequence.get(),
            wide: incompatible & feature::SIXTY_FOUR_BIT != 0,
            checks,
            refusal: if has_features { refusal(head) } else { None },
        })
    }

    /// The blocks of the file system that the journal lies in.
    pub(super) fn places(&self) -> Vec<Range<u64>> {
        self.places.in_order()
    }

    /// Refuses what cannot be followed although it is there.
    pub(super) fn accept(&self) -> Result<(), Unclear> {
        self.refusal.map_or(Ok(()), |why| Err(Unclear::because(why)))
    }

    /// How many blocks of the log there are.
    pub(super) fn len(&self) -> u64 {
        self.end - self.first
    }

    /// The place `count` blocks further, around the end where it comes; at most once around.
    pub(super) fn further(&self, at: u64, count: u64) -> u64 {
        let next = at.saturating_add(count);
        if next >= self.end { next - self.end + self.first } else { next }
    }

    /// Where a block of the log lies on the volume, and how many lie in a row with it before the log's end.
    pub(super) fn find(&self, at: u64) -> Result<(u64, u64), Unclear> {
        let found = self.places.find(at).map(|(block, count)| (block, count.min(self.end.saturating_sub(at))));
        found.filter(|(_, count)| *count > 0).ok_or_else(|| Unclear::because("its journal points behind its own end"))
    }

    /// Fills `into`, a whole number of blocks, from the block at `at` on, around the end where it comes.
    pub(super) fn read(&self, mut at: u64, into: &mut [u8]) -> Result<(), Unclear> {
        let mut left = into;
        while !left.is_empty() {
            let (block, count) = self.find(at)?;
            let len = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(self.block_len).min(left.len());
            let (piece, rest) = left.split_at_mut(len);
            self.blocks.read(block, piece)?;
            at = self.further(at, count);
            left = rest;
        }
        Ok(())
    }
}

/// The head of a block of the journal's own, `None` where it is none.
pub(super) fn header(block: &[u8]) -> Option<Header> {
    const _: () = assert!(HEADER_LEN <= JOURNAL_SUPERBLOCK_LEN);
    let (header, _) = Header::read_from_prefix(block).ok()?;
    (header.magic.get() == MAGIC).then_some(header)
}

/// How blocks are checked, after the superblock's own checksum was found to be right.
fn checks(block: &[u8], head: &JournalSuperblock, incompatible: u32) -> Result<Checks, Unclear> {
    let (v2, v3) = (incompatible & feature::CHECKSUM_V2 != 0, incompatible & feature::CHECKSUM_V3 != 0);
    if !v2 && !v3 {
        return Ok(Checks::None);
    }
    let crc = crc32c(CRC32C_START, &block[..JOURNAL_CHECKSUM_AT]);
    let crc = crc32c(crc32c(crc, &[0; 4]), &block[JOURNAL_CHECKSUM_AT + 4..JOURNAL_SUPERBLOCK_LEN]);
    if (v2 && v3) || head.checksum_type != CHECKSUM_CRC32C || crc != head.checksum.get() {
        return Err(Unclear::because("its journal's superblock has a wrong checksum"));
    }
    let seed = crc32c(CRC32C_START, &head.uuid);
    Ok(if v3 { Checks::V3 { seed } } else { Checks::V2 { seed } })
}

/// Why a log with these features is not followed.
fn refusal(head: &JournalSuperblock) -> Option<&'static str> {
    use feature::{ASYNC_COMMIT, CHECKSUM_V1, CHECKSUM_V2, CHECKSUM_V3, FAST_COMMIT, REVOKE, SIXTY_FOUR_BIT};
    let (compatible, incompatible) = (head.compatible.get(), head.incompatible.get());
    let known = REVOKE | SIXTY_FOUR_BIT | ASYNC_COMMIT | CHECKSUM_V2 | CHECKSUM_V3;
    if incompatible & FAST_COMMIT != 0 {
        Some("its journal has fast commits, which are not followed")
    } else if compatible & CHECKSUM_V1 != 0 {
        Some("its journal has checksums of an old kind, which are not followed")
    } else if compatible != 0 || incompatible & !known != 0 || head.read_only_compatible.get() != 0 {
        Some("its journal has features that are not known")
    } else if incompatible & ASYNC_COMMIT != 0 && incompatible & (CHECKSUM_V2 | CHECKSUM_V3) == 0 {
        Some("its journal commits before all is written, and has no checksums")
    } else {
        None
    }
}
