//! What the formats of an extent have in common.

use failback_blockio::IoError;
use failback_units::{ByteCount, ByteOffset};

/// Where a grain of an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere here: it is what the parent has there, or zeroes without a parent.
    Absent,
    /// Nowhere: it reads as zeroes, whatever a parent has.
    Zero,
    /// In the extent's file, as it is.
    At(ByteOffset),
    /// In the extent's file at this offset, compressed: to be had through [`Extent::read_grain`] only.
    Compressed(ByteOffset),
}

/// One file of a VMDK, as a disk of its own from byte 0 to its capacity, cut into grains.
pub trait Extent: Send + Sync {
    /// How many bytes of the disk it holds. Not always a multiple of the grain.
    fn capacity(&self) -> ByteCount;

    /// Bytes in a grain: a power of two, 4 KiB to 1 MiB where the format says nothing else. The last one may be short.
    fn grain_size(&self) -> u32;

    /// Where grain `index` is, with as much of a grain table held in memory as serves a scan from left to right.
    ///
    /// # Errors
    ///
    /// When the table cannot be read, or what it says cannot be: an entry into metadata, or behind the end of the file.
    fn place(&self, index: u64) -> Result<Place, ExtentError>;

    /// Reads a whole grain, unpacked, into `into`, which is as long as the grain (the last one: as long as is left of
    /// the capacity). `Absent` and `Zero` fill it with zeroes.
    ///
    /// # Errors
    ///
    /// As [`place`](Extent::place), or when a compressed grain does not unpack to what it should.
    fn read_grain(&self, index: u64, into: &mut [u8]) -> Result<(), ExtentError>;
}

/// Why an extent cannot be read or written there.
#[derive(Debug, thiserror::Error)]
pub enum ExtentError {
    /// The file system or disk below.
    #[error(transparent)]
    Io(#[from] IoError),
    /// What stands there cannot be right; a sentence that names the file and says what to do.
    #[error("{0}")]
    Damaged(String),
}
