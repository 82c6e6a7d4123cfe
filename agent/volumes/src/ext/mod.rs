//! ext2, ext3 and ext4, with jbd2.
//!
//! What is free is what the block bitmaps say, and a bitmap can be believed only after a look at everything that it
//! depends on: the superblock, the descriptor of its group, its checksum and the count beside it, and the journal, which
//! may hold a newer version of each of them. A file system that was not unmounted is replayed in memory. Its used space
//! is what is in use on the disk **or** after the replay: the second alone is what the kernel will see, the first is a
//! margin that costs little.
//!
//! Flags lie: `s_state` stays valid on a mounted file system with a journal, and `needs_recovery` is cleared by a freeze.
//! Without a journal, `s_state` is true. With one, it is the start of the log that tells.

mod bits;
mod blocks;
mod checksum;
mod descriptors;
mod features;
mod geometry;
mod groups;
mod journal;
mod layout;
mod metadata;

use crate::remarks::Remarks;
use crate::volume::bytes;
use crate::{FileSystem, FreeMap, FreeMapBuilder, Kind, State, Unclear, Volume, text};
use bits::Bits;
use blocks::{Blocks, Replay};
use failback_units::ByteCount;
use features::{Features, compatible, incompatible};
use geometry::{Checks, Geometry};
use groups::Groupwise;
use journal::Journal;
use layout::{MAGIC, SUPERBLOCK_AT, SUPERBLOCK_LEN, Superblock, state};

/// What this file system says of itself, or `None` where the volume has none of its superblocks.
pub(crate) fn inspect(volume: &dyn Volume) -> Option<FileSystem> {
    let bytes = bytes(volume, SUPERBLOCK_AT, SUPERBLOCK_LEN).ok()?;
    let superblock = geometry::superblock(&bytes).filter(|superblock| superblock.magic.get() == MAGIC)?;
    let features = Features::of(superblock);
    let mut found = FileSystem {
        kind: features.kind(),
        version: None,
        label: text::label(&superblock.label),
        uuid: text::uuid(&superblock.uuid),
        size: None,
        block_size: None,
        state: State::Unknown,
        checked: false,
        map: Err(Unclear::because("it was not looked at")),
        remarks: Vec::new(),
    };
    if features.needs(incompatible::JOURNAL_DEVICE) {
        found.kind = Kind::Other("jbd");
        found.map = Err(Unclear::because("it is the journal of a file system on another volume"));
        return Some(found);
    }
    let map = Geometry::of(&bytes, superblock, volume.size()).and_then(|geometry| {
        found.size = geometry.blocks.checked_mul(geometry.block_size.into()).and_then(ByteCount::new);
        found.block_size = Some(geometry.block_size);
        examine(volume, superblock, &geometry, &mut found)
    });
    found.map = map;
    Some(found)
}

/// The map of a file system whose superblock makes sense; notes its state on the way.
fn examine(
    volume: &dyn Volume,
    superblock: &Superblock,
    geometry: &Geometry,
    found: &mut FileSystem,
) -> Result<FreeMap, Unclear> {
    let features = Features::of(superblock);
    let has_checksums = matches!(geometry.checks, Checks::Everything { .. });
    let on_disk = Blocks::on_disk(volume, geometry.block_size);
    found.state = State::NotUnderstood;
    check_state(superblock)?;
    let recovers = features.needs(incompatible::RECOVER);
    if !features.has(compatible::HAS_JOURNAL) {
        if recovers {
            return Err(Unclear::because("it says to need its journal, and to have none"));
        }
        found.state = State::Clean;
        found.checked = has_checksums;
        return free(Groupwise::new(geometry, on_disk, &[])?, None, geometry, found);
    }
    let inode = superblock.journal_inode.get();
    if inode == 0 {
        return Err(Unclear::because("its journal is on another device"));
    }
    let volume_blocks = volume.size().get() / u64::from(geometry.block_size);
    let fast_commits = features.has(compatible::FAST_COMMIT);
    let (journal, own) = journal::read(geometry, on_disk, inode, recovers, fast_commits, volume_blocks)?;
    match journal {
        Journal::Empty => {
            found.state = State::Clean;
            found.checked = has_checksums;
            free(Groupwise::new(geometry, on_disk, &own)?, None, geometry, found)
        }
        Journal::Replay { replacements, transactions, checked } => {
            let replay = Replay::new(replacements);
            let replayed = on_disk.replayed(&replay);
            check_replayed(replayed, geometry, superblock, volume.size())?;
            let map = free(
                Groupwise::new(geometry, replayed, &own)?,
                Some(Groupwise::new(geometry, on_disk, &own)?),
                geometry,
                found,
            )?;
            found.state = State::Replayed { transactions };
            found.checked = has_checksums && checked;
            Ok(map)
        }
    }
}

/// Refuses a file system that knows itself to be damaged, or that has no other way to say that it is mounted.
fn check_state(superblock: &Superblock) -> Result<(), Unclear> {
    let bits = superblock.state.get();
    if bits & state::ERROR != 0 {
        return Err(Unclear::because("the kernel noted an error in it: let e2fsck check it"));
    }
    if bits & state::VALID == 0 {
        return Err(Unclear::because("it was mounted without a journal, and not unmounted"));
    }
    Ok(())
}

/// Refuses what would be another file system after the replay than before.
fn check_replayed(
    blocks: Blocks<'_>,
    before: &Geometry,
    superblock: &Superblock,
    volume: ByteCount,
) -> Result<(), Unclear> {
    let block = blocks.one(before.superblock_block())?;
    // With blocks of 1 KiB it fills a block of its own, with larger ones it lies in the first.
    let start = if before.superblock_block() == 0 { SUPERBLOCK_LEN } else { 0 };
    let bytes = block.get(start..start + SUPERBLOCK_LEN).unwrap_or_default();
    let changed = || Unclear::because("its journal holds another superblock than it has, as after resizing");
    let replayed = geometry::superblock(bytes).filter(|replayed| replayed.magic.get() == MAGIC).ok_or_else(changed)?;
    check_state(replayed)?;
    let after = Geometry::of(bytes, replayed, volume)?;
    let has_journal = Features::of(replayed).has(compatible::HAS_JOURNAL);
    let same = after == *before && replayed.uuid == superblock.uuid && has_journal;
    if same && replayed.journal_inode == superblock.journal_inode { Ok(()) } else { Err(changed()) }
}

/// The free space of all groups that can be believed: free in `groups`, and in `margin` if there is one.
///
/// A group that contradicts itself counts as used. One that does so only in `margin` does not: on a disk in use the
/// bitmap and the descriptor of a group are written back one after the other. What its bitmap calls used is used.
fn free(
    mut groups: Groupwise<'_>,
    mut margin: Option<Groupwise<'_>>,
    geometry: &Geometry,
    found: &mut FileSystem,
) -> Result<FreeMap, Unclear> {
    let mut map = FreeMapBuilder::new();
    let mut remarks = Remarks::default();
    let (mut bits, mut more) = (Bits::default(), Bits::default());
    for number in 0..geometry.groups {
        let verdict = groups.bits(number, &mut bits)?;
        if let Some(margin) = &mut margin {
            // What it thinks of itself does not matter, see above.
            let _ = margin.bits(number, &mut more)?;
            bits.unite(&more);
        }
        if let Err(why) = verdict {
            remarks.push(|| format!("group {number} counts as used: {why}"));
            continue;
        }
        for run in bits.free_runs() {
            let extent = groups.bytes(number, run);
            map.push(extent.ok_or_else(|| Unclear::because("a group lies where no disk reaches"))?);
        }
    }
    found.remarks = remarks.finish();
    Ok(map.finish())
}
