//! A stream-optimized file as an extent, read through its tables.

use super::grain::{packed_max, unpack};
use super::header::Header;
use super::layout::RawGrainMarker;
use crate::extent::{Extent, ExtentError, Place};
use crate::layout::{ENTRY_ABSENT, ENTRY_ZERO, SECTOR, TABLE_ENTRIES};
use crate::source::{Entries, Source, Window};
use failback_blockio::Device;
use failback_units::{ByteCount, ByteOffset, ByteRange};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// How much is read at a time: grains stand in the file in the order of the disk, packed to a half or so.
const READ_AHEAD: u32 = 512 << 10;

/// A stream-optimized extent: grains that were deflated and written once, in order.
///
/// Made by `ovftool`, vSphere's export, `VirtualBox`, `qemu-img`, and [`StreamWriter`](super::StreamWriter).
pub struct StreamExtent {
    source: Source,
    header: Header,
    directory: u64,
    directory_entries: Entries,
    table_entries: Entries,
    data: Window,
}

impl StreamExtent {
    /// Reads the header, and the footer where there is one.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is no such stream, or ends too early.
    pub fn open(device: Box<dyn Device>) -> Result<Self, ExtentError> {
        let source = Source::new(device);
        let header = Header::read(&source)?;
        let length = header.tables().checked_mul(size_of::<U32>() as u64);
        let directory = header
            .directory
            .filter(|sector| *sector > 0 && length.is_some_and(|bytes| source.range(*sector, bytes).is_some()));
        let directory = directory
            .ok_or_else(|| source.damaged("its grain directory lies behind the end of the file: copy it again"))?;
        Ok(Self {
            source,
            header,
            directory,
            directory_entries: Entries::new(),
            table_entries: Entries::new(),
            data: Window::new(READ_AHEAD),
        })
    }

    /// Where the text of the descriptor stands in the file, at most 1 MiB; the text ends at the first NUL. `None` where
    /// there is none.
    #[must_use]
    pub fn descriptor(&self) -> Option<ByteRange> {
        self.header.descriptor_in(&self.source)
    }

    /// The sector of the file that the tables give for a grain.
    fn entry(&self, index: u64) -> Result<u32, ExtentError> {
        let per_table = u64::from(TABLE_ENTRIES);
        let (table, within) = (index / per_table, index % per_table);
        let sector = self.directory_entries.get::<U32>(&self.source, self.directory, self.header.tables(), table)?;
        let sector = sector.ok_or_else(|| self.behind_the_end(index))?.get();
        if sector == ENTRY_ABSENT {
            return Ok(ENTRY_ABSENT);
        }
        let entry = self.table_entries.get::<U32>(&self.source, u64::from(sector), per_table, within)?;
        let entry = entry.ok_or_else(|| {
            self.source.damaged(format_args!("grain table {table} lies behind the end of the file: copy it again"))
        })?;
        Ok(entry.get())
    }

    fn behind_the_end(&self, index: u64) -> ExtentError {
        self.source.damaged(format_args!("there is no grain {index}: read within the disk"))
    }

    /// The packed bytes of a grain, after all that its marker says was checked.
    fn packed(&self, index: u64, at: ByteOffset) -> Result<ByteRange, ExtentError> {
        let marker_len = ByteCount::of_memory(size_of::<RawGrainMarker>());
        let cut = || {
            let what = format_args!("the file ends within grain {index}: copy it again").to_string();
            self.source.damaged(what)
        };
        let range = ByteRange::new(at, marker_len).filter(|range| range.fits(self.source.size())).ok_or_else(cut)?;
        let marker = self.data.with(&self.source, range, |bytes| RawGrainMarker::read_from_bytes(bytes).ok())?;
        let marker = marker.ok_or_else(cut)?;
        let whole = self.header.grains.size();
        let first = index.checked_mul(u64::from(whole) / SECTOR).ok_or_else(|| self.behind_the_end(index))?;
        if marker.sector.get() != first {
            let there = marker.sector.get();
            let what = format_args!("where grain {index} should be, sector {there} is: copy it again").to_string();
            return Err(self.source.damaged(what));
        }
        let size = marker.size.get();
        if size == 0 || size > packed_max(whole) {
            let what = format_args!("grain {index} cannot be {size} bytes long: copy the file again").to_string();
            return Err(self.source.damaged(what));
        }
        let packed = ByteCount::new(u64::from(size)).and_then(|len| ByteRange::new(range.end(), len));
        packed.filter(|packed| packed.fits(self.source.size())).ok_or_else(cut)
    }

    /// Unpacks a grain that the tables say is at `at`.
    fn unpack(&self, index: u64, at: ByteOffset, into: &mut [u8]) -> Result<(), ExtentError> {
        let range = self.packed(index, at)?;
        // Copied, so that several threads unpack side by side, and one reads.
        let packed = self.data.with(&self.source, range, <[u8]>::to_vec)?;
        let wrong = || {
            let what = format_args!("grain {index} does not unpack to what it was: copy the file again").to_string();
            self.source.damaged(what)
        };
        let whole = usize::try_from(self.header.grains.size()).map_err(|_| wrong())?;
        if into.len() == whole {
            return if unpack(&packed, into) == Some(whole) { Ok(()) } else { Err(wrong()) };
        }
        // The last grain: some write what is left of the disk, some a whole grain.
        let mut grain = vec![0; whole];
        let len = unpack(&packed, &mut grain).filter(|len| *len == into.len() || *len == whole).ok_or_else(wrong)?;
        into.copy_from_slice(grain.get(..into.len().min(len)).ok_or_else(wrong)?);
        Ok(())
    }
}

impl Extent for StreamExtent {
    fn capacity(&self) -> ByteCount {
        self.header.grains.capacity()
    }

    fn grain_size(&self) -> u32 {
        self.header.grains.size()
    }

    fn place(&self, index: u64) -> Result<Place, ExtentError> {
        // A table has entries behind the end of the disk too.
        self.header.grains.len(index).ok_or_else(|| self.behind_the_end(index))?;
        match self.entry(index)? {
            ENTRY_ABSENT => Ok(Place::Absent),
            ENTRY_ZERO if self.header.zeroed_grains => Ok(Place::Zero),
            sector => {
                let range = self.source.range(u64::from(sector), size_of::<RawGrainMarker>() as u64);
                let range = range.filter(|_| u64::from(sector) >= self.header.overhead);
                range.map(|range| Place::Compressed(range.start())).ok_or_else(|| {
                    let what = format_args!("grain {index} is said to be at sector {sector}, where none can be");
                    self.source.damaged(format_args!("{what}: copy the file again"))
                })
            }
        }
    }

    fn read_grain(&self, index: u64, into: &mut [u8]) -> Result<(), ExtentError> {
        let len = self.header.grains.len(index).and_then(|len| usize::try_from(len).ok());
        if len != Some(into.len()) {
            return Err(self.behind_the_end(index));
        }
        match self.place(index)? {
            Place::Compressed(at) => self.unpack(index, at, into),
            Place::Absent | Place::Zero | Place::At(_) => {
                into.fill(0);
                Ok(())
            }
        }
    }
}
