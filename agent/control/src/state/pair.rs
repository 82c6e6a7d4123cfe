//! Replication pairs: which source disk belongs to which target disk, and who may send to it.

use crate::state::error::{Refusal, StateError};
use crate::state::schema::{damaged, failed};
use crate::state::{Database, State, check_name};
use failback_credentials::Fingerprint;
use failback_hostdev::ScsiUuid;
use rusqlite::{OptionalExtension, Row, params};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// How many pairs there may be. A virtual machine has at most 256 disks; the rest is room for VMDK files.
pub const MAX_PAIRS: usize = 4096;
/// The longest path, in bytes: `PATH_MAX` of Linux without the zero at its end.
pub(crate) const MAX_PATH: usize = 4095;
/// The longest name of a source disk, in bytes: it may be a path below `/dev/disk/by-id`.
const MAX_SOURCE_NAME: usize = 255;

/// Which disk of the peer's is the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceDisk {
    /// The one with this UUID.
    Scsi(ScsiUuid),
    /// One without a UUID, as in most clouds: the name that the peer gives it.
    Named(String),
}

/// Which disk of this machine is the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetDisk {
    /// An attached disk.
    Scsi(ScsiUuid),
    /// A VMDK in a file.
    Vmdk {
        /// Its descriptor: an absolute path.
        path: PathBuf,
        /// What tells it from another VMDK in the same place.
        id: VmdkId,
    },
}

/// Which VMDK it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmdkId {
    /// Its `ddb.uuid`, which it keeps.
    Uuid(ScsiUuid),
    /// Its descriptor's file, where it has no UUID: its inode, and when that was made. A copy is another one.
    File {
        /// The number of the inode.
        inode: u64,
        /// When it was made, in nanoseconds since 1970; 0 where the file system does not tell.
        born: u64,
    },
}

/// A disk, as far as it can be told from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskKey {
    /// By its UUID.
    Scsi(ScsiUuid),
    /// By the path of its descriptor.
    Vmdk(PathBuf),
    /// By the name that one peer gives it.
    Named(String),
}

impl fmt::Display for DiskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scsi(uuid) => write!(f, "the disk {uuid}"),
            Self::Vmdk(path) => write!(f, "the VMDK {}", path.display()),
            Self::Named(name) => write!(f, "the source disk \"{name}\" of that peer"),
        }
    }
}

/// Which way a pair is replicated. The roles are symmetric: whoever received may send later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The peer sends, and the target disk here is written.
    Receive,
    /// The target disk here is read and sent to the peer.
    Send,
}

impl Direction {
    const ALL: [Self; 2] = [Self::Receive, Self::Send];

    /// Its name, as in the state and in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Send => "send",
        }
    }
}

/// A pair that is to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPair {
    /// 1 to 64 bytes, without control characters and without blanks at its ends; no other pair has it.
    pub name: String,
    /// Who may send to it; where there is nobody, only whoever may act on this machine, such as through ssh.
    pub peer: Option<Fingerprint>,
    /// What is sent.
    pub source: SourceDisk,
    /// What is written.
    pub target: TargetDisk,
    /// Which way.
    pub direction: Direction,
    /// The retention drive: an absolute path. The disk has a directory of its own in there.
    pub retention: PathBuf,
    /// Whether a target is taken that was never this disk, as long as it has no recovery points. Its free space becomes zero.
    pub new_disk: bool,
    /// The Ed25519 public key (32 bytes, RFC 8032) that has to have signed what is written; any or none, where there is none here.
    pub signer: Option<[u8; 32]>,
}

/// A pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What it was made of.
    pub is: NewPair,
    /// When, in seconds since 1970.
    pub created: i64,
    /// The group it is in.
    pub group: Option<String>,
    /// Since when there are recovery points of its target on its retention drive, in seconds since 1970. From then on a drive
    /// without them is another one, or none.
    pub points_since: Option<i64>,
}

/// What a peer gets that names a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The pair is bound to this peer.
    Bound(Box<Pair>),
    /// It is not, and nothing is received.
    Unbound(Unbound),
}

/// Why data is bound to nothing. What is displayed is for the peer: it does not tell which pairs there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbound {
    /// No pair has that name.
    #[error("{NOT_FOR_YOU}")]
    Unknown,
    /// Another peer sends to it.
    #[error("{NOT_FOR_YOU}")]
    Another {
        /// Who; nobody but this machine, where there is none.
        peer: Option<Fingerprint>,
    },
    /// The peer's own pair goes the other way.
    #[error("this pair is replicated the other way at present: turn it round on the master target first")]
    OtherWay,
}

/// The same for what is not there and for what is another's.
const NOT_FOR_YOU: &str = "the master target has no pair of that name for this source: compare the name and the fingerprint with \
                           `failback pair list` there";

impl Unbound {
    /// What is so, for the log of this machine.
    #[must_use]
    pub fn for_the_log(&self) -> String {
        match self {
            Self::Unknown => "there is no pair of that name".to_owned(),
            Self::Another { peer: Some(peer) } => format!("the pair belongs to the peer {peer}"),
            Self::Another { peer: None } => "the pair has no peer: it is for callers on this machine".to_owned(),
            Self::OtherWay => "the pair is replicated the other way".to_owned(),
        }
    }
}

impl NewPair {
    fn check(&self) -> Result<(), Refusal> {
        check_name(&self.name)?;
        if let SourceDisk::Named(name) = &self.source
            && !(1..=MAX_SOURCE_NAME).contains(&name.len()) | name.contains(char::is_control)
        {
            return Err(Refusal::BadSourceName { name: name.chars().take(MAX_SOURCE_NAME).collect() });
        }
        if let TargetDisk::Vmdk { path, .. } = &self.target {
            check_path(path)?;
        }
        check_path(&self.retention)?;
        match (self.source_uuid(), self.target_uuid()) {
            (Some(source), Some(target)) if source == target => Err(Refusal::OneDisk { disk: DiskKey::Scsi(source) }),
            _ => Ok(()),
        }
    }

    fn source_uuid(&self) -> Option<ScsiUuid> {
        if let SourceDisk::Scsi(uuid) = self.source { Some(uuid) } else { None }
    }

    fn source_name(&self) -> Option<&str> {
        if let SourceDisk::Named(name) = &self.source { Some(name) } else { None }
    }

    fn target_uuid(&self) -> Option<ScsiUuid> {
        match self.target {
            TargetDisk::Scsi(uuid) | TargetDisk::Vmdk { id: VmdkId::Uuid(uuid), .. } => Some(uuid),
            TargetDisk::Vmdk { id: VmdkId::File { .. }, .. } => None,
        }
    }

    fn target_path(&self) -> Option<&Path> {
        if let TargetDisk::Vmdk { path, .. } = &self.target { Some(path) } else { None }
    }

    /// The inode and when it was made, 8 bytes each, little-endian.
    fn target_file(&self) -> Option<[u8; 16]> {
        let TargetDisk::Vmdk { id: VmdkId::File { inode, born }, .. } = self.target else { return None };
        Some((u128::from(born) << 64 | u128::from(inode)).to_le_bytes())
    }
}

/// An absolute path that means the same to everybody.
fn check_path(path: &Path) -> Result<(), Refusal> {
    let bytes = path.as_os_str().as_bytes();
    let plain = bytes.len() <= MAX_PATH && !bytes.iter().any(u8::is_ascii_control);
    let direct = path.is_absolute() && path.components().all(|part| part != Component::ParentDir);
    if plain && direct { Ok(()) } else { Err(Refusal::BadPath { path: cut(path) }) }
}

fn cut(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    PathBuf::from(OsStr::from_bytes(&bytes[..bytes.len().min(256)]))
}

/// A UUID or a file, where there is one.
type Bytes16 = Option<[u8; 16]>;

const COLUMNS: &str = "SELECT pair.name, peer, source_uuid, source_name, target_uuid, target_path, target_file, direction, retention, \
                       pair.created, protection_group.name, new_disk, signer, points_since \
                       FROM pair LEFT JOIN group_pair ON group_pair.pair_id = pair.id \
                       LEFT JOIN protection_group ON protection_group.id = group_pair.group_id";

impl State {
    /// Adds a pair, at the time `now`, in seconds since 1970. It is durable afterwards.
    ///
    /// A disk belongs to one pair, whatever it is there. It is known by its UUID, by its path as it is given, or by its peer's name for it.
    ///
    /// # Errors
    ///
    /// When the name is taken or none, a disk is in a pair already, a path is not absolute, or there are [`MAX_PAIRS`].
    pub fn add_pair(&mut self, new: &NewPair, now: i64) -> Result<(), StateError> {
        new.check()?;
        self.change("add a pair to", |inside| {
            if inside.id_of_pair(&new.name)?.is_some() {
                return Err(Refusal::PairExists { name: new.name.clone() }.into());
            }
            inside.check_free(new)?;
            if inside.count("pair")? >= MAX_PAIRS {
                return Err(Refusal::TooMany { what: "pairs", limit: MAX_PAIRS }.into());
            }
            inside.execute(
                "INSERT INTO pair (name, peer, source_uuid, source_name, target_uuid, target_path, target_file, direction, retention, \
                 created, new_disk, signer) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                params![
                    new.name,
                    new.peer.map(|peer| *peer.bytes()),
                    new.source_uuid().map(|uuid| *uuid.as_bytes()),
                    new.source_name(),
                    new.target_uuid().map(|uuid| *uuid.as_bytes()),
                    new.target_path().map(|path| path.as_os_str().as_bytes()),
                    new.target_file(),
                    new.direction.as_str(),
                    new.retention.as_os_str().as_bytes(),
                    now,
                    new.new_disk,
                    new.signer
                ],
            )?;
            Ok(())
        })
    }

    /// All pairs, by name.
    ///
    /// # Errors
    ///
    /// When the state cannot be read or is damaged.
    pub fn pairs(&self) -> Result<Vec<Pair>, StateError> {
        self.look().pairs()
    }

    /// The pair of that name.
    ///
    /// # Errors
    ///
    /// When there is none, or the state cannot be read.
    pub fn pair(&self, name: &str) -> Result<Pair, StateError> {
        self.look().pair(name)?.ok_or_else(|| Refusal::NoPair { name: name.to_owned() }.into())
    }

    /// The pair `name`, if `peer` may send to it now; no peer is somebody on this machine, who may send to all.
    ///
    /// # Errors
    ///
    /// When the state cannot be read; that the pair is not theirs is none.
    pub fn pair_for(&self, peer: Option<&Fingerprint>, name: &str) -> Result<Lookup, StateError> {
        Ok(match self.look().pair(name)? {
            None => Lookup::Unbound(Unbound::Unknown),
            Some(pair) if peer.is_some() && pair.is.peer.as_ref() != peer => {
                Lookup::Unbound(Unbound::Another { peer: pair.is.peer })
            }
            Some(pair) if pair.is.direction == Direction::Send => Lookup::Unbound(Unbound::OtherWay),
            Some(pair) => Lookup::Bound(Box::new(pair)),
        })
    }

    /// Removes a pair. Its disks and its points stay as they are, and so does the history of its jobs.
    ///
    /// # Errors
    ///
    /// When there is none of that name, it is in a group, or one of its jobs is not over.
    pub fn remove_pair(&mut self, name: &str) -> Result<(), StateError> {
        self.change("remove a pair from", |inside| {
            let pair = inside.pair(name)?.ok_or_else(|| Refusal::NoPair { name: name.to_owned() })?;
            if let Some(group) = pair.group {
                return Err(Refusal::PairInGroup { pair: name.to_owned(), group }.into());
            }
            inside.check_idle("pair", name)?;
            inside.execute("DELETE FROM pair WHERE name = ?1", [name])?;
            Ok(())
        })
    }

    /// Remembers at the time `now`, in seconds since 1970, that a pair has recovery points, if that is not known yet. It is durable
    /// afterwards.
    ///
    /// # Errors
    ///
    /// When there is none of that name, or the state cannot be written.
    pub fn note_points(&mut self, name: &str, now: i64) -> Result<(), StateError> {
        self.change("note the points of a pair in", |inside| {
            let change = "UPDATE pair SET points_since = coalesce(points_since, ?2) WHERE name = ?1";
            match inside.execute(change, params![name, now])? {
                0 => Err(Refusal::NoPair { name: name.to_owned() }.into()),
                _ => Ok(()),
            }
        })
    }

    /// Turns a pair round, or leaves it where it is so already.
    ///
    /// # Errors
    ///
    /// When there is none of that name, one of its jobs or of its group's is not over, or a pass of its group's mark is still to be applied.
    pub fn set_direction(&mut self, name: &str, direction: Direction) -> Result<(), StateError> {
        self.change("turn a pair round in", |inside| {
            let pair = inside.pair(name)?.ok_or_else(|| Refusal::NoPair { name: name.to_owned() })?;
            inside.check_idle("pair", name)?;
            if let Some(group) = pair.group {
                inside.check_idle("group", &group)?;
                inside.check_undecided(name, &group)?;
            }
            inside.execute("UPDATE pair SET direction = ?2 WHERE name = ?1", params![name, direction.as_str()])?;
            Ok(())
        })
    }
}

impl Database<'_> {
    pub(crate) fn pairs(&self) -> Result<Vec<Pair>, StateError> {
        self.rows(&format!("{COLUMNS} ORDER BY pair.name LIMIT {}", MAX_PAIRS + 1), [], |row| self.pair_of(row))
    }

    fn pair(&self, name: &str) -> Result<Option<Pair>, StateError> {
        let found = self.rows(&format!("{COLUMNS} WHERE pair.name = ?1"), [name], |row| self.pair_of(row))?;
        Ok(found.into_iter().next())
    }

    pub(crate) fn id_of_pair(&self, name: &str) -> Result<Option<i64>, StateError> {
        let found = self.connection.query_row("SELECT id FROM pair WHERE name = ?1", [name], |row| row.get(0));
        found.optional().map_err(|source| failed("read", self.path, source))
    }

    /// Whether no pair has one of the disks of `new`.
    fn check_free(&self, new: &NewPair) -> Result<(), StateError> {
        let of_uuid = "SELECT name FROM pair WHERE ?1 IN (source_uuid, target_uuid)";
        for uuid in [new.target_uuid(), new.source_uuid()].into_iter().flatten() {
            self.refuse_bound(of_uuid, params![uuid.as_bytes()], DiskKey::Scsi(uuid))?;
        }
        if let Some(path) = new.target_path() {
            let of_path = "SELECT name FROM pair WHERE target_path = ?1";
            self.refuse_bound(of_path, params![path.as_os_str().as_bytes()], DiskKey::Vmdk(path.to_owned()))?;
        }
        if let Some(name) = new.source_name() {
            let of_name = "SELECT name FROM pair WHERE source_name = ?1 AND peer IS ?2";
            self.refuse_bound(
                of_name,
                params![name, new.peer.map(|peer| *peer.bytes())],
                DiskKey::Named(name.to_owned()),
            )?;
        }
        Ok(())
    }

    fn refuse_bound(&self, question: &str, with: impl rusqlite::Params, disk: DiskKey) -> Result<(), StateError> {
        let found = self.connection.query_row(question, with, |row| row.get(0)).optional();
        match found.map_err(|source| failed("read", self.path, source))? {
            Some(pair) => Err(Refusal::DiskBound { disk, pair }.into()),
            None => Ok(()),
        }
    }

    /// Believes nothing of what stands there: the file may have been made by anybody.
    fn pair_of(&self, row: &Row<'_>) -> Result<Pair, StateError> {
        let read = || -> rusqlite::Result<_> {
            let source: (Option<[u8; 16]>, Option<String>) = (row.get(2)?, row.get(3)?);
            let target: (Bytes16, Option<Vec<u8>>, Bytes16) = (row.get(4)?, row.get(5)?, row.get(6)?);
            let rest: (String, Option<[u8; 32]>, String, Vec<u8>) =
                (row.get(0)?, row.get(1)?, row.get(7)?, row.get(8)?);
            Ok((source, target, rest, (row.get(9)?, row.get(10)?, row.get(11)?, row.get(12)?, row.get(13)?)))
        };
        let wrong = || damaged(self.path, "a pair in it makes no sense");
        let ((source_uuid, source_name), (uuid, path, file), (name, peer, direction, retention), rest) =
            read().map_err(|_| wrong())?;
        let (created, group, new_disk, signer, points_since) = rest;
        let known = |bytes: [u8; 16]| ScsiUuid::from_bytes(bytes).ok_or_else(wrong);
        let path_of = |bytes: Vec<u8>| PathBuf::from(std::ffi::OsString::from_vec(bytes));
        let source = match (source_uuid, source_name) {
            (Some(bytes), None) => SourceDisk::Scsi(known(bytes)?),
            (None, Some(name)) => SourceDisk::Named(name),
            _ => return Err(wrong()),
        };
        let target = match (path, uuid, file) {
            (None, Some(bytes), None) => TargetDisk::Scsi(known(bytes)?),
            (Some(path), Some(bytes), None) => {
                TargetDisk::Vmdk { path: path_of(path), id: VmdkId::Uuid(known(bytes)?) }
            }
            (Some(path), None, Some(file)) => {
                let (inode, born) = file.split_at(8);
                let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                TargetDisk::Vmdk { path: path_of(path), id: VmdkId::File { inode: number(inode), born: number(born) } }
            }
            _ => return Err(wrong()),
        };
        let direction = Direction::ALL.into_iter().find(|known| known.as_str() == direction).ok_or_else(wrong)?;
        let (peer, retention) = (peer.map(Fingerprint::from_bytes), path_of(retention));
        let is = NewPair { name, peer, source, target, direction, retention, new_disk, signer };
        is.check().map_err(|_| wrong())?;
        Ok(Pair { is, created, group, points_since })
    }
}
