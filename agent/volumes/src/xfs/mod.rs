//! XFS, versions 4 and 5, with its log.
//!
//! Free is what the groups' trees of free space have, and nothing else: blocks that are set aside for those trees are in
//! use, as is everything that an intent in the log has yet to free.
//!
//! # After a crash
//!
//! The trees on the disk are then of no particular time: of each block some version, from the last one that the log need not
//! repeat to the newest. [`log`] replays what free space depends on. A group counts as free where both the replayed tree
//! and, if it happens to be a whole one, the tree on the disk say so. Where the one on the disk is no whole tree, which is
//! usual, the replayed one decides alone. That is sound, because it is what the kernel will use: a tree made of blocks that
//! their checksums or the log's vouch for, each in its place, in order, complete by the counts in its header. The tree on
//! the disk adds nothing to it but a guard against a mistake here.

mod buffer;
mod group;
mod layout;
mod log;
mod superblock;
mod tree;

use crate::remarks::Remarks;
use crate::volume::bytes;
use crate::{FileSystem, FreeMap, FreeMapBuilder, Kind, State, Unclear, Volume};
use buffer::Metadata;
use layout::RawSuperblock;
use log::{Log, Replay};
use superblock::{Identity, Superblock};
use zerocopy::FromBytes;

/// The least that a superblock takes.
const SUPERBLOCK_LEN: usize = 512;

/// What this file system says of itself, or `None` where the volume has none of its superblocks.
pub(crate) fn inspect(volume: &dyn Volume) -> Option<FileSystem> {
    let start = bytes(volume, 0, SUPERBLOCK_LEN).ok().filter(|start| Superblock::is_here(start))?;
    let (raw, _) = RawSuperblock::ref_from_prefix(&start).ok()?;
    let identity = Identity::of(raw);
    let mut found = FileSystem {
        kind: Kind::Xfs,
        version: identity.version,
        label: identity.label,
        uuid: identity.uuid,
        size: identity.size,
        block_size: identity.block_size,
        state: State::Unknown,
        checked: false,
        map: Ok(FreeMap::nothing()),
        remarks: Vec::new(),
    };
    found.map = map(volume, raw, &mut found);
    Some(found)
}

/// The free space; state, size and remarks go into `found`.
fn map(volume: &dyn Volume, raw: &RawSuperblock, found: &mut FileSystem) -> Result<FreeMap, Unclear> {
    let sector = usize::try_from(Superblock::sector_size(raw)?).expect("a sector fits in memory");
    let superblock = Superblock::parse(&bytes(volume, 0, sector)?, true)?;
    found.checked = superblock.checked;
    fits(volume, &superblock)?;
    found.state = State::NotUnderstood;
    let replay = match log::read(volume, &superblock)? {
        Log::Clean => {
            found.state = State::Clean;
            None
        }
        Log::Replayed(replay) => Some(replay),
    };
    let superblock = match &replay {
        Some(replay) => recovered(volume, &superblock, replay)?,
        None => superblock,
    };
    found.size = Some(superblock.size());
    let metadata = Metadata { volume, superblock: &superblock, replay: replay.as_ref() };
    let (map, remarks) = groups(&metadata);
    found.remarks = remarks;
    if let Some(replay) = &replay {
        found.state = State::Replayed { transactions: replay.transactions };
    }
    Ok(map)
}

/// Refuses a file system that is larger than its volume: some of it is not there.
fn fits(volume: &dyn Volume, superblock: &Superblock) -> Result<(), Unclear> {
    let (says, is) = (superblock.size(), volume.size());
    if says <= is {
        return Ok(());
    }
    Err(Unclear::because(format!("it says that it has {says} bytes, and there are only {is}")))
}

/// The superblock as the log leaves it: the file system may have grown since it was written.
fn recovered(volume: &dyn Volume, superblock: &Superblock, replay: &Replay) -> Result<Superblock, Unclear> {
    let buffer = Metadata { volume, superblock, replay: Some(replay) }.superblock()?;
    if !buffer.is_replayed() {
        return Ok(superblock.clone());
    }
    let recovered = Superblock::parse(&buffer.bytes, false)?;
    if !superblock.is_same_as(&recovered) {
        return Err(Unclear::because("its log changes the superblock in a way that is not understood"));
    }
    fits(volume, &recovered)?;
    Ok(recovered)
}

/// The free space of all groups, and what is wrong with those that count as used.
fn groups(metadata: &Metadata<'_>) -> (FreeMap, Vec<String>) {
    let mut builder = FreeMapBuilder::new();
    let mut wrong = Remarks::default();
    for number in 0..metadata.superblock.groups {
        let map = match group::read(metadata, number) {
            Ok(group) if group.is_replayed => guarded(metadata, number, group.map),
            Ok(group) => group.map,
            Err(reason) => {
                wrong.push(|| format!("allocation group {number} counts as used, because {reason}"));
                continue;
            }
        };
        for extent in map.extents() {
            builder.push(*extent);
        }
    }
    (builder.finish(), wrong.finish())
}

/// A replayed map without what the disk as it is calls used, where that is a whole tree.
fn guarded(metadata: &Metadata<'_>, number: u32, replayed: FreeMap) -> FreeMap {
    match group::read(&Metadata { replay: None, ..*metadata }, number) {
        Ok(on_disk) => replayed.intersection(&on_disk.map),
        Err(_) => replayed,
    }
}
