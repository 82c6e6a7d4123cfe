//! Every root and every node against the plain hash of the same bytes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_hashtree::{Cover, Frontier, LeafHasher, Node, Root, RootBuilder, Shape, is_zero};
use failback_units::{BlockIndex, BlockRange, BlockSize, ByteCount};
use proptest::prelude::*;

fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("failback test content").finalize_xof().fill(&mut bytes);
    bytes
}

fn shape_of(bytes: &[u8], shift: u8) -> Shape {
    Shape::new(ByteCount::of_memory(bytes.len()), BlockSize::from_shift(shift).unwrap())
}

/// The root through leaves, hashed in pieces of `piece` blocks.
fn root_by_leaves(bytes: &[u8], shift: u8, piece: usize) -> Root {
    let shape = shape_of(bytes, shift);
    let (mut hasher, mut builder, mut values) = (LeafHasher::new(), RootBuilder::new(shape), Vec::new());
    let mut first = BlockIndex::ZERO;
    for part in bytes.chunks(piece << shift) {
        assert_eq!(builder.finish(), None);
        values.clear();
        hasher.hash(shape, first, part, &mut values);
        for value in &values {
            builder.push(Node::leaf(builder.next()), *value);
        }
        first = builder.next();
    }
    builder.finish().unwrap()
}

#[test]
fn lengths_at_every_edge() {
    let bytes = content((5 << 20) + 4097);
    for shift in [12_u8, 13, 16, 20] {
        let block = 1_usize << shift;
        let mut lengths = vec![0, 1, 511, 512, 1023, 1024, 1025, 2047, 2048, 2049, bytes.len()];
        for blocks in 1..=5 {
            let len = blocks * block;
            if len < bytes.len() {
                lengths.extend([len - 1025, len - 1, len, len + 1, (len + 1024).min(bytes.len())]);
            }
        }
        for len in lengths {
            let bytes = &bytes[..len];
            assert_eq!(root_by_leaves(bytes, shift, 3), Root::of(bytes), "{len} bytes in blocks of {block}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_length_any_block_any_piece(len in 0_usize..600_000, shift in 12_u8..=20, piece in 1_usize..7) {
        let bytes = content(len);
        prop_assert_eq!(root_by_leaves(&bytes, shift, piece), Root::of(&bytes));
    }

    /// A stretch of nodes collected by a frontier is the cover of that stretch, and any mixture of stretches gives the root.
    #[test]
    fn stretches_of_nodes_give_the_root(len in 4096_usize..400_000, cuts in prop::collection::vec(0_u64..100, 0..6)) {
        let bytes = content(len);
        let shape = shape_of(&bytes, 12);
        let (mut hasher, mut leaves) = (LeafHasher::new(), Vec::new());
        hasher.hash(shape, BlockIndex::ZERO, &bytes, &mut leaves);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(shape.blocks().get())).collect();
        cuts.extend([0, shape.blocks().get()]);
        cuts.sort_unstable();
        let mut builder = RootBuilder::new(shape);
        for pair in cuts.windows(2) {
            let stretch = BlockRange::between(BlockIndex::new(pair[0]), BlockIndex::new(pair[1])).unwrap();
            let mut frontier = Frontier::new(shape.top_level());
            let (from, to) = (usize::try_from(pair[0]).unwrap(), usize::try_from(pair[1]).unwrap());
            let half = from.midpoint(to);
            for (index, value) in (pair[0]..).zip(&leaves[from..half]) {
                frontier.push(Node::leaf(BlockIndex::new(index)), *value);
            }
            frontier.push_leaves(&mut hasher, BlockIndex::new(half as u64), &leaves[half..to]);
            let cover: Vec<_> = Cover::new(stretch, shape.top_level()).collect();
            prop_assert_eq!(frontier.nodes().iter().map(|(node, _)| *node).collect::<Vec<_>>(), cover);
            for (node, value) in frontier.take() {
                builder.push(node, value);
            }
        }
        prop_assert_eq!(builder.finish(), Some(Root::of(&bytes)));
    }

    /// Joining leaves and hashing zeroes as one node agree with hashing blocks one by one.
    #[test]
    fn joined_and_zero_nodes(first in 0_u64..1_000_000, level in 0_u8..6, shift in 12_u8..=14) {
        let first = BlockIndex::new((first >> level) << level);
        let block_size = BlockSize::from_shift(shift).unwrap();
        let shape = Shape::new(ByteCount::new(1 << 45).unwrap(), block_size);
        let zeroes = vec![0; block_size.in_memory() << level];
        let (mut hasher, mut leaves) = (LeafHasher::new(), Vec::new());
        hasher.hash(shape, first, &zeroes, &mut leaves);
        prop_assert_eq!(leaves.len(), 1 << level);
        prop_assert_eq!(hasher.join(&leaves), hasher.zero_node(shape, Node { first, level }));
    }

    #[test]
    fn zero_detection(len in 0_usize..3000, at in 0_usize..3000, bit in 0_u32..8) {
        let mut bytes = vec![0; len];
        prop_assert!(is_zero(&bytes));
        if at < len {
            bytes[at] = 1_u8 << bit;
            prop_assert!(!is_zero(&bytes));
        }
    }
}
