//! What a header and a footer say, once it was found to make sense.

use super::layout::{RawEnd, VERSIONS, marker};
use crate::extent::ExtentError;
use crate::grains::Grains;
use crate::layout::{
    COMPRESSION_DEFLATE, DIRECTORY_AT_END, FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINES, FLAG_REDUNDANT,
    FLAG_ZEROED_GRAINS, NEWLINES, SECTOR, SPARSE_MAGIC, SparseHeader, TABLE_ENTRIES,
};
use crate::source::Source;
use failback_units::{ByteCount, ByteOffset, ByteRange};

/// The smallest grain that the format allows, in sectors.
const SMALLEST_GRAIN: u64 = 8;

/// Every flag there is.
const KNOWN_FLAGS: u32 = FLAG_NEWLINES | FLAG_REDUNDANT | FLAG_ZEROED_GRAINS | FLAG_COMPRESSED | FLAG_MARKERS;

/// The most that a descriptor may take, in sectors: 1 MiB, a hundred times what any needs.
const DESCRIPTOR_MAX: u64 = 2048;

/// A stream's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) grains: Grains,
    /// Whether an entry of 1 means zeroes.
    pub(crate) zeroed_grains: bool,
    /// Where the grain directory is; `None` says that the footer knows.
    pub(crate) directory: Option<u64>,
    /// The room of the descriptor, where there is one, in sectors: from, count.
    pub(crate) descriptor: Option<(u64, u64)>,
    /// Where grains may begin, in sectors.
    pub(crate) overhead: u64,
}

impl Header {
    /// Takes a header apart, or says in a sentence, without a subject, why it is not one.
    pub(crate) fn parse(raw: &SparseHeader) -> Result<Self, String> {
        if raw.magic != SPARSE_MAGIC {
            return Err("it is no VMDK: give a file that begins with KDMV".to_owned());
        }
        let (version, flags) = (raw.version.get(), raw.flags.get());
        if !VERSIONS.contains(&version) {
            return Err(format!(
                "its format has version {version}, and 1 to 3 are understood: convert it with VMware's tools"
            ));
        }
        if flags & FLAG_NEWLINES != 0 && raw.newlines != NEWLINES {
            return Err(
                "its line ends were changed by a transfer in text mode: copy it again, in binary mode".to_owned()
            );
        }
        if flags & !KNOWN_FLAGS != 0 {
            return Err(format!("its flags {flags:#x} are not all understood: convert it with VMware's tools"));
        }
        let (compressed, markers) = (flags & FLAG_COMPRESSED != 0, flags & FLAG_MARKERS != 0);
        if !compressed || !markers || raw.compression.get() != COMPRESSION_DEFLATE {
            return Err("it is no stream of deflated grains with markers: export the disk again".to_owned());
        }
        if raw.unclean_shutdown != 0 {
            return Err("it was never finished by whoever wrote it: export the disk again".to_owned());
        }
        if raw.table_entries.get() != TABLE_ENTRIES {
            let entries = raw.table_entries.get();
            return Err(format!("its grain tables have {entries} entries, not {TABLE_ENTRIES}: export the disk again"));
        }
        let (capacity, grain) = (raw.capacity.get(), raw.grain_sectors.get());
        let grains = Grains::of_sectors(capacity, grain).filter(|_| grain >= SMALLEST_GRAIN);
        let grains = grains.ok_or_else(|| {
            format!("a disk of {capacity} sectors in grains of {grain} cannot be: export the disk again")
        })?;
        let descriptor =
            (raw.descriptor_offset.get() != 0).then(|| (raw.descriptor_offset.get(), raw.descriptor_sectors.get()));
        if descriptor.is_some_and(|(_, sectors)| sectors > DESCRIPTOR_MAX) {
            return Err("its descriptor is longer than 1 MiB: export the disk again".to_owned());
        }
        let directory = Some(raw.directory.get()).filter(|sector| *sector != DIRECTORY_AT_END);
        let zeroed_grains = flags & FLAG_ZEROED_GRAINS != 0;
        Ok(Self { grains, zeroed_grains, directory, descriptor, overhead: raw.overhead.get() })
    }

    /// Reads the header of a file, and where it says so its footer.
    pub(crate) fn read(source: &Source) -> Result<Self, ExtentError> {
        let raw: SparseHeader = source.structure(ByteOffset::ZERO, "header")?;
        let header = Self::parse(&raw).map_err(|what| source.damaged(what))?;
        if header.directory.is_some() { Ok(header) } else { header.with_footer(source) }
    }

    /// The same with what the footer says about the directory.
    fn with_footer(self, source: &Source) -> Result<Self, ExtentError> {
        let at = source.size().saturating_sub(ByteCount::of_memory(size_of::<RawEnd>())).as_end();
        let end: RawEnd = source.structure(at, "footer")?;
        let is_end = end.after.size.get() == 0
            && end.after.sectors.get() == 0
            && end.after.kind.get() == marker::END_OF_STREAM
            && end.before.size.get() == 0
            && end.before.kind.get() == marker::FOOTER
            && end.footer.magic == SPARSE_MAGIC;
        if !is_end {
            return Err(source.damaged("the stream ends before its end-of-stream marker: copy it again"));
        }
        let footer = Self::parse(&end.footer).map_err(|what| source.damaged(format_args!("in its footer: {what}")))?;
        if footer.grains != self.grains || footer.zeroed_grains != self.zeroed_grains {
            return Err(source.damaged("its footer describes another disk than its header: copy it again"));
        }
        if footer.directory.is_none() {
            return Err(source.damaged("neither header nor footer say where the grain directory is: copy it again"));
        }
        Ok(Self { directory: footer.directory, ..self })
    }

    /// How many grain tables there are for.
    pub(crate) fn tables(&self) -> u64 {
        self.grains.count().div_ceil(u64::from(TABLE_ENTRIES))
    }

    /// Where the descriptor stands in a file, if it lies in it.
    pub(crate) fn descriptor_in(&self, source: &Source) -> Option<ByteRange> {
        let (sector, sectors) = self.descriptor?;
        source.range(sector, sectors.checked_mul(SECTOR)?)
    }
}
