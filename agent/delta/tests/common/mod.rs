//! Disks in memory, signed, compared and patched with the crate's own parts.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several tests; a test fails by panicking"
)]

use failback_delta::{
    After, Before, Content, Coverage, DeltaBuilder, DeltaHeader, DeltaReader, DeltaWriter, FormatError, FreeBlocks,
    Identity, Item, PointKind, Proof, RunContent, Shapes, SignatureHeader, SignatureReader, SignatureWriter,
    SigningKey, Standing, Trailer, Uniform,
};
use failback_hashtree::{ChainingValue, Cover, LeafHasher, Node, Root, Shape, is_zero};
use failback_units::{BlockCount, BlockIndex, BlockRange, BlockSize, ByteCount};
use std::io::Cursor;

/// Bytes that no compressor makes smaller, the same on every machine.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("failback test noise").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn shape(disk: &[u8], shift: u8) -> Shape {
    Shape::new(ByteCount::of_memory(disk.len()), BlockSize::from_shift(shift).unwrap())
}

/// The disk as it counts where these blocks are free; as it is where no map is given.
pub fn counted(disk: &[u8], shift: u8, free: Option<&[bool]>) -> Vec<u8> {
    let mut counted = disk.to_vec();
    for (block, _) in counted.chunks_mut(1 << shift).zip(free.unwrap_or_default()).filter(|(_, free)| **free) {
        block.fill(0);
    }
    counted
}

const fn coverage(free: Option<&[bool]>) -> Coverage {
    if free.is_some() { Coverage::Used } else { Coverage::Whole }
}

/// A signature of all of a disk.
pub fn sign(disk: &[u8], shift: u8) -> Vec<u8> {
    sign_used(disk, shift, None)
}

/// A signature in which aligned stretches of 4 zero blocks are kept as such, and free blocks as free.
pub fn sign_used(disk: &[u8], shift: u8, free: Option<&[bool]>) -> Vec<u8> {
    let shape = shape(disk, shift);
    let disk = &counted(disk, shift, free)[..];
    let header = SignatureHeader {
        shape,
        coverage: coverage(free),
        kind: PointKind::Crash,
        created: 1_700_000_000,
        identity: Identity { name: Some("/dev/sda".into()), scsi_uuid: Some([0x60; 16]), ..Identity::default() },
    };
    let is_free = |index: BlockIndex| free.is_some_and(|free| free[usize::try_from(index.get()).unwrap()]);
    let mut writer = SignatureWriter::new(Vec::new(), &header).unwrap();
    let mut hasher = LeafHasher::new();
    for (number, piece) in disk.chunks(4 << shift).enumerate() {
        let first = BlockIndex::new(number as u64 * 4);
        let count = shape.block_size().blocks_in(ByteCount::of_memory(piece.len()));
        let mut values = Vec::new();
        hasher.hash(shape, first, piece, &mut values);
        if free.is_some() {
            for (index, value) in (first.get()..).map(BlockIndex::new).zip(values) {
                if is_free(index) {
                    writer.uniform(Uniform::Free, Node::leaf(index), value).unwrap();
                } else {
                    writer.blocks(&[value], None).unwrap();
                }
            }
        } else if is_zero(piece) {
            for node in Cover::new(BlockRange::new(first, count).unwrap(), shape.top_level()) {
                let value = hasher.zero_node(shape, node);
                writer.uniform(Uniform::Zero, node, value).unwrap();
            }
        } else {
            writer.blocks(&values, None).unwrap();
        }
    }
    let (bytes, root, len) = writer.finish().unwrap();
    assert_eq!(root, Root::of(disk));
    assert_eq!(len, bytes.len() as u64);
    bytes
}

/// What a signature knows of each block.
pub fn signed_blocks(signature: &[u8]) -> Result<(Shape, Root, Vec<Before>), FormatError> {
    let mut reader = SignatureReader::open(Cursor::new(signature))?;
    let mut blocks = Vec::new();
    while let Some(run) = reader.next_run(BlockCount::new(7))? {
        match run.content {
            RunContent::Values(values) => blocks.extend(values.iter().map(|value| Before::Data(*value))),
            RunContent::Uniform(Uniform::Zero) => {
                blocks.extend((0..run.blocks.count().get()).map(|_| Before::Zero));
            }
            RunContent::Uniform(Uniform::Free) => {
                blocks.extend((0..run.blocks.count().get()).map(|_| Before::Free));
            }
        }
    }
    Ok((reader.header().shape, reader.root(), blocks))
}

pub fn diff(signature: &[u8], result: &[u8], signer: Option<&SigningKey>) -> Vec<u8> {
    diff_used(signature, result, None, signer)
}

/// The delta from the signed disk to this one, of which these blocks are free.
pub fn diff_used(signature: &[u8], result: &[u8], free: Option<&[bool]>, signer: Option<&SigningKey>) -> Vec<u8> {
    let (base_shape, base_root, base) = signed_blocks(signature).unwrap();
    let base_coverage = SignatureReader::open(Cursor::new(signature)).unwrap().header().coverage;
    let result_shape = shape(result, base_shape.block_size().shift());
    let result = &counted(result, base_shape.block_size().shift(), free)[..];
    let shapes = Shapes { base: base_shape, result: result_shape };
    let header = DeltaHeader {
        shapes,
        base_coverage,
        result_coverage: coverage(free),
        kind: PointKind::Filesystem,
        created: 1_700_000_001,
        id: [0xAB; 16],
        base_root,
        identity: Identity { name: Some("/dev/sdb".into()), ..Identity::default() },
    };
    let mut hasher = LeafHasher::new();
    let mut leaves = Vec::new();
    hasher.hash(result_shape, BlockIndex::ZERO, result, &mut leaves);
    let mut builder = DeltaBuilder::new(&shapes);
    let mut map = FreeBlocks::NONE;
    for (index, _) in
        free.unwrap_or_default().iter().enumerate().filter(|(index, free)| **free && *index < leaves.len())
    {
        map.push(BlockRange::new(BlockIndex::new(index as u64), BlockCount::new(1)).unwrap());
    }
    let mut writer = DeltaWriter::new(Vec::new(), header, &map).unwrap();
    let key = writer.key();
    for index in 0..shapes.end().get() {
        let number = usize::try_from(index).unwrap();
        let before = base.get(number).copied().unwrap_or(Before::Absent);
        let blocks = BlockRange::new(BlockIndex::new(index), BlockCount::new(1)).unwrap();
        let bytes = result_shape.bytes_of(blocks);
        let content =
            &result[usize::try_from(bytes.start().get()).unwrap()..usize::try_from(bytes.end().get()).unwrap()];
        let after = match leaves.get(number) {
            None => After::Absent,
            Some(_) if free.is_some_and(|free| free[number]) => After::Free,
            Some(_) if is_zero(content) => After::Zero,
            Some(value) => After::Data(content, *value),
        };
        let same = BlockIndex::new(index) < shapes.common_end()
            && match (before, after) {
                (Before::Data(old), After::Data(..) | After::Zero) => old == leaves[number],
                (Before::Zero, After::Zero) | (Before::Free, After::Free) => true,
                _ => false,
            };
        if same {
            builder.unchanged_blocks(&mut hasher, &[leaves[number]]);
        } else if let Some(frame) = builder.changed(before, after) {
            writer.frame(&frame.table, &frame.seal(&key, 3)).unwrap();
        }
    }
    let (last, values, proven): (_, Vec<ChainingValue>, _) = builder.finish();
    if let Some(frame) = last {
        writer.frame(&frame.table, &frame.seal(&key, 3)).unwrap();
    }
    assert_eq!(proven.result, Root::of(result));
    let (bytes, totals, len) = writer.finish(&values, proven, signer).unwrap();
    assert_eq!(len, bytes.len() as u64);
    assert!(totals.frames != 0 || proven.base == proven.result);
    bytes
}

/// Reads a delta to its end and applies it to `disk`, which is as long as the result or longer.
///
/// # Panics
///
/// When a check that must hold of any delta that passed the others does not.
pub fn apply(delta: &[u8], disk: &mut Vec<u8>) -> Result<(DeltaHeader, Trailer), FormatError> {
    let mut reader = DeltaReader::open(delta)?;
    let header = reader.header().clone();
    let shapes = header.shapes;
    let mut proof = Proof::new(&shapes);
    let mut hasher = LeafHasher::new();
    let mut patched = disk.clone();
    let reach = usize::try_from(shapes.result.size().max(shapes.base.size()).get()).unwrap();
    if patched.len() < reach {
        patched.resize(reach, 0xEE);
    }
    loop {
        match reader.next_item()? {
            Item::Frame(frame) => {
                proof.absorb(&frame.table);
                let mut data = vec![0xAA; frame.table.data_len()];
                frame.open(&shapes, &mut hasher, &mut data)?;
                for extent in &frame.table.extents {
                    let bytes = extent.new_bytes(&shapes);
                    let (start, end) =
                        (usize::try_from(bytes.start().get()).unwrap(), usize::try_from(bytes.end().get()).unwrap());
                    match extent.new {
                        Content::Data | Content::Kept => {
                            patched[start..end].copy_from_slice(&data[extent.data.clone()]);
                        }
                        Content::Zero => patched[start..end].fill(0),
                        Content::Free | Content::Absent => continue,
                    }
                    let standing = frame.table.standing(&shapes, &mut hasher, extent, &patched[start..]);
                    assert_eq!(standing, Standing::New);
                }
            }
            Item::Trailer(trailer) => {
                let proven = proof.finish(&header, &trailer)?;
                assert_eq!(proven.result, trailer.result_root);
                *disk = patched;
                return Ok((header, trailer));
            }
        }
    }
}
