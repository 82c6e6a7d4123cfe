//! Writing from several threads, running out of space, and flushes that fail.
#![allow(
    clippy::unwrap_used,
    clippy::large_stack_arrays,
    reason = "a test fails by panicking, and has small disks on its stack"
)]

mod simulated;

use failback_blockio::sim::FaultOn;
use failback_blockio::{Buffer, Device, Operation, run};
use failback_image::{Access, Severity, check, open};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use simulated::{Chance, SimFiles, range, read, sparse, write};
use std::path::Path;
use std::thread;

const GRAIN: u64 = 65_536;

#[test]
fn threads_share_grains() {
    let mut files = SimFiles::new(1);
    let path = files.make("x.vmdk", &sparse(60 * GRAIN, 5, false), |_| {});
    let disk = open(&path, Access::Write, &files).unwrap();
    thread::scope(|scope| {
        for quarter in 0..4_u64 {
            let disk = &disk;
            scope.spawn(move || {
                let mut queue = disk.queue(8).unwrap();
                for grain in 0..60 {
                    if queue.in_flight() == 8 {
                        queue.wait().unwrap().result.unwrap();
                    }
                    let at = ByteOffset::new(grain * GRAIN + quarter * GRAIN / 4).unwrap();
                    let mut from = Buffer::zeroed(16_384);
                    from.fill(u8::try_from(grain * 4 + quarter + 1).unwrap());
                    queue.submit(grain, Operation::Write { at, from });
                    if grain % 20 == quarter {
                        queue.wait().unwrap().result.unwrap();
                        run(disk, Operation::Flush).unwrap();
                    }
                }
                while let Some(done) = queue.wait() {
                    done.result.unwrap();
                }
            });
        }
    });
    disk.close().unwrap();
    files.world.reboot();
    let disk = open(&path, Access::Read, &files).unwrap();
    let content = read(&disk, 0, 60 * 65_536).unwrap();
    for (index, quarter) in content.chunks(16_384).enumerate() {
        assert!(quarter.iter().all(|byte| usize::from(*byte) == index + 1), "quarter {index}");
    }
    assert_eq!(check(&path, &files).unwrap().findings.worst(), None);
}

#[test]
fn running_out_of_space_loses_nothing_that_was_there() {
    let mut files = SimFiles::new(2);
    let path = files.make("x.vmdk", &sparse(60 * GRAIN, 5, false), |_| {});
    let disk = open(&path, Access::Write, &files).unwrap();
    write(&disk, 0, &[1; 65_536]).unwrap();
    run(&disk, Operation::Flush).unwrap();
    let file = &files.disks[Path::new("/d/x.vmdk")];
    file.limit_space(Some(ByteCount::new(3 * GRAIN + 1000).unwrap()));
    let mut failed = 0;
    for grain in 1..6 {
        match write(&disk, grain * GRAIN, &[2; 65_536]) {
            Ok(()) => assert!(grain < 4),
            Err(error) => {
                assert_eq!(error.source.raw_os_error(), Some(28), "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed > 0);
    // A grain that could not be written is what it was.
    assert_eq!(read(&disk, 5 * GRAIN, 10).unwrap(), [0; 10]);
    file.limit_space(None);
    write(&disk, 5 * GRAIN, &[3; 65_536]).unwrap();
    disk.close().unwrap();
    let disk = open(&path, Access::Read, &files).unwrap();
    assert_eq!(read(&disk, 0, 65_536).unwrap(), [1; 65_536]);
    assert_eq!(read(&disk, GRAIN, 65_536).unwrap(), [2; 65_536]);
    assert_eq!(read(&disk, 5 * GRAIN, 65_536).unwrap(), [3; 65_536]);
    assert_eq!(check(&path, &files).unwrap().findings.worst(), None);
}

#[test]
fn nothing_is_written_after_a_flush_that_failed() {
    for nth in 0..6 {
        let mut files = SimFiles::new(3 + nth);
        let path = files.make("x.vmdk", &sparse(60 * GRAIN, 5, false), |_| {});
        let disk = open(&path, Access::Write, &files).unwrap();
        write(&disk, 0, &[1; 65_536]).unwrap();
        run(&disk, Operation::Flush).unwrap();
        write(&disk, GRAIN, &[2; 65_536]).unwrap();
        let file = &files.disks[Path::new("/d/x.vmdk")];
        file.fail(ByteRange::whole(file.size()), 5, FaultOn::Flushes, 1);
        assert_eq!(run(&disk, Operation::Flush).unwrap_err().source.raw_os_error(), Some(5));
        let error = run(&disk, Operation::Flush).unwrap_err();
        assert!(error.source.to_string().contains("open the disk again"), "{error}");
        assert!(write(&disk, 9 * GRAIN, &[9; 512]).is_err());
        assert!(disk.close().is_err());
        file.clear_faults();
        file.drop_caches();
        files.world.reboot();
        let findings = check(&path, &files).unwrap().findings;
        assert_eq!(findings.worst(), Some(Severity::Repairable), "the mark is still there: {findings:?}");
        let disk = open(&path, Access::Write, &files).unwrap();
        assert_eq!(read(&disk, 0, 65_536).unwrap(), [1; 65_536]);
        disk.close().unwrap();
        assert_eq!(check(&path, &files).unwrap().findings.worst(), None);
    }
}

#[test]
fn what_is_not_on_the_disk_is_refused_and_holes_are_told() {
    let mut files = SimFiles::new(4);
    let path = files.make("x.vmdk", &sparse(40 * GRAIN + 512, 5, true), |_| {});
    let disk = open(&path, Access::Write, &files).unwrap();
    let end = disk.size().get();
    assert!(write(&disk, end - 511, &[1; 512]).is_err());
    assert!(run(&disk, Operation::Zero { range: range(end, end + 1) }).is_err());
    write(&disk, end, &[]).unwrap();
    write(&disk, 3 * GRAIN, &[1; 2 * 65_536]).unwrap();
    run(&disk, Operation::Zero { range: range(30 * GRAIN, end) }).unwrap();
    let mut extents = Vec::new();
    let mut at = 0;
    while let Some(extent) = disk.extent_at(ByteOffset::new(at).unwrap()).unwrap() {
        extents.push((extent.range.start().get() / GRAIN, extent.hole));
        at = extent.range.end().get();
    }
    assert_eq!(extents, [(0, true), (3, false), (5, true)]);
    assert_eq!(at, end);
    // A disk that is open for reading is not written.
    drop(disk);
    let disk = open(&path, Access::Read, &files).unwrap();
    let error = write(&disk, 0, &[1; 512]).unwrap_err();
    assert!(error.source.to_string().contains("reading only"), "{error}");
    run(&disk, Operation::Flush).unwrap();
}

/// Two disks that do the same, one of files and one in memory, over thousands of operations by chance.
#[test]
fn it_is_a_disk() {
    for seed in 0..4 {
        let mut files = SimFiles::new(seed);
        let size = 33 * GRAIN + 1536;
        let path = files.make("x.vmdk", &sparse(size, 5, seed % 2 == 1), |_| {});
        files.disks[Path::new("/d/x.vmdk")].short_transfers(20);
        let mut model = vec![0_u8; usize::try_from(size).unwrap()];
        let mut chance = Chance(seed);
        let mut disk = open(&path, Access::Write, &files).unwrap();
        for round in 0..400 {
            let start = chance.below(size);
            let end = (start + 1 + chance.below(200_000)).min(size);
            let place = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
            match chance.below(5) {
                0 => {
                    run(&disk, Operation::Zero { range: range(start, end) }).unwrap();
                    model[place].fill(0);
                }
                1 | 2 => {
                    model[place.clone()].fill(u8::try_from(round % 250 + 1).unwrap());
                    write(&disk, start, &model[place]).unwrap();
                }
                3 => assert!(read(&disk, start, place.len()).unwrap() == model[place], "round {round}"),
                _ if chance.below(8) == 0 => {
                    disk.close().unwrap();
                    files.world.reboot();
                    disk = open(&path, Access::Write, &files).unwrap();
                }
                _ => run(&disk, Operation::Flush).map(drop).unwrap(),
            }
        }
        assert!(read(&disk, 0, model.len()).unwrap() == model);
        disk.close().unwrap();
        assert_eq!(check(&path, &files).unwrap().findings.worst(), None);
    }
}
