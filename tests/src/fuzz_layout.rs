//! What must hold of any bytes that claim to be a disk.
//!
//! The bytes are the whole disk. Checksums of GPT and LVM are repaired first, in a copy, so that what lies behind them is
//! reached too. To search, from the top of the repository:
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz layout /tmp/found`

use failback_blockio::{Action, Completion, Device, Extent, IoError, Operation, Queue};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use failback_volumes::{Content, DiskLayout, FileSystemFacts, scan};
use serde_json::Value;
use std::collections::VecDeque;
use std::io;

/// Looks at a disk as it is and with its checksums repaired. Returns whether anything was found free.
///
/// # Panics
///
/// When something does not hold that must.
#[must_use]
pub fn layout(bytes: &[u8]) -> bool {
    let mut repaired = bytes.to_vec();
    repair(&mut repaired);
    let free = look(bytes);
    (repaired != bytes && look(&repaired)) || free
}

/// A disk in memory that can only be read.
struct Memory<'a>(&'a [u8]);

/// Operations of [`Memory`], carried out when they are waited for.
struct Reads<'a> {
    bytes: &'a [u8],
    waiting: VecDeque<(u64, Operation)>,
}

impl Device for Memory<'_> {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn size(&self) -> ByteCount {
        ByteCount::of_memory(self.0.len())
    }

    fn logical_block(&self) -> u32 {
        512
    }

    fn engine(&self) -> &'static str {
        "memory"
    }

    fn queue(&self, _depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        Ok(Box::new(Reads { bytes: self.0, waiting: VecDeque::new() }))
    }

    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        let range = ByteRange::between(from, self.size().as_end()).filter(|range| !range.is_empty());
        Ok(range.map(|range| Extent { range, hole: false }))
    }
}

impl Queue for Reads<'_> {
    fn depth(&self) -> usize {
        1
    }

    fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        self.waiting.push_back((token, operation));
    }

    fn wait(&mut self) -> Option<Completion> {
        let (token, operation) = self.waiting.pop_front()?;
        let Operation::Read { at, mut into } = operation else { panic!("a look at a disk only reads: {operation:?}") };
        let start = usize::try_from(at.get()).expect("it is in memory");
        let found = start.checked_add(into.len()).and_then(|end| self.bytes.get(start..end));
        let result = found.map(|found| into.copy_from_slice(found)).ok_or_else(|| IoError {
            action: Action::Read,
            device: "memory".into(),
            at,
            count: ByteCount::of_memory(into.len()),
            source: io::ErrorKind::InvalidInput.into(),
        });
        assert!(result.is_ok(), "it reads behind the end of the disk");
        Some(Completion { token, buffer: Some(into), result })
    }
}

/// Looks at a disk, and holds what is said of it against itself.
fn look(bytes: &[u8]) -> bool {
    let disk = Memory(bytes);
    let layouts = scan(&[&disk]);
    let [layout] = layouts.as_slice() else { panic!("one disk has one layout") };
    check(layout);
    !layout.free.is_empty()
}

fn check(layout: &DiskLayout) {
    let mut end = ByteOffset::ZERO;
    for extent in layout.free.extents() {
        assert!(extent.fits(layout.size) && extent.start() >= end && !extent.is_empty());
        end = extent.end();
    }
    assert_eq!(layout.used().get() + layout.free.bytes().get(), layout.size.get());
    let mut free = 0;
    count_free(&layout.content, &mut free);
    assert_eq!(free, layout.free.bytes().get(), "the free space of a disk is that of the volumes on it");
    if let Content::PartitionTable(table) = &layout.content {
        let of = |partition: &failback_volumes::Partition| ByteRange::new(partition.start, partition.size);
        let volumes: Vec<_> = table.partitions.iter().filter_map(of).collect();
        for extent in layout.free.extents() {
            let inside = |volume: &ByteRange| volume.start() <= extent.start() && extent.end() <= volume.end();
            assert!(volumes.iter().any(inside), "outside of every partition, everything is in use");
        }
        assert!(table.because.is_none() || layout.free.is_empty());
    }
    let report = serde_json::to_value(layout).expect("a layout can be written as JSON");
    let mut values = vec![&report];
    while let Some(value) = values.pop() {
        match value {
            Value::String(text) => assert!(!text.contains(char::is_control), "{text:?} can drive a terminal"),
            Value::Array(inner) => values.extend(inner),
            Value::Object(inner) => values.extend(inner.values()),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Adds up what each volume on one disk has free.
fn count_free(content: &Content, free: &mut u64) {
    let mut add = |system: &FileSystemFacts| {
        assert!(system.because.is_none() || system.free.is_zero());
        *free += system.free.get();
    };
    match content {
        Content::FileSystem(system) => add(system),
        Content::PartitionTable(table) => {
            table.partitions.iter().filter_map(|it| it.content.as_ref()).for_each(|it| count_free(it, free));
        }
        Content::PhysicalVolume(physical) => physical.volumes.iter().for_each(|it| count_free(&it.content, free)),
        Content::Extended | Content::Unclear { .. } => {}
    }
}

/// CRC-32 without its last inversion, bit by bit.
fn crc(initial: u32, bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0xedb8_8320 };
    bytes.iter().fold(initial, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

fn number(bytes: &[u8]) -> usize {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    usize::try_from(u64::from_le_bytes(wide)).unwrap_or(usize::MAX)
}

/// Makes the checksums of GPT and LVM right wherever there is a place for them.
fn repair(disk: &mut [u8]) {
    for sector in [512, 4096] {
        for at in [Some(sector), (disk.len() / sector).checked_sub(1).map(|last| last * sector)] {
            let _ = at.and_then(|at| repair_gpt(disk, at, sector));
        }
    }
    for sector in 0..4 {
        let _ = repair_lvm(disk, sector * 512);
    }
}

fn repair_gpt(disk: &mut [u8], at: usize, sector: usize) -> Option<()> {
    const INVERTED: u32 = u32::MAX;
    let header = disk.get(at..at.checked_add(92)?)?;
    let starts = header.starts_with(b"EFI PART");
    let (entries, count, len) = (number(&header[72..80]), number(&header[80..84]), number(&header[84..88]));
    let from = entries.checked_mul(sector)?;
    let entries = disk.get(from..from.checked_add(count.checked_mul(len)?)?);
    let entries = entries.filter(|entries| starts && entries.len() <= 1 << 20)?;
    let entries = !crc(INVERTED, entries);
    disk[at + 88..at + 92].copy_from_slice(&entries.to_le_bytes());
    let covered = number(&disk[at + 12..at + 16]);
    disk[at + 16..at + 20].fill(0);
    let header = !crc(INVERTED, disk.get(at..at.checked_add(covered.min(4096))?)?);
    disk[at + 16..at + 20].copy_from_slice(&header.to_le_bytes());
    Some(())
}

fn repair_lvm(disk: &mut [u8], at: usize) -> Option<()> {
    const INITIAL: u32 = 0xf597_a6cf;
    let label = disk.get(at..at + 512)?;
    if !label.starts_with(b"LABELONE") {
        return None;
    }
    // Metadata areas first: the first of them where the label says, behind one data area.
    let header = at.checked_add(number(&label[20..24]))?;
    let area = number(disk.get(header.checked_add(72)?..header.checked_add(80)?)?);
    let _ = repair_area(disk, area, INITIAL);
    let crc = crc(INITIAL, &disk[at + 20..at + 512]);
    disk[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
    Some(())
}

fn repair_area(disk: &mut [u8], at: usize, initial: u32) -> Option<()> {
    let header = disk.get(at..at.checked_add(512)?)?;
    let (from, len) = (number(&header[40..48]), number(&header[48..56]));
    let from = at.checked_add(from)?;
    let text = disk.get(from..from.checked_add(len.min(1 << 20))?).map(|text| crc(initial, text));
    if let Some(text) = text {
        disk[at + 56..at + 60].copy_from_slice(&text.to_le_bytes());
    }
    let header = crc(initial, &disk[at + 4..at + 512]);
    disk[at..at + 4].copy_from_slice(&header.to_le_bytes());
    Some(())
}
