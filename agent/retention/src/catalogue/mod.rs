//! What the retention drive knows of a disk: its recovery points, what leads from one to the next, and what is under way.

mod check;
mod codec;
mod layout;
mod moves;
#[cfg(test)]
mod tests;

pub use check::Inconsistency;
pub use codec::{CatalogueError, Copies};
pub(crate) use codec::{encode, read};
pub use moves::MoveError;

use failback_delta::{Coverage, PointKind};
use failback_hashtree::Root;
use failback_units::{BlockSize, ByteCount, MAX_DISK_BYTES};
use std::cmp::Ordering;
use std::fmt;

/// The number of a recovery point. It is never given to another point of the same disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointId(pub u64);

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a file in the retention directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FileId {
    /// The name of the file if it holds the delta of a link.
    #[must_use]
    pub fn delta_name(self) -> String {
        format!("link-{:016x}.delta", self.0)
    }

    /// The name of the file that says where in the delta of a link what is found.
    #[must_use]
    pub fn index_name(self) -> String {
        format!("link-{:016x}.index", self.0)
    }

    /// The name of the file if it holds a delta that is to be applied.
    #[must_use]
    pub fn spool_name(self) -> String {
        format!("spool-{:016x}.delta", self.0)
    }

    /// The file of a name that one of the above gave.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let start = name.strip_prefix("link-").or_else(|| name.strip_prefix("spool-"))?;
        let id = Self(u64::from_str_radix(start.get(..16)?, 16).ok()?);
        [id.delta_name(), id.index_name(), id.spool_name()].iter().any(|ours| ours == name).then_some(id)
    }
}

/// Where a link leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the newer to the older of its points: below the present one.
    Reverse,
    /// From the older to the newer: above the present one.
    Forward,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Reverse => Self::Forward,
            Self::Forward => Self::Reverse,
        }
    }
}

/// What had been read when a point was published, so that it is known to be what its root says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The blocks that changed, and the delta's proof for the others.
    ChangedBlocks,
    /// All blocks but the free ones.
    UsedSpace,
    /// All of the disk.
    WholeDisk,
}

impl Proof {
    /// The words that stand for it in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChangedBlocks => "changed blocks",
            Self::UsedSpace => "used space read",
            Self::WholeDisk => "whole disk read",
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A named state of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its number.
    pub id: PointId,
    /// The root of its content.
    pub root: Root,
    /// The size of the disk as it was.
    pub size: ByteCount,
    /// The block size of the delta that made it; with coverage `used` the root depends on it.
    pub block_size: BlockSize,
    /// Which bytes count for the root.
    pub coverage: Coverage,
    /// What moment it is.
    pub kind: PointKind,
    /// When its source was read, in seconds since 1970.
    pub time: i64,
    /// When it was published, by the clock of this machine, in seconds since 1970.
    pub recorded: i64,
    /// Whether it is to be kept until that is taken back.
    pub pinned: bool,
    /// What had been read when it was published.
    pub proven: Proof,
    /// The header hash of the delta that made it; zeroes if none did.
    pub delta: [u8; 32],
}

/// What leads from a point to its neighbour: a delta in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The file.
    pub file: FileId,
    /// Where it leads.
    pub direction: Direction,
    /// The length of the file.
    pub bytes: ByteCount,
    /// The bytes of content that it carries, before compression.
    pub content_bytes: ByteCount,
    /// The header hash of the delta.
    pub key: [u8; 32],
}

/// Where the delta is that is being applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeltaSource {
    /// In the retention directory, under the name of a spooled file.
    Spooled(FileId),
    /// At this path; at most 4096 bytes.
    Path(String),
}

/// A delta that is being applied to the present point, which is the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    /// The header hash of the delta.
    pub delta: [u8; 32],
    /// Where the delta is.
    pub source: DeltaSource,
    /// The point that there is in the end. Its number is [`Catalogue::next_point`].
    pub result: Point,
    /// What leads back from it.
    pub inverse: Link,
    /// When it began, in seconds since 1970.
    pub started: i64,
}

/// What is under way: while it is, the disk may be at no point at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// A new point is being made.
    Apply(Box<Apply>),
    /// The disk goes to another point, link by link; all points are kept.
    Rollback {
        /// Where it goes.
        goal: PointId,
        /// Where it was.
        from: PointId,
        /// What leads back from the step that is being taken; none between steps, when the disk is at the present point.
        inverse: Option<Link>,
        /// When it began, in seconds since 1970.
        started: i64,
    },
    /// The disk goes back to an older point, link by link; newer points are dropped on the way.
    Undo {
        /// Where it goes.
        goal: PointId,
        /// Whether a step is being taken; between steps the disk is at the present point.
        stepping: bool,
        /// When it began, in seconds since 1970.
        started: i64,
    },
}

impl Pending {
    /// The word that stands for it in reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Apply(_) => "apply",
            Self::Rollback { .. } => "rollback",
            Self::Undo { .. } => "undo",
        }
    }

    /// The files that it needs.
    fn files(&self) -> impl Iterator<Item = FileId> {
        let (inverse, spool) = match self {
            Self::Apply(apply) => {
                let spool = match apply.source {
                    DeltaSource::Spooled(file) => Some(file),
                    DeltaSource::Path(_) => None,
                };
                (Some(apply.inverse.file), spool)
            }
            Self::Rollback { inverse, .. } => (inverse.map(|link| link.file), None),
            Self::Undo { .. } => (None, None),
        };
        inverse.into_iter().chain(spool)
    }

    /// The link that takes the place of one in the chain when what is under way is done.
    pub(crate) fn inverse(&self) -> Option<&Link> {
        match self {
            Self::Apply(apply) => Some(&apply.inverse),
            Self::Rollback { inverse, .. } => inverse.as_ref(),
            Self::Undo { .. } => None,
        }
    }
}

/// Which disk the points are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What ties the points to the disk, as `orchestrate::DiskBinding` has it.
    pub binding: [u8; 32],
    /// The disk in words for people: path, UUID and model when the first point was recorded. At most 4096 bytes.
    pub description: String,
    /// Its size at that time.
    pub size: ByteCount,
}

/// The points of a disk, oldest first, and the links between neighbours.
///
/// A catalogue is a value: each change is a function that makes another one of it, which [`Store::save`](crate::Store::save)
/// then puts in its place. What is said of it holds for every catalogue that there can be, see [`Inconsistency`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    generation: u64,
    disk: Disk,
    next_point: PointId,
    next_file: FileId,
    present: usize,
    committed: PointId,
    points: Vec<Point>,
    links: Vec<Link>,
    pending: Option<Pending>,
}

impl Catalogue {
    /// The catalogue of a disk with its first point, which is present and committed. Its number is 0, whatever `base` says.
    ///
    /// # Errors
    ///
    /// When the description is too long.
    pub fn new(disk: Disk, base: Point) -> Result<Self, Inconsistency> {
        let base = Point { id: PointId(0), ..base };
        let new = Self {
            generation: 0,
            disk,
            next_point: PointId(1),
            next_file: FileId(0),
            present: 0,
            committed: base.id,
            points: vec![base],
            links: Vec::new(),
            pending: None,
        };
        new.check()?;
        Ok(new)
    }

    /// How often it was saved.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn with_generation(self, generation: u64) -> Self {
        Self { generation, ..self }
    }

    /// The disk.
    #[must_use]
    pub const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The number that the next point gets.
    #[must_use]
    pub const fn next_point(&self) -> PointId {
        self.next_point
    }

    /// The number that the next file gets, at least.
    #[must_use]
    pub const fn next_file(&self) -> FileId {
        self.next_file
    }

    /// All points, oldest first; there is at least one.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// All links: number i is between the points number i and i + 1.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The point that the disk holds, or held before what is under way.
    #[must_use]
    pub fn present(&self) -> &Point {
        &self.points[self.present]
    }

    /// The place of that point in the chain.
    #[must_use]
    pub const fn present_index(&self) -> usize {
        self.present
    }

    /// The point that an undo returns to.
    #[must_use]
    pub const fn committed(&self) -> PointId {
        self.committed
    }

    /// What is under way.
    #[must_use]
    pub const fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    /// The point of a number.
    #[must_use]
    pub fn point(&self, id: PointId) -> Option<&Point> {
        self.index_of(id).map(|index| &self.points[index])
    }

    /// The place of a point in the chain.
    #[must_use]
    pub fn index_of(&self, id: PointId) -> Option<usize> {
        self.points.binary_search_by_key(&id, |point| point.id).ok()
    }

    /// The last link on the way from the disk to a point, whose delta leads there; none for the present point.
    #[must_use]
    pub fn link_to(&self, id: PointId) -> Option<&Link> {
        let index = self.index_of(id)?;
        match index.cmp(&self.present) {
            Ordering::Less => self.links.get(index),
            Ordering::Equal => None,
            Ordering::Greater => self.links.get(index - 1),
        }
    }

    /// The links on the way from one point to another, in the order in which they are passed; none if one of the points is
    /// not there. They lead that way only where the present point does not lie ahead.
    #[must_use]
    pub fn links_between(&self, from: PointId, to: PointId) -> Option<Vec<&Link>> {
        let (from, to) = (self.index_of(from)?, self.index_of(to)?);
        let mut links: Vec<_> = self.links[from.min(to)..from.max(to)].iter().collect();
        if to < from {
            links.reverse();
        }
        Some(links)
    }

    /// The bytes of all files of links together.
    #[must_use]
    pub fn link_bytes(&self) -> ByteCount {
        let bytes = self.links.iter().fold(0, |sum: u64, link| sum.saturating_add(link.bytes.get()));
        // More than that no file system holds.
        ByteCount::new(bytes.min(MAX_DISK_BYTES)).unwrap_or_default()
    }

    /// All files that this catalogue names.
    pub(crate) fn files(&self) -> impl Iterator<Item = FileId> {
        let links = self.links.iter().map(|link| link.file);
        links.chain(self.pending.iter().flat_map(Pending::files))
    }
}
