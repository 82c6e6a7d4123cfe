//! Disks of which some blocks are free: what the base calls free may hold anything where the delta is applied.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{apply, counted, diff_used, noise, sign_used};
use failback_delta::SigningKey;
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

/// Makes the hashes of a frame or trailer good again, which anyone can do who has the header's hash.
fn reseal(delta: &mut [u8], key: &[u8; 32], start: usize, len: usize, hash: usize) {
    delta[start + hash..start + hash + 32].fill(0);
    let digest = blake3::keyed_hash(key, &delta[start..start + len]);
    delta[start + hash..start + hash + 32].copy_from_slice(digest.as_bytes());
}

#[test]
fn a_signature_covers_what_no_root_can_tell() {
    // Made with: openssl genpkey -algorithm ed25519
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    let key = SigningKey::from_pem(pem).unwrap();
    let from = noise(1, 4 * BLOCK);
    let mut to = from.clone();
    to[BLOCK..2 * BLOCK].fill(0);
    let nothing_free = Some(&[false; 4][..]);
    for signer in [Some(&key), None] {
        let mut delta = diff_used(&sign_used(&from, 12, nothing_free), &to, nothing_free, signer);
        assert!(apply(&delta, &mut from.clone()).is_ok());
        // One frame with one extent of one block: one value before it, one for its old content, none for zeroes.
        let map = 128 + 4 + "/dev/sdb".len();
        let (frame, trailer) = (map + 64, map + 64 + 80 + 8 + 2 * 32);
        let hash = *delta[96..128].first_chunk::<32>().unwrap();
        // The block becomes zero; let it become free instead, so that the target keeps what it has.
        assert_eq!(delta[frame + 80 + 6], 2);
        delta[frame + 80 + 6] = 3;
        delta[trailer + 32..trailer + 40].fill(0);
        reseal(&mut delta, &hash, frame, trailer - frame, 48);
        let end = delta.len() - trailer;
        reseal(&mut delta, &hash, trailer, end, 184);
        let error = apply(&delta, &mut from.clone()).unwrap_err().to_string();
        assert!(error.contains("the map of free space says something else"), "{error}");
        // The map has to be changed too, from no run to one that starts at block 1.
        delta[map + 16] = 1;
        delta[map + 24] = 1;
        delta.splice(map + 64..map + 64, [0, 0, 0, 0, 1, 0, 0, 0]);
        reseal(&mut delta, &hash, map, 64 + 8, 32);
        let trailer = trailer + 8;
        let end = delta.len() - trailer;
        reseal(&mut delta, &hash, trailer, end, 184);
        let result = apply(&delta, &mut from.clone());
        // Nobody answers for an unsigned delta.
        let refused = result.as_ref().is_err_and(|error| error.to_string().contains("its signature is not good"));
        assert_eq!(refused, signer.is_some(), "{result:?}");
        assert!(refused || result.is_ok_and(|(_, trailer)| trailer.signed_by.is_none()));
    }
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
