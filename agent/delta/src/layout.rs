//! The bytes of both formats: sizes, constants, limits. Nothing else lives here; `FORMAT.md` tells the same in prose.
//!
//! Integers are little-endian, structures have no padding and any alignment. A field named `reserved` is written as
//! zero and refused as anything else, so that a later version can give it a meaning.

use crate::FileKind;
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version of both formats.
pub(crate) const VERSION: u16 = 1;

/// A byte above 127, the name, and a line ending: what a transfer in text mode damages first.
pub(crate) const SIGNATURE_MAGIC: [u8; 8] = *b"\x89FBSIG\r\n";
pub(crate) const DELTA_MAGIC: [u8; 8] = *b"\x89FBDLT\r\n";
pub(crate) const PAGE_MAGIC: [u8; 4] = *b"FBPG";
pub(crate) const SIGNATURE_END_MAGIC: [u8; 4] = *b"FBSE";
pub(crate) const MAP_MAGIC: [u8; 4] = *b"FBFM";
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"FBFR";
pub(crate) const DELTA_END_MAGIC: [u8; 4] = *b"FBDE";

/// The identity section, in bytes. A name, a few UUIDs and room to grow.
pub(crate) const IDENTITY_MAX: usize = 4096;

/// Runs in one page of a delta's map: 32 KiB of them.
pub(crate) const MAP_PAGE_RUNS_MAX: u32 = 4096;

/// Runs in all pages of a map: a reader holds them all, in 80 MiB. More than a map of a disk has (4 Mi), since a long run is
/// stored as several.
pub(crate) const MAP_RUNS_MAX: u64 = 5 << 20;

/// Values in one page of a signature: 128 KiB of them, so that a reader's memory does not depend on the disk.
pub(crate) const PAGE_VALUES_MAX: u32 = 4096;

/// The known content that a frame replaces or carries, in bytes of whole blocks; also the size of the largest block. It
/// bounds the memory for a frame, the work lost to a damaged one, and the largest node whose value stands in a table.
pub const MAX_FRAME_BYTES: u32 = 1 << 20;

/// A piece of a payload that is compressed in pieces, in bytes of content: small enough that a random read of 4 KiB costs
/// little more than the read, large enough that zstd finds most of what there is to find.
pub const PIECE_BYTES: usize = 64 << 10;

/// Extents in one frame: each block of 4 KiB of [`MAX_FRAME_BYTES`] may stand alone.
pub(crate) const FRAME_EXTENTS_MAX: u32 = 256;

/// Values in one frame. Two for each of 256 changed blocks, and the cover of a gap before each extent: 126 nodes for the
/// largest gap there can be, which real gaps never come near: 1 MiB in all.
pub(crate) const FRAME_VALUES_MAX: u32 = 2 * 256 + TRAILER_VALUES_MAX * FRAME_EXTENTS_MAX;

/// Values in a trailer: the cover of the blocks behind the last extent, at most 126 nodes.
pub(crate) const TRAILER_VALUES_MAX: u32 = 128;
/// The longest trailer of a delta with its values, in bytes.
pub const TRAILER_BYTES_MAX: u64 = size_of::<RawDeltaEnd>() as u64 + 32 * TRAILER_VALUES_MAX as u64;

/// Tags of identity items.
pub(crate) mod identity_tag {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const SCSI_UUID: u16 = 2;
    pub(crate) const PARTITION_TABLE: u16 = 3;
    pub(crate) const FILE_SYSTEM: u16 = 4;
}

/// What a page of a signature describes.
pub(crate) mod page_kind {
    /// Each block by its value.
    pub(crate) const VALUES: u8 = 1;
    /// Zeroes: one value for each node of the cover.
    pub(crate) const ZERO: u8 = 2;
    /// Free space, counted as zeroes: one value for each node of the cover.
    pub(crate) const FREE: u8 = 3;
}

/// How a frame's payload is stored.
pub(crate) mod compression {
    pub(crate) const NONE: u8 = 0;
    /// One zstd frame.
    pub(crate) const ZSTD: u8 = 1;
    /// Pieces of [`PIECE_BYTES`](super::PIECE_BYTES), each a zstd frame of its own or stored as it is, behind a table of their
    /// stored lengths: so a block can be read without unpacking the whole.
    pub(crate) const PIECES: u8 = 2;
}

/// How a trailer is signed.
pub(crate) mod signature_scheme {
    pub(crate) const NONE: u8 = 0;
    /// Ed25519 (RFC 8032) over the message in `signing.rs`.
    pub(crate) const ED25519: u8 = 1;
}

/// What a block of an extent was, or becomes.
pub(crate) mod content {
    /// Behind the end of the disk on this side.
    pub(crate) const ABSENT: u8 = 0;
    /// Some content, known by its values.
    pub(crate) const DATA: u8 = 1;
    /// All zero.
    pub(crate) const ZERO: u8 = 2;
    /// Free space: counts as zero, may hold anything.
    pub(crate) const FREE: u8 = 3;
    /// Free space or space behind the end of the disk, which does not count, but whose bytes are known by their values.
    pub(crate) const KEPT: u8 = 4;
    /// Stands for the old content where a run of the map is hashed for a signature; in no extent.
    pub(crate) const ANY: u8 = 0xFF;
}

/// The start of a signature. The identity follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawSignatureHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U16,
    /// The length of this structure: 80.
    pub(crate) header_len: U16,
    /// No bit has a meaning yet; a set one is refused.
    pub(crate) flags: U32,
    /// The base-2 logarithm of the block size, 12 to 20.
    pub(crate) block_shift: u8,
    pub(crate) coverage: u8,
    pub(crate) kind: u8,
    pub(crate) reserved: u8,
    pub(crate) identity_len: U32,
    pub(crate) size: U64,
    /// When the disk was read, in seconds since 1970.
    pub(crate) created: I64,
    pub(crate) reserved2: [u8; 8],
    /// BLAKE3 of this structure with this field zero, followed by the identity. It keys all later hashes of the file.
    pub(crate) hash: [u8; 32],
}
const _: () = assert!(size_of::<RawSignatureHeader>() == 80);

/// The start of a page of a signature. Its values follow, 32 bytes each.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawPage {
    pub(crate) magic: [u8; 4],
    pub(crate) kind: u8,
    pub(crate) reserved: [u8; 3],
    /// The first block, which is the one behind the previous page's last.
    pub(crate) first: U64,
    pub(crate) blocks: U64,
    pub(crate) value_count: U32,
    pub(crate) reserved2: [u8; 4],
    /// BLAKE3, keyed with the header's hash, of this structure with this field zero, followed by the values.
    pub(crate) hash: [u8; 32],
}
const _: () = assert!(size_of::<RawPage>() == 64);

/// The end of a signature: at a fixed distance from the end of the file, so that the root is found without reading the rest.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawSignatureEnd {
    pub(crate) magic: [u8; 4],
    pub(crate) reserved: [u8; 4],
    pub(crate) pages: U64,
    pub(crate) root: [u8; 32],
    /// BLAKE3, keyed with the header's hash, of this structure with this field zero.
    pub(crate) hash: [u8; 32],
}
const _: () = assert!(size_of::<RawSignatureEnd>() == 80);

/// The start of a delta. The identity of the source follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawDeltaHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U16,
    /// The length of this structure: 128.
    pub(crate) header_len: U16,
    /// No bit has a meaning yet; a set one is refused.
    pub(crate) flags: U32,
    /// The base-2 logarithm of the block size, 12 to 20.
    pub(crate) block_shift: u8,
    pub(crate) base_coverage: u8,
    pub(crate) result_coverage: u8,
    /// The kind of the result.
    pub(crate) kind: u8,
    pub(crate) identity_len: U32,
    pub(crate) base_size: U64,
    pub(crate) result_size: U64,
    /// When the source was read, in seconds since 1970.
    pub(crate) created: I64,
    /// Chosen at random, so that no two deltas have the same header hash, whatever else they have in common.
    pub(crate) id: [u8; 16],
    pub(crate) base_root: [u8; 32],
    /// BLAKE3 of this structure with this field zero, followed by the identity. It keys all later hashes of the stream.
    pub(crate) hash: [u8; 32],
}
const _: () = assert!(size_of::<RawDeltaHeader>() == 128);

/// The start of a page of the map of the result's free space. Its runs follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawMapPage {
    pub(crate) magic: [u8; 4],
    /// 1 in the last page of the map.
    pub(crate) last: u8,
    pub(crate) reserved: [u8; 3],
    /// The number of the page, from 0.
    pub(crate) index: U64,
    /// The block from which the first run's gap counts, not before the end of the previous page's last run.
    pub(crate) first: U64,
    pub(crate) run_count: U32,
    pub(crate) reserved2: [u8; 4],
    /// BLAKE3, keyed with the header's hash, of this structure with this field zero, followed by the runs.
    pub(crate) hash: [u8; 32],
}
const _: () = assert!(size_of::<RawMapPage>() == 64);

/// A run of free blocks.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawRun {
    /// Blocks that are not free between the previous run of this page, or the page's `first`, and this one.
    pub(crate) gap: U32,
    /// The number of blocks, 1 or more.
    pub(crate) count: U32,
}
const _: () = assert!(size_of::<RawRun>() == 8);

/// The start of a frame. Its extents, its values and its payload follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawFrame {
    pub(crate) magic: [u8; 4],
    pub(crate) compression: u8,
    pub(crate) reserved: [u8; 3],
    /// The number of the frame, from 0.
    pub(crate) index: U64,
    /// The block behind the previous frame's last extent; 0 in the first frame.
    pub(crate) after: U64,
    /// The first block of the first extent.
    pub(crate) first: U64,
    pub(crate) extent_count: U32,
    pub(crate) value_count: U32,
    /// The payload's length before compression: that of all new data in this frame.
    pub(crate) data_len: U32,
    /// The payload's length as stored, at most `data_len`.
    pub(crate) stored_len: U32,
    /// BLAKE3, keyed with the header's hash, of this structure with this field zero, followed by all the rest.
    pub(crate) hash: [u8; 32],
}
const _: () = assert!(size_of::<RawFrame>() == 80);

/// One run of changed blocks.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawExtent {
    /// Unchanged blocks between the previous extent of this frame and this one; 0 in the first extent.
    pub(crate) gap: U32,
    /// The number of blocks, 1 or more.
    pub(crate) count: U16,
    pub(crate) new: u8,
    pub(crate) old: u8,
}
const _: () = assert!(size_of::<RawExtent>() == 8);

/// An extent as it is hashed for an Ed25519 signature. It stands nowhere in the stream: it follows from the frames.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SignedExtent {
    /// The number of its first block, from the start of the disk.
    pub(crate) first: U64,
    pub(crate) count: U64,
    pub(crate) new: u8,
    pub(crate) old: u8,
}
const _: () = assert!(size_of::<SignedExtent>() == 18);

/// The end of a delta. The values of the blocks behind the last extent follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawDeltaEnd {
    pub(crate) magic: [u8; 4],
    pub(crate) signature_scheme: u8,
    pub(crate) reserved: [u8; 3],
    pub(crate) frames: U64,
    pub(crate) extents: U64,
    /// Bytes of new content that are carried.
    pub(crate) data_bytes: U64,
    /// Bytes that become zero, and are not carried.
    pub(crate) zero_bytes: U64,
    /// Bytes of all payloads as stored.
    pub(crate) stored_bytes: U64,
    pub(crate) value_count: U32,
    pub(crate) reserved2: [u8; 4],
    pub(crate) result_root: [u8; 32],
    /// Who signed, or zeroes.
    pub(crate) public_key: [u8; 32],
    /// The signature, or zeroes.
    pub(crate) signature: [u8; 64],
    /// BLAKE3, keyed with the header's hash, of this structure with this field zero, followed by the values.
    pub(crate) hash: [u8; 32],
}
const _: () = assert!(size_of::<RawDeltaEnd>() == 216);

/// What a file is, by its first eight bytes.
#[must_use]
pub fn identify(start: &[u8]) -> Option<FileKind> {
    match *start.first_chunk()? {
        SIGNATURE_MAGIC => Some(FileKind::Signature),
        DELTA_MAGIC => Some(FileKind::Delta),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    const fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
        size_of::<F>()
    }

    macro_rules! fields {
        ($title:literal, $type:ty: $($field:ident)+) => {
            ($title, size_of::<$type>(), vec![$((
                offset_of!($type, $field),
                size_of_field(|raw: &$type| &raw.$field),
                stringify!($field),
            )),+])
        };
    }

    /// The rows of the table below a heading: offset, size, field.
    fn table(text: &str, title: &str) -> Vec<(usize, usize, String)> {
        let heading = format!("\n### {title}\n");
        let below = text.split_once(&heading).unwrap_or_else(|| panic!("no heading {title}")).1;
        let rows = below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        rows.skip(2)
            .map(|row| {
                let cells: Vec<_> = row.split('|').map(str::trim).collect();
                (cells[1].parse().unwrap(), cells[2].parse().unwrap(), cells[4].trim_matches('`').to_owned())
            })
            .collect()
    }

    #[test]
    fn the_tables_in_format_md_are_true() {
        let text = include_str!("../FORMAT.md");
        let structures = [
            fields!("Signature header", RawSignatureHeader: magic version header_len flags block_shift coverage kind
                reserved identity_len size created reserved2 hash),
            fields!("Signature page", RawPage: magic kind reserved first blocks value_count reserved2 hash),
            fields!("Signature trailer", RawSignatureEnd: magic reserved pages root hash),
            fields!("Delta header", RawDeltaHeader: magic version header_len flags block_shift base_coverage
                result_coverage kind identity_len base_size result_size created id base_root hash),
            fields!("Delta map page", RawMapPage: magic last reserved index first run_count reserved2 hash),
            fields!("Delta map run", RawRun: gap count),
            fields!("Delta frame", RawFrame: magic compression reserved index after first extent_count value_count
                data_len stored_len hash),
            fields!("Delta extent", RawExtent: gap count new old),
            fields!("Delta trailer", RawDeltaEnd: magic signature_scheme reserved frames extents data_bytes zero_bytes
                stored_bytes value_count reserved2 result_root public_key signature hash),
        ];
        for (title, size, fields) in structures {
            let told = table(text, title);
            let mut end = 0;
            for (number, (offset, len, name)) in fields.into_iter().enumerate() {
                assert_eq!(told.get(number), Some(&(offset, len, name.to_owned())), "{title}");
                assert_eq!(offset, end, "{title}: no padding before {name}");
                end += len;
            }
            assert_eq!((told.last().map(|row| row.0 + row.1), end), (Some(size), size), "{title}");
        }
        for limit in [
            MAP_PAGE_RUNS_MAX,
            u32::try_from(MAP_RUNS_MAX).unwrap(),
            FRAME_VALUES_MAX,
            FRAME_EXTENTS_MAX,
            PAGE_VALUES_MAX,
            TRAILER_VALUES_MAX,
        ] {
            assert!(text.contains(&format!("\n| {limit} ")), "the limit {limit}");
        }
        assert!(text.contains(&format!("identity of {IDENTITY_MAX} bytes")));
    }
}
