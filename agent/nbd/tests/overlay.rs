//! An overlay as a device, against a list of bytes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_blockio::sim::{SimDisk, World};
use failback_blockio::{Buffer, Completion, Device, Extent, IoError, Operation, Queue, run};
use failback_nbd::Overlay;
use failback_units::{ByteCount, ByteOffset, ByteRange};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

fn offset(at: u64) -> ByteOffset {
    ByteOffset::new(at).unwrap()
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(offset(start), offset(end)).unwrap()
}

/// A disk with data, holes, and an end that is not round.
fn disk(size: u64) -> SimDisk {
    let disk = World::new(3).disk("below", ByteCount::new(size).unwrap(), 512);
    for start in (0..size).step_by(50_000) {
        let count = usize::try_from((size - start).min(20_000)).unwrap();
        let bytes: Vec<u8> = (0..count).map(|at| u8::try_from(at % 251).unwrap() + 1).collect();
        disk.write_durably(offset(start), &bytes);
    }
    disk
}

fn overlay(disk: &SimDisk) -> Overlay<SimDisk> {
    Overlay::new(disk.clone(), Path::new("/dev/shm")).unwrap()
}

fn read_all(device: &dyn Device) -> Vec<u8> {
    let into = Buffer::zeroed(device.size().to_usize().unwrap());
    run(device, Operation::Read { at: ByteOffset::ZERO, into }).unwrap().unwrap().to_vec()
}

fn write(device: &dyn Device, at: u64, bytes: &[u8]) {
    run(device, Operation::Write { at: offset(at), from: Buffer::copy_of(bytes) }).unwrap();
}

/// Extents cover the disk, and holes are zeroes.
fn check_extents(device: &dyn Device, content: &[u8]) {
    let mut at = 0;
    while let Some(extent) = device.extent_at(offset(at)).unwrap() {
        assert_eq!(extent.range.start().get(), at);
        let end = extent.range.end().get();
        assert!(end > at);
        let bytes = &content[usize::try_from(at).unwrap()..usize::try_from(end).unwrap()];
        assert!(!extent.hole || bytes.iter().all(|byte| *byte == 0), "{extent:?}");
        at = end;
    }
    assert_eq!(at, device.size().get());
    assert_eq!(device.extent_at(offset(at + 1)).unwrap(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64),
}

const SIZE: u64 = (3 << 20) + 777;

fn any_step() -> impl Strategy<Value = Step> {
    let place = prop_oneof![0..SIZE, (0..SIZE / 4096).prop_map(|block| block * 4096), Just(SIZE - 1), Just(1 << 20)];
    let length = prop_oneof![0..9000_u64, 0..600_000_u64, Just(4096), Just(SIZE)];
    (place, length, any::<Option<u8>>()).prop_map(|(start, length, value)| {
        let length = length.min(SIZE - start);
        value.map_or(Step::Zero(start, length), |value| Step::Write(start, length, value))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn agrees_with_a_list(steps in proptest::collection::vec(any_step(), 1..25), depth in 1..20_usize) {
        let below = disk(SIZE);
        below.short_transfers(30);
        let overlay = overlay(&below);
        let before = below.content();
        let mut wanted = before.clone();
        for step in steps {
            match step {
                Step::Write(start, length, value) => {
                    write(&overlay, start, &vec![value; usize::try_from(length).unwrap()]);
                    wanted[usize::try_from(start).unwrap()..usize::try_from(start + length).unwrap()].fill(value);
                }
                Step::Zero(start, length) => {
                    run(&overlay, Operation::Zero { range: range(start, start + length) }).unwrap();
                    wanted[usize::try_from(start).unwrap()..usize::try_from(start + length).unwrap()].fill(0);
                }
            }
        }
        prop_assert!(read_all(&overlay) == wanted);
        check_extents(&overlay, &wanted);
        // Again in small reads, several at a time.
        let mut queue = overlay.queue(depth).unwrap();
        let pieces: Vec<_> = (0..SIZE).step_by(70_001).collect();
        for (token, at) in (0..).zip(&pieces) {
            if queue.in_flight() == depth {
                check_piece(&queue.wait().unwrap(), &pieces, &wanted);
            }
            let count = usize::try_from((SIZE - at).min(70_001)).unwrap();
            queue.submit(token, Operation::Read { at: offset(*at), into: Buffer::zeroed(count) });
        }
        while let Some(completion) = queue.wait() {
            check_piece(&completion, &pieces, &wanted);
        }
        prop_assert!(below.content() == before);
        prop_assert_eq!(below.world().mutations(), 0);
    }
}

fn check_piece(completion: &Completion, pieces: &[u64], wanted: &[u8]) {
    assert!(completion.result.is_ok(), "{:?}", completion.result);
    let at = usize::try_from(pieces[usize::try_from(completion.token).unwrap()]).unwrap();
    let content = completion.buffer.as_ref().unwrap();
    assert!(content[..] == wanted[at..at + content.len()]);
}

#[test]
fn only_what_was_written_takes_space() {
    let disk = World::new(1).disk("large", ByteCount::new(64 << 30).unwrap(), 512);
    let overlay = Overlay::new(disk, Path::new("/dev/shm")).unwrap();
    assert_eq!(overlay.space().unwrap(), ByteCount::ZERO);
    for gib in 0..64_u64 {
        write(&overlay, (gib << 30) + 100, &[1; 100]);
    }
    assert_eq!(overlay.space().unwrap().get(), 64 * 4096);
    // Zeroing gives it back, and takes none where there is none.
    run(&overlay, Operation::Zero { range: range(0, 64 << 30) }).unwrap();
    assert_eq!(overlay.space().unwrap(), ByteCount::ZERO);
    let all = overlay.extent_at(offset(0)).unwrap().unwrap();
    assert_eq!((all.hole, all.range.count().get()), (true, 64 << 30));
    write(&overlay, 5 << 30, &[7]);
    let first = overlay.extent_at(offset(0)).unwrap().unwrap();
    assert_eq!((first.hole, first.range.end().get()), (true, 5 << 30));
    let second = overlay.extent_at(offset(5 << 30)).unwrap().unwrap();
    assert_eq!((second.hole, second.range.count().get()), (false, 4096));
}

#[test]
fn refuses_what_lies_beyond_the_end() {
    let overlay = overlay(&disk(10_000));
    let operations = [
        Operation::Read { at: offset(9_999), into: Buffer::zeroed(2) },
        Operation::Write { at: offset(10_001), from: Buffer::zeroed(0) },
        Operation::Write { at: offset(9_000), from: Buffer::zeroed(1001) },
        Operation::Zero { range: range(0, 10_001) },
        Operation::Read { at: offset(u64::MAX >> 1), into: Buffer::zeroed(1) },
    ];
    for operation in operations {
        let has_buffer = !matches!(operation, Operation::Zero { .. });
        let mut queue = overlay.queue(1).unwrap();
        queue.submit(9, operation);
        let completion = queue.wait().unwrap();
        let error = completion.result.unwrap_err();
        assert_eq!((completion.token, error.source.raw_os_error()), (9, Some(22)));
        assert_eq!(completion.buffer.is_some(), has_buffer);
        assert!(queue.wait().is_none());
    }
    run(&overlay, Operation::Read { at: offset(10_000), into: Buffer::zeroed(0) }).unwrap();
    run(&overlay, Operation::Zero { range: range(10_000, 10_000) }).unwrap();
    run(&overlay, Operation::Flush).unwrap();
    assert_eq!(overlay.space().unwrap(), ByteCount::ZERO);
}

#[test]
fn is_like_what_is_below() {
    let below = World::new(1).disk("below", ByteCount::new(12_345).unwrap(), 4096);
    let overlay = overlay(&below);
    assert_eq!((overlay.name(), overlay.size().get(), overlay.logical_block()), ("below", 12_345, 4096));
    assert_eq!(overlay.engine(), "simulated");
    assert!(format!("{overlay:?}").contains("below"));
}

#[test]
fn an_overlay_on_an_overlay() {
    let below = disk(100_000);
    let before = below.content();
    let lower = std::sync::Arc::new(overlay(&below));
    write(&*lower, 10, &[1; 100]);
    let upper = Overlay::new(std::sync::Arc::clone(&lower), Path::new("/dev/shm")).unwrap();
    write(&upper, 50, &[2; 10]);
    assert_eq!(read_all(&upper)[45..65], [[1; 5].as_slice(), &[2; 10], &[1; 5]].concat());
    assert_eq!(read_all(&*lower)[45..65], [1; 20]);
    assert!(below.content() == before);
}

/// A disk that takes its time to read.
struct Slow(SimDisk);

struct SlowQueue<'disk>(Box<dyn Queue + 'disk>);

impl Device for Slow {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn size(&self) -> ByteCount {
        self.0.size()
    }

    fn logical_block(&self) -> u32 {
        self.0.logical_block()
    }

    fn engine(&self) -> &'static str {
        "slow"
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        Ok(Box::new(SlowQueue(self.0.queue(depth)?)))
    }

    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        self.0.extent_at(from)
    }
}

impl Queue for SlowQueue<'_> {
    fn depth(&self) -> usize {
        self.0.depth()
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        self.0.submit(token, operation);
    }

    fn wait(&mut self) -> Option<Completion> {
        let completion = self.0.wait();
        thread::sleep(Duration::from_millis(2));
        completion
    }
}

/// Threads that write and zero parts of the same blocks at the same time, each its own bytes.
#[test]
fn neighbours_do_not_harm_each_other() {
    const THREADS: u64 = 4;
    const STRIPE: u64 = 300;
    const REACH: u64 = 100_000;
    let below = disk(REACH);
    let overlay = Overlay::new(Slow(below.clone()), Path::new("/dev/shm")).unwrap();
    let mut wanted = below.content();
    let together = Barrier::new(usize::try_from(THREADS).unwrap());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (overlay, together) = (&overlay, &together);
            scope.spawn(move || {
                for block in 0..REACH / 4096 {
                    let start = block * 4096 + thread * STRIPE;
                    together.wait();
                    if thread % 2 == 0 {
                        write(overlay, start, &[7; 200]);
                    } else {
                        run(overlay, Operation::Zero { range: range(start, start + 200) }).unwrap();
                    }
                }
            });
        }
    });
    for block in 0..REACH / 4096 {
        for thread in 0..THREADS {
            let at = usize::try_from(block * 4096 + thread * STRIPE).unwrap();
            wanted[at..at + 200].fill(if thread % 2 == 0 { 7 } else { 0 });
        }
    }
    assert!(read_all(&overlay) == wanted);
}

/// Who reads while others write finds the old or the new content, and never what neither is.
#[test]
fn readers_find_old_or_new_content() {
    const REACH: u64 = 16 << 20;
    const WRITE: u64 = 16 << 10;
    let below = World::new(3).disk("below", ByteCount::new(REACH).unwrap(), 512);
    below.write_durably(ByteOffset::ZERO, &vec![1; usize::try_from(REACH).unwrap()]);
    let overlay = overlay(&below);
    let (overlay, at) = (&overlay, &AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(move || {
            for start in (0..REACH - WRITE).step_by(usize::try_from(WRITE).unwrap()) {
                at.store(start, SeqCst);
                write(overlay, start, &[2; 16 << 10]);
            }
            at.store(REACH, SeqCst);
        });
        loop {
            let start = at.load(SeqCst);
            if start == REACH {
                break;
            }
            let into = Buffer::zeroed(4096);
            let read = run(overlay, Operation::Read { at: offset(start + WRITE - 4096), into }).unwrap().unwrap();
            assert!(read.iter().all(|byte| matches!(byte, 1 | 2)), "neither old nor new");
        }
    });
}

#[test]
fn needs_a_directory() {
    let error = Overlay::new(disk(100), Path::new("/dev/shm/missing")).unwrap_err();
    assert!(error.to_string().contains("in /dev/shm/missing: choose a directory"), "{error}");
    let huge = World::new(1).disk("huge", ByteCount::new(u64::MAX >> 1).unwrap(), 512);
    // No file system of Linux's but those in memory has files of this length.
    if let Err(error) = Overlay::new(huge, Path::new("/var/tmp")) {
        assert!(error.to_string().contains("9223372036854775807 bytes"), "{error}");
    }
}

#[test]
#[should_panic(expected = "a queue depth is 1 to 1024, not 0")]
fn a_queue_has_a_depth() {
    let _ = overlay(&disk(100)).queue(0);
}
