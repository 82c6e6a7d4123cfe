//! Offsets, lengths and indices of disks, each a type of its own.
//!
//! A byte offset, a byte count, a block index and a block count are four different things that a `u64` would let us mix.
//! Here each is a newtype with a private field, and every conversion between them names the [`BlockSize`] it uses.
//! Arithmetic that can leave the range of a disk returns `None`, never wraps.
//!
//! # Range
//!
//! No offset or length is greater than [`MAX_DISK_BYTES`], 2⁶³ − 1, because Linux counts file positions in a signed
//! 64-bit `loff_t`. It follows that the sum of any two of them fits a `u64`, and that an offset plus a length is checked
//! against one limit only.
#![forbid(unsafe_code)]

mod block;
mod byte;

pub use block::{BlockCount, BlockIndex, BlockRange, BlockSize, BlockSizeError};
pub use byte::{ByteCount, ByteOffset, ByteRange, HumanBytes, MAX_DISK_BYTES};
