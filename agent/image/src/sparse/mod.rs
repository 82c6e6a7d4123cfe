//! Hosted sparse extents: grains that are found through a directory and tables, and are allocated where they are written.
//!
//! # Order of writes
//!
//! A table entry is a promise that a grain is there. So that it is never broken, whatever moment the power goes off:
//!
//! 1. Before the first allocation the extent is marked as not cleanly closed, and that is flushed.
//! 2. New grains are written whole, at the aligned end of the file. Their entries are kept in memory, and reads see them there.
//! 3. At a flush (or when so many are kept that memory would not be bounded): the data is flushed; the entries go into the
//!    redundant tables, which are flushed; the same entries go into the tables, which are flushed. So at every moment one
//!    of the two tables is not being written.
//! 4. Closing flushes and takes the mark away.
//!
//! After a crash every entry is old or new, and where the two tables differ, both are right. Grains that no entry leads to
//! are lost space, and nothing else.

mod entries;
mod header;
mod repair;
mod scan;
mod write;

pub(crate) use entries::{Location, SparseExtent};
pub(crate) use header::{Shape, read_header};
pub(crate) use scan::TableFacts;
pub(crate) use write::GrainTarget;
