//! Damaged and hostile files: refused with an error, or harmless; never a panic, never a wrong disk.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{apply, diff, noise, shape, sign, sign_used, signed_blocks};
use failback_delta::{Coverage, FormatError, Identity, PointKind, SignatureHeader, SignatureWriter, Uniform};
use failback_hashtree::{LeafHasher, Node, Root};
use failback_units::BlockIndex;

fn small_pair() -> (Vec<u8>, Vec<u8>) {
    let mut from = noise(1, 40_000);
    from[8192..16_384].fill(0);
    let mut to = from.clone();
    to[..4096].fill(b'x');
    to[20_480..24_576].fill(0);
    to[30_000] ^= 0xff;
    to.truncate(39_000);
    (from, to)
}

#[test]
fn every_flipped_bit_of_a_delta_is_noticed() {
    let (from, to) = small_pair();
    let delta = diff(&sign(&from, 12), &to, None);
    for at in 0..delta.len() {
        for bit in 0..8 {
            let mut damaged = delta.clone();
            damaged[at] ^= 1_u8 << bit;
            let mut disk = from.clone();
            assert!(apply(&damaged, &mut disk).is_err(), "byte {at} bit {bit}");
            assert!(disk == from);
        }
    }
    let mut disk = from.clone();
    apply(&delta, &mut disk).unwrap();
    assert_eq!(Root::of(&disk[..to.len()]), Root::of(&to));
}

#[test]
fn every_flipped_bit_of_a_signature_is_noticed() {
    let signature = sign(&small_pair().0, 12);
    for at in 0..signature.len() {
        for bit in 0..8 {
            let mut damaged = signature.clone();
            damaged[at] ^= 1_u8 << bit;
            assert!(signed_blocks(&damaged).is_err(), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    let (from, to) = small_pair();
    let signature = sign(&from, 12);
    let delta = diff(&signature, &to, None);
    for len in 0..delta.len() {
        let error = apply(&delta[..len], &mut from.clone()).unwrap_err();
        assert!(matches!(error, FormatError::Truncated(..)), "{len}: {error}");
    }
    for len in 0..signature.len() {
        assert!(signed_blocks(&signature[..len]).is_err(), "{len}");
    }
    let longer = [delta.as_slice(), &[0]].concat();
    assert!(apply(&longer, &mut from.clone()).is_err());
}

#[test]
fn what_is_unknown_is_named() {
    let (from, to) = small_pair();
    let signature = sign(&from, 12);
    let delta = diff(&signature, &to, None);
    let with = |bytes: &[u8], at: usize, value: u8| {
        let mut changed = bytes.to_vec();
        changed[at] = value;
        changed
    };
    let said = |result: Result<(), FormatError>| result.unwrap_err().to_string();
    let apply = |bytes: &[u8]| apply(bytes, &mut from.clone()).map(|_| ());
    assert!(said(apply(&with(&delta, 8, 2))).contains("version 2"));
    assert!(said(apply(&with(&delta, 12, 1))).contains("flags 0x1"));
    assert!(said(apply(&signature)).contains("not a failback delta"));
    assert!(said(signed_blocks(&with(&signature, 8, 9)).map(|_| ())).contains("version 9"));
    assert!(said(signed_blocks(&delta).map(|_| ())).contains("not a failback signature"));
    assert!(said(apply(b"")).contains("cut off"));
}

#[test]
fn frames_cannot_be_swapped_dropped_or_borrowed() {
    let from = noise(1, 3 << 20);
    let to = noise(2, 3 << 20);
    let delta = diff(&sign(&from, 12), &to, None);
    let other = diff(&sign(&from, 12), &noise(3, 3 << 20), None);
    let header = 128 + 4 + "/dev/sdb".len();
    // Incompressible content makes all frames alike in length.
    let frame = 80 + 8 + 2 * 32 + (1 << 20);
    let part = |delta: &[u8], number: usize| delta[header + number * frame..header + (number + 1) * frame].to_vec();
    let rest = &delta[header + 3 * frame..];
    let start = &delta[..header];
    let assembled = |frames: &[&Vec<u8>]| {
        let mut bytes = start.to_vec();
        for frame in frames {
            bytes.extend_from_slice(frame);
        }
        bytes.extend_from_slice(rest);
        bytes
    };
    let (a, b, c) = (part(&delta, 0), part(&delta, 1), part(&delta, 2));
    assert!(apply(&assembled(&[&a, &b, &c]), &mut from.clone()).is_ok());
    for wrong in [&[&b, &a, &c][..], &[&a, &c], &[&a, &b], &[&a, &b, &part(&other, 2)], &[&a, &b, &c, &c]] {
        assert!(apply(&assembled(wrong), &mut from.clone()).is_err());
    }
}

#[test]
fn nothing_is_free_where_all_of_the_disk_counts() {
    let disk = noise(1, 16_384);
    let mut signature = sign_used(&disk, 12, Some(&[false, true, false, false]));
    assert!(signed_blocks(&signature).is_ok());
    // The coverage `whole`, and every hash made good again: header, three pages with 1, 1 and 2 values, trailer.
    let header = 80 + 4 + "/dev/sda".len() + 4 + 16;
    signature[17] = 1;
    signature[48..80].fill(0);
    let key = blake3::hash(&signature[..header]);
    signature[48..80].copy_from_slice(key.as_bytes());
    let mut start = header;
    for (len, hash) in [(64 + 32, 32), (64 + 32, 32), (64 + 64, 32), (80, 48)] {
        signature[start + hash..start + hash + 32].fill(0);
        let digest = blake3::keyed_hash(key.as_bytes(), &signature[start..start + len]);
        signature[start + hash..start + hash + 32].copy_from_slice(digest.as_bytes());
        start += len;
    }
    assert_eq!(start, signature.len());
    let error = signed_blocks(&signature).unwrap_err().to_string();
    assert!(error.contains("page 1") && error.contains("free"), "{error}");
}

/// A signature states which stretches are zero, and a reader takes its word for it; the delta built from it shows the lie.
#[test]
fn a_signature_that_calls_data_zero_makes_no_delta_that_is_accepted() {
    let (base, claimed) = (noise(1, 16_384), vec![0; 16_384]);
    let shape = shape(&base, 12);
    let header = SignatureHeader {
        shape,
        coverage: Coverage::Whole,
        kind: PointKind::Crash,
        created: 0,
        identity: Identity::default(),
    };
    let mut writer = SignatureWriter::new(Vec::new(), &header).unwrap();
    let mut values = Vec::new();
    LeafHasher::new().hash(shape, BlockIndex::ZERO, &base, &mut values);
    for (index, value) in (0..).map(BlockIndex::new).zip(values) {
        writer.uniform(Uniform::Zero, Node::leaf(index), value).unwrap();
    }
    let (signature, root, _) = writer.finish().unwrap();
    assert_eq!(root, Root::of(&base));
    // Nothing seems to have changed, and yet the roots differ; then one block that did change.
    let mut changed = claimed.clone();
    changed[5000] = 1;
    for result in [claimed, changed] {
        let error = apply(&diff(&signature, &result, None), &mut base.clone()).unwrap_err();
        assert!(matches!(error, FormatError::Damaged { .. }), "{error}");
    }
}
