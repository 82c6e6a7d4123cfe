//! The descriptor: the text that says what a disk consists of.
//!
//! It is kept as the bytes that were read. The only thing that is ever changed in an existing one is the content ID, in
//! its place and at its length, so that whatever else stands there, known or not, stays as it is byte for byte, and no
//! power loss can leave half a text.

mod names;
mod parse;
mod text;
mod write;

pub use write::{NewDescriptor, NewExtent, describe};

use crate::layout::SECTOR;
use failback_units::ByteCount;
use std::ops::Range;

/// The longest descriptor that is read: 31,000 lines of extents, enough for 62 TiB in extents of 2 GiB.
pub const MAX_DESCRIPTOR_BYTES: u64 = 4 << 20;
/// The most extents of a disk. Each is an open file.
pub const MAX_EXTENTS: usize = 32_768;
/// The parent's content ID where there is no parent.
pub const NO_PARENT: u32 = 0xffff_ffff;
/// A content ID that VMware keeps for itself.
const RESERVED_CID: u32 = 0xffff_fffe;

/// What an extent may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentAccess {
    /// `RW`
    ReadWrite,
    /// `RDONLY`
    ReadOnly,
    /// `NOACCESS`
    None,
}

/// How an extent is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// `FLAT` or `VMFS`: as it is.
    Flat,
    /// `SPARSE`: a hosted sparse extent, or a stream.
    Sparse,
    /// `VMFSSPARSE`: COWD.
    Cowd,
    /// `SESPARSE`
    SeSparse,
    /// `ZERO`: zeroes that are stored nowhere.
    Zero,
}

/// A line of a descriptor that describes an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentLine {
    /// What it may be used for.
    pub access: ExtentAccess,
    /// How much of the disk it holds.
    pub size: ByteCount,
    /// How it is stored.
    pub kind: ExtentKind,
    /// The name of its file, beside the descriptor: one plain component. None for zeroes.
    pub file: Option<String>,
    /// Where in a flat file it begins.
    pub offset: u64,
}

/// A descriptor that was read and found to make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    bytes: Vec<u8>,
    cid_at: Range<usize>,
    /// The content ID, which changes with the first write after opening.
    pub cid: u32,
    /// The content ID that the parent had when this disk was made of it; [`NO_PARENT`] without one.
    pub parent_cid: u32,
    /// Such as `monolithicSparse`.
    pub create_type: String,
    /// Where the parent's descriptor lies, as it stands there.
    pub parent_hint: Option<String>,
    /// The file in which ESXi tracks changed blocks. What is written elsewhere makes it invalid.
    pub change_track: Option<String>,
    /// The extents, in the order of the disk; at least one.
    pub extents: Vec<ExtentLine>,
    /// The size of the disk: the sum of its extents.
    pub capacity: ByteCount,
    /// `ddb.uuid`, which the guest sees as the NAA identifier of the disk.
    pub uuid: Option<[u8; 16]>,
    /// `ddb.adapterType`
    pub adapter: Option<String>,
    /// `ddb.virtualHWVersion`
    pub hardware_version: Option<u32>,
}

/// Why a descriptor is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// Larger than any disk needs.
    #[error("the descriptor has more than {MAX_DESCRIPTOR_BYTES} bytes, which no disk needs")]
    TooLarge,
    /// Something else.
    #[error("it does not begin with \"# Disk DescriptorFile\", so it is no VMDK descriptor")]
    NotADescriptor,
    /// A line that cannot be.
    #[error("line {number} of the descriptor {what}")]
    Line {
        /// Its number, from 1.
        number: usize,
        /// What is wrong with it, as the rest of the sentence.
        what: String,
    },
    /// A line that must be there.
    #[error("the descriptor has no line {0}")]
    Missing(&'static str),
    /// The lines do not fit each other.
    #[error("{0}")]
    Contradiction(String),
}

/// Whether a text that is no descriptor one can use still names a file of this name as a parent, wherever that lies.
pub(crate) fn names_parent(text: &[u8], file: &[u8]) -> bool {
    text::lines(text).filter_map(|line| text::pair(line.text)).any(|pair| {
        let is_hint = pair.name.eq_ignore_ascii_case(b"parentFileNameHint");
        is_hint && pair.value.rsplit(|byte| matches!(byte, b'/' | b'\\')).next() == Some(file)
    })
}

/// Whether a text that is no descriptor one can use still names a file of this name as an extent.
pub(crate) fn names_extent(text: &[u8], file: &[u8]) -> bool {
    let quoted = |line: &[u8]| line.split(|byte| *byte == b'"').nth(1) == Some(file);
    text::lines(text).any(|line| parse::extent_access(line.text).is_some() && quoted(line.text))
}

impl Descriptor {
    /// Whether `bytes`, from the beginning of a file, begin a descriptor.
    #[must_use]
    pub fn begins(bytes: &[u8]) -> bool {
        text::is_first_line(bytes)
    }

    /// Whether this disk holds only what differs from a parent.
    #[must_use]
    pub const fn has_parent(&self) -> bool {
        self.parent_cid != NO_PARENT
    }

    /// The text as it was read.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The content ID after this one: where its digits go in the text, and which they are, as many as stand there now.
    ///
    /// `chance` is any number; the result is never one of VMware's reserved ones, and never what it was.
    #[must_use]
    pub fn next_cid(&self, chance: u32) -> (Range<usize>, String) {
        let width = self.cid_at.len();
        let mask = if width >= 8 { u32::MAX } else { (1 << (4 * width)) - 1 };
        let mut cid = chance & mask;
        // At most three numbers in a row are excluded, and one digit has sixteen.
        while cid == self.cid || cid >= RESERVED_CID || cid == 0 {
            cid = cid.wrapping_add(1) & mask;
        }
        (self.cid_at.clone(), format!("{cid:0width$x}"))
    }
}

/// Sectors as bytes, if a disk may have so many.
fn sectors(count: u64) -> Option<ByteCount> {
    count.checked_mul(SECTOR).and_then(ByteCount::new)
}
