//! What must hold of any bytes that claim to be an ext2, ext3 or ext4 file system.
//!
//! The fuzzer gets a volume with most of its blocks left out: each KiB that is not zero as its number, a little-endian
//! `u32`, and its bytes. That keeps inputs small, and lets it move and repeat blocks.

use failback_units::{ByteCount, ByteOffset};
use failback_volumes::{FileSystem, ReadError, State, Volume, file_systems};
use std::collections::BTreeMap;

/// Bytes of a piece of an input.
const PIECE: usize = 1024;
/// The same, as a length on a disk.
const PIECE_LEN: u64 = 1024;
/// Bytes of the volume that an input is taken for.
const VOLUME: u64 = 64 << 20;

/// A volume in memory.
pub struct Memory<'a>(pub &'a [u8]);

impl Volume for Memory<'_> {
    fn size(&self) -> ByteCount {
        ByteCount::of_memory(self.0.len())
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), ReadError> {
        let at = usize::try_from(at.get()).map_err(|_| ReadError::Beyond)?;
        let bytes = self.0.get(at..).and_then(|rest| rest.get(..into.len())).ok_or(ReadError::Beyond)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

/// A volume of which only some pieces are not zero.
struct Sparse<'a>(BTreeMap<u64, &'a [u8]>);

impl Volume for Sparse<'_> {
    fn size(&self) -> ByteCount {
        ByteCount::new(VOLUME).unwrap_or(ByteCount::ZERO)
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), ReadError> {
        let len = u64::try_from(into.len()).map_err(|_| ReadError::Beyond)?;
        at.get().checked_add(len).filter(|end| *end <= VOLUME).ok_or(ReadError::Beyond)?;
        into.fill(0);
        for (number, bytes) in self.0.range(at.get() / PIECE_LEN..(at.get() + len).div_ceil(PIECE_LEN)) {
            let (start, behind) = (number * PIECE_LEN, usize::try_from(at.get().saturating_sub(number * PIECE_LEN)));
            let to = usize::try_from(start.saturating_sub(at.get())).map_err(|_| ReadError::Beyond)?;
            let bytes = &bytes[behind.map_err(|_| ReadError::Beyond)?..];
            let count = bytes.len().min(into.len() - to);
            into[to..to + count].copy_from_slice(&bytes[..count]);
        }
        Ok(())
    }
}

/// Looks at an input; returns whether a map came of it.
#[must_use]
pub fn ext(input: &[u8]) -> bool {
    let pieces = input.chunks_exact(4 + PIECE).filter_map(|piece| {
        let (number, bytes) = piece.split_first_chunk()?;
        Some((u64::from(u32::from_le_bytes(*number)), bytes))
    });
    look_at(&Sparse(pieces.collect())).is_some_and(|found| found.map.is_ok())
}

/// A volume as an input.
#[must_use]
pub fn input_of(volume: &[u8]) -> Vec<u8> {
    let pieces = (0_u32..).zip(volume.chunks_exact(PIECE)).filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
    pieces.flat_map(|(number, bytes)| [&number.to_le_bytes(), bytes].concat()).collect()
}

/// Looks at a volume, and panics where what is told of it contradicts itself.
pub fn look_at(volume: &dyn Volume) -> Option<FileSystem> {
    let found = file_systems(volume).into_iter().next()?;
    assert!(found.remarks.len() <= 17, "{} remarks", found.remarks.len());
    if let Ok(map) = &found.map {
        let size = found.size.expect("with a map there is a size");
        let block = u64::from(found.block_size.expect("with a map there are blocks"));
        assert!(size <= volume.size());
        assert!(matches!(found.state, State::Clean | State::Replayed { .. }), "{:?}", found.state);
        for extent in map.extents() {
            assert!(extent.fits(size), "{extent} is behind the end at {size}");
            assert!(extent.start().get() >= 2048, "{extent} is where the superblock is");
            assert!(extent.start().get() % block == 0 && extent.end().get() % block == 0, "{extent} is cut");
        }
    }
    Some(found)
}
