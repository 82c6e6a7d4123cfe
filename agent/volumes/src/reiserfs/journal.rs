//! Which transactions the kernel would replay.
//!
//! The journal is a ring. A transaction is a descriptor, the blocks that it logs, and a commit block which repeats the
//! descriptor's numbers. The header behind the ring tells where the first transaction begins whose blocks may not all be
//! in their places; if none begins there, the file system is clean. This follows `journal_read` of Linux 6.1 step by step,
//! and gives up where the kernel would go on with something that cannot be right.
//!
//! All of the journal is read, also of a clean file system: a committed transaction that is newer than the end of the
//! replay shows that something before it is damaged.

use super::geometry::Geometry;
use super::layout::{
    BATCH_DEFAULT, Commit, DESCRIPTOR_MAGIC, Descriptor, JournalHeader, JournalParameters, MAGIC_ROOM,
    MOUNT_BEFORE_FIRST, STANDARD_BLOCK, TRANSACTION_AFTER_WRAP, TRANSACTION_DEFAULT, TRANSACTION_LEAST,
    TRANSACTIONS_IN_JOURNAL,
};
use super::unreadable;
use crate::volume::bytes;
use crate::{Unclear, Volume};
use failback_units::ByteOffset;
use zerocopy::FromBytes;

/// How much of the journal is read at a time, in bytes: a multiple of every block size.
const PIECE: usize = 256 << 10;

/// A committed transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    /// The place of its descriptor, in blocks from the journal's start.
    pub(super) at: u32,
    /// Its number.
    pub(super) number: u32,
    /// How many blocks it logs, 1 to the largest allowed.
    pub(super) blocks: u32,
}

/// How the first numbers of a journal block read, whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// As those of a descriptor; those of a commit block are the same without `mount`.
    pub(super) descriptor: Descriptor,
    /// Whether it ends as a descriptor does.
    pub(super) is_marked: bool,
}

/// What the header says, as far as it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// As in [`JournalHeader`].
    pub(super) last_flushed: u32,
    pub(super) first_unflushed: u32,
    pub(super) mount: u32,
    /// How many blocks a transaction may log.
    pub(super) transaction_max: u32,
}

/// The committed transactions whose blocks may not be in their places yet, in the order in which they are replayed.
///
/// # Errors
///
/// When the journal cannot be read, or not be understood in full.
pub(super) fn unflushed(volume: &dyn Volume, geometry: &Geometry) -> Result<Vec<Transaction>, Unclear> {
    let start = header(volume, geometry)?;
    let heads = heads(volume, geometry)?;
    Ring { heads: &heads, start }.unflushed()
}

/// Reads the journal's header, and checks its limits as the kernel does before it mounts.
fn header(volume: &dyn Volume, geometry: &Geometry) -> Result<Start, Unclear> {
    let block = *geometry.journal_blocks().end();
    let bytes = bytes(volume, geometry.at(block), size_of::<JournalHeader>())
        .map_err(|error| unreadable("the header of its journal", error))?;
    let header = JournalHeader::read_from_bytes(&bytes).expect("as many bytes as it has");
    if geometry.has_other_journal() && header.parameters.magic != geometry.journal().magic {
        return Err(Unclear::because("its journal belongs to another file system"));
    }
    Ok(Start {
        last_flushed: header.last_flushed.get(),
        first_unflushed: header.first_unflushed.get(),
        mount: header.mount.get(),
        transaction_max: transaction_max(&header.parameters, geometry.block_size(), geometry.journal().blocks.get())
            .ok_or_else(|| Unclear::because("the limits in the header of its journal are impossible"))?,
    })
}

/// How many blocks a transaction may log; `None` where the kernel would not mount.
fn transaction_max(header: &JournalParameters, block_size: u32, journal_blocks: u32) -> Option<u32> {
    let stated = header.transaction_max.get();
    if stated == 0 {
        return (block_size == STANDARD_BLOCK).then_some(TRANSACTION_DEFAULT);
    }
    let ratio = (STANDARD_BLOCK / block_size).max(1);
    let is_sound = (TRANSACTION_LEAST / ratio..=TRANSACTION_DEFAULT / ratio).contains(&stated)
        && journal_blocks / stated >= TRANSACTIONS_IN_JOURNAL
        && header.batch_max.get() == stated * BATCH_DEFAULT / TRANSACTION_DEFAULT;
    is_sound.then_some(stated)
}

/// Reads the whole journal, and keeps the first numbers of each of its blocks: 65,536 at most, as the geometry was checked.
fn heads(volume: &dyn Volume, geometry: &Geometry) -> Result<Vec<Head>, Unclear> {
    let block_len = geometry.block_len();
    let count = usize::try_from(geometry.journal().blocks.get()).expect("a journal has 65,536 blocks at most");
    let mut heads = Vec::with_capacity(count);
    let mut buffer = vec![0; PIECE];
    let mut at = geometry.at(geometry.journal_block(0));
    while heads.len() < count {
        let len = PIECE.min((count - heads.len()) * block_len);
        let piece = &mut buffer[..len];
        let place = ByteOffset::new(at).expect("a journal lies within its volume");
        volume.read(place, piece).map_err(|error| unreadable("its journal", error))?;
        heads.extend(piece.chunks_exact(block_len).map(Head::of));
        at += len as u64;
    }
    Ok(heads)
}

impl Head {
    fn of(block: &[u8]) -> Self {
        let (descriptor, _) = Descriptor::read_from_prefix(block).expect("a block has 512 bytes at least");
        Self { descriptor, is_marked: block[block.len() - MAGIC_ROOM..].starts_with(DESCRIPTOR_MAGIC) }
    }

    fn number(&self) -> u32 {
        self.descriptor.transaction.get()
    }

    fn blocks(&self) -> u32 {
        self.descriptor.blocks.get()
    }

    fn mount(&self) -> u32 {
        self.descriptor.mount.get()
    }
}

/// What was read of a journal.
pub(super) struct Ring<'a> {
    /// A head for each block; no more than a `u32` counts.
    pub(super) heads: &'a [Head],
    pub(super) start: Start,
}

/// Where a replay begins.
struct Beginning {
    at: u32,
    /// Transactions with smaller numbers end the replay.
    oldest: u32,
    /// Transactions of any other mount do, too.
    mount: u32,
}

impl Ring<'_> {
    /// The transactions to be replayed.
    pub(super) fn unflushed(&self) -> Result<Vec<Transaction>, Unclear> {
        let Some(beginning) = self.beginning() else { return Ok(Vec::new()) };
        let chain = self.chain(&beginning)?;
        self.check_rest(&beginning, &chain)?;
        if chain.is_empty() {
            self.check_clean()?;
        }
        Ok(chain)
    }

    fn len(&self) -> u32 {
        u32::try_from(self.heads.len()).expect("a journal has 65,536 blocks at most")
    }

    /// The head of the block so many blocks behind a place, round the ring.
    fn head(&self, at: u32, behind: u32) -> &Head {
        let at = (u64::from(at) + u64::from(behind)) % u64::from(self.len());
        &self.heads[usize::try_from(at).expect("it is less than the number of heads")]
    }

    /// The transaction whose descriptor would be here, if it was committed; its magic is not looked at.
    fn committed(&self, at: u32) -> Option<Transaction> {
        let head = self.head(at, 0);
        let (number, blocks) = (head.number(), head.blocks());
        if !(1..=self.start.transaction_max).contains(&blocks) {
            return None;
        }
        // The limit leaves room for two of the largest transactions, so that one never meets itself.
        let end = self.head(at, blocks + 1);
        let commit = Commit { transaction: end.descriptor.transaction, blocks: end.descriptor.blocks };
        let is_committed = commit.transaction.get() == number && commit.blocks.get() == blocks;
        is_committed.then_some(Transaction { at, number, blocks })
    }

    /// Where to begin, `None` where a fresh journal holds no transaction at all.
    fn beginning(&self) -> Option<Beginning> {
        let start = &self.start;
        if start.first_unflushed < self.len() && start.last_flushed > 0 {
            let oldest = next_number(start.last_flushed);
            return Some(Beginning { at: start.first_unflushed, oldest, mount: start.mount });
        }
        self.look_for_oldest()
    }

    /// The oldest transaction of the newest mount, found as the kernel does in a journal that was never flushed.
    fn look_for_oldest(&self) -> Option<Beginning> {
        let (mut found, mut newest_mount, mut oldest_torn): (Option<Beginning>, _, Option<u32>) =
            (None, MOUNT_BEFORE_FIRST, None);
        let mut at = 0;
        while at < self.len() {
            let head = self.head(at, 0);
            at += 1;
            let is_descriptor = head.is_marked && head.blocks() > 0;
            let is_behind_torn = oldest_torn.is_some_and(|torn| head.number() > torn);
            let is_oversized = head.blocks() > self.start.transaction_max;
            if !is_descriptor || is_behind_torn || head.mount() < newest_mount || is_oversized {
                continue;
            }
            let Some(transaction) = self.committed(at - 1) else {
                // 0 is how the kernel says that there was none.
                oldest_torn = Some(head.number()).filter(|number| *number > 0);
                continue;
            };
            newest_mount = head.mount();
            if found.as_ref().is_none_or(|found| transaction.number < found.oldest) {
                found = Some(Beginning { at: transaction.at, oldest: transaction.number, mount: 0 });
            }
            at = at.saturating_add(transaction.blocks + 1);
        }
        // The kernel replays nothing where the oldest number is 0.
        found.filter(|found| found.oldest > 0).map(|found| Beginning { mount: newest_mount, ..found })
    }

    /// Follows the transactions from the beginning until the first that does not belong to them.
    fn chain(&self, beginning: &Beginning) -> Result<Vec<Transaction>, Unclear> {
        let mut chain: Vec<Transaction> = Vec::new();
        // The kernel asks for the first one's magic only.
        if !self.head(beginning.at, 0).is_marked {
            return Ok(chain);
        }
        let (mut at, mut taken, mut expected) = (beginning.at, 0, beginning.oldest);
        while let Some(transaction) = self.committed(at) {
            let head = self.head(at, 0);
            if head.number() < beginning.oldest || head.mount() != beginning.mount {
                break;
            }
            taken += transaction.blocks + 2;
            if !head.is_marked || head.number() != expected || taken > self.len() {
                let number = head.number();
                return Err(Unclear::because(format!("transaction {number} in its journal is out of order")));
            }
            chain.push(transaction);
            expected = next_number(transaction.number);
            at = (at + transaction.blocks + 2) % self.len();
            if taken == self.len() {
                break;
            }
        }
        Ok(chain)
    }

    /// Nothing that was committed may be newer than the end of the replay, whichever mount it names.
    fn check_rest(&self, beginning: &Beginning, chain: &[Transaction]) -> Result<(), Unclear> {
        let mut is_replayed = vec![false; self.heads.len()];
        for transaction in chain {
            for behind in 0..transaction.blocks + 2 {
                let place = (transaction.at + behind) % self.len();
                is_replayed[usize::try_from(place).expect("it is less than the number of heads")] = true;
            }
        }
        let others = (0..self.len()).zip(&is_replayed).filter(|(_, is_replayed)| !**is_replayed);
        let newer =
            others.map(|(at, _)| at).find(|at| self.number(*at).is_some_and(|number| number >= beginning.oldest));
        let Some(number) = newer.and_then(|at| self.number(at)) else { return Ok(()) };
        Err(Unclear::because(format!(
            "its journal is damaged: transaction {number} was committed, and one before it is missing"
        )))
    }

    /// In a clean journal the last transaction that was flushed ends where the header says. This finds a header that is
    /// wrong, which would call any journal clean.
    fn check_clean(&self) -> Result<(), Unclear> {
        let Start { last_flushed, first_unflushed, .. } = self.start;
        let ends_there = |at: u32| {
            let transaction = self.committed(at);
            transaction.is_some_and(|transaction| (at + transaction.blocks + 2) % self.len() == first_unflushed)
        };
        let is_sound = (0..self.len()).any(|at| self.number(at) == Some(last_flushed) && ends_there(at));
        if is_sound || last_flushed == 0 {
            return Ok(());
        }
        Err(Unclear::because(format!("transaction {last_flushed} is not where the header of its journal says")))
    }

    /// The number of the transaction that begins here, if one does and was committed.
    fn number(&self, at: u32) -> Option<u32> {
        let is_marked = self.head(at, 0).is_marked;
        self.committed(at).filter(|_| is_marked).map(|transaction| transaction.number)
    }
}

/// The number of the transaction behind one.
fn next_number(number: u32) -> u32 {
    number.checked_add(1).unwrap_or(TRANSACTION_AFTER_WRAP)
}
