//! What every device must do, whatever it is.

use failback_blockio::{Buffer, Completion, Device, Operation, Pool, Queue, run};
use failback_units::{ByteCount, ByteOffset, ByteRange, MAX_DISK_BYTES};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use std::collections::HashMap;

/// Runs the whole suite. The device is written all over.
pub(crate) fn conforms(device: &dyn Device) {
    empty_queues(device);
    ranges(device);
    let mut model = filled(device, 1);
    misaligned(device, &mut model);
    zeroes(device, &mut model);
    deep_queue_of_neighbours(device, &mut model);
    dropped_queue(device);
    random_operations(device);
    extents(device);
}

pub(crate) fn offset(at: u64) -> ByteOffset {
    ByteOffset::new(at).expect("an offset on a disk")
}

pub(crate) fn count(bytes: u64) -> ByteCount {
    ByteCount::new(bytes).expect("a length on a disk")
}

pub(crate) fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(offset(start), offset(end)).expect("a range in order")
}

fn length(device: &dyn Device) -> usize {
    device.size().to_usize().expect("a test device fits in memory")
}

fn at(index: usize) -> ByteOffset {
    ByteCount::of_memory(index).as_end()
}

/// Bytes that differ from place to place and from one `seed` to another.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn read(device: &dyn Device, at: ByteOffset, len: usize) -> Vec<u8> {
    let mut into = Buffer::zeroed(len);
    into.fill(0xEE);
    run(device, Operation::Read { at, into }).expect("a read").expect("its buffer").to_vec()
}

pub(crate) fn write(device: &dyn Device, at: ByteOffset, bytes: &[u8]) {
    let buffer = run(device, Operation::Write { at, from: Buffer::copy_of(bytes) }).expect("a write");
    assert_eq!(buffer.expect("its buffer")[..], *bytes, "a write hands its buffer back as it was");
}

fn assert_content(device: &dyn Device, model: &[u8], when: &str) {
    let found = read(device, ByteOffset::ZERO, model.len());
    if let Some(wrong) = found.iter().zip(model).position(|(found, wanted)| found != wanted) {
        panic!("{when}: byte {wrong} of {} is {}, not {}", model.len(), found[wrong], model[wrong]);
    }
}

fn filled(device: &dyn Device, seed: u64) -> Vec<u8> {
    let model = pattern(length(device), seed);
    write(device, ByteOffset::ZERO, &model);
    assert_content(device, &model, "after filling");
    model
}

fn empty_queues(device: &dyn Device) {
    for depth in [1, 2, 100, 1024] {
        let mut queue = device.queue(depth).expect("a queue");
        assert_eq!((queue.depth(), queue.in_flight()), (depth, 0));
        assert!(queue.wait().is_none());
    }
}

/// What does not lie on the device fails with EINVAL; nothing at all succeeds anywhere on it.
fn ranges(device: &dyn Device) {
    let size = device.size().get();
    let model = filled(device, 2);
    for (at, len) in [(size, 1), (size + 1, 0), (0, size + 1), (size.saturating_sub(1), 2), (MAX_DISK_BYTES, 4096)] {
        let buffer = || Buffer::zeroed(usize::try_from(len).expect("short"));
        let mut operations = vec![
            Operation::Read { at: offset(at), into: buffer() },
            Operation::Write { at: offset(at), from: buffer() },
        ];
        operations.extend(ByteRange::new(offset(at), count(len)).map(|range| Operation::Zero { range }));
        for operation in operations {
            let text = format!("{operation:?}");
            let error = run(device, operation).expect_err(&text);
            assert_eq!(error.source.raw_os_error(), Some(libc::EINVAL), "{text}: {error}");
            assert_eq!((error.at.get(), error.count.get()), (at, len), "{text}");
            assert_eq!(&*error.device, device.name());
        }
    }
    for at in [0, size / 2, size] {
        read(device, offset(at), 0);
        write(device, offset(at), &[]);
        run(device, Operation::Zero { range: range(at, at) }).expect("nothing to zero");
    }
    assert_content(device, &model, "after refused and empty operations");
}

/// Offsets, lengths and memory on no particular boundary.
fn misaligned(device: &dyn Device, model: &mut [u8]) {
    let places = [0, 1, 13, 511, 512, 513, 4095, 4096, 4097, 8192, 65_535, 1 << 19];
    let lengths = [1, 7, 511, 512, 513, 4096, 4097, 8191, 70_000];
    for (index, (place, len)) in places.iter().flat_map(|p| lengths.iter().map(move |l| (*p, *l))).enumerate() {
        if place + len > model.len() {
            continue;
        }
        let shift = index % 3;
        let fresh = pattern(shift + len, 77 + ByteCount::of_memory(index).get());
        let from = Buffer::copy_of(&fresh).split_off(shift);
        model[place..place + len].copy_from_slice(&from);
        run(device, Operation::Write { at: at(place), from }).expect("a misaligned write");
        let into = Buffer::zeroed(shift + len).split_off(shift);
        let found = run(device, Operation::Read { at: at(place), into }).expect("a misaligned read").expect("a buffer");
        assert!(found[..] == model[place..place + len], "{len} bytes at {place}");
    }
    assert_content(device, model, "after misaligned writes");
    // The very end.
    for len in [1, 5, 512, 4096] {
        if let Some(start) = model.len().checked_sub(len) {
            assert_eq!(read(device, at(start), len), model[start..]);
        }
    }
}

fn zeroes(device: &dyn Device, model: &mut [u8]) {
    let size = model.len();
    let ends = [
        (0, 1),
        (1, 2),
        (100, 700),
        (512, 1024),
        (4000, 4096),
        (4096, 8192),
        (4095, 12_289),
        (300_001, 700_003),
        (size.saturating_sub(20), size),
        (0, size),
    ];
    for (start, end) in ends {
        if start > end || end > size {
            continue;
        }
        let zeroed = ByteRange::between(at(start), at(end)).expect("in order");
        run(device, Operation::Zero { range: zeroed }).expect("zeroing");
        model[start..end].fill(0);
        assert_content(device, model, &format!("after zeroing {zeroed}"));
        if (start, end) == (4095, 12_289) {
            // Zeroing over zeroes, and writing into a hole.
            run(device, Operation::Zero { range: zeroed }).expect("zeroing again");
            write(device, at(5000), &[9; 3]);
            model[5000..5003].fill(9);
        }
    }
    assert!(run(device, Operation::Flush).expect("a flush").is_none());
    assert_content(device, model, "after the flush");
}

/// Waits for everything, hands each completion over, and checks that every token comes back once.
fn drain(queue: &mut dyn Queue, expected: &mut HashMap<u64, usize>, mut each: impl FnMut(Completion, usize)) {
    while let Some(completion) = queue.wait() {
        let place = expected.remove(&completion.token).expect("a token that was submitted, once");
        each(completion, place);
    }
}

/// Cuts the device into pieces of all lengths, so that neighbours share sectors and pages, and does something to all of
/// them at the same time: no operation may disturb its neighbour.
fn deep_queue_of_neighbours(device: &dyn Device, model: &mut [u8]) {
    for round in 0..4_u64 {
        let mut pieces = Vec::new();
        let mut start = 0;
        for chance in pattern(model.len(), 900 + round).chunks_exact(2) {
            if start >= model.len() {
                break;
            }
            let len = match chance[0] % 4 {
                0 => usize::from(chance[1]) + 1,
                1 => 512 * (usize::from(chance[1] % 16) + 1),
                2 => 4096 * (usize::from(chance[1] % 8) + 1),
                // Up to the next page, so that aligned pieces follow misaligned ones.
                _ => 4096 - start % 4096,
            };
            pieces.push(start..(start + len).min(model.len()));
            start += len;
        }
        // Far from each other in order, next to each other in time.
        pieces.sort_by_key(|piece| (piece.start.wrapping_mul(0x9e37_79b1) >> 7) % 251);
        let mut queue = device.queue(64).expect("a queue");
        let mut expected = HashMap::new();
        let fresh = pattern(model.len(), 5000 + round);
        for (token, piece) in (10..).zip(&pieces) {
            if queue.in_flight() == queue.depth() {
                let completion = queue.wait().expect("one of them");
                completion.result.expect("a write or zero");
                expected.remove(&completion.token).expect("a token that was submitted, once");
            }
            let operation = if token % 5 == 0 {
                model[piece.clone()].fill(0);
                Operation::Zero { range: ByteRange::between(at(piece.start), at(piece.end)).expect("in order") }
            } else {
                model[piece.clone()].copy_from_slice(&fresh[piece.clone()]);
                Operation::Write { at: at(piece.start), from: Buffer::copy_of(&fresh[piece.clone()]) }
            };
            expected.insert(token, piece.start);
            queue.submit(token, operation);
        }
        drain(&mut *queue, &mut expected, |completion, _| completion.result.expect("a write or zero"));
        assert!(expected.is_empty(), "lost: {expected:?}");
        if round % 2 == 1 {
            queue.submit(1, Operation::Flush);
            queue.wait().expect("the flush").result.expect("a flush");
        }
        assert_content(device, model, "after many neighbours at a time");
        for (token, piece) in (0..).zip(pieces.iter().take(64)) {
            expected.insert(token, piece.start);
            queue.submit(token, Operation::Read { at: at(piece.start), into: Buffer::zeroed(piece.len()) });
        }
        drain(&mut *queue, &mut expected, |completion, start| {
            completion.result.expect("a read");
            let found = completion.buffer.expect("a buffer");
            assert!(found[..] == model[start..start + found.len()], "a read of {} at {start}", found.len());
        });
    }
}

/// A queue that is dropped finishes first: memory is back, and nothing is written later.
fn dropped_queue(device: &dyn Device) {
    let size = length(device);
    let len = (size / 32).clamp(1, 16_384);
    if size < len {
        return;
    }
    let pool = Pool::new(32, len).expect("a pool");
    let old = pattern(size, 31);
    write(device, ByteOffset::ZERO, &old);
    let mut queue = device.queue(32).expect("a queue");
    for token in 0..32_u8 {
        let start = usize::from(token) * len;
        if start + len > size {
            break;
        }
        let mut from = pool.take();
        from.fill(token);
        queue.submit(u64::from(token), Operation::Write { at: at(start), from });
    }
    // Some of them are certainly under way.
    queue.wait().expect("one of them").result.expect("a write");
    drop(queue);
    let all: Vec<Buffer> = (0..32).map(|_| pool.try_take().expect("every buffer is back")).collect();
    drop(all);
    let seen = read(device, ByteOffset::ZERO, size);
    for (token, piece) in (0_u8..32).zip(seen.chunks(len)) {
        let start = usize::from(token) * len;
        let new = piece.iter().all(|byte| *byte == token);
        assert!(new || *piece == old[start..start + piece.len()], "piece {token} is neither old nor new");
    }
    assert!(read(device, ByteOffset::ZERO, size) == seen, "something was written after the queue was gone");
}

#[derive(Clone, Debug)]
enum Step {
    Read { at: usize, len: usize, shift: usize },
    Write { at: usize, len: usize, shift: usize, seed: u64 },
    Zero { at: usize, len: usize },
    Flush,
}

fn step(size: usize) -> impl Strategy<Value = Step> {
    let place = prop_oneof![0..=size, (0..=size / 512).prop_map(|s| s * 512), (0..=size / 4096).prop_map(|p| p * 4096)];
    let len = prop_oneof![0..=600_usize, (0..=16_usize).prop_map(|s| s * 512), (0..=40_usize).prop_map(|p| p * 4096)];
    let shift = prop_oneof![3 => Just(0_usize), 1 => 1..=600_usize];
    (0..8, place, len, shift, any::<u64>()).prop_map(move |(kind, at, len, shift, seed)| {
        let len = len.min(size - at);
        match kind {
            0..=2 => Step::Read { at, len, shift },
            3..=5 => Step::Write { at, len, shift, seed },
            6 => Step::Zero { at, len },
            _ => Step::Flush,
        }
    })
}

/// Any sequence of operations leaves what it would leave in memory.
fn random_operations(device: &dyn Device) {
    let size = length(device);
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&vec(step(size), 1..40), |steps| {
        let mut model = filled(device, 3);
        for step in &steps {
            match *step {
                Step::Read { at: start, len, shift } => {
                    let into = Buffer::zeroed(len + shift).split_off(shift);
                    let found =
                        run(device, Operation::Read { at: at(start), into }).expect("a read").expect("a buffer");
                    prop_assert!(found[..] == model[start..start + len], "{:?}", step);
                }
                Step::Write { at: start, len, shift, seed } => {
                    let from = Buffer::copy_of(&pattern(len + shift, seed)).split_off(shift);
                    model[start..start + len].copy_from_slice(&from);
                    run(device, Operation::Write { at: at(start), from }).expect("a write");
                }
                Step::Zero { at: start, len } => {
                    model[start..start + len].fill(0);
                    let range = ByteRange::between(at(start), at(start + len)).expect("in order");
                    run(device, Operation::Zero { range }).expect("zeroing");
                }
                Step::Flush => {
                    run(device, Operation::Flush).expect("a flush");
                }
            }
        }
        prop_assert!(read(device, ByteOffset::ZERO, size) == model);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// Extents follow each other without gaps up to the end, and holes read as zeroes.
fn extents(device: &dyn Device) {
    let size = length(device);
    let mut model = filled(device, 4);
    if size > 600_000 {
        run(device, Operation::Zero { range: range(65_536, 524_288) }).expect("zeroing");
        model[65_536..524_288].fill(0);
    }
    let mut from = ByteOffset::ZERO;
    while let Some(extent) = device.extent_at(from).expect("extents") {
        assert_eq!(extent.range.start(), from);
        assert!(!extent.range.is_empty() && extent.range.fits(device.size()), "{extent:?}");
        let (start, end) = (extent.range.start().get(), extent.range.end().get());
        let (start, end) = (usize::try_from(start).expect("short"), usize::try_from(end).expect("short"));
        assert!(!extent.hole || model[start..end].iter().all(|byte| *byte == 0), "no hole: {extent:?}");
        from = extent.range.end();
    }
    assert_eq!(from, device.size().as_end());
    for at in [device.size().get(), device.size().get() + 1, MAX_DISK_BYTES] {
        assert_eq!(device.extent_at(offset(at)).expect("no extent"), None);
    }
}
