//! One record: checking it, and putting back the words that made room for its cycle.

use super::ring::{BLOCK_LEN, Ring};
use crate::Unclear;
use crate::xfs::layout::{
    BASIC_BLOCK, BODY_PER_HEADER, CYCLES_PER_HEADER, FORMAT_LITTLE_ENDIAN, RECORD_CHECKED, RECORD_MAGIC, RECORD_MAX,
    RawMoreWords, RawRecord, checksum_at,
};
use crate::xfs::superblock::Superblock;
use zerocopy::FromBytes;

/// Why a record cannot be used.
pub(super) enum Fault {
    /// It was not written to its end, or not all of it arrived on the disk, or it is damaged.
    Torn,
    /// It is whole, or cannot be read, and nothing can be done with it.
    Refused(Unclear),
}

impl From<Unclear> for Fault {
    fn from(reason: Unclear) -> Self {
        Self::Refused(reason)
    }
}

/// What a record's header says.
pub(super) struct Header {
    /// The record: its cycle in the upper half, its basic block in the lower.
    pub(super) lsn: u64,
    /// The first record that is still needed when this is the last.
    pub(super) tail: u64,
    /// The basic blocks of the header.
    pub(super) own_blocks: u32,
    /// The bytes of the body.
    pub(super) len: u32,
    /// The operations that begin in it.
    pub(super) operations: u32,
    cycle: u32,
    checksum: u32,
    /// The longest body that fits the header.
    longest: u32,
    little_endian: bool,
}

/// A record that is whole.
pub(super) struct Record {
    /// Which it is.
    pub(super) lsn: u64,
    /// The operations that begin in it.
    pub(super) operations: u32,
    /// The operations.
    pub(super) body: Vec<u8>,
    header_blocks: u32,
}

impl Header {
    /// The header that begins with this basic block.
    pub(super) fn parse(block: &[u8], superblock: &Superblock) -> Result<Self, Fault> {
        let Ok((raw, _)) = RawRecord::ref_from_prefix(block) else { return Err(Fault::Torn) };
        let version = raw.version.get();
        if raw.magic.get() != RECORD_MAGIC || !(1..=3).contains(&version) || raw.len.get() > RECORD_MAX {
            return Err(Fault::Torn);
        }
        if raw.uuid != superblock.uuid {
            return Err(Unclear::because("its log belongs to another file system").into());
        }
        let is_second = superblock.log_version_2 && version & 2 != 0;
        let longest = if is_second { raw.size.get().clamp(BODY_PER_HEADER, RECORD_MAX) } else { BODY_PER_HEADER };
        Ok(Self {
            lsn: raw.lsn.get(),
            tail: raw.tail.get(),
            own_blocks: longest.div_ceil(BODY_PER_HEADER),
            len: raw.len.get(),
            operations: raw.operations.get(),
            cycle: raw.cycle.get(),
            checksum: raw.checksum.get(),
            longest,
            little_endian: raw.format.get() == FORMAT_LITTLE_ENDIAN,
        })
    }

    /// All its basic blocks.
    pub(super) fn blocks(&self) -> u32 {
        self.own_blocks + self.len.div_ceil(BASIC_BLOCK)
    }

    /// Whether the checksum is right, or there is none: `header` and `body` are as on the disk.
    ///
    /// Programs that make an empty log compute none. A kernel always does, also in version 4 since Linux 3.8.
    pub(super) fn is_whole(&self, header: &[u8], body: &[u8]) -> bool {
        if self.checksum == 0 {
            return true;
        }
        let more = header.chunks_exact(BLOCK_LEN).take(self.len.div_ceil(BODY_PER_HEADER).try_into().unwrap_or(1));
        RECORD_CHECKED.into_iter().any(|length| {
            let (before, after) = (&header[..checksum_at::RECORD], &header[checksum_at::RECORD + 4..length]);
            let mut sum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after);
            for block in more.clone().skip(1) {
                sum = crc32c::crc32c_append(sum, &block[..size_of::<RawMoreWords>()]);
            }
            crc32c::crc32c_append(sum, body) == self.checksum
        })
    }
}

impl Record {
    /// The record at this place, whole and of this file system.
    pub(super) fn read(ring: &mut Ring<'_>, at: u32, superblock: &Superblock) -> Result<Self, Fault> {
        let header = Header::parse(&ring.read_next(at, 1)?, superblock)?;
        let named = header.lsn == (u64::from(header.cycle) << 32 | u64::from(at));
        if !named || header.len == 0 || header.len > header.longest || header.blocks() > ring.blocks() {
            return Err(Fault::Torn);
        }
        // Version 5 has no records without a checksum but the one of an empty log, which is never replayed.
        if superblock.checked && header.checksum == 0 {
            return Err(Fault::Torn);
        }
        let head = ring.read_next(at, header.own_blocks)?;
        let mut body = ring.read_next(ring.after(at, header.own_blocks), header.len.div_ceil(BASIC_BLOCK))?;
        let len = usize::try_from(header.len).map_err(|_| Fault::Torn)?;
        if !header.is_whole(&head, &body[..len]) {
            return Err(Fault::Torn);
        }
        if !header.little_endian {
            return Err(
                Unclear::because("it was not unmounted, and its log is of a machine of another byte order").into()
            );
        }
        header.put_words_back(ring, at, &head, &mut body)?;
        body.truncate(len);
        Ok(Self { lsn: header.lsn, operations: header.operations, body, header_blocks: header.own_blocks })
    }

    /// All its basic blocks.
    pub(super) fn blocks(&self) -> u32 {
        self.header_blocks + u32::try_from(self.body.len().div_ceil(BLOCK_LEN)).expect("a record is short")
    }
}

impl Header {
    /// Puts back the first word of each basic block of the body, in whose place the cycle stands: the one of the record, or
    /// the next one behind the end of the ring.
    fn put_words_back(&self, ring: &Ring<'_>, at: u32, head: &[u8], body: &mut [u8]) -> Result<(), Fault> {
        let next = match self.cycle.wrapping_add(1) {
            RECORD_MAGIC => RECORD_MAGIC.wrapping_add(1),
            next => next,
        };
        let until_end = ring.blocks() - at;
        let cycle_at = |index: u32| if index < until_end { self.cycle } else { next };
        for (index, block) in body.chunks_exact_mut(BLOCK_LEN).enumerate() {
            let (number, word) = (index / CYCLES_PER_HEADER, index % CYCLES_PER_HEADER);
            let words = match head.get(number * BLOCK_LEN..).unwrap_or_default() {
                first if number == 0 => RawRecord::ref_from_prefix(first).map(|(raw, _)| &raw.words).ok(),
                more => RawMoreWords::ref_from_prefix(more).map(|(raw, _)| &raw.words).ok(),
            };
            let (Some(words), Ok(index)) = (words, u32::try_from(index)) else { return Err(Fault::Torn) };
            if block[..4] != cycle_at(self.own_blocks + index).to_be_bytes() {
                return Err(Fault::Torn);
            }
            block[..4].copy_from_slice(&words[word]);
        }
        let more = head.chunks_exact(BLOCK_LEN).zip(0_u32..).skip(1);
        let fits = |(block, index): (&[u8], u32)| block[..4] == cycle_at(index).to_be_bytes();
        if more.into_iter().all(fits) { Ok(()) } else { Err(Fault::Torn) }
    }
}
