//! Reading a log of writes. Nothing in it is believed before it is checked: a log that was cut off or damaged must end a test
//! with a sentence, not with wrong states.

use super::format::{DISCARD, FLAGS, MAGIC, MARK, RawEntry, RawSuper, SECTOR_MAX, SECTOR_MIN, VERSION};
use std::ops::Range;
use zerocopy::FromBytes;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where on the disk, in bytes.
    pub(super) at: u64,
    /// How much of it, in bytes.
    pub(super) bytes: u64,
    /// What was done, as in [`super::format`].
    pub(super) flags: u64,
    /// Where in the log its data is; empty if it has none.
    pub(super) data: Range<usize>,
}

/// The entries of a log, in the order in which they were made.
#[derive(Debug)]
pub(super) struct Entries<'a> {
    log: &'a [u8],
    sector_size: usize,
    next: usize,
    left: u64,
}

impl<'a> Entries<'a> {
    /// Reads the superblock. An empty file is a log without entries: QEMU writes the superblock with the first of them.
    pub(super) fn of(log: &'a [u8]) -> Result<Self, String> {
        if log.is_empty() {
            return Ok(Self { log, sector_size: 0, next: 0, left: 0 });
        }
        let (raw, _) = RawSuper::read_from_prefix(log).map_err(|_| "the log ends within its superblock")?;
        if raw.magic.get() != MAGIC {
            return Err("this is no log of writes".into());
        }
        if raw.version.get() != VERSION {
            return Err(format!("the log is of version {}, not {VERSION}", raw.version));
        }
        let sector_size = raw.sector_size.get();
        if !sector_size.is_power_of_two() || !(SECTOR_MIN..=SECTOR_MAX).contains(&sector_size) {
            return Err(format!("the log has sectors of {sector_size} bytes"));
        }
        let sector_size = usize::try_from(sector_size).unwrap();
        Ok(Self { log, sector_size, next: sector_size, left: raw.entries.get() })
    }

    /// Checks the entry whose header's sector is next, and says where the one behind it begins.
    fn read(&self) -> Result<(Entry, usize), String> {
        let header = self.log.get(self.next..).and_then(|rest| rest.get(..self.sector_size));
        let header = header.ok_or("the log ends before its last entry")?;
        let (raw, _) = RawEntry::read_from_prefix(header).unwrap();
        let flags = raw.flags.get();
        if flags & !FLAGS != 0 {
            return Err(format!("an entry has unknown flags: {flags:#x}"));
        }
        // A header's sector holds the header and a mark's name.
        let room = self.sector_size - size_of::<RawEntry>();
        if usize::try_from(raw.mark_length.get()).map_or(true, |length| length > room) {
            return Err(format!("the name of a mark is {} bytes long", raw.mark_length));
        }
        let in_bytes = |sectors: u64| sectors.checked_mul(self.sector_size as u64);
        let (Some(at), Some(bytes)) = (in_bytes(raw.sector.get()), in_bytes(raw.sectors.get())) else {
            return Err(format!("an entry is about {} sectors from {} on", raw.sectors, raw.sector));
        };
        let start = self.next + self.sector_size;
        let length = if flags & (DISCARD | MARK) == 0 { usize::try_from(bytes).ok() } else { Some(0) };
        let end = length.and_then(|length| start.checked_add(length)).filter(|end| *end <= self.log.len());
        let end = end.ok_or_else(|| format!("the log ends within an entry of {bytes} bytes"))?;
        Ok((Entry { at, bytes, flags, data: start..end }, end))
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, String>;

    /// Ends after the first error.
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match self.read() {
            Ok((entry, next)) => {
                self.next = next;
                Some(Ok(entry))
            }
            Err(error) => {
                self.left = 0;
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{FLUSH, FUA};
    use super::*;
    use zerocopy::IntoBytes;

    const SECTOR: usize = 512;

    fn log(entries: u64, parts: &[(RawEntry, &[u8])]) -> Vec<u8> {
        let superblock =
            RawSuper { magic: MAGIC.into(), version: VERSION.into(), entries: entries.into(), sector_size: 512.into() };
        let mut log = superblock.as_bytes().to_vec();
        log.resize(SECTOR, 0);
        for (header, data) in parts {
            log.extend(header.as_bytes());
            log.resize(log.len().next_multiple_of(SECTOR), 0);
            log.extend(*data);
        }
        log
    }

    fn header(sector: u64, sectors: u64, flags: u64) -> RawEntry {
        RawEntry { sector: sector.into(), sectors: sectors.into(), flags: flags.into(), mark_length: 0.into() }
    }

    fn read(log: &[u8]) -> Result<Vec<Entry>, String> {
        Entries::of(log)?.collect()
    }

    #[test]
    fn every_kind_of_entry_is_read() {
        let mark = RawEntry { mark_length: 5.into(), ..header(0, 0, MARK) };
        let log = log(
            5,
            &[
                (header(3, 2, FUA), &[7; 1024]),
                (header(0, 0, FLUSH), &[]),
                (header(9, 1000, DISCARD), &[]),
                (mark, &[]),
                (header(1, 1, 0), &[8; 512]),
            ],
        );
        let entries = read(&log).unwrap();
        let flags: Vec<_> = entries.iter().map(|entry| entry.flags).collect();
        assert_eq!(flags, [FUA, FLUSH, DISCARD, MARK, 0]);
        assert_eq!((entries[0].at, entries[0].bytes, &log[entries[0].data.clone()]), (1536, 1024, &[7; 1024][..]));
        assert_eq!((entries[2].at, entries[2].bytes, entries[2].data.len()), (4608, 512_000, 0));
        assert_eq!((entries[4].at, &log[entries[4].data.clone()]), (512, &[8; 512][..]));
        assert!(read(&[]).unwrap().is_empty());
    }

    #[test]
    fn damage_is_told_and_ends_the_reading() {
        let good = log(1, &[(header(1, 1, 0), &[8; 512])]);
        let with = |at: usize, bytes: &[u8]| {
            let mut log = good.clone();
            log[at..at + bytes.len()].copy_from_slice(bytes);
            read(&log).unwrap_err()
        };
        assert!(read(&good[..20]).unwrap_err().contains("within its superblock"));
        assert!(with(0, &[0]).contains("no log of writes"));
        assert!(with(8, &[2]).contains("version 2"));
        assert!(with(24, &[0, 3]).contains("sectors of 768 bytes"));
        assert!(with(24, &[0, 1]).contains("sectors of 256 bytes"));
        assert!(with(24, &[0, 32]).contains("sectors of 8192 bytes"));
        assert!(with(16, &[2]).contains("ends before its last entry"));
        assert!(with(23, &[0xff]).contains("ends before its last entry"), "a number that no memory holds");
        assert!(with(SECTOR + 16, &[16]).contains("unknown flags: 0x10"));
        assert!(with(SECTOR + 24, &[0xe1, 1]).contains("481 bytes long"));
        assert!(with(SECTOR + 7, &[1]).contains("sectors from"));
        assert!(with(SECTOR + 15, &[1]).contains("sectors from"));
        assert!(with(SECTOR + 8, &[2]).contains("ends within an entry of 1024 bytes"));
        assert!(with(SECTOR + 13, &[1]).contains("ends within an entry"));
        assert_eq!(Entries::of(&good[..1024]).unwrap().count(), 1);
    }
}
