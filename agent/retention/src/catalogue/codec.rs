//! The catalogue as bytes, and back: twice in one file, so that a damaged sector costs nothing.

use super::layout::{
    COPY_ALIGNMENT, DESCRIPTION_MAX, MAGIC, PATH_MAX, POINTS_MAX, RECORD_MAX, RawApply, RawHeader, RawLink, RawPoint,
    RawRollback, RawUndo, VERSION, direction, pending, proof, source,
};
use super::{
    Apply, Catalogue, DeltaSource, Direction, Disk, FileId, Inconsistency, Link, Pending, Point, PointId, Proof,
};
use crate::StoredFile;
use failback_delta::{Coverage, PointKind};
use failback_hashtree::Root;
use failback_units::{BlockSize, ByteCount};
use std::io;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const CUT_OFF: &str = "it was cut off";

/// Why a catalogue is not believed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The medium failed.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// The first bytes are those of something else.
    #[error("it is no catalogue of failback's")]
    NotOurs,
    /// A later version of the format.
    #[error("it has format version {0}, and this program knows only version 1: use a newer failback")]
    UnknownVersion(u16),
    /// A feature that this program does not know, and must not ignore.
    #[error("it uses a feature unknown to this program ({what} {value:#x}): use a newer failback")]
    UnknownFeature {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// Bytes were changed, or never made sense.
    #[error("both of its copies are damaged ({0})")]
    Damaged(&'static str),
    /// It is intact and contradicts itself.
    #[error("it contradicts itself")]
    Inconsistent(#[from] Inconsistency),
}

impl CatalogueError {
    /// Whether it may be that of a copy that was intact once. The version is not covered by the hash: where it is another one,
    /// nobody knows what else is.
    const fn may_be_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Read(_) | Self::NotOurs | Self::UnknownVersion(_))
    }

    /// Of the errors of two copies the one that says more has the higher rank.
    const fn rank(&self) -> u8 {
        match self {
            Self::UnknownVersion(_) | Self::UnknownFeature { .. } | Self::Inconsistent(_) => 3,
            Self::Read(_) => 2,
            Self::Damaged(_) => 1,
            Self::NotOurs => 0,
        }
    }
}

/// Which of the two copies in the file are intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// Both, and they are the same.
    Intact,
    /// The first is damaged; the second was taken.
    FirstDamaged,
    /// The second is damaged, or is another one; the first was taken.
    SecondDamaged,
}

/// Reads a catalogue from its file: the first copy that is intact.
pub(crate) fn read(file: &dyn StoredFile) -> Result<(Catalogue, Copies), CatalogueError> {
    let len = file.len().map_err(CatalogueError::Read)?;
    let first = read_copy(file, 0, len);
    // The second copy begins in the middle, so that it is found without the first. In a file that was cut off or added to it
    // is not found, and the first is all that can be hoped for.
    let second = read_copy(file, len / 2, len);
    match (first, second) {
        (Ok(first), Ok(second)) if first == second => Ok((first, Copies::Intact)),
        (Ok(first), _) => Ok((first, Copies::SecondDamaged)),
        (Err(first), Ok(second)) if first.may_be_damage() => Ok((second, Copies::FirstDamaged)),
        (Err(first), Err(second)) if second.rank() > first.rank() => Err(second),
        (Err(first), _) => Err(first),
    }
}

/// Reads the copy at `at` in a file of `len` bytes.
fn read_copy(file: &dyn StoredFile, at: u64, len: u64) -> Result<Catalogue, CatalogueError> {
    let cut_off = || CatalogueError::Damaged(CUT_OFF);
    let room = len.saturating_sub(at);
    let mut raw = RawHeader::new_zeroed();
    if room < ByteCount::of_memory(size_of::<RawHeader>()).get() {
        return Err(cut_off());
    }
    file.read_at(at, raw.as_mut_bytes()).map_err(CatalogueError::Read)?;
    check_start(&raw)?;
    let record_len = raw.record_len.get();
    if record_len > room.min(RECORD_MAX) {
        return Err(cut_off());
    }
    let mut record = vec![0; usize::try_from(record_len).map_err(|_| cut_off())?];
    file.read_at(at, &mut record).map_err(CatalogueError::Read)?;
    decode(&record)
}

/// What comes before anything else is believed.
fn check_start(header: &RawHeader) -> Result<(), CatalogueError> {
    if header.magic != MAGIC {
        return Err(CatalogueError::NotOurs);
    }
    match header.version.get() {
        VERSION => Ok(()),
        other => Err(CatalogueError::UnknownVersion(other)),
    }
}

/// The content of a catalogue's file.
pub(crate) fn encode(catalogue: &Catalogue) -> Result<Vec<u8>, Inconsistency> {
    catalogue.check()?;
    let mut bytes = record(catalogue)?;
    let hash = blake3::hash(&bytes);
    if let Ok((header, _)) = RawHeader::mut_from_prefix(&mut bytes) {
        header.hash = hash.into();
    }
    // A record is no longer than its limits allow.
    let padded = bytes.len().next_multiple_of(usize::try_from(COPY_ALIGNMENT).unwrap_or(bytes.len()));
    bytes.resize(padded, 0);
    bytes.extend_from_within(..);
    Ok(bytes)
}

/// The record with a hash of zeroes.
fn record(catalogue: &Catalogue) -> Result<Vec<u8>, Inconsistency> {
    let Catalogue { generation, disk, next_point, next_file, present, committed, points, links, pending } = catalogue;
    let number = |count: usize| u32::try_from(count).map_err(|_| Inconsistency::TooManyPoints);
    let mut body = disk.description.clone().into_bytes();
    for point in points {
        body.extend_from_slice(RawPoint::from(point).as_bytes());
    }
    for link in links {
        body.extend_from_slice(RawLink::from(link).as_bytes());
    }
    let code = put_pending(pending.as_ref(), &mut body)?;
    let header_len = size_of::<RawHeader>();
    let header = RawHeader {
        magic: MAGIC,
        version: VERSION.into(),
        header_len: u16::try_from(header_len).unwrap_or(u16::MAX).into(),
        flags: 0.into(),
        record_len: ByteCount::of_memory(header_len + body.len()).get().into(),
        generation: (*generation).into(),
        disk_size: disk.size.get().into(),
        next_point: next_point.0.into(),
        next_file: next_file.0.into(),
        committed: committed.0.into(),
        present: number(*present)?.into(),
        point_count: number(points.len())?.into(),
        description_len: number(disk.description.len())?.into(),
        pending: code,
        reserved: [0; 3],
        binding: disk.binding,
        hash: [0; 32],
    };
    Ok([header.as_bytes(), &body].concat())
}

/// Appends what is under way, and returns its code.
fn put_pending(what: Option<&Pending>, body: &mut Vec<u8>) -> Result<u8, Inconsistency> {
    match what {
        None => Ok(pending::NOTHING),
        Some(Pending::Apply(apply)) => {
            let (code, spool, path) = match &apply.source {
                DeltaSource::Spooled(file) => (source::SPOOLED, file.0, ""),
                DeltaSource::Path(path) => (source::PATH, 0, path.as_str()),
            };
            let raw = RawApply {
                delta: apply.delta,
                started: apply.started.into(),
                result: (&apply.result).into(),
                inverse: (&apply.inverse).into(),
                spool: spool.into(),
                path_len: u32::try_from(path.len()).map_err(|_| Inconsistency::Path)?.into(),
                source: code,
                reserved: [0; 3],
            };
            body.extend_from_slice(raw.as_bytes());
            body.extend_from_slice(path.as_bytes());
            Ok(pending::APPLY)
        }
        Some(Pending::Rollback { goal, from, inverse, started }) => {
            let raw = RawRollback {
                goal: goal.0.into(),
                from: from.0.into(),
                started: (*started).into(),
                inverse: inverse.as_ref().map_or_else(RawLink::new_zeroed, RawLink::from),
                stepping: inverse.is_some().into(),
                reserved: [0; 7],
            };
            body.extend_from_slice(raw.as_bytes());
            Ok(pending::ROLLBACK)
        }
        Some(Pending::Undo { goal, stepping, started }) => {
            let raw = RawUndo {
                goal: goal.0.into(),
                started: (*started).into(),
                stepping: (*stepping).into(),
                reserved: [0; 7],
            };
            body.extend_from_slice(raw.as_bytes());
            Ok(pending::UNDO)
        }
    }
}

/// Takes a record apart.
fn decode(record: &[u8]) -> Result<Catalogue, CatalogueError> {
    let (raw, rest) = RawHeader::read_from_prefix(record).map_err(|_| CatalogueError::Damaged(CUT_OFF))?;
    check_start(&raw)?;
    if !is_intact(&raw, rest) {
        return Err(CatalogueError::Damaged("its hash does not fit"));
    }
    if raw.flags.get() != 0 {
        return Err(unknown("flags", raw.flags.get()));
    }
    if usize::from(raw.header_len.get()) != size_of::<RawHeader>() {
        return Err(CatalogueError::Damaged("the length of its header is not that of version 1"));
    }
    reserved_is_zero(&raw.reserved)?;
    let mut input = Input(rest);
    let description = input.text(raw.description_len.get(), DESCRIPTION_MAX)?;
    let point_count = usize::try_from(raw.point_count.get()).unwrap_or(usize::MAX);
    if point_count > POINTS_MAX {
        return Err(Inconsistency::TooManyPoints.into());
    }
    let points = (0..point_count).map(|_| input.point()).collect::<Result<_, _>>()?;
    let links = (1..point_count).map(|_| input.link()).collect::<Result<_, _>>()?;
    let pending = input.pending(raw.pending)?;
    if !input.0.is_empty() {
        return Err(CatalogueError::Damaged("something follows its end"));
    }
    let catalogue = Catalogue {
        generation: raw.generation.get(),
        disk: Disk { binding: raw.binding, description, size: size(raw.disk_size.get())? },
        next_point: PointId(raw.next_point.get()),
        next_file: FileId(raw.next_file.get()),
        present: usize::try_from(raw.present.get()).unwrap_or(usize::MAX),
        committed: PointId(raw.committed.get()),
        points,
        links,
        pending,
    };
    catalogue.check()?;
    Ok(catalogue)
}

fn is_intact(header: &RawHeader, rest: &[u8]) -> bool {
    let unsealed = RawHeader { hash: [0; 32], ..*header };
    let mut hasher = blake3::Hasher::new();
    hasher.update(unsealed.as_bytes()).update(rest);
    hasher.finalize() == header.hash
}

/// What is left of a record.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], CatalogueError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(CatalogueError::Damaged("it ends too early"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn structure<T: FromBytes + Immutable>(&mut self) -> Result<T, CatalogueError> {
        T::read_from_bytes(self.bytes(size_of::<T>())?).map_err(|_| CatalogueError::Damaged("it ends too early"))
    }

    fn text(&mut self, len: u32, limit: usize) -> Result<String, CatalogueError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > limit {
            return Err(CatalogueError::Damaged("a text is too long"));
        }
        let text = std::str::from_utf8(self.bytes(len)?);
        Ok(text.map_err(|_| CatalogueError::Damaged("a text is not UTF-8"))?.to_owned())
    }

    fn point(&mut self) -> Result<Point, CatalogueError> {
        self.structure::<RawPoint>()?.try_into()
    }

    fn link(&mut self) -> Result<Link, CatalogueError> {
        self.structure::<RawLink>()?.try_into()
    }

    fn pending(&mut self, code: u8) -> Result<Option<Pending>, CatalogueError> {
        match code {
            pending::NOTHING => Ok(None),
            pending::APPLY => {
                let raw: RawApply = self.structure()?;
                reserved_is_zero(&raw.reserved)?;
                let path = self.text(raw.path_len.get(), PATH_MAX)?;
                let source = match raw.source {
                    source::SPOOLED if path.is_empty() => DeltaSource::Spooled(FileId(raw.spool.get())),
                    source::PATH if raw.spool.get() == 0 => DeltaSource::Path(path),
                    source::SPOOLED | source::PATH => return Err(CatalogueError::Damaged("a delta is in two places")),
                    other => return Err(unknown("source", other)),
                };
                let (delta, started) = (raw.delta, raw.started.get());
                let (result, inverse) = (raw.result.try_into()?, raw.inverse.try_into()?);
                Ok(Some(Pending::Apply(Box::new(Apply { delta, source, result, inverse, started }))))
            }
            pending::ROLLBACK => {
                let raw: RawRollback = self.structure()?;
                reserved_is_zero(&raw.reserved)?;
                let inverse = if flag(raw.stepping)? { Some(raw.inverse.try_into()?) } else { None };
                if inverse.is_none() {
                    reserved_is_zero(raw.inverse.as_bytes())?;
                }
                let (goal, from) = (PointId(raw.goal.get()), PointId(raw.from.get()));
                Ok(Some(Pending::Rollback { goal, from, inverse, started: raw.started.get() }))
            }
            pending::UNDO => {
                let raw: RawUndo = self.structure()?;
                reserved_is_zero(&raw.reserved)?;
                let (goal, started) = (PointId(raw.goal.get()), raw.started.get());
                Ok(Some(Pending::Undo { goal, stepping: flag(raw.stepping)?, started }))
            }
            other => Err(unknown("pending", other)),
        }
    }
}

impl From<&Point> for RawPoint {
    fn from(point: &Point) -> Self {
        Self {
            id: point.id.0.into(),
            size: point.size.get().into(),
            time: point.time.into(),
            recorded: point.recorded.into(),
            root: point.root.0,
            delta: point.delta,
            block_shift: point.block_size.shift(),
            coverage: point.coverage.code(),
            kind: point.kind.code(),
            proof: match point.proven {
                Proof::ChangedBlocks => proof::CHANGED_BLOCKS,
                Proof::UsedSpace => proof::USED_SPACE,
                Proof::WholeDisk => proof::WHOLE_DISK,
            },
            pinned: point.pinned.into(),
            reserved: [0; 3],
        }
    }
}

impl TryFrom<RawPoint> for Point {
    type Error = CatalogueError;

    fn try_from(raw: RawPoint) -> Result<Self, CatalogueError> {
        reserved_is_zero(&raw.reserved)?;
        Ok(Self {
            id: PointId(raw.id.get()),
            root: Root(raw.root),
            size: size(raw.size.get())?,
            block_size: BlockSize::from_shift(raw.block_shift).ok_or(CatalogueError::Damaged("no block size"))?,
            coverage: Coverage::from_code(raw.coverage).ok_or_else(|| unknown("coverage", raw.coverage))?,
            kind: PointKind::from_code(raw.kind).ok_or_else(|| unknown("kind", raw.kind))?,
            time: raw.time.get(),
            recorded: raw.recorded.get(),
            pinned: flag(raw.pinned)?,
            proven: match raw.proof {
                proof::CHANGED_BLOCKS => Proof::ChangedBlocks,
                proof::USED_SPACE => Proof::UsedSpace,
                proof::WHOLE_DISK => Proof::WholeDisk,
                other => return Err(unknown("proof", other)),
            },
            delta: raw.delta,
        })
    }
}

impl From<&Link> for RawLink {
    fn from(link: &Link) -> Self {
        Self {
            file: link.file.0.into(),
            bytes: link.bytes.get().into(),
            content_bytes: link.content_bytes.get().into(),
            key: link.key,
            direction: match link.direction {
                Direction::Reverse => direction::REVERSE,
                Direction::Forward => direction::FORWARD,
            },
            reserved: [0; 7],
        }
    }
}

impl TryFrom<RawLink> for Link {
    type Error = CatalogueError;

    fn try_from(raw: RawLink) -> Result<Self, CatalogueError> {
        reserved_is_zero(&raw.reserved)?;
        Ok(Self {
            file: FileId(raw.file.get()),
            direction: match raw.direction {
                direction::REVERSE => Direction::Reverse,
                direction::FORWARD => Direction::Forward,
                other => return Err(unknown("direction", other)),
            },
            bytes: size(raw.bytes.get())?,
            content_bytes: size(raw.content_bytes.get())?,
            key: raw.key,
        })
    }
}

fn unknown(what: &'static str, value: impl Into<u64>) -> CatalogueError {
    CatalogueError::UnknownFeature { what, value: value.into() }
}

fn size(bytes: u64) -> Result<ByteCount, CatalogueError> {
    ByteCount::new(bytes).ok_or(CatalogueError::Damaged("a size that nothing has"))
}

fn flag(byte: u8) -> Result<bool, CatalogueError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CatalogueError::Damaged("neither yes nor no")),
    }
}

fn reserved_is_zero(field: &[u8]) -> Result<(), CatalogueError> {
    if field.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(CatalogueError::Damaged("a reserved field is not zero"))
}
