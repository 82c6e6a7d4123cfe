//! Signatures: a stored hash tree, written and read from left to right.

mod reader;
mod writer;

pub use reader::{Run, RunContent, SignatureReader};
pub use writer::SignatureWriter;

use crate::layout::{RawSignatureHeader, SIGNATURE_MAGIC, VERSION, page_kind};
use crate::seal::{Input, Sealed, check_start, reserved_is_zero};
use crate::{Coverage, FileKind, FormatError, Identity, PointKind};
use failback_hashtree::Shape;
use failback_units::{BlockSize, ByteCount};
use std::io::Read;

/// What a stretch of a disk is that needs no value for each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uniform {
    /// All zero.
    Zero,
    /// Free space, which counts as zero and may hold anything.
    Free,
}

impl Uniform {
    const fn code(self) -> u8 {
        match self {
            Self::Zero => page_kind::ZERO,
            Self::Free => page_kind::FREE,
        }
    }
}

/// What a signature says before its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureHeader {
    /// The disk's size and the size of the blocks whose values are stored.
    pub shape: Shape,
    /// Which bytes count.
    pub coverage: Coverage,
    /// What moment the content is from.
    pub kind: PointKind,
    /// When the disk was read, in seconds since 1970.
    pub created: i64,
    /// Which disk it was.
    pub identity: Identity,
}

impl SignatureHeader {
    /// The bytes of the header and of the identity, and the key of what follows.
    fn to_bytes(&self) -> (RawSignatureHeader, Vec<u8>) {
        let identity = self.identity.to_bytes();
        let mut raw = RawSignatureHeader {
            magic: SIGNATURE_MAGIC,
            version: VERSION.into(),
            header_len: 80.into(),
            flags: 0.into(),
            block_shift: self.shape.block_size().shift(),
            coverage: self.coverage.code(),
            kind: self.kind.code(),
            reserved: 0,
            identity_len: u32::try_from(identity.len()).expect("an identity is small").into(),
            size: self.shape.size().get().into(),
            created: self.created.into(),
            reserved2: [0; 8],
            hash: [0; 32],
        };
        raw.seal(None, &[&identity]);
        (raw, identity)
    }

    fn read<R: Read>(input: &mut Input<R>) -> Result<(Self, [u8; 32]), FormatError> {
        let kind = FileKind::Signature;
        let raw: RawSignatureHeader = input.structure("the header")?;
        let header_len = (raw.header_len.get(), size_of::<RawSignatureHeader>());
        check_start(kind, raw.magic == SIGNATURE_MAGIC, raw.version.get(), raw.flags.get(), header_len)?;
        let damaged = |why| FormatError::damaged(kind, "header", why);
        let identity = input.identity(raw, raw.identity_len.get())?;
        reserved_is_zero(kind, "header", &[&[raw.reserved], &raw.reserved2])?;
        let block_size = BlockSize::from_shift(raw.block_shift).ok_or_else(|| damaged("no such block size"))?;
        let size = ByteCount::new(raw.size.get()).ok_or_else(|| damaged("no disk is so large"))?;
        let header = Self {
            shape: Shape::new(size, block_size),
            coverage: Coverage::read(kind, raw.coverage)?,
            kind: PointKind::read(kind, raw.kind)?,
            created: raw.created.get(),
            identity: Identity::from_bytes(kind, &identity)?,
        };
        Ok((header, raw.hash))
    }
}
