//! Making new disks: which files they consist of, and what stands in those before the first byte is written.
//!
//! Nothing is created here; the caller does that, and then opens the disk as any other to fill it.

use crate::descriptor::{ExtentKind, NewDescriptor, NewExtent, describe};
use crate::layout::{
    FLAG_NEWLINES, FLAG_REDUNDANT, FLAG_ZEROED_GRAINS, NEWLINES, SECTOR, SPARSE_MAGIC, SparseHeader, TABLE_BYTES,
    TABLE_ENTRIES,
};
use failback_units::ByteCount;
use zerocopy::IntoBytes;

/// How a new disk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subformat {
    /// One file that grows.
    MonolithicSparse,
    /// A descriptor, and one file as long as the disk.
    MonolithicFlat,
    /// A descriptor, and files that grow to 2 GiB.
    TwoGbMaxExtentSparse,
    /// A descriptor, and files of 2 GiB.
    TwoGbMaxExtentFlat,
    /// A descriptor, and one file as long as the disk, as on ESXi.
    Vmfs,
    /// One file of compressed grains, written once from front to back: see [`crate::stream`].
    StreamOptimized,
}

impl Subformat {
    /// Its name in a descriptor.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::Vmfs => "vmfs",
            Self::StreamOptimized => "streamOptimized",
        }
    }
}

/// What a new disk is to be.
#[derive(Clone, Debug)]
pub struct NewDisk {
    /// How it is stored.
    pub subformat: Subformat,
    /// Its size: a multiple of 512, and not zero.
    pub capacity: ByteCount,
    /// `ddb.adapterType`: `lsilogic` (also for paravirtual controllers), `buslogic`, `ide`, `pvscsi`.
    pub adapter: String,
    /// `ddb.virtualHWVersion`
    pub hardware_version: u32,
    /// What the guest is to see as the disk's NAA identifier.
    pub uuid: Option<[u8; 16]>,
    /// Any number but 0 and the two greatest.
    pub cid: u32,
    /// Whether zeroes over a parent's content can be told by an entry (version 2 of the format).
    pub zeroed_grains: bool,
}

/// A file of a new disk.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// Its name, beside the descriptor.
    pub name: String,
    /// How long it is; what is not in `content` is zero.
    pub length: ByteCount,
    /// Where which bytes stand.
    pub content: Vec<(u64, Vec<u8>)>,
}

/// Why such a disk cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// The size.
    #[error("a disk of {0} bytes cannot be made: its size must be a multiple of 512, not zero, and at most 62 TiB")]
    Capacity(u64),
    /// What does not fit one file.
    #[error(
        "a disk of {0} bytes does not fit one file of subformat monolithicSparse, which reaches 2 TiB: choose another"
    )]
    TooLarge(u64),
    /// The name.
    #[error("\"{0}\" is no name for a disk: give a plain file name without quotes that ends in .vmdk")]
    Name(String),
}

/// VMware's limit for any disk.
const MAX_CAPACITY: u64 = 62 << 40;
/// Of a growing file with 64 KiB grains: so that the tables, a 500th part, also lie below 2 TiB.
const MAX_SPARSE: u64 = 2040 << 30;
/// An extent of a split disk, in bytes: 2047 MiB, as VMware makes them.
const SPLIT: u64 = 2047 << 20;
/// A grain of what is made here.
const GRAIN_SECTORS: u64 = 128;
/// Sectors for an embedded descriptor, at least.
const DESCRIPTOR_SECTORS: u64 = 20;

/// The files of a new disk; the first one is or holds the descriptor. `name` is that of the descriptor.
///
/// For [`Subformat::StreamOptimized`] there is one file with nothing in it: its content is written by a
/// [`StreamWriter`](crate::stream::StreamWriter), with the text of [`descriptor_of`].
///
/// # Errors
///
/// When there can be no such disk.
pub fn files_of(new: &NewDisk, name: &str) -> Result<Vec<NewFile>, CreateError> {
    let extents = extents_of(new, name)?;
    let text = text_of(new, &extents);
    let descriptor = |length: usize| NewFile {
        name: name.to_owned(),
        length: ByteCount::of_memory(length),
        content: vec![(0, text.clone().into_bytes())],
    };
    match new.subformat {
        Subformat::StreamOptimized => {
            Ok(vec![NewFile { name: name.to_owned(), length: ByteCount::ZERO, content: Vec::new() }])
        }
        Subformat::MonolithicSparse => {
            Ok(vec![sparse_file(name.to_owned(), new.capacity, Some(&text), new.zeroed_grains)])
        }
        Subformat::MonolithicFlat | Subformat::Vmfs | Subformat::TwoGbMaxExtentFlat => {
            let flat = |extent: NewExtent| NewFile { name: extent.file, length: extent.size, content: Vec::new() };
            Ok(std::iter::once(descriptor(text.len())).chain(extents.into_iter().map(flat)).collect())
        }
        Subformat::TwoGbMaxExtentSparse => {
            let sparse = |extent: NewExtent| sparse_file(extent.file, extent.size, None, new.zeroed_grains);
            Ok(std::iter::once(descriptor(text.len())).chain(extents.into_iter().map(sparse)).collect())
        }
    }
}

/// The descriptor's text alone.
///
/// # Errors
///
/// When there can be no such disk.
pub fn descriptor_of(new: &NewDisk, name: &str) -> Result<String, CreateError> {
    Ok(text_of(new, &extents_of(new, name)?))
}

fn text_of(new: &NewDisk, extents: &[NewExtent]) -> String {
    describe(&NewDescriptor {
        create_type: new.subformat.name(),
        cid: new.cid,
        capacity: new.capacity,
        extents,
        adapter: &new.adapter,
        hardware_version: new.hardware_version,
        uuid: new.uuid,
    })
}

fn extents_of(new: &NewDisk, name: &str) -> Result<Vec<NewExtent>, CreateError> {
    let capacity = new.capacity.get();
    if capacity == 0 || capacity > MAX_CAPACITY || !capacity.is_multiple_of(SECTOR) {
        return Err(CreateError::Capacity(capacity));
    }
    let forbidden = |character: char| matches!(character, '/' | '"') || character.is_control();
    let stem = name.strip_suffix(".vmdk").filter(|stem| !stem.is_empty() && !stem.contains(forbidden));
    // The longest suffix of an extent is "-f00001.vmdk".
    let stem = stem.filter(|stem| stem.len() < 240).ok_or_else(|| CreateError::Name(name.to_owned()))?;
    let whole = |kind, vmfs, file| vec![NewExtent { kind, vmfs, size: new.capacity, file }];
    let split = |kind, letter: char| {
        let count = capacity.div_ceil(SPLIT);
        let size = |index: u64| ByteCount::new(SPLIT.min(capacity - index * SPLIT)).unwrap_or_default();
        let extent = |index: u64| NewExtent {
            kind,
            vmfs: false,
            size: size(index),
            file: format!("{stem}-{letter}{:03}.vmdk", index + 1),
        };
        (0..count).map(extent).collect()
    };
    Ok(match new.subformat {
        Subformat::MonolithicSparse if capacity > MAX_SPARSE => return Err(CreateError::TooLarge(capacity)),
        Subformat::MonolithicSparse | Subformat::StreamOptimized => whole(ExtentKind::Sparse, false, name.to_owned()),
        Subformat::MonolithicFlat => whole(ExtentKind::Flat, false, format!("{stem}-flat.vmdk")),
        Subformat::Vmfs => whole(ExtentKind::Flat, true, format!("{stem}-flat.vmdk")),
        Subformat::TwoGbMaxExtentSparse => split(ExtentKind::Sparse, 's'),
        Subformat::TwoGbMaxExtentFlat => split(ExtentKind::Flat, 'f'),
    })
}

/// An empty sparse extent, with all of its tables in place: what is allocated later is grains only.
fn sparse_file(name: String, capacity: ByteCount, descriptor: Option<&str>, zeroed_grains: bool) -> NewFile {
    let table_sectors = TABLE_BYTES / SECTOR;
    let sectors = capacity.get() / SECTOR;
    let tables = sectors.div_ceil(GRAIN_SECTORS * u64::from(TABLE_ENTRIES));
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    let text = descriptor.unwrap_or_default().as_bytes();
    let text_sectors = ByteCount::of_memory(text.len()).get().div_ceil(SECTOR).max(DESCRIPTOR_SECTORS);
    let descriptor_sectors = if descriptor.is_some() { text_sectors } else { 0 };
    let redundant = 1 + descriptor_sectors;
    let directory = redundant + directory_sectors + tables * table_sectors;
    let end = directory + directory_sectors + tables * table_sectors;
    let overhead = end.next_multiple_of(GRAIN_SECTORS);
    let zeroed = if zeroed_grains { FLAG_ZEROED_GRAINS } else { 0 };
    let header = SparseHeader {
        magic: SPARSE_MAGIC,
        version: if zeroed_grains { 2 } else { 1 }.into(),
        flags: (FLAG_NEWLINES | FLAG_REDUNDANT | zeroed).into(),
        capacity: sectors.into(),
        grain_sectors: GRAIN_SECTORS.into(),
        descriptor_offset: u64::from(descriptor.is_some()).into(),
        descriptor_sectors: descriptor_sectors.into(),
        table_entries: TABLE_ENTRIES.into(),
        redundant_directory: redundant.into(),
        directory: directory.into(),
        overhead: overhead.into(),
        unclean_shutdown: 0,
        newlines: NEWLINES,
        compression: 0.into(),
        reserved: [0; 433],
    };
    let entries = |first: u64| {
        let entry = |table| u32::try_from(first + table * table_sectors).unwrap_or(u32::MAX).to_le_bytes();
        (0..tables).flat_map(entry).collect::<Vec<u8>>()
    };
    let content = vec![
        (0, header.as_bytes().to_vec()),
        (SECTOR, text.to_vec()),
        (redundant * SECTOR, entries(redundant + directory_sectors)),
        (directory * SECTOR, entries(directory + directory_sectors)),
    ];
    NewFile { name, length: ByteCount::new(overhead * SECTOR).unwrap_or_default(), content }
}
