//! What a superblock says, checked before anything else is believed.

use super::layout::{
    BLOCK_SIZES, FLAG_ATTRIBUTES_CLEARED, HASH_FUNCTION_MAX, JournalParameters, MAGIC_3_5, MAGIC_3_6,
    MAGIC_OTHER_JOURNAL, ROOT_BEING_REBUILT, SUPERBLOCK_AT, Superblock, UNMOUNT_STATES, VERSION_3_5, VERSION_3_6,
};
use crate::volume::bytes;
use crate::{Unclear, Volume};
use failback_units::ByteCount;
use std::ops::RangeInclusive;
use zerocopy::FromBytes;

/// The names of the two formats.
pub(super) const V3_5: &str = "3.5";
pub(super) const V3_6: &str = "3.6";

/// The superblock in this place, if it has the signature of one. A place that cannot be read has none, as for the kernel.
pub(super) fn superblock_at(volume: &dyn Volume, at: u64) -> Option<Superblock> {
    let superblock = Superblock::read_from_bytes(&bytes(volume, at, size_of::<Superblock>()).ok()?).ok()?;
    let signatures = [MAGIC_3_5, MAGIC_3_6, MAGIC_OTHER_JOURNAL];
    signatures.iter().any(|signature| superblock.magic.starts_with(signature)).then_some(superblock)
}

/// Whether its journal is of another size or in another place than usual.
fn has_other_journal(superblock: &Superblock) -> bool {
    superblock.magic.starts_with(MAGIC_OTHER_JOURNAL)
}

/// Which format it is. The field for it is believed only where the signature does not say.
pub(super) fn version(superblock: &Superblock) -> Option<&'static str> {
    let by_field = has_other_journal(superblock);
    match superblock.version.get() {
        VERSION_3_5 if by_field => Some(V3_5),
        VERSION_3_6 if by_field => Some(V3_6),
        _ if superblock.magic.starts_with(MAGIC_3_5) => Some(V3_5),
        _ if superblock.magic.starts_with(MAGIC_3_6) => Some(V3_6),
        _ => None,
    }
}

/// Where everything is, all of it within the volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    superblock: Superblock,
    block_size: u32,
    blocks: u32,
}

impl Geometry {
    /// What a superblock at the usual place says about a volume of `size`.
    ///
    /// # Errors
    ///
    /// When it contradicts itself or the volume, when something about it is unknown, and when the journal is elsewhere.
    pub(super) fn new(superblock: &Superblock, size: ByteCount) -> Result<Self, Unclear> {
        let block_size = superblock.block_size.get();
        if !BLOCK_SIZES.contains(&block_size) || !block_size.is_power_of_two() {
            return Err(Unclear::because(format!("its blocks have an impossible size, {block_size} bytes")));
        }
        let geometry =
            Self { superblock: *superblock, block_size: block_size.into(), blocks: superblock.block_count.get() };
        let claimed = geometry.at(geometry.blocks);
        if claimed > size.get() {
            let size = size.get();
            return Err(Unclear::because(format!("it claims {claimed} bytes of a volume that has {size}")));
        }
        geometry.check_known()?;
        geometry.check_healthy()?;
        geometry.check_bitmap_count()?;
        geometry.check_journal()?;
        Ok(geometry)
    }

    /// Anything unknown may mean that space is used in an unknown way.
    fn check_known(&self) -> Result<(), Unclear> {
        let superblock = &self.superblock;
        let is_known = match version(superblock) {
            Some(V3_6) => superblock.flags.get() & !FLAG_ATTRIBUTES_CLEARED == 0,
            Some(_) => true,
            None => false,
        };
        let is_known = is_known
            && superblock.hash_function.get() <= HASH_FUNCTION_MAX
            && UNMOUNT_STATES.contains(&superblock.unmount_state.get());
        if is_known {
            return Ok(());
        }
        Err(Unclear::because("its superblock has a version, a flag or a state that is not known"))
    }

    /// A file system that a check called damaged, or that a repair left half done, has no map that counts.
    fn check_healthy(&self) -> Result<(), Unclear> {
        if self.superblock.check_state.get() != 0 {
            return Err(Unclear::because("a check called it damaged, or was broken off"));
        }
        if self.root_block() == ROOT_BEING_REBUILT {
            return Err(Unclear::because("a rebuild of its tree was broken off"));
        }
        if !(self.superblock_block()..self.blocks).contains(&self.root_block()) {
            return Err(Unclear::because("the root of its tree lies outside of it"));
        }
        Ok(())
    }

    /// The field for the number of bitmap blocks counts to 65,535 only.
    fn check_bitmap_count(&self) -> Result<(), Unclear> {
        let (stated, computed) = (u32::from(self.superblock.bitmap_count.get()), self.bitmaps());
        let modulus = u32::from(u16::MAX) + 1;
        let fits = stated == computed % modulus || (stated == 0 && computed >= modulus);
        if fits {
            return Ok(());
        }
        Err(Unclear::because(format!("it claims {stated} bitmap blocks where it must have {computed}")))
    }

    /// The journal must be on this volume, behind the first bitmap block and clear of all others.
    fn check_journal(&self) -> Result<(), Unclear> {
        let journal = &self.superblock.journal;
        let reserved = u32::from(self.superblock.reserved_for_journal.get());
        let (first, len) = (journal.first_block.get(), journal.blocks.get());
        // A journal on another device leaves nothing reserved here; a device number of 0 alone proves nothing.
        let is_elsewhere = journal.device.get() != 0 || (has_other_journal(&self.superblock) && reserved <= len);
        if is_elsewhere {
            return Err(Unclear::because("its journal is on another device"));
        }
        let last_reserved = self.first_behind_bitmap().checked_add(reserved.max(1) - 1);
        // The journal's header is the block behind it.
        let is_sound = first.checked_add(len).is_some_and(|header| {
            let group = self.blocks_in_bitmap();
            first >= self.first_behind_bitmap() && first / group == header / group && header < self.blocks
        });
        let is_sound = is_sound
            && !first.is_multiple_of(self.blocks_in_bitmap())
            && len > 0
            && last_reserved.is_some_and(|last| last < self.blocks.min(self.blocks_in_bitmap()));
        if is_sound {
            return Ok(());
        }
        Err(Unclear::because(format!("its journal of {len} blocks cannot begin at block {first}")))
    }

    /// Bytes in a block.
    pub(super) fn block_size(&self) -> u32 {
        self.block_size
    }

    /// The same, as a length in memory.
    pub(super) fn block_len(&self) -> usize {
        usize::try_from(self.block_size).expect("a block has 8192 bytes at most")
    }

    /// Where a block begins, in bytes: 2^32 blocks of 2^13 bytes at most.
    pub(super) fn at(&self, block: u32) -> u64 {
        u64::from(block) * u64::from(self.block_size)
    }

    /// How many blocks there are.
    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// How many blocks a bitmap block describes: a bit for each.
    pub(super) fn blocks_in_bitmap(&self) -> u32 {
        self.block_size * 8
    }

    /// How many bitmap blocks there are.
    pub(super) fn bitmaps(&self) -> u32 {
        self.blocks.div_ceil(self.blocks_in_bitmap())
    }

    /// The block that the superblock is in.
    pub(super) fn superblock_block(&self) -> u32 {
        let block = SUPERBLOCK_AT / u64::from(self.block_size);
        u32::try_from(block).expect("64 KiB have 128 blocks at most")
    }

    /// The block behind the first bitmap block: where an ordinary journal begins.
    fn first_behind_bitmap(&self) -> u32 {
        self.superblock_block() + 2
    }

    /// The block that bitmap `number` is in, counted from 0.
    pub(super) fn bitmap_block(&self, number: u32) -> u32 {
        if number == 0 { self.superblock_block() + 1 } else { number.saturating_mul(self.blocks_in_bitmap()) }
    }

    /// Which bitmap is in this block, if any.
    pub(super) fn bitmap_in(&self, block: u32) -> Option<u32> {
        let number = block / self.blocks_in_bitmap();
        (block == self.bitmap_block(number)).then_some(number)
    }

    /// The root of the tree.
    pub(super) fn root_block(&self) -> u32 {
        self.superblock.root_block.get()
    }

    /// Levels of the tree and one more, unchecked.
    pub(super) fn tree_height(&self) -> u16 {
        self.superblock.tree_height.get()
    }

    /// Whether a block can be one of the tree: within the file system, and none that has a fixed place.
    pub(super) fn is_for_tree(&self, block: u32) -> bool {
        (self.superblock_block() + 1..self.blocks).contains(&block)
            && self.bitmap_in(block).is_none()
            && !self.untouchable().iter().any(|blocks| blocks.contains(&block))
    }

    /// How many blocks the superblock counts as free.
    pub(super) fn free_blocks(&self) -> u32 {
        self.superblock.free_blocks.get()
    }

    /// What it says about its journal.
    pub(super) fn journal(&self) -> &JournalParameters {
        &self.superblock.journal
    }

    /// Whether the journal's header has to name the superblock's journal.
    pub(super) fn has_other_journal(&self) -> bool {
        has_other_journal(&self.superblock)
    }

    /// The blocks of the journal and its header.
    pub(super) fn journal_blocks(&self) -> RangeInclusive<u32> {
        let first = self.journal().first_block.get();
        first..=first.saturating_add(self.journal().blocks.get())
    }

    /// The block at a place in the journal.
    pub(super) fn journal_block(&self, place: u32) -> u32 {
        self.journal().first_block.get().saturating_add(place)
    }

    /// Blocks that are never free and never written through the journal: those before the superblock, the journal, and what
    /// is kept for one.
    pub(super) fn untouchable(&self) -> [RangeInclusive<u32>; 3] {
        let reserved = u32::from(self.superblock.reserved_for_journal.get());
        let first = self.first_behind_bitmap();
        let kept = if self.has_other_journal() { reserved } else { self.journal().blocks.get() + 1 };
        [0..=self.superblock_block() - 1, self.journal_blocks(), first..=first.saturating_add(kept.max(1) - 1)]
    }

    /// The same file system with the superblock that its journal brings, if that changes nothing that was relied on.
    pub(super) fn replayed(&self, superblock: &Superblock) -> Result<Self, Unclear> {
        let old = &self.superblock;
        let is_same = superblock.block_count == old.block_count
            && superblock.block_size == old.block_size
            && superblock.journal == old.journal
            && superblock.magic == old.magic
            && superblock.version == old.version
            && superblock.bitmap_count == old.bitmap_count
            && superblock.reserved_for_journal == old.reserved_for_journal;
        if !is_same {
            return Err(Unclear::because("its journal changes its size or its format"));
        }
        let replayed = Self { superblock: *superblock, ..*self };
        replayed.check_known()?;
        replayed.check_healthy()?;
        Ok(replayed)
    }
}
