//! Hostile XFS: what must hold for any bytes whatever, for the fuzzer and for tests on any toolchain.

use failback_units::{ByteCount, ByteOffset};
use failback_volumes::{FileSystem, FreeMap, Kind, ReadError, Volume, file_systems};

/// The size of a volume that [`pieces`] builds, in bytes: the one that its corpus was taken from.
const SIZE: u64 = 32 << 20;
/// A sector, the unit of a piece.
const SECTOR: usize = 512;
/// Pieces of one volume.
const PIECES_MAX: usize = 256;

/// A volume with some bytes changed: what is in `changes` stands for what is below.
pub struct Changed<'a> {
    /// The volume as it was.
    pub base: &'a [u8],
    /// Places and bytes.
    pub changes: Vec<(usize, u8)>,
    /// Where it ends, at most the length of `base`.
    pub end: usize,
}

impl Volume for Changed<'_> {
    fn size(&self) -> ByteCount {
        ByteCount::of_memory(self.end)
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), ReadError> {
        let start = usize::try_from(at.get()).map_err(|_| ReadError::Beyond)?;
        let end = start.checked_add(into.len()).filter(|end| *end <= self.end).ok_or(ReadError::Beyond)?;
        into.copy_from_slice(&self.base[start..end]);
        for (at, byte) in &self.changes {
            if (start..end).contains(at) {
                into[at - start] = *byte;
            }
        }
        Ok(())
    }
}

/// What is found of XFS on a volume, after a look at what every caller relies on.
///
/// # Panics
///
/// When something that must hold does not.
pub fn look(volume: &dyn Volume) -> Option<FileSystem> {
    let found = file_systems(volume).into_iter().find(|found| found.kind == Kind::Xfs)?;
    if let Ok(map) = &found.map {
        let mut end = ByteOffset::ZERO;
        for extent in map.extents() {
            assert!(!extent.is_empty() && (extent.start() > end || end == ByteOffset::ZERO));
            end = extent.end();
        }
        let size = found.size.expect("a map has a size");
        assert!(end <= size.as_end() && size <= volume.size());
    }
    assert!(found.remarks.len() <= 17);
    Some(found)
}

/// A volume of zeroes but for pieces: each is a sector's number (two bytes), a count of sectors (one byte) and their bytes.
/// The checksums of superblock, group headers and trees are made good first, so that what is behind them is reached.
///
/// Returns whether any space was found to be free.
#[must_use]
pub fn pieces(bytes: &[u8]) -> bool {
    let mut base = vec![0; usize::try_from(SIZE).expect("it fits in memory")];
    let mut rest = bytes;
    for _ in 0..PIECES_MAX {
        let [low, high, count, after @ ..] = rest else { break };
        let at = usize::from(u16::from_le_bytes([*low, *high])) * SECTOR;
        let len = (usize::from(*count) * SECTOR).min(after.len()).min(base.len().saturating_sub(at));
        base[at..at + len].copy_from_slice(&after[..len]);
        rest = &after[len..];
    }
    reseal(&mut base);
    let end = base.len();
    let found = look(&Changed { base: &base, changes: Vec::new(), end });
    found.is_some_and(|found| found.map.is_ok_and(|map: FreeMap| !map.is_empty()))
}

/// Makes the checksums good that can be found by the marks before them. Log records keep theirs: in version 4 they may have
/// none.
fn reseal(base: &mut [u8]) {
    const BLOCK: usize = 4096;
    for sector in 0..base.len() / SECTOR {
        let at = sector * SECTOR;
        let (place, len) = match &base[at..at + 4] {
            b"XFSB" if at == 0 => (224, SECTOR),
            b"XAGF" => (216, SECTOR),
            b"XAFL" => (32, SECTOR),
            b"AB3B" if at.is_multiple_of(BLOCK) => (52, BLOCK),
            _ => continue,
        };
        base[at + place..at + place + 4].fill(0);
        let sum = crc32c::crc32c(&base[at..at + len]);
        base[at + place..at + place + 4].copy_from_slice(&sum.to_le_bytes());
    }
}
