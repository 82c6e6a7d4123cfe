//! The bytes of a stored tree: see `TREE.md`.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const MAGIC: [u8; 8] = *b"\x89FBTRE\r\n";
pub(super) const VERSION: u16 = 1;

/// As many as the map of a delta can have, which becomes one.
pub(super) const RUNS_MAX: u64 = 5_242_880;

/// What stands first, and is written last.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawTree {
    pub(super) magic: [u8; 8],
    pub(super) version: U16,
    pub(super) header_len: U16,
    pub(super) flags: U32,
    pub(super) block_shift: u8,
    /// The level of the lowest nodes whose values are stored.
    pub(super) kept_level: u8,
    pub(super) reserved: [u8; 6],
    /// In bytes.
    pub(super) size: U64,
    pub(super) run_count: U64,
    pub(super) value_count: U64,
    pub(super) root: [u8; 32],
    /// BLAKE3 of the runs.
    pub(super) runs_hash: [u8; 32],
    /// BLAKE3 of this structure with this field zero.
    pub(super) hash: [u8; 32],
}

pub(super) const HEADER_LEN: u16 = 144;
const _: () = assert!(size_of::<RawTree>() == HEADER_LEN as usize);

/// A run of free blocks.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawFreeRun {
    pub(super) first: U64,
    pub(super) blocks: U64,
}

pub(super) const RUN_LEN: u64 = 16;
const _: () = assert!(size_of::<RawFreeRun>() as u64 == RUN_LEN);

/// The length of a value.
pub(super) const VALUE_LEN: u64 = 32;

impl RawTree {
    /// The hash of this structure, whatever stands in its field for it.
    pub(super) fn digest(mut self) -> [u8; 32] {
        self.hash = [0; 32];
        blake3::hash(self.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use zerocopy::FromZeros;

    #[test]
    fn the_document_says_the_same() {
        let document = include_str!("../../TREE.md");
        let rows: Vec<(usize, usize, &str)> = document
            .lines()
            .filter_map(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                let [_, offset, size, _, field, ..] = cells.as_slice() else { return None };
                Some((offset.parse().ok()?, size.parse().ok()?, field.trim_matches('`')))
            })
            .collect();
        macro_rules! field {
            ($name:ident) => {
                (offset_of!(RawTree, $name), size_of_val(&RawTree::new_zeroed().$name), stringify!($name))
            };
        }
        let code = [
            field!(magic),
            field!(version),
            field!(header_len),
            field!(flags),
            field!(block_shift),
            field!(kept_level),
            field!(reserved),
            field!(size),
            field!(run_count),
            field!(value_count),
            field!(root),
            field!(runs_hash),
            field!(hash),
        ];
        assert_eq!(rows, code);
    }
}
