//! What committed transactions wrote to the blocks that free space may be kept in.
//!
//! Only the newest state of each chunk of 128 bytes is kept, with the record as of which it was written, so that memory
//! depends on how many different chunks there are and not on how often each was written. Three rules of the kernel decide
//! what counts:
//!
//! - A block that ceased to be metadata is cancelled: all that came before is forgotten. The kernel collects cancellations
//!   in a first pass; forgetting at the cancellation has the same outcome.
//! - In version 5 a block on the disk says as of which record it was written, and older changes are not laid over it. Since
//!   a chunk's newest change alone is kept, it is compared when the block is read.
//! - Transactions count in the order of their commits. In version 5 that must be the order of their records too, or the
//!   comparison would tell nothing; kernels before 5.14 could break that, and then nothing is believed.

use super::transaction::Logged;
use crate::Unclear;
use crate::xfs::layout::{BASIC_BLOCK, CHUNK, RawBuffer, TREE_MAGIC_V4, TREE_MAGIC_V5, buffer, header_sector};
use crate::xfs::superblock::Superblock;
use std::collections::HashMap;

/// What may be held of a log, in bytes, of committed transactions and those under way together. Each chunk costs some
/// 150 bytes for its 128, so this is about 75 MiB: far more than a log of 64 MiB has ever been seen to need.
const MEMORY_MAX: usize = 64 << 20;

/// The changes, by the address of the buffer in basic blocks.
pub(in crate::xfs) struct Patches {
    buffers: HashMap<u64, Patch>,
    /// Chunks that are held.
    chunks: usize,
    is_ordered: bool,
    /// A block's length in basic blocks; only buffers of one block hold a part of a tree.
    block: u16,
    /// A header's sector and a group, in basic blocks.
    sector: u64,
    group: u64,
}

/// The changes of one buffer.
#[derive(Default)]
pub(in crate::xfs) struct Patch {
    /// In ascending order of their numbers.
    chunks: Vec<Chunk>,
    /// The last record as of which any was written.
    last: u64,
}

struct Chunk {
    lsn: u64,
    number: u16,
    bytes: [u8; CHUNK],
}

impl Patches {
    pub(super) fn new(superblock: &Superblock) -> Self {
        let basic_block = u64::from(BASIC_BLOCK);
        let block = superblock.basic_blocks();
        Self {
            buffers: HashMap::new(),
            chunks: 0,
            is_ordered: superblock.checked,
            block,
            sector: u64::from(superblock.sector_size) / basic_block,
            group: u64::from(superblock.group_blocks) * u64::from(block),
        }
    }

    /// What there is for the buffer at this address, in basic blocks.
    pub(in crate::xfs) fn at(&self, address: u64) -> Option<&Patch> {
        self.buffers.get(&address)
    }

    /// Whether free space may be kept in a buffer that is described so.
    pub(super) fn wants(&self, raw: &RawBuffer) -> bool {
        let (address, len, flags) = (raw.address.get(), raw.len.get(), raw.flags.get());
        if flags & (buffer::INODES | buffer::QUOTAS) != 0 {
            return false;
        }
        if self.is_header(address) {
            return u64::from(len) == self.sector;
        }
        let kind = flags >> buffer::TYPE_SHIFT;
        let is_tree = kind == buffer::TYPE_TREE || kind == buffer::TYPE_UNKNOWN || flags & buffer::CANCEL != 0;
        is_tree && len == self.block
    }

    /// Whether it is the superblock, or the header or the free list of a group.
    fn is_header(&self, address: u64) -> bool {
        let sectors = [header_sector::GROUP, header_sector::FREE_LIST].map(|sector| sector * self.sector);
        address == 0 || sectors.contains(&(address % self.group))
    }

    /// Lays down what a transaction that began in record `lsn` wrote. Cancellations come last, whatever their place in it.
    pub(super) fn commit(&mut self, lsn: u64, buffers: Vec<Logged>) -> Result<(), Unclear> {
        let (cancelled, written): (Vec<_>, Vec<_>) = buffers.into_iter().partition(|buffer| buffer.cancels);
        for buffer in written {
            self.write(lsn, &buffer)?;
        }
        for buffer in cancelled {
            self.forget(buffer.address);
        }
        Ok(())
    }

    fn write(&mut self, lsn: u64, logged: &Logged) -> Result<(), Unclear> {
        let first = logged.chunks.first().filter(|(number, _)| *number == 0);
        let magic = first.and_then(|(_, bytes)| bytes.first_chunk()).map(|magic| u32::from_be_bytes(*magic));
        let is_stranger = magic.is_some_and(|magic| magic != TREE_MAGIC_V4 && magic != TREE_MAGIC_V5);
        if is_stranger && !self.is_header(logged.address) {
            // A block of another kind: if it ever becomes one of the tree again, all of it that counts is written again.
            self.forget(logged.address);
            return Ok(());
        }
        let patch = self.buffers.entry(logged.address).or_default();
        if self.is_ordered && lsn < patch.last {
            return Err(Unclear::because(
                "it was not unmounted, and its log has transactions out of their order, as kernels before 5.14 could leave \
                 them: mount and unmount it once",
            ));
        }
        patch.last = lsn;
        let is_new = |number: &u16| patch.chunks.binary_search_by_key(number, |chunk| chunk.number).is_err();
        let new = logged.chunks.iter().filter(|(number, _)| is_new(number)).count();
        patch.chunks.reserve_exact(new);
        for (number, bytes) in &logged.chunks {
            let chunk = Chunk { lsn, number: *number, bytes: *bytes };
            match patch.chunks.binary_search_by_key(number, |chunk| chunk.number) {
                Ok(at) => patch.chunks[at] = chunk,
                Err(at) => {
                    patch.chunks.insert(at, chunk);
                    self.chunks += 1;
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self, address: u64) {
        if let Some(patch) = self.buffers.remove(&address) {
            self.chunks -= patch.chunks.len();
        }
    }

    /// Refuses to hold more than there is room for, `pending` bytes for transactions under way included.
    pub(super) fn check_memory(&self, pending: usize) -> Result<(), Unclear> {
        if self.chunks * CHUNK + pending <= MEMORY_MAX {
            return Ok(());
        }
        Err(Unclear::because(
            "it was not unmounted, and its log holds more changes than there is room for: mount and unmount it once",
        ))
    }
}

impl Patch {
    /// Lays it over a buffer as it is on the disk, written there as of record `written`, 0 where it does not say; returns
    /// which chunks were laid over.
    pub(in crate::xfs) fn lay_over(&self, buffer: &mut [u8], written: u64) -> Vec<u16> {
        let mut laid = Vec::new();
        let newer = self.chunks.iter().filter(|chunk| written == 0 || written < chunk.lsn);
        for chunk in newer {
            let start = usize::from(chunk.number) * CHUNK;
            if let Some(place) = buffer.get_mut(start..start + CHUNK) {
                place.copy_from_slice(&chunk.bytes);
                laid.push(chunk.number);
            }
        }
        laid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patches(is_ordered: bool) -> Patches {
        Patches { buffers: HashMap::new(), chunks: 0, is_ordered, block: 8, sector: 1, group: 8000 }
    }

    fn logged(number: u16, byte: u8, cancels: bool) -> Logged {
        Logged { address: 80, cancels, chunks: vec![(number, [byte; CHUNK])] }
    }

    fn laid(patches: &Patches, written: u64) -> Vec<u16> {
        patches.at(80).map(|patch| patch.lay_over(&mut [0; 4096], written)).unwrap_or_default()
    }

    #[test]
    fn what_is_newer_on_the_disk_stays() {
        let mut patches = patches(true);
        patches.commit(5, vec![logged(1, 1, false)]).unwrap();
        patches.commit(7, vec![logged(2, 2, false)]).unwrap();
        assert_eq!(laid(&patches, 0), [1, 2]);
        assert_eq!(laid(&patches, 4), [1, 2]);
        assert_eq!(laid(&patches, 5), [2]);
        assert_eq!(laid(&patches, 7), Vec::<u16>::new());
        let mut buffer = [0; 4096];
        patches.at(80).unwrap().lay_over(&mut buffer, 5);
        assert_eq!((buffer[CHUNK], buffer[2 * CHUNK], buffer[3 * CHUNK]), (0, 2, 0));
    }

    #[test]
    fn a_cancellation_ends_what_came_before_and_in_its_transaction() {
        let mut patches = patches(true);
        patches.commit(5, vec![logged(1, 1, false)]).unwrap();
        patches.commit(6, vec![logged(0, 0, true), logged(2, 2, false)]).unwrap();
        assert_eq!(laid(&patches, 0), Vec::<u16>::new());
        assert_eq!(patches.chunks, 0);
        patches.commit(7, vec![logged(3, 3, false)]).unwrap();
        assert_eq!(laid(&patches, 0), [3]);
    }

    #[test]
    fn only_version_5_asks_for_the_order_of_records() {
        for (is_ordered, accepted) in [(true, false), (false, true)] {
            let mut patches = patches(is_ordered);
            patches.commit(7, vec![logged(1, 1, false)]).unwrap();
            assert_eq!(patches.commit(6, vec![logged(1, 2, false)]).is_ok(), accepted);
        }
    }

    #[test]
    fn a_block_of_another_kind_is_forgotten() {
        let mut patches = patches(true);
        patches.commit(5, vec![logged(1, 1, false)]).unwrap();
        patches.commit(6, vec![logged(0, b'X', false)]).unwrap();
        assert_eq!(laid(&patches, 0), Vec::<u16>::new());
        assert!(patches.check_memory(MEMORY_MAX).is_ok());
        assert!(patches.check_memory(MEMORY_MAX + 1).is_err());
    }
}
