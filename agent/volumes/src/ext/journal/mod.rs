//! jbd2, replayed in memory and for the allocation map only.

mod layout;
mod log;
mod places;
mod records;
mod walk;

use super::blocks::{Blocks, Replacements};
use super::geometry::Geometry;
use crate::Unclear;
pub(super) use layout::MAGIC;
use log::{Checks, Log};
use std::ops::Range;

/// What a journal asks for.
pub(super) enum Journal {
    /// Nothing: all of it was written back.
    Empty,
    /// These blocks to be replaced.
    Replay {
        replacements: Replacements,
        /// Committed transactions.
        transactions: u64,
        /// Whether each of them was checked by a checksum.
        checked: bool,
    },
}

/// Reads the journal in an inode, and tells where its blocks lie.
///
/// `expected` is whether the file system says that it needs recovery, and `fast_commits` whether it may have fast
/// commits. `volume_blocks` is where the volume ends.
pub(super) fn read(
    geometry: &Geometry,
    blocks: Blocks<'_>,
    inode: u32,
    expected: bool,
    fast_commits: bool,
    volume_blocks: u64,
) -> Result<(Journal, Vec<Range<u64>>), Unclear> {
    let log = Log::open(geometry, blocks, inode)?;
    let own = log.places();
    if log.start == 0 {
        if expected {
            // Mounted, and nothing committed yet; or the place where the log begins was lost.
            walk::expect_nothing(&log)?;
        }
        return Ok((Journal::Empty, own));
    }
    if !expected {
        return Err(Unclear::because("its journal has transactions, and the file system says that it needs none"));
    }
    if fast_commits {
        return Err(Unclear::because("it may have fast commits, which are not followed"));
    }
    log.accept()?;
    let replay = walk::walk(&log, volume_blocks)?;
    let checked = log.checks != Checks::None;
    let journal = Journal::Replay { replacements: replay.replacements, transactions: replay.transactions, checked };
    Ok((journal, own))
}
