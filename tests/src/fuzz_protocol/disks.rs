//! Disks that compress well, so that what leads from one to another is short, and their trees.

use failback_blockio::sim::{SimDisk, World};
use failback_delta::{Content, DeltaReader, FreeBlocks, Identity, Item, PointKind, Proof};
use failback_hashtree::{LeafHasher, Root, Shape};
use failback_orchestrate::{
    BlockSize, ByteCount, ByteRange, Compression, DiffOptions, FreeMap, LocalBase, Silent, StoredTree, build_tree,
    diff_tree, free_blocks,
};
use failback_units::ByteOffset;
use failback_volumes::FreeMapBuilder;
use std::path::Path;

/// More than 64 KiB, below which a stored tree has nothing, and no whole number of blocks.
pub(super) const SIZE: usize = (256 << 10) + 1000;
const BLOCK: usize = 4096;
/// Blocks that differ between source and target: neighbours, single ones, the last one.
const CHANGED: [usize; 7] = [0, 5, 6, 7, 21, 40, SIZE / BLOCK];

/// What is on the target, and what is on the source.
pub(super) fn contents() -> (Vec<u8>, Vec<u8>) {
    let block = |of: u8, number: usize| {
        let seed = [of, u8::try_from(number).expect("there are few blocks")];
        // The target is zero where the source is not, and the other way round.
        let is_zero = (of == 0 && number == 40) || (of == 1 && number == 21) || number == 30;
        if is_zero { vec![0; BLOCK] } else { blake3::hash(&seed).as_bytes().repeat(BLOCK / 32) }
    };
    let all = |of: &dyn Fn(usize) -> u8| {
        let mut content: Vec<_> = (0..=SIZE / BLOCK).flat_map(|number| block(of(number), number)).collect();
        content.truncate(SIZE);
        content
    };
    (all(&|_| 0), all(&|number| u8::from(CHANGED.contains(&number))))
}

/// A disk with this content.
pub(super) fn disk_of(content: &[u8]) -> SimDisk {
    let disk = World::new(3).disk("disk", ByteCount::of_memory(content.len()), 512);
    disk.write_durably(ByteOffset::ZERO, content);
    disk
}

/// Free space: one range, in KiB.
pub(super) fn free_map(start: u64, end: u64) -> FreeMap {
    let mut map = FreeMapBuilder::new();
    let end = ByteOffset::new(end << 10).expect("it is small");
    map.push(ByteRange::between(ByteOffset::new(start << 10).expect("it is small"), end).expect("it is in order"));
    map.finish()
}

pub(super) fn shape_of(content: &[u8]) -> Shape {
    Shape::new(ByteCount::of_memory(content.len()), BlockSize::MIN)
}

/// Makes the tree of a disk.
pub(super) fn tree_of(disk: &SimDisk, free: &FreeBlocks, path: &Path) -> StoredTree {
    build_tree(disk, shape_of(&disk.content()), free, path, 1, &Silent).expect("a disk in memory can be read");
    StoredTree::open(path).expect("a tree that was just made is one")
}

/// The root of a disk of which only some bytes count.
pub(super) fn root_of(content: &[u8], free: &FreeBlocks, shape: Shape) -> Root {
    let mut content = content.to_vec();
    for run in free.runs() {
        let bytes = shape.bytes_of(*run);
        let place = |at: ByteOffset| usize::try_from(at.get()).expect("it is in memory");
        content[place(bytes.start())..place(bytes.end())].fill(0);
    }
    Root::of(&content)
}

/// How a pass compares: always the same, so that the same delta comes of it.
pub(super) fn how(free: Option<&FreeMap>) -> DiffOptions<'_> {
    DiffOptions {
        free,
        kind: PointKind::Crash,
        created: 0,
        id: [9; 16],
        identity: Identity::default(),
        compression: &Compression::LIGHTEST,
        threads: 1,
        signer: None,
        before_end: &|| Ok(()),
    }
}

/// A delta from one disk to another.
pub(super) fn delta(base: &[u8], result: &[u8], free: Option<&FreeMap>) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("there is room for a tree");
    let base = disk_of(base);
    let tree = tree_of(&base, &FreeBlocks::NONE, &directory.path().join("tree"));
    let (mut delta, none) = (Vec::new(), std::iter::empty());
    diff_tree(&LocalBase { tree: &tree, device: &base }, &disk_of(result), &mut delta, &how(free), none, &Silent)
        .expect("disks in memory can be compared");
    delta
}

/// What a delta that proves itself leads to.
pub(super) struct Leads {
    pub(super) base: Root,
    pub(super) result: Root,
    /// The disk, with what was on it before where it does not matter.
    pub(super) content: Vec<u8>,
    pub(super) free: FreeBlocks,
}

/// Proves a delta, and applies it to a disk in memory; `None` if it proves nothing, or is for a much larger disk.
pub(super) fn leads(delta: &[u8], base: &[u8]) -> Option<Leads> {
    let mut reader = DeltaReader::open(delta).ok()?;
    let header = reader.header().clone();
    let shapes = header.shapes;
    let size = shapes.result.size().to_usize().filter(|size| *size <= 2 * SIZE)?;
    if shapes.base.size().get() > 2 * SIZE as u64 {
        return None;
    }
    let free = reader.free().clone();
    let (mut content, mut proof, mut hasher) = (base.to_vec(), Proof::new(&shapes), LeafHasher::new());
    content.resize(size.max(content.len()), 0);
    loop {
        match reader.next_item().ok()? {
            Item::Frame(sealed) => {
                proof.absorb(&sealed.table);
                let mut data = vec![0; sealed.table.data_len()];
                sealed.open(&shapes, &mut hasher, &mut data).ok()?;
                for extent in &sealed.table.extents {
                    let bytes = extent.new_bytes(&shapes);
                    let place = |at: ByteOffset| usize::try_from(at.get()).expect("it is in memory");
                    let place = &mut content[place(bytes.start())..place(bytes.end())];
                    match extent.new {
                        Content::Data => place.copy_from_slice(&data[extent.data.clone()]),
                        Content::Zero => place.fill(0),
                        _ => {}
                    }
                }
            }
            Item::Trailer(trailer) => {
                let proven = proof.finish(&header, &trailer).ok()?;
                content.truncate(size.max(base.len()));
                return Some(Leads { base: proven.base, result: proven.result, content, free });
            }
        }
    }
}

/// The blocks of a disk of this shape that are free by a map.
pub(super) fn free_of(map: Option<&FreeMap>, shape: Shape) -> FreeBlocks {
    map.map_or(FreeBlocks::NONE, |map| free_blocks(map, shape))
}
