//! A place for files: what a retention directory must be able to do, and how readers and writers see its files.

use failback_units::ByteCount;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// The longest name of a file, in bytes: what Linux allows in a component of a path.
const NAME_MAX: usize = 255;

/// A directory of files without subdirectories. Names are single components of a path, in UTF-8.
///
/// # Durability
///
/// As POSIX has it, and no better: what is in a file is durable after [`StoredFile::sync`], that it has its name after
/// [`Directory::sync`], and either without the other is possible. After a power loss, each creation, rename and removal
/// that was not synced has come about or has not, each for itself; a renamed file has the old or the new name.
///
/// # Failed syncs
///
/// A sync that failed is never tried again: the kernel may have dropped what it could not write, and a second attempt
/// would then succeed without having written it. Whoever sees one fail drops the file and writes another, or, where
/// names are concerned, reads what is there and makes the change anew.
pub trait Directory: Send + Sync {
    /// Where it is, in words for people: a path, as a rule.
    fn place(&self) -> String;

    /// The names of all files, in no order. What has no name in UTF-8 is left out: it is none of ours.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Makes a file, empty, to be appended to and read.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if the name is taken; `InvalidInput` if it is no single component of a path; when the medium fails
    /// or is full.
    fn create(&self, name: &str) -> io::Result<Box<dyn StoredFile>>;

    /// Opens a file for reading. One that has been replaced or removed since stays readable.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is none; `InvalidInput` if the name is none, or that of something other than a regular file.
    fn open(&self, name: &str) -> io::Result<Box<dyn StoredFile>>;

    /// Gives a file another name, and so replaces the one that had it: at no moment is there none.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no file `from`; when the medium fails. Which of both names it has is then to be looked at.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is none; when the medium fails.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes durable all creations, renames and removals so far.
    ///
    /// # Errors
    ///
    /// When the medium fails: see above about failed syncs.
    fn sync(&self) -> io::Result<()>;

    /// How large the file system is, and how much of it can still be filled.
    ///
    /// # Errors
    ///
    /// When the file system cannot say.
    fn space(&self) -> io::Result<Space>;
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it, used or not.
    pub total: ByteCount,
    /// What may still be written. On some file systems the superuser has more.
    pub available: ByteCount,
}

/// A file of a [`Directory`]: written once, from its start to its end, and read at any place.
pub trait StoredFile: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    ///
    /// When the file system cannot say.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    ///
    /// As [`len`](StoredFile::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads all of `into` from byte `at` on.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the file ends before; when the medium fails.
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` behind what is there. Not durable until [`sync`](StoredFile::sync).
    ///
    /// # Errors
    ///
    /// When the file was opened for reading, or the medium fails or is full. A part may have been written: drop the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes its content and its length durable; not its name.
    ///
    /// # Errors
    ///
    /// When the medium fails. The file is then to be removed and written anew, under another name: nothing that it holds
    /// can be relied on, not even after a sync that succeeds.
    fn sync(&self) -> io::Result<()>;
}

/// Refuses what is no single component of a path.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() > NAME_MAX || matches!(name, "." | "..") || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name for a file")));
    }
    Ok(())
}

/// Reads a stored file from some place on, up to the length that it had when the reader was made.
#[derive(Debug)]
pub struct Reader<F> {
    file: F,
    position: u64,
    len: u64,
}

impl<F: AsRef<dyn StoredFile>> Reader<F> {
    /// A reader at the start of `file`.
    ///
    /// # Errors
    ///
    /// When the file's length cannot be found out.
    pub fn new(file: F) -> io::Result<Self> {
        let len = file.as_ref().len()?;
        Ok(Self { file, position: 0, len })
    }

    /// The length up to which it reads, in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file.
    pub fn into_inner(self) -> F {
        self.file
    }
}

impl<F: AsRef<dyn StoredFile>> Read for Reader<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let count = left.min(into.len());
        if count > 0 {
            self.file.as_ref().read_at(self.position, &mut into[..count])?;
            self.position = self.position.saturating_add(ByteCount::of_memory(count).get());
        }
        Ok(count)
    }
}

impl<F: AsRef<dyn StoredFile>> Seek for Reader<F> {
    /// As of a file: places behind the end are allowed, and nothing is read there.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        let before_the_start = || io::Error::new(io::ErrorKind::InvalidInput, "a place before the start of a file");
        self.position = place.ok_or_else(before_the_start)?;
        Ok(self.position)
    }
}

/// Appends to a stored file. To flush it makes nothing durable: [`StoredFile::sync`] does.
pub struct Appender {
    file: Box<dyn StoredFile>,
}

impl Appender {
    /// A writer at the end of `file`.
    #[must_use]
    pub fn new(file: Box<dyn StoredFile>) -> Self {
        Self { file }
    }

    /// The file.
    #[must_use]
    pub fn into_inner(self) -> Box<dyn StoredFile> {
        self.file
    }
}

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
