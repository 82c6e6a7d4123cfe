//! The recovery points of one disk on the retention drive: which there are, what leads from one to the next, which may go.
//!
//! - [`Directory`] is where they are kept: [`FsDirectory`] is a real one, `sim::SimDirectory` (behind the feature of
//!   that name) one that loses power.
#![forbid(unsafe_code)]

mod directory;
mod fs;
#[cfg(feature = "sim")]
pub mod sim;

pub use directory::{Appender, Directory, Reader, Space, StoredFile};
pub use fs::{FsDirectory, Lock, LockError};
