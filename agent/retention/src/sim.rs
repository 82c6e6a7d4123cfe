//! A directory on simulated disks, which loses power with everything else in its world.
//!
//! Names are on a disk of their own: sector n says what file n is called. A creation, rename or removal writes one sector,
//! and a sector is never torn, so that a power loss keeps any subset of what was not synced. Each file is a disk, which
//! grows. Nothing is kept in memory, so [`World::snapshot`], [`World::restore`] and [`World::reboot`] need to know nothing of
//! directories.

use crate::directory::{Directory, Space, StoredFile, check_name};
use failback_blockio::{
    Buffer, Device, IoError, Operation, Resizable, run,
    sim::{EventKind, POWER_LOSS, SimDisk, World},
};
use failback_units::{ByteCount, ByteOffset};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

const SECTOR: usize = 512;
const MAGIC: [u8; 8] = *b"\x89FBSIM\r\n";
/// The size that a directory without a limit claims to have.
const TOTAL: u64 = 1 << 40;

/// What a file is called, as it stands in a sector.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    magic: [u8; 8],
    /// Higher than all others when it was written: of the entries with one name the highest counts.
    sequence: U64,
    /// 1 if there is no file of that name any more.
    removed: u8,
    name_len: u8,
    name: [u8; 255],
    reserved: [u8; 207],
    /// BLAKE3 of all that precedes.
    hash: [u8; 32],
}
const _: () = assert!(size_of::<Entry>() == SECTOR);

impl Entry {
    fn new(name: &str, sequence: u64, removed: bool) -> Self {
        let mut entry = Self::new_zeroed();
        entry.magic = MAGIC;
        entry.sequence = sequence.into();
        entry.removed = removed.into();
        entry.name_len = u8::try_from(name.len()).unwrap_or(u8::MAX);
        entry.name[..name.len()].copy_from_slice(name.as_bytes());
        entry.hash = entry.digest();
        entry
    }

    fn digest(&self) -> [u8; 32] {
        blake3::hash(&self.as_bytes()[..SECTOR - 32]).into()
    }

    /// The entry in a sector; none if nothing was ever written there.
    fn read(sector: &[u8]) -> Option<Self> {
        let entry = Self::read_from_bytes(sector).ok()?;
        (entry.magic == MAGIC && entry.hash == entry.digest()).then_some(entry)
    }

    fn name(&self) -> &str {
        std::str::from_utf8(&self.name[..usize::from(self.name_len)]).unwrap_or_default()
    }
}

/// A directory of simulated disks. Clones are the same directory.
///
/// The number of a file is used once, so a directory has room for as many creations as it has disks, and then is full.
/// Open files of before a reboot must not be used: a program that lost power has none.
#[derive(Clone, Debug)]
pub struct SimDirectory {
    names: SimDisk,
    files: Arc<[SimDisk]>,
    /// How many bytes all files together may have. A setting like the faults of disks: it stays through everything.
    limit: Arc<Mutex<Option<u64>>>,
}

impl SimDirectory {
    /// An empty directory in which `creations` files can be made.
    ///
    /// # Panics
    ///
    /// If memory cannot hold so many.
    #[must_use]
    pub fn new(world: &World, name: &str, creations: usize) -> Self {
        let sectors = ByteCount::of_memory(creations * SECTOR);
        let names = world.disk(&format!("{name}/names"), sectors, 512);
        let file = |number: usize| world.disk(&format!("{name}/{number}"), ByteCount::ZERO, 512);
        Self { names, files: (0..creations).map(file).collect(), limit: Arc::default() }
    }

    /// The disk that holds the names, to inject faults.
    #[must_use]
    pub const fn names_disk(&self) -> &SimDisk {
        &self.names
    }

    /// All disks, that of the names first, to inject faults.
    pub fn disks(&self) -> impl Iterator<Item = &SimDisk> {
        std::iter::once(&self.names).chain(self.files.iter())
    }

    /// The disk of a file, if there is such a file.
    ///
    /// # Errors
    ///
    /// When the names cannot be read.
    pub fn disk_of(&self, name: &str) -> io::Result<Option<&SimDisk>> {
        Ok(self.find(&self.entries()?, name).map(|(number, _)| &self.files[number]))
    }

    /// Lets all files together grow to `bytes` and no further; `None` lifts the limit.
    pub fn limit_space(&self, bytes: Option<u64>) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    /// How many flushes of any of the disks are in the world's trace, successful or not.
    #[must_use]
    pub fn flushes(&self) -> usize {
        let ours = |name: &str| self.disks().any(|disk| disk.name() == name);
        self.names.world().trace().iter().filter(|event| event.kind == EventKind::Flush && ours(&event.disk)).count()
    }

    fn limit(&self) -> Option<u64> {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All sectors that were ever written.
    fn entries(&self) -> io::Result<Vec<(usize, Entry)>> {
        let into = Buffer::zeroed(self.files.len() * SECTOR);
        let buffer = run(&self.names, Operation::Read { at: ByteOffset::ZERO, into }).map_err(plain)?;
        let sectors = buffer.as_deref().unwrap_or_default().chunks_exact(SECTOR).enumerate();
        Ok(sectors.filter_map(|(number, sector)| Some((number, Entry::read(sector)?))).collect())
    }

    /// The file that has a name, by the highest entry with that name.
    fn find(&self, entries: &[(usize, Entry)], name: &str) -> Option<(usize, Entry)> {
        let latest = entries.iter().filter(|(_, entry)| entry.name() == name).max_by_key(|(_, entry)| entry.sequence);
        latest.copied().filter(|(number, entry)| entry.removed == 0 && *number < self.files.len())
    }

    fn existing(&self, entries: &[(usize, Entry)], name: &str) -> io::Result<usize> {
        check_name(name)?;
        let found = self.find(entries, name);
        found.map(|(number, _)| number).ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENOENT))
    }

    fn write(&self, number: usize, entry: &Entry) -> io::Result<()> {
        let at = ByteOffset::new(ByteCount::of_memory(number * SECTOR).get()).unwrap_or_default();
        run(&self.names, Operation::Write { at, from: Buffer::copy_of(entry.as_bytes()) }).map_err(plain)?;
        Ok(())
    }

    /// Bytes in all files that have a name.
    fn used(&self) -> io::Result<u64> {
        let entries = self.entries()?;
        let there = |entry: &Entry| self.find(&entries, entry.name());
        let visible = entries.iter().filter(|(number, entry)| there(entry).is_some_and(|(found, _)| found == *number));
        Ok(visible.map(|(number, _)| self.files[*number].size().get()).sum())
    }

    fn file(&self, number: usize, writable: bool) -> Box<dyn StoredFile> {
        Box::new(SimFile { directory: self.clone(), disk: self.files[number].clone(), writable })
    }
}

/// A sequence number above all others.
fn next_sequence(entries: &[(usize, Entry)]) -> u64 {
    entries.iter().map(|(_, entry)| entry.sequence.get() + 1).max().unwrap_or(1)
}

impl Directory for SimDirectory {
    fn place(&self) -> String {
        self.names.name().trim_end_matches("/names").to_owned()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = self.entries()?;
        let names: std::collections::BTreeSet<_> = entries.iter().map(|(_, entry)| entry.name()).collect();
        Ok(names.into_iter().filter(|name| self.find(&entries, name).is_some()).map(str::to_owned).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        check_name(name)?;
        let entries = self.entries()?;
        if self.find(&entries, name).is_some() {
            return Err(io::Error::from_raw_os_error(nix::libc::EEXIST));
        }
        // A disk without an entry may have content: that of a file whose name was lost.
        let is_new =
            |number: usize| entries.iter().all(|(taken, _)| *taken != number) && self.files[number].size().is_zero();
        let number = (0..self.files.len()).find(|number| is_new(*number));
        let number = number.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENOSPC))?;
        self.write(number, &Entry::new(name, next_sequence(&entries), false))?;
        Ok(self.file(number, true))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        let number = self.existing(&self.entries()?, name)?;
        Ok(self.file(number, false))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(to)?;
        let entries = self.entries()?;
        let number = self.existing(&entries, from)?;
        if from == to {
            return Ok(());
        }
        // A file that this one replaced before must not come to light again under the name that is given up, whatever a
        // power loss keeps of this: a directory may make things durable sooner than it is asked to.
        let hidden = |(other, entry): &&(usize, Entry)| *other != number && entry.name() == from && entry.removed == 0;
        let hidden: Vec<_> = entries.iter().filter(hidden).collect();
        for (other, entry) in &hidden {
            self.write(*other, &Entry::new(from, entry.sequence.get(), true))?;
        }
        if !hidden.is_empty() {
            self.sync()?;
        }
        self.write(number, &Entry::new(to, next_sequence(&entries), false))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let entries = self.entries()?;
        let number = self.existing(&entries, name)?;
        self.write(number, &Entry::new(name, next_sequence(&entries), true))
    }

    fn sync(&self) -> io::Result<()> {
        run(&self.names, Operation::Flush).map(drop).map_err(plain)
    }

    fn space(&self) -> io::Result<Space> {
        let total = ByteCount::new(self.limit().unwrap_or(TOTAL)).unwrap_or_default();
        let used = ByteCount::new(self.used()?).unwrap_or_default();
        Ok(Space { total, available: total.saturating_sub(used) })
    }
}

/// A file that acknowledges syncs and does not carry them out, so that tests can be shown to notice.
pub struct DropSyncs(pub Box<dyn StoredFile>);

impl StoredFile for DropSyncs {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_at(at, into)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

struct SimFile {
    directory: SimDirectory,
    disk: SimDisk,
    writable: bool,
}

impl StoredFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        if self.disk.world().is_down() {
            return Err(io::Error::from_raw_os_error(POWER_LOSS));
        }
        Ok(self.disk.size().get())
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let end = at.checked_add(ByteCount::of_memory(into.len()).get());
        if end.is_none_or(|end| end > self.disk.size().get()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let at = ByteOffset::new(at).unwrap_or_default();
        let buffer = run(&self.disk, Operation::Read { at, into: Buffer::zeroed(into.len()) }).map_err(plain)?;
        into.copy_from_slice(buffer.as_deref().unwrap_or_default());
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::from_raw_os_error(nix::libc::EBADF));
        }
        let left = match self.directory.limit() {
            Some(limit) => limit.saturating_sub(self.directory.used()?),
            None => u64::MAX,
        };
        let fitting = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let end = self.disk.size();
        let grown = end.checked_add(ByteCount::of_memory(fitting));
        let grown = grown.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EFBIG))?;
        self.disk.resize(grown).map_err(plain)?;
        let from = Buffer::copy_of(&bytes[..fitting]);
        run(&self.disk, Operation::Write { at: end.as_end(), from }).map_err(plain)?;
        if fitting < bytes.len() {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOSPC));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        run(&self.disk, Operation::Flush).map(drop).map_err(plain)
    }
}

/// The kernel's error, as a real directory has it.
fn plain(error: IoError) -> io::Error {
    error.source
}
