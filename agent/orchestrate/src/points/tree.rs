//! The hash tree of a point beside its links: what tells where a disk differs, and not only that it does.
//!
//! It is a signature in the block size of the point, since which bytes count for a root of used space depends on that size. It is
//! made whenever all of a disk is read anyway, and names its point. What links have changed since is not in it, and need
//! not be: a link has the values of all that it changes, on both sides.

use super::moving::from_start;
use crate::apply::{Recording, Target, Witness, check_all};
use crate::sign::values_of;
use crate::verify::Difference;
use crate::{Against, JobError, Pace, Progress, VerifyReport, free_blocks_of, verify};
use failback_blockio::Device;
use failback_delta::{Extent, FreeBlocks, Identity, SealedFrame, Shapes, SignatureHeader, SignatureReader};
use failback_hashtree::{ChainingValue, Shape};
use failback_retention::{LinkReader, Point, PointId, Reader, Store, StoredFile, StoredTree};
use failback_units::BlockRange;
use std::io::{self, BufReader, BufWriter, Write};
use std::sync::Arc;

/// What is written of a tree at a time, in bytes.
const AT_ONCE: usize = 1 << 20;

/// What a tree leaves free, in bytes: more than the largest catalogue takes, without which no point is published and nothing
/// that was begun ends.
const LEFT_FREE: u64 = 32 << 20;

/// Reads the disk, which should be at a point, and compares its root. The tree is kept if it is the right one.
pub(super) fn read_and_keep(
    disk: &dyn Device,
    store: &mut Store,
    point: &Point,
    free: &FreeBlocks,
    threads: usize,
    progress: &dyn Progress,
) -> Result<VerifyReport, JobError> {
    let shape = Shape::new(point.size, point.block_size);
    let header = SignatureHeader {
        shape,
        coverage: free.coverage(),
        kind: point.kind,
        created: point.time,
        identity: Identity::default(),
    };
    progress.phase("verifying", Some(point.size.get()));
    let file = if has_room(store, shape) { store.create_tree().ok() } else { None };
    let mut out = Optional { file, failed: false };
    let read = values_of(disk, BufWriter::with_capacity(AT_ONCE, &mut out), &header, free, threads, progress);
    let read = read.and_then(|(writer, scan)| Ok((writer.finish()?.1, scan)));
    let (root, scan) = read.inspect_err(|_| store.discard_tree())?;
    let report = VerifyReport {
        root,
        expected: point.root,
        coverage: free.coverage(),
        size: point.size,
        differences: Vec::new(),
        bytes_different: 0,
        scan,
    };
    let whole = root == point.root && !out.failed;
    let kept = match out.file.take() {
        Some(file) => whole && file.sync().is_ok() && store.keep_tree(point.id).is_ok(),
        None => true,
    };
    if !kept {
        // Worth having and not worth failing for; but the room that it took may be needed.
        store.discard_tree();
    }
    Ok(report)
}

/// Whether the tree of a disk leaves enough free: it is worth having, and not worth failing for.
fn has_room(store: &Store, shape: Shape) -> bool {
    let blocks = shape.block_size().blocks_in(shape.size()).get();
    let needed = blocks.saturating_mul(size_of::<ChainingValue>() as u64).saturating_add(LEFT_FREE);
    store.directory().space().is_ok_and(|space| space.available.get() >= needed)
}

/// A file that is worth having and not worth failing for: a full retention drive is no reason not to verify a disk.
struct Optional {
    file: Option<Box<dyn StoredFile>>,
    failed: bool,
}

impl Write for Optional {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = self.file.as_mut().filter(|_| !self.failed) {
            self.failed = file.append(bytes).is_err();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a disk differs from the present point, as far as that is known: the blocks that links have changed are compared with
/// the values in them, all others with the tree, if there is one of a point on the way.
pub(super) fn name_differences(
    disk: &dyn Device,
    store: &Store,
    report: &mut VerifyReport,
    progress: &dyn Progress,
) -> Result<(), JobError> {
    let tree = usable_tree(store)?;
    let since = tree.as_ref().map_or(store.catalogue().points()[0].id, |(point, _)| *point);
    let (touched, mut found) = differences_by_links(disk, store, since, progress)?;
    if let Some((_, file)) = tree {
        let against = Against::Signature(Box::new(open(store, &file)?), free_blocks_of(open(store, &file)?)?);
        let differences = verify(disk, against, 0, progress)?.differences;
        found.extend(differences.into_iter().flat_map(|found| without(found, &touched)));
    }
    found.sort_unstable_by_key(|found| found.start);
    report.bytes_different = found.iter().map(|found| found.length).sum();
    report.differences = found;
    Ok(())
}

/// A tree, and of which point it is.
type Tree = (PointId, Arc<dyn StoredFile>);
type TreeReader = SignatureReader<BufReader<Reader<Arc<dyn StoredFile>>>>;

/// The tree that was kept, if it is whole and that of its point: a number can have passed to another state.
fn usable_tree(store: &Store) -> Result<Option<Tree>, JobError> {
    let Some(StoredTree { point, file }) = store.open_tree()? else { return Ok(None) };
    let file: Arc<dyn StoredFile> = file.into();
    let root = open(store, &file).map(|reader| reader.root()).ok();
    Ok((root == store.catalogue().point(point).map(|point| point.root)).then_some((point, file)))
}

fn open(store: &Store, file: &Arc<dyn StoredFile>) -> Result<TreeReader, JobError> {
    let reader = from_start(store, Arc::clone(file))?;
    Ok(SignatureReader::open(BufReader::with_capacity(AT_ONCE, reader))?)
}

/// The parts of a difference that no link has touched.
fn without(found: Difference, touched: &[Difference]) -> Vec<Difference> {
    let mut parts = Vec::new();
    let (mut at, end) = (found.start, found.start + found.length);
    for range in overlapping(touched, found) {
        if range.start > at {
            parts.push(Difference { start: at, length: range.start - at });
        }
        at = at.max(range.start + range.length);
    }
    if at < end {
        parts.push(Difference { start: at, length: end - at });
    }
    parts
}

/// What links between a point and the present one have touched, in order, and what of that is not as the one that touched it
/// last says.
fn differences_by_links(
    disk: &dyn Device,
    store: &Store,
    since: PointId,
    progress: &dyn Progress,
) -> Result<(Vec<Difference>, Vec<Difference>), JobError> {
    let catalogue = store.catalogue();
    let links = catalogue.links_between(catalogue.present().id, since).unwrap_or_default();
    // Links lead away from the disk, so that what they expect to replace is what the disk holds, unless a nearer one did.
    let mut looking = Looking::default();
    for link in links {
        looking.shapes = Some(LinkReader::open(store, link)?.header().shapes);
        let mut delta = from_start(store, store.open_link(link)?)?;
        let nothing_torn = |_: &[u8; 32], _: &Shapes| BlockRange::default();
        check_all(disk, &mut delta, nothing_torn, Some(&mut looking), Pace::default(), progress)?;
        looking.next_link();
    }
    Ok((looking.touched, looking.found))
}

/// Looks at what stands where links have changed something, from the nearest link on.
#[derive(Default)]
struct Looking {
    shapes: Option<Shapes>,
    /// What nearer links have touched, in order and joined.
    touched: Vec<Difference>,
    /// What this one touches.
    now: Vec<Difference>,
    /// What is not as it should be.
    found: Vec<Difference>,
}

impl Looking {
    fn next_link(&mut self) {
        self.touched.append(&mut self.now);
        self.touched.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Difference> = Vec::with_capacity(self.touched.len());
        for range in self.touched.drain(..) {
            match joined.last_mut() {
                Some(last) if range.start <= last.start + last.length => {
                    last.length = last.length.max(range.start + range.length - last.start);
                }
                _ => joined.push(range),
            }
        }
        self.touched = joined;
    }
}

impl Witness for Looking {
    fn sees(&mut self, _: usize, _: usize, extent: &Extent, content: &[u8], is_old: bool) {
        let Some(shapes) = self.shapes else { return };
        let bytes = extent.old_bytes(&shapes);
        // What has no weight is seen in parts; it is named as one.
        let length = if extent.is_weighty() { content.len() as u64 } else { bytes.count().get() };
        let range = Difference { start: bytes.start().get(), length: bytes.count().get().min(length) };
        self.now.push(range);
        // Where a nearer link has touched a part, the values of the whole say nothing.
        if !is_old && overlapping(&self.touched, range).next().is_none() {
            self.found.push(range);
        }
    }
}

impl Recording for Looking {
    fn witness(&mut self, _: &[Arc<SealedFrame>]) -> &mut dyn Witness {
        self
    }

    fn record(&mut self, _: &mut Target<'_>, _: &[Arc<SealedFrame>]) -> Result<(), JobError> {
        Ok(())
    }
}

/// Those of some ranges, in order and joined, that overlap another.
fn overlapping(ranges: &[Difference], with: Difference) -> impl Iterator<Item = &Difference> {
    let first = ranges.partition_point(|range| range.start + range.length <= with.start);
    ranges[first..].iter().take_while(move |range| range.start < with.start + with.length)
}
