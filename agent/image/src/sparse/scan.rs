//! Looking at all tables of an extent: what a check does, and opening for writing does too.
//!
//! Memory is one bit for each grain that the file has room for: 4 MiB for 2 TiB in grains of 64 KiB.

use super::entries::{ENTRIES, SparseExtent};
use crate::extent::ExtentError;
use crate::findings::{Findings, Severity};
use crate::layout::{ENTRY_ABSENT, ENTRY_ZERO, FLAG_NEWLINES, NEWLINES, SECTOR, TABLE_BYTES, TABLE_ENTRIES};

/// How many tables are read at a time.
const TABLES_AT_ONCE: u64 = 512;

/// What the tables say in sum.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TableFacts {
    /// Grains that are in the file.
    pub(crate) allocated: u64,
    /// Grains that are zero by their entry.
    pub(crate) zeroed: u64,
}

/// A run of tables, from both directories.
pub(super) struct Tables {
    pub(super) first: u64,
    pub(super) primary: Vec<u32>,
    /// Empty where there are no redundant ones.
    pub(super) redundant: Vec<u32>,
}

/// One bit for each grain of the file.
struct Bitmap(Vec<u64>);

impl Bitmap {
    fn new(bits: u64) -> Self {
        Self(vec![0; usize::try_from(bits / 64 + 1).unwrap_or(0)])
    }

    /// Sets a bit; whether it was set before. Bits out of range count as not set.
    fn set(&mut self, bit: u64) -> bool {
        let Some(word) = usize::try_from(bit / 64).ok().and_then(|index| self.0.get_mut(index)) else { return false };
        let mask = 1 << (bit % 64);
        let before = *word & mask != 0;
        *word |= mask;
        before
    }
}

impl SparseExtent {
    /// Whether the header says that the extent was not closed cleanly.
    pub(crate) fn is_unclean(&self) -> bool {
        self.shape.header.unclean_shutdown != 0
    }

    /// Looks at the header and at every entry of every table.
    pub(crate) fn check(&self, findings: &mut Findings) -> Result<TableFacts, ExtentError> {
        let name = self.device.0.name();
        if self.shape.header.flags.get() & FLAG_NEWLINES == 0 && self.shape.header.newlines != NEWLINES {
            findings.add(Severity::Error, || format!("{name} has wrong newline bytes: it was once copied as text"));
        }
        if self.is_unclean() {
            let sentence = || format!("{name} was not closed cleanly: whoever wrote it crashed, or still has it open");
            findings.add(Severity::Repairable, sentence);
        }
        if self.shape.redundant.is_none() {
            findings.add(Severity::Note, || format!("{name} has no redundant grain tables"));
        }
        let mut scan = Scan {
            extent: self,
            name,
            findings,
            used: Bitmap::new(self.file_bytes().min(MAX_ADDRESSED) / self.shape.grain),
            metadata: Vec::new(),
            residue: None,
            facts: TableFacts::default(),
        };
        scan.directories();
        let mut table = 0;
        while table < self.shape.tables {
            let tables = self.tables_from(table)?;
            for (index, entries) in (table..).zip(tables.primary.chunks_exact(ENTRIES)) {
                let place = usize::try_from(index - table).unwrap_or(0) * ENTRIES;
                let twin = tables.redundant.get(place..place + ENTRIES);
                scan.table(index, entries, twin);
            }
            table += (tables.primary.len() / ENTRIES) as u64;
        }
        Ok(scan.facts)
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.device.0.size().get()
    }

    /// Reads the tables from `first` on that lie behind each other, in both directories alike: at least one. A table that
    /// is not there, or not in the file, reads as absent entries.
    pub(super) fn tables_from(&self, first: u64) -> Result<Tables, ExtentError> {
        let (directory, redundant) = {
            let state = self.lock();
            let part = |all: &[u32]| -> Vec<u32> {
                let start = usize::try_from(first).unwrap_or(usize::MAX);
                all.iter().skip(start).take(usize::try_from(TABLES_AT_ONCE).unwrap_or(1)).copied().collect()
            };
            (part(&state.directory), part(&state.redundant))
        };
        let count = self.in_a_row(&directory);
        let count = if redundant.is_empty() { count } else { count.min(self.in_a_row(&redundant)) };
        let read = |directory: &[u32]| match directory.first() {
            Some(sector) if self.holds_table(*sector) => {
                self.device.numbers(u64::from(*sector) * SECTOR, count * u64::from(TABLE_ENTRIES))
            }
            Some(_) => Ok(vec![ENTRY_ABSENT; usize::try_from(count).unwrap_or(1) * ENTRIES]),
            None => Ok(Vec::new()),
        };
        Ok(Tables { first, primary: read(&directory)?, redundant: read(&redundant)? })
    }

    /// How many tables from the first one on lie behind each other in the file.
    fn in_a_row(&self, directory: &[u32]) -> u64 {
        let step = u32::try_from(TABLE_BYTES / SECTOR).unwrap_or(u32::MAX);
        let follows = |pair: &&[u32]| match pair {
            [before, next] => before.checked_add(step) == Some(*next) && self.holds_table(*next) && *before != 0,
            _ => false,
        };
        1 + directory.windows(2).take_while(follows).count() as u64
    }

    fn holds_table(&self, sector: u32) -> bool {
        sector != 0 && u64::from(sector) * SECTOR + TABLE_BYTES <= self.file_bytes()
    }
}

/// No entry leads further.
const MAX_ADDRESSED: u64 = (u32::MAX as u64 + 1) * SECTOR;

struct Scan<'a> {
    extent: &'a SparseExtent,
    name: &'a str,
    findings: &'a mut Findings,
    used: Bitmap,
    /// Where structures lie, from their first byte to the one behind their last, in order.
    metadata: Vec<(u64, u64)>,
    /// By how much the first grain is off a multiple of the grain.
    residue: Option<u64>,
    facts: TableFacts,
}

impl Scan<'_> {
    fn directories(&mut self) {
        let (directory, redundant) = {
            let state = self.extent.lock();
            (state.directory.clone(), state.redundant.clone())
        };
        let name = self.name;
        for (what, list) in [("grain", &directory), ("redundant grain", &redundant)] {
            for (index, sector) in list.iter().enumerate() {
                if *sector != 0 && !self.extent.holds_table(*sector) {
                    let sentence = || format!("{what} table {index} of {name} lies outside of the file");
                    self.findings.add(Severity::Error, sentence);
                }
            }
        }
        for (index, (one, other)) in directory.iter().zip(&redundant).enumerate() {
            if (*one == 0) != (*other == 0) {
                let severity = self.difference();
                let sentence = || format!("{name} has only one of the two grain tables {index}");
                self.findings.add(severity, sentence);
            }
        }
        let shape = &self.extent.shape;
        let end = |start: u64| start + shape.tables * 4;
        let ends = [Some(end(shape.directory)), shape.redundant.map(end), shape.descriptor_end()];
        if ends.into_iter().flatten().any(|end| end > shape.overhead) {
            let sentence = || format!("{name} says that grains may lie where its directory or descriptor is");
            self.findings.add(Severity::Error, sentence);
        }
        self.metadata = self.metadata_of(&directory, &redundant);
        self.metadata.sort_unstable();
        let mut whole: Vec<(u64, u64)> = Vec::new();
        for (start, end) in std::mem::take(&mut self.metadata) {
            match whole.last_mut() {
                Some((_, last)) if start < *last => {
                    let sentence = || format!("two structures of {name} lie on the same bytes, before and at {start}");
                    self.findings.add(Severity::Error, sentence);
                    *last = end.max(*last);
                }
                Some((_, last)) if start == *last => *last = end,
                _ => whole.push((start, end)),
            }
        }
        self.metadata = whole;
    }

    /// Where the header, the descriptor, the directories and the tables lie.
    fn metadata_of(&self, directory: &[u32], redundant: &[u32]) -> Vec<(u64, u64)> {
        let shape = &self.extent.shape;
        let descriptor = shape.header.descriptor_offset.get().saturating_mul(SECTOR);
        let text = shape.header.descriptor_sectors.get().saturating_mul(SECTOR);
        let table = |sector: &u32| (u64::from(*sector) * SECTOR, u64::from(*sector) * SECTOR + TABLE_BYTES);
        let tables = directory.iter().chain(redundant).filter(|sector| **sector != 0).map(table);
        let mut all: Vec<(u64, u64)> = tables.collect();
        all.push((0, SECTOR));
        all.extend(
            [Some(shape.directory), shape.redundant].into_iter().flatten().map(|at| (at, at + shape.tables * 4)),
        );
        if descriptor != 0 && text != 0 {
            all.push((descriptor, descriptor.saturating_add(text)));
        }
        all
    }

    /// Whether a grain lies on anything that is no grain.
    fn is_on_metadata(&self, start: u64, end: u64) -> bool {
        let next = self.metadata.partition_point(|(_, metadata_end)| *metadata_end <= start);
        self.metadata.get(next).is_some_and(|(metadata_start, _)| *metadata_start < end)
    }

    /// How bad it is that both tables differ: after a crash they may.
    fn difference(&self) -> Severity {
        if self.extent.is_unclean() { Severity::Repairable } else { Severity::Error }
    }

    fn table(&mut self, table: u64, entries: &[u32], twin: Option<&[u32]>) {
        let first = table * u64::from(TABLE_ENTRIES);
        let (name, shape) = (self.name, &self.extent.shape);
        for (index, entry) in entries.iter().enumerate() {
            let grain = first + index as u64;
            if grain >= shape.grains {
                break;
            }
            if let Some(other) = twin.map(|twin| twin[index])
                && other != *entry
            {
                let severity = self.difference();
                let sentence = || {
                    format!(
                        "the two tables of {name} differ at grain {grain}: {entry}, and {other} in the redundant one"
                    )
                };
                self.findings.add(severity, sentence);
            }
            match *entry {
                ENTRY_ABSENT => {}
                ENTRY_ZERO if shape.has_zeroed_grains => self.facts.zeroed += 1,
                entry => self.grain(grain, u64::from(entry) * SECTOR),
            }
        }
    }

    fn grain(&mut self, grain: u64, at: u64) {
        let (name, shape) = (self.name, &self.extent.shape);
        self.facts.allocated += 1;
        let end = at + shape.bytes_of(grain);
        if at < shape.overhead || self.is_on_metadata(at, end) {
            let sentence = || format!("the entry of grain {grain} of {name} leads into the metadata, to byte {at}");
            return self.findings.add(Severity::Error, sentence);
        }
        let file = self.extent.file_bytes();
        if end > file {
            let sentence =
                || format!("grain {grain} of {name} ends at byte {end}, but the file at {file}: it was cut off");
            return self.findings.add(Severity::Error, sentence);
        }
        let off = at % shape.grain;
        let residue = *self.residue.get_or_insert(off);
        if off != residue {
            let sentence = || format!("grain {grain} of {name} is not aligned as the others are, at byte {at}");
            self.findings.add(Severity::Error, sentence);
        } else if off != 0 && self.facts.allocated == 1 {
            self.findings.add(Severity::Note, || format!("the grains of {name} are not aligned to their size"));
        }
        if self.used.set(at / shape.grain) {
            let sentence = || format!("two entries of {name} lead to the same grain at byte {at}, one of them {grain}");
            self.findings.add(Severity::Error, sentence);
        }
    }
}
