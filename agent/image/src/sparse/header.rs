//! What the header of a sparse extent says, checked before it is believed.

use crate::extent::ExtentError;
use crate::layout::{
    DIRECTORY_AT_END, FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINES, FLAG_REDUNDANT, FLAG_ZEROED_GRAINS, NEWLINES,
    SECTOR, SPARSE_MAGIC, SparseHeader, TABLE_ENTRIES,
};
use failback_blockio::{Buffer, Device, Operation, run};
use failback_units::{ByteCount, ByteOffset};
use zerocopy::FromBytes;

/// Sectors in a grain, at least and at most.
const GRAIN_SECTORS: std::ops::RangeInclusive<u64> = 8..=2048;
/// What an extent that is no stream may have; any other could change what everything else means.
const KNOWN_FLAGS: u32 = FLAG_NEWLINES | FLAG_REDUNDANT | FLAG_ZEROED_GRAINS;
/// The most tables of an extent: 128 TiB in grains of 64 KiB, twice what any VMware disk has. The directory is held in memory.
const MAX_TABLES: u64 = 4 << 20;

/// What is known of an extent from its header.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// The header as it was read.
    pub(crate) header: SparseHeader,
    /// How much of the disk it holds.
    pub(crate) capacity: ByteCount,
    /// Bytes in a grain.
    pub(crate) grain: u64,
    /// How many grains it has, the last one perhaps short.
    pub(crate) grains: u64,
    /// How many tables, the last one perhaps not full.
    pub(crate) tables: u64,
    /// Where the directory lies, in bytes.
    pub(crate) directory: u64,
    /// Where the redundant directory lies, if that is in use.
    pub(crate) redundant: Option<u64>,
    /// Where grains may begin, in bytes.
    pub(crate) overhead: u64,
    /// Whether an entry of 1 stands for zeroes.
    pub(crate) has_zeroed_grains: bool,
}

/// The header of an extent; `None` if the file begins with something else.
pub(crate) fn read_header(device: &dyn Device) -> Result<Option<SparseHeader>, ExtentError> {
    if device.size().get() < SECTOR {
        return Ok(None);
    }
    let sector =
        run(device, Operation::Read { at: ByteOffset::ZERO, into: Buffer::zeroed(size_of::<SparseHeader>()) })?;
    let header = sector.and_then(|sector| SparseHeader::read_from_bytes(&sector).ok());
    Ok(header.filter(|header| header.magic == SPARSE_MAGIC))
}

impl SparseHeader {
    /// Whether this is a stream with compressed grains, which is read in another way.
    pub(crate) fn is_stream(&self) -> bool {
        self.flags.get() & (FLAG_COMPRESSED | FLAG_MARKERS) != 0
            || self.compression.get() != 0
            || self.directory.get() == DIRECTORY_AT_END
    }
}

impl Shape {
    /// Takes the header of the extent in `device` at its word, if that can be.
    pub(crate) fn of(header: &SparseHeader, device: &dyn Device) -> Result<Self, ExtentError> {
        Self::checked(header, device.size()).map_err(|what| {
            ExtentError::Damaged(format!("the header of {} {what}: restore the file from a copy", device.name()))
        })
    }

    fn checked(header: &SparseHeader, file: ByteCount) -> Result<Self, &'static str> {
        let flags = header.flags.get();
        if !(1..=3).contains(&header.version.get()) {
            return Err("has a version that is not known here");
        }
        if flags & !KNOWN_FLAGS != 0 {
            return Err("has flags that are not known here");
        }
        if flags & FLAG_NEWLINES != 0 && header.newlines != NEWLINES {
            return Err("has wrong newline bytes, so the file was once copied as text and is damaged");
        }
        if header.table_entries.get() != TABLE_ENTRIES {
            return Err("has tables of another size than 512 entries");
        }
        let grain_sectors = header.grain_sectors.get();
        if !GRAIN_SECTORS.contains(&grain_sectors) || !grain_sectors.is_power_of_two() {
            return Err("has a grain size that is no power of two from 4 KiB to 1 MiB");
        }
        let bytes = |sectors: u64| sectors.checked_mul(SECTOR).filter(|bytes| ByteCount::new(*bytes).is_some());
        let capacity =
            bytes(header.capacity.get()).and_then(ByteCount::new).ok_or("has a capacity that no disk has")?;
        if capacity.is_zero() {
            return Err("has a capacity of nothing");
        }
        let grain = grain_sectors * SECTOR;
        let grains = capacity.get().div_ceil(grain);
        let tables = grains.div_ceil(u64::from(TABLE_ENTRIES));
        if tables > MAX_TABLES {
            return Err("has more than four million tables");
        }
        let inside = |sectors: u64| bytes(sectors).filter(|at| *at > 0 && at.saturating_add(tables * 4) <= file.get());
        let directory = inside(header.directory.get()).ok_or("has its grain directory outside of the file")?;
        let redundant = match (flags & FLAG_REDUNDANT != 0, header.redundant_directory.get()) {
            (false, _) | (true, 0) => None,
            (true, at) => Some(inside(at).ok_or("has its redundant grain directory outside of the file")?),
        };
        let overhead = bytes(header.overhead.get()).ok_or("has an overhead that no file has")?;
        Ok(Self {
            header: *header,
            capacity,
            grain,
            grains,
            tables,
            directory,
            redundant,
            overhead: overhead.max(SECTOR),
            has_zeroed_grains: flags & FLAG_ZEROED_GRAINS != 0,
        })
    }

    /// Where the room of the embedded descriptor ends, in bytes, if there is one.
    pub(crate) fn descriptor_end(&self) -> Option<u64> {
        let (at, sectors) = (self.header.descriptor_offset.get(), self.header.descriptor_sectors.get());
        (at != 0).then(|| at.saturating_add(sectors).saturating_mul(SECTOR))
    }

    /// How many bytes of the disk a grain holds: all of it, or for the last one what is left of the capacity.
    pub(crate) fn bytes_of(&self, grain: u64) -> u64 {
        self.capacity.get().saturating_sub(grain.saturating_mul(self.grain)).min(self.grain)
    }
}
