//! What parsers read.

use failback_blockio::{Device, IoError, Operation, Pool, Queue};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::cell::RefCell;
use std::io;

/// The longest read that is handed to a device at once, in bytes.
const PIECE: usize = 256 << 10;

/// Why bytes of a volume could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// They lie behind its end: whatever pointed there is wrong.
    #[error("it points behind the end of the volume")]
    Beyond,
    /// The disk did not give them.
    #[error("the disk cannot be read there")]
    Io(#[from] IoError),
}

/// A disk, a partition or a logical volume: bytes from 0 to its size, wherever they lie.
pub trait Volume {
    /// Its size.
    fn size(&self) -> ByteCount;

    /// The logical sector of the disk below, in bytes: 512 or 4096.
    fn sector_size(&self) -> u32;

    /// Fills `into` with the bytes from `at`.
    ///
    /// Meant for metadata: a caller that walks something large asks for as much as it can use at a time.
    ///
    /// # Errors
    ///
    /// When they do not lie wholly within the volume, or the disk fails.
    fn read(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), ReadError>;
}

/// All of a device as a volume.
pub struct DeviceVolume<'a> {
    device: &'a dyn Device,
    io: RefCell<Io<'a>>,
    /// The first read that the disk failed.
    failed: RefCell<Option<IoError>>,
}

struct Io<'a> {
    queue: Box<dyn Queue + 'a>,
    pool: Pool,
}

impl<'a> DeviceVolume<'a> {
    /// A volume to be read on the calling thread.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the resources to read with.
    pub fn new(device: &'a dyn Device) -> Result<Self, IoError> {
        let pool = Pool::new(1, PIECE).map_err(|source| IoError {
            action: failback_blockio::Action::Open,
            device: device.name().into(),
            at: ByteOffset::ZERO,
            count: ByteCount::ZERO,
            source,
        })?;
        Ok(Self { device, io: RefCell::new(Io { queue: device.queue(1)?, pool }), failed: RefCell::default() })
    }

    /// The first read that the disk failed, if one did. Parsers take what they cannot read for used, so they do not fail.
    #[must_use]
    pub fn into_failure(self) -> Option<IoError> {
        self.failed.into_inner()
    }
}

impl Volume for DeviceVolume<'_> {
    fn size(&self) -> ByteCount {
        self.device.size()
    }

    fn sector_size(&self) -> u32 {
        self.device.logical_block()
    }

    fn read(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), ReadError> {
        within(self.size(), at, into.len())?;
        let mut io = self.io.borrow_mut();
        let Io { queue, pool } = &mut *io;
        let mut at = at;
        for piece in into.chunks_mut(PIECE) {
            let mut buffer = pool.take();
            buffer.truncate(piece.len());
            queue.submit(0, Operation::Read { at, into: buffer });
            let completion = queue.wait().expect("an operation in flight completes");
            if let Err(error) = completion.result {
                self.failed.borrow_mut().get_or_insert_with(|| again(&error));
                return Err(error.into());
            }
            piece.copy_from_slice(&completion.buffer.expect("a read hands its buffer back"));
            at = at.checked_add(ByteCount::of_memory(piece.len())).ok_or(ReadError::Beyond)?;
        }
        Ok(())
    }
}

/// The same error once more.
fn again(error: &IoError) -> IoError {
    let IoError { action, device, at, count, source } = error;
    let source = match source.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(source.kind(), source.to_string()),
    };
    IoError { action: *action, device: device.clone(), at: *at, count: *count, source }
}

/// Refuses a read that does not lie wholly within a volume of `size`.
pub(crate) fn within(size: ByteCount, at: ByteOffset, len: usize) -> Result<(), ReadError> {
    let range = ByteRange::new(at, ByteCount::of_memory(len)).ok_or(ReadError::Beyond)?;
    if range.fits(size) { Ok(()) } else { Err(ReadError::Beyond) }
}

/// `len` bytes from `at`, both as the disk claims them.
///
/// `len` must be bounded by the caller, by a limit of the format: it is allocated.
pub(crate) fn bytes(volume: &dyn Volume, at: u64, len: usize) -> Result<Vec<u8>, ReadError> {
    let at = ByteOffset::new(at).ok_or(ReadError::Beyond)?;
    within(volume.size(), at, len)?;
    let mut out = vec![0; len];
    volume.read(at, &mut out)?;
    Ok(out)
}

/// A volume in memory, for tests of parsers.
#[cfg(test)]
pub(crate) struct MemoryVolume {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sector_size: u32,
}

#[cfg(test)]
impl Volume for MemoryVolume {
    fn size(&self) -> ByteCount {
        ByteCount::of_memory(self.bytes.len())
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), ReadError> {
        within(self.size(), at, into.len())?;
        let at = usize::try_from(at.get()).map_err(|_| ReadError::Beyond)?;
        into.copy_from_slice(&self.bytes[at..at + into.len()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_ends_where_it_ends() {
        let volume = MemoryVolume { bytes: (16..32).collect(), sector_size: 512 };
        assert_eq!(bytes(&volume, 12, 4).unwrap(), [28, 29, 30, 31]);
        assert!(matches!(bytes(&volume, 13, 4), Err(ReadError::Beyond)));
        assert!(matches!(bytes(&volume, u64::MAX, 1), Err(ReadError::Beyond)));
    }
}
