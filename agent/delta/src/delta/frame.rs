//! Frames: the unit of memory, of resumption and of verification.

use super::pieces::{self, Pieces};
use super::{Content, KIND, Shapes, changed_level};
use crate::layout::{
    FRAME_EXTENTS_MAX, FRAME_MAGIC, FRAME_VALUES_MAX, MAX_FRAME_BYTES, RawExtent, RawFrame, compression,
};
use crate::seal::{Input, Sealed, reserved_is_zero};
use crate::{Coverage, DeltaHeader, FormatError};
use failback_hashtree::{ChainingValue, Cover, Frontier, LeafHasher, Shape, is_zero};
use failback_units::{BlockCount, BlockIndex, BlockRange, ByteRange};
use std::io::Read;
use std::ops::Range;
use zerocopy::{FromBytes, IntoBytes};

/// A run of changed blocks of one sort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which blocks.
    pub blocks: BlockRange,
    /// What they were.
    pub old: Content,
    /// What they become.
    pub new: Content,
    /// Where in the frame's payload the new content stands; empty unless it has values.
    pub data: Range<usize>,
    pub(super) gap_values: Range<usize>,
    pub(super) old_values: Range<usize>,
    pub(super) new_values: Range<usize>,
}

impl Extent {
    /// The bytes of the base's disk that it replaces.
    #[must_use]
    pub fn old_bytes(&self, shapes: &Shapes) -> ByteRange {
        shapes.by(shapes.base, self.old).bytes_of(self.blocks)
    }

    /// The bytes of the result's disk that it sets.
    #[must_use]
    pub fn new_bytes(&self, shapes: &Shapes) -> ByteRange {
        shapes.by(shapes.result, self.new).bytes_of(self.blocks)
    }

    /// Whether its content is known on either side, and so counts for the frame's limit. An extent without weight may be far
    /// larger than a frame.
    #[must_use]
    pub const fn is_weighty(&self) -> bool {
        weighty(self.old, self.new)
    }
}

pub(super) const fn weighty(old: Content, new: Content) -> bool {
    old.has_values() || new.has_values()
}

/// What stands at an extent of a disk that may or may not have received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// What the delta expects to replace.
    Old,
    /// What it would write.
    New,
    /// In parts the one, in parts the other.
    Mixed,
    /// Something else.
    Other,
}

/// Which blocks a frame changes, and the values that prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameTable {
    /// The number of the frame, from 0.
    pub index: u64,
    /// The block behind the previous frame's last extent.
    pub after: BlockIndex,
    /// The changed runs, in the order of the disk.
    pub extents: Vec<Extent>,
    /// For each extent: of the unchanged blocks before it, of its old content, of its new content.
    pub(super) values: Vec<ChainingValue>,
}

impl FrameTable {
    /// The block behind the last extent.
    #[must_use]
    pub fn end(&self) -> BlockIndex {
        self.extents.last().map_or(self.after, |extent| extent.blocks.end())
    }

    /// The unchanged blocks before each extent, with the values of the nodes that cover them.
    pub fn gaps(&self) -> impl Iterator<Item = (BlockRange, &[ChainingValue])> {
        let mut end = self.after;
        self.extents.iter().map(move |extent| {
            let gap = BlockRange::between(end, extent.blocks.start()).unwrap_or_default();
            end = extent.blocks.end();
            (gap, &self.values[extent.gap_values.clone()])
        })
    }

    /// The length of the payload once decompressed, in bytes.
    #[must_use]
    pub fn data_len(&self) -> usize {
        self.extents.iter().map(|extent| extent.data.len()).sum()
    }

    /// The length of what stands before the payload in a sealed frame, and that of the payload as stored, by the frame's first 80 bytes;
    /// `None` if those are no head of a frame.
    #[must_use]
    pub fn outline_len(head: &[u8]) -> Option<(usize, u64)> {
        let (raw, _) = RawFrame::read_from_prefix(head).ok()?;
        let (extents, values) = (raw.extent_count.get(), raw.value_count.get());
        let fits = raw.magic == FRAME_MAGIC && extents <= FRAME_EXTENTS_MAX && values <= FRAME_VALUES_MAX;
        let outline = || size_of::<RawFrame>() + extents as usize * size_of::<RawExtent>() + values as usize * 32;
        fits.then(|| (outline(), raw.stored_len.get().into()))
    }

    /// A table from a sealed frame without its payload: head, extents and values. Nothing proves those: this is for whoever has
    /// kept them himself. `after` is the block behind the previous frame's last extent. Returns the length of the sealed frame too.
    ///
    /// # Errors
    ///
    /// When the bytes are not what stands before the payload of frame `index`.
    pub fn from_outline(
        bytes: &[u8],
        header: &DeltaHeader,
        index: u64,
        after: BlockIndex,
    ) -> Result<(Self, usize), FormatError> {
        let damaged = |why| FormatError::damaged(KIND, format!("frame {index}"), why);
        if Self::outline_len(bytes).map(|(len, _)| len) != Some(bytes.len()) {
            return Err(damaged("its outline is cut off"));
        }
        let (raw, rest) = RawFrame::read_from_prefix(bytes).map_err(|_| damaged("its outline is cut off"))?;
        if raw.index.get() != index || raw.after.get() != after.get() || raw.extent_count.get() == 0 {
            return Err(damaged("it does not follow the frame before it"));
        }
        let (extents, values) = rest.split_at(raw.extent_count.get() as usize * size_of::<RawExtent>());
        let raw_extents = <[RawExtent]>::ref_from_bytes(extents).map_err(|_| damaged("no whole extents"))?;
        let extents = Self::resolve(header, &raw, raw_extents).map_err(damaged)?;
        let values = values.as_chunks().0.iter().map(|value| ChainingValue(*value)).collect();
        Ok((Self { index, after, extents, values }, bytes.len() + raw.stored_len.get() as usize))
    }

    /// Whether head and extents of a sealed frame, whose values and payload are still to come, can be those of frame `index` behind the block
    /// before `after`. Returns the block behind its last extent, and how many bytes are to come.
    pub(super) fn follows(
        bytes: &[u8],
        header: &DeltaHeader,
        index: u64,
        after: BlockIndex,
    ) -> Result<(BlockIndex, u64), FormatError> {
        let damaged = |why| FormatError::damaged(KIND, format!("frame {index}"), why);
        let (raw, extents) = RawFrame::read_from_prefix(bytes).map_err(|_| damaged("its outline is cut off"))?;
        if raw.index.get() != index || raw.after.get() != after.get() {
            return Err(damaged("it does not follow the frame before it"));
        }
        if !fits_a_frame(&raw) {
            return Err(damaged("it is empty, or larger than a frame may be"));
        }
        let raw_extents = <[RawExtent]>::ref_from_bytes(extents).map_err(|_| damaged("no whole extents"))?;
        let extents = Self::resolve(header, &raw, raw_extents).map_err(damaged)?;
        let end = extents.last().map_or(after, |extent| extent.blocks.end());
        Ok((end, u64::from(raw.value_count.get()) * 32 + u64::from(raw.stored_len.get())))
    }

    /// The length of the payload as stored in a sealed frame of `sealed_len` bytes.
    pub(super) const fn stored_len(&self, sealed_len: usize) -> usize {
        sealed_len - size_of::<RawFrame>() - self.extents.len() * size_of::<RawExtent>() - self.values.len() * 32
    }

    /// Bytes that become zero.
    #[must_use]
    pub fn zero_bytes(&self, shapes: &Shapes) -> u64 {
        let zero = self.extents.iter().filter(|extent| extent.new == Content::Zero);
        zero.map(|extent| extent.new_bytes(shapes).count().get()).sum()
    }

    /// Tells what stands at an extent, given what was read there.
    ///
    /// `content` begins at the extent's first byte and has at least the bytes that count on both sides. What is free or
    /// absent on one side is met by anything on that side. Content is compared in nodes of up to 1 MiB, so a torn write within
    /// one node is `Other`.
    ///
    /// An extent with data on neither side may be far larger than a frame: do not read one of those into memory for this.
    pub fn standing(&self, shapes: &Shapes, hasher: &mut LeafHasher, extent: &Extent, content: &[u8]) -> Standing {
        let (old, new) = (self.old_side(shapes, extent), self.new_side(shapes, extent));
        let new_units = new.compare(hasher, extent.blocks, content);
        if new_units.iter().all(|unit| *unit) {
            return Standing::New;
        }
        let old_units = old.compare(hasher, extent.blocks, content);
        if old_units.iter().all(|unit| *unit) {
            return Standing::Old;
        }
        let comparable = old_units.len() == new_units.len();
        if comparable && old_units.iter().zip(&new_units).all(|(old, new)| *old || *new) {
            Standing::Mixed
        } else {
            Standing::Other
        }
    }

    /// Whether the old content stands at an extent, of which `content` was read as for [`standing`](Self::standing).
    pub fn stands_old(&self, shapes: &Shapes, hasher: &mut LeafHasher, extent: &Extent, content: &[u8]) -> bool {
        self.old_side(shapes, extent).compare(hasher, extent.blocks, content).iter().all(|unit| *unit)
    }

    fn old_side(&self, shapes: &Shapes, extent: &Extent) -> Side<'_> {
        let shape = shapes.by(shapes.base, extent.old);
        Side { shape, content: extent.old, values: &self.values[extent.old_values.clone()] }
    }

    fn new_side(&self, shapes: &Shapes, extent: &Extent) -> Side<'_> {
        let shape = shapes.by(shapes.result, extent.new);
        Side { shape, content: extent.new, values: &self.values[extent.new_values.clone()] }
    }

    /// Whether a decompressed payload has the values that the table states.
    fn fits(&self, shapes: &Shapes, hasher: &mut LeafHasher, data: &[u8]) -> bool {
        self.extents.iter().filter(|extent| extent.new.has_values()).all(|extent| {
            self.new_side(shapes, extent)
                .compare(hasher, extent.blocks, &data[extent.data.clone()])
                .iter()
                .all(|unit| *unit)
        })
    }

    /// Understands the extents of a frame, and refuses what no writer makes.
    fn resolve(header: &DeltaHeader, raw: &RawFrame, extents: &[RawExtent]) -> Result<Vec<Extent>, &'static str> {
        let shapes = &header.shapes;
        let mut end = BlockIndex::new(raw.after.get());
        let mut gap =
            BlockIndex::new(raw.first.get()).distance_from(end).ok_or("it starts before its predecessor ends")?;
        let (mut values, mut data, mut weight) = (0_u64, 0_u64, 0_u64);
        let mut resolved = Vec::with_capacity(extents.len());
        for (number, raw_extent) in extents.iter().enumerate() {
            if number > 0 {
                gap = BlockCount::new(raw_extent.gap.get().into());
            } else if raw_extent.gap.get() != 0 {
                return Err("its first extent has a gap");
            }
            let start = end.checked_add(gap).ok_or("an extent lies behind every disk")?;
            let blocks = BlockRange::new(start, BlockCount::new(raw_extent.count.get().into()));
            let blocks = blocks.filter(|blocks| !blocks.is_empty() && blocks.end() <= shapes.end());
            let blocks = blocks.ok_or("an extent is empty or lies behind the disk's end")?;
            if gap != BlockCount::ZERO && start > shapes.common_end() {
                return Err("blocks that exist on one side only are called unchanged");
            }
            let old = side_content(raw_extent.old, shapes.base, header.base_coverage, blocks)?;
            let new = side_content(raw_extent.new, shapes.result, header.result_coverage, blocks)?;
            // Zero and free have one value and yet differ: what was free may hold anything, and must be set to become zero.
            if old == new && !weighty(old, new) && start < shapes.common_end() {
                return Err("an extent changes nothing");
            }
            weight += if weighty(old, new) { blocks.count().get() } else { 0 };
            if weight > shapes.frame_blocks() {
                return Err("it changes more than a frame may");
            }
            let mut next = |count: u64| {
                let from = values;
                values += count;
                usize::try_from(from).unwrap_or(usize::MAX)..usize::try_from(values).unwrap_or(usize::MAX)
            };
            let gap_blocks = BlockRange::between(end, start).unwrap_or_default();
            let stored = |side, content: Content| {
                let cover = Cover::new(blocks, changed_level(shapes.by(side, content)));
                if content.has_values() { cover.len() } else { 0 }
            };
            let gap_values = next(Cover::new(gap_blocks, shapes.gap_level()).len());
            let old_values = next(stored(shapes.base, old));
            let new_values = next(stored(shapes.result, new));
            let data_start = data;
            if new.has_values() {
                data += shapes.by(shapes.result, new).bytes_of(blocks).count().get();
            }
            let data_range =
                usize::try_from(data_start).unwrap_or(usize::MAX)..usize::try_from(data).unwrap_or(usize::MAX);
            resolved.push(Extent { blocks, old, new, data: data_range, gap_values, old_values, new_values });
            end = blocks.end();
        }
        if u64::from(raw.value_count.get()) != values || u64::from(raw.data_len.get()) != data {
            return Err("its lengths are not those of its extents");
        }
        Ok(resolved)
    }
}

/// Whether a frame has extents, and no more of anything than a frame may have.
fn fits_a_frame(raw: &RawFrame) -> bool {
    (1..=FRAME_EXTENTS_MAX).contains(&raw.extent_count.get())
        && raw.value_count.get() <= FRAME_VALUES_MAX
        && raw.data_len.get() <= MAX_FRAME_BYTES
        && raw.stored_len.get() <= raw.data_len.get()
}

/// What the code of one side says of some blocks, if that can be.
fn side_content(code: u8, shape: Shape, coverage: Coverage, blocks: BlockRange) -> Result<Content, &'static str> {
    let content = Content::from_code(code).ok_or("an extent is of an unknown sort")?;
    let disk_end = shape.blocks().as_end();
    let present = blocks.end() <= disk_end;
    let absent = blocks.start() >= disk_end;
    match content {
        Content::Absent if !absent => Err("an extent within the disk is called absent"),
        Content::Data | Content::Zero | Content::Free if !present => Err("an extent lies behind the disk's end"),
        Content::Kept if !present && !absent => Err("an extent lies across the disk's end"),
        Content::Free | Content::Kept if present && coverage == Coverage::Whole => {
            Err("an extent is called free where all of the disk counts")
        }
        _ => Ok(content),
    }
}

/// One side of an extent, to be compared with what stands on a disk.
struct Side<'a> {
    shape: Shape,
    content: Content,
    values: &'a [ChainingValue],
}

impl Side<'_> {
    /// For each node of the extent's cover, whether the content there is what this side says.
    fn compare(&self, hasher: &mut LeafHasher, blocks: BlockRange, content: &[u8]) -> Vec<bool> {
        let level = changed_level(self.shape);
        let cover = Cover::new(blocks, level);
        let bytes = self.shape.bytes_of(blocks);
        let len = usize::try_from(bytes.count().get()).unwrap_or(usize::MAX);
        match self.content {
            Content::Absent | Content::Free => cover.map(|_| true).collect(),
            // The disk ends before this side does.
            _ if content.len() < len => cover.map(|_| false).collect(),
            Content::Zero => {
                let mut rest = &content[..len];
                let mut is_next_zero = |node: failback_hashtree::Node| {
                    let unit = self.shape.bytes_of(BlockRange::new(node.first, node.count()).unwrap_or_default());
                    let (now, after) = rest.split_at(usize::try_from(unit.count().get()).unwrap_or(usize::MAX));
                    rest = after;
                    is_zero(now)
                };
                cover.map(&mut is_next_zero).collect()
            }
            Content::Data | Content::Kept => {
                let mut leaves = Vec::new();
                hasher.hash(self.shape, blocks.start(), &content[..len], &mut leaves);
                let mut nodes = Frontier::new(level);
                nodes.push_leaves(hasher, blocks.start(), &leaves);
                nodes.take().zip(self.values).map(|((_, value), stated)| value == *stated).collect()
            }
        }
    }
}

/// A frame with its payload as it was read from the source.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What it changes.
    pub table: FrameTable,
    /// The new content of all its extents, one after the other.
    pub data: Vec<u8>,
}

impl Frame {
    /// The frame's bytes in the stream. Compressing is most of the work, and may be done on any thread.
    ///
    /// `level` is zstd's, 1 to 19; the payload is stored as it is where compressing does not pay, and where the level is 0.
    #[must_use]
    pub fn seal(&self, key: &[u8; 32], level: i32) -> Vec<u8> {
        let packed = (level != 0).then(|| zstd::bulk::compress(&self.data, level).ok());
        self.sealed(key, compression::ZSTD, packed.flatten())
    }

    /// The same with a payload of which any piece can be unpacked alone: for deltas that are read at random.
    #[must_use]
    pub fn seal_in_pieces(&self, key: &[u8; 32], level: i32) -> Vec<u8> {
        self.sealed(key, compression::PIECES, pieces::pack(&self.data, level))
    }

    fn sealed(&self, key: &[u8; 32], compression: u8, packed: Option<Vec<u8>>) -> Vec<u8> {
        let table = &self.table;
        // Less than one part in 32 saved is not worth decompressing.
        let packed = packed.filter(|packed| packed.len() + self.data.len() / 32 < self.data.len());
        let (compression, payload) = match &packed {
            Some(packed) => (compression, packed.as_slice()),
            None => (compression::NONE, self.data.as_slice()),
        };
        let small = |len: usize| u32::try_from(len).expect("a frame is small").into();
        let mut extents = Vec::with_capacity(table.extents.len() * size_of::<RawExtent>());
        let first = table.extents.first().map_or(table.after, |extent| extent.blocks.start());
        let mut end = first;
        for extent in &table.extents {
            let gap = extent.blocks.start().distance_from(end).unwrap_or_default();
            let raw = RawExtent {
                gap: u32::try_from(gap.get()).expect("the builder keeps gaps within a frame small").into(),
                count: u16::try_from(extent.blocks.count().get()).expect("the builder keeps extents short").into(),
                new: extent.new.code(),
                old: extent.old.code(),
            };
            extents.extend_from_slice(raw.as_bytes());
            end = extent.blocks.end();
        }
        let values: Vec<u8> = table.values.iter().flat_map(|value| value.0).collect();
        let mut raw = RawFrame {
            magic: FRAME_MAGIC,
            compression,
            reserved: [0; 3],
            index: table.index.into(),
            after: table.after.get().into(),
            first: first.get().into(),
            extent_count: small(table.extents.len()),
            value_count: small(table.values.len()),
            data_len: small(self.data.len()),
            stored_len: small(payload.len()),
            hash: [0; 32],
        };
        raw.seal(Some(key), &[&extents, &values, payload]);
        [raw.as_bytes(), &extents, &values, payload].concat()
    }
}

/// A frame as it came from a stream: whole by its hash, its payload still packed.
#[derive(Clone, Debug)]
pub struct SealedFrame {
    /// What it changes.
    pub table: FrameTable,
    pieces: Pieces,
    stored: Vec<u8>,
    hash: [u8; 32],
}

impl SealedFrame {
    /// The frame's own hash, which covers all of it.
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The length of the payload as stored, in bytes.
    #[must_use]
    pub const fn stored_len(&self) -> usize {
        self.stored.len()
    }

    /// Unpacks the payload into `data`, whose length is the table's [`data_len`](FrameTable::data_len), and checks that it
    /// has the values that the table states.
    ///
    /// # Errors
    ///
    /// When it has not: nothing of `data` may be used then.
    pub fn open(&self, shapes: &Shapes, hasher: &mut LeafHasher, data: &mut [u8]) -> Result<(), FormatError> {
        let damaged = |why| FormatError::damaged(KIND, format!("frame {}", self.table.index), why);
        if !self.pieces.unpack_all(&self.stored, data) {
            return Err(damaged("its payload cannot be unpacked"));
        }
        if self.table.fits(shapes, hasher, data) {
            Ok(())
        } else {
            Err(damaged("its payload does not have the values that its table states"))
        }
    }

    /// How the payload is cut, to unpack pieces of it alone. Their places count from the start of the sealed frame.
    #[must_use]
    pub fn pieces(&self) -> Pieces {
        let table = &self.table;
        let before = size_of::<RawFrame>() + table.extents.len() * size_of::<RawExtent>() + table.values.len() * 32;
        self.pieces.clone().behind(before)
    }

    /// A frame from its bytes, read again from where they stood in a stream that was read before: frame `index`, behind a
    /// frame that ended with the block before `after`.
    ///
    /// # Errors
    ///
    /// When the bytes are not that frame, whole.
    pub fn from_bytes(
        bytes: &[u8],
        header: &DeltaHeader,
        key: &[u8; 32],
        index: u64,
        after: BlockIndex,
    ) -> Result<Self, FormatError> {
        let mut input = Input::new(bytes, KIND);
        let mut magic = [0; 4];
        input.fill(&mut magic, "a frame")?;
        if magic != FRAME_MAGIC {
            return Err(FormatError::damaged(
                KIND,
                format!("frame {index}"),
                "it begins as nothing that can stand here",
            ));
        }
        let frame = Self::read(&mut input, magic, header, key, (index, after))?;
        input.end()?;
        Ok(frame)
    }

    /// Reads what follows a frame's magic number, `start`, in memory for one frame.
    pub(super) fn read<R: Read>(
        input: &mut Input<R>,
        start: [u8; 4],
        header: &DeltaHeader,
        key: &[u8; 32],
        (index, after): (u64, BlockIndex),
    ) -> Result<Self, FormatError> {
        let part = || format!("frame {index}");
        let damaged = |why| FormatError::damaged(KIND, part(), why);
        let mut bytes = [0; size_of::<RawFrame>()];
        bytes[..4].copy_from_slice(&start);
        input.fill(&mut bytes[4..], "a frame")?;
        let raw = RawFrame::read_from_bytes(&bytes).expect("the length fits");
        if raw.index.get() != index || raw.after.get() != after.get() {
            return Err(damaged("it does not follow the frame before it"));
        }
        let (extent_count, value_count) = (raw.extent_count.get(), raw.value_count.get());
        if !fits_a_frame(&raw) {
            return Err(damaged("it is empty, or larger than a frame may be"));
        }
        let raw_extents = input.bytes(extent_count as usize * size_of::<RawExtent>(), "a frame")?;
        let values = input.bytes(value_count as usize * 32, "a frame")?;
        let stored = input.bytes(raw.stored_len.get() as usize, "a frame")?;
        if !raw.is_intact(Some(key), &[&raw_extents, &values, &stored]) {
            return Err(damaged("its hash does not fit"));
        }
        reserved_is_zero(KIND, &part(), &[&raw.reserved])?;
        let data_len = raw.data_len.get() as usize;
        let pieces = match raw.compression {
            compression::NONE if raw.stored_len == raw.data_len => Pieces::plain(data_len),
            compression::NONE => return Err(damaged("its lengths differ though it is not compressed")),
            compression::ZSTD => Pieces::single(data_len, stored.len()),
            compression::PIECES => {
                Pieces::of(&stored, data_len).ok_or_else(|| damaged("its pieces are not as long as it says"))?
            }
            value => {
                let value = u64::from(value);
                return Err(FormatError::UnknownFeature { kind: KIND, what: "compression", value });
            }
        };
        let raw_extents = <[RawExtent]>::ref_from_bytes(&raw_extents).map_err(|_| damaged("no whole extents"))?;
        let extents = FrameTable::resolve(header, &raw, raw_extents).map_err(damaged)?;
        let values = values.as_chunks().0.iter().map(|value| ChainingValue(*value)).collect();
        Ok(Self { table: FrameTable { index, after, extents, values }, pieces, stored, hash: raw.hash })
    }
}
