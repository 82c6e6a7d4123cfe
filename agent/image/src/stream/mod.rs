//! Stream-optimized extents: how disks leave and enter vSphere, in OVF packages and by HTTP.
//!
//! Grains are deflated one by one and stand in the order of the disk, each behind a marker that says which it is, so that
//! one side can write and the other read without ever going back. Behind the grains of each table stands the table, behind
//! all the directory, and at the very end a footer, the header once more, which knows where the directory is. Some writers
//! (`qemu-img`) seek back instead, and put the tables in front without a footer. Both are read; what is written has a
//! footer, and is never changed afterwards.
//!
//! [`StreamExtent`] reads a file through its tables. [`StreamWriter`] writes to anything.

mod extent;
mod grain;
mod header;
mod layout;
mod writer;

pub use extent::StreamExtent;
pub use grain::PackedGrain;
pub use writer::{GRAIN_BYTES, StreamWriter, WriteError};
