//! From changed and unchanged blocks, in the order of the disk, to frames.

use super::frame::weighty;
use super::{Content, Extent, Frame, FrameTable, Proof, Proven, Shapes, changed_level};
use crate::layout::{FRAME_EXTENTS_MAX, FRAME_VALUES_MAX};
use failback_hashtree::{ChainingValue, Frontier, LeafHasher, Node, Shape};
use failback_units::{BlockCount, BlockIndex, BlockRange};

/// What a changed block was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Behind the end of the base.
    Absent,
    /// Content with this value.
    Data(ChainingValue),
    /// All zero.
    Zero,
    /// Free space.
    Free,
    /// Free space, or space behind the end, with bytes of this value by the larger tree.
    Kept(ChainingValue),
}

/// What a changed block becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After<'a> {
    /// Behind the end of the result.
    Absent,
    /// This content, and its value.
    Data(&'a [u8], ChainingValue),
    /// All zero.
    Zero,
    /// Free space.
    Free,
    /// Free space, or space behind the end, that is to hold these bytes, and their value by the larger tree.
    Kept(&'a [u8], ChainingValue),
}

impl Before {
    const fn content(self) -> Content {
        match self {
            Self::Absent => Content::Absent,
            Self::Data(_) => Content::Data,
            Self::Zero => Content::Zero,
            Self::Free => Content::Free,
            Self::Kept(_) => Content::Kept,
        }
    }
}

impl After<'_> {
    const fn content(self) -> Content {
        match self {
            Self::Absent => Content::Absent,
            Self::Data(..) => Content::Data,
            Self::Zero => Content::Zero,
            Self::Free => Content::Free,
            Self::Kept(..) => Content::Kept,
        }
    }
}

/// Collects blocks into frames, and recomputes both roots on the way, in memory for one frame.
///
/// Every block of the larger disk is told once, from left to right, as unchanged or changed; blocks from
/// [`Shapes::common_end`] on are always changed.
///
/// A block that was free and now is zero, or was zero and now is free, is changed, although both have the value of zeroes:
/// what is free on the base may hold anything on the disk that the delta is applied to.
#[derive(Debug)]
pub struct DeltaBuilder {
    shapes: Shapes,
    proof: Proof,
    /// Unchanged blocks since the last changed one.
    gap: Frontier,
    /// The run of changed blocks that is still growing, and the values of its two sides.
    open: Option<OpenExtent>,
    old: Frontier,
    new: Frontier,
    frame: Frame,
    /// Blocks of known content in the frame.
    weight: u64,
    /// The first block that was not told yet.
    next: BlockIndex,
}

#[derive(Clone, Copy, Debug)]
struct OpenExtent {
    blocks: BlockRange,
    old: Content,
    new: Content,
    data_start: usize,
    gap_values: usize,
}

impl DeltaBuilder {
    /// Nothing told yet.
    #[must_use]
    pub fn new(shapes: &Shapes) -> Self {
        Self {
            shapes: *shapes,
            proof: Proof::new(shapes),
            gap: Frontier::new(shapes.gap_level()),
            open: None,
            old: Frontier::new(changed_level(shapes.base)),
            new: Frontier::new(changed_level(shapes.result)),
            frame: Frame::following(None),
            weight: 0,
            next: BlockIndex::ZERO,
        }
    }

    /// The first block that was not told yet.
    #[must_use]
    pub const fn next(&self) -> BlockIndex {
        self.next
    }

    /// Takes in a frame that another builder has made of the same blocks, so that this one goes on behind it.
    ///
    /// # Panics
    ///
    /// When anything was told that is not in such a frame, or it is not the next frame.
    pub fn told(&mut self, table: &FrameTable) {
        assert!(self.open.is_none() && self.gap.nodes().is_empty(), "frames come before anything else");
        assert_eq!((table.index, table.after), (self.frame.table.index, self.next), "frames are told in their order");
        self.proof.absorb(table);
        self.next = table.end();
        self.frame = Frame::following(Some(table));
    }

    /// Tells that the next blocks, those below `node`, are the same on both sides. The node lies not above
    /// [`Shapes::gap_level`].
    pub fn unchanged(&mut self, node: Node, value: ChainingValue) {
        self.close_extent();
        self.gap.push(node, value);
        self.next = node.end().expect("a node lies within its tree");
    }

    /// Tells that the next blocks, whose values are `values`, are the same on both sides.
    pub fn unchanged_blocks(&mut self, hasher: &mut LeafHasher, values: &[ChainingValue]) {
        self.close_extent();
        self.gap.push_leaves(hasher, self.next, values);
        self.next = self.next.checked_add(BlockCount::new(values.len() as u64)).expect("blocks have numbers");
    }

    /// Tells that the next block is changed. Returns the frame that was completed before it, if one was.
    pub fn changed(&mut self, before: Before, after: After<'_>) -> Option<Frame> {
        let block = self.next;
        let (old, new) = (before.content(), after.content());
        let weighty = weighty(old, new);
        // What is kept lies within a disk or behind it.
        let crosses = |content, side: Shape| content == Content::Kept && block == side.blocks().as_end();
        let crosses = crosses(old, self.shapes.base) || crosses(new, self.shapes.result);
        let continues = |open: &OpenExtent| {
            !crosses && open.old == old && open.new == new && open.blocks.count().get() < u64::from(u16::MAX)
        };
        let mut finished = None;
        let too_heavy = weighty && self.weight == self.shapes.frame_blocks();
        if too_heavy || !self.open.as_ref().is_some_and(continues) {
            self.close_extent();
            if too_heavy || self.is_full(block) {
                finished = self.close_frame();
            }
        }
        let shapes = &self.shapes;
        let open = self.open.get_or_insert_with(|| {
            self.old = Frontier::new(changed_level(shapes.by(shapes.base, old)));
            self.new = Frontier::new(changed_level(shapes.by(shapes.result, new)));
            let values = &mut self.frame.table.values;
            let gap_values = values.len();
            values.extend(self.gap.take().map(|(_, value)| value));
            let blocks = BlockRange::new(block, BlockCount::ZERO).expect("no blocks");
            OpenExtent { blocks, old, new, data_start: self.frame.data.len(), gap_values }
        });
        self.next = block.checked_add(BlockCount::new(1)).expect("blocks of a disk have numbers");
        open.blocks = BlockRange::between(open.blocks.start(), self.next).expect("grows to the right");
        self.weight += u64::from(weighty);
        if let Before::Data(value) | Before::Kept(value) = before {
            self.old.push(Node::leaf(block), value);
        }
        if let After::Data(content, value) | After::Kept(content, value) = after {
            self.new.push(Node::leaf(block), value);
            self.frame.data.extend_from_slice(content);
        }
        finished
    }

    /// The last frame, if there is one, the values of the unchanged blocks behind it, and both roots.
    ///
    /// The roots follow from what was told, also if nothing was changed at all: a base root that is not the stated one
    /// means that what was told of the base, such as that a stretch of it is zero, is not so. Without a change the delta
    /// carries no values, since then it says only that the roots are the same.
    ///
    /// # Panics
    ///
    /// When blocks were not told.
    #[must_use]
    pub fn finish(mut self) -> (Option<Frame>, Vec<ChainingValue>, Proven) {
        assert_eq!(self.next, self.shapes.end(), "every block is told");
        self.close_extent();
        let last = self.close_frame();
        let mut values: Vec<_> = self.gap.take().map(|(_, value)| value).collect();
        let proven = self.proof.complete(&values).expect("every block is told");
        if last.is_none() && self.frame.table.index == 0 {
            values.clear();
        }
        (last, values, proven)
    }

    /// Whether an extent that starts at `block` needs a new frame.
    fn is_full(&self, block: BlockIndex) -> bool {
        let table = &self.frame.table;
        let gap = block.distance_from(table.end()).unwrap_or_default().get();
        // Room for the values of the gap and of the extent to come.
        let values = table.values.len() + self.gap.nodes().len() + 2 * 256;
        table.extents.len() == FRAME_EXTENTS_MAX as usize
            || values > FRAME_VALUES_MAX as usize
            || (!table.extents.is_empty() && gap > u64::from(u32::MAX))
    }

    fn close_extent(&mut self) {
        let Some(open) = self.open.take() else { return };
        let table = &mut self.frame.table;
        let gap_end = table.extents.last().map_or(0, |extent| extent.new_values.end);
        debug_assert_eq!(gap_end, open.gap_values, "values stand in the order of the extents");
        let old_start = table.values.len();
        table.values.extend(self.old.take().map(|(_, value)| value));
        let new_start = table.values.len();
        table.values.extend(self.new.take().map(|(_, value)| value));
        table.extents.push(Extent {
            blocks: open.blocks,
            old: open.old,
            new: open.new,
            data: open.data_start..self.frame.data.len(),
            gap_values: open.gap_values..old_start,
            old_values: old_start..new_start,
            new_values: new_start..table.values.len(),
        });
    }

    fn close_frame(&mut self) -> Option<Frame> {
        if self.frame.table.extents.is_empty() {
            return None;
        }
        self.proof.absorb(&self.frame.table);
        self.weight = 0;
        let next = Frame::following(Some(&self.frame.table));
        Some(std::mem::replace(&mut self.frame, next))
    }
}
