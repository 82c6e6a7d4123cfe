//! Following the log from its start to the last transaction that was committed.
//!
//! jbd2 writes a transaction's blocks, waits for them, and only then writes its commit block; the next transaction begins
//! after that. So the log ends at the first block that does not belong there, and whatever the machine was doing when
//! it stopped is behind it. Two things tell damage from such an end: a bad block in a transaction whose commit block is
//! there, and a later commit block anywhere in the log. Logged blocks never begin with the journal's signature, so none
//! of them can be mistaken for one.

use super::layout::block_type;
use super::log::{Checks, Log, header};
use super::records::{Logged, has_right_tail, is_half_right_commit, is_right_commit, revoked, tags};
use crate::Unclear;
use crate::ext::blocks::{Replacement, Replacements};

/// Blocks of the log are read together, up to so many bytes.
const PIECE: usize = 1 << 20;
/// Revoked blocks that are remembered at most: 32 MiB of them.
const MAX_REVOKED: usize = 1 << 21;

/// What a replay would do.
pub(super) struct Replay {
    pub(super) replacements: Replacements,
    /// Committed transactions.
    pub(super) transactions: u64,
}

/// A block to be written, by a transaction.
struct Write {
    what: Replacement,
    transaction: u32,
}

struct Walk<'a> {
    log: &'a Log<'a>,
    volume_blocks: u64,
    /// Where the next block is, how many there were, and which transaction is being read.
    at: u64,
    walked: u64,
    transaction: u32,
    /// Whether a block of this transaction is not what was logged.
    damaged: bool,
    writes: Vec<Write>,
    revoked: Vec<(u64, u32)>,
    /// How much of both is committed.
    committed: (usize, usize),
    transactions: u64,
    buffer: Vec<u8>,
}

/// Follows the log. Replaced blocks must lie before `volume_blocks`.
pub(super) fn walk(log: &Log<'_>, volume_blocks: u64) -> Result<Replay, Unclear> {
    let mut walk = Walk::new(log, log.start, volume_blocks);
    let mut block = vec![0; log.block_len];
    while walk.next(&mut block)? {}
    walk.expect_the_end()?;
    Ok(walk.finish())
}

/// Makes sure that a log that is said to be empty is: nothing in it is as new as what would come next.
pub(super) fn expect_nothing(log: &Log<'_>) -> Result<(), Unclear> {
    Walk::new(log, log.first, 0).expect_the_end()
}

/// Whether transaction `a` comes before `b`; numbers wrap.
fn is_before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

impl<'a> Walk<'a> {
    fn new(log: &'a Log<'a>, at: u64, volume_blocks: u64) -> Self {
        Self {
            log,
            volume_blocks,
            at,
            walked: 0,
            transaction: log.sequence,
            damaged: false,
            writes: Vec::new(),
            revoked: Vec::new(),
            committed: (0, 0),
            transactions: 0,
            buffer: Vec::new(),
        }
    }

    /// Takes the next block of the journal's own, and what belongs to it. `false` at the end.
    fn next(&mut self, block: &mut [u8]) -> Result<bool, Unclear> {
        if self.walked >= self.log.len() {
            return Ok(false);
        }
        self.log.read(self.at, block)?;
        let header = header(block).filter(|header| header.transaction.get() == self.transaction);
        match header.map(|header| header.block_type.get()) {
            Some(block_type::DESCRIPTOR) => self.descriptor(block),
            Some(block_type::REVOKE) => self.revoke(block),
            Some(block_type::COMMIT) => self.commit(block),
            _ => Ok(false),
        }
    }

    fn advance(&mut self, blocks: u64) -> bool {
        self.walked += blocks;
        self.at = self.log.further(self.at, blocks);
        true
    }

    fn descriptor(&mut self, block: &[u8]) -> Result<bool, Unclear> {
        let found = tags(self.log, block);
        let count = found.iter().map(|_| 1).sum::<u64>();
        if self.walked + 1 + count > self.log.len() {
            // It goes on over what was logged before it: nothing that jbd2 wrote.
            return Ok(false);
        }
        self.damaged |= !has_right_tail(self.log.checks, block);
        if !self.damaged {
            self.check(&found)?;
        }
        let mut at = self.log.further(self.at, 1);
        for logged in found {
            self.damaged |= logged.block >= self.volume_blocks;
            let (content, _) = self.log.find(at)?;
            let what = Replacement { block: logged.block, content, escaped: logged.escaped };
            self.writes.push(Write { what, transaction: self.transaction });
            at = self.log.further(at, 1);
        }
        Ok(self.advance(1 + count))
    }

    /// Checks the blocks that follow a descriptor block, where there are checksums.
    fn check(&mut self, found: &[Logged]) -> Result<(), Unclear> {
        if self.log.checks == Checks::None {
            return Ok(());
        }
        let mut at = self.log.further(self.at, 1);
        for piece in found.chunks((PIECE / self.log.block_len).max(1)) {
            self.buffer.resize(piece.len() * self.log.block_len, 0);
            self.log.read(at, &mut self.buffer)?;
            for (logged, bytes) in piece.iter().zip(self.buffer.chunks_exact(self.log.block_len)) {
                self.damaged |= !logged.is_intact(self.log.checks, self.transaction, bytes);
                at = self.log.further(at, 1);
            }
        }
        Ok(())
    }

    fn revoke(&mut self, block: &[u8]) -> Result<bool, Unclear> {
        self.damaged |= !has_right_tail(self.log.checks, block);
        match revoked(self.log, block) {
            Some(numbers) => self.revoked.extend(numbers.into_iter().map(|block| (block, self.transaction))),
            None => self.damaged = true,
        }
        if self.revoked.len() > MAX_REVOKED {
            return Err(Unclear::because("its journal revokes more blocks than this program keeps in memory"));
        }
        Ok(self.advance(1))
    }

    fn commit(&mut self, block: &[u8]) -> Result<bool, Unclear> {
        if !is_right_commit(self.log.checks, block) {
            return Err(Unclear::because(
                "the last commit block in its journal is damaged or half written, and whether it counts depends on who recovers \
                 it: mount and unmount it first",
            ));
        }
        if self.damaged {
            return Err(Unclear::because("its journal is damaged within a transaction that was committed"));
        }
        self.transaction = self.transaction.wrapping_add(1);
        self.transactions += 1;
        if self.revoked.len() > MAX_REVOKED / 2 {
            keep_the_latest(&mut self.revoked);
        }
        self.committed = (self.writes.len(), self.revoked.len());
        Ok(self.advance(1))
    }

    /// Looks through the rest of the log for what cannot be there if it ended here.
    fn expect_the_end(&mut self) -> Result<(), Unclear> {
        let mut left = self.log.len().saturating_sub(self.walked);
        let block_len = self.log.block_len;
        while left > 0 {
            let (_, in_a_row) = self.log.find(self.at)?;
            let count = in_a_row.min(left).min(u64::try_from(PIECE / block_len).unwrap_or(1));
            self.buffer.resize(usize::try_from(count).unwrap_or(1) * block_len, 0);
            self.log.read(self.at, &mut self.buffer)?;
            if self.buffer.chunks_exact(block_len).any(|block| self.is_beyond(block)) {
                return Err(Unclear::because(
                    "its journal is damaged: later transactions follow the place where it ends",
                ));
            }
            self.advance(count);
            left -= count;
        }
        Ok(())
    }

    /// Whether a block shows that this transaction, or a later one, was committed.
    fn is_beyond(&self, block: &[u8]) -> bool {
        let Some(header) = header(block) else { return false };
        let transaction = header.transaction.get();
        match header.block_type.get() {
            block_type::COMMIT if !is_before(transaction, self.transaction) => {
                is_right_commit(self.log.checks, block) || is_half_right_commit(self.log.checks, block)
            }
            block_type::DESCRIPTOR | block_type::REVOKE if is_before(self.transaction, transaction) => {
                has_right_tail(self.log.checks, block)
            }
            _ => false,
        }
    }

    fn finish(mut self) -> Replay {
        self.writes.truncate(self.committed.0);
        self.revoked.truncate(self.committed.1);
        keep_the_latest(&mut self.revoked);
        // The last write of each block counts; the sort keeps their order.
        self.writes.sort_by_key(|write| write.what.block);
        self.writes.reverse();
        self.writes.dedup_by_key(|write| write.what.block);
        self.writes.reverse();
        let Self { writes, revoked, .. } = self;
        let is_revoked = |write: &Write| {
            let found = revoked.binary_search_by_key(&write.what.block, |(block, _)| *block);
            found.is_ok_and(|at| !is_before(revoked[at].1, write.transaction))
        };
        let kept = writes.into_iter().filter(|write| !is_revoked(write)).map(|write| write.what).collect();
        Replay { replacements: Replacements(kept), transactions: self.transactions }
    }
}

/// Keeps, of each revoked block, the latest transaction that revoked it. They come in the order of transactions.
fn keep_the_latest(revoked: &mut Vec<(u64, u32)>) {
    revoked.sort_by_key(|(block, _)| *block);
    revoked.reverse();
    revoked.dedup_by_key(|(block, _)| *block);
    revoked.reverse();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_numbered_around_the_end() {
        assert!(is_before(1, 2) && !is_before(2, 1) && !is_before(2, 2));
        assert!(is_before(u32::MAX, 0) && !is_before(0, u32::MAX));
    }

    #[test]
    fn the_latest_revocation_counts() {
        let mut revoked = vec![(7, 1), (5, 1), (7, 2), (7, 4), (5, 3)];
        keep_the_latest(&mut revoked);
        assert_eq!(revoked, [(5, 3), (7, 4)]);
    }
}
