//! What was recorded: the disks before, and everything that was done to them since, in one order.
//!
//! Each disk has a log of its own, and both logs are not files: what is written to them is logged in turn, in the outer log,
//! which is the file that is read here. So the outer log's order is that of both disks; its writes are the inner logs' superblocks
//! and entries, and an inner entry tells what no common log could: *which* disk was flushed.

use super::format::{DISCARD, FLUSH, RawEntry};
use super::log::Entries;
use crate::lab::Dice;
use std::ops::Range;
use zerocopy::FromBytes;

/// All logs have sectors of this size, in which writes are torn too.
pub(super) const SECTOR: usize = 512;
/// The part of the outer log's disk that belongs to one inner log: more than any test writes.
pub(super) const INNER_LOG: u64 = 1 << 40;

/// Something that was done to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The number of the disk.
    pub(super) disk: usize,
    /// What was done.
    pub(super) action: Action,
    /// Where in the outer log the entry begins that tells so.
    pub(super) entry: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Bytes were written, which lie in the log.
    Write { at: usize, data: Range<usize> },
    /// Bytes were made zero, or were discarded, which on these disks is the same.
    Zero { range: Range<usize> },
    /// What this disk had completed before is durable.
    Flush,
}

impl Action {
    /// Which bytes of the disk it changed.
    pub(super) fn range(&self) -> Range<usize> {
        match self {
            Self::Write { at, data } => *at..at + data.len(),
            Self::Zero { range } => range.clone(),
            Self::Flush => 0..0,
        }
    }
}

/// The disks before, and what was done since.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) base: [Vec<u8>; 2],
    pub(super) log: Vec<u8>,
    pub(super) events: Vec<Event>,
    /// The power may go before or after any of these events: those of the workload.
    pub(super) workload: Range<usize>,
}

impl Recording {
    /// Reads the outer log. The workload is what was done while the log grew by the bytes `during`.
    pub(super) fn new(base: [Vec<u8>; 2], log: Vec<u8>, during: &Range<u64>) -> Result<Self, String> {
        let sizes = [base[0].len(), base[1].len()];
        let mut events = Vec::new();
        for entry in Entries::of(&log)? {
            let entry = entry?;
            // Flushes of the outer log are those of files that hold inner logs.
            if entry.flags == 0 && entry.bytes > 0 {
                let disk = usize::from(entry.at >= INNER_LOG);
                if let Some(action) = inner(&log, entry.at % INNER_LOG, &entry.data, sizes[disk])? {
                    events.push(Event { disk, action, entry: (entry.data.start - SECTOR) as u64 });
                }
            } else if entry.flags != FLUSH {
                return Err(format!("the outer log has an entry with the flags {}", entry.flags));
            }
        }
        let event_at = |length: u64| events.partition_point(|event| event.entry < length);
        let workload = event_at(during.start)..event_at(during.end);
        Ok(Self { base, log, events, workload })
    }

    /// A moment within the workload, as the number of events that have happened by then. One in eight is its end, when all that was
    /// reported as done must be there. Of the others, half are any, half lie between any two flushes: a few writes between two
    /// flushes decide as much as thousands of them.
    pub(super) fn moment(&self, dice: &mut Dice) -> usize {
        let Range { start, end } = self.workload;
        match dice.below(16) {
            0 | 1 => end,
            2..9 => start + dice.below(end - start + 1),
            _ => {
                let flushes = (start..end).filter(|number| self.events[*number].action == Action::Flush);
                let bounds: Vec<_> =
                    [start].into_iter().chain(flushes.map(|number| number + 1)).chain([end + 1]).collect();
                let between = dice.below(bounds.len() - 1);
                bounds[between] + dice.below(bounds[between + 1] - bounds[between])
            }
        }
    }

    /// The bytes that a write wrote.
    pub(super) fn bytes(&self, data: &Range<usize>) -> &[u8] {
        &self.log[data.clone()]
    }
}

/// What a write to an inner log at `at` tells about a disk of `size` bytes; `data` is where it lies in the outer log.
fn inner(log: &[u8], at: u64, data: &Range<usize>, size: usize) -> Result<Option<Action>, String> {
    let (header, content) = log[data.clone()].split_at(SECTOR);
    // The superblock, and zeroes, which QEMU writes behind the header of an entry that stands for zeroes.
    if at == 0 || header.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let (raw, _) = RawEntry::read_from_prefix(header).unwrap();
    let in_bytes = |sectors: u64| usize::try_from(sectors).ok()?.checked_mul(SECTOR);
    let (start, bytes) = (in_bytes(raw.sector.get()), in_bytes(raw.sectors.get()));
    let range = start.zip(bytes).and_then(|(start, bytes)| Some(start..start.checked_add(bytes)?));
    let range =
        range.filter(|range| range.end <= size).ok_or("an entry is about sectors that the disk does not have")?;
    match raw.flags.get() {
        FLUSH if content.is_empty() => Ok(Some(Action::Flush)),
        0 | DISCARD if content.is_empty() => Ok(Some(Action::Zero { range })),
        0 if content.len() == range.len() => {
            Ok(Some(Action::Write { at: range.start, data: data.start + SECTOR..data.end }))
        }
        flags => {
            Err(format!("an inner entry of {} bytes has the flags {flags} and {} bytes", range.len(), content.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{FUA, MAGIC, RawSuper, VERSION};
    use super::*;
    use zerocopy::IntoBytes;

    fn header(at: u64, bytes: u64, flags: u64) -> Vec<u8> {
        let sectors = |bytes: u64| (bytes / SECTOR as u64).into();
        let raw = RawEntry { sector: sectors(at), sectors: sectors(bytes), flags: flags.into(), mark_length: 0.into() };
        let mut sector = raw.as_bytes().to_vec();
        sector.resize(SECTOR, 0);
        sector
    }

    /// A write to the outer log's disk.
    fn outer(at: u64, content: &[u8]) -> Vec<u8> {
        [header(at, content.len() as u64, 0), content.to_vec()].concat()
    }

    fn log(entries: &[Vec<u8>]) -> Vec<u8> {
        let number = entries.len() as u64;
        let (magic, version) = (MAGIC.into(), VERSION.into());
        let raw = RawSuper { magic, version, entries: number.into(), sector_size: 512.into() };
        let mut superblock = raw.as_bytes().to_vec();
        superblock.resize(SECTOR, 0);
        [superblock, entries.concat()].concat()
    }

    fn recorded(entries: &[Vec<u8>], during: &Range<u64>) -> Result<Recording, String> {
        Recording::new([vec![0; 4096], vec![0; 8192]], log(entries), during)
    }

    #[test]
    fn inner_entries_of_both_disks_are_found_in_their_order() {
        let next = 512;
        let entries = [
            outer(next, &[header(1024, 512, 0), vec![7; 512]].concat()),
            outer(INNER_LOG + next, &header(0, 0, FLUSH)),
            outer(INNER_LOG, &[1; 512]),
            header(0, 0, FLUSH),
            outer(INNER_LOG + next, &header(0, 8192, 0)),
            outer(INNER_LOG + next, &[0; 8192]),
            outer(next, &header(512, 1024, DISCARD)),
        ];
        let before = log(&entries[..1]).len() as u64;
        let recording = recorded(&entries, &(before..log(&entries[..5]).len() as u64)).unwrap();
        let events: Vec<_> = recording.events.iter().map(|event| (event.disk, event.action.clone())).collect();
        assert_eq!(events[0], (0, Action::Write { at: 1024, data: 1536..2048 }));
        assert_eq!(recording.bytes(&(1536..2048)), [7; 512]);
        assert_eq!(events[1], (1, Action::Flush));
        assert_eq!(events[2], (1, Action::Zero { range: 0..8192 }));
        assert_eq!(events[3], (0, Action::Zero { range: 512..1536 }));
        assert_eq!((events.len(), recording.workload), (4, 1..3));
    }

    #[test]
    fn what_no_such_disk_writes_is_refused() {
        let refused = |entry: Vec<u8>| recorded(&[entry], &(0..0)).unwrap_err();
        assert!(refused(outer(512, &header(4096, 512, DISCARD))).contains("the disk does not have"));
        assert!(refused(outer(512, &header(512, 1 << 63, 0))).contains("the disk does not have"));
        assert!(refused(outer(512, &header(0, 512, FUA))).contains("has the flags 2"));
        assert!(refused(outer(512, &[header(0, 512, 0), vec![7; 1024]].concat())).contains("and 1024 bytes"));
        assert!(refused(header(0, 512, DISCARD)).contains("the flags 4"));
    }
}
