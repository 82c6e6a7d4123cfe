//! Writing in place: see the module's text for the order.

use super::entries::{Location, Shared, SparseExtent, State};
use crate::extent::ExtentError;
use crate::layout::{ENTRY_ZERO, SECTOR, TABLE_BYTES, TABLE_ENTRIES};
use failback_blockio::{Action, Buffer, IoError, Operation, run};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::collections::BTreeMap;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Acquire, Release};
use zerocopy::IntoBytes;

/// The most entries that are held in memory before they are written without being asked for: 4 GiB in grains of 64 KiB.
pub(super) const MAX_PENDING: usize = 65_536;
/// By how much the file is made longer at a time. A new length can cost a wait for everything that is in flight.
const GROWTH: u64 = 32 << 20;
/// The most bytes of tables that are written in one piece.
const PIECE: u64 = 1 << 20;

/// Fills a grain; told whether it is zero at first, else it is what lies below.
type Fill<'a> = &'a mut dyn FnMut(&mut [u8], bool) -> Result<(), IoError>;

/// Where a part of a grain is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrainTarget {
    /// The grain is there: at this offset in the file.
    At(u64),
    /// It is not; it reads as zeroes if `zero`, else as what lies below.
    New {
        /// Whether it reads as zeroes whatever lies below.
        zero: bool,
    },
}

impl SparseExtent {
    /// Where grain `first` is written, and how many of the `count` grains from there on lie behind it. A grain whose first
    /// write is under way is there already.
    pub(crate) fn target(&self, first: u64, count: u64) -> Result<(GrainTarget, u64), ExtentError> {
        let mut state = self.lock();
        let start = self.target_of(&mut state, first)?;
        let mut alike = 1;
        while alike < count {
            let follows = match start {
                GrainTarget::At(at) => GrainTarget::At(at + alike * self.shape.grain),
                new @ GrainTarget::New { .. } => new,
            };
            if self.target_of(&mut state, first + alike).ok() != Some(follows) {
                break;
            }
            alike += 1;
        }
        Ok((start, alike))
    }

    fn target_of(&self, state: &mut State, grain: u64) -> Result<GrainTarget, ExtentError> {
        if let Some(entry) = state.pending.get(&grain).and_then(|pending| pending.reserved) {
            return Ok(GrainTarget::At(u64::from(entry) * SECTOR));
        }
        Ok(match self.location(state, grain)? {
            Location::At(at) => GrainTarget::At(at),
            Location::Zero => GrainTarget::New { zero: true },
            Location::Absent => GrainTarget::New { zero: false },
        })
    }

    /// Finds places at the end of the file for `count` whole grains from `first` on, one behind the other, which the caller
    /// then writes, and tells by [`written`](Self::written) how that ended.
    pub(crate) fn reserve(&self, first: u64, count: u64) -> Result<u64, ExtentError> {
        self.refuse_broken()?;
        self.mark()?;
        if self.lock().pending.len() >= self.batch {
            self.commit()?;
        }
        for table in first / u64::from(TABLE_ENTRIES)..=(first + count - 1) / u64::from(TABLE_ENTRIES) {
            self.make_table(table)?;
        }
        let mut state = self.lock();
        let at = self.allocate(&mut state, count * self.shape.grain)?;
        for index in 0..count {
            let entry = u32::try_from((at + index * self.shape.grain) / SECTOR).map_err(|_| self.full())?;
            state.pending.entry(first + index).or_default().reserved = Some(entry);
        }
        Ok(at)
    }

    /// Takes `bytes` at the end of the file, a multiple of the grain.
    fn allocate(&self, state: &mut State, bytes: u64) -> Result<u64, ExtentError> {
        let at = state.next;
        let end = at.checked_add(bytes).filter(|end| u32::try_from(end / SECTOR).is_ok()).ok_or_else(|| self.full())?;
        if end > self.device.0.size().get() {
            let longer = end.saturating_add(GROWTH).min(u64::from(u32::MAX) * SECTOR);
            self.device.0.resize(ByteCount::new(longer).unwrap_or_default())?;
        }
        state.next = end;
        Ok(at)
    }

    /// Takes note that the write of whole grains at reserved places ended, well or not. Whether the places still counted.
    pub(crate) fn written(&self, first: u64, count: u64, at: u64, well: bool) -> bool {
        let mut state = self.lock();
        let mut counted = true;
        for index in 0..count {
            let entry = u32::try_from((at + index * self.shape.grain) / SECTOR).ok();
            let Some(pending) = state.pending.get_mut(&(first + index)) else {
                counted = false;
                continue;
            };
            if pending.reserved != entry {
                // Another write of the same grain, at the same time, came first: its place is the grain's now.
                counted &= pending.settled == entry && entry.is_some();
                continue;
            }
            pending.reserved = None;
            if well {
                pending.settled = entry;
            } else if pending.settled.is_none() {
                state.pending.remove(&(first + index));
            }
        }
        counted
    }

    /// Makes a grain that is not there of a part and of what it reads as now: `fill` gets the whole grain, zeroed if `zero`, and
    /// makes it what it is to be. Only one is made at a time, so that two parts of one grain do not get two.
    ///
    /// Returns `false`, and does nothing, if the grain has come to be there meanwhile.
    pub(crate) fn make_grain(&self, grain: u64, fill: Fill<'_>) -> Result<bool, ExtentError> {
        let _one = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        let (GrainTarget::New { zero }, _) = self.target(grain, 1)? else { return Ok(false) };
        let mut content = Buffer::zeroed(usize::try_from(self.shape.grain).unwrap_or(0));
        fill(&mut content, zero)?;
        let at = self.reserve(grain, 1)?;
        let done = self.device.write(at, content);
        self.written(grain, 1, at, done.is_ok());
        done?;
        Ok(true)
    }

    /// Makes grains that are not there zero, whatever lies below: by an entry of 1. Only where the extent knows such.
    pub(crate) fn zero_entries(&self, first: u64, count: u64) -> Result<(), ExtentError> {
        self.refuse_broken()?;
        self.mark()?;
        for grain in first..first + count {
            if self.lock().pending.len() >= self.batch {
                self.commit()?;
            }
            self.make_table(grain / u64::from(TABLE_ENTRIES))?;
            let mut state = self.lock();
            state.pending.entry(grain).or_default().settled = Some(ENTRY_ZERO);
        }
        Ok(())
    }

    /// Marks the extent as not cleanly closed, durably, before the first change of tables.
    fn mark(&self) -> Result<(), ExtentError> {
        let mut marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
        if !*marked {
            self.write_header(1)?;
            *marked = true;
        }
        Ok(())
    }

    fn write_header(&self, unclean: u8) -> Result<(), ExtentError> {
        let mut header = self.shape.header;
        header.unclean_shutdown = unclean;
        self.device.write(0, Buffer::copy_of(header.as_bytes()))?;
        self.device.flush()?;
        Ok(())
    }

    /// Makes a table, and its redundant twin, where there is none: writers such as `VirtualBox` make them when needed.
    fn make_table(&self, table: u64) -> Result<(), ExtentError> {
        if self.lock().sector_of(table) != 0 {
            return Ok(());
        }
        let result = self.make_missing_table(table);
        if result.is_err() {
            self.broken.store(true, Release);
        }
        result
    }

    fn make_missing_table(&self, table: u64) -> Result<(), ExtentError> {
        let _one = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        if state.sector_of(table) != 0 {
            return Ok(());
        }
        let twins = if state.redundant.is_empty() { 1 } else { 2 };
        let bytes = (TABLE_BYTES * twins).next_multiple_of(self.shape.grain);
        let at = self.allocate(&mut state, bytes)?;
        let range = ByteOffset::new(at).zip(ByteCount::new(bytes)).and_then(|(at, count)| ByteRange::new(at, count));
        run(&*self.device.0, Operation::Zero { range: range.ok_or_else(|| self.full())? })?;
        self.device.flush()?;
        let index = usize::try_from(table).unwrap_or(usize::MAX);
        let sector = u32::try_from(at / SECTOR).map_err(|_| self.full())?;
        let twin = u32::try_from((at + TABLE_BYTES) / SECTOR).map_err(|_| self.full())?;
        if let (Some(directory), Some(entry)) = (self.shape.redundant, state.redundant.get_mut(index)) {
            *entry = twin;
            self.device.write(directory + table * 4, Buffer::copy_of(&twin.to_le_bytes()))?;
            self.device.flush()?;
        }
        if let Some(entry) = state.directory.get_mut(index) {
            *entry = sector;
        }
        self.device.write(self.shape.directory + table * 4, Buffer::copy_of(&sector.to_le_bytes()))?;
        self.device.flush()?;
        Ok(())
    }

    /// Makes durable everything that was written: the data, then the entries that lead to it.
    pub(crate) fn commit(&self) -> Result<(), ExtentError> {
        self.refuse_broken()?;
        let result = self.commit_in_order();
        if result.is_err() {
            self.broken.store(true, Release);
        }
        result
    }

    fn commit_in_order(&self) -> Result<(), ExtentError> {
        let _one = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let settled: BTreeMap<u64, u32> = {
            let state = self.lock();
            state.pending.iter().filter_map(|(grain, pending)| Some((*grain, pending.settled?))).collect()
        };
        self.device.flush()?;
        if settled.is_empty() {
            return Ok(());
        }
        let (redundant, primary) = self.changed_tables(&settled)?;
        if !redundant.is_empty() {
            self.device.write_all(redundant)?;
            self.device.flush()?;
        }
        self.device.write_all(primary)?;
        self.device.flush()?;
        let mut state = self.lock();
        for (grain, entry) in settled {
            // A reader may have put the table as it was before into memory meanwhile, if there was no room for all.
            state.correct(grain, entry);
            if let Some(pending) = state.pending.get_mut(&grain)
                && pending.settled == Some(entry)
            {
                pending.settled = None;
                if pending.reserved.is_none() {
                    state.pending.remove(&grain);
                }
            }
        }
        Ok(())
    }

    /// Puts new entries into the tables in memory; what is then to be written to the redundant tables, and to the tables.
    fn changed_tables(&self, settled: &BTreeMap<u64, u32>) -> Result<(Pieces, Pieces), ExtentError> {
        let per_table = u64::from(TABLE_ENTRIES);
        let (mut redundant, mut primary) = (Pieces::default(), Pieces::default());
        let mut state = self.lock();
        let mut rest = settled.iter().peekable();
        while let Some((first, _)) = rest.peek() {
            let table = *first / per_table;
            let at = u64::from(state.sector_of(table)) * SECTOR;
            let index = usize::try_from(table).unwrap_or(usize::MAX);
            let twin = state.redundant.get(index).map(|sector| u64::from(*sector) * SECTOR);
            let lost = || self.damaged(&format!("grain table {table} is not where it was"));
            let entries = self.table(&mut state, table)?.ok_or_else(lost)?;
            let (mut low, mut high) = (usize::MAX, 0);
            while let Some((grain, entry)) = rest.next_if(|(grain, _)| *grain / per_table == table) {
                let index = usize::try_from(grain % per_table).unwrap_or(0);
                entries[index] = *entry;
                (low, high) = (low.min(index), high.max(index + 1));
            }
            // Whole sectors, since less is not written faster.
            let (low, high) = (low / PER_SECTOR * PER_SECTOR, high.next_multiple_of(PER_SECTOR));
            let bytes: Vec<u8> = entries[low..high].iter().flat_map(|entry| entry.to_le_bytes()).collect();
            let within = ByteCount::of_memory(low * 4).get();
            if let Some(twin) = twin.filter(|twin| *twin != 0) {
                redundant.add(twin + within, &bytes);
            }
            primary.add(at + within, &bytes);
        }
        Ok((redundant, primary))
    }

    /// Makes everything durable, takes the mark away, and cuts off what was added to the file and not used. Nothing is in flight.
    pub(crate) fn close(&self) -> Result<(), ExtentError> {
        self.commit()?;
        let mut marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
        if *marked {
            let end = self.lock().next.min(self.device.0.size().get());
            self.device.0.resize(ByteCount::new(end).unwrap_or_default())?;
            self.device.flush()?;
            self.write_header(0)?;
            *marked = false;
        }
        Ok(())
    }

    fn refuse_broken(&self) -> Result<(), ExtentError> {
        if !self.broken.load(Acquire) {
            return Ok(());
        }
        let why = "an earlier flush failed, so that nobody knows what the file holds; open the disk again";
        Err(self.device.error(Action::Write, io::Error::other(why)).into())
    }

    fn full(&self) -> ExtentError {
        let why = "the extent has reached 2 TiB, where its entries count no further";
        self.device.error(Action::Write, io::Error::new(io::ErrorKind::FileTooLarge, why)).into()
    }
}

/// Entries in a sector.
const PER_SECTOR: usize = 128;

/// Bytes to be written, neighbours together.
#[derive(Default)]
pub(super) struct Pieces(Vec<(u64, Vec<u8>)>);

impl Pieces {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, at: u64, bytes: &[u8]) {
        if let Some((start, before)) = self.0.last_mut() {
            let length = ByteCount::of_memory(before.len()).get();
            if *start + length == at && length < PIECE {
                before.extend_from_slice(bytes);
                return;
            }
        }
        self.0.push((at, bytes.to_vec()));
    }
}

impl Shared {
    pub(super) fn write(&self, at: u64, from: Buffer) -> Result<(), IoError> {
        let at = ByteOffset::new(at).unwrap_or_default();
        run(&*self.0, Operation::Write { at, from }).map(drop)
    }

    pub(super) fn write_all(&self, pieces: Pieces) -> Result<(), IoError> {
        pieces.0.into_iter().try_for_each(|(at, bytes)| self.write(at, Buffer::copy_of(&bytes)))
    }

    pub(super) fn flush(&self) -> Result<(), IoError> {
        run(&*self.0, Operation::Flush).map(drop)
    }

    pub(super) fn error(&self, action: Action, source: io::Error) -> IoError {
        IoError { action, device: self.0.name().into(), at: ByteOffset::ZERO, count: ByteCount::ZERO, source }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Shape, read_header};
    use super::*;
    use crate::create::{NewDisk, Subformat, files_of};
    use failback_blockio::sim::{SimDisk, World};
    use std::sync::Arc;

    const GRAIN: u64 = 65_536;

    fn extent(file: &SimDisk, batch: usize) -> SparseExtent {
        let header = read_header(file).unwrap().unwrap();
        let mut extent = SparseExtent::open(Arc::new(file.clone()), Shape::of(&header, file).unwrap()).unwrap();
        extent.batch = batch;
        extent
    }

    #[test]
    fn a_full_batch_is_written_unasked() {
        let world = World::new(7);
        let new = NewDisk {
            subformat: Subformat::MonolithicSparse,
            capacity: ByteCount::new(100 * GRAIN).unwrap(),
            adapter: "lsilogic".into(),
            hardware_version: 14,
            uuid: None,
            cid: 9,
            zeroed_grains: false,
        };
        let made = files_of(&new, "x.vmdk").unwrap().remove(0);
        let file = world.disk("x.vmdk", made.length, 512);
        for (at, bytes) in made.content {
            file.write_durably(ByteOffset::new(at).unwrap(), &bytes);
        }
        let written = extent(&file, 10);
        for grain in 0..35 {
            let at = written.reserve(grain, 1).unwrap();
            written.device.write(at, Buffer::copy_of(&vec![7; 65_536])).unwrap();
            assert!(written.written(grain, 1, at, true));
            assert!(written.lock().pending.len() <= 10);
        }
        // What was in a full batch is there without a flush of the caller, and leads to what was written.
        world.reboot();
        let found = extent(&file, 10);
        for grain in 0..30 {
            let (Location::At(at), 1) = found.run(grain, 1).unwrap() else { panic!("grain {grain} is lost") };
            assert!(found.device.bytes(at, GRAIN).unwrap().iter().all(|byte| *byte == 7));
        }
    }
}
