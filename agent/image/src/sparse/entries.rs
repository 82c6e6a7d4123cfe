//! Finding grains: the directory, tables held in memory, and entries that are not on the disk yet.

use super::header::Shape;
use crate::extent::{Extent, ExtentError, Place};
use crate::layout::{ENTRY_ABSENT, ENTRY_ZERO, SECTOR, TABLE_BYTES, TABLE_ENTRIES};
use failback_blockio::{Buffer, Operation, Resizable, run};
use failback_units::{ByteCount, ByteOffset};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entries in a table, as a length.
pub(super) const ENTRIES: usize = TABLE_ENTRIES as usize;
/// How many tables are held in memory: 8 MiB, enough for 128 GiB in grains of 64 KiB.
const TABLES_HELD: usize = 4096;
/// How many tables that lie behind each other are read at a time.
const TABLES_READ: u64 = 32;

/// A table in memory.
pub(super) type Table = Box<[u32; ENTRIES]>;

/// Where a grain is as far as a reader is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// Nowhere here.
    Absent,
    /// Zeroes.
    Zero,
    /// At this offset in the file.
    At(u64),
}

/// An entry that is not on the disk yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pending {
    /// What reads see: its grain is written.
    pub(super) settled: Option<u32>,
    /// Where a write of the whole grain is under way.
    pub(super) reserved: Option<u32>,
}

/// What changes while the extent is open.
#[derive(Debug)]
pub(super) struct State {
    /// Where the tables lie, in sectors; 0 for none.
    pub(super) directory: Vec<u32>,
    /// Where the redundant tables lie; empty if there are none.
    pub(super) redundant: Vec<u32>,
    held: HashMap<u64, Table>,
    pub(super) pending: BTreeMap<u64, Pending>,
    /// Where the next new grain goes, in bytes; a multiple of the grain.
    pub(super) next: u64,
}

/// A sparse extent in a file.
#[derive(Debug)]
pub(crate) struct SparseExtent {
    pub(super) device: Shared,
    pub(super) shape: Shape,
    pub(super) state: Mutex<State>,
    /// How many entries may be pending before they are written unasked.
    pub(super) batch: usize,
    /// Held by whoever writes tables.
    pub(super) committing: Mutex<()>,
    /// Held by whoever makes a grain of a part that is written and a rest that is old.
    pub(super) copying: Mutex<()>,
    /// Whether the extent is marked as not cleanly closed.
    pub(super) marked: Mutex<bool>,
    /// Whether a flush or a write of tables failed: what the file holds is then to be found out by opening it anew.
    pub(super) broken: AtomicBool,
}

/// The file, which prints as its name.
#[derive(Clone)]
pub(super) struct Shared(pub(super) Arc<dyn Resizable>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}

impl SparseExtent {
    /// Opens the extent whose header is known, and reads its directory.
    pub(crate) fn open(device: Arc<dyn Resizable>, shape: Shape) -> Result<Self, ExtentError> {
        let device = Shared(device);
        let directory = device.numbers(shape.directory, shape.tables)?;
        let redundant = match shape.redundant {
            Some(at) => device.numbers(at, shape.tables)?,
            None => Vec::new(),
        };
        let end = device.0.size().get().max(shape.overhead);
        let next = end.checked_next_multiple_of(shape.grain).unwrap_or(u64::MAX);
        let state = State { directory, redundant, held: HashMap::new(), pending: BTreeMap::new(), next };
        Ok(Self {
            device,
            shape,
            state: Mutex::new(state),
            batch: super::write::MAX_PENDING,
            committing: Mutex::new(()),
            copying: Mutex::new(()),
            marked: Mutex::new(false),
            broken: AtomicBool::new(false),
        })
    }

    /// What is known from the header.
    pub(crate) const fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock leaves the maps half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where grain `first` is, and how many of the `count` grains from there on are alike: all absent, all zero, or behind each
    /// other in the file. At least one.
    pub(crate) fn run(&self, first: u64, count: u64) -> Result<(Location, u64), ExtentError> {
        let mut state = self.lock();
        let start = self.location(&mut state, first)?;
        let mut alike = 1;
        while alike < count {
            let follows = match start {
                Location::At(at) => Location::At(at + alike * self.shape.grain),
                other => other,
            };
            // What is wrong further on is found when it is asked for.
            if self.location(&mut state, first + alike).ok() != Some(follows) {
                break;
            }
            alike += 1;
        }
        Ok((start, alike))
    }

    pub(super) fn location(&self, state: &mut State, grain: u64) -> Result<Location, ExtentError> {
        let settled = state.pending.get(&grain).and_then(|pending| pending.settled);
        let entry = match settled {
            Some(entry) => entry,
            None => self.entry(state, grain)?,
        };
        self.checked(grain, entry)
    }

    /// What an entry says, if that can be.
    pub(super) fn checked(&self, grain: u64, entry: u32) -> Result<Location, ExtentError> {
        if entry == ENTRY_ABSENT {
            return Ok(Location::Absent);
        }
        if entry == ENTRY_ZERO && self.shape.has_zeroed_grains {
            return Ok(Location::Zero);
        }
        let at = u64::from(entry) * SECTOR;
        let what = if at < self.shape.overhead {
            "into the metadata"
        } else if at + self.shape.bytes_of(grain) > self.device.0.size().get() {
            "behind the end"
        } else {
            return Ok(Location::At(at));
        };
        Err(self.damaged(&format!("the entry of grain {grain} leads {what} of the file")))
    }

    /// The entry of a grain as it is on the disk.
    pub(super) fn entry(&self, state: &mut State, grain: u64) -> Result<u32, ExtentError> {
        let (table, index) = (grain / u64::from(TABLE_ENTRIES), grain % u64::from(TABLE_ENTRIES));
        let index = usize::try_from(index).unwrap_or(ENTRIES);
        Ok(self
            .table(state, table)?
            .map_or(ENTRY_ABSENT, |entries| entries.get(index).copied().unwrap_or(ENTRY_ABSENT)))
    }

    /// A table; `None` if it is not there, so that all of its grains are absent.
    pub(super) fn table<'a>(&self, state: &'a mut State, table: u64) -> Result<Option<&'a mut Table>, ExtentError> {
        if !state.held.contains_key(&table) {
            if state.sector_of(table) == 0 {
                return Ok(None);
            }
            self.hold(state, table)?;
        }
        Ok(state.held.get_mut(&table))
    }

    /// Reads a table and those that lie right behind it.
    fn hold(&self, state: &mut State, table: u64) -> Result<(), ExtentError> {
        let sector = state.sector_of(table);
        let mut count = 1;
        while count < TABLES_READ
            && table + count < self.shape.tables
            && u64::from(state.sector_of(table + count)) == u64::from(sector) + count * (TABLE_BYTES / SECTOR)
        {
            count += 1;
        }
        let at = u64::from(sector) * SECTOR;
        let room = self.device.0.size().get().saturating_sub(at) / TABLE_BYTES;
        if room == 0 {
            return Err(self.damaged(&format!("grain table {table} lies outside of the file")));
        }
        let numbers = self.device.numbers(at, count.min(room) * u64::from(TABLE_ENTRIES))?;
        if state.held.len() + numbers.len() / ENTRIES > TABLES_HELD {
            state.held.clear();
        }
        for (index, entries) in (table..).zip(numbers.chunks_exact(ENTRIES)) {
            // One that is held already may be newer than the disk.
            let read = || Box::new(std::array::from_fn(|entry| entries[entry]));
            state.held.entry(index).or_insert_with(read);
        }
        Ok(())
    }

    pub(super) fn damaged(&self, what: &str) -> ExtentError {
        ExtentError::Damaged(format!(
            "{} is damaged: {what}; `failback vmdk check` tells more, and a copy of the file is needed",
            self.device.0.name()
        ))
    }
}

impl State {
    /// Where a table lies, in sectors.
    pub(super) fn sector_of(&self, table: u64) -> u32 {
        usize::try_from(table).ok().and_then(|table| self.directory.get(table)).copied().unwrap_or(0)
    }

    /// Sets an entry in its table, if that is in memory.
    pub(super) fn correct(&mut self, grain: u64, entry: u32) {
        let (table, index) = (grain / u64::from(TABLE_ENTRIES), grain % u64::from(TABLE_ENTRIES));
        let entries = self.held.get_mut(&table);
        let place = usize::try_from(index).ok().and_then(|index| entries?.get_mut(index));
        if let Some(place) = place {
            *place = entry;
        }
    }

    /// Forgets what is known of tables.
    pub(super) fn forget_tables(&mut self) {
        self.held.clear();
    }
}

impl Shared {
    /// Reads `count` 32-bit numbers. The caller has checked that they lie in the file.
    pub(super) fn numbers(&self, at: u64, count: u64) -> Result<Vec<u32>, ExtentError> {
        let bytes = self.bytes(at, count * 4)?;
        let number = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(bytes.chunks_exact(4).map(number).collect())
    }

    /// Reads `count` bytes at `at`.
    pub(super) fn bytes(&self, at: u64, count: u64) -> Result<Buffer, ExtentError> {
        let outside = || {
            let name = self.0.name();
            ExtentError::Damaged(format!(
                "{name} is damaged: it ends before bytes {at} to {}",
                at.saturating_add(count)
            ))
        };
        let length = ByteCount::new(count).filter(|_| at.saturating_add(count) <= self.0.size().get());
        let length = length.and_then(ByteCount::to_usize).ok_or_else(outside)?;
        let at = ByteOffset::new(at).ok_or_else(outside)?;
        run(&*self.0, Operation::Read { at, into: Buffer::zeroed(length) })?.ok_or_else(outside)
    }
}

impl Extent for SparseExtent {
    fn capacity(&self) -> ByteCount {
        self.shape.capacity
    }

    fn grain_size(&self) -> u32 {
        u32::try_from(self.shape.grain).unwrap_or(u32::MAX)
    }

    fn place(&self, index: u64) -> Result<Place, ExtentError> {
        Ok(match self.run(index, 1)?.0 {
            Location::Absent => Place::Absent,
            Location::Zero => Place::Zero,
            Location::At(at) => Place::At(ByteOffset::new(at).unwrap_or_default()),
        })
    }

    fn read_grain(&self, index: u64, into: &mut [u8]) -> Result<(), ExtentError> {
        match self.run(index, 1)?.0 {
            Location::Absent | Location::Zero => into.fill(0),
            Location::At(at) => {
                into.copy_from_slice(&self.device.bytes(at, ByteCount::of_memory(into.len()).get())?);
            }
        }
        Ok(())
    }
}
