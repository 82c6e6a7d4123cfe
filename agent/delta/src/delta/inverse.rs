//! The delta that undoes another one, made while that one is read and what it replaces is at hand.

use super::frame::weighty;
use super::{Content, Extent, Frame, FrameTable, Shapes, changed_level};
use crate::layout::{FRAME_EXTENTS_MAX, FRAME_VALUES_MAX, TRAILER_VALUES_MAX};
use failback_hashtree::{ChainingValue, Frontier, LeafHasher, Shape};
use failback_units::{BlockIndex, BlockRange};

/// What stood where an extent is about to be written.
#[derive(Clone, Copy, Debug)]
pub enum Was<'a> {
    /// What the extent says it was; these are the bytes, if it has values.
    Stated(&'a [u8]),
    /// Something that no root tells of, in space that is free or behind the end of the base, to be put back byte for byte:
    /// the bytes, by the larger disk.
    Kept(&'a [u8]),
}

/// Turns the extents of a delta round, in their order, into the frames of the delta that leads back.
///
/// Unchanged blocks have the same values on the way back, and the values of changed ones change sides: so nothing is hashed
/// but what no root tells of. The proof of the one delta is the proof of the other, and so are the values in its trailer.
#[derive(Debug)]
pub struct Inverter {
    /// The shapes of the way back.
    shapes: Shapes,
    hasher: LeafHasher,
    frame: Frame,
    /// Blocks of known content in the frame.
    weight: u64,
}

impl Inverter {
    /// Nothing turned round yet. `shapes` are those of the delta to be undone.
    #[must_use]
    pub fn new(shapes: &Shapes) -> Self {
        Self { shapes: shapes.swapped(), hasher: LeafHasher::new(), frame: Frame::following(None), weight: 0 }
    }

    /// Turns round the next extent of a delta, or the next part of it: some of its blocks. Only an extent without weight, which
    /// can be larger than a frame, comes in parts. Returns the frame that was completed before it, if one was.
    ///
    /// # Panics
    ///
    /// When the content is not as long as the blocks are, or a part is of an extent that has values.
    pub fn push(&mut self, table: &FrameTable, extent: &Extent, blocks: BlockRange, was: Was<'_>) -> Option<Frame> {
        assert!(blocks == extent.blocks || !extent.is_weighty(), "what has values is turned round whole");
        let (old, new) = match was {
            Was::Stated(_) => (extent.new, extent.old),
            Was::Kept(_) => (extent.new, Content::Kept),
        };
        let gap: &[ChainingValue] =
            if blocks.start() == extent.blocks.start() { &table.values[extent.gap_values.clone()] } else { &[] };
        let weight = if weighty(old, new) { blocks.count().get() } else { 0 };
        let finished = if self.is_full(blocks, weight) { self.close() } else { None };
        let table_out = &mut self.frame.table;
        let gap_start = table_out.values.len();
        table_out.values.extend_from_slice(gap);
        let old_start = table_out.values.len();
        table_out.values.extend_from_slice(&table.values[extent.new_values.clone()]);
        let new_start = table_out.values.len();
        let data_start = self.frame.data.len();
        match was {
            Was::Stated(content) => {
                table_out.values.extend_from_slice(&table.values[extent.old_values.clone()]);
                if extent.old.has_values() {
                    self.frame.data.extend_from_slice(content);
                }
            }
            Was::Kept(content) => {
                let values = values_of(self.shapes.larger(), &mut self.hasher, blocks, content);
                table_out.values.extend(values);
                self.frame.data.extend_from_slice(content);
            }
        }
        table_out.extents.push(Extent {
            blocks,
            old,
            new,
            data: data_start..self.frame.data.len(),
            gap_values: gap_start..old_start,
            old_values: old_start..new_start,
            new_values: new_start..table_out.values.len(),
        });
        let made = table_out.extents.last().expect("just pushed");
        let len = if new.has_values() { made.new_bytes(&self.shapes).count().get() } else { 0 };
        assert_eq!(made.data.len() as u64, len, "content is as long as its blocks are");
        self.weight += weight;
        finished
    }

    /// The last frame, if there is one.
    #[must_use]
    pub fn finish(mut self) -> Option<Frame> {
        self.close()
    }

    /// Whether these blocks need a new frame.
    fn is_full(&self, blocks: BlockRange, weight: u64) -> bool {
        let table = &self.frame.table;
        let gap = blocks.start().distance_from(table.end()).unwrap_or_default().get();
        let values = table.values.len() + TRAILER_VALUES_MAX as usize + 2 * 256;
        self.weight + weight > self.shapes.frame_blocks()
            || table.extents.len() == FRAME_EXTENTS_MAX as usize
            || values > FRAME_VALUES_MAX as usize
            || (!table.extents.is_empty() && gap > u64::from(u32::MAX))
    }

    fn close(&mut self) -> Option<Frame> {
        if self.frame.table.extents.is_empty() {
            return None;
        }
        self.weight = 0;
        let next = Frame::following(Some(&self.frame.table));
        Some(std::mem::replace(&mut self.frame, next))
    }
}

impl Frame {
    /// An empty frame behind another, or the first one.
    pub(super) fn following(table: Option<&FrameTable>) -> Self {
        let (index, after) = table.map_or((0, BlockIndex::ZERO), |table| (table.index + 1, table.end()));
        Self { table: FrameTable { index, after, extents: Vec::new(), values: Vec::new() }, data: Vec::new() }
    }
}

/// The values that a table states for blocks with this content.
fn values_of(
    shape: Shape,
    hasher: &mut LeafHasher,
    blocks: BlockRange,
    content: &[u8],
) -> impl Iterator<Item = ChainingValue> {
    let (mut leaves, mut nodes) = (Vec::new(), Frontier::new(changed_level(shape)));
    hasher.hash(shape, blocks.start(), content, &mut leaves);
    nodes.push_leaves(hasher, blocks.start(), &leaves);
    nodes.take().map(|(_, value)| value).collect::<Vec<_>>().into_iter()
}
