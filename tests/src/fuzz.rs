//! What must hold of any bytes that claim to be a signature or a delta.
//!
//! The same functions are called by the fuzzer in `tests/fuzz`, which searches, and by a test on the stable toolchain,
//! which repeats what was found. They panic where something does not hold, and otherwise say whether the bytes were
//! accepted.
//!
//! To search, from the top of the repository, with what is found kept out of the repository:
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz delta_resealed /tmp/found tests/fuzz/corpus/delta_resealed`

use failback_delta::{
    Content, Coverage, DeltaReader, Extent, Frame, Item, MAX_FRAME_BYTES, Proof, RunContent, SealedFrame, Shapes,
    SignatureHeader, SignatureReader, SignatureWriter, Standing, Uniform,
};
use failback_hashtree::{ChainingValue, Cover, LeafHasher, Root};
use failback_units::{BlockCount, BlockIndex, BlockRange};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Cursor, Read};
use std::rc::Rc;

/// A few bytes can claim exabytes of zeroes, whose hashing is work in proportion. What depends on their values is not
/// looked at above this size: a caller that has a disk knows its size before it begins.
pub const ZEROES_HASHED: u64 = 16 << 20;

/// Signatures, as they are and with their hashes repaired. Returns whether either was accepted.
#[must_use]
pub fn signature(bytes: &[u8]) -> bool {
    let mut resealed = bytes.to_vec();
    reseal_signature(&mut resealed);
    let accepted = one_signature(bytes);
    (resealed != bytes && one_signature(&resealed)) || accepted
}

/// Deltas as they are.
#[must_use]
pub fn delta(bytes: &[u8]) -> bool {
    one_delta(bytes)
}

/// Deltas whose hashes are repaired first, so that what lies behind those is reached.
#[must_use]
pub fn delta_resealed(bytes: &[u8]) -> bool {
    let mut resealed = bytes.to_vec();
    reseal_delta(&mut resealed);
    one_delta(&resealed)
}

/// A run of blocks as it was read.
#[derive(Debug, PartialEq, Eq)]
enum Kept {
    Values(Vec<ChainingValue>),
    Uniform(Uniform, BlockRange),
}

/// All of a signature, neighbouring runs of one sort as one; `None` if it is refused.
fn read_signature(bytes: &[u8]) -> Option<(SignatureHeader, Root, Vec<Kept>)> {
    let mut reader = SignatureReader::open(Cursor::new(bytes)).ok()?;
    let header = reader.header().clone();
    let (mut runs, mut next): (Vec<Kept>, _) = (Vec::new(), BlockIndex::ZERO);
    // Few blocks at a time, so that pages and runs do not end together; but not for ever.
    let limit = if header.shape.blocks().get() < 10_000 { 3 } else { u64::MAX };
    while let Some(run) = reader.next_run(BlockCount::new(limit)).ok()? {
        assert_eq!(run.blocks.start(), next, "runs follow each other");
        assert!(!run.blocks.is_empty(), "a run has blocks");
        next = run.blocks.end();
        match (run.content, runs.last_mut()) {
            (RunContent::Values(values), Some(Kept::Values(kept))) => kept.extend_from_slice(values),
            (RunContent::Values(values), _) => runs.push(Kept::Values(values.to_vec())),
            (RunContent::Uniform(uniform), Some(Kept::Uniform(kept, blocks))) if *kept == uniform => {
                *blocks = BlockRange::between(blocks.start(), next).expect("it grows");
            }
            (RunContent::Uniform(uniform), _) => {
                assert!(
                    uniform == Uniform::Zero || header.coverage == Coverage::Used,
                    "nothing is free where all counts"
                );
                runs.push(Kept::Uniform(uniform, run.blocks));
            }
        }
    }
    assert_eq!(next, header.shape.blocks().as_end(), "every block is told");
    Some((header, reader.root(), runs))
}

/// What is accepted can be written again, and is then the same.
fn one_signature(bytes: &[u8]) -> bool {
    let Some((header, root, runs)) = read_signature(bytes) else { return false };
    let shape = header.shape;
    let has_uniform = runs.iter().any(|run| matches!(run, Kept::Uniform(..)));
    // A writer cuts longer names.
    let is_cut = header.identity.name.as_ref().is_some_and(|name| name.len() > 1024);
    if is_cut || (has_uniform && shape.size().get() > ZEROES_HASHED) {
        return true;
    }
    let mut writer = SignatureWriter::new(Vec::new(), &header).expect("memory takes all");
    let mut hasher = LeafHasher::new();
    for run in &runs {
        match run {
            Kept::Values(values) => writer.blocks(values, None).expect("memory takes all"),
            Kept::Uniform(uniform, blocks) => {
                for node in Cover::new(*blocks, shape.top_level()) {
                    writer.uniform(*uniform, node, hasher.zero_node(shape, node)).expect("memory takes all");
                }
            }
        }
    }
    let (written, written_root, len) = writer.finish().expect("memory takes all");
    assert_eq!(len, written.len() as u64);
    // A reader takes a signature's word for what is zero; then the roots differ.
    assert!(written_root == root || has_uniform, "the root follows from the values");
    let (again, again_root, again_runs) = read_signature(&written).expect("what is written can be read");
    assert_eq!((again, again_root, again_runs), (header, written_root, runs));
    true
}

/// What was put in is taken out by someone else.
#[derive(Clone, Debug, Default)]
struct Pipe(Rc<RefCell<VecDeque<u8>>>);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(buffer)
    }
}

/// Everything handed out is within its bounds, frames can be written again, and what is accepted is proven.
fn one_delta(bytes: &[u8]) -> bool {
    let Ok(mut reader) = DeltaReader::open(bytes) else { return false };
    let header = reader.header().clone();
    let (shapes, key) = (header.shapes, *reader.key());
    let header_len = usize::try_from(reader.position()).expect("it lies in memory");
    let pipe = Pipe::default();
    pipe.0.borrow_mut().extend(&bytes[..header_len]);
    let mut again = DeltaReader::open(pipe.clone()).expect("the header was read before");
    assert_eq!(*again.header(), header);
    let mut proof =
        Some(Proof::new(&shapes)).filter(|_| shapes.base.size().max(shapes.result.size()).get() <= ZEROES_HASHED);
    let (mut hasher, mut data, mut end) = (LeafHasher::new(), Vec::new(), BlockIndex::ZERO);
    while let Ok(item) = reader.next_item() {
        match item {
            Item::Frame(sealed) => {
                end = look_at_extents(&sealed, &shapes, end);
                if let Some(proof) = &mut proof {
                    proof.absorb(&sealed.table);
                }
                data.clear();
                data.resize(sealed.table.data_len(), 0xA5);
                if sealed.open(&shapes, &mut hasher, &mut data).is_err() {
                    return false;
                }
                for extent in sealed.table.extents.iter().filter(|extent| extent.new == Content::Data) {
                    let longest = extent.old_bytes(&shapes).count().max(extent.new_bytes(&shapes).count());
                    let mut content = data[extent.data.clone()].to_vec();
                    content.resize(longest.to_usize().expect("a frame fits in memory"), 0);
                    assert_eq!(sealed.table.standing(&shapes, &mut hasher, extent, &content), Standing::New);
                }
                let frame = Frame { table: sealed.table, data: std::mem::take(&mut data) };
                pipe.0.borrow_mut().extend(frame.seal(&key, 1));
                let Ok(Item::Frame(same)) = again.next_item() else { panic!("a frame that is written can be read") };
                assert_eq!(same.table, frame.table);
                data.resize(frame.data.len(), 0x5A);
                same.open(&shapes, &mut hasher, &mut data).expect("the same payload");
                assert!(data == frame.data);
            }
            Item::Trailer(trailer) => {
                assert_eq!(reader.position(), bytes.len() as u64, "nothing follows a trailer");
                let Some(proof) = proof else { return false };
                let Ok(proven) = proof.finish(&header, &trailer) else { return false };
                assert_eq!((proven.base, proven.result), (header.base_root, trailer.result_root));
                return true;
            }
        }
    }
    false
}

/// Looks at what a caller will rely on when it reads and writes disks; returns the end of the last extent.
fn look_at_extents(frame: &SealedFrame, shapes: &Shapes, after: BlockIndex) -> BlockIndex {
    let table = &frame.table;
    assert_eq!(table.after, after);
    assert!(!table.extents.is_empty());
    let frame_max = usize::try_from(MAX_FRAME_BYTES).expect("it fits");
    assert!(table.data_len() <= frame_max && frame.stored_len() <= table.data_len());
    assert!(table.zero_bytes(shapes) <= shapes.result.size().get());
    let (mut end, mut data) = (after, 0);
    for extent in &table.extents {
        let Extent { blocks, old, new, .. } = *extent;
        assert!(blocks.start() >= end && !blocks.is_empty() && blocks.end() <= shapes.end());
        assert!(blocks.start() == end || blocks.start() <= shapes.common_end(), "a gap lies on both disks");
        assert_eq!(extent.data.start, data);
        let (old_bytes, new_bytes) = (extent.old_bytes(shapes).count(), extent.new_bytes(shapes).count());
        assert_eq!(old_bytes.is_zero(), old == Content::Absent);
        assert_eq!(new_bytes.is_zero(), new == Content::Absent);
        assert_eq!(extent.data.len() as u64, if new == Content::Data { new_bytes.get() } else { 0 });
        assert!(old != Content::Data || old_bytes.get() <= u64::from(MAX_FRAME_BYTES));
        (end, data) = (blocks.end(), extent.data.end);
    }
    assert_eq!((end, data), (table.end(), table.data_len()));
    end
}

/// Puts the hash of `start..end`, with the hash's own place zero, where it belongs.
fn reseal(bytes: &mut [u8], key: Option<&[u8; 32]>, part: std::ops::Range<usize>, at: usize) -> Option<[u8; 32]> {
    let part = bytes.get_mut(part)?;
    part.get_mut(at..at + 32)?.fill(0);
    let hash: [u8; 32] = key.map_or_else(|| blake3::hash(part), |key| blake3::keyed_hash(key, part)).into();
    part[at..at + 32].copy_from_slice(&hash);
    Some(hash)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

/// Repairs all hashes of a signature, as far as its parts can be made out. Offsets are those of `FORMAT.md`.
pub fn reseal_signature(bytes: &mut [u8]) -> Option<()> {
    let mut at = 80_usize.checked_add(u32_at(bytes, 20)?)?;
    let key = reseal(bytes, None, 0..at, 48)?;
    while bytes.get(at..at + 4) == Some(b"FBPG") {
        let end = (at + 64).checked_add(u32_at(bytes, at + 24)?.checked_mul(32)?)?;
        reseal(bytes, Some(&key), at..end, 32)?;
        at = end;
    }
    let end = bytes.len();
    reseal(bytes, Some(&key), end.checked_sub(80)?..end, 48).map(|_| ())
}

/// Repairs all hashes of a delta, as far as its parts can be made out. Offsets are those of `FORMAT.md`.
pub fn reseal_delta(bytes: &mut [u8]) -> Option<()> {
    let mut at = 128_usize.checked_add(u32_at(bytes, 20)?)?;
    let key = reseal(bytes, None, 0..at, 96)?;
    while bytes.get(at..at + 4) == Some(b"FBFM") {
        let end = (at + 64).checked_add(u32_at(bytes, at + 24)?.checked_mul(8)?)?;
        reseal(bytes, Some(&key), at..end, 32)?;
        at = end;
    }
    while bytes.get(at..at + 4) == Some(b"FBFR") {
        let (extents, values) = (u32_at(bytes, at + 32)?.checked_mul(8)?, u32_at(bytes, at + 36)?.checked_mul(32)?);
        let end = (at + 80).checked_add(extents)?.checked_add(values)?.checked_add(u32_at(bytes, at + 44)?)?;
        reseal(bytes, Some(&key), at..end, 48)?;
        at = end;
    }
    let end = (at + 216).checked_add(u32_at(bytes, at + 48)?.checked_mul(32)?)?;
    reseal(bytes, Some(&key), at..end, 184).map(|_| ())
}
