//! Both roots, recomputed from what a delta carries.

use super::{Content, FrameTable, KIND, Shapes, Trailer, changed_level};
use crate::{DeltaHeader, FormatError};
use failback_hashtree::{ChainingValue, Cover, LeafHasher, Root, RootBuilder, Shape};
use failback_units::{BlockIndex, BlockRange};

/// Recomputes the base root and the result root from the values in frames and trailer, in memory for one frame.
///
/// Unchanged blocks have the same value in both trees; changed ones have the values that the frame states for the old and
/// for the new content. So, once both roots are the stated ones: whoever has the base, and puts content with the stated new
/// values where content with the stated old values was, has the result. That rests on BLAKE3 alone.
#[derive(Debug)]
pub struct Proof {
    shapes: Shapes,
    base: RootBuilder,
    result: RootBuilder,
    at: BlockIndex,
    empty: bool,
    hasher: LeafHasher,
}

/// The two roots that follow from a delta's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The root of what the delta starts from.
    pub base: Root,
    /// The root of what it leads to.
    pub result: Root,
}

impl Proof {
    /// Nothing absorbed yet.
    #[must_use]
    pub fn new(shapes: &Shapes) -> Self {
        Self {
            shapes: *shapes,
            base: RootBuilder::new(shapes.base),
            result: RootBuilder::new(shapes.result),
            at: BlockIndex::ZERO,
            empty: true,
            hasher: LeafHasher::new(),
        }
    }

    /// Takes in a frame's table. Frames come in their order; the reader has checked that each follows the one before.
    pub fn absorb(&mut self, table: &FrameTable) {
        self.empty = false;
        for extent in &table.extents {
            self.unchanged(extent.blocks.start(), &table.values[extent.gap_values.clone()]);
            let changed = |builder: &mut RootBuilder, hasher: &mut LeafHasher, content, values: &[ChainingValue]| {
                Self::changed(builder, hasher, extent.blocks, content, values);
            };
            changed(&mut self.base, &mut self.hasher, extent.old, &table.values[extent.old_values.clone()]);
            changed(&mut self.result, &mut self.hasher, extent.new, &table.values[extent.new_values.clone()]);
            self.at = extent.blocks.end();
        }
    }

    /// The roots, given the values of the blocks behind the last frame; `None` if those do not complete both trees.
    pub(super) fn complete(mut self, values: &[ChainingValue]) -> Option<Proven> {
        if values.len() as u64 != self.rest().len() {
            return None;
        }
        self.unchanged(self.shapes.common_end().max(self.at), values);
        Some(Proven { base: self.base.finish()?, result: self.result.finish()? })
    }

    /// Checks the roots that header and trailer state.
    ///
    /// # Errors
    ///
    /// When the values do not lead to them.
    pub fn finish(self, header: &DeltaHeader, trailer: &Trailer) -> Result<Proven, FormatError> {
        let damaged = |why| Err(FormatError::damaged(KIND, "trailer", why));
        let stated = Proven { base: header.base_root, result: trailer.result_root };
        if self.empty {
            let same = stated.base == stated.result && self.shapes.base == self.shapes.result;
            if same && trailer.values.is_empty() {
                return Ok(stated);
            }
            return damaged("it has no frames, and yet base and result differ");
        }
        match self.complete(&trailer.values) {
            Some(proven) if proven == stated => Ok(proven),
            Some(proven) if proven.base != stated.base => damaged("the base root does not follow from the values"),
            Some(_) => damaged("the result root does not follow from the values"),
            None => damaged("values are missing or too many"),
        }
    }

    fn rest(&self) -> Cover {
        let rest = BlockRange::between(self.at, self.shapes.common_end()).unwrap_or_default();
        Cover::new(rest, self.shapes.gap_level())
    }

    fn unchanged(&mut self, until: BlockIndex, values: &[ChainingValue]) {
        let blocks = BlockRange::between(self.at, until).unwrap_or_default();
        for (node, value) in Cover::new(blocks, self.shapes.gap_level()).zip(values) {
            self.base.push(node, *value);
            self.result.push(node, *value);
        }
    }

    fn changed(
        builder: &mut RootBuilder,
        hasher: &mut LeafHasher,
        blocks: BlockRange,
        content: Content,
        values: &[ChainingValue],
    ) {
        let shape: Shape = builder.shape();
        let cover = Cover::new(blocks, changed_level(shape));
        match content {
            Content::Absent => {}
            Content::Data => cover.zip(values).for_each(|(node, value)| builder.push(node, *value)),
            // Behind the end of the disk.
            Content::Kept if blocks.start() >= shape.blocks().as_end() => {}
            Content::Zero | Content::Free | Content::Kept => {
                cover.for_each(|node| builder.push(node, hasher.zero_node(shape, node)));
            }
        }
    }
}
