//! Looking at a point without moving the disk: reading it, checking it, copying it out.

use super::nothing_under_way;
use super::tree::{name_differences, read_and_keep};
use super::way::Way;
use crate::free::free_blocks;
use crate::vmdk::{ConvertReport, NewImage, convert};
use crate::{
    Against, ExpectedRoot, JobError, Output, Progress, SourceDisk, SourceOptions, VerifyReport, likeness, verify,
};
use failback_blockio::{Device, Engine};
use failback_delta::{BaseFree, Coverage, DeltaWriter, FileKind, FreeBlocks, Identity, PointKind};
use failback_hashtree::Shape;
use failback_retention::{LinkReader, MoveError, Point, PointDevice, PointId, Store, Uncounted};
use std::fs::{self, File};
use std::path::Path;

/// zstd's level for deltas that are exported.
const LEVEL: i32 = 3;

/// A point as a device, and what is known of it.
pub struct OpenPoint<D> {
    /// The device: the disk, with the links between over it.
    pub device: PointDevice<D>,
    /// The point.
    pub point: Point,
    /// Blocks that count as zero in its root.
    pub free: FreeBlocks,
}

impl<D: Device> OpenPoint<D> {
    fn expected(&self) -> ExpectedRoot {
        let shape = Shape::new(self.point.size, self.point.block_size);
        ExpectedRoot::used(self.point.root, shape, self.free.clone())
    }
}

/// Opens a point for reading. The caller sees to it that nobody writes to the disk, or moves it, meanwhile.
///
/// # Errors
///
/// When there is no such point, the disk is between points, or a link on the way is missing or damaged.
pub fn open_point<D: Device>(disk: D, store: &Store, id: PointId) -> Result<OpenPoint<D>, JobError> {
    nothing_under_way(store)?;
    let catalogue = store.catalogue();
    let point = *catalogue.point(id).ok_or(MoveError::NoSuchPoint(id)).map_err(JobError::from)?;
    if point.size > disk.size() {
        return Err(JobError::Refused(format!(
            "{} has {} bytes and recovery point {id} has {}: the disk became smaller, so choose the right one",
            disk.name(),
            disk.size(),
            point.size
        )));
    }
    let free = free_blocks_of_point(&disk, store, &point)?;
    // The farthest from the disk first.
    let links = open_links(store, id, catalogue.present().id)?;
    let name = format!("recovery point {id} of {}", disk.name());
    Ok(OpenPoint { device: PointDevice::new(disk, links, point.size, &name), point, free })
}

/// The links on the way from one point to another, in the order in which they are passed.
pub(super) fn open_links(store: &Store, from: PointId, to: PointId) -> Result<Vec<LinkReader>, JobError> {
    let links = store.catalogue().links_between(from, to).unwrap_or_default();
    links.into_iter().map(|link| Ok(LinkReader::open(store, link)?)).collect()
}

/// The blocks that count as zero in the root of a point: a link that leads there carries their map, and one that leads away
/// tells them by its extents. Without a link they are what the file systems on the disk call free.
fn free_blocks_of_point(disk: &dyn Device, store: &Store, point: &Point) -> Result<FreeBlocks, JobError> {
    if point.coverage == Coverage::Whole {
        return Ok(FreeBlocks::NONE);
    }
    let catalogue = store.catalogue();
    if let Some(link) = catalogue.link_to(point.id) {
        return Ok(LinkReader::open(store, link)?.free().clone());
    }
    let (links, index) = (catalogue.links(), catalogue.present_index());
    let leading_away = index.checked_sub(1).and_then(|below| links.get(below)).or_else(|| links.get(index));
    let Some(link) = leading_away else {
        let shape = Shape::new(point.size, point.block_size);
        return Ok(free_blocks(&likeness::free_of(disk)?, shape));
    };
    let link = LinkReader::open(store, link)?;
    let shapes = link.header().shapes;
    let mut free = BaseFree::new(link.free());
    for extent in &link.index().extents {
        free.extent(extent.blocks, extent.old, &shapes);
    }
    Ok(free.finish(&shapes))
}

/// What checking a point found.
#[derive(Clone, Debug)]
pub struct PointCheck {
    /// The point.
    pub point: Point,
    /// What was read, and which root was found.
    pub report: VerifyReport,
}

/// Reads a point from end to end and compares it with its root.
///
/// If it is the present one, what differs is named as far as that is known, and if `keep` says so and nothing differs, the hash
/// tree is kept on the retention drive, so that it is known the next time. `keep` needs a store that is open for changes.
///
/// # Errors
///
/// As [`open_point`], and when something cannot be read, or the user stops it. A point that differs is a report, not an error.
pub fn verify_point(
    disk: &dyn Device,
    store: &mut Store,
    id: PointId,
    keep: bool,
    threads: usize,
    progress: &dyn Progress,
) -> Result<PointCheck, JobError> {
    let open = open_point(disk, store, id)?;
    let is_present = store.catalogue().present().id == id;
    let mut report = if is_present && keep {
        read_and_keep(disk, store, &open.point, &open.free, threads, progress)?
    } else {
        verify(&open.device, Against::<File>::Root(open.expected()), threads, progress)?
    };
    if is_present && !report.matches() {
        name_differences(disk, store, &mut report, progress)?;
    }
    Ok(PointCheck { point: open.point, report })
}

/// Copies a point into a new raw image or VMDK, and reads that back to compare its root.
///
/// # Errors
///
/// As [`open_point`], and when the new disk cannot be made or written, does not have the root of the point, or the point is
/// fuzzy and `fuzzy` does not allow that.
pub fn export_image<D: Device>(
    open: &OpenPoint<D>,
    path: &Path,
    image: &NewImage,
    engine: Engine,
    before_end: &dyn Fn() -> Result<(), JobError>,
    progress: &dyn Progress,
) -> Result<ConvertReport, JobError> {
    let report = convert(&open.device, path, image, engine, before_end, progress)?;
    let is_right = || {
        let made = SourceDisk::open(path, SourceOptions { engine, fuzzy: true })?;
        Ok::<_, JobError>(verify(made.device(), Against::<File>::Root(open.expected()), 0, progress)?.matches())
    };
    let wrong = match is_right() {
        Ok(true) => return Ok(report),
        Ok(false) => JobError::Mismatch(format!(
            "what was copied does not have the root of recovery point {}, so it was removed: something wrote to the disk since; \
             failback verify --point tells where",
            open.point.id
        )),
        Err(error) => error,
    };
    for file in &report.files {
        let _ = fs::remove_file(file);
    }
    Err(wrong)
}

/// Writes the delta from one point to another. Returns its length in bytes.
///
/// # Errors
///
/// As [`open_point`], and when the delta cannot be written, the points are not what their roots say, or the user stops it.
pub fn export_delta(
    disk: &dyn Device,
    store: &Store,
    (from, to): (PointId, PointId),
    path: &Path,
    id: [u8; 16],
    identity: Identity,
    progress: &dyn Progress,
) -> Result<u64, JobError> {
    let way = Way::open(disk, store, from, to)?;
    let header = way.header(id, identity)?;
    progress.phase("comparing", None);
    let mut writer = DeltaWriter::new(Output::file(path, FileKind::Delta)?, header, way.free())?;
    let key = writer.key();
    let (values, proven) = way.frames(Uncounted::LeftAlone, |frame| {
        if progress.stop_requested() {
            return Err(JobError::Interrupted("the delta was not made".into()));
        }
        let sealed = frame.seal(&key, LEVEL);
        progress.advance(sealed.len() as u64);
        Ok(writer.frame(&frame.table, &sealed)?)
    })?;
    let (output, _, bytes) = writer.finish(&values, proven, None)?;
    output.commit()?;
    Ok(bytes)
}

/// Refuses to hand out a fuzzy point for use, unless that is wanted.
///
/// # Errors
///
/// When the point is fuzzy and `fuzzy` does not allow that.
pub fn refuse_fuzzy(point: &Point, fuzzy: bool) -> Result<(), JobError> {
    if point.kind != PointKind::Fuzzy || fuzzy {
        return Ok(());
    }
    Err(JobError::Refused(format!(
        "recovery point {} is fuzzy: it was read while it was being written, so nothing may boot from it; choose another one, or \
         add --fuzzy to use it all the same",
        point.id
    )))
}
