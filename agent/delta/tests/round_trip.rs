//! Any base, any result: the delta between them proves both roots and leads from the one to the other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{apply, diff, noise, sign, signed_blocks};
use failback_delta::{DeltaReader, Item, Proof, SigningKey, Standing};
use failback_hashtree::{LeafHasher, Root};
use proptest::prelude::*;

/// A base of `len` bytes with some zero stretches.
fn base(len: usize) -> Vec<u8> {
    let mut disk = noise(1, len);
    for piece in disk.chunks_mut(70_000).step_by(3) {
        piece.fill(0);
    }
    disk
}

fn lead(from: &[u8], to: &[u8], shift: u8) {
    let delta = diff(&sign(from, shift), to, None);
    let mut disk = from.to_vec();
    let (header, trailer) = apply(&delta, &mut disk).unwrap();
    assert_eq!(header.base_root, Root::of(from));
    assert_eq!(trailer.result_root, Root::of(to));
    assert!(disk[..to.len()] == *to, "the patched disk is the result");
}

#[test]
fn edges_of_sizes() {
    let sizes = [0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 12_288, 16_384, 16_385, 32_768, 100_000];
    for from in sizes {
        for to in sizes {
            lead(&base(from), &noise(2, to), 12);
            // What lies within both is the same.
            let disk = base(100_000);
            lead(&disk[..from], &disk[..to], 12);
            lead(&vec![0; from], &vec![0; to], 12);
        }
    }
}

#[test]
fn a_frame_is_left_when_it_is_full() {
    let (from, to) = (noise(1, 5 << 20), noise(2, 5 << 20));
    let delta = diff(&sign(&from, 12), &to, None);
    let mut disk = from.clone();
    let (_, trailer) = apply(&delta, &mut disk).unwrap();
    assert_eq!(trailer.totals.frames, 5);
    assert_eq!(trailer.totals.extents, 5);
    assert_eq!(trailer.totals.data_bytes, 5 << 20);
    // For each frame one old and one new value of a node of 1 MiB, no more.
    assert!(delta.len() < (5 << 20) + 5 * (80 + 8 + 64) + 400);
}

#[test]
fn no_change_is_a_delta_too() {
    let disk = base(50_000);
    let delta = diff(&sign(&disk, 12), &disk, None);
    let mut patched = disk.clone();
    let (_, trailer) = apply(&delta, &mut patched).unwrap();
    assert_eq!(trailer.totals.frames, 0);
    assert_eq!(trailer.result_root, Root::of(&disk));
    assert!(patched == disk);
}

#[test]
fn standings() {
    let from = base(400_000);
    let mut to = from.clone();
    to[5000..90_000].copy_from_slice(&noise(3, 85_000));
    to[200_000..300_000].fill(0);
    let delta = diff(&sign(&from, 12), &to, None);
    let mut reader = DeltaReader::open(&delta[..]).unwrap();
    let (shapes, mut hasher) = (reader.header().shapes, LeafHasher::new());
    let mut extents = 0;
    while let Item::Frame(frame) = reader.next_item().unwrap() {
        for extent in &frame.table.extents {
            let start = usize::try_from(extent.old_bytes(&shapes).start().get()).unwrap();
            let len = usize::try_from(extent.old_bytes(&shapes).count().get()).unwrap();
            let mut stands = |content: &[u8]| frame.table.standing(&shapes, &mut hasher, extent, content);
            assert_eq!(stands(&from[start..]), Standing::Old);
            assert_eq!(stands(&to[start..]), Standing::New);
            let mut torn = to[start..start + len].to_vec();
            torn[..4096].copy_from_slice(&from[start..start + 4096]);
            let one_node = len == 4096;
            assert!(one_node || [Standing::Mixed, Standing::Other].contains(&stands(&torn)));
            torn[len - 1] ^= 1;
            assert_eq!(stands(&torn), Standing::Other);
            extents += 1;
        }
    }
    assert!(extents >= 2);
}

#[test]
fn signed_by_a_key() {
    // Made with: openssl genpkey -algorithm ed25519
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    let key = SigningKey::from_pem(pem).unwrap();
    let (from, to) = (base(20_000), noise(4, 20_000));
    let delta = diff(&sign(&from, 12), &to, Some(&key));
    let (_, trailer) = apply(&delta, &mut from.clone()).unwrap();
    // The public key of RFC 8410's example key.
    let public = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    let signer = trailer.signed_by.unwrap();
    assert_eq!(blake3::Hash::from(*signer.bytes()).to_hex().as_str(), public);
    let (_, unsigned) = apply(&diff(&sign(&from, 12), &to, None), &mut from.clone()).unwrap();
    assert_eq!(unsigned.signed_by, None);
    assert!(SigningKey::from_pem("nonsense").is_err());
}

#[test]
fn values_alone_prove_both_roots() {
    let from = base(3 << 20);
    let mut to = from.clone();
    for at in [0, 77_777, 1 << 20, (3 << 20) - 1] {
        to[at] ^= 1;
    }
    let delta = diff(&sign(&from, 12), &to, None);
    let mut reader = DeltaReader::open(&delta[..]).unwrap();
    let header = reader.header().clone();
    let mut proof = Proof::new(&header.shapes);
    loop {
        // The payloads stay packed: no content of the disk is looked at.
        match reader.next_item().unwrap() {
            Item::Frame(frame) => proof.absorb(&frame.table),
            Item::Trailer(trailer) => {
                let proven = proof.finish(&header, &trailer).unwrap();
                assert_eq!((proven.base, proven.result), (Root::of(&from), Root::of(&to)));
                break;
            }
        }
    }
}

fn edit() -> impl Strategy<Value = (usize, usize, Option<u64>)> {
    (0_usize..700_000, 1_usize..90_000, prop::option::of(any::<u64>()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_edits_and_sizes(
        from_len in 0_usize..600_000,
        to_len in prop::option::of(0_usize..600_000),
        shift in 12_u8..=17,
        edits in prop::collection::vec(edit(), 0..8),
    ) {
        let from = base(from_len);
        let mut to = from.clone();
        to.resize(to_len.unwrap_or(from_len), 0x55);
        for (at, len, content) in edits {
            let (at, end) = (at.min(to.len()), (at + len).min(to.len()));
            match content {
                Some(seed) => to[at..end].copy_from_slice(&noise(seed, end - at)),
                None => to[at..end].fill(0),
            }
        }
        lead(&from, &to, shift);
    }

    #[test]
    fn any_signature_is_read_back(len in 0_usize..900_000, shift in 12_u8..=20) {
        let disk = base(len);
        let signature = sign(&disk, shift);
        let (shape, root, blocks) = signed_blocks(&signature).unwrap();
        prop_assert_eq!(root, Root::of(&disk));
        prop_assert_eq!(blocks.len() as u64, shape.blocks().get());
    }
}
