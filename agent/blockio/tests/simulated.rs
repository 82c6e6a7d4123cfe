//! The simulator itself: does it lose what a disk may lose, keep what it must keep, and see what tests must not miss?
#![cfg(feature = "sim")]

use failback_blockio::{
    Buffer, Device, IoError, Operation, run,
    sim::{DropFlushes, EventKind, FaultOn, ReadsFrom, SimDisk, World, is_power_loss},
};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::collections::HashSet;

fn offset(at: u64) -> ByteOffset {
    ByteOffset::new(at).expect("an offset")
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(offset(start), offset(end)).expect("in order")
}

fn disk(world: &World, bytes: u64) -> SimDisk {
    world.disk("disk", ByteCount::new(bytes).expect("a size"), 512)
}

fn write(device: &dyn Device, at: u64, bytes: &[u8]) -> Result<(), IoError> {
    run(device, Operation::Write { at: offset(at), from: Buffer::copy_of(bytes) }).map(drop)
}

fn read(device: &dyn Device, at: u64, len: usize) -> Result<Vec<u8>, IoError> {
    let buffer = run(device, Operation::Read { at: offset(at), into: Buffer::zeroed(len) })?;
    Ok(buffer.expect("the buffer").to_vec())
}

fn flush(device: &dyn Device) -> Result<(), IoError> {
    run(device, Operation::Flush).map(drop)
}

/// The content after a reboot, for many seeds.
fn outcomes(world: &World, disk: &SimDisk) -> HashSet<Vec<u8>> {
    let before = world.snapshot();
    (0..300)
        .map(|seed| {
            world.restore(&before);
            world.reseed(seed);
            world.reboot();
            disk.content()
        })
        .collect()
}

#[test]
fn flushed_data_never_vanishes() {
    let world = World::new(1);
    let disk = disk(&world, 8192);
    write(&disk, 100, &[1; 5000]).unwrap();
    run(&disk, Operation::Zero { range: range(700, 900) }).unwrap();
    flush(&disk).unwrap();
    let wanted = disk.content();
    assert_eq!(outcomes(&world, &disk), HashSet::from([wanted.clone()]));
    assert_eq!(disk.durable_content(), wanted);
}

#[test]
fn unflushed_sectors_may_vanish_stay_or_tear() {
    let world = World::new(1);
    let disk = disk(&world, 4096);
    write(&disk, 0, &[1; 4096]).unwrap();
    let outcomes = outcomes(&world, &disk);
    assert!(outcomes.contains(&vec![0; 4096]) && outcomes.contains(&vec![1; 4096]));
    assert!(outcomes.len() > 50, "{} outcomes", outcomes.len());
    for outcome in outcomes {
        for sector in outcome.chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never divided");
        }
    }
}

#[test]
fn misaligned_writes_tear_at_sector_boundaries() {
    let world = World::new(1);
    let disk = disk(&world, 2048);
    write(&disk, 500, &[1; 600]).unwrap();
    let cuts: HashSet<_> =
        outcomes(&world, &disk).into_iter().map(|o| (o[500], o[511], o[512], o[1023], o[1099])).collect();
    assert!(cuts.iter().all(|(a, b, c, d, _)| a == b && c == d));
    assert_eq!(cuts.len(), 8, "each of three sectors is there or not");
}

#[test]
fn any_unflushed_version_of_a_sector_may_come_back() {
    let world = World::new(1);
    let disk = disk(&world, 512);
    disk.write_durably(offset(0), &[1; 512]);
    write(&disk, 0, &[2; 512]).unwrap();
    run(&disk, Operation::Zero { range: range(0, 512) }).unwrap();
    write(&disk, 0, &[3; 512]).unwrap();
    let versions: HashSet<u8> = outcomes(&world, &disk).into_iter().map(|outcome| outcome[0]).collect();
    assert_eq!(versions, HashSet::from([0, 1, 2, 3]));
}

#[test]
fn zeroes_tear_too() {
    let world = World::new(1);
    let disk = disk(&world, 4096);
    disk.write_durably(offset(0), &[1; 4096]);
    run(&disk, Operation::Zero { range: range(0, 4096) }).unwrap();
    assert!(outcomes(&world, &disk).len() > 20);
}

#[test]
fn a_flush_does_not_cover_what_was_not_delivered_before_it() {
    let kept = |wait_first: bool, seed| {
        let world = World::new(seed);
        let disk = disk(&world, 512);
        let mut queue = disk.queue(2).unwrap();
        queue.submit(1, Operation::Write { at: offset(0), from: Buffer::copy_of(&[1; 512]) });
        if wait_first {
            queue.wait().unwrap().result.unwrap();
        }
        queue.submit(2, Operation::Flush);
        while let Some(completion) = queue.wait() {
            completion.result.unwrap();
        }
        world.reboot();
        disk.content()[0] == 1
    };
    assert!((0..100).all(|seed| kept(true, seed)));
    assert!(!(0..100).all(|seed| kept(false, seed)));
}

#[test]
fn power_goes_off_at_the_nth_mutation_of_all_disks() {
    let world = World::new(1);
    let (first, second) = (disk(&world, 4096), world.disk("second", ByteCount::new(4096).unwrap(), 4096));
    write(&first, 0, &[1; 512]).unwrap();
    world.crash_after(3);
    write(&second, 0, &[1; 512]).unwrap();
    read(&second, 0, 512).unwrap();
    flush(&second).unwrap();
    assert!(!world.is_down());
    let error = write(&first, 512, &[1; 512]).unwrap_err();
    assert!(is_power_loss(&error) && world.is_down(), "{error}");
    for error in [
        read(&first, 0, 512).unwrap_err(),
        write(&second, 0, &[2; 512]).unwrap_err(),
        flush(&second).unwrap_err(),
        run(&first, Operation::Zero { range: range(0, 512) }).unwrap_err(),
    ] {
        assert!(is_power_loss(&error));
    }
    assert_eq!(world.mutations(), 4);
    let kinds: Vec<_> = world.trace().iter().map(|event| (event.number, event.disk.to_string(), event.kind)).collect();
    let expected = [
        (1, "disk", EventKind::Write),
        (2, "second", EventKind::Write),
        (3, "second", EventKind::Flush),
        (4, "disk", EventKind::Write),
        (4, "", EventKind::PowerLoss),
    ];
    assert_eq!(kinds, expected.map(|(number, disk, kind)| (number, disk.to_owned(), kind)));
    world.reboot();
    assert_eq!(second.content()[..512], [1; 512], "what was flushed is there; what came later never happened");
    assert_eq!(read(&second, 0, 1).unwrap(), [1]);
}

#[test]
fn what_is_in_flight_may_be_there_in_part() {
    let world = World::new(1);
    let disk = disk(&world, 8192);
    world.crash_after(1);
    let mut queue = disk.queue(2).unwrap();
    queue.submit(0, Operation::Write { at: offset(0), from: Buffer::copy_of(&[1; 4096]) });
    queue.submit(1, Operation::Write { at: offset(4096), from: Buffer::copy_of(&[1; 4096]) });
    while let Some(completion) = queue.wait() {
        assert!(is_power_loss(&completion.result.unwrap_err()));
    }
    queue.submit(2, Operation::Write { at: offset(0), from: Buffer::copy_of(&[9; 4096]) });
    drop(queue);
    let outcomes = outcomes(&world, &disk);
    assert!(outcomes.len() > 100);
    assert!(outcomes.iter().any(|o| o[..4096] == [1; 4096] && o[4096..] == [0; 4096]));
    assert!(outcomes.iter().any(|o| o[..4096] == [0; 4096] && o[4096..] == [1; 4096]));
    assert!(outcomes.iter().all(|o| o.iter().all(|byte| *byte <= 1)), "without power nothing starts");
}

#[test]
fn a_queue_from_before_the_reboot_does_nothing_after_it() {
    let world = World::new(1);
    let disk = disk(&world, 512);
    let mut queue = disk.queue(1).unwrap();
    queue.submit(0, Operation::Write { at: offset(0), from: Buffer::copy_of(&[1; 512]) });
    world.reboot();
    assert!(is_power_loss(&queue.wait().unwrap().result.unwrap_err()));
    assert_eq!(disk.content(), [0; 512]);
}

#[test]
fn a_seed_is_a_world() {
    let run_once = |seed: u64| {
        let world = World::new(seed);
        let disk = disk(&world, 65_536);
        disk.short_transfers(30);
        let mut queue = disk.queue(16).unwrap();
        for token in 0..16_u8 {
            let from = Buffer::copy_of(&[token + 1; 3000]);
            queue.submit(u64::from(token), Operation::Write { at: offset(u64::from(token) * 2500), from });
        }
        let order: Vec<u64> = std::iter::from_fn(|| queue.wait()).map(|completion| completion.token).collect();
        world.reboot();
        (order, disk.content(), world.trace())
    };
    assert_eq!(run_once(5), run_once(5));
    let orders: HashSet<_> = (0..20).map(|seed| run_once(seed).0).collect();
    assert!(orders.len() > 15, "completions come in many orders");
}

#[test]
fn faults_hit_what_they_are_meant_for() {
    let world = World::new(1);
    let disk = disk(&world, 65_536);
    disk.fail(range(4096, 8192), libc::EIO, FaultOn::Reads, 2);
    disk.fail(range(0, 512), libc::EREMOTEIO, FaultOn::Writes, u32::MAX);
    let errno = |result: Result<(), IoError>| result.map_err(|error| error.source.raw_os_error().unwrap());
    read(&disk, 0, 4096).unwrap();
    read(&disk, 8192, 4096).unwrap();
    write(&disk, 4096, &[1; 512]).unwrap();
    for _ in 0..2 {
        assert_eq!(errno(read(&disk, 0, 4097).map(drop)), Err(libc::EIO));
    }
    read(&disk, 0, 65_536).unwrap();
    for _ in 0..5 {
        assert_eq!(errno(write(&disk, 511, &[1; 512])), Err(libc::EREMOTEIO));
        assert_eq!(errno(run(&disk, Operation::Zero { range: range(0, 65_536) }).map(drop)), Err(libc::EREMOTEIO));
    }
    disk.clear_faults();
    write(&disk, 0, &[1; 512]).unwrap();
}

#[test]
fn a_fault_can_wait_for_one_operation_of_the_world() {
    for (on, errno) in [(FaultOn::Reads, libc::EIO), (FaultOn::Writes, libc::ENOSPC), (FaultOn::Flushes, libc::EIO)] {
        for n in 1..=6 {
            let world = World::new(n);
            let (one, other) = (disk(&world, 4096), disk(&world, 4096));
            world.fail_after(n, on, errno);
            let mut failed = Vec::new();
            for turn in 0..3 {
                for disk in [&one, &other] {
                    let results = [
                        (FaultOn::Writes, write(disk, 0, &[turn; 4096])),
                        (FaultOn::Reads, read(disk, 0, 512).map(drop)),
                        (FaultOn::Flushes, flush(disk)),
                    ];
                    failed.extend(results.map(|(on, result)| (on, result.err())));
                }
            }
            let of_its_kind: Vec<_> = failed.iter().filter(|(kind, _)| *kind == on).collect();
            let number = usize::try_from(n).unwrap() - 1;
            let found = of_its_kind[number].1.as_ref().and_then(|error| error.source.raw_os_error());
            assert_eq!(found, Some(errno), "{on:?} {n}");
            assert_eq!(failed.iter().filter(|(_, error)| error.is_some()).count(), 1, "{on:?} {n}");
        }
    }
}

#[test]
fn space_runs_out() {
    let world = World::new(1);
    let disk = disk(&world, 65_536);
    disk.limit_space(ByteCount::new(6000));
    write(&disk, 0, &[1; 4096]).unwrap();
    let error = write(&disk, 4096, &[1; 4096]).unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(libc::ENOSPC));
    let content = disk.content();
    assert!(content[..6000].iter().all(|byte| *byte == 1) && content[6000..].iter().all(|byte| *byte == 0));
    disk.limit_space(None);
    write(&disk, 4096, &[1; 4096]).unwrap();
}

/// After a failed flush, another one that succeeds proves nothing about what the first one was for.
#[test]
fn a_failed_flush_loses_what_a_later_one_cannot_bring_back() {
    let mut lost = 0;
    for seed in 0..100 {
        let world = World::new(seed);
        let disk = disk(&world, 4096);
        write(&disk, 0, &[1; 4096]).unwrap();
        disk.fail(ByteRange::default(), libc::EIO, FaultOn::Flushes, 1);
        assert_eq!(flush(&disk).unwrap_err().source.raw_os_error(), Some(libc::EIO));
        flush(&disk).unwrap();
        assert_eq!(disk.content(), [1; 4096], "the cache still says so");
        disk.drop_caches();
        lost += usize::from(disk.content() != [1; 4096]);
        assert_eq!(disk.content(), disk.durable_content());
    }
    assert!((30..100).contains(&lost), "{lost} of 100");
}

#[test]
fn snapshots_bring_everything_back() {
    let world = World::new(1);
    let disk = disk(&world, 4096);
    write(&disk, 0, &[1; 512]).unwrap();
    let snapshot = world.snapshot();
    write(&disk, 0, &[2; 4096]).unwrap();
    flush(&disk).unwrap();
    world.crash_after(1);
    flush(&disk).unwrap_err();
    world.restore(&snapshot);
    assert!(!world.is_down());
    assert_eq!((disk.content()[0], disk.content()[600], world.mutations()), (1, 0, 1));
    write(&disk, 0, &[3; 512]).unwrap();
}

#[test]
fn terabytes_cost_what_is_written() {
    let world = World::new(1);
    let size = 4_u64 << 40;
    let disk = disk(&world, size);
    write(&disk, size - 5, b"tail!").unwrap();
    write(&disk, 1 << 40, &[1; 8192]).unwrap();
    let extent = |from| disk.extent_at(offset(from)).unwrap().map(|extent| (extent.range, extent.hole));
    assert_eq!(extent(0), Some((range(0, 1 << 40), true)));
    assert_eq!(extent(5 + (1 << 40)), Some((range(5 + (1 << 40), (1 << 40) + 8192), false)));
    run(&disk, Operation::Zero { range: range(0, size - 3) }).unwrap();
    assert_eq!(read(&disk, size - 5, 5).unwrap(), *b"\0\0il!");
    world.reboot();
    assert_eq!(extent(size), None);
}

#[test]
fn reads_are_traced_on_request() {
    let world = World::new(1);
    let disk = disk(&world, 4096);
    read(&disk, 0, 512).unwrap();
    world.trace_reads(true);
    read(&disk, 512, 100).unwrap();
    let trace = world.trace();
    assert_eq!(trace.len(), 1);
    assert_eq!((trace[0].kind, trace[0].range, trace[0].errno), (EventKind::Read, range(512, 612), None));
    world.clear_trace();
    assert!(world.trace().is_empty());
}

/// An update of eight sectors that a power loss must not leave half done: a journal with a checksum on one disk, the data
/// on another. The `journal` device may be one that cheats.
fn journalled_update(journal: &dyn Device, data: &dyn Device, new: u8) -> Result<(), IoError> {
    let old = read(data, 0, 4096)?;
    write(journal, 0, &sealed(&old))?;
    flush(journal)?;
    write(data, 0, &[new; 4096])?;
    flush(data)?;
    write(journal, 0, &[0; 4104])?;
    flush(journal)
}

fn sealed(old: &[u8]) -> Vec<u8> {
    let sum =
        old.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    [&sum.to_le_bytes(), old].concat()
}

fn recover(journal: &SimDisk, data: &SimDisk) -> Vec<u8> {
    let record = read(journal, 0, 4104).expect("after the reboot");
    if sealed(&record[8..]) == record {
        write(data, 0, &record[8..]).expect("after the reboot");
        flush(data).expect("after the reboot");
    }
    read(data, 0, 4096).expect("after the reboot")
}

/// How many of the crash states leave neither the old nor the new content.
fn violations(cheat: bool) -> usize {
    let world = World::new(0);
    let (journal, data) = (disk(&world, 8192), disk(&world, 1 << 20));
    data.write_durably(offset(0), &[1; 4096]);
    let fresh = world.snapshot();
    let mut violations = 0;
    for crash in 1..=6 {
        for seed in 0..200 {
            world.restore(&fresh);
            world.reseed(seed);
            world.crash_after(crash);
            let outcome = if cheat {
                journalled_update(&DropFlushes(journal.clone()), &data, 2)
            } else {
                journalled_update(&journal, &data, 2)
            };
            assert!(cheat || outcome.is_err_and(|error| is_power_loss(&error)));
            world.reboot();
            let found = recover(&journal, &data);
            violations += usize::from(found != [1; 4096] && found != [2; 4096]);
        }
    }
    violations
}

#[test]
fn a_correct_journal_survives_and_a_lying_disk_is_noticed() {
    assert_eq!(violations(false), 0);
    assert!(violations(true) > 50);
}

#[test]
fn reads_from_elsewhere() {
    let world = World::new(1);
    let (device, reads) = (disk(&world, 4096), disk(&world, 4096));
    reads.write_durably(offset(0), &[5; 4096]);
    let crossed = ReadsFrom { device: device.clone(), reads };
    write(&crossed, 0, &[1; 512]).unwrap();
    assert_eq!(read(&crossed, 0, 512).unwrap(), [5; 512]);
    assert_eq!(device.content()[..512], [1; 512]);
    let mut queue = crossed.queue(4).unwrap();
    for token in 0..4 {
        queue.submit(
            token,
            if token % 2 == 0 { Operation::Read { at: offset(0), into: Buffer::zeroed(9) } } else { Operation::Flush },
        );
    }
    let tokens: HashSet<u64> = std::iter::from_fn(|| queue.wait()).map(|completion| completion.token).collect();
    assert_eq!(tokens.len(), 4);
}

/// Thousands of crash states must be affordable: on a disk of a mebibyte, full and partly rewritten.
#[test]
fn crash_states_are_cheap() {
    let world = World::new(1);
    let disk = disk(&world, 1 << 20);
    disk.write_durably(offset(0), &vec![7; 1 << 20]);
    let fresh = world.snapshot();
    let started = std::time::Instant::now();
    let states = 3000;
    for seed in 0..states {
        world.restore(&fresh);
        world.reseed(seed);
        for at in (0..16).map(|piece| piece * 65_536) {
            write(&disk, at, &[1; 4096]).unwrap();
        }
        world.reboot();
        assert_eq!(read(&disk, 4096, 512).unwrap(), [7; 512]);
    }
    eprintln!("{states} crash states in {:?}", started.elapsed());
    assert!(started.elapsed().as_secs() < 60);
}
