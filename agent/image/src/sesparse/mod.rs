//! Space-efficient sparse extents (`SESPARSE`): the snapshots of ESXi 6.5 and later on VMFS-6, and of disks above 2 TiB.
//!
//! A directory of tables of grains of 4 KiB, all in one file with a journal. VMware has not published the format, so that
//! whatever is not as it was in every file that is known is refused. A journal that must be replayed is the work of ESXi:
//! nobody else knows what is in it. This is read only.

mod layout;

use crate::extent::{Extent, ExtentError, Place};
use crate::grains::Grains;
use crate::layout::SESPARSE_MAGIC;
use crate::source::{Entries, Source, Window};
use failback_blockio::Device;
use failback_units::{ByteCount, ByteOffset};
use layout::{
    ENTRIES_PER_SECTOR, GRAIN_SECTORS, RawConstHeader, RawVolatileHeader, TABLE_ENTRIES, TABLE_SECTORS, VERSION,
    VOLATILE_MAGIC, directory_entry, grain_kind,
};
use zerocopy::little_endian::U64;

/// How much is read at a time: grains of 4 KiB, written in the order of the guest's writes.
const READ_AHEAD: u32 = 128 << 10;

/// A space-efficient sparse extent.
pub struct SeSparseExtent {
    source: Source,
    grains: Grains,
    directory: u64,
    /// How many tables the disk needs.
    tables: u64,
    first_table: u64,
    first_grain: u64,
    directory_entries: Entries,
    table_entries: Entries,
    data: Window,
}

impl SeSparseExtent {
    /// Reads both headers.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is no such extent, has a journal to be replayed, or holds what is not understood.
    pub fn open(device: Box<dyn Device>) -> Result<Self, ExtentError> {
        let source = Source::new(device);
        let raw: RawConstHeader = source.structure(ByteOffset::ZERO, "header")?;
        let grains = parse(&raw).map_err(|what| source.damaged(what))?;
        let at = source.range(raw.volatile_header.get(), size_of::<RawVolatileHeader>() as u64);
        let at = at.ok_or_else(|| source.damaged("the file ends before its volatile header: copy it again"))?;
        let volatile: RawVolatileHeader = source.structure(at.start(), "volatile header")?;
        check_volatile(&volatile).map_err(|what| source.damaged(what))?;
        let tables = grains.count().div_ceil(TABLE_ENTRIES);
        let (directory, size) = (raw.directory.get(), raw.directory_size.get());
        let entries = size.saturating_mul(ENTRIES_PER_SECTOR);
        if entries < tables {
            let what = format!("its directory has {entries} entries, and its disk needs {tables}: copy it again");
            return Err(source.damaged(what));
        }
        let length = tables * size_of::<U64>() as u64;
        if directory == 0 || source.range(directory, length).is_none() {
            return Err(source.damaged("its grain directory lies outside of the file: copy it again"));
        }
        Ok(Self {
            source,
            grains,
            directory,
            tables,
            first_table: raw.tables.get(),
            first_grain: raw.grains.get(),
            directory_entries: Entries::new(),
            table_entries: Entries::new(),
            data: Window::new(READ_AHEAD),
        })
    }

    fn behind_the_end(&self, index: u64) -> ExtentError {
        self.source.damaged(format_args!("there is no grain {index}: read within the disk"))
    }

    /// What the tables have for a grain: 0 where there is no table.
    fn entry(&self, index: u64) -> Result<u64, ExtentError> {
        let (table, within) = (index / TABLE_ENTRIES, index % TABLE_ENTRIES);
        let number = self.directory_entries.get::<U64>(&self.source, self.directory, self.tables, table)?;
        let number = number.ok_or_else(|| self.behind_the_end(index))?.get();
        if number == directory_entry::ABSENT {
            return Ok(0);
        }
        let wrong = || {
            let what = format!("entry {table} of its directory is {number:#x}, which cannot be: copy it again");
            self.source.damaged(what)
        };
        if number >> 32 != directory_entry::PRESENT {
            return Err(wrong());
        }
        let before = (number & u64::from(u32::MAX)).checked_mul(TABLE_SECTORS).ok_or_else(wrong)?;
        let sector = self.first_table.checked_add(before).ok_or_else(wrong)?;
        let entry = self.table_entries.get::<U64>(&self.source, sector, TABLE_ENTRIES, within)?;
        Ok(entry.ok_or_else(wrong)?.get())
    }

    /// Where grain `number` of the file is, if a grain is there.
    fn grain(&self, number: u64, len: u32) -> Option<ByteOffset> {
        let sector = self.first_grain.checked_add(number.checked_mul(GRAIN_SECTORS)?)?;
        Some(self.source.range(sector, u64::from(len))?.start())
    }
}

/// Checks the header that is written once, or says in a sentence, without a subject, what is wrong with it.
fn parse(raw: &RawConstHeader) -> Result<Grains, String> {
    if raw.magic != SESPARSE_MAGIC {
        return Err("it is no seSparse extent: give the file that the descriptor names".to_owned());
    }
    let sizes = (raw.version.get(), raw.grain.get(), raw.table.get(), raw.flags.get());
    let is_zero = raw.reserved.iter().all(|number| number.get() == 0) && raw.padding.iter().all(|byte| *byte == 0);
    if sizes != (VERSION, GRAIN_SECTORS, TABLE_SECTORS, 0) || !is_zero {
        return Err("this kind of seSparse extent is not understood: consolidate the snapshots on ESXi".to_owned());
    }
    // Both lie behind what was just read; a base of 0 would make headers into tables and grains.
    if raw.tables.get() == 0 || raw.grains.get() == 0 {
        return Err("its tables or grains begin in its header: copy it again".to_owned());
    }
    let capacity = raw.capacity.get();
    Grains::of_sectors(capacity, GRAIN_SECTORS)
        .ok_or_else(|| format!("a disk of {capacity} sectors cannot be: copy it again"))
}

/// The same for the header that changes.
fn check_volatile(raw: &RawVolatileHeader) -> Result<(), String> {
    if raw.magic.get() != VOLATILE_MAGIC {
        return Err("its volatile header is not there: copy it again".to_owned());
    }
    if raw.replay_journal.get() != 0 {
        return Err(
            "its journal holds changes that its tables lack: start the VM on ESXi and shut it down, or consolidate \
                    its snapshots there, and copy it again"
                .to_owned(),
        );
    }
    if raw.padding.iter().any(|byte| *byte != 0) {
        return Err("its volatile header is not understood: consolidate the snapshots on ESXi".to_owned());
    }
    Ok(())
}

/// Bits of an entry below its kind.
const KIND_SHIFT: u32 = 60;
/// Where the low 12 bits of a grain's number are.
const LOW_SHIFT: u32 = 48;
/// How many they are.
const LOW_BITS: u32 = 12;

/// The number of the grain that an entry names.
const fn grain_number(entry: u64) -> u64 {
    let low = (entry >> LOW_SHIFT) & ((1 << LOW_BITS) - 1);
    let high = entry & ((1 << LOW_SHIFT) - 1);
    (high << LOW_BITS) | low
}

impl Extent for SeSparseExtent {
    fn capacity(&self) -> ByteCount {
        self.grains.capacity()
    }

    fn grain_size(&self) -> u32 {
        self.grains.size()
    }

    fn place(&self, index: u64) -> Result<Place, ExtentError> {
        let len = self.grains.len(index).ok_or_else(|| self.behind_the_end(index))?;
        let entry = self.entry(index)?;
        let at = match entry >> KIND_SHIFT {
            grain_kind::ABSENT if entry == 0 => return Ok(Place::Absent),
            grain_kind::UNMAPPED | grain_kind::ZERO => return Ok(Place::Zero),
            grain_kind::PRESENT => self.grain(grain_number(entry), len),
            _ => None,
        };
        at.map(Place::At).ok_or_else(|| {
            let what = format!("the entry of grain {index} is {entry:#x}, which cannot be: copy the file again");
            self.source.damaged(what)
        })
    }

    fn read_grain(&self, index: u64, into: &mut [u8]) -> Result<(), ExtentError> {
        let len = self.grains.len(index).and_then(|len| usize::try_from(len).ok());
        if len != Some(into.len()) {
            return Err(self.behind_the_end(index));
        }
        let place = self.place(index)?;
        crate::source::fill(&self.source, &self.data, place, into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_grain_is_rotated() {
        assert_eq!(grain_number(0x3123_0000_0000_0000), 0x123);
        assert_eq!(grain_number(0x3123_0000_0000_0045), 0x45_123);
        assert_eq!(grain_number(u64::MAX), u64::MAX >> 4);
    }
}
