//! What the journal changes that a map depends on: bitmap blocks, the superblock, and blocks of the tree.

use super::geometry::Geometry;
use super::journal::Transaction;
use super::layout::{Commit, Descriptor, MAGIC_ROOM, Superblock};
use super::unreadable;
use crate::volume::bytes;
use crate::{Unclear, Volume};
use std::collections::BTreeMap;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// Bytes at the end of a commit block that were meant for a digest.
const DIGEST: usize = 16;

/// Where in the journal the newest versions of blocks are.
#[derive(Debug)]
pub(super) struct Changes {
    /// The file system as its newest superblock describes it.
    pub(super) geometry: Geometry,
    /// The place of a block's newest version in the journal, by the block. No more than the journal has blocks.
    places: BTreeMap<u32, u32>,
}

impl Changes {
    /// Goes through the transactions in their order; what comes later counts.
    ///
    /// # Errors
    ///
    /// When they cannot be read, when they write where the kernel would refuse to, and when they change the file system's size.
    pub(super) fn of(volume: &dyn Volume, geometry: &Geometry, transactions: &[Transaction]) -> Result<Self, Unclear> {
        let mut places = BTreeMap::new();
        let untouchable = geometry.untouchable();
        for transaction in transactions {
            let targets = targets(volume, geometry, transaction)?;
            for (target, behind) in targets.iter().map(|target| target.get()).zip(1..) {
                if target >= geometry.blocks() || untouchable.iter().any(|blocks| blocks.contains(&target)) {
                    let number = transaction.number;
                    return Err(Unclear::because(format!(
                        "transaction {number} in its journal would write to block {target}"
                    )));
                }
                places.insert(target, (transaction.at + behind) % geometry.journal().blocks.get());
            }
        }
        let geometry = match places.get(&geometry.superblock_block()) {
            Some(place) => geometry.replayed(&read_superblock(volume, geometry, *place)?)?,
            None => *geometry,
        };
        Ok(Self { geometry, places })
    }

    /// The block of the journal with the newest version of a block, if it was changed.
    pub(super) fn of_block(&self, block: u32) -> Option<u32> {
        self.places.get(&block).map(|place| self.geometry.journal_block(*place))
    }
}

/// A superblock that was logged. It fills its block from the start, since its place is a multiple of every block size.
fn read_superblock(volume: &dyn Volume, geometry: &Geometry, place: u32) -> Result<Superblock, Unclear> {
    let at = geometry.at(geometry.journal_block(place));
    let bytes =
        bytes(volume, at, size_of::<Superblock>()).map_err(|error| unreadable("a superblock in its journal", error))?;
    Ok(Superblock::read_from_bytes(&bytes).expect("as many bytes as it has"))
}

/// Where the blocks of a transaction belong. The list begins in the descriptor and runs on in the commit block.
fn targets(volume: &dyn Volume, geometry: &Geometry, transaction: &Transaction) -> Result<Vec<U32>, Unclear> {
    let len = geometry.block_len();
    let block = |place: u32| {
        let place = place % geometry.journal().blocks.get();
        bytes(volume, geometry.at(geometry.journal_block(place)), len)
            .map_err(|error| unreadable("a transaction in its journal", error))
    };
    let descriptor = block(transaction.at)?;
    let commit = block(transaction.at + transaction.blocks + 1)?;
    let first = &descriptor[size_of::<Descriptor>()..len - MAGIC_ROOM];
    let rest = &commit[size_of::<Commit>()..len - DIGEST];
    let count = usize::try_from(transaction.blocks).expect("a transaction has 1024 blocks at most");
    let places = first.chunks_exact(size_of::<U32>()).chain(rest.chunks_exact(size_of::<U32>()));
    let targets: Vec<U32> =
        places.take(count).map(|place| U32::read_from_bytes(place).expect("four bytes are a number")).collect();
    if targets.len() == count {
        return Ok(targets);
    }
    let number = transaction.number;
    Err(Unclear::because(format!("transaction {number} in its journal has more blocks than it can name")))
}
