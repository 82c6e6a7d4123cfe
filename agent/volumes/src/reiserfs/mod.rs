//! `ReiserFS` 3.5 and 3.6: its bitmaps, after what its journal would change in them.
//!
//! A superblock that says "cleanly unmounted" proves nothing here: the kernel writes that word when it pleases, and data
//! that was synchronised stands in blocks that the bitmaps on the disk still call free. Only the journal tells. So it is read
//! whole, the transactions that the kernel would replay are found by the kernel's own rules, and the bitmap blocks in
//! them take the place of those on the disk. A block is free where both versions call it free.
//!
//! Nothing of it has a checksum. What can be compared is: the count of free blocks, the blocks that must be in use, the
//! order of the transactions. And superblock, bitmaps and journal may be all that is left of it under something else, which
//! has begun to fill the rest; so the top of its tree must be there. Where something does not fit, every block counts as used.

mod bitmap;
mod geometry;
mod journal;
mod layout;
mod replay;
mod tree;

use crate::{FileSystem, FreeMap, Kind, ReadError, State, Unclear, Volume, text};
use failback_units::ByteCount;
use geometry::Geometry;
use layout::{OLD_SUPERBLOCK_AT, SUPERBLOCK_AT, Superblock};

/// What this file system says of itself, or `None` where the volume has none of its superblocks.
pub(crate) fn inspect(volume: &dyn Volume) -> Option<FileSystem> {
    let (usual, old) =
        (geometry::superblock_at(volume, SUPERBLOCK_AT), geometry::superblock_at(volume, OLD_SUPERBLOCK_AT));
    let superblock = usual.or(old)?;
    let mut found = describe(&superblock);
    if old.is_none() {
        understand(volume, &superblock, &mut found);
    } else if usual.is_none() {
        // Linux and `reiserfsprogs` look for its bitmaps in different places, and no program that makes one is left.
        found.map = Err(Unclear::because("it is older than version 3.5.11, with its superblock at 8 KiB"));
    } else {
        found.map = Err(Unclear::because("it has two superblocks, at 8 KiB and at 64 KiB"));
    }
    Some(found)
}

/// What the superblock says, without belief.
fn describe(superblock: &Superblock) -> FileSystem {
    let version = geometry::version(superblock);
    let has_names = version == Some(geometry::V3_6);
    let size = u64::from(superblock.block_count.get()).checked_mul(superblock.block_size.get().into());
    FileSystem {
        kind: Kind::ReiserFs,
        version,
        label: if has_names { text::label(&superblock.label) } else { None },
        uuid: if has_names { text::uuid(&superblock.uuid) } else { None },
        size: size.and_then(ByteCount::new),
        block_size: Some(superblock.block_size.get().into()),
        state: State::Unknown,
        checked: false,
        map: Ok(FreeMap::nothing()),
        remarks: Vec::new(),
    }
}

/// Finds out the state and the map, as far as they can be known.
fn understand(volume: &dyn Volume, superblock: &Superblock, found: &mut FileSystem) {
    found.map = Geometry::new(superblock, volume.size()).and_then(|geometry| {
        found.state = State::NotUnderstood;
        let transactions = journal::unflushed(volume, &geometry)?;
        let changes = replay::Changes::of(volume, &geometry, &transactions)?;
        found.state = match transactions.len() {
            0 => State::Clean,
            count => State::Replayed { transactions: count as u64 },
        };
        if geometry.bitmaps() > u32::from(u16::MAX) {
            found.remarks.push(format!(
                "its superblock cannot count {} bitmap blocks, so their number was computed",
                geometry.bitmaps()
            ));
        }
        let tree = tree::top(volume, &changes)?;
        bitmap::read(volume, &geometry, &changes, &tree)
    });
}

/// Why a part of the file system cannot be read.
fn unreadable(what: &str, error: ReadError) -> Unclear {
    Unclear::because(format!("{what} is not to be had: {}", Unclear::from(error)))
}
