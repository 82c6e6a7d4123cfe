//! The delta that undoes another: made from what it replaces, it leads back, also where no root tells what stood there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{apply, counted, diff_used, noise, sign_used};
use failback_delta::{
    BaseFree, Content, DeltaHeader, DeltaReader, DeltaWriter, Extent, FreeBlocks, Inverter, Item, PointKind, Proof, Was,
};
use failback_hashtree::{LeafHasher, Root};
use failback_units::{BlockCount, BlockIndex, BlockRange, ByteRange};
use proptest::prelude::*;

const BLOCK: usize = 4096;

fn bytes(disk: &[u8], range: ByteRange) -> &[u8] {
    &disk[usize::try_from(range.start().get()).unwrap()..usize::try_from(range.end().get()).unwrap()]
}

/// Whether something that is free or behind the end would be written over.
fn loses(extent: &Extent) -> bool {
    matches!(extent.old, Content::Free | Content::Absent) && extent.new.is_written()
}

/// The delta that leads back, given the disk before `delta` is applied to it. Blocks of `junk` are not kept.
fn inverse(delta: &[u8], disk: &[u8], junk: &[bool]) -> Vec<u8> {
    let (mut reader, mut base_free) = (DeltaReader::open(delta).unwrap(), FreeBlocks::NONE);
    let shapes = reader.header().shapes;
    let free = reader.free().clone();
    let mut walk = BaseFree::new(&free);
    let trailer = loop {
        match reader.next_item().unwrap() {
            Item::Frame(frame) => walk.absorb(&frame.table, &shapes),
            Item::Trailer(trailer) => break trailer,
        }
    };
    if reader.header().base_coverage == failback_delta::Coverage::Used {
        base_free = walk.finish(&shapes);
    }
    let header = reader.header();
    let back = DeltaHeader {
        shapes: shapes.swapped(),
        base_coverage: header.result_coverage,
        result_coverage: header.base_coverage,
        kind: PointKind::Crash,
        created: 0,
        id: [1; 16],
        base_root: trailer.result_root,
        identity: failback_delta::Identity::default(),
    };
    let mut writer = DeltaWriter::new(Vec::new(), back, &base_free).unwrap();
    let key = writer.key();
    let (mut inverter, mut proof) = (Inverter::new(&shapes), Proof::new(&shapes.swapped()));
    let mut reader = DeltaReader::open(delta).unwrap();
    let mut put = |frame: failback_delta::Frame, proof: &mut Proof| {
        proof.absorb(&frame.table);
        writer.frame(&frame.table, &frame.seal_in_pieces(&key, 1)).unwrap();
    };
    while let Item::Frame(frame) = reader.next_item().unwrap() {
        for extent in &frame.table.extents {
            let larger = shapes.larger();
            if loses(extent) {
                // In parts of one block where that is allowed, to see every seam.
                let (start, end) = (extent.blocks.start().get(), extent.blocks.end().get());
                let step = if extent.is_weighty() { end - start } else { 1 };
                for at in (start..end).step_by(usize::try_from(step).unwrap()) {
                    let part = BlockRange::new(BlockIndex::new(at), BlockCount::new(step)).unwrap();
                    let kept = bytes(disk, larger.bytes_of(part));
                    let is_junk = (at..at + step).all(|at| junk[usize::try_from(at).unwrap()]);
                    let was = if is_junk { Was::Stated(&[]) } else { Was::Kept(kept) };
                    if let Some(frame) = inverter.push(&frame.table, extent, part, was) {
                        put(frame, &mut proof);
                    }
                }
            } else {
                let old = bytes(disk, extent.old_bytes(&shapes));
                let was = Was::Stated(if extent.old.has_values() { old } else { &[] });
                if let Some(frame) = inverter.push(&frame.table, extent, extent.blocks, was) {
                    put(frame, &mut proof);
                }
            }
        }
    }
    if let Some(frame) = inverter.finish() {
        put(frame, &mut proof);
    }
    let proven = failback_delta::Proven { base: trailer.result_root, result: header.base_root };
    writer.finish(trailer.values(), proven, None).unwrap().0
}

/// There and back, and there once more by the inverse of the inverse.
fn there_and_back(from: &[u8], from_free: Option<&[bool]>, to: &[u8], to_free: Option<&[bool]>, junk: &[bool]) {
    let delta = diff_used(&sign_used(from, 12, from_free), to, to_free, None);
    let longest = from.len().max(to.len());
    // The disk is longer than both, and holds something wherever nothing counts.
    let mut before = from.to_vec();
    for (block, _) in before.chunks_mut(BLOCK).zip(from_free.unwrap_or_default()).filter(|(_, free)| **free) {
        let len = block.len();
        block.copy_from_slice(&noise(77, len));
    }
    before.extend(noise(78, longest - from.len()));
    let back = inverse(&delta, &before, junk);
    let mut disk = before.clone();
    let (_, there) = apply(&delta, &mut disk).unwrap();
    let after = disk.clone();
    let (header, trailer) = apply(&back, &mut disk).unwrap();
    assert_eq!(header.base_root, there.result_root);
    assert_eq!(trailer.result_root, Root::of(&counted(from, 12, from_free)));
    let ragged = from.len() / BLOCK;
    for (number, (now, then)) in disk.chunks(BLOCK).zip(before.chunks(BLOCK)).enumerate() {
        let is_junk = junk[number] && (from_free.is_some_and(|free| free[number]) || number * BLOCK >= from.len());
        // Of the base's last block, only what lies within the base is known.
        let counts = if number == ragged && from.len() < longest { from.len() % BLOCK } else { now.len() };
        assert!(is_junk || now[..counts] == then[..counts], "block {number}");
    }
    let again = inverse(&back, &after, junk);
    let (_, trailer) = apply(&again, &mut disk).unwrap();
    assert_eq!(trailer.result_root, there.result_root);
    assert_eq!(Root::of(&counted(&disk[..to.len()], 12, to_free)), there.result_root);
}

proptest! {
    #[test]
    fn any_disks(
        blocks in prop::collection::vec((0_u8..3, any::<bool>(), 0_u8..3, any::<bool>(), any::<bool>()), 0..60),
        from_cut in 0_usize..20_000,
        to_cut in 0_usize..20_000,
        whole in (any::<bool>(), any::<bool>()),
    ) {
        let disk = |seed: &dyn Fn(usize) -> u8, cut: usize| {
            let mut disk: Vec<u8> = (0..blocks.len()).flat_map(|number| match seed(number) {
                0 => vec![0; BLOCK],
                seed => noise(seed.into(), BLOCK),
            }).collect();
            disk.truncate(disk.len().saturating_sub(cut));
            disk
        };
        let from_free: Vec<_> = blocks.iter().map(|block| block.1).collect();
        let to_free: Vec<_> = blocks.iter().map(|block| block.3).collect();
        let junk: Vec<_> = blocks.iter().map(|block| block.4).collect();
        there_and_back(
            &disk(&|number| blocks[number].0, from_cut), (!whole.0).then_some(&from_free[..]),
            &disk(&|number| blocks[number].2, to_cut), (!whole.1).then_some(&to_free[..]),
            &junk,
        );
    }
}

#[test]
fn a_large_stretch_that_is_kept_takes_many_frames() {
    let blocks = 700;
    let from = noise(5, blocks * BLOCK);
    let mut to = vec![0; blocks * BLOCK];
    to[..BLOCK].copy_from_slice(&noise(6, BLOCK));
    let free = vec![true; blocks];
    there_and_back(&from, Some(&free), &to, Some(&vec![false; blocks]), &vec![false; blocks]);
}

#[test]
fn any_piece_of_a_payload_can_be_had_alone() {
    let from = noise(5, 300 * BLOCK);
    let mut to = from.clone();
    to[BLOCK * 3..BLOCK * 200].fill(7);
    to[BLOCK * 50..BLOCK * 90].copy_from_slice(&noise(9, 40 * BLOCK));
    let delta = diff_used(&sign_used(&to, 12, None), &from, None, None);
    let back = inverse(&delta, &to, &[false; 300]);
    let mut reader = DeltaReader::open(&back[..]).unwrap();
    let (header, key) = (reader.header().clone(), *reader.key());
    let mut start = usize::try_from(reader.position()).unwrap();
    let mut hasher = LeafHasher::new();
    let mut pieces_seen = 0;
    while let Item::Frame(frame) = reader.next_item().unwrap() {
        let end = usize::try_from(reader.position()).unwrap();
        let mut whole = vec![0; frame.table.data_len()];
        frame.open(&header.shapes, &mut hasher, &mut whole).unwrap();
        let bytes = &back[start..end];
        let again = failback_delta::SealedFrame::from_bytes(bytes, &header, &key, frame.table.index, frame.table.after);
        let pieces = again.unwrap().pieces();
        assert_eq!(pieces, frame.pieces());
        for number in 0..pieces.count() {
            let content = pieces.content(number);
            assert_eq!(pieces.holding(content.start), number);
            let mut into = vec![0; content.len()];
            assert!(pieces.unpack(number, &bytes[pieces.stored(number)], &mut into));
            assert!(into == whole[content]);
            pieces_seen += 1;
        }
        for (wrong, index, after) in [
            (&bytes[1..], frame.table.index, frame.table.after),
            (&bytes[..bytes.len() - 1], frame.table.index, frame.table.after),
            (bytes, frame.table.index + 1, frame.table.after),
            (bytes, frame.table.index, BlockIndex::new(frame.table.after.get() + 1)),
        ] {
            failback_delta::SealedFrame::from_bytes(wrong, &header, &key, index, after).unwrap_err();
        }
        start = end;
    }
    assert!(pieces_seen > 10, "{pieces_seen}");
    assert!(back.len() < 70 * BLOCK, "what compresses is compressed");
}
