//! GUID partition tables.
//!
//! The first copy is the one that counts, and only if its checksums and limits are right. The second is looked at for one
//! thing: whether it contradicts. Nothing is ever taken from it: a table that had to be guessed is no proof of free space.

use super::layout::{GPT_ENTRY_LEAST, GPT_REVISION, GPT_SIGNATURE, RawGptEntry, RawGptHeader, RawMbr, mbr_kind};
use super::{Entry, SECTOR_SIZES, Table, TableKind, conflict, guid, range_of};
use crate::crc32::crc32;
use crate::volume::bytes;
use crate::{ReadError, Unclear, Volume, text};
use failback_units::ByteRange;
use zerocopy::FromBytes;

/// The sector of the first header.
const PRIMARY_LBA: u64 = 1;
/// All entries together, in bytes: 64 times the usual 16 KiB.
const ENTRIES_MAX: u64 = 1 << 20;
/// The longest entry.
const ENTRY_MAX: u32 = 4096;

/// What is where a header should be.
enum Header {
    Absent,
    Damaged(&'static str),
    Good(Box<RawGptHeader>),
}

/// The GPT of a disk whose first sector is `mbr`, if that is one.
pub(super) fn read(volume: &dyn Volume, mbr: Option<&RawMbr>) -> Result<Option<Table>, ReadError> {
    let mut found = Vec::new();
    for unit in SECTOR_SIZES {
        let Some(last) = last_lba(volume, unit) else { continue };
        let (primary, backup) = (header(volume, unit, PRIMARY_LBA)?, header(volume, unit, last)?);
        if !matches!((&primary, &backup), (Header::Absent, Header::Absent)) {
            found.push((unit, last, primary, backup));
        }
    }
    let mut found = found.into_iter();
    let (Some((unit, last, primary, backup)), other) = (found.next(), found.next()) else { return Ok(None) };
    if other.is_some() {
        let reason = "it has two GPTs, one for sectors of 512 bytes and one for sectors of 4096";
        return Ok(Some(Table::troubled(TableKind::Gpt, reason)));
    }
    let second = if matches!(backup, Header::Good(_)) { "good" } else { "not good either" };
    let header = match primary {
        Header::Good(header) => header,
        Header::Damaged(reason) => {
            let reason = format!("the first copy of its GPT is damaged ({reason}); the second is {second}");
            return Ok(Some(Table::troubled(TableKind::Gpt, reason)));
        }
        Header::Absent => {
            let reason = format!("the first copy of its GPT is missing; the second is {second}");
            return Ok(Some(Table::troubled(TableKind::Gpt, reason)));
        }
    };
    let mut table = Table::new(TableKind::Gpt, Some(guid::text(header.disk_guid)));
    if unit != volume.sector_size() {
        table.remarks.push(format!("the partition table counts in sectors of {unit} bytes, and the disk does not"));
    }
    let understood = protective(mbr)
        .and_then(|()| limits(&header, unit, last))
        .and_then(|()| compare(volume, &header, backup, unit, last, &mut table.remarks));
    table.trouble = match understood.and_then(|()| fill(volume, &header, unit, &mut table.entries)) {
        Ok(()) => None,
        Err(Stop::Trouble(reason)) => Some(Unclear::because(reason)),
        Err(Stop::Failed(error)) => return Err(error),
    };
    Ok(Some(table))
}

/// Why reading a table ends early.
enum Stop {
    Trouble(String),
    Failed(ReadError),
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Failed(error)
    }
}

fn trouble(reason: impl Into<String>) -> Stop {
    Stop::Trouble(reason.into())
}

fn last_lba(volume: &dyn Volume, unit: u32) -> Option<u64> {
    (volume.size().get() / u64::from(unit)).checked_sub(1)
}

/// Looks at the header in sector `lba`.
fn header(volume: &dyn Volume, unit: u32, lba: u64) -> Result<Header, ReadError> {
    let len = usize::try_from(unit).map_err(|_| ReadError::Beyond)?;
    let sector = match bytes(volume, lba.checked_mul(u64::from(unit)).ok_or(ReadError::Beyond)?, len) {
        Ok(sector) => sector,
        Err(ReadError::Beyond) => return Ok(Header::Absent),
        Err(error) => return Err(error),
    };
    let Ok((header, _)) = RawGptHeader::read_from_prefix(&sector) else { return Ok(Header::Absent) };
    if header.signature != GPT_SIGNATURE {
        return Ok(Header::Absent);
    }
    let covered = usize::try_from(header.header_len.get()).unwrap_or(usize::MAX);
    if covered < size_of::<RawGptHeader>() || covered > sector.len() {
        return Ok(Header::Damaged("its header has an impossible length"));
    }
    let mut covered = sector[..covered].to_vec();
    // Signature, revision and length come before the checksum, which counts as zero in itself.
    covered[16..20].fill(0);
    if crc32(&covered) != header.header_crc.get() {
        return Ok(Header::Damaged("the checksum of its header is wrong"));
    }
    if header.revision.get() != GPT_REVISION {
        return Ok(Header::Damaged("its revision is unknown"));
    }
    if header.own_lba.get() != lba {
        return Ok(Header::Damaged("its header belongs elsewhere"));
    }
    Ok(Header::Good(Box::new(header)))
}

/// Whether the MBR in front of a GPT only keeps others away.
fn protective(mbr: Option<&RawMbr>) -> Result<(), Stop> {
    let Some(mbr) = mbr else { return Err(trouble("it has a GPT and no protective MBR")) };
    let used: Vec<_> = mbr.entries.iter().filter(|entry| entry.kind != mbr_kind::EMPTY).collect();
    match used.as_slice() {
        [only] if only.kind == mbr_kind::PROTECTIVE && u64::from(only.start.get()) == PRIMARY_LBA => Ok(()),
        [] => Err(trouble("it has a GPT and no protective MBR")),
        used if used.iter().any(|entry| entry.kind == mbr_kind::PROTECTIVE) => {
            Err(trouble("its MBR describes partitions beside its GPT (a hybrid MBR)"))
        }
        _ => Err(trouble("it has a GPT and an MBR that knows nothing of it")),
    }
}

/// Whether the limits that a header states are possible on this disk.
fn limits(header: &RawGptHeader, unit: u32, last: u64) -> Result<(), Stop> {
    let (count, len) = (header.entry_count.get(), header.entry_len.get());
    let all = u64::from(count) * u64::from(len);
    if len < GPT_ENTRY_LEAST || len > ENTRY_MAX || !len.is_power_of_two() || count == 0 || all > ENTRIES_MAX {
        return Err(trouble(format!("its GPT has {count} entries of {len} bytes, which is not supported")));
    }
    if header.other_lba.get() > last || header.last_usable.get() >= last {
        let size = header.other_lba.get().max(header.last_usable.get()).saturating_add(1).saturating_mul(unit.into());
        return Err(trouble(format!(
            "its GPT was made for a disk of {size} bytes, and this one ends at {}",
            (last + 1) * u64::from(unit)
        )));
    }
    let entries = header.entries_lba.get();
    let behind = entries.checked_add(all.div_ceil(u64::from(unit)));
    let in_order = entries > PRIMARY_LBA
        && behind.is_some_and(|behind| behind <= header.first_usable.get())
        && header.last_usable.get().checked_add(1).is_some_and(|end| end >= header.first_usable.get())
        && header.other_lba.get() > header.last_usable.get();
    if in_order { Ok(()) } else { Err(trouble("the parts of its GPT overlap")) }
}

/// Compares the first header with the second; `at_end` is what the disk's last sector holds.
fn compare(
    volume: &dyn Volume,
    first: &RawGptHeader,
    at_end: Header,
    unit: u32,
    last: u64,
    remarks: &mut Vec<String>,
) -> Result<(), Stop> {
    let place = first.other_lba.get();
    let second = if place == last {
        at_end
    } else {
        if !matches!(at_end, Header::Absent) {
            return Err(trouble("the second copy of its GPT is not where the first says, and another is at the end"));
        }
        remarks.push("the disk was enlarged since its partition table was made".into());
        header(volume, unit, place)?
    };
    match second {
        Header::Good(second) if !agree(first, &second) => {
            Err(trouble("the two copies of its GPT contradict each other"))
        }
        Header::Good(_) => Ok(()),
        Header::Absent | Header::Damaged(_) => {
            remarks.push("the second copy of the partition table is damaged; the first is good".into());
            Ok(())
        }
    }
}

/// Whether two headers describe the same table.
fn agree(first: &RawGptHeader, second: &RawGptHeader) -> bool {
    second.other_lba.get() == first.own_lba.get()
        && second.disk_guid == first.disk_guid
        && second.first_usable == first.first_usable
        && second.last_usable == first.last_usable
        && second.entry_count == first.entry_count
        && second.entry_len == first.entry_len
        && second.entries_crc == first.entries_crc
}

/// Reads the entries and checks that they fit.
fn fill(volume: &dyn Volume, header: &RawGptHeader, unit: u32, entries: &mut Vec<Entry>) -> Result<(), Stop> {
    let impossible = || trouble("its GPT lies where no disk reaches");
    let len = usize::try_from(header.entry_len.get()).map_err(|_| impossible())?;
    let count = usize::try_from(header.entry_count.get()).map_err(|_| impossible())?;
    let at = header.entries_lba.get().checked_mul(u64::from(unit)).ok_or_else(impossible)?;
    let all = bytes(volume, at, len.checked_mul(count).ok_or_else(impossible)?)?;
    if crc32(&all) != header.entries_crc.get() {
        return Err(trouble("the checksum of the entries of its GPT is wrong"));
    }
    for (number, raw) in (1..).zip(all.chunks_exact(len)) {
        let Ok((raw, _)) = RawGptEntry::read_from_prefix(raw) else { continue };
        if raw.kind == [0; 16] {
            continue;
        }
        let (first, last) = (raw.first_lba.get(), raw.last_lba.get());
        let sectors = last.checked_sub(first).and_then(|distance| distance.checked_add(1));
        let range = sectors.and_then(|sectors| range_of(first, sectors, unit));
        let range = range.ok_or_else(|| trouble(format!("partition {number} ends before it begins")))?;
        entries.push(entry(number, &raw, range));
    }
    let usable = header.last_usable.get() + 1 - header.first_usable.get();
    let usable = range_of(header.first_usable.get(), usable, unit).ok_or_else(impossible)?;
    let ranges: Vec<_> = entries.iter().map(|entry| (format!("partition {}", entry.number), entry.range)).collect();
    conflict(&ranges, usable, "the space for partitions").map_or(Ok(()), |reason| Err(trouble(reason)))
}

fn entry(number: u32, raw: &RawGptEntry, range: ByteRange) -> Entry {
    let units = raw.name.iter().map(|unit| unit.get()).take_while(|unit| *unit != 0);
    let name: String = char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    let kind = guid::text(raw.kind);
    Entry {
        number,
        range,
        kind_name: guid::gpt_kind(&kind),
        kind,
        name: text::label(name.as_bytes()),
        uuid: (raw.guid != [0; 16]).then(|| guid::text(raw.guid)),
        extended: false,
    }
}
