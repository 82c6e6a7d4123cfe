//! The superblock: where everything lies, and whether this file system is one that is understood.

use super::layout::{
    BASIC_BLOCK, FEATURES_2_KNOWN, METADATA_UUID, RawSuperblock, SUPERBLOCK_MAGIC, checksum_at, header_sector, version,
};
use crate::{Unclear, text};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::ops::Range;
use zerocopy::FromBytes;

/// Features without which a file system may be read but not written. Trees of free inodes, of reverse mappings, of shared
/// extents, and counters of the inodes' trees: blocks of all of them are in use because they are not in the tree of free space.
const READ_ONLY_KNOWN: u32 = 0b1111;

/// Features without which it may not be read, from the lowest bit on: whether their space is understood, and the name.
///
/// The accepted ones change inodes, directories and attributes, or exchange mappings between files. Free space is what the
/// tree of free space says with each of them.
const INCOMPATIBLE: [(bool, &str); 11] = [
    (true, "ftype"),
    (true, "sparse inodes"),
    (true, "meta_uuid"),
    (true, "bigtime"),
    (false, "needsrepair"),
    (true, "nrext64"),
    (true, "exchange"),
    (true, "parent"),
    (false, "metadir"),
    (false, "zoned"),
    (false, "zone gaps"),
];

/// Features without which the log may not be replayed: intents of attributes, which allocate nothing by themselves.
const LOG_KNOWN: u32 = 0b1;

/// The smallest group: Linux makes none below 16 MiB; older ones may be of 64 blocks.
const GROUP_BLOCKS_MIN: u32 = 64;
/// Groups, at most: mkfs.xfs makes none below 16 MiB, and a few hundred for most disks.
const GROUPS_MAX: u32 = 1 << 20;
/// The largest group, in bytes: XFS limits it to 1 TiB, so that numbers of blocks in it are small.
const GROUP_BYTES_MAX: u64 = 1 << 40;
/// The longest log, in bytes: positions in it are counted in 31 bits.
const LOG_BYTES_MAX: u64 = 2 << 30;

/// A superblock that is understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    /// Whether it is version 5, and everything has a checksum.
    pub(super) checked: bool,
    /// In bytes.
    pub(super) block_size: u32,
    /// In bytes.
    pub(super) sector_size: u32,
    pub(super) blocks: u64,
    /// How many groups.
    pub(super) groups: u32,
    /// Blocks of each of them but the last.
    pub(super) group_blocks: u32,
    /// Whether files may lie on a realtime device.
    pub(super) has_realtime: bool,
    /// What the log's records are marked with, as users see it.
    pub(super) uuid: [u8; 16],
    /// What all other metadata is marked with.
    pub(super) metadata_uuid: [u8; 16],
    /// The group and its blocks that the log lies in.
    pub(super) log: (u32, Range<u32>),
    /// Whether the log has records of the second form.
    pub(super) log_version_2: bool,
    /// The log record as of which this was written; 0 in version 4.
    pub(super) lsn: u64,
}

/// What is known of a file system even if its space is not understood.
pub(super) struct Identity {
    /// Its label.
    pub(super) label: Option<String>,
    /// Its UUID.
    pub(super) uuid: Option<String>,
    /// Its size as it says.
    pub(super) size: Option<ByteCount>,
    /// Its block's size as it says.
    pub(super) block_size: Option<u32>,
    /// Its version.
    pub(super) version: Option<&'static str>,
}

impl Identity {
    /// What the first bytes of a superblock say, believed or not.
    pub(super) fn of(raw: &RawSuperblock) -> Self {
        let block_size = raw.block_size.get();
        Self {
            label: text::label(&raw.label),
            uuid: text::uuid(&raw.uuid),
            size: raw.blocks.get().checked_mul(u64::from(block_size)).and_then(ByteCount::new),
            block_size: block_size.is_power_of_two().then_some(block_size),
            version: match raw.version.get() & version::NUMBER {
                4 => Some("v4"),
                5 => Some("v5"),
                _ => None,
            },
        }
    }
}

impl Superblock {
    /// Whether a superblock is here.
    pub(super) fn is_here(bytes: &[u8]) -> bool {
        bytes.first_chunk().is_some_and(|magic| u32::from_be_bytes(*magic) == SUPERBLOCK_MAGIC)
    }

    /// The length of its sector in bytes as it says, 512 to 32768.
    pub(super) fn sector_size(raw: &RawSuperblock) -> Result<u32, Unclear> {
        let size = u32::from(raw.sector_size.get());
        let possible = (512..=32_768).contains(&size) && size.is_power_of_two();
        if possible { Ok(size) } else { Err(damaged("its sectors cannot have the size that it says")) }
    }

    /// The superblock in its sector; `checksum` is whether its checksum must be right, which it is not after replay.
    pub(super) fn parse(sector: &[u8], checksum: bool) -> Result<Self, Unclear> {
        let Ok((raw, _)) = RawSuperblock::ref_from_prefix(sector) else {
            return Err(damaged("it is too short"));
        };
        let number = raw.version.get() & version::NUMBER;
        if raw.magic.get() != SUPERBLOCK_MAGIC || !(4..=5).contains(&number) {
            return Err(Unclear::because(format!("it is of version {number}, and only 4 and 5 are understood")));
        }
        let checked = number == 5;
        if checked && checksum && !has_checksum(sector, checksum_at::SUPERBLOCK) {
            return Err(Unclear::because("its superblock's checksum is wrong"));
        }
        accept_features(raw, checked)?;
        let sector_size = Self::sector_size(raw)?;
        let mut superblock = Self {
            checked,
            block_size: raw.block_size.get(),
            sector_size,
            blocks: raw.blocks.get(),
            groups: raw.groups.get(),
            group_blocks: raw.group_blocks.get(),
            has_realtime: raw.realtime_blocks.get() != 0,
            uuid: raw.uuid,
            metadata_uuid: raw.uuid,
            log: (0, 0..0),
            log_version_2: raw.version.get() & version::LOG_2 != 0,
            lsn: if checked { raw.lsn.get() } else { 0 },
        };
        if checked && raw.features_incompatible.get() & METADATA_UUID != 0 {
            superblock.metadata_uuid = raw.metadata_uuid;
        }
        superblock.check_shape(raw)?;
        superblock.log = superblock.place_of_log(raw)?;
        Ok(superblock)
    }

    /// Whether sizes and counts fit each other.
    fn check_shape(&self, raw: &RawSuperblock) -> Result<(), Unclear> {
        let least = if self.checked { 1024 } else { 512 };
        let size = self.block_size;
        if !size.is_power_of_two() || !(least..=65_536).contains(&size) || u32::from(raw.block_shift) != size.ilog2() {
            return Err(damaged("its blocks cannot have the size that it says"));
        }
        if u32::from(raw.sector_shift) != self.sector_size.ilog2() || self.sector_size > size {
            return Err(damaged("its sectors cannot have the size that it says"));
        }
        let group = self.group_blocks;
        let bytes = u64::from(group) * u64::from(size);
        let headers = header_sector::COUNT * u64::from(self.sector_size);
        if group < GROUP_BLOCKS_MIN || bytes > GROUP_BYTES_MAX || headers >= bytes {
            return Err(damaged("its groups cannot have the size that it says"));
        }
        let shift = group.checked_next_power_of_two().map(u32::ilog2);
        if shift != Some(u32::from(raw.group_shift)) {
            return Err(damaged("its groups cannot have the size that it says"));
        }
        if self.groups > GROUPS_MAX {
            return Err(Unclear::because("it has more groups than this program looks at"));
        }
        let behind = u64::from(self.groups) * u64::from(group);
        let before = behind.checked_sub(u64::from(group)).ok_or_else(|| damaged("it has no groups"))?;
        let fits = self.blocks > before && self.blocks <= behind;
        let bytes = self.blocks.checked_mul(u64::from(size)).and_then(ByteCount::new);
        if !fits || bytes.is_none() {
            return Err(damaged("its groups and its size do not fit each other"));
        }
        Ok(())
    }

    /// Where the log lies. An address has the group's number in its upper bits, whatever the group's length.
    fn place_of_log(&self, raw: &RawSuperblock) -> Result<(u32, Range<u32>), Unclear> {
        let (start, blocks) = (raw.log_start.get(), raw.log_blocks.get());
        if start == 0 {
            return Err(Unclear::because("its log lies on another device"));
        }
        let strange = || damaged("its log does not lie where a log can lie");
        let group = u32::try_from(start >> raw.group_shift).map_err(|_| strange())?;
        let first = u32::try_from(start & !(u64::MAX << raw.group_shift)).map_err(|_| strange())?;
        let end = first.checked_add(blocks).ok_or_else(strange)?;
        let bytes = u64::from(blocks) * u64::from(self.block_size);
        if group >= self.groups || end > self.blocks_of(group) || blocks == 0 || bytes > LOG_BYTES_MAX {
            return Err(strange());
        }
        Ok((group, first..end))
    }

    /// Its size.
    pub(super) fn size(&self) -> ByteCount {
        ByteCount::new(self.blocks * u64::from(self.block_size)).expect("checked when it was parsed")
    }

    /// How many blocks a group has.
    pub(super) fn blocks_of(&self, group: u32) -> u32 {
        let before = u64::from(group) * u64::from(self.group_blocks);
        let left = self.blocks.saturating_sub(before).min(u64::from(self.group_blocks));
        u32::try_from(left).expect("at most a group's blocks")
    }

    /// Where a block of a group lies, in bytes. `block` is at most the group's length.
    pub(super) fn byte_of(&self, group: u32, block: u32) -> u64 {
        (u64::from(group) * u64::from(self.group_blocks) + u64::from(block)) * u64::from(self.block_size)
    }

    /// The bytes of a run of blocks within a group.
    pub(super) fn range_of(&self, group: u32, blocks: &Range<u32>) -> ByteRange {
        let ends = [blocks.start, blocks.end].map(|block| ByteOffset::new(self.byte_of(group, block)));
        let [Some(start), Some(end)] = ends else { unreachable!("blocks of a group lie within the size") };
        ByteRange::between(start, end).expect("a range of blocks is not reversed")
    }

    /// Where a sector of a group's header lies, in bytes.
    pub(super) fn header_byte(&self, group: u32, sector: u64) -> u64 {
        self.byte_of(group, 0) + sector * u64::from(self.sector_size)
    }

    /// A block's length in basic blocks.
    pub(super) fn basic_blocks(&self) -> u16 {
        u16::try_from(self.block_size / BASIC_BLOCK).expect("a block has at most 64 KiB")
    }

    /// Whether a superblock from the log can be one of the same file system: it may have grown or shrunk.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        let resized = Self { blocks: other.blocks, groups: other.groups, lsn: other.lsn, ..self.clone() };
        resized == *other
    }
}

/// Refuses what is not understood, with its name.
fn accept_features(raw: &RawSuperblock, checked: bool) -> Result<(), Unclear> {
    if raw.in_progress != 0 {
        return Err(Unclear::because("it was not made to the end (inprogress is set)"));
    }
    let versions = raw.version.get();
    if versions & version::SHARED != 0 {
        return Err(Unclear::because("it has the feature \"shared\", which is not understood"));
    }
    if !checked
        && versions & (version::DIRECTORY_2 | version::EXTENT_FLAG) != version::DIRECTORY_2 | version::EXTENT_FLAG
    {
        return Err(Unclear::because("it is of a form that Linux cannot read"));
    }
    if versions & version::MORE != 0 {
        refuse_bits("features2", raw.features_2.get() & !FEATURES_2_KNOWN)?;
    }
    if checked {
        let incompatible = raw.features_incompatible.get();
        for (bit, (accepted, name)) in INCOMPATIBLE.iter().enumerate() {
            if incompatible >> bit & 1 == 1 && !accepted {
                return Err(Unclear::because(format!("it has the feature \"{name}\", which is not understood")));
            }
        }
        refuse_bits("incompat", incompatible >> INCOMPATIBLE.len() << INCOMPATIBLE.len())?;
        refuse_bits("ro_compat", raw.features_read_only.get() & !READ_ONLY_KNOWN)?;
        refuse_bits("log_incompat", raw.features_log.get() & !LOG_KNOWN)?;
    }
    Ok(())
}

/// Refuses the bits that are left.
fn refuse_bits(field: &str, unknown: u32) -> Result<(), Unclear> {
    if unknown == 0 {
        return Ok(());
    }
    Err(Unclear::because(format!("it has features that are not understood ({field} {unknown:#x})")))
}

fn damaged(what: &str) -> Unclear {
    Unclear::because(format!("its superblock is damaged: {what}"))
}

/// Whether the CRC32C at `at`, which covers all of `bytes` with itself as zero, is right.
pub(super) fn has_checksum(bytes: &[u8], at: usize) -> bool {
    let Some((before, [a, b, c, d, after @ ..])) = bytes.split_at_checked(at) else { return false };
    let sum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after);
    sum == u32::from_le_bytes([*a, *b, *c, *d])
}
