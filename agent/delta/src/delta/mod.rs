//! Deltas: the changed blocks from one root to another, and what proves that they are that.

mod builder;
mod end;
mod frame;
mod inverse;
mod map;
mod parts;
mod pieces;
mod proof;
mod reader;
mod writer;

pub use builder::{After, Before, DeltaBuilder};
pub use end::trailing_root;
pub use frame::{Extent, Frame, FrameTable, SealedFrame, Standing};
pub use inverse::{Inverter, Was};
pub use map::{read_map, write_map};
pub use parts::Parts;
pub use pieces::Pieces;
pub use proof::{Proof, Proven};
pub use reader::{DeltaReader, Item};
pub use writer::DeltaWriter;

use crate::layout::{DELTA_MAGIC, MAX_FRAME_BYTES, RawDeltaHeader, VERSION, content};
use crate::seal::{Input, Sealed, check_start};
use crate::signing::VerifyingKey;
use crate::{Coverage, FileKind, FormatError, Identity, PointKind};
use failback_hashtree::{ChainingValue, Root, Shape};
use failback_units::{BlockIndex, BlockRange, BlockSize, ByteCount};
use std::io::Read;

const KIND: FileKind = FileKind::Delta;

/// What a delta says before its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaHeader {
    /// Both sizes, and the size of the blocks that are compared.
    pub shapes: Shapes,
    /// Which bytes of the base count.
    pub base_coverage: Coverage,
    /// Which bytes of the result count.
    pub result_coverage: Coverage,
    /// What moment the result is from.
    pub kind: PointKind,
    /// When the source was read, in seconds since 1970.
    pub created: i64,
    /// 16 random bytes: what tells this delta from any other, whatever they have in common.
    pub id: [u8; 16],
    /// The root of the base.
    pub base_root: Root,
    /// Which disk the source was.
    pub identity: Identity,
}

/// The trees of the base and of the result, which have one block size and may have two sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shapes {
    /// What the delta starts from.
    pub base: Shape,
    /// What it leads to.
    pub result: Shape,
}

impl Shapes {
    /// The trees of disks of two sizes, in blocks of one size.
    #[must_use]
    pub const fn new(base: ByteCount, result: ByteCount, block_size: BlockSize) -> Self {
        Self { base: Shape::new(base, block_size), result: Shape::new(result, block_size) }
    }

    /// The block size of both.
    #[must_use]
    pub const fn block_size(&self) -> BlockSize {
        self.base.block_size()
    }

    /// The two sides exchanged, as in the delta that undoes another.
    #[must_use]
    pub const fn swapped(&self) -> Self {
        Self { base: self.result, result: self.base }
    }

    /// The tree of the larger disk. It gives values to what is kept of free space and of space behind a disk's end.
    #[must_use]
    pub fn larger(&self) -> Shape {
        if self.base.size() > self.result.size() { self.base } else { self.result }
    }

    /// The tree by which blocks with this content on a side are cut and hashed.
    fn by(&self, side: Shape, content: Content) -> Shape {
        if content == Content::Kept { self.larger() } else { side }
    }

    /// The block behind the last one of the larger disk.
    #[must_use]
    pub fn end(&self) -> BlockIndex {
        self.base.blocks().max(self.result.blocks()).as_end()
    }

    /// Blocks before this one may be unchanged; those from it on never are.
    ///
    /// Where the sizes differ, a shorter last block of one disk is not a block of the other, and the single block of a disk
    /// that has no other is hashed as a root, not as a leaf.
    #[must_use]
    pub fn common_end(&self) -> BlockIndex {
        if self.base.size() == self.result.size() {
            return self.end();
        }
        if self.base.is_single() || self.result.is_single() {
            return BlockIndex::ZERO;
        }
        BlockIndex::containing(self.base.size().min(self.result.size()).as_end(), self.block_size())
    }

    /// The highest level of a node of unchanged blocks: it must be an inner node of both trees.
    #[must_use]
    pub fn gap_level(&self) -> u8 {
        self.base.top_level().min(self.result.top_level())
    }

    /// How many blocks of known content a frame may replace or carry.
    #[must_use]
    pub const fn frame_blocks(&self) -> u64 {
        MAX_FRAME_BYTES as u64 >> self.block_size().shift()
    }
}

/// The highest level of a node of changed blocks whose value stands in a frame's table.
pub(crate) const fn changed_level(shape: Shape) -> u8 {
    shape.level_within(MAX_FRAME_BYTES as u64)
}

/// What the blocks of an extent are, before or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Behind the end of the disk.
    Absent,
    /// Some content, known by its values.
    Data,
    /// All zero.
    Zero,
    /// Free space, which counts as zero and may hold anything.
    Free,
    /// Free space, or space behind the end of the disk, whose bytes are known all the same: what an undo puts back although no
    /// root tells of it. Within the disk it counts as zero.
    Kept,
}

impl Content {
    /// The number that stands for it in a file: see `FORMAT.md`.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Absent => content::ABSENT,
            Self::Data => content::DATA,
            Self::Zero => content::ZERO,
            Self::Free => content::FREE,
            Self::Kept => content::KEPT,
        }
    }

    /// What a number stands for; `None` if for nothing.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            content::ABSENT => Some(Self::Absent),
            content::DATA => Some(Self::Data),
            content::ZERO => Some(Self::Zero),
            content::FREE => Some(Self::Free),
            content::KEPT => Some(Self::Kept),
            _ => None,
        }
    }

    /// Whether its bytes are known by their values.
    #[must_use]
    pub const fn has_values(self) -> bool {
        matches!(self, Self::Data | Self::Kept)
    }

    /// Whether a disk is made to hold it: it is content, or zeroes. The rest is left as it is.
    #[must_use]
    pub const fn is_written(self) -> bool {
        matches!(self, Self::Data | Self::Kept | Self::Zero)
    }
}

/// Sums over all frames, stated by the trailer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames.
    pub frames: u64,
    /// Extents.
    pub extents: u64,
    /// Bytes of new content that are carried.
    pub data_bytes: u64,
    /// Bytes that become zero, and are not carried.
    pub zero_bytes: u64,
    /// Bytes of all payloads as stored.
    pub stored_bytes: u64,
}

/// What a delta says behind its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The root that the delta leads to.
    pub result_root: Root,
    /// Sums over all frames.
    pub totals: Totals,
    /// The values of the blocks behind the last extent.
    pub(crate) values: Vec<ChainingValue>,
    /// Whose good signature it carries, if any.
    pub signed_by: Option<VerifyingKey>,
}

impl Trailer {
    /// The values of the unchanged blocks behind the last extent. The delta that leads back has the same.
    #[must_use]
    pub fn values(&self) -> &[ChainingValue] {
        &self.values
    }

    /// The unchanged blocks behind the last extent, which ends before block `end`, with the values of the nodes that cover
    /// them.
    #[must_use]
    pub fn gap(&self, shapes: &Shapes, end: BlockIndex) -> (BlockRange, &[ChainingValue]) {
        (BlockRange::between(end, shapes.common_end()).unwrap_or_default(), &self.values)
    }
}

impl DeltaHeader {
    fn to_bytes(&self) -> (RawDeltaHeader, Vec<u8>) {
        let identity = self.identity.to_bytes();
        let mut raw = RawDeltaHeader {
            magic: DELTA_MAGIC,
            version: VERSION.into(),
            header_len: 128.into(),
            flags: 0.into(),
            block_shift: self.shapes.block_size().shift(),
            base_coverage: self.base_coverage.code(),
            result_coverage: self.result_coverage.code(),
            kind: self.kind.code(),
            identity_len: u32::try_from(identity.len()).expect("an identity is small").into(),
            base_size: self.shapes.base.size().get().into(),
            result_size: self.shapes.result.size().get().into(),
            created: self.created.into(),
            id: self.id,
            base_root: self.base_root.0,
            hash: [0; 32],
        };
        raw.seal(None, &[&identity]);
        (raw, identity)
    }

    fn read<R: Read>(input: &mut Input<R>) -> Result<(Self, [u8; 32]), FormatError> {
        let raw: RawDeltaHeader = input.structure("the header")?;
        let header_len = (raw.header_len.get(), size_of::<RawDeltaHeader>());
        check_start(KIND, raw.magic == DELTA_MAGIC, raw.version.get(), raw.flags.get(), header_len)?;
        let damaged = |why| FormatError::damaged(KIND, "header", why);
        let identity = input.identity(raw, raw.identity_len.get())?;
        let block_size = BlockSize::from_shift(raw.block_shift).ok_or_else(|| damaged("no such block size"))?;
        let size = |bytes: u64| ByteCount::new(bytes).ok_or_else(|| damaged("no disk is so large"));
        let header = Self {
            shapes: Shapes::new(size(raw.base_size.get())?, size(raw.result_size.get())?, block_size),
            base_coverage: Coverage::read(KIND, raw.base_coverage)?,
            result_coverage: Coverage::read(KIND, raw.result_coverage)?,
            kind: PointKind::read(KIND, raw.kind)?,
            created: raw.created.get(),
            id: raw.id,
            base_root: Root(raw.base_root),
            identity: Identity::from_bytes(KIND, &identity)?,
        };
        Ok((header, raw.hash))
    }
}
