//! What blocks of the log say: the tags of a descriptor block, the numbers in a revoke block, and their checksums.

use super::layout::{
    BLOCK_HIGH_LEN, COMMIT_CHECKSUM_AT, COMMIT_LEN, HEADER_LEN, REVOKE_COUNT_AT, REVOKE_RECORDS_AT, TAG_LEN,
    TAG_UUID_LEN, TAG2_EXTRA_LEN, TAG3_LEN, TAIL_LEN, Tag, Tag3, tag_flag,
};
use super::log::{Checks, Log};
use crate::ext::checksum::crc32c;
use crate::ext::geometry::join;
use zerocopy::FromBytes;

/// A logged block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Logged {
    /// Where it belongs.
    pub(super) block: u64,
    pub(super) escaped: bool,
    /// crc32c of the number of its transaction and of its bytes as they are in the log; the lower half only, or nothing.
    checksum: u32,
}

impl Logged {
    /// Whether these bytes are what was logged.
    pub(super) fn is_intact(&self, checks: Checks, transaction: u32, bytes: &[u8]) -> bool {
        let crc = |seed| crc32c(crc32c(seed, &transaction.to_be_bytes()), bytes);
        match checks {
            Checks::None => true,
            Checks::V2 { seed } => crc(seed) & u32::from(u16::MAX) == self.checksum,
            Checks::V3 { seed } => crc(seed) == self.checksum,
        }
    }
}

/// The blocks that a descriptor block announces, in the order in which they follow it.
pub(super) fn tags(log: &Log<'_>, block: &[u8]) -> Vec<Logged> {
    let mut rest = usable(log.checks, block).get(HEADER_LEN..).unwrap_or_default();
    let tag_len = tag_len(log.checks, log.wide);
    let mut found = Vec::new();
    while let Some((bytes, behind)) = rest.split_at_checked(tag_len) {
        let Some((logged, flags)) = tag(bytes, log) else { break };
        found.push(logged);
        if flags & tag_flag::LAST != 0 {
            break;
        }
        let skipped = if flags & tag_flag::SAME_UUID == 0 { TAG_UUID_LEN } else { 0 };
        rest = behind.get(skipped..).unwrap_or_default();
    }
    found
}

/// The block numbers in a revoke block, `None` where it is damaged.
pub(super) fn revoked(log: &Log<'_>, block: &[u8]) -> Option<Vec<u64>> {
    let count = u32::from_be_bytes(*block.get(REVOKE_COUNT_AT..)?.first_chunk()?);
    let records = usable(log.checks, block).get(REVOKE_RECORDS_AT..usize::try_from(count).ok()?)?;
    let numbers = records.chunks_exact(if log.wide { 8 } else { 4 });
    Some(numbers.map(|number| number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))).collect())
}

/// Whether the checksum at the end of a descriptor or revoke block is right, where there is one.
pub(super) fn has_right_tail(checks: Checks, block: &[u8]) -> bool {
    checks.seed().is_none_or(|seed| {
        let (bytes, stored) = block.split_at(block.len() - TAIL_LEN);
        crc32c(crc32c(seed, bytes), &[0; TAIL_LEN]).to_be_bytes() == stored
    })
}

/// Whether the checksum of a commit block is right, where there is one.
pub(super) fn is_right_commit(checks: Checks, block: &[u8]) -> bool {
    checks.seed().is_none_or(|seed| {
        let (before, rest) = block.split_at(COMMIT_CHECKSUM_AT);
        let (stored, behind) = rest.split_at(4);
        crc32c(crc32c(crc32c(seed, before), &[0; 4]), behind).to_be_bytes() == stored
    })
}

/// Whether a commit block is right as far as its structure reaches, if what is behind that is taken for zeroes.
///
/// A power cut can leave the first sector of a commit block with an old rest. Linux takes such a transaction for committed
/// (`jbd2_commit_block_csum_verify_partial`), e2fsck 1.47 does not.
pub(super) fn is_half_right_commit(checks: Checks, block: &[u8]) -> bool {
    let mut whole = vec![0; block.len()];
    whole[..COMMIT_LEN].copy_from_slice(&block[..COMMIT_LEN]);
    is_right_commit(checks, &whole)
}

/// A block without the checksum at its end.
fn usable(checks: Checks, block: &[u8]) -> &[u8] {
    let tail = if checks == Checks::None { 0 } else { TAIL_LEN };
    &block[..block.len() - tail]
}

/// Bytes of a tag (`journal_tag_bytes` in Linux).
fn tag_len(checks: Checks, wide: bool) -> usize {
    match checks {
        Checks::V3 { .. } => TAG3_LEN,
        Checks::V2 { .. } => TAG_LEN + TAG2_EXTRA_LEN + if wide { BLOCK_HIGH_LEN } else { 0 },
        Checks::None => TAG_LEN + if wide { BLOCK_HIGH_LEN } else { 0 },
    }
}

/// A tag and its flags.
fn tag(bytes: &[u8], log: &Log<'_>) -> Option<(Logged, u32)> {
    let (low, high, flags, checksum) = if matches!(log.checks, Checks::V3 { .. }) {
        let (tag, _) = Tag3::ref_from_prefix(bytes).ok()?;
        (tag.block_low, tag.block_high.get(), tag.flags.get(), tag.checksum.get())
    } else {
        let (tag, rest) = Tag::ref_from_prefix(bytes).ok()?;
        let high = rest.first_chunk().map_or(0, |high| u32::from_be_bytes(*high));
        (tag.block_low, high, u32::from(tag.flags.get()), u32::from(tag.checksum.get()))
    };
    let block = join(low.get(), if log.wide { high } else { 0 });
    Some((Logged { block, escaped: flags & tag_flag::ESCAPED != 0, checksum }, flags))
}
