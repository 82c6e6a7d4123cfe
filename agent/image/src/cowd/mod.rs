//! Host sparse extents (`VMFSSPARSE`, "COWD"): the snapshots of ESX and ESXi on VMFS-3 and VMFS-5, up to 2 TiB.
//!
//! A directory of tables of grains, each a sector. There is one copy of the metadata and no checksum; a table is there
//! when something in its 2 MiB was written. This is read only: a snapshot that must be written is consolidated by ESXi.

mod layout;

use crate::extent::{Extent, ExtentError, Place};
use crate::grains::Grains;
use crate::layout::{COWD_MAGIC, SECTOR};
use crate::source::{Entries, Source, Window};
use failback_blockio::Device;
use failback_units::{ByteCount, ByteOffset};
use layout::{ENTRY_ABSENT, ENTRY_ZERO, FLAGS, HEADER_SECTORS, RawHeader, TABLE_ENTRIES, VERSION};
use zerocopy::little_endian::U32;

/// How much is read at a time: grains of a sector, written in the order of the guest's writes.
const READ_AHEAD: u32 = 64 << 10;

/// A host sparse extent.
pub struct CowdExtent {
    source: Source,
    grains: Grains,
    directory: u64,
    tables: u64,
    /// The first sector behind the directory: neither tables nor grains lie before it.
    metadata_end: u64,
    directory_entries: Entries,
    table_entries: Entries,
    data: Window,
}

impl CowdExtent {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is no such extent, was not closed, or holds what is not understood.
    pub fn open(device: Box<dyn Device>) -> Result<Self, ExtentError> {
        let source = Source::new(device);
        let raw: RawHeader = source.structure(ByteOffset::ZERO, "header")?;
        let grains = parse(&raw).map_err(|what| source.damaged(what))?;
        let tables = grains.count().div_ceil(TABLE_ENTRIES);
        let (directory, entries) = (u64::from(raw.directory.get()), u64::from(raw.directory_entries.get()));
        if entries < tables {
            let what = format!("its directory has {entries} entries, and its disk needs {tables}: copy it again");
            return Err(source.damaged(what));
        }
        let length = tables * size_of::<U32>() as u64;
        if directory < HEADER_SECTORS || source.range(directory, length).is_none() {
            return Err(source.damaged("its grain directory lies outside of the file: copy it again"));
        }
        // Both are numbers of 32 bits.
        let metadata_end = directory + length.div_ceil(SECTOR);
        Ok(Self {
            source,
            grains,
            directory,
            tables,
            metadata_end,
            directory_entries: Entries::new(),
            table_entries: Entries::new(),
            data: Window::new(READ_AHEAD),
        })
    }

    fn behind_the_end(&self, index: u64) -> ExtentError {
        self.source.damaged(format_args!("there is no grain {index}: read within the disk"))
    }

    /// The sector of the file that the tables give for a grain.
    fn entry(&self, index: u64) -> Result<u32, ExtentError> {
        let (table, within) = (index / TABLE_ENTRIES, index % TABLE_ENTRIES);
        let sector = self.directory_entries.get::<U32>(&self.source, self.directory, self.tables, table)?;
        let sector = sector.ok_or_else(|| self.behind_the_end(index))?.get();
        if sector == ENTRY_ABSENT {
            return Ok(ENTRY_ABSENT);
        }
        let entry = if u64::from(sector) < self.metadata_end {
            None
        } else {
            self.table_entries.get::<U32>(&self.source, u64::from(sector), TABLE_ENTRIES, within)?
        };
        let entry = entry.ok_or_else(|| {
            let what =
                format!("grain table {table} is said to be at sector {sector}, where none can be: copy it again");
            self.source.damaged(what)
        })?;
        Ok(entry.get())
    }
}

/// Checks a header, or says in a sentence, without a subject, what is wrong with it.
fn parse(raw: &RawHeader) -> Result<Grains, String> {
    if raw.magic != COWD_MAGIC {
        return Err("it is no host sparse extent: give a file that begins with COWD".to_owned());
    }
    let (version, flags) = (raw.version.get(), raw.flags.get());
    if version != VERSION || flags != FLAGS {
        return Err(format!(
            "its version {version} with flags {flags:#x} is not understood: consolidate the snapshots on ESXi"
        ));
    }
    if raw.unclean.get() != 0 {
        return Err(
            "it is in use, or was when its host failed: shut the VM down, or consolidate its snapshots, and copy it again"
                .to_owned(),
        );
    }
    let (capacity, grain) = (u64::from(raw.capacity.get()), u64::from(raw.grain.get()));
    Grains::of_sectors(capacity, grain)
        .ok_or_else(|| format!("a disk of {capacity} sectors in grains of {grain} cannot be: copy it again"))
}

impl Extent for CowdExtent {
    fn capacity(&self) -> ByteCount {
        self.grains.capacity()
    }

    fn grain_size(&self) -> u32 {
        self.grains.size()
    }

    fn place(&self, index: u64) -> Result<Place, ExtentError> {
        let len = self.grains.len(index).ok_or_else(|| self.behind_the_end(index))?;
        match self.entry(index)? {
            ENTRY_ABSENT => Ok(Place::Absent),
            ENTRY_ZERO => Ok(Place::Zero),
            sector => {
                let range = self.source.range(u64::from(sector), u64::from(len));
                let range = range.filter(|_| u64::from(sector) >= self.metadata_end);
                range.map(|range| Place::At(range.start())).ok_or_else(|| {
                    let what = format_args!("grain {index} is said to be at sector {sector}, where none can be");
                    self.source.damaged(format_args!("{what}: copy the file again"))
                })
            }
        }
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
