//! From a path to a disk.

use super::beside::child_of;
use super::writing::Writing;
use super::{Body, Disk, DiskFacts, ExtentFacts, FileSlot, Layer, Part};
use crate::cowd::CowdExtent;
use crate::descriptor::{Descriptor, DescriptorError, ExtentAccess, ExtentKind, ExtentLine, MAX_DESCRIPTOR_BYTES};
use crate::extent::{Extent, ExtentError};
use crate::files::{Access, Files};
use crate::layout::{COWD_MAGIC, SECTOR, SESPARSE_MAGIC, SPARSE_MAGIC, SparseHeader};
use crate::sesparse::SeSparseExtent;
use crate::sparse::{Shape, SparseExtent, read_header};
use crate::stream::StreamExtent;
use failback_blockio::{Buffer, Device, IoError, Operation, Resizable, run};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The most disks in a chain of snapshots; ESXi makes 32.
const MAX_CHAIN: usize = 64;

/// Why a disk is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system or disk below.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file is not what it should be; a sentence that names it and says what to do.
    #[error("{0}")]
    Damaged(String),
    /// It must not be opened so; a sentence that says what to do.
    #[error("{0}")]
    Refused(String),
}

impl From<ExtentError> for OpenError {
    fn from(error: ExtentError) -> Self {
        match error {
            ExtentError::Io(error) => Self::Io(error),
            ExtentError::Damaged(sentence) => Self::Damaged(sentence),
        }
    }
}

/// Whether a file that begins with these bytes is a VMDK or a part of one: its descriptor or a sparse extent. A flat extent
/// begins with whatever its disk begins with. 21 bytes are enough.
#[must_use]
pub fn is_vmdk(first: &[u8]) -> bool {
    first.starts_with(&SPARSE_MAGIC)
        || first.starts_with(&COWD_MAGIC)
        || first.starts_with(&SESPARSE_MAGIC)
        || Descriptor::begins(first)
}

/// Opens the disk whose descriptor is, or is embedded in, the file at `path`.
///
/// For writing, what must be changed is claimed through `files`; parents are only ever read.
///
/// # Errors
///
/// When a file cannot be opened, is damaged, or leads where it must not; for writing also when the disk has children, or
/// has extents that can only be read.
pub fn open(path: &Path, access: Access, files: &dyn Files) -> Result<Disk, OpenError> {
    let mut slots = Vec::new();
    let top = open_layer(path, access, files, &mut slots)?;
    let mut chain = vec![path.to_owned()];
    let mut layers = vec![top.layer];
    let mut child = top.descriptor.clone();
    while child.has_parent() {
        let below = parent(&chain, &child, files)?;
        let opened = open_layer(&below, Access::Read, files, &mut slots)?;
        let (cid, wanted) = (opened.descriptor.cid, child.parent_cid);
        if cid != wanted {
            let (child, below) = (chain[chain.len() - 1].display(), below.display());
            return Err(OpenError::Refused(format!(
                "{child} was made of a parent with content ID {wanted:08x}, but {below} has {cid:08x}: the parent was \
                 changed since, and both together are no disk; restore the parent as it was"
            )));
        }
        chain.push(below);
        layers.push(opened.layer);
        child = opened.descriptor;
    }
    let descriptor = top.descriptor;
    let writing = match access {
        Access::Read => None,
        Access::Write => Some(make_writable(path, &descriptor, &layers[0], top.descriptor_at, files)?),
    };
    let unclean = layers.iter().flat_map(|layer| &layer.parts).any(|part| match &part.body {
        Body::Sparse { extent, .. } => extent.is_unclean(),
        _ => false,
    });
    let facts = facts(&descriptor, &layers[0], chain, unclean);
    let name = Arc::from(path.to_string_lossy());
    Ok(Disk { name, size: descriptor.capacity, layers, files: slots, writing, facts })
}

/// Finds out whether the disk at `path` could be opened for writing, and opens it for reading only.
///
/// # Errors
///
/// What opening it for writing would end with, but for who uses its files.
pub fn may_be_written(path: &Path, files: &dyn Files) -> Result<(), OpenError> {
    let top = open_layer(path, Access::Read, files, &mut Vec::new())?;
    check_writable(path, &top.descriptor, &top.layer, files)
}

/// A layer that was opened.
pub(crate) struct Opened {
    pub(crate) descriptor: Descriptor,
    /// The file that the descriptor is in, and where in it.
    descriptor_at: (usize, u64),
    pub(crate) layer: Layer,
}

/// Opens a descriptor and its extents.
pub(crate) fn open_layer(
    path: &Path,
    access: Access,
    files: &dyn Files,
    slots: &mut Vec<FileSlot>,
) -> Result<Opened, OpenError> {
    let file = add(slots, files.open(path, access)?);
    let device = Arc::clone(&slots[file].device);
    let (text, at, header) = read_descriptor(path, &*device)?;
    let descriptor = Descriptor::parse(&text).map_err(|error| unreadable(path, &error))?;
    let mut parts = Vec::with_capacity(descriptor.extents.len());
    let mut start = ByteOffset::ZERO;
    for line in &descriptor.extents {
        let range = ByteRange::new(start, line.size).unwrap_or_else(|| unreachable!("the sum of all was checked"));
        start = range.end();
        if range.is_empty() {
            continue;
        }
        let body = match header {
            // The extent is the file itself, whatever it was called when it was made.
            Some(header) => sparse_body(file, &device, &header, line)?,
            None => body(path, line, access, files, slots)?,
        };
        parts.push(Part { range, body });
    }
    if header.is_some() && descriptor.extents.len() != 1 {
        let path = path.display();
        return Err(OpenError::Damaged(format!(
            "the descriptor in {path} describes other extents than the file it is in"
        )));
    }
    let layer = Layer { size: descriptor.capacity, parts };
    Ok(Opened { descriptor, descriptor_at: (file, at), layer })
}

fn add(slots: &mut Vec<FileSlot>, device: Box<dyn Resizable>) -> usize {
    slots.push(FileSlot { device: Arc::from(device), touched: AtomicBool::new(false) });
    slots.len() - 1
}

fn unreadable(path: &Path, error: &DescriptorError) -> OpenError {
    OpenError::Damaged(format!("{} cannot be used: {error}", path.display()))
}

/// The text of a descriptor, where it lies, and the header of the extent in which it is embedded.
pub(super) fn read_descriptor(
    path: &Path,
    device: &dyn Device,
) -> Result<(Vec<u8>, u64, Option<SparseHeader>), OpenError> {
    let name = path.display();
    let Some(header) = read_header(device)? else {
        let length = device.size().get().min(MAX_DESCRIPTOR_BYTES + 1);
        let text = read(device, 0, length)?;
        if text.starts_with(&COWD_MAGIC) || text.starts_with(&SESPARSE_MAGIC) {
            return Err(OpenError::Refused(format!(
                "{name} is an extent without a descriptor: name the disk's .vmdk file"
            )));
        }
        if !Descriptor::begins(&text) {
            return Err(OpenError::Refused(format!(
                "{name} is no VMDK: it begins with neither a descriptor nor a header"
            )));
        }
        // In a file of its own nothing follows the text but padding. Lines behind a damaged place would be lost in silence.
        let padding = text.iter().position(|byte| *byte == 0).and_then(|end| text.get(end..)).unwrap_or_default();
        if padding.iter().any(|byte| *byte != 0) {
            return Err(OpenError::Damaged(format!("{name} has zero bytes within its text: restore it from a copy")));
        }
        return Ok((text, 0, None));
    };
    let (at, length) = (header.descriptor_offset.get(), header.descriptor_sectors.get());
    if at == 0 || length == 0 {
        return Err(OpenError::Refused(format!(
            "{name} is an extent without a descriptor: name the disk's .vmdk file"
        )));
    }
    let bytes = at.checked_mul(SECTOR).zip(length.checked_mul(SECTOR));
    let inside = |(at, length): &(u64, u64)| {
        *length <= MAX_DESCRIPTOR_BYTES && at.checked_add(*length).is_some_and(|end| end <= device.size().get())
    };
    let (at, length) = bytes.filter(inside).ok_or_else(|| {
        OpenError::Damaged(format!(
            "{name} says that its descriptor lies where the file has nothing: restore it from a copy"
        ))
    })?;
    Ok((read(device, at, length)?, at, Some(header)))
}

pub(super) fn read(device: &dyn Device, at: u64, length: u64) -> Result<Vec<u8>, IoError> {
    let (at, length) = (ByteOffset::new(at).unwrap_or_default(), usize::try_from(length).unwrap_or(0));
    let buffer = run(device, Operation::Read { at, into: Buffer::zeroed(length) })?;
    Ok(buffer.map(|buffer| buffer.to_vec()).unwrap_or_default())
}

/// Opens the file of an extent.
fn body(
    path: &Path,
    line: &ExtentLine,
    access: Access,
    files: &dyn Files,
    slots: &mut Vec<FileSlot>,
) -> Result<Body, OpenError> {
    if line.access == ExtentAccess::None {
        let path = path.display();
        return Err(OpenError::Refused(format!("an extent of {path} is marked NOACCESS, so the disk cannot be read")));
    }
    let Some(name) = &line.file else { return Ok(Body::Zero) };
    if path.file_name() == Some(OsStr::new(name)) {
        let path = path.display();
        return Err(OpenError::Damaged(format!(
            "{path} names itself as an extent, and would be overwritten: correct it"
        )));
    }
    let access = if line.access == ExtentAccess::ReadWrite { access } else { Access::Read };
    let file = add(slots, files.open(&path.with_file_name(name), access)?);
    let device = Arc::clone(&slots[file].device);
    match line.kind {
        ExtentKind::Zero => Ok(Body::Zero),
        ExtentKind::Flat => {
            let end = line.offset.checked_add(line.size.get());
            if end.is_none_or(|end| end > device.size().get()) {
                return Err(OpenError::Damaged(format!(
                    "{} has {} bytes, which is less than {} says: it was cut off or is another disk's file",
                    device.name(),
                    device.size(),
                    path.display()
                )));
            }
            Ok(Body::Flat { file, offset: line.offset })
        }
        ExtentKind::Sparse => {
            let header = read_header(&*device)?.ok_or_else(|| no_extent(&*device, "a sparse extent"))?;
            sparse_body(file, &device, &header, line)
        }
        ExtentKind::Cowd | ExtentKind::SeSparse => {
            let extent = foreign(line.kind, &device)?;
            holds(&*device, extent.capacity(), u64::from(extent.grain_size()), line)?;
            Ok(Body::Grains { file, extent })
        }
    }
}

fn no_extent(device: &dyn Device, what: &str) -> OpenError {
    OpenError::Damaged(format!(
        "{} is not {what}, although the descriptor says so: restore it from a copy",
        device.name()
    ))
}

fn sparse_body(
    file: usize,
    device: &Arc<dyn Resizable>,
    header: &SparseHeader,
    line: &ExtentLine,
) -> Result<Body, OpenError> {
    if line.kind != ExtentKind::Sparse {
        return Err(no_extent(&**device, "what its descriptor describes"));
    }
    if header.is_stream() {
        let extent = stream(device)?;
        holds(&**device, extent.capacity(), u64::from(extent.grain_size()), line)?;
        return Ok(Body::Grains { file, extent });
    }
    let shape = Shape::of(header, &**device)?;
    holds(&**device, shape.capacity, shape.grain, line)?;
    let extent = Box::new(SparseExtent::open(Arc::clone(device), shape)?);
    Ok(Body::Sparse { file, extent })
}

/// An extent must hold what the descriptor says. It may hold more only to fill its last grain: a descriptor that says less
/// would cut off the end of the disk, and nobody would notice.
fn holds(device: &dyn Device, capacity: ByteCount, grain: u64, line: &ExtentLine) -> Result<(), OpenError> {
    if capacity >= line.size && capacity.saturating_sub(line.size).get() < grain {
        return Ok(());
    }
    Err(OpenError::Damaged(format!(
        "{} holds {capacity} bytes of the disk, but the descriptor says {}: one of them is another disk's",
        device.name(),
        line.size
    )))
}

/// An extent in a format of ESXi's snapshots, which is read only.
fn foreign(kind: ExtentKind, device: &Arc<dyn Resizable>) -> Result<Box<dyn Extent>, ExtentError> {
    let device = Box::new(Arc::clone(device));
    Ok(if kind == ExtentKind::Cowd {
        Box::new(CowdExtent::open(device)?)
    } else {
        Box::new(SeSparseExtent::open(device)?)
    })
}

/// A stream with compressed grains.
fn stream(device: &Arc<dyn Resizable>) -> Result<Box<dyn Extent>, ExtentError> {
    Ok(Box::new(StreamExtent::open(Box::new(Arc::clone(device)))?))
}

/// The path of the parent of the last disk in `chain`.
pub(crate) fn parent(chain: &[PathBuf], child: &Descriptor, files: &dyn Files) -> Result<PathBuf, OpenError> {
    let path = &chain[chain.len() - 1];
    let hint = child.parent_hint.as_deref().unwrap_or_default();
    let resolved = beside(path, hint).or_else(|| within_roots(path, hint, files.roots()));
    let Some(resolved) = resolved else {
        return Err(OpenError::Refused(format!(
            "the parent of {} is said to be \"{}\", which is outside of the directories that may be read: put it beside \
             the disk",
            path.display(),
            hint.escape_debug()
        )));
    };
    if chain.contains(&resolved) {
        return Err(OpenError::Damaged(format!("{} is its own parent, so it is no disk", resolved.display())));
    }
    if chain.len() >= MAX_CHAIN {
        let first = chain[0].display();
        return Err(OpenError::Refused(format!(
            "{first} has more than {MAX_CHAIN} parents: consolidate its snapshots"
        )));
    }
    Ok(resolved)
}

/// The file beside `path` that a hint means, if it is a plain name.
fn beside(path: &Path, hint: &str) -> Option<PathBuf> {
    let mut components = Path::new(hint).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) => Some(path.with_file_name(name)),
        _ => None,
    }
}

/// The file that a hint means, if it lies below one of the roots by its name alone.
fn within_roots(path: &Path, hint: &str, roots: &[PathBuf]) -> Option<PathBuf> {
    let directory = path.parent()?;
    let mut normal = PathBuf::new();
    for component in directory.join(hint).components() {
        match component {
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    roots.iter().any(|root| normal.starts_with(root)).then_some(normal)
}

/// Refuses to write what must not be written, puts right what a crash left, and finds out where the content ID goes.
fn make_writable(
    path: &Path,
    descriptor: &Descriptor,
    layer: &Layer,
    (file, at): (usize, u64),
    files: &dyn Files,
) -> Result<Writing, OpenError> {
    check_writable(path, descriptor, layer, files)?;
    for part in &layer.parts {
        if let Body::Sparse { extent, .. } = &part.body {
            extent.prepare()?;
        }
    }
    let chance = u32::try_from(RandomState::new().build_hasher().finish() & 0xffff_ffff).unwrap_or(1);
    let (place, digits) = descriptor.next_cid(chance);
    Ok(Writing::new((file, at + ByteCount::of_memory(place.start).get(), digits)))
}

/// Refuses a disk that must not be written to.
fn check_writable(path: &Path, descriptor: &Descriptor, layer: &Layer, files: &dyn Files) -> Result<(), OpenError> {
    let name = path.display();
    if descriptor.extents.iter().any(|line| line.access != ExtentAccess::ReadWrite) {
        return Err(OpenError::Refused(format!(
            "an extent of {name} is marked as read-only, so the disk is not written to"
        )));
    }
    for (line, part) in descriptor.extents.iter().filter(|line| !line.size.is_zero()).zip(&layer.parts) {
        let format = match (&part.body, line.kind) {
            (Body::Flat { .. } | Body::Sparse { .. }, _) => continue,
            (Body::Zero, _) => "without a file (ZERO)",
            (_, ExtentKind::Cowd) => "in the format of an ESXi snapshot (COWD)",
            (_, ExtentKind::SeSparse) => "in the format of an ESXi snapshot (seSparse)",
            (Body::Grains { .. }, _) => "in a stream with compressed grains",
        };
        return Err(OpenError::Refused(format!(
            "{name} has an extent {format}, which is only read here: consolidate snapshots in vSphere, or make a disk that \
             can be written with `failback vmdk convert`"
        )));
    }
    if let Some(child) = child_of(path, descriptor, files)? {
        return Err(OpenError::Refused(format!(
            "{name} is the parent of {}, which would become unreadable: consolidate the snapshots of the virtual machine in \
             vSphere, then run this again",
            child.display()
        )));
    }
    Ok(())
}

fn facts(descriptor: &Descriptor, layer: &Layer, chain: Vec<PathBuf>, unclean: bool) -> DiskFacts {
    let mut parts = layer.parts.iter();
    let extents = descriptor.extents.iter().map(|line| {
        let part = if line.size.is_zero() { None } else { parts.next() };
        let grain = part.and_then(|part| match &part.body {
            Body::Sparse { extent, .. } => Some(extent.grain_size()),
            Body::Grains { extent, .. } => Some(extent.grain_size()),
            Body::Zero | Body::Flat { .. } => None,
        });
        ExtentFacts { file: line.file.clone(), kind: line.kind, access: line.access, size: line.size, grain }
    });
    DiskFacts {
        create_type: descriptor.create_type.clone(),
        capacity: descriptor.capacity,
        cid: descriptor.cid,
        parent_cid: descriptor.has_parent().then_some(descriptor.parent_cid),
        uuid: descriptor.uuid,
        adapter: descriptor.adapter.clone(),
        hardware_version: descriptor.hardware_version,
        change_track: descriptor.change_track.clone(),
        extents: extents.collect(),
        chain,
        unclean,
    }
}
