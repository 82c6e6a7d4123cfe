//! The bytes of the catalogue: sizes, constants, limits. Nothing else lives here; `FORMAT.md` tells the same in prose.
//!
//! Integers are little-endian, structures have no padding and any alignment. A field named `reserved` is written as
//! zero and refused as anything else, so that a later version can give it a meaning.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const VERSION: u16 = 1;

/// A byte above 127, the name, and a line ending: what a transfer in text mode damages first.
pub(crate) const MAGIC: [u8; 8] = *b"\x89FBCAT\r\n";

/// What a copy of the record is padded to: no physical sector is larger, so that none holds parts of both copies.
pub(crate) const COPY_ALIGNMENT: u64 = 4096;

/// Recovery points of a disk. One every five minutes makes as many in seven months; with them the record has 11 MiB.
pub(crate) const POINTS_MAX: usize = 65_536;

/// The description of a disk, in bytes: a path, a UUID and a model.
pub(crate) const DESCRIPTION_MAX: usize = 4096;

/// The path of a delta that is being applied, in bytes: the longest that Linux takes.
pub(crate) const PATH_MAX: usize = 4096;

/// The longest record there can be, in bytes.
pub(crate) const RECORD_MAX: u64 = {
    let points = POINTS_MAX * (size_of::<RawPoint>() + size_of::<RawLink>());
    (size_of::<RawHeader>() + DESCRIPTION_MAX + points + size_of::<RawApply>() + PATH_MAX) as u64
};

/// What was read before a point was published.
pub(crate) mod proof {
    pub(crate) const CHANGED_BLOCKS: u8 = 1;
    pub(crate) const USED_SPACE: u8 = 2;
    pub(crate) const WHOLE_DISK: u8 = 3;
}

/// Where a link leads.
pub(crate) mod direction {
    /// To the older of both points.
    pub(crate) const REVERSE: u8 = 1;
    /// To the newer one.
    pub(crate) const FORWARD: u8 = 2;
}

/// What is under way.
pub(crate) mod pending {
    pub(crate) const NOTHING: u8 = 0;
    /// [`RawApply`](super::RawApply) follows.
    pub(crate) const APPLY: u8 = 1;
    /// [`RawRollback`](super::RawRollback) follows.
    pub(crate) const ROLLBACK: u8 = 2;
    /// [`RawUndo`](super::RawUndo) follows.
    pub(crate) const UNDO: u8 = 3;
}

/// Where the delta is that is being applied.
pub(crate) mod source {
    /// In a file of the retention directory.
    pub(crate) const SPOOLED: u8 = 1;
    /// At a path, which follows.
    pub(crate) const PATH: u8 = 2;
}

/// The start of a record. The description follows, then the points, the links and what is under way.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U16,
    /// The length of this structure: 144.
    pub(crate) header_len: U16,
    /// No bit has a meaning yet; a set one is refused.
    pub(crate) flags: U32,
    /// The length of the record, from the magic to its last byte.
    pub(crate) record_len: U64,
    /// One more with every save.
    pub(crate) generation: U64,
    /// The size of the disk when its first point was recorded.
    pub(crate) disk_size: U64,
    /// The number that the next point gets: greater than all there are.
    pub(crate) next_point: U64,
    /// The number that the next file gets: greater than all there are.
    pub(crate) next_file: U64,
    /// The number of the point that an undo returns to.
    pub(crate) committed: U64,
    /// The place in the chain, from 0, of the point that the disk holds.
    pub(crate) present: U32,
    /// The number of points, 1 or more. There is one link less.
    pub(crate) point_count: U32,
    pub(crate) description_len: U32,
    pub(crate) pending: u8,
    pub(crate) reserved: [u8; 3],
    /// Which disk this is.
    pub(crate) binding: [u8; 32],
    /// BLAKE3 of the record with this field zero.
    pub(crate) hash: [u8; 32],
}
const _: () = assert!(size_of::<RawHeader>() == 144);

/// A recovery point.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawPoint {
    pub(crate) id: U64,
    pub(crate) size: U64,
    /// When its source was read, in seconds since 1970.
    pub(crate) time: I64,
    /// When it was published, by the clock here.
    pub(crate) recorded: I64,
    pub(crate) root: [u8; 32],
    /// The header hash of the delta that made it, or zeroes.
    pub(crate) delta: [u8; 32],
    /// The base-2 logarithm of the block size, 12 to 20.
    pub(crate) block_shift: u8,
    pub(crate) coverage: u8,
    pub(crate) kind: u8,
    pub(crate) proof: u8,
    /// 1 if it is to be kept, 0 if not.
    pub(crate) pinned: u8,
    pub(crate) reserved: [u8; 3],
}
const _: () = assert!(size_of::<RawPoint>() == 104);

/// What leads from one point to its neighbour.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawLink {
    pub(crate) file: U64,
    /// The length of the file.
    pub(crate) bytes: U64,
    /// The bytes of content that it carries, before compression.
    pub(crate) content_bytes: U64,
    /// The header hash of the delta in the file.
    pub(crate) key: [u8; 32],
    pub(crate) direction: u8,
    pub(crate) reserved: [u8; 7],
}
const _: () = assert!(size_of::<RawLink>() == 64);

/// A delta that is being applied. The path follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawApply {
    /// The header hash of the delta.
    pub(crate) delta: [u8; 32],
    /// In seconds since 1970.
    pub(crate) started: I64,
    /// The point that there is in the end.
    pub(crate) result: RawPoint,
    /// What leads back from it.
    pub(crate) inverse: RawLink,
    /// The number of the file that holds the delta, or 0 if a path follows.
    pub(crate) spool: U64,
    pub(crate) path_len: U32,
    pub(crate) source: u8,
    pub(crate) reserved: [u8; 3],
}
const _: () = assert!(size_of::<RawApply>() == 224);

/// A disk on its way to another point.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawRollback {
    pub(crate) goal: U64,
    pub(crate) from: U64,
    pub(crate) started: I64,
    /// What leads back from the step that is being taken, or zeroes.
    pub(crate) inverse: RawLink,
    /// 1 while a step is being taken, 0 between steps.
    pub(crate) stepping: u8,
    pub(crate) reserved: [u8; 7],
}
const _: () = assert!(size_of::<RawRollback>() == 96);

/// A disk on its way back, of which nothing newer is kept.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawUndo {
    pub(crate) goal: U64,
    pub(crate) started: I64,
    /// 1 while a step is being taken, 0 between steps.
    pub(crate) stepping: u8,
    pub(crate) reserved: [u8; 7],
}
const _: () = assert!(size_of::<RawUndo>() == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::layout::{RawIndexEnd, RawIndexExtent, RawIndexFrame, RawIndexHeader};
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
        let text = include_str!("../../FORMAT.md");
        let structures = [
            fields!("Header", RawHeader: magic version header_len flags record_len generation disk_size next_point
                next_file committed present point_count description_len pending reserved binding hash),
            fields!("Point", RawPoint: id size time recorded root delta block_shift coverage kind proof pinned reserved),
            fields!("Link", RawLink: file bytes content_bytes key direction reserved),
            fields!("Apply", RawApply: delta started result inverse spool path_len source reserved),
            fields!("Rollback", RawRollback: goal from started inverse stepping reserved),
            fields!("Undo", RawUndo: goal started stepping reserved),
            fields!("Index header", RawIndexHeader: magic version reserved key),
            fields!("Index extent", RawIndexExtent: first count frame data new old reserved),
            fields!("Index frame", RawIndexFrame: offset after len reserved),
            fields!("Index end", RawIndexEnd: extents frames hash),
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
        for limit in [POINTS_MAX, DESCRIPTION_MAX, PATH_MAX, usize::try_from(RECORD_MAX).unwrap()] {
            assert!(text.contains(&format!("\n| {limit} ")), "the limit {limit}");
        }
    }
}
