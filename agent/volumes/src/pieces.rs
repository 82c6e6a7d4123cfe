//! A volume whose bytes lie in pieces on one or several disks: a partition is one piece, a logical volume has many.

use crate::volume::within;
use crate::{FreeMap, ReadError, Volume};
use failback_units::{ByteCount, ByteOffset, ByteRange};

/// A part of a volume, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Which disk, as an index.
    pub(crate) disk: usize,
    /// The bytes of that disk.
    pub(crate) on_disk: ByteRange,
}

/// Pieces of disks, one behind the other.
pub(crate) struct Pieced<'a> {
    disks: &'a [&'a dyn Volume],
    /// Where each piece begins in the volume, ascending, and the piece.
    pieces: Vec<(ByteOffset, Piece)>,
    size: ByteCount,
    sector_size: u32,
}

impl<'a> Pieced<'a> {
    /// A volume of these pieces, in this order, or `None` where one of them does not lie on its disk.
    pub(crate) fn new(disks: &'a [&'a dyn Volume], pieces: impl IntoIterator<Item = Piece>) -> Option<Self> {
        let (mut laid, mut size, mut sector_size) = (Vec::new(), ByteCount::ZERO, 0);
        for piece in pieces {
            let disk = disks.get(piece.disk)?;
            if !piece.on_disk.fits(disk.size()) {
                return None;
            }
            sector_size = sector_size.max(disk.sector_size());
            laid.push((size.as_end(), piece));
            size = size.checked_add(piece.on_disk.count())?;
        }
        Some(Self { disks, pieces: laid, size, sector_size })
    }

    /// Calls `act` for each part of `range` with its disk and the bytes there, from left to right.
    ///
    /// `range` must lie within the volume.
    fn parts(&self, range: ByteRange) -> impl Iterator<Item = Piece> + '_ {
        let first = self.pieces.partition_point(|(at, _)| *at <= range.start()).saturating_sub(1);
        let touched = self.pieces.get(first..).unwrap_or_default().iter();
        touched.take_while(move |(at, _)| *at < range.end()).filter_map(move |(at, piece)| {
            let end = at.checked_add(piece.on_disk.count())?;
            let (from, to) = (range.start().max(*at), range.end().min(end));
            let start = piece.on_disk.start().checked_add(from.distance_from(*at)?)?;
            let on_disk = ByteRange::new(start, to.distance_from(from)?)?;
            Some(Piece { disk: piece.disk, on_disk })
        })
    }

    /// What is free, as pieces of the disks.
    pub(crate) fn on_disks<'b>(&'b self, free: &'b FreeMap) -> impl Iterator<Item = Piece> + 'b {
        free.extents().iter().filter(|extent| extent.fits(self.size)).flat_map(|extent| self.parts(*extent))
    }
}

impl Volume for Pieced<'_> {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), ReadError> {
        within(self.size, at, into.len())?;
        let range = ByteRange::new(at, ByteCount::of_memory(into.len())).ok_or(ReadError::Beyond)?;
        let mut rest = into;
        for part in self.parts(range) {
            let len = part.on_disk.count().to_usize().ok_or(ReadError::Beyond)?;
            let (now, later) = rest.split_at_mut_checked(len).ok_or(ReadError::Beyond)?;
            self.disks.get(part.disk).ok_or(ReadError::Beyond)?.read(part.on_disk.start(), now)?;
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(ReadError::Beyond) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FreeMapBuilder;
    use crate::volume::{MemoryVolume, bytes};
    use proptest::prelude::*;

    fn range(start: u64, count: u64) -> ByteRange {
        ByteRange::new(ByteOffset::new(start).unwrap(), ByteCount::new(count).unwrap()).unwrap()
    }

    fn disk(seed: u8) -> MemoryVolume {
        MemoryVolume { bytes: (0..=255_u8).map(|byte| byte ^ seed).collect(), sector_size: 512 }
    }

    #[test]
    fn a_piece_that_is_not_on_its_disk_makes_no_volume() {
        let disk = disk(0);
        let disks: [&dyn Volume; 1] = [&disk];
        for piece in [Piece { disk: 0, on_disk: range(250, 7) }, Piece { disk: 1, on_disk: range(0, 1) }] {
            assert!(Pieced::new(&disks, [piece]).is_none());
        }
    }

    proptest! {
        #[test]
        fn every_byte_is_found_where_it_lies(
            laid in prop::collection::vec((0_usize..2, 0_u64..200, 0_u64..50), 1..8),
            at in 0_u64..300, len in 0_u64..300,
        ) {
            let (one, two) = (disk(0), disk(0x55));
            let disks: [&dyn Volume; 2] = [&one, &two];
            let pieces = laid.iter().map(|(disk, at, len)| Piece { disk: *disk, on_disk: range(*at, *len) });
            let volume = Pieced::new(&disks, pieces).unwrap();
            // The same, byte by byte.
            let places: Vec<_> = laid.iter().flat_map(|(disk, at, len)| (*at..at + len).map(|at| (*disk, at))).collect();
            prop_assert_eq!(volume.size().get(), places.len() as u64);
            let length = usize::try_from(len).unwrap();
            let Some(wanted) = places.get(usize::try_from(at).unwrap()..).and_then(|rest| rest.get(..length)) else {
                prop_assert!(bytes(&volume, at, length).is_err());
                return Ok(());
            };
            let content = |(disk, at): &(usize, u64)| [&one, &two][*disk].bytes[usize::try_from(*at).unwrap()];
            prop_assert_eq!(bytes(&volume, at, length).unwrap(), wanted.iter().map(content).collect::<Vec<_>>());
            let mut free = FreeMapBuilder::new();
            free.push(range(at, len));
            let found = volume.on_disks(&free.finish()).flat_map(|piece| {
                (piece.on_disk.start().get()..piece.on_disk.end().get()).map(move |at| (piece.disk, at))
            }).collect::<Vec<_>>();
            prop_assert_eq!(found, wanted.to_vec());
        }
    }
}
