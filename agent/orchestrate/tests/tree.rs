//! Stored trees, and what is found by comparing with one: the same delta as with a signature, and little asked.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{counted, delta_used, diff_options, map_of, noise, signature_used};
use failback_blockio::sim::{SimDisk, World};
use failback_delta::{DeltaReader, FrameTable, FreeBlocks, Item};
use failback_hashtree::{ChainingValue, LeafHasher, Shape};
use failback_orchestrate::{
    ApplyOptions, BaseTree, BlockSize, ByteCount, Coverage, DeltaInput, DiskBinding, FreeMap, JobError, LocalBase,
    NodeRun, Progress, Root, Silent, StoredTree, TreeDiffReport, advance_tree, advance_tree_seen, apply, build_tree,
    diff_tree, free_blocks, store_tree,
};
use failback_units::{BlockIndex, BlockRange, ByteOffset};
use proptest::prelude::*;
use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

const BLOCK: usize = 4096;

/// A target, and the tree of it.
struct Base {
    world: World,
    disk: SimDisk,
    tree: PathBuf,
    directory: tempfile::TempDir,
}

impl Base {
    fn new(content: &[u8], free: Option<&[bool]>) -> Self {
        let world = World::new(3);
        let disk = world.disk("target", ByteCount::of_memory(content.len()), 512);
        disk.write_durably(ByteOffset::ZERO, content);
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("base.tree");
        let root = build(&disk, content.len(), free, &tree);
        assert_eq!(root, Root::of(&counted(content, free)), "b3sum prints the same");
        Self { world, disk, tree, directory }
    }

    fn source(&self, content: &[u8]) -> SimDisk {
        let source = self.world.disk("source", ByteCount::of_memory(content.len()), 512);
        source.write_durably(ByteOffset::ZERO, content);
        source
    }

    fn open(&self) -> StoredTree {
        StoredTree::open(&self.tree).unwrap()
    }

    /// The delta that leads from this base to `result`, and how many values were asked for.
    fn delta_to(&self, result: &[u8], free: Option<&[bool]>) -> (Vec<u8>, TreeDiffReport, u64) {
        let map = free.map(|free| map_of(free, result.len()));
        let source = self.source(result);
        let tree = self.open();
        let base = Counting { inner: LocalBase { tree: &tree, device: &self.disk }, asked: AtomicU64::new(0) };
        let mut delta = Vec::new();
        let options = diff_options(map.as_ref(), result);
        let report = diff_tree(&base, &source, &mut delta, &options, no_frames(), &Silent).unwrap();
        assert_eq!(report.delta.result_root, Root::of(&counted(result, free)));
        (delta, report, base.asked.into_inner())
    }
}

fn shape(len: usize) -> Shape {
    Shape::new(ByteCount::of_memory(len), BlockSize::MIN)
}

fn free_of(free: Option<&[bool]>, len: usize) -> FreeBlocks {
    let map: Option<FreeMap> = free.map(|free| map_of(free, len));
    map.map_or(FreeBlocks::NONE, |map| free_blocks(&map, shape(len)))
}

fn build(disk: &SimDisk, len: usize, free: Option<&[bool]>, path: &std::path::Path) -> Root {
    build_tree(disk, shape(len), &free_of(free, len), path, 2, &Silent).unwrap()
}

fn no_frames() -> [Result<(FrameTable, usize), JobError>; 0] {
    []
}

/// Counts the values that are asked for.
struct Counting<'a> {
    inner: LocalBase<'a>,
    asked: AtomicU64,
}

impl BaseTree for Counting<'_> {
    fn shape(&self) -> Shape {
        self.inner.shape()
    }
    fn root(&self) -> Root {
        self.inner.root()
    }
    fn coverage(&self) -> Coverage {
        self.inner.coverage()
    }
    fn free(&self) -> &FreeBlocks {
        self.inner.free()
    }
    fn values(&self, nodes: &[NodeRun]) -> Result<Vec<ChainingValue>, JobError> {
        let asked: u64 = nodes.iter().map(|run| run.count).sum();
        assert!((1..=4096).contains(&asked), "{asked} values at once");
        self.asked.fetch_add(asked, Ordering::Relaxed);
        self.inner.values(nodes)
    }
}

/// Two disks, and the free blocks of each, from one number for each block of the longer one.
fn disks(blocks: &[u8], lens: (usize, usize), holds_zeroes: bool) -> [(Vec<u8>, Vec<bool>); 2] {
    let (mut base, mut result) = (noise(1, lens.0), noise(1, lens.1));
    let part = |disk: &mut Vec<u8>, number: usize| {
        let len = disk.len();
        (number * BLOCK).min(len)..((number + 1) * BLOCK).min(len)
    };
    for (number, kind) in blocks.iter().enumerate() {
        let (old, new) = (part(&mut base, number), part(&mut result, number));
        match kind & 3 {
            0 if holds_zeroes => base[old].fill(0),
            1 => result[new].fill(0),
            2 => {
                let len = new.len();
                result[new].copy_from_slice(&noise(number as u64 + 50, len));
            }
            _ => {}
        }
    }
    let free = |bit: u8, len: usize| {
        let blocks = blocks.iter().take(len.div_ceil(BLOCK));
        blocks.map(|kind| kind & bit != 0).collect::<Vec<bool>>()
    };
    let (base_free, result_free) = (free(4, lens.0), free(8, lens.1));
    [(base, base_free), (result, result_free)]
}

/// What was shown of the blocks that a delta changes is what they are in the result.
fn check_seen(seen: &[(BlockRange, Option<Vec<ChainingValue>>)], result: &[u8]) {
    let (shape, mut hasher) = (shape(result.len()), LeafHasher::new());
    let mut right = Vec::new();
    hasher.hash(shape, BlockIndex::ZERO, result, &mut right);
    let mut at = BlockIndex::ZERO;
    for (blocks, values) in seen {
        assert!(blocks.start() >= at, "in their order");
        at = blocks.end();
        let range = usize::try_from(blocks.start().get()).unwrap()..usize::try_from(at.get()).unwrap();
        match values {
            Some(values) => assert!(values[..] == right[range]),
            None => {
                assert!(range.clone().all(|block| result[block * BLOCK..].iter().take(BLOCK).all(|byte| *byte == 0)));
            }
        }
    }
}

/// A tree that is asked for over a wire is the same file, and each block has a stored node above it.
fn check_stored(target: &Base) {
    let tree = target.open();
    let base = LocalBase { tree: &tree, device: &target.disk };
    let copy = target.directory.path().join("copy");
    assert_eq!(store_tree(&base, &copy, &Silent).unwrap(), tree.root());
    assert!(fs::read(&copy).unwrap() == fs::read(&target.tree).unwrap(), "the copy is the same");
    for block in 0..tree.shape().blocks().get() {
        let (node, value) = tree.stored_above(BlockIndex::new(block)).unwrap().unwrap();
        assert!(node.first.get() <= block && block < node.end().unwrap().get());
        let run = NodeRun { first: node.first, level: node.level, count: 1 };
        assert_eq!(tree.values_of(&mut LeafHasher::new(), &run).unwrap(), Some(vec![value]));
        assert_eq!(base.values(&[run]).unwrap(), [value]);
    }
    assert!(tree.stored_above(tree.shape().blocks().as_end()).unwrap().is_none());
}

/// Compares two disks both ways, applies the delta, and makes the tree of the result both ways.
fn judge(base: (&[u8], Option<&[bool]>), result: (&[u8], Option<&[bool]>), same_bytes: bool) {
    let target = Base::new(base.0, base.1);
    let (delta, report, _) = target.delta_to(result.0, result.1);
    let by_signature = delta_used(&signature_used(base.0, base.1), result.0, result.1);
    if same_bytes {
        assert!(delta == by_signature, "a tree leads to the same delta as a signature");
    }
    let frames = |delta: &[u8]| {
        let mut reader = DeltaReader::open(delta).unwrap();
        loop {
            if let Item::Trailer(trailer) = reader.next_item().unwrap() {
                return (trailer.result_root, trailer.totals.data_bytes, trailer.totals.zero_bytes);
            }
        }
    };
    assert_eq!(frames(&delta), frames(&by_signature));
    // The tree of the result, made from the delta, is that of the disk that holds the result.
    let (advanced, built) = (target.directory.path().join("advanced"), target.directory.path().join("built"));
    let mut seen = Vec::new();
    let root = advance_tree_seen(&target.open(), delta.as_slice(), &advanced, &mut |blocks, values| {
        seen.push((blocks, values.map(<[ChainingValue]>::to_vec)));
    });
    assert_eq!(root.unwrap(), report.delta.result_root);
    check_seen(&seen, &counted(result.0, result.1));
    check_stored(&target);
    build(&target.source(result.0), result.0.len(), result.1, &built);
    assert!(fs::read(&advanced).unwrap() == fs::read(&built).unwrap(), "the two trees are the same");
    // And the delta does what it says.
    if base.0.len() >= result.0.len() {
        let mut intents = common::SlotIntents::new(target.world.disk("records", ByteCount::of_memory(8192), 512));
        let options = ApplyOptions { disk: DiskBinding { id: [7; 32], certain: true }, ..ApplyOptions::default() };
        let input = DeltaInput::File(&mut Cursor::new(&delta));
        apply(&target.disk, input, &mut intents, &options, &Silent).unwrap();
        let now = &target.disk.content()[..result.0.len()];
        assert!(counted(now, result.1) == counted(result.0, result.1), "the target holds the result");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn any_two_disks(
        blocks in prop::collection::vec(0_u8..16, 1..120),
        cut in (0_usize..BLOCK, 0_usize..BLOCK),
        shorter in 0_usize..40,
        used in any::<bool>(),
        which in 0..3,
    ) {
        let long = blocks.len() * BLOCK;
        let lens = match which {
            0 => (long - cut.0, long - cut.0),
            1 => (long - cut.0, (long - cut.1).saturating_sub(shorter * BLOCK)),
            _ => ((long - cut.1).saturating_sub(shorter * BLOCK), long - cut.0),
        };
        for holds_zeroes in [false, true] {
            let [(base, base_free), (result, result_free)] = disks(&blocks, lens, holds_zeroes);
            let free = |map| used.then_some(map);
            judge((&base, free(base_free.as_slice())), (&result, free(result_free.as_slice())), !holds_zeroes);
        }
    }
}

#[test]
fn sizes_at_the_edges() {
    let edges = [0, 1, BLOCK, 16 * BLOCK, 32 * BLOCK, 256 * BLOCK, 512 * BLOCK, 513 * BLOCK];
    let near = |edge: usize| [edge.saturating_sub(1), edge, edge + 1];
    for len in edges.into_iter().flat_map(near) {
        let base = noise(1, len);
        judge((&base, None), (&base, None), true);
        let mut result = base.clone();
        result.iter_mut().rev().step_by(100_000).for_each(|byte| *byte ^= 1);
        judge((&base, None), (&result, None), true);
        for other in [1, BLOCK, 17 * BLOCK + 5] {
            judge((&base, None), (&noise(1, other), None), true);
        }
    }
}

const LARGE: usize = 48 << 20;

#[test]
fn an_unchanged_disk_costs_a_few_values() {
    let base = noise(1, LARGE);
    let target = Base::new(&base, None);
    let (_, report, asked) = target.delta_to(&base, None);
    assert_eq!((report.delta.changed_blocks, asked), (0, 24), "one value for each segment of 2 MiB");
    assert_eq!((report.delta.scan.bytes_read, report.read_again.bytes_read), (LARGE as u64, 0), "read once");
}

#[test]
fn one_block_costs_one_path() {
    let base = noise(1, LARGE);
    let target = Base::new(&base, None);
    let mut result = base.clone();
    result[LARGE / 3] ^= 1;
    let (_, report, asked) = target.delta_to(&result, None);
    assert_eq!(report.delta.changed_blocks, 1);
    // A segment has 32 nodes of 64 KiB: one step of four levels to the two halves of 16, one more, and the blocks.
    assert_eq!(asked, 24 + 16 + 2 + 16);
    assert_eq!(report.read_again.bytes_read, 64 << 10, "what differs is read again, and nothing else");
    judge((&base, None), (&result, None), true);
}

#[test]
fn a_target_that_was_written_to_by_others_is_found_out() {
    let base = noise(1, 1 << 20);
    let target = Base::new(&base, None);
    target.disk.write_durably(ByteOffset::new(300 << 10).unwrap(), &[1; 512]);
    let mut result = base;
    result[305 << 10] ^= 1;
    let (source, tree) = (target.source(&result), target.open());
    let base = LocalBase { tree: &tree, device: &target.disk };
    let error = diff_tree(&base, &source, Vec::new(), &diff_options(None, &result), no_frames(), &Silent).unwrap_err();
    assert!(error.to_string().contains("something else has written to it"), "{error}");
}

/// Writes to the source as soon as it was read once.
struct Writer<'a> {
    source: &'a SimDisk,
    left: AtomicU64,
}

impl Progress for Writer<'_> {
    fn phase(&self, _: &'static str, _: Option<u64>) {}
    fn advance(&self, bytes: u64) {
        let left = self.left.fetch_sub(bytes, Ordering::Relaxed) - bytes;
        let at = self.source.content().len() as u64 - left;
        // Into the chunk that was just compared.
        self.source.write_durably(ByteOffset::new(at - 4096).unwrap(), &noise(at, 4096));
    }
    fn note(&self, _: &str) {}
    fn stop_requested(&self) -> bool {
        false
    }
}

#[test]
fn a_source_that_is_written_to_leads_to_a_delta_that_is_right_for_what_was_read() {
    let base = noise(1, 8 << 20);
    let target = Base::new(&base, None);
    let mut result = base.clone();
    result.iter_mut().step_by(70_000).for_each(|byte| *byte ^= 1);
    let (source, tree) = (target.source(&result), target.open());
    let progress = Writer { source: &source, left: AtomicU64::new(result.len() as u64) };
    let mut delta = Vec::new();
    let local = LocalBase { tree: &tree, device: &target.disk };
    let report = diff_tree(&local, &source, &mut delta, &diff_options(None, &result), no_frames(), &progress).unwrap();
    let mut intents = common::SlotIntents::new(target.world.disk("records", ByteCount::of_memory(8192), 512));
    let options =
        ApplyOptions { disk: DiskBinding { id: [7; 32], certain: true }, verify: true, ..ApplyOptions::default() };
    let applied =
        apply(&target.disk, DeltaInput::File(&mut Cursor::new(&delta)), &mut intents, &options, &Silent).unwrap();
    assert_eq!(applied.result_root, report.delta.result_root);
    assert_eq!(Root::of(&target.disk.content()), applied.result_root);
    assert_ne!(target.disk.content(), result, "it was written to");
}

#[test]
fn a_damaged_tree_is_refused() {
    let content = noise(1, (1 << 20) + 5000);
    let free: Vec<bool> = (0..258).map(|block| block % 7 == 0).collect();
    let base = Base::new(&content, Some(&free));
    let whole = fs::read(&base.tree).unwrap();
    let path = base.directory.path().join("damaged");
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        let error = StoredTree::open(&path).expect_err("a bit was flipped");
        assert!(error.to_string().contains("damaged"), "{error}");
        refused += 1;
    }
    for len in [0, 1, 143, 144, 160, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        StoredTree::open(&path).expect_err("it is cut off");
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    StoredTree::open(&path).expect_err("something follows");
    assert_eq!(refused, 144 + 37 * 16 + (16 + 1) * 32);
    assert!(StoredTree::open(&base.tree).is_ok());
}

#[test]
fn a_tree_of_another_base_is_refused() {
    let base = noise(1, 1 << 20);
    let target = Base::new(&base, None);
    let delta = delta_used(&signature_used(&noise(2, 1 << 20), None), &noise(3, 1 << 20), None);
    let path = target.directory.path().join("advanced");
    let error = advance_tree(&target.open(), delta.as_slice(), &path).unwrap_err();
    assert!(error.to_string().contains("is not the tree of the base of this delta"), "{error}");
    assert!(!path.exists());
}

/// A tree that says of itself another root than its values lead to.
struct Lying<'a>(LocalBase<'a>);

impl BaseTree for Lying<'_> {
    fn shape(&self) -> Shape {
        self.0.shape()
    }
    fn root(&self) -> Root {
        Root([1; 32])
    }
    fn coverage(&self) -> Coverage {
        self.0.coverage()
    }
    fn free(&self) -> &FreeBlocks {
        self.0.free()
    }
    fn values(&self, nodes: &[NodeRun]) -> Result<Vec<ChainingValue>, JobError> {
        self.0.values(nodes)
    }
}

#[test]
fn a_tree_that_does_not_lead_to_its_root_is_not_stored() {
    let target = Base::new(&noise(1, 1 << 20), None);
    let tree = target.open();
    let path = target.directory.path().join("copy");
    let error = store_tree(&Lying(LocalBase { tree: &tree, device: &target.disk }), &path, &Silent).unwrap_err();
    assert!(error.to_string().contains("does not lead to its own root"), "{error}");
    assert!(!path.exists() && fs::read_dir(target.directory.path()).unwrap().count() == 1);
}

#[test]
fn nodes_that_are_not_there_are_refused() {
    let target = Base::new(&noise(1, (1 << 20) + 5000), None);
    let tree = target.open();
    let base = LocalBase { tree: &tree, device: &target.disk };
    let ask = |first, level, count| {
        base.values(&[NodeRun { first: failback_units::BlockIndex::new(first), level, count }]).is_ok()
    };
    assert!(ask(0, 0, 258) && ask(0, 4, 16) && ask(0, 8, 1) && ask(256, 1, 1) && ask(16, 2, 3) && ask(256, 0, 2));
    for (first, level, count) in
        [(0, 0, 259), (1, 4, 1), (0, 9, 1), (0, 64, 1), (0, 255, 1), (0, 0, 0), (u64::MAX, 0, 1), (0, 4, u64::MAX)]
    {
        assert!(!ask(first, level, count), "{first} {level} {count}");
    }
}

/// A delta goes on behind any of its frames, to the same bytes, and what is before is not read.
#[test]
fn a_delta_goes_on_behind_any_of_its_frames() {
    let base = noise(1, 12 << 20);
    let mut result = base.clone();
    result.iter_mut().step_by(9_000).for_each(|byte| *byte ^= 1);
    result[5 << 20..6 << 20].fill(0);
    let free: Vec<_> = (0..12 << 8).map(|block| block % 50 > 45).collect();
    let target = Base::new(&base, Some(&free));
    let (whole, report, _) = target.delta_to(&result, Some(&free));
    let (source, tree, map) = (target.source(&result), target.open(), map_of(&free, result.len()));
    let local = LocalBase { tree: &tree, device: &target.disk };
    let mut reader = DeltaReader::open(whole.as_slice()).unwrap();
    let (header, start) = (reader.header().clone(), reader.position());
    let (mut ends, mut end_block) = (vec![start], failback_units::BlockIndex::ZERO);
    let mut outlines = Vec::new();
    while let Item::Frame(frame) = reader.next_item().unwrap() {
        let from = usize::try_from(*ends.last().unwrap()).unwrap();
        let outline = &whole[from..from + FrameTable::outline_len(&whole[from..from + 80]).unwrap().0];
        let read = FrameTable::from_outline(outline, &header, frame.table.index, end_block).unwrap();
        assert_eq!(read.0, frame.table);
        assert!(
            FrameTable::from_outline(&outline[..outline.len() - 1], &header, frame.table.index, end_block).is_err()
        );
        assert!(FrameTable::from_outline(outline, &header, frame.table.index + 1, end_block).is_err());
        ends.push(reader.position());
        end_block = frame.table.end();
        outlines.push(read);
    }
    assert!(outlines.len() > 4, "{}", outlines.len());
    for (number, end) in ends.iter().enumerate() {
        let mut delta = Vec::new();
        let earlier = outlines[..number].iter().cloned().map(Ok);
        let options = diff_options(Some(&map), &result);
        let again = diff_tree(&local, &source, &mut delta, &options, earlier, &Silent).unwrap();
        let (head, rest) = delta.split_at(usize::try_from(start).unwrap());
        assert!(head == &whole[..head.len()] && rest == &whole[usize::try_from(*end).unwrap()..], "frame {number}");
        assert_eq!(again.delta.result_root, report.delta.result_root);
        assert_eq!(again.delta.changed_blocks, report.delta.changed_blocks);
        let all = |scan: failback_orchestrate::ScanReport| scan.bytes_read + scan.bytes_free;
        let told = number.checked_sub(1).map_or(0, |last| outlines[last].0.end().get() * 4096);
        assert_eq!(all(again.delta.scan) + told, all(report.delta.scan), "what was told is not read again");
    }
}
