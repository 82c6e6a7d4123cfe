//! BLAKE3 of a disk, kept as chaining values of its blocks.
//!
//! BLAKE3 is a tree: chunks of 1024 bytes are its leaves, and every node has a 32-byte chaining value. The values of nodes
//! that cover a whole number of blocks are enough to recompute the root, so a disk's [`Root`], which is what `b3sum` prints
//! for the same bytes, can be found again from the values of changed and of unchanged blocks alone.
//!
//! - [`Shape`] says which nodes the tree of a disk of some size has; it knows no content.
//! - [`LeafHasher`] turns content into the values of blocks.
//! - [`Frontier`] collects values from left to right in bounded memory, for a stretch of a tree or for all of it.
//!
//! The construction is that of the BLAKE3 specification, section 2.1, and of the `hazmat` module of the `blake3` crate.
#![forbid(unsafe_code)]

mod frontier;
mod leaves;
mod shape;
mod value;

pub use frontier::{Frontier, RootBuilder};
pub use leaves::{LeafHasher, is_zero};
pub use shape::{Cover, Node, Shape};
pub use value::{ChainingValue, ParseRootError, Root};
