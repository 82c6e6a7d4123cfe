//! Disks of which some blocks are free: what the base calls free may hold anything where the delta is applied.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{apply, counted, diff_used, noise, sign_used};
use failback_hashtree::Root;
use proptest::prelude::*;

const BLOCK: usize = 4096;

/// Applies the delta to a disk whose free blocks hold something else than the base's, and looks at every used byte.
fn lead(from: &[u8], from_free: Option<&[bool]>, to: &[u8], to_free: Option<&[bool]>) {
    let delta = diff_used(&sign_used(from, 12, from_free), to, to_free, None);
    let mut disk = from.to_vec();
    for (block, _) in disk.chunks_mut(BLOCK).zip(from_free.unwrap_or_default()).filter(|(_, free)| **free) {
        block.fill(0xFE);
    }
    let (header, trailer) = apply(&delta, &mut disk).unwrap();
    assert_eq!(header.base_root, Root::of(&counted(from, 12, from_free)));
    assert_eq!(trailer.result_root, Root::of(&counted(to, 12, to_free)));
    assert_eq!(Root::of(&counted(&disk[..to.len()], 12, to_free)), trailer.result_root);
}

#[test]
fn what_was_free_becomes_zero() {
    let (from, mut to) = (noise(1, 8 * BLOCK), noise(1, 8 * BLOCK));
    to[2 * BLOCK..4 * BLOCK].fill(0);
    let free = |blocks: &[usize]| (0..8).map(|block| blocks.contains(&block)).collect::<Vec<_>>();
    lead(&from, Some(&free(&[2, 3, 6])), &to, Some(&free(&[6])));
    lead(&from, Some(&free(&[2, 3, 6])), &to, None);
    lead(&to, Some(&free(&[])), &to, Some(&free(&[2, 3])));
}

proptest! {
    #[test]
    fn any_maps(
        blocks in prop::collection::vec((0_u8..3, any::<bool>(), 0_u8..3, any::<bool>()), 0..60),
        from_cut in 0_usize..20_000,
        to_cut in 0_usize..20_000,
        whole in (any::<bool>(), any::<bool>()),
    ) {
        let disk = |sort: fn(&(u8, bool, u8, bool)) -> u8, cut: usize| {
            let mut disk: Vec<u8> = blocks.iter().flat_map(|block| match sort(block) {
                0 => vec![0; BLOCK],
                seed => noise(seed.into(), BLOCK),
            }).collect();
            disk.truncate(disk.len().saturating_sub(cut));
            disk
        };
        let from_free: Vec<_> = blocks.iter().map(|block| block.1).collect();
        let to_free: Vec<_> = blocks.iter().map(|block| block.3).collect();
        lead(
            &disk(|block| block.0, from_cut), (!whole.0).then_some(&from_free[..]),
            &disk(|block| block.2, to_cut), (!whole.1).then_some(&to_free[..]),
        );
    }
}
