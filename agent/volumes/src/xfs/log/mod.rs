//! The log: whether it was closed, and what it would do to the blocks that free space is kept in.
//!
//! XFS writes what it changes to the log first, and to its place when it likes. So after a crash the tree of free space on
//! the disk is of no particular time. What is in the log is replayed here as the kernel does it, into memory, and only for
//! the superblock, the headers of the groups, and the tree's blocks:
//!
//! - [`ring`] reads the log as a ring of basic blocks.
//! - [`head`] finds its end and its beginning, and whether the end is an unmount record.
//! - [`record`] checks one record and puts its words back.
//! - [`transaction`] puts transactions together, across records, until they are committed.
//! - [`patches`] holds what committed transactions wrote, chunk by chunk, with the record as of which they did.

mod head;
mod patches;
mod record;
mod ring;
mod transaction;

pub(super) use patches::Patches;

use super::layout::BASIC_BLOCK;
use super::superblock::Superblock;
use crate::{Unclear, Volume};
use head::Extent;
use record::{Fault, Record};
use ring::Ring;
use transaction::Transactions;

/// What the log says.
pub(super) enum Log {
    /// The file system was unmounted: what is on the disk is true.
    Clean,
    /// It was not, and this is what the log makes of it.
    Replayed(Replay),
}

/// What is to be laid over what is on the disk.
pub(super) struct Replay {
    /// The changes.
    pub(super) patches: Patches,
    /// Committed transactions.
    pub(super) transactions: u64,
    /// The last record: nothing on the disk can be newer.
    pub(super) last: u64,
}

/// Reads the log.
pub(super) fn read(volume: &dyn Volume, superblock: &Superblock) -> Result<Log, Unclear> {
    let (group, blocks) = &superblock.log;
    let start = superblock.byte_of(*group, blocks.start);
    let bytes = (u64::from(blocks.end) - u64::from(blocks.start)) * u64::from(superblock.block_size);
    let count = u32::try_from(bytes / u64::from(BASIC_BLOCK)).map_err(|_| Unclear::because("its log is too long"))?;
    let mut ring = Ring::new(volume, start, count);
    match head::find(&mut ring, superblock)? {
        None => Ok(Log::Clean),
        Some(_) if superblock.has_realtime => {
            Err(Unclear::because("it was not unmounted and has a realtime device, which is not understood together"))
        }
        Some(extent) => replay(&mut ring, superblock, &extent).map(Log::Replayed),
    }
}

/// Replays all that is between the log's beginning and its end.
fn replay(ring: &mut Ring<'_>, superblock: &Superblock, extent: &Extent) -> Result<Replay, Unclear> {
    let mut transactions = Transactions::new(superblock);
    let length = ring.distance(extent.tail, extent.head);
    let (mut at, mut done, mut expected) = (extent.tail, 0_u32, Some(extent.tail_lsn));
    let mut last = 0;
    while done < length {
        let record = Record::read(ring, at, superblock).map_err(|fault| match fault {
            Fault::Torn => Unclear::because("it was not unmounted, and its log is damaged"),
            Fault::Refused(reason) => reason,
        })?;
        let blocks = record.blocks();
        // The first record is the one that the last one names, and all that follow are later.
        let follows = expected.map_or(record.lsn > last, |lsn| record.lsn == lsn);
        if !follows || blocks > length - done {
            return Err(Unclear::because("it was not unmounted, and its log's records do not follow each other"));
        }
        (expected, last) = (None, record.lsn);
        transactions.add(&record)?;
        done += blocks;
        at = ring.after(at, blocks);
    }
    Ok(Replay { transactions: transactions.committed(), last, patches: transactions.finish() })
}
