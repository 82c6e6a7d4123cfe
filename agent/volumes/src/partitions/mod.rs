//! Partition tables: GPT, and MBR with its chain of EBRs.
//!
//! A table either holds together or it does not: where an entry overlaps another or leaves the disk, nobody can say which
//! of them is wrong, and every block of the disk is in use. Programs disagree about such tables; we do not take part.

mod gpt;
mod guid;
mod layout;
mod mbr;

use crate::volume::bytes;
use crate::{ReadError, Unclear, Volume};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use layout::{BOOT_SIGNATURE, RawMbr, mbr_kind};
use zerocopy::FromBytes;

/// Sectors of disks: the logical ones that partition tables count in.
const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// The form of a partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// A GUID partition table.
    Gpt,
    /// A master boot record, with logical partitions behind EBRs.
    Mbr,
}

impl TableKind {
    /// `GPT` or `MBR`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpt => "GPT",
            Self::Mbr => "MBR",
        }
    }
}

/// A table as it was read.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) kind: TableKind,
    /// The disk's GUID, or the disk signature of an MBR as eight digits.
    pub(crate) id: Option<String>,
    /// In the order of the table.
    pub(crate) entries: Vec<Entry>,
    /// Why it is not understood, and every block of the disk is in use.
    pub(crate) trouble: Option<Unclear>,
    pub(crate) remarks: Vec<String>,
}

impl Table {
    const fn new(kind: TableKind, id: Option<String>) -> Self {
        Self { kind, id, entries: Vec::new(), trouble: None, remarks: Vec::new() }
    }

    fn troubled(kind: TableKind, reason: impl Into<String>) -> Self {
        Self { trouble: Some(Unclear::because(reason)), ..Self::new(kind, None) }
    }
}

/// A partition.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The number that Linux gives it.
    pub(crate) number: u32,
    pub(crate) range: ByteRange,
    /// Its type: a GUID, or a number such as `0x83`.
    pub(crate) kind: String,
    pub(crate) kind_name: Option<&'static str>,
    pub(crate) name: Option<String>,
    pub(crate) uuid: Option<String>,
    /// Whether it only holds logical partitions.
    pub(crate) extended: bool,
}

/// How much is made of a boot record that makes no sense as a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A whole disk: another system may see partitions there.
    Disk,
    /// A partition or logical volume: a boot program of a file system.
    Within,
}

/// The partition table at the start of a volume; `None` where there is none.
///
/// `boot_block` says that the first sector is known to be that of a file system, whose boot program may lie where an MBR
/// has its table.
pub(crate) fn read(volume: &dyn Volume, place: Place, boot_block: bool) -> Result<Option<Table>, ReadError> {
    let first = match bytes(volume, 0, size_of::<RawMbr>()) {
        Ok(first) => first,
        Err(ReadError::Beyond) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mbr = RawMbr::read_from_bytes(&first).ok().filter(|mbr| mbr.signature == BOOT_SIGNATURE);
    if let Some(table) = gpt::read(volume, mbr.as_ref())? {
        return Ok(Some(table));
    }
    let Some(mbr) = mbr else { return Ok(None) };
    if mbr.entries.iter().all(|entry| zerocopy::IntoBytes::as_bytes(entry).iter().all(|byte| *byte == 0)) {
        return Ok(None);
    }
    if !mbr::is_plausible(&mbr) {
        let counts = place == Place::Disk && !boot_block;
        return Ok(counts.then(|| Table::troubled(TableKind::Mbr, "its partition table makes no sense")));
    }
    if mbr.entries.iter().any(|entry| entry.kind == mbr_kind::PROTECTIVE) {
        let reason = "its MBR says that it has a GPT, and there is none";
        return Ok(Some(Table::troubled(TableKind::Gpt, reason)));
    }
    mbr::read(volume, &mbr).map(Some)
}

/// The range of `sectors` sectors from `first`, or `None` where no disk reaches.
fn range_of(first: u64, sectors: u64, unit: u32) -> Option<ByteRange> {
    let at = ByteOffset::new(first.checked_mul(u64::from(unit))?)?;
    ByteRange::new(at, ByteCount::new(sectors.checked_mul(u64::from(unit))?)?)
}

/// Why ranges cannot all belong to what they are called: the first that is empty, leaves `within` or overlaps another.
fn conflict(ranges: &[(String, ByteRange)], within: ByteRange, whole: &str) -> Option<String> {
    for (name, range) in ranges {
        if range.is_empty() {
            return Some(format!("{name} is empty"));
        }
        if range.start() < within.start() || range.end() > within.end() {
            return Some(format!(
                "{name} ends at byte {}, outside of {whole}, which ends at {}",
                range.end(),
                within.end()
            ));
        }
    }
    let mut sorted: Vec<_> = ranges.iter().collect();
    sorted.sort_by_key(|(_, range)| *range);
    let pair = sorted.windows(2).find(|pair| pair[0].1.end() > pair[1].1.start())?;
    Some(format!("{} and {} overlap", pair[0].0, pair[1].0))
}
