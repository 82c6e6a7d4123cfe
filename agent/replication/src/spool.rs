//! Where a target keeps a delta that is on its way: a file that is believed as far as its hashes reach.

use crate::SessionError;
use failback_delta::{DeltaHeader, DeltaReader, FormatError, Item, Parts, TRAILER_BYTES_MAX, trailing_root};
use failback_hashtree::Root;
use failback_orchestrate::JobError;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file cannot be opened, read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What arrives is no delta.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl From<SpoolError> for JobError {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::Io { action, path, source } => Self::File { action, path, source },
            SpoolError::Format(error) => error.into(),
        }
    }
}

impl From<SpoolError> for SessionError {
    fn from(error: SpoolError) -> Self {
        Self::Job(error.into())
    }
}

/// A delta that arrives, in a file.
///
/// The file is opened once and then kept over all connections: what was written and flushed is known then. Only when it is
/// opened is it read, since a machine that stopped may have left anything behind the last flush.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: File,
    /// Where the parts of the delta end. Half a part cannot be proven after a stop, so it never counts as durable.
    parts: Parts,
    len: u64,
    durable: u64,
}

impl Spool {
    /// Opens the spool at `path`, or makes an empty one. What is there is read, and cut behind its last whole part.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, read or cut.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let failed = |action| move |source| SpoolError::Io { action, path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(failed("open"))?;
        let len = whole_parts(&file).map_err(failed("read"))?;
        let mut spool = Self { path: path.to_owned(), file, parts: Parts::new(), len: 0, durable: 0 };
        spool.cut(len)?;
        // Its name has to last as long as what will be called durable in it.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("write"))?;
        Ok(spool)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The hash of the header of the delta that is here, at least in part.
    #[must_use]
    pub fn key(&self) -> Option<[u8; 32]> {
        self.parts.key()
    }

    /// That header, once it is whole.
    #[must_use]
    pub fn header(&self) -> Option<&DeltaHeader> {
        self.parts.header()
    }

    /// How many bytes are here.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is here.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many of them are durable.
    #[must_use]
    pub const fn durable(&self) -> u64 {
        self.durable
    }

    /// Where the last whole part ends: what may be called durable once it is flushed.
    pub(crate) const fn whole(&self) -> u64 {
        self.parts.whole()
    }

    /// Whether the delta has its trailer.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.parts.is_complete()
    }

    /// The root that the trailer of a complete delta says, which is not proven by that; `None` if the trailer is damaged.
    pub(crate) fn said_root(&self) -> Result<Option<Root>, SpoolError> {
        let Some(key) = self.key() else { return Ok(None) };
        let mut end = vec![0; usize::try_from(self.len.min(TRAILER_BYTES_MAX)).unwrap_or(0)];
        let from = self.len - end.len() as u64;
        let read = self.file.read_exact_at(&mut end, from);
        read.map_err(|source| self.failed("read", source))?;
        Ok(trailing_root(&end, &key))
    }

    /// Adds bytes to the end.
    ///
    /// # Errors
    ///
    /// When they cannot be written, or are none that a delta can have here. They do not count then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let mut parts = self.parts.clone();
        parts.take(bytes)?;
        let written = self.file.seek(SeekFrom::Start(self.len)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|source| self.failed("write", source))?;
        self.parts = parts;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// A handle with which what is here now can be made durable while more arrives.
    ///
    /// # Errors
    ///
    /// When there are too many open files.
    pub(crate) fn flusher(&self) -> Result<File, SpoolError> {
        self.file.try_clone().map_err(|source| self.failed("open", source))
    }

    /// Remembers that the first `len` bytes are durable.
    pub(crate) fn made_durable(&mut self, len: u64) {
        self.durable = self.durable.max(len.min(self.len));
    }

    /// Forgets what lies behind the last part that ends at or before `len`.
    ///
    /// # Errors
    ///
    /// When the file cannot be cut or read.
    pub fn cut(&mut self, len: u64) -> Result<(), SpoolError> {
        let mut parts = parts_of(&self.file, &self.path, len)?;
        let whole = parts.whole();
        self.file.set_len(whole).and_then(|()| self.file.sync_all()).map_err(|source| self.failed("write", source))?;
        if whole < len {
            parts = parts_of(&self.file, &self.path, whole)?;
        }
        (self.parts, self.len, self.durable) = (parts, whole, whole);
        Ok(())
    }

    fn failed(&self, action: &'static str, source: io::Error) -> SpoolError {
        SpoolError::Io { action, path: self.path.clone(), source }
    }
}

/// Follows what is in the first `len` bytes of a file.
fn parts_of(mut file: &File, path: &Path, len: u64) -> Result<Parts, SpoolError> {
    let failed = |source| SpoolError::Io { action: "read", path: path.to_owned(), source };
    let (mut parts, mut buffer) = (Parts::new(), vec![0; 1 << 20]);
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut input = file.take(len);
    loop {
        match input.read(&mut buffer).map_err(failed)? {
            0 => return Ok(parts),
            read => parts.take(&buffer[..read])?,
        }
    }
}

/// How far a file holds whole parts of a delta, each proven by its hash.
fn whole_parts(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = match DeltaReader::open(BufReader::with_capacity(1 << 20, file)) {
        Ok(reader) => reader,
        Err(FormatError::Read(_, error)) => return Err(error),
        Err(_) => return Ok(0),
    };
    loop {
        let position = reader.position();
        match reader.next_item() {
            Ok(Item::Frame(_)) => {}
            Ok(Item::Trailer(_)) => return Ok(reader.position()),
            Err(FormatError::Read(_, error)) => return Err(error),
            Err(_) => return Ok(position),
        }
    }
}
