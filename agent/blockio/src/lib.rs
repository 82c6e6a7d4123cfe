//! Block devices and raw images, read and written with `io_uring`, or with `pread` and `pwrite` where that is refused.
//!
//! [`Device`] is the contract, [`Queue`] the way to have many operations under way. [`FileDevice`] is a real block device
//! or image; `sim` (behind the feature of that name) is a disk in memory that crashes, tears and fails from a seed.
//!
//! # Sizes that pay
//!
//! Measured with `examples/measure.rs` on Linux 6.18 with two processors, a virtio disk and a loop device in memory; GB/s
//! of reads with `O_DIRECT` into huge pages (and into ordinary pages):
//!
//! | transfer | depth 1     | depth 16    | depth 32    | depth 128   |
//! |----------|-------------|-------------|-------------|-------------|
//! | 64 KiB   | 0.5 (0.7)   | 2.0 (2.0)   | 2.9 (1.7)   | 3.5 (1.8)   |
//! | 256 KiB  | 1.6 (1.1)   | 3.0 (1.9)   | 3.1 (2.1)   | 2.3 (1.5)   |
//! | 512 KiB  | 2.4 (1.4)   | 3.0 (1.6)   | 2.5 (1.5)   | 1.7 (1.4)   |
//!
//! These are single runs on a machine that was busy with other things, so a difference of a fifth means nothing. What
//! holds throughout: about 8 MiB in flight is at or near the best, so **512 KiB at depth 16** suits scanning, and 1 MiB at
//! depth 8 or 256 KiB at depth 32 writing; 64 MiB and more in flight is slower. Registered buffers and files are left
//! out: all of the engine's processor time for reading 3 GiB in such pieces is 0.02 s. Asking the page cache
//! ([`Caching::Probe`]) costs 0.1 to 0.3 µs per read.

mod buffer;
mod device;
mod error;
mod file;
#[cfg(feature = "sim")]
pub mod sim;
mod transfer;

pub use buffer::{Buffer, Pool};
pub use device::{Completion, Device, Extent, Operation, Queue, Resizable, run};
pub use error::{Action, IoError};
pub use file::{Caching, Counters, Engine, FileDevice, Options, io_uring_refusal};
