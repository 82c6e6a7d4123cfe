//! The signature and the delta: what they hold, how they are laid out, and what a delta proves.
//!
//! Both formats are described field by field in `FORMAT.md` beside this crate. Nothing here opens a file or a disk:
//! readers take [`std::io::Read`], writers [`std::io::Write`], and content comes in and goes out in memory, so that the
//! same code serves a file, a pipe, a socket and a simulated disk.
//!
//! - [`SignatureWriter`] and [`SignatureReader`]: a stored hash tree.
//! - [`DeltaBuilder`] turns what is changed and unchanged into [`Frame`]s; [`DeltaWriter`] puts them into a stream.
//! - [`Inverter`] makes the delta that leads back.
//! - [`DeltaReader`] takes a stream apart again and trusts nothing in it; [`Proof`] recomputes both roots from it.
#![forbid(unsafe_code)]

mod delta;
mod error;
mod facts;
mod free;
mod layout;
mod seal;
mod signature;
mod signing;

pub use delta::{
    After, Before, Content, DeltaBuilder, DeltaHeader, DeltaReader, DeltaWriter, Extent, Frame, FrameTable, Inverter,
    Item, Parts, Pieces, Proof, Proven, SealedFrame, Shapes, Standing, Totals, Trailer, Was, read_map, trailing_root,
    write_map,
};
pub use error::{FileKind, FormatError};
pub use facts::{Coverage, Identity, PointKind};
pub use free::{BaseFree, FreeBlocks, FreeWalk};
pub use layout::{MAX_FRAME_BYTES, PIECE_BYTES, TRAILER_BYTES_MAX, identify};
pub use signature::{Run, RunContent, SignatureHeader, SignatureReader, SignatureWriter, Uniform};
pub use signing::{KeyError, SigningKey, VerifyingKey};
