//! Block devices and raw images, read and written with `io_uring`, or with `pread` and `pwrite` where that is refused.
//!
//! [`Device`] is the contract, [`Queue`] the way to have many operations under way. [`FileDevice`] is a real block device
//! or image; `sim` (behind the feature of that name) is a disk in memory that crashes, tears and fails from a seed.

mod buffer;
mod device;
mod error;
mod file;
#[cfg(feature = "sim")]
pub mod sim;
mod transfer;

pub use buffer::{Buffer, Pool};
pub use device::{Completion, Device, Extent, Operation, Queue, run};
pub use error::{Action, IoError};
pub use file::{Caching, Counters, Engine, FileDevice, Options};
