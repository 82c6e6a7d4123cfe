//! The delta from one point to another, made from the links between them: for export, and to take out a point in the middle.
//!
//! Which blocks may differ follows from the extents of the links; their content is read at both points, and compared. The
//! values of all other blocks stand in the links: what no link changes has one value at every point between. So the cost
//! follows the changes, and both roots are proven on the way.

use crate::view::overlay::{Run, Told, stacked};
use crate::{IndexExtent, LinkError, LinkReader};
use failback_blockio::{Buffer, Device, IoError, Operation, Queue};
use failback_delta::{After, Before, Content, DeltaBuilder, DeltaReader, Frame, FrameTable, Item, Proven, Shapes};
use failback_hashtree::{ChainingValue, Cover, LeafHasher, Node, Shape, is_zero};
use failback_units::{BlockCount, BlockIndex, BlockRange, ByteCount};
use std::collections::VecDeque;

/// What is read at one point at a time, in bytes.
const PIECE: u64 = 1 << 20;

/// What is read ahead of all links together, in bytes: they are read side by side, and a long chain has hundreds.
const READ_AHEAD: usize = 16 << 20;
/// What is read ahead of one of them, at least and at most.
const READ_AHEAD_LEAST: usize = 64 << 10;
const READ_AHEAD_MOST: usize = 1 << 20;

/// Why there is no delta between two points.
#[derive(Debug, thiserror::Error)]
pub enum BetweenError {
    /// A link cannot be used.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The disk cannot be read.
    #[error(transparent)]
    Disk(#[from] IoError),
    /// The links were made from deltas with different block sizes.
    #[error("the points between were made with different block sizes, so there is no one delta over them")]
    BlockSizes,
    /// A link keeps bytes behind the ends of both points.
    #[error("what a disk held behind the ends of both points would be lost")]
    Behind,
    /// The values of the links do not make a tree.
    #[error("the deltas between the points do not fit together: one of them is not what it should be")]
    Disagree,
}

/// A link on the way from one point to the other.
pub struct Leg<'a> {
    /// The link.
    pub link: &'a LinkReader,
    /// Whether its delta leads the way that is gone; else it leads back.
    pub along: bool,
}

impl Leg<'_> {
    /// The trees at the start and at the end of the leg.
    fn shapes(&self) -> Shapes {
        let shapes = self.link.header().shapes;
        if self.along { shapes } else { shapes.swapped() }
    }

    /// What its extents say of the blocks at the start of the leg, or at its end.
    fn runs(&self, at_start: bool) -> Vec<Run<Content>> {
        let extents = self.link.index().extents.iter();
        let run = |extent: &IndexExtent| Run {
            start: extent.blocks.start().get(),
            end: extent.blocks.end().get(),
            told: if at_start == self.along { extent.old } else { extent.new },
        };
        extents.map(run).collect()
    }
}

impl Told for Content {
    fn behind(self, _: u64) -> Self {
        self
    }
}

/// The two shapes of a delta over these legs.
///
/// # Errors
///
/// When the block sizes differ, or what is kept lies behind both ends.
///
/// # Panics
///
/// When there is no leg.
pub fn shapes_over(legs: &[Leg<'_>]) -> Result<Shapes, BetweenError> {
    let (first, last) = (legs.first().expect("a leg"), legs.last().expect("a leg"));
    let shapes = Shapes { base: first.shapes().base, result: last.shapes().result };
    let size = shapes.block_size();
    let same = legs.iter().all(|leg| leg.shapes().block_size() == size);
    if !same {
        return Err(BetweenError::BlockSizes);
    }
    let mut extents = legs.iter().flat_map(|leg| &leg.link.index().extents);
    let is_kept = |extent: &IndexExtent| extent.old == Content::Kept || extent.new == Content::Kept;
    let behind = extents.any(|extent| is_kept(extent) && extent.blocks.end() > shapes.end());
    if behind { Err(BetweenError::Behind) } else { Ok(shapes) }
}

/// How far the disk has to be read to compare the two ends of these legs: what is kept can lie behind the end of a point.
///
/// # Panics
///
/// When there is no leg.
#[must_use]
pub fn reach_of(legs: &[Leg<'_>]) -> ByteCount {
    legs.iter().map(|leg| leg.shapes().larger().size()).max().expect("a leg")
}

/// What becomes of bytes that no root counts: those in free space, and those behind the end of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncounted {
    /// What a link would bring back, the delta brings back: for a link of the same disk.
    BroughtBack,
    /// The delta says nothing of them: it is for any disk that has the content of the point.
    LeftAlone,
}

/// Makes the frames of the delta over these legs, from the point `from` to the point `to`, both of which can be read as far as
/// [`reach_of`] says. Returns the values for its trailer and both roots, which the caller compares with those of the points.
///
/// # Errors
///
/// When a link or the disk cannot be read, or the links do not fit together; and what `sink` says.
pub fn between<E: From<BetweenError>>(
    legs: &[Leg<'_>],
    from: &dyn Device,
    to: &dyn Device,
    uncounted: Uncounted,
    mut sink: impl FnMut(Frame) -> Result<(), E>,
) -> Result<(Vec<ChainingValue>, Proven), E> {
    let shapes = shapes_over(legs)?;
    // A link that changes nothing has no values either.
    let (still, legs): (Vec<_>, Vec<_>) = legs.iter().partition(|leg| leg.link.index().extents.is_empty());
    if let (Some(leg), []) = (still.first(), &legs[..]) {
        let root = leg.link.header().base_root;
        return Ok((Vec::new(), Proven { base: root, result: root }));
    }
    let before = stacked(legs.iter().map(|leg| leg.runs(true)).collect());
    let after = stacked(legs.iter().rev().map(|leg| leg.runs(false)).collect());
    let read_ahead = (READ_AHEAD / legs.len()).clamp(READ_AHEAD_LEAST, READ_AHEAD_MOST);
    let cursors = legs.iter().map(|leg| GapCursor::new(leg.link, read_ahead));
    let cursors = cursors.collect::<Result<Vec<_>, _>>().map_err(BetweenError::from)?;
    let mut walk = Walk {
        shapes,
        builder: DeltaBuilder::new(&shapes),
        hasher: LeafHasher::new(),
        cursors,
        from: Side { shape: shapes.base, queue: from.queue(1).map_err(BetweenError::from)? },
        to: Side { shape: shapes.result, queue: to.queue(1).map_err(BetweenError::from)? },
    };
    let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
    // Both lists cover the same blocks; where either changes, a new part begins.
    while let (Some(old), Some(new)) = (before.peek().copied(), after.peek().copied()) {
        let (start, end) = (old.start.max(new.start), old.end.min(new.end));
        let part = BlockRange::between(BlockIndex::new(start), BlockIndex::new(end.min(shapes.end().get())));
        if let Some(part) = part.filter(|part| !part.is_empty()) {
            walk.unchanged(part.start())?;
            let (old, new) = match uncounted {
                Uncounted::BroughtBack => (old.told, new.told),
                Uncounted::LeftAlone => (counted(old.told, part, shapes.base), counted(new.told, part, shapes.result)),
            };
            walk.changed(part, old, new, &mut sink)?;
        }
        if old.end == end {
            before.next();
        }
        if new.end == end {
            after.next();
        }
    }
    walk.unchanged(shapes.end())?;
    let (last, values, proven) = walk.builder.finish();
    if let Some(frame) = last {
        sink(frame)?;
    }
    Ok((values, proven))
}

/// What some blocks are to whoever does not know what lies where no root counts.
fn counted(content: Content, blocks: BlockRange, shape: Shape) -> Content {
    match content {
        Content::Kept if blocks.start() >= shape.blocks().as_end() => Content::Absent,
        Content::Kept => Content::Free,
        content => content,
    }
}

struct Side<'a> {
    shape: Shape,
    queue: Box<dyn Queue + 'a>,
}

impl Side<'_> {
    /// What stands at some blocks, if it is known by its values.
    fn content(&mut self, shape: Shape, blocks: BlockRange, content: Content) -> Result<Option<Buffer>, BetweenError> {
        if content.has_values() { self.read(shape, blocks).map(Some) } else { Ok(None) }
    }

    fn read(&mut self, shape: Shape, blocks: BlockRange) -> Result<Buffer, BetweenError> {
        let bytes = shape.bytes_of(blocks);
        let buffer = Buffer::zeroed(bytes.count().to_usize().expect("a piece fits in memory"));
        self.queue.submit(0, Operation::Read { at: bytes.start(), into: buffer });
        let completion = self.queue.wait().expect("a read is under way");
        completion.result?;
        Ok(completion.buffer.expect("a read hands back its buffer"))
    }
}

struct Walk<'a> {
    shapes: Shapes,
    builder: DeltaBuilder,
    hasher: LeafHasher,
    cursors: Vec<GapCursor<'a>>,
    from: Side<'a>,
    to: Side<'a>,
}

impl Walk<'_> {
    /// Tells the builder of the blocks up to `until`, which no link changes.
    fn unchanged(&mut self, until: BlockIndex) -> Result<(), BetweenError> {
        let highest = self.shapes.gap_level();
        while self.builder.next() < until {
            let at = self.builder.next();
            let mut found = None;
            for cursor in &mut self.cursors {
                let node = cursor
                    .at(at)?
                    .filter(|(node, _)| node.level <= highest && node.end().is_some_and(|end| end <= until));
                found = found.or(node);
            }
            // Each node of the fewest that cover the gap ends where one of the links has it end.
            let (node, value) = found.ok_or(BetweenError::Disagree)?;
            self.builder.unchanged(node, value);
        }
        Ok(())
    }

    /// Compares blocks that a link changes, and tells the builder what they were and become.
    fn changed<E: From<BetweenError>>(
        &mut self,
        blocks: BlockRange,
        old: Content,
        new: Content,
        sink: &mut impl FnMut(Frame) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut at, per_piece) = (blocks.start(), PIECE >> self.shapes.block_size().shift());
        while at < blocks.end() {
            let next = BlockIndex::new(at.get() + per_piece).min(blocks.end());
            let piece = BlockRange::between(at, next).unwrap_or_default();
            at = next;
            let (larger, base, result) = (self.shapes.larger(), self.from.shape, self.to.shape);
            let by = |content, side| if content == Content::Kept { larger } else { side };
            let was = self.from.content(by(old, base), piece, old)?;
            let is = self.to.content(by(new, result), piece, new)?;
            let (mut old_values, mut new_values) = (Vec::new(), Vec::new());
            if let Some(was) = &was {
                self.hasher.hash(by(old, base), piece.start(), was, &mut old_values);
            }
            if let Some(is) = &is {
                self.hasher.hash(by(new, result), piece.start(), is, &mut new_values);
            }
            for number in 0..usize::try_from(piece.count().get()).expect("a piece fits in memory") {
                let index = BlockIndex::new(piece.start().get() + number as u64);
                let block = BlockRange::new(index, BlockCount::new(1)).unwrap_or_default();
                let content = is.as_deref().map(|is| part_of(by(new, result), piece, block, is));
                let before = match old {
                    Content::Data => Before::Data(old_values[number]),
                    Content::Kept => Before::Kept(old_values[number]),
                    Content::Zero => Before::Zero,
                    Content::Free => Before::Free,
                    Content::Absent => Before::Absent,
                };
                let after = match (new, content) {
                    (Content::Data, Some(content)) => After::Data(content, new_values[number]),
                    (Content::Kept, Some(content)) => After::Kept(content, new_values[number]),
                    (Content::Zero, _) => After::Zero,
                    (Content::Free, _) => After::Free,
                    _ => After::Absent,
                };
                if index < self.shapes.common_end() && is_same(before, after, content) {
                    let value = match before {
                        Before::Data(value) => value,
                        _ => self.hasher.zero_node(self.shapes.base, Node::leaf(index)),
                    };
                    self.builder.unchanged_blocks(&mut self.hasher, &[value]);
                } else if let Some(frame) = self.builder.changed(before, after) {
                    sink(frame)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a block is the same before and after, so that nothing is to be done.
fn is_same(before: Before, after: After<'_>, content: Option<&[u8]>) -> bool {
    match (before, after) {
        (Before::Data(old), After::Data(_, new)) | (Before::Kept(old), After::Kept(_, new)) => old == new,
        (Before::Zero, After::Zero) | (Before::Free, After::Free) => true,
        (Before::Zero, After::Data(..)) => content.is_some_and(is_zero),
        _ => false,
    }
}

/// The bytes of one block among those of some.
fn part_of(shape: Shape, blocks: BlockRange, block: BlockRange, bytes: &[u8]) -> &[u8] {
    let (all, part) = (shape.bytes_of(blocks), shape.bytes_of(block));
    let place = |at: failback_units::ByteOffset| {
        at.distance_from(all.start()).and_then(failback_units::ByteCount::to_usize).unwrap_or(0).min(bytes.len())
    };
    &bytes[place(part.start())..place(part.end())]
}

/// The values of what a delta does not change, read from left to right.
struct GapCursor<'a> {
    reader: Option<DeltaReader<crate::link::Stream>>,
    link: &'a LinkReader,
    nodes: VecDeque<(Node, ChainingValue)>,
    end: BlockIndex,
}

impl<'a> GapCursor<'a> {
    fn new(link: &'a LinkReader, read_ahead: usize) -> Result<Self, LinkError> {
        Ok(Self { reader: Some(link.stream(read_ahead)?), link, nodes: VecDeque::new(), end: BlockIndex::ZERO })
    }

    /// The node that starts at a block, if one does. Asked from left to right.
    fn at(&mut self, at: BlockIndex) -> Result<Option<(Node, ChainingValue)>, LinkError> {
        loop {
            while self.nodes.front().is_some_and(|(node, _)| node.first < at) {
                self.nodes.pop_front();
            }
            if let Some(front) = self.nodes.front() {
                return Ok((front.0.first == at).then_some(*front));
            }
            if !self.read_on()? {
                return Ok(None);
            }
        }
    }

    /// Takes in the gaps of the next frame, or the one behind the last; `false` at the end.
    fn read_on(&mut self) -> Result<bool, LinkError> {
        let Some(reader) = &mut self.reader else { return Ok(false) };
        let shapes = self.link.header().shapes;
        let level = shapes.gap_level();
        match reader.next_item().map_err(|error| self.link.failed(error))? {
            Item::Frame(frame) => {
                let table: &FrameTable = &frame.table;
                for (gap, values) in table.gaps() {
                    self.nodes.extend(Cover::new(gap, level).zip(values.iter().copied()));
                }
                self.end = table.end();
            }
            Item::Trailer(trailer) => {
                let (gap, values) = trailer.gap(&shapes, self.end);
                self.nodes.extend(Cover::new(gap, level).zip(values.iter().copied()));
                self.reader = None;
            }
        }
        Ok(true)
    }
}
