//! The intent record: what an apply is about to write, kept where it survives the apply.
//!
//! Before any block of a window of the disk is written, the window is recorded durably; once it is written and flushed, the
//! window moves on. So after a crash exactly the blocks of the recorded window may hold a torn write; everything before
//! it holds the result, everything behind it the base.

use crate::output::sync_directory_of;
use crate::{JobError, Outcome};
use failback_hashtree::Root;
use failback_units::{BlockIndex, BlockRange, ByteCount};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use zerocopy::little_endian::{I64, U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"\x89FBINT\r\n";
const VERSION: u16 = 1;

/// An apply that is under way, or was when its program or its machine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The hash of the delta's header, which names the delta.
    pub delta: [u8; 32],
    /// The disk that is written: [`DiskBinding::id`].
    pub disk: [u8; 32],
    /// Where the delta starts from.
    pub base_root: Root,
    /// Where it leads; not known before the end when the delta comes through a pipe.
    pub result_root: Option<Root>,
    /// The size of the base.
    pub base_size: ByteCount,
    /// The size of the result.
    pub result_size: ByteCount,
    /// The blocks that may be half written, in the block size of the delta.
    pub window: BlockRange,
    /// The base-2 logarithm of that block size.
    pub block_shift: u8,
    /// Whether another delta may have been written in part before, so that only reading the whole disk shows the result.
    pub doubtful: bool,
    /// When the apply was first started, in seconds since 1970.
    pub started: i64,
}

/// What ties an intent record to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskBinding {
    /// A hash of what identifies the disk.
    pub id: [u8; 32],
    /// Whether no other disk can have that identity: a SCSI UUID, an inode. A kernel name such as `sdb` can be another disk's
    /// after a reboot.
    pub certain: bool,
}

/// The record as it is stored, little-endian, without padding.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawIntent {
    magic: [u8; 8],
    version: U16,
    block_shift: u8,
    /// 1 if `result_root` is known.
    result_known: u8,
    /// 1 if other blocks than those of the delta are in doubt.
    doubtful: u8,
    reserved: [u8; 3],
    delta: [u8; 32],
    disk: [u8; 32],
    base_root: [u8; 32],
    result_root: [u8; 32],
    base_size: U64,
    result_size: U64,
    window_start: U64,
    window_end: U64,
    started: I64,
    /// BLAKE3 of all of the above.
    hash: [u8; 32],
}
const _: () = assert!(size_of::<RawIntent>() == Intent::LEN);

impl Intent {
    /// The length of a stored record in bytes.
    pub const LEN: usize = 216;

    /// The record's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut raw = RawIntent {
            magic: MAGIC,
            version: VERSION.into(),
            block_shift: self.block_shift,
            result_known: u8::from(self.result_root.is_some()),
            doubtful: u8::from(self.doubtful),
            reserved: [0; 3],
            delta: self.delta,
            disk: self.disk,
            base_root: self.base_root.0,
            result_root: self.result_root.map_or([0; 32], |root| root.0),
            base_size: self.base_size.get().into(),
            result_size: self.result_size.get().into(),
            window_start: self.window.start().get().into(),
            window_end: self.window.end().get().into(),
            started: self.started.into(),
            hash: [0; 32],
        };
        raw.hash = blake3::hash(&raw.as_bytes()[..Self::LEN - 32]).into();
        raw.as_bytes().try_into().expect("the length is asserted")
    }

    /// A record from its bytes; `None` if they are not one, or damaged.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let raw = RawIntent::read_from_bytes(bytes).ok()?;
        let intact = raw.hash == *blake3::hash(&bytes[..Self::LEN - 32]).as_bytes();
        if !intact || raw.magic != MAGIC || raw.version.get() != VERSION {
            return None;
        }
        let (start, end) = (BlockIndex::new(raw.window_start.get()), BlockIndex::new(raw.window_end.get()));
        Some(Self {
            delta: raw.delta,
            disk: raw.disk,
            base_root: Root(raw.base_root),
            result_root: (raw.result_known == 1).then_some(Root(raw.result_root)),
            base_size: ByteCount::new(raw.base_size.get())?,
            result_size: ByteCount::new(raw.result_size.get())?,
            window: BlockRange::between(start, end)?,
            block_shift: raw.block_shift,
            doubtful: raw.doubtful == 1,
            started: raw.started.get(),
        })
    }
}

/// Why a record cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum IntentError {
    /// The file system, or the disk under it.
    #[error("cannot {action} the intent record {place}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where the record is.
        place: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not a record of this version.
    #[error(
        "{place} is damaged or is not an intent record of this version: find out who wrote it, move it away, sign the disk \
         again and make a new delta"
    )]
    Damaged {
        /// Where the record is.
        place: String,
    },
}

impl IntentError {
    pub(crate) const fn outcome(&self) -> Outcome {
        match self {
            Self::Io { .. } => Outcome::Io,
            Self::Damaged { .. } => Outcome::Refused,
        }
    }
}

/// A place for one record that survives a crash: what is saved is there whole, or what was there before.
pub trait IntentStore {
    /// The record, if there is one.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is no record.
    fn load(&mut self) -> Result<Option<Intent>, IntentError>;

    /// Replaces the record. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// When it cannot be stored; the former record may then be there, or the new one.
    fn save(&mut self, intent: &Intent) -> Result<(), IntentError>;

    /// Removes the record, durably.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    fn clear(&mut self) -> Result<(), IntentError>;

    /// Where the record is, for people.
    fn place(&self) -> String;
}

/// A record in a file of its own, replaced by writing a new file and renaming it.
#[derive(Debug)]
pub struct FileIntents {
    path: PathBuf,
}

impl FileIntents {
    /// The record at `path`. Nothing is touched yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Makes the directory if it is missing, and fails if a record could not be stored there: better before the first write
    /// than in the middle.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or written.
    pub fn prepare(&self) -> Result<(), JobError> {
        let probe = self.temporary();
        let tried = probe
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| write_durably(&probe, &[0; Intent::LEN]))
            .and_then(|()| fs::remove_file(&probe));
        tried.map_err(|source| self.failed("keep", source).into())
    }

    /// The path of the record.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn temporary(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        name.into()
    }

    fn failed(&self, action: &'static str, source: io::Error) -> IntentError {
        IntentError::Io { action, place: self.place(), source }
    }
}

/// A file with these bytes, or none.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = File::create(path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

impl IntentStore for FileIntents {
    fn load(&mut self) -> Result<Option<Intent>, IntentError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read", error)),
        };
        let mut bytes = Vec::new();
        let limit = Intent::LEN as u64 + 1;
        file.take(limit).read_to_end(&mut bytes).map_err(|error| self.failed("read", error))?;
        let intent = Intent::from_bytes(&bytes);
        intent.map(Some).ok_or_else(|| IntentError::Damaged { place: self.place() })
    }

    fn save(&mut self, intent: &Intent) -> Result<(), IntentError> {
        let temporary = self.temporary();
        let saved = write_durably(&temporary, &intent.to_bytes())
            .and_then(|()| fs::rename(&temporary, &self.path))
            .and_then(|()| sync_directory_of(&self.path));
        saved.map_err(|error| self.failed("write", error))
    }

    fn clear(&mut self) -> Result<(), IntentError> {
        let cleared = match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_directory_of(&self.path),
        };
        cleared.map_err(|error| self.failed("remove", error))
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent() -> Intent {
        Intent {
            delta: [1; 32],
            disk: [4; 32],
            base_root: Root([2; 32]),
            result_root: Some(Root([3; 32])),
            base_size: ByteCount::of_memory(4096),
            result_size: ByteCount::of_memory(8192),
            window: BlockRange::between(BlockIndex::new(3), BlockIndex::new(9)).unwrap(),
            block_shift: 12,
            doubtful: false,
            started: -1,
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = intent().to_bytes();
        assert_eq!(Intent::from_bytes(&bytes), Some(intent()));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes;
                damaged[at] ^= 1_u8 << bit;
                assert_eq!(Intent::from_bytes(&damaged), None);
            }
        }
        assert_eq!(Intent::from_bytes(&bytes[1..]), None);
    }

    #[test]
    fn a_file_comes_and_goes() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = FileIntents::new(directory.path().join("disk.intent"));
        assert_eq!(store.load().unwrap(), None);
        store.save(&intent()).unwrap();
        assert_eq!(store.load().unwrap(), Some(intent()));
        fs::write(store.path(), b"nonsense").unwrap();
        assert!(matches!(store.load(), Err(IntentError::Damaged { .. })));
        store.clear().unwrap();
        store.clear().unwrap();
        assert_eq!(store.load().unwrap(), None);
    }
}
