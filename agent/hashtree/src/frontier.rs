//! Collecting the values of nodes from left to right in bounded memory.

use crate::{ChainingValue, Cover, LeafHasher, Node, Root, Shape};
use failback_units::{BlockCount, BlockIndex, BlockRange};

/// The fewest nodes, none above a highest level, that cover the blocks pushed so far.
///
/// Nodes are pushed from left to right without gaps. Two neighbours that are the children of one node become that node,
/// unless it would lie above the highest level. So the nodes left are those of [`Cover`](crate::Cover) for the same range
/// and level, and there are at most 2 × 63 besides those of the highest level.
#[derive(Clone, Debug)]
pub struct Frontier {
    highest: u8,
    nodes: Vec<(Node, ChainingValue)>,
}

impl Frontier {
    /// An empty frontier in which no node rises above level `highest`.
    #[must_use]
    pub const fn new(highest: u8) -> Self {
        Self { highest, nodes: Vec::new() }
    }

    /// The highest level of a node here.
    #[must_use]
    pub const fn highest(&self) -> u8 {
        self.highest
    }

    /// Adds the next node to the right.
    ///
    /// # Panics
    ///
    /// When the node does not follow the last one, or lies above the highest level: the caller's arithmetic is wrong.
    pub fn push(&mut self, mut node: Node, mut value: ChainingValue) {
        assert!(node.level <= self.highest, "a node above the highest level");
        if let Some((last, _)) = self.nodes.last() {
            assert_eq!(last.end(), Some(node.first), "nodes are pushed without gaps");
        }
        while node.level < self.highest
            && node.first.get() & (1 << node.level) != 0
            && let Some((left, left_value)) = self.nodes.pop_if(|(left, _)| left.level == node.level)
        {
            value = ChainingValue::parent(&left_value, &value);
            node = Node { first: left.first, level: node.level + 1 };
        }
        self.nodes.push((node, value));
    }

    /// Adds the values of neighbouring blocks, joining what belongs together many side by side.
    ///
    /// # Panics
    ///
    /// As [`push`](Self::push) does.
    pub fn push_leaves(&mut self, hasher: &mut LeafHasher, first: BlockIndex, values: &[ChainingValue]) {
        for (node, value) in joined(hasher, first, values, self.highest) {
            self.push(node, value);
        }
    }

    /// The nodes so far, from left to right.
    #[must_use]
    pub fn nodes(&self) -> &[(Node, ChainingValue)] {
        &self.nodes
    }

    /// Hands out the nodes so far and begins anew, anywhere.
    pub fn take(&mut self) -> std::vec::Drain<'_, (Node, ChainingValue)> {
        self.nodes.drain(..)
    }
}

/// The nodes, none above level `highest`, that cover the blocks from `first` on whose values are `values`.
fn joined<'a>(
    hasher: &'a mut LeafHasher,
    first: BlockIndex,
    values: &'a [ChainingValue],
    highest: u8,
) -> impl Iterator<Item = (Node, ChainingValue)> + 'a {
    let range = BlockRange::new(first, BlockCount::new(values.len() as u64)).expect("blocks in memory have numbers");
    let mut rest = values;
    Cover::new(range, highest).map(move |node| {
        let (below, right) = rest.split_at(1 << node.level);
        rest = right;
        (node, hasher.join(below))
    })
}

/// Computes the root of a whole tree from the values of nodes that cover it from left to right.
#[derive(Clone, Debug)]
pub struct RootBuilder {
    shape: Shape,
    frontier: Frontier,
    next: BlockIndex,
}

impl RootBuilder {
    /// A builder for the tree of this shape, with nothing pushed yet.
    #[must_use]
    pub const fn new(shape: Shape) -> Self {
        Self { shape, frontier: Frontier::new(shape.top_level()), next: BlockIndex::ZERO }
    }

    /// The tree's shape.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The first block whose value is still missing.
    #[must_use]
    pub const fn next(&self) -> BlockIndex {
        self.next
    }

    /// Adds the value of the next node.
    ///
    /// # Panics
    ///
    /// When the node does not start at [`next`](Self::next), reaches behind the tree's end or covers the whole of it.
    pub fn push(&mut self, node: Node, value: ChainingValue) {
        assert_eq!(node.first, self.next, "nodes are pushed without gaps");
        let end = node.end().filter(|end| *end <= self.shape.blocks().as_end());
        self.next = end.expect("a node lies within its tree");
        self.frontier.push(node, value);
    }

    /// Adds the values of the next blocks.
    ///
    /// # Panics
    ///
    /// As [`push`](Self::push) does.
    pub fn push_leaves(&mut self, hasher: &mut LeafHasher, values: &[ChainingValue]) {
        for (node, value) in joined(hasher, self.next, values, self.frontier.highest()) {
            self.push(node, value);
        }
    }

    /// The root, once every block is covered; `None` while some are missing.
    #[must_use]
    pub fn finish(&self) -> Option<Root> {
        if self.next != self.shape.blocks().as_end() {
            return None;
        }
        let mut rest = self.frontier.nodes().iter().rev().map(|(_, value)| *value);
        let Some(mut right) = rest.next() else {
            return Some(Root::of_nothing());
        };
        let Some(mut left) = rest.next() else {
            // The only leaf of a tree of one block is the root itself.
            return Some(Root(right.0));
        };
        for further in rest {
            right = ChainingValue::parent(&left, &right);
            left = further;
        }
        Some(Root::above(&left, &right))
    }
}
