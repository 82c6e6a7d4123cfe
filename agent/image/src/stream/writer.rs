//! Writing a stream from front to back.

use super::grain::PackedGrain;
use super::layout::{RawEnd, RawGrainMarker, RawMarker, VERSION, marker};
use crate::grains::Grains;
use crate::layout::{
    COMPRESSION_DEFLATE, DIRECTORY_AT_END, FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINES, NEWLINES, SECTOR,
    SPARSE_MAGIC, SparseHeader, TABLE_BYTES, TABLE_ENTRIES,
};
use failback_units::ByteCount;
use std::io::{self, Write};
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

/// The size of a grain that is written: what all of VMware's tools use.
pub const GRAIN_BYTES: u32 = 64 << 10;

/// The grain in sectors.
const GRAIN_SECTORS: u64 = 128;
/// Where grains begin, as in every stream of VMware's own.
const OVERHEAD: u64 = 128;
/// The descriptor stands behind the header.
const DESCRIPTOR: u64 = 1;
/// The least room for it, which is what others leave for it.
const DESCRIPTOR_MIN: u64 = 20;

/// Why a stream was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// What is written to failed.
    #[error("the stream could not be written")]
    Io(#[from] io::Error),
    /// The capacity is no number of sectors that a stream can hold.
    #[error("a disk of {0} bytes cannot be written as a VMDK: its size must be a multiple of 512, and not zero")]
    Capacity(u64),
    /// The descriptor has no room before the grains.
    #[error("the descriptor has {0} bytes, and a stream has room for 65024: shorten it")]
    Descriptor(usize),
    /// Tables count file sectors in 32 bits.
    #[error("the stream would grow past 2 TiB, where its tables cannot reach: write the disk in another format")]
    TooLong,
    /// A grain that is not behind the last one, lies behind the end of the disk or has another length.
    #[error("grain {0} is out of order, or has not the length that it should have")]
    Order(u64),
}

/// Writes one stream. Memory: a grain table, and 4 bytes for each 32 MiB of the disk.
///
/// What was written is a VMDK only after [`finish`](StreamWriter::finish); before that, readers see that the end is
/// missing. It is the caller who flushes, and makes durable.
pub struct StreamWriter<W> {
    out: W,
    header: SparseHeader,
    grains: Grains,
    /// The sector that is written next.
    sector: u64,
    /// The grain that may come next.
    next: u64,
    table: [U32; TABLE_ENTRIES as usize],
    /// Of the tables before the one at hand.
    directory: Vec<U32>,
}

impl<W: Write> StreamWriter<W> {
    /// Begins a stream for a disk of `capacity`, with this text for its descriptor (`createType="streamOptimized"`).
    ///
    /// # Errors
    ///
    /// When the capacity or the descriptor does not fit the format, or `out` fails.
    pub fn new(mut out: W, capacity: ByteCount, descriptor: &str) -> Result<Self, WriteError> {
        let sectors = capacity.get() / SECTOR;
        let grains = Grains::of_sectors(sectors, GRAIN_SECTORS).filter(|grains| grains.capacity() == capacity);
        let grains = grains.ok_or(WriteError::Capacity(capacity.get()))?;
        let mut head = vec![0; in_memory(OVERHEAD * SECTOR)];
        let room = head.get_mut(in_memory(DESCRIPTOR * SECTOR)..).unwrap_or_default();
        let room = room.get_mut(..descriptor.len()).ok_or(WriteError::Descriptor(descriptor.len()))?;
        room.copy_from_slice(descriptor.as_bytes());
        let header = header(sectors, (descriptor.len() as u64).div_ceil(SECTOR).max(DESCRIPTOR_MIN));
        let (first, _) = head.split_at_mut(size_of::<SparseHeader>());
        first.copy_from_slice(header.as_bytes());
        out.write_all(&head)?;
        let table = [U32::ZERO; TABLE_ENTRIES as usize];
        Ok(Self { out, header, grains, sector: OVERHEAD, next: 0, table, directory: Vec::new() })
    }

    /// How many grains the disk has; the last may be short.
    #[must_use]
    pub fn grains(&self) -> u64 {
        self.grains.count()
    }

    /// Writes grain `index`, which lies behind all that were written before. Grains that are left out read as zeroes.
    ///
    /// # Errors
    ///
    /// [`WriteError::Order`] for any other grain, and nothing is written; else when `out` fails, or the stream would become
    /// too long. After an error the stream is of no use.
    pub fn push(&mut self, index: u64, grain: &PackedGrain) -> Result<(), WriteError> {
        let len = self.grains.len(index).and_then(|len| usize::try_from(len).ok());
        if index < self.next || len != Some(grain.unpacked_len()) {
            return Err(WriteError::Order(index));
        }
        let size = u32::try_from(grain.packed_len()).map_err(|_| WriteError::Order(index))?;
        self.close_tables_before(index / u64::from(TABLE_ENTRIES))?;
        let sector = U32::new(u32::try_from(self.sector).map_err(|_| WriteError::TooLong)?);
        // The remainder is below the number of entries.
        self.table[in_memory(index % u64::from(TABLE_ENTRIES))] = sector;
        let marker = RawGrainMarker { sector: (index * GRAIN_SECTORS).into(), size: size.into() };
        self.out.write_all(marker.as_bytes())?;
        self.out.write_all(grain.as_bytes())?;
        self.pad(size_of::<RawGrainMarker>() as u64 + u64::from(size))?;
        self.next = index + 1;
        Ok(())
    }

    /// Writes what is left of the tables, the directory, the footer and the end of the stream; hands back what was written
    /// to, and how many bytes the stream has.
    ///
    /// # Errors
    ///
    /// When `out` fails, or the stream would become too long.
    pub fn finish(mut self) -> Result<(W, ByteCount), WriteError> {
        self.close_tables_before(self.grains.count().div_ceil(u64::from(TABLE_ENTRIES)))?;
        let directory = std::mem::take(&mut self.directory);
        let bytes = directory.as_bytes();
        self.marker(marker::DIRECTORY, (bytes.len() as u64).div_ceil(SECTOR))?;
        // Only grain tables are counted in 32 bits; the directory's place has 64.
        self.header.directory = self.sector.into();
        self.out.write_all(bytes)?;
        self.pad(bytes.len() as u64)?;
        let end = RawEnd {
            before: raw_marker(marker::FOOTER, 1),
            footer: self.header,
            after: raw_marker(marker::END_OF_STREAM, 0),
        };
        self.out.write_all(end.as_bytes())?;
        self.pad(size_of::<RawEnd>() as u64)?;
        let written = self.sector.checked_mul(SECTOR).and_then(ByteCount::new).ok_or(WriteError::TooLong)?;
        Ok((self.out, written))
    }

    /// Writes the tables before number `table`, each behind a marker; one in which nothing is needs no room.
    fn close_tables_before(&mut self, table: u64) -> Result<(), WriteError> {
        while (self.directory.len() as u64) < table {
            if self.table.iter().all(|entry| *entry == U32::ZERO) {
                self.directory.push(U32::ZERO);
                continue;
            }
            self.marker(marker::TABLE, TABLE_BYTES / SECTOR)?;
            let sector = u32::try_from(self.sector).map_err(|_| WriteError::TooLong)?;
            self.out.write_all(self.table.as_bytes())?;
            self.pad(TABLE_BYTES)?;
            self.directory.push(sector.into());
            self.table.fill(U32::ZERO);
        }
        Ok(())
    }

    fn marker(&mut self, kind: u32, sectors: u64) -> Result<(), WriteError> {
        self.out.write_all(raw_marker(kind, sectors).as_bytes())?;
        self.pad(SECTOR)
    }

    /// Counts `written` bytes, and fills up their last sector.
    fn pad(&mut self, written: u64) -> Result<(), WriteError> {
        let whole = written.next_multiple_of(SECTOR);
        // Less than a sector is missing.
        self.out.write_all(&[0; 512][..in_memory(whole - written)])?;
        self.sector = self.sector.checked_add(whole / SECTOR).ok_or(WriteError::TooLong)?;
        Ok(())
    }
}

/// A length that is known to be a few KiB.
fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("it is below a few KiB")
}

fn raw_marker(kind: u32, sectors: u64) -> RawMarker {
    RawMarker { sectors: sectors.into(), size: U32::ZERO, kind: kind.into(), reserved: [0; 496] }
}

fn header(capacity: u64, descriptor_size: u64) -> SparseHeader {
    let mut header = SparseHeader::new_zeroed();
    header.magic = SPARSE_MAGIC;
    header.version = VERSION.into();
    header.flags = (FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS).into();
    header.capacity = capacity.into();
    header.grain_sectors = GRAIN_SECTORS.into();
    header.descriptor_offset = DESCRIPTOR.into();
    header.descriptor_sectors = descriptor_size.into();
    header.table_entries = TABLE_ENTRIES.into();
    header.directory = DIRECTORY_AT_END.into();
    header.overhead = OVERHEAD.into();
    header.newlines = NEWLINES;
    header.compression = COMPRESSION_DEFLATE.into();
    header
}
