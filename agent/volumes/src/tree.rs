//! What is on a disk, as a tree to be printed, and the free space that follows from it.

use crate::{FileSystem, FreeMap, State, TableKind};
use failback_blockio::IoError;
use failback_units::{ByteCount, ByteOffset};
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// A disk and everything that was found on it.
#[derive(Clone, Debug, Serialize)]
pub struct DiskLayout {
    /// The name under which it was opened.
    pub name: String,
    /// Its size.
    #[serde(serialize_with = "count")]
    pub size: ByteCount,
    /// Its logical sector, in bytes.
    pub sector_size: u32,
    /// What fills it.
    pub content: Content,
    /// What is free of it, in bytes of the disk: the free space of every volume on it that was fully understood.
    #[serde(skip)]
    pub free: FreeMap,
    /// The first read that the disk failed, if one did: what lies there counts as used.
    #[serde(skip)]
    pub failure: Option<Arc<IoError>>,
}

/// What fills a disk, a partition or a logical volume.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Content {
    /// Partitions.
    PartitionTable(PartitionTable),
    /// A file system, swap space, or something else that is recognised and not looked into.
    FileSystem(FileSystemFacts),
    /// A part of a volume group of LVM2.
    PhysicalVolume(PhysicalVolume),
    /// Logical partitions, which stand in the table behind the others.
    Extended,
    /// Something that cannot be told: every block is in use.
    Unclear {
        /// What was found; more than one thing contradicts.
        found: Vec<String>,
        /// A clause that completes "every block, because …".
        because: String,
    },
}

/// A partition table.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionTable {
    /// Its form.
    pub table: TableKind,
    /// The disk's GUID, or the disk signature of an MBR as eight hexadecimal digits.
    pub id: Option<String>,
    /// Why every block of the disk is in use, a clause that completes "every block, because …". Then no partition was
    /// looked into.
    pub because: Option<String>,
    /// In the order of the table.
    pub partitions: Vec<Partition>,
    /// What else the administrator should know.
    pub remarks: Vec<String>,
}

/// A partition.
#[derive(Clone, Debug, Serialize)]
pub struct Partition {
    /// The number that Linux gives it.
    pub number: u32,
    /// Its first byte on the disk.
    #[serde(serialize_with = "offset")]
    pub start: ByteOffset,
    /// Its size.
    #[serde(serialize_with = "count")]
    pub size: ByteCount,
    /// Its type: a GUID, or a number such as `0x83`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What that type is called; `None` for a rare one.
    pub type_name: Option<&'static str>,
    /// Its name in a GPT, control characters escaped.
    pub name: Option<String>,
    /// Its own GUID, or disk signature and number.
    pub uuid: Option<String>,
    /// What fills it; `None` where the table is not understood.
    pub content: Option<Content>,
}

/// A file system, swap space, or something that is recognised.
#[derive(Clone, Debug, Serialize)]
pub struct FileSystemFacts {
    /// What it is: `ext4`, `swap`, `btrfs`.
    pub kind: &'static str,
    /// Its version, where one name has several formats.
    pub version: Option<&'static str>,
    /// Its label, control characters escaped.
    pub label: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// How much of the volume it says to take.
    #[serde(serialize_with = "optional_count")]
    pub size: Option<ByteCount>,
    /// Its unit of allocation, in bytes.
    pub block_size: Option<u32>,
    /// What is in use of the volume that it lies on.
    #[serde(serialize_with = "count")]
    pub used: ByteCount,
    /// What is free and can be skipped.
    #[serde(serialize_with = "count")]
    pub free: ByteCount,
    /// `clean`, `replayed`, `not-understood` or `unknown`.
    #[serde(serialize_with = "state")]
    pub state: State,
    /// Committed transactions that the replay of its journal found.
    pub transactions: Option<u64>,
    /// Whether checksums vouch for the map of its free space.
    pub checked: bool,
    /// Why nothing is skipped: a clause that completes "every block, because …".
    pub because: Option<String>,
    /// What else the administrator should know.
    pub remarks: Vec<String>,
}

/// A part of a volume group of LVM2.
#[derive(Clone, Debug, Serialize)]
pub struct PhysicalVolume {
    /// Its UUID, as LVM prints it; `None` where its label is damaged.
    pub uuid: Option<String>,
    /// Its group; `None` where that is unclear.
    pub group: Option<Group>,
    /// Why every block of it is in use, where that is so for all of it.
    pub because: Option<String>,
    /// The logical volumes that begin here.
    pub volumes: Vec<LogicalVolume>,
    /// Its place in the list of all that were found.
    #[serde(skip)]
    pub(crate) index: Option<usize>,
}

/// A volume group of LVM2.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// The number of its newest state.
    pub seqno: u64,
    /// The size of its extents, in bytes.
    pub extent_size: u64,
    /// How many physical volumes it has.
    pub physical_volumes: usize,
    /// How many of them are on none of the disks that were given.
    pub missing: usize,
    /// What else the administrator should know.
    pub remarks: Vec<String>,
}

/// A logical volume.
#[derive(Clone, Debug, Serialize)]
pub struct LogicalVolume {
    /// Its name in the group.
    pub name: String,
    /// Its UUID.
    pub uuid: Option<String>,
    /// Its size.
    #[serde(serialize_with = "count")]
    pub size: ByteCount,
    /// Where it lies, from its start; empty where that is not understood.
    pub segments: Vec<Segment>,
    /// What fills it.
    pub content: Content,
}

/// A part of a logical volume.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Segment {
    /// Which of the disks that were given, counted from 0.
    pub disk: usize,
    /// Its first byte on that disk.
    #[serde(serialize_with = "offset")]
    pub start: ByteOffset,
    /// Its size.
    #[serde(serialize_with = "count")]
    pub size: ByteCount,
}

/// What tells a disk from others by its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LayoutIdentity {
    /// The GUID of its GPT, or the signature of its MBR.
    pub partition_table: Option<String>,
    /// The UUIDs of its file systems, swap spaces and physical volumes, in the order of the disk.
    pub file_systems: Vec<String>,
}

impl DiskLayout {
    /// What is in use of it.
    #[must_use]
    pub fn used(&self) -> ByteCount {
        self.size.saturating_sub(self.free.bytes())
    }

    /// What tells it from others by its content.
    #[must_use]
    pub fn identity(&self) -> LayoutIdentity {
        let mut identity = LayoutIdentity::default();
        let mut uuids = Vec::new();
        if let Content::PartitionTable(table) = &self.content {
            identity.partition_table.clone_from(&table.id);
            for partition in &table.partitions {
                uuids.extend(partition.content.iter().flat_map(Content::uuids));
            }
        } else {
            uuids.extend(self.content.uuids());
        }
        identity.file_systems = uuids.into_iter().map(str::to_owned).collect();
        identity
    }
}

impl Content {
    /// The UUIDs of what fills a partition, and of what begins on it.
    fn uuids(&self) -> Vec<&str> {
        match self {
            Self::FileSystem(system) => system.uuid.as_deref().into_iter().collect(),
            Self::PhysicalVolume(physical) => {
                let inner = physical.volumes.iter().filter_map(|volume| match &volume.content {
                    Self::FileSystem(system) => system.uuid.as_deref(),
                    _ => None,
                });
                physical.uuid.as_deref().into_iter().chain(inner).collect()
            }
            Self::PartitionTable(_) | Self::Extended | Self::Unclear { .. } => Vec::new(),
        }
    }

    pub(crate) fn unclear(found: Vec<String>, because: &impl ToString) -> Self {
        Self::Unclear { found, because: because.to_string() }
    }
}

impl FileSystemFacts {
    /// What there is to say about a file system on a volume of `size`, and its free space.
    pub(crate) fn of(system: FileSystem, size: ByteCount) -> (Self, FreeMap) {
        let (free, because) = match system.map {
            Ok(map) => (map, None),
            Err(reason) => (FreeMap::nothing(), Some(reason.to_string())),
        };
        let facts = Self {
            kind: system.kind.name(),
            version: system.version,
            label: system.label,
            uuid: system.uuid,
            size: system.size,
            block_size: system.block_size,
            used: size.saturating_sub(free.bytes()),
            free: free.bytes(),
            state: system.state,
            transactions: match system.state {
                State::Replayed { transactions } => Some(transactions),
                State::Clean | State::NotUnderstood | State::Unknown => None,
            },
            checked: system.checked,
            because,
            remarks: system.remarks,
        };
        (facts, free)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn count<S: Serializer>(count: &ByteCount, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(count.get())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn offset<S: Serializer>(offset: &ByteOffset, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(offset.get())
}

#[expect(clippy::ref_option, reason = "serde passes references")]
fn optional_count<S: Serializer>(count: &Option<ByteCount>, serializer: S) -> Result<S::Ok, S::Error> {
    count.map(ByteCount::get).serialize(serializer)
}

fn state<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}
