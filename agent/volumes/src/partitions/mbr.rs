//! MBR, and the chain of EBRs that holds logical partitions.
//!
//! The last word is that of Linux (`block/partitions/msdos.c`), whose rules for a plausible table these are, made
//! stricter: what Linux mends or leaves out is trouble here.

use super::layout::{BOOT_SIGNATURE, RawMbr, RawMbrEntry, mbr_kind};
use super::{Entry, Table, TableKind, conflict, guid, range_of};
use crate::volume::bytes;
use crate::{ReadError, Unclear, Volume};
use failback_units::{ByteOffset, ByteRange};
use std::collections::BTreeSet;
use zerocopy::FromBytes;

/// Logical partitions that are followed; Linux has device numbers for fewer.
const LOGICAL_MAX: u32 = 256;
/// What the first logical partition is called.
const FIRST_LOGICAL: u32 = 5;
/// The status of a partition to boot from.
const ACTIVE: u8 = 0x80;

/// Whether it can be a table at all, rather than a boot program.
pub(super) fn is_plausible(mbr: &RawMbr) -> bool {
    mbr.entries.iter().all(|entry| entry.status == 0 || entry.status == ACTIVE)
        && mbr.entries.iter().any(|entry| entry.kind != mbr_kind::EMPTY)
}

fn is_extended(entry: &RawMbrEntry) -> bool {
    mbr_kind::EXTENDED.contains(&entry.kind)
}

/// Reads a plausible table and what it points to.
pub(super) fn read(volume: &dyn Volume, mbr: &RawMbr) -> Result<Table, ReadError> {
    let id = mbr.disk_signature.get();
    let id = (id != 0).then(|| format!("{id:08x}"));
    let mut table = Table::new(TableKind::Mbr, id);
    let found = fill(volume, mbr, &mut table);
    match found {
        Ok(()) => {}
        Err(Stop::Trouble(reason)) => table.trouble = Some(Unclear::because(reason)),
        Err(Stop::Failed(error)) => return Err(error),
    }
    let signature = mbr.disk_signature.get();
    for entry in &mut table.entries {
        // As Linux names them in /dev/disk/by-partuuid.
        entry.uuid = (signature != 0).then(|| format!("{signature:08x}-{:02x}", entry.number));
    }
    Ok(table)
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

fn fill(volume: &dyn Volume, mbr: &RawMbr, table: &mut Table) -> Result<(), Stop> {
    let unit = volume.sector_size();
    let mut ranges = Vec::new();
    let mut extended = None;
    for (number, raw) in (1..).zip(&mbr.entries).filter(|(_, raw)| raw.kind != mbr_kind::EMPTY) {
        let entry = entry(number, raw, 0, unit)?;
        ranges.push((format!("partition {number}"), entry.range));
        if is_extended(raw) && extended.replace((entry.range, u64::from(raw.start.get()))).is_some() {
            table.entries.push(entry);
            return Err(Stop::Trouble("it has more than one extended partition".into()));
        }
        table.entries.push(entry);
    }
    // The boot record itself belongs to nobody.
    ranges.push(("the boot record".into(), range_of(0, 1, unit).unwrap_or_default()));
    if let Some(reason) = conflict(&ranges, ByteRange::whole(volume.size()), "the disk") {
        return Err(Stop::Trouble(reason));
    }
    match extended {
        Some((range, start)) => logical(volume, range, start, table),
        None => Ok(()),
    }
}

/// Makes a partition of an entry that counts from sector `base`.
fn entry(number: u32, raw: &RawMbrEntry, base: u64, unit: u32) -> Result<Entry, Stop> {
    let first = base.checked_add(u64::from(raw.start.get()));
    let range = first.and_then(|first| range_of(first, u64::from(raw.sectors.get()), unit));
    let range = range.ok_or_else(|| Stop::Trouble(format!("partition {number} lies where no disk reaches")))?;
    Ok(Entry {
        number,
        range,
        kind: format!("0x{:02x}", raw.kind),
        kind_name: guid::mbr_kind(raw.kind),
        name: None,
        uuid: None,
        extended: is_extended(raw),
    })
}

/// Follows the chain of EBRs in the extended partition, which begins at sector `start`.
fn logical(volume: &dyn Volume, within: ByteRange, start: u64, table: &mut Table) -> Result<(), Stop> {
    let unit = volume.sector_size();
    let (mut at, mut seen, mut ranges) = (start, BTreeSet::new(), Vec::new());
    let mut number = FIRST_LOGICAL;
    loop {
        if !seen.insert(at) {
            return Err(Stop::Trouble("the chain of its logical partitions is a loop".into()));
        }
        if seen.len() > LOGICAL_MAX as usize {
            return Err(Stop::Trouble(format!("it has more than {LOGICAL_MAX} logical partitions")));
        }
        let place =
            range_of(at, 1, unit).filter(|place| place.start() >= within.start() && place.end() <= within.end());
        let Some(place) = place else {
            return Err(Stop::Trouble("the chain of its logical partitions leaves the extended partition".into()));
        };
        let ebr = record(volume, place.start())?;
        ranges.push((format!("the record before partition {number}"), place));
        let (links, partitions): (Vec<_>, Vec<_>) = ebr.iter().partition(|raw| is_extended(raw));
        if partitions.len() > 1 || links.len() > 1 {
            return Err(Stop::Trouble(format!("the record before partition {number} has entries that it cannot have")));
        }
        for raw in partitions {
            let entry = entry(number, raw, at, unit)?;
            ranges.push((format!("partition {number}"), entry.range));
            table.entries.push(entry);
            number += 1;
        }
        let Some(link) = links.first() else { break };
        at = start.saturating_add(u64::from(link.start.get()));
    }
    conflict(&ranges, within, "the extended partition").map_or(Ok(()), |reason| Err(Stop::Trouble(reason)))
}

/// The entries of an EBR that are in use.
fn record(volume: &dyn Volume, at: ByteOffset) -> Result<Vec<RawMbrEntry>, Stop> {
    let read = bytes(volume, at.get(), size_of::<RawMbr>())?;
    let ebr = RawMbr::read_from_bytes(&read).ok().filter(|ebr| ebr.signature == BOOT_SIGNATURE);
    let ebr = ebr.ok_or_else(|| Stop::Trouble("the chain of its logical partitions is broken".into()))?;
    if ebr.entries.iter().any(|raw| raw.status != 0 && raw.status != ACTIVE) {
        return Err(Stop::Trouble("a record of its logical partitions makes no sense".into()));
    }
    Ok(ebr.entries.into_iter().filter(|raw| raw.kind != mbr_kind::EMPTY).collect())
}
