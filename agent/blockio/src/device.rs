//! The contract between a disk and whoever reads or writes it.

use crate::{Buffer, IoError};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::sync::Arc;

/// A disk: a block device, an image file, or a simulated disk.
///
/// # Duties of an implementation
///
/// - **Range.** An operation that does not lie wholly within [`size`](Device::size) fails with `EINVAL` and touches
///   nothing; it is never shortened. An operation of no bytes succeeds and touches nothing.
/// - **Completeness.** A read or write that the kernel shortens is continued until all of it is done. A read that meets
///   the end of the medium before the device's size fails with `UnexpectedEof`: a disk that shrank is an error, not data.
/// - **Retries.** `EINTR` and `EAGAIN` are retried, within a bound. Every other error comes back at once with its errno,
///   and never anything but an error: a failed flush is not retried, since the kernel may have dropped what failed.
/// - **Alignment.** Any offset, length and buffer is accepted. An implementation that needs alignment (`O_DIRECT`) takes
///   another way for what is misaligned, so that alignment is a matter of speed and never of correctness.
/// - **Order.** Operations in one queue may be carried out in any order. A [`Operation::Flush`] makes durable every write
///   and zero, of any queue of this device, whose completion was delivered before the flush was submitted; nothing
///   else is promised about durability.
/// - **Zero.** After [`Operation::Zero`] the range reads as zeroes. How (a hole, a zeroing command, plain writes) is the
///   implementation's choice, but never a discard, which promises nothing about what is read afterwards.
pub trait Device: Send + Sync {
    /// The name to use when speaking of this device: the path that the user gave.
    fn name(&self) -> &str;

    /// The size: fixed when the device was opened, but for what [`Resizable::resize`] does.
    fn size(&self) -> ByteCount;

    /// The unit in which the medium is written atomically at best: 512 or 4096 bytes on real disks.
    fn logical_block(&self) -> u32;

    /// The engine in use, for reports: `io_uring`, `pread/pwrite` or `simulated`.
    fn engine(&self) -> &'static str;

    /// A queue for up to `depth` operations at a time, to be used on the calling thread; `depth` is 1 to 1024.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the resources.
    ///
    /// # Panics
    ///
    /// When `depth` is not 1 to 1024.
    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError>;

    /// What lies at `from`: the extent from there to the next change between data and hole, at most to the end.
    ///
    /// A hole reads as zeroes without being read. A device that cannot tell says that everything is data.
    /// At or behind the end, `None`.
    ///
    /// # Errors
    ///
    /// When the kernel cannot say.
    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError>;

    /// Whether reading `range` is, for the most part, a copy from the kernel's memory. There is nothing to overlap then, and
    /// small reads, hashed while they are in the processor's cache, are fastest. A hint: the range is read all the same.
    fn is_resident(&self, range: ByteRange) -> bool {
        let _ = range;
        false
    }
}

/// A device that can be made longer and shorter: an image file, never a block device.
///
/// # Duties of an implementation
///
/// - **Content.** What is added reads as zeroes, also where the device was longer before. What is cut off is gone.
/// - **Space.** None is reserved: a write into what was added may fail with `ENOSPC`, and leaves the rest as it was.
/// - **Order.** A new size is used by every operation submitted after `resize` returned, and is made durable by a flush as
///   a write is; after a power loss without one, the size is the old or the new one.
/// - **Duty of the caller.** Nothing is in flight behind the new end when a device is made shorter.
pub trait Resizable: Device {
    /// Sets the size. Does nothing where it is that already.
    ///
    /// # Errors
    ///
    /// When this is no file or is not open for writing, or the file system cannot: `EFBIG`, `ENOSPC`, `EIO`. The size is
    /// the old one then.
    fn resize(&self, to: ByteCount) -> Result<(), IoError>;
}

/// A device that is shared or borrowed is a device.
macro_rules! passed_on {
    ($($type:ty),+) => { $(impl<D: Device + ?Sized> Device for $type {
        fn name(&self) -> &str {
            (**self).name()
        }

        fn size(&self) -> ByteCount {
            (**self).size()
        }

        fn logical_block(&self) -> u32 {
            (**self).logical_block()
        }

        fn engine(&self) -> &'static str {
            (**self).engine()
        }

        fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
            (**self).queue(depth)
        }

        fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
            (**self).extent_at(from)
        }

        fn is_resident(&self, range: ByteRange) -> bool {
            (**self).is_resident(range)
        }
    })+ };
}
passed_on!(Arc<D>, &D);

impl<D: Resizable + ?Sized> Resizable for Arc<D> {
    fn resize(&self, to: ByteCount) -> Result<(), IoError> {
        (**self).resize(to)
    }
}

/// A stretch of a disk that either holds data or is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it lies.
    pub range: ByteRange,
    /// Whether it is a hole, which reads as zeroes.
    pub hole: bool,
}

/// Something to be done on a device.
#[derive(Debug)]
pub enum Operation {
    /// Fill the whole buffer from `at`.
    Read {
        /// The first byte to read.
        at: ByteOffset,
        /// What to fill; handed back in the completion.
        into: Buffer,
    },
    /// Write the whole buffer to `at`.
    Write {
        /// Where the first byte goes.
        at: ByteOffset,
        /// What to write; handed back in the completion.
        from: Buffer,
    },
    /// Make the range read as zeroes.
    Zero {
        /// The bytes to make zero.
        range: ByteRange,
    },
    /// Make durable what was completed before.
    Flush,
}

/// A finished operation.
#[derive(Debug)]
pub struct Completion {
    /// The token under which it was submitted.
    pub token: u64,
    /// The buffer of a read or write. After a failed read its content is undefined.
    pub buffer: Option<Buffer>,
    /// How it ended.
    pub result: Result<(), IoError>,
}

/// Operations under way on one device, submitted and waited for on one thread.
///
/// A queue owns the buffers of operations in flight. Dropping it carries out and waits for everything submitted, and
/// nobody learns how that ended.
pub trait Queue {
    /// How many operations may be in flight.
    fn depth(&self) -> usize;

    /// How many are.
    fn in_flight(&self) -> usize;

    /// Hands over an operation. `token` comes back with its completion; the queue does not interpret it.
    ///
    /// Every submitted operation completes exactly once, through [`wait`](Queue::wait): an operation that cannot even be
    /// handed to the kernel completes with its error. It may not start before the next `wait`.
    ///
    /// # Panics
    ///
    /// When `depth` operations are in flight already: the caller counts.
    fn submit(&mut self, token: u64, operation: Operation);

    /// Waits for an operation to finish; `None` when none is in flight.
    fn wait(&mut self) -> Option<Completion>;
}

/// Holds callers to what [`Device::queue`] says about its argument.
pub(crate) fn check_depth(depth: usize) {
    assert!((1..=MAX_DEPTH).contains(&depth), "a queue depth is 1 to {MAX_DEPTH}, not {depth}");
}

/// The greatest depth of a queue.
const MAX_DEPTH: usize = 1024;

/// Carries out one operation and waits for it: for headers and flushes, where there is nothing to overlap.
///
/// # Errors
///
/// What the operation ended with, or what opening a queue did.
pub fn run(device: &dyn Device, operation: Operation) -> Result<Option<Buffer>, IoError> {
    let mut queue = device.queue(1)?;
    queue.submit(0, operation);
    match queue.wait() {
        Some(Completion { result: Ok(()), buffer, .. }) => Ok(buffer),
        Some(Completion { result: Err(error), .. }) => Err(error),
        None => unreachable!("an operation in flight completes"),
    }
}
