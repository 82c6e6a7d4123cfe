//! Reading metadata: as it is on the disk, or as recovery would leave it.
//!
//! A block of version 5 vouches for itself by its checksum. A block that the log was laid over cannot: its checksum is
//! computed when it is written. Then the checksum of what lies below has to be right, or everything that counts of the block
//! has to come from the log, whose records have checksums of their own.

use super::layout::{BASIC_BLOCK, CHUNK, FREE_LIST_MAGIC, GROUP_MAGIC, TREE_MAGIC_V4, TREE_MAGIC_V5, checksum_at};
use super::log::Replay;
use super::superblock::{Superblock, has_checksum};
use crate::volume::bytes;
use crate::{Unclear, Volume};
use std::ops::Range;

/// The most that is read at once, in bytes.
const PIECE: usize = 1 << 20;

/// Blocks that lie no further apart than this, in bytes, are read with what is between them.
const GAP: u64 = 32 << 10;

/// A kind of metadata with a header: where it says what it is.
pub(super) struct Kind {
    magic_v4: Option<u32>,
    magic: u32,
    uuid_at: usize,
    lsn_at: usize,
    checksum_at: usize,
}

/// The header of a group.
pub(super) const GROUP: Kind =
    Kind { magic_v4: Some(GROUP_MAGIC), magic: GROUP_MAGIC, uuid_at: 64, lsn_at: 208, checksum_at: checksum_at::GROUP };

/// The free list of a group.
pub(super) const FREE_LIST: Kind =
    Kind { magic_v4: None, magic: FREE_LIST_MAGIC, uuid_at: 8, lsn_at: 24, checksum_at: checksum_at::FREE_LIST };

/// A block of the tree of free space.
pub(super) const TREE: Kind = Kind {
    magic_v4: Some(TREE_MAGIC_V4),
    magic: TREE_MAGIC_V5,
    uuid_at: 32,
    lsn_at: 24,
    checksum_at: checksum_at::TREE,
};

/// Where metadata is read from.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'a> {
    pub(super) volume: &'a dyn Volume,
    pub(super) superblock: &'a Superblock,
    /// What the log makes of it; `None` for what is on the disk.
    pub(super) replay: Option<&'a Replay>,
}

/// A piece of metadata.
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    /// Whether what is on the disk is of this kind and intact.
    is_sound: bool,
    /// The chunks that came from the log.
    laid: Vec<u16>,
}

impl Buffer {
    /// Whether these bytes are vouched for: by the checksum on the disk, or since they all come from the log.
    pub(super) fn vouches_for(&self, bytes: Range<usize>) -> bool {
        let mut chunks = bytes.start / CHUNK..bytes.end.div_ceil(CHUNK);
        self.is_sound
            || chunks.all(|chunk| u16::try_from(chunk).is_ok_and(|chunk| self.laid.binary_search(&chunk).is_ok()))
    }

    /// Whether anything of it came from the log.
    pub(super) fn is_replayed(&self) -> bool {
        !self.laid.is_empty()
    }
}

impl Metadata<'_> {
    /// A sector of a group's header.
    pub(super) fn sector(&self, kind: &Kind, group: u32, sector: u64) -> Result<Buffer, Unclear> {
        let at = self.superblock.header_byte(group, sector);
        let len = usize::try_from(self.superblock.sector_size).expect("a sector fits in memory");
        let base = bytes(self.volume, at, len)?;
        Ok(self.recover(kind, at, base))
    }

    /// The superblock, of which the one on the disk is known to be intact.
    pub(super) fn superblock(&self) -> Result<Buffer, Unclear> {
        let len = usize::try_from(self.superblock.sector_size).expect("a sector fits in memory");
        let mut bytes = bytes(self.volume, 0, len)?;
        let patch = self.replay.and_then(|replay| replay.patches.at(0));
        let laid = patch.map(|patch| patch.lay_over(&mut bytes, self.superblock.lsn)).unwrap_or_default();
        Ok(Buffer { bytes, is_sound: true, laid })
    }

    /// How many blocks to ask for at once.
    pub(super) fn batch(&self) -> usize {
        PIECE / self.block_len()
    }

    fn block_len(&self) -> usize {
        usize::try_from(self.superblock.block_size).expect("a block fits in memory")
    }

    /// Blocks of a group, in the order asked for; at most [`batch`](Self::batch) of them. Neighbours on the disk are read
    /// together.
    pub(super) fn blocks(&self, kind: &Kind, group: u32, blocks: &[u32]) -> Result<Vec<Buffer>, Unclear> {
        let len = self.block_len();
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by_key(|index| blocks[*index]);
        let mut out: Vec<Option<Buffer>> = blocks.iter().map(|_| None).collect();
        let mut rest = &order[..];
        while let Some(first) = rest.first() {
            let run = self.run(blocks, rest);
            let start = self.superblock.byte_of(group, blocks[*first]);
            let last = self.superblock.byte_of(group, blocks[rest[run - 1]]);
            let count = usize::try_from(last - start).expect("a run is short") + len;
            let read = bytes(self.volume, start, count)?;
            for index in &rest[..run] {
                let at = self.superblock.byte_of(group, blocks[*index]);
                let inside = usize::try_from(at - start).expect("a run is short");
                out[*index] = Some(self.recover(kind, at, read[inside..inside + len].to_vec()));
            }
            rest = &rest[run..];
        }
        Ok(out.into_iter().flatten().collect())
    }

    /// How many of the blocks in `order` can be read at once.
    fn run(&self, blocks: &[u32], order: &[usize]) -> usize {
        let size = u64::from(self.superblock.block_size);
        let byte = |index: usize| u64::from(blocks[index]) * size;
        let first = byte(order[0]);
        let mut run = 1;
        while let Some(next) = order.get(run) {
            let (before, at) = (byte(order[run - 1]), byte(*next));
            let is_near = at.saturating_sub(before) <= size + GAP;
            if !is_near || usize::try_from(at - first + size).map_or(true, |bytes| bytes > PIECE) {
                break;
            }
            run += 1;
        }
        run
    }

    /// Lays the log over what was read at byte `at`.
    fn recover(&self, kind: &Kind, at: u64, mut bytes: Vec<u8>) -> Buffer {
        let own = self.is_own(kind, &bytes);
        let written = if own && self.superblock.checked { word_at(&bytes, kind.lsn_at) } else { 0 };
        let intact = !self.superblock.checked || has_checksum(&bytes, kind.checksum_at);
        // What claims to be newer than the log's end was not written by this file system's log.
        let is_sound = own && intact && self.replay.is_none_or(|replay| written <= replay.last);
        let patch = self.replay.and_then(|replay| replay.patches.at(at / u64::from(BASIC_BLOCK)));
        let laid = patch.map(|patch| patch.lay_over(&mut bytes, written)).unwrap_or_default();
        Buffer { bytes, is_sound, laid }
    }

    /// Whether what is on the disk says that it is of this kind and of this file system.
    fn is_own(&self, kind: &Kind, bytes: &[u8]) -> bool {
        let magic = bytes.first_chunk().map(|magic| u32::from_be_bytes(*magic));
        if !self.superblock.checked {
            return kind.magic_v4.is_none_or(|own| magic == Some(own));
        }
        let uuid = bytes.get(kind.uuid_at..kind.uuid_at + 16);
        magic == Some(kind.magic) && uuid == Some(&self.superblock.metadata_uuid[..])
    }
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_be_bytes(*word))
}
