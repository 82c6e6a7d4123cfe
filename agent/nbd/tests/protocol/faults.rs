//! A disk that fails: the client is told, and goes on.

use super::client::{Assembly, EIO, READ, Reply, disk, pattern, range, well};
use failback_blockio::sim::{FaultOn, SimDisk, World};
use failback_nbd::{Export, Overlay};
use failback_units::ByteCount;
use std::path::Path;

const SIZE: u64 = 16 << 20;
const KERNEL_EIO: i32 = 5;

fn failing() -> SimDisk {
    let disk = disk(SIZE, &[(0, 16 << 20)]);
    disk.fail(range(3 << 20, (3 << 20) + 512), KERNEL_EIO, FaultOn::Reads, u32::MAX);
    disk
}

#[test]
fn a_failed_read_is_one_failed_request() {
    let disk = failing();
    let export = Export::read_only("", &disk).unwrap();
    well(&export, |client| {
        client.go(true);
        assert_eq!(client.read(0, 0, 4096).whole(), pattern(0, 4096));
        let read = client.read(0, 3 << 20, 4096);
        let [(error, at, sentence)] = &read.errors[..] else { panic!("{:?}", read.errors) };
        assert_eq!((*error, *at, read.missing()), (EIO, Some(3 << 20), 4096));
        assert!(sentence.starts_with("cannot read simulated, 4096 bytes at 3145728: "), "{sentence}");
        assert!(sentence.contains("os error 5"), "{sentence}");
        assert_eq!(client.read(0, 0, 4096).whole(), pattern(0, 4096));
        client.leave();
    });
    well(&export, |client| {
        client.go(false);
        assert_eq!(client.read_simply(3 << 20, 4096), Err(EIO));
        assert_eq!(client.read_simply((3 << 20) + 512, 4096).unwrap(), pattern((3 << 20) + 512, 4096));
        client.leave();
    });
    assert_eq!(export.counters().failed, 2);
}

/// The protocol has sentences of at most 4096 bytes.
#[test]
fn a_long_sentence_is_cut_between_letters() {
    let name = "\u{fc}".repeat(5000);
    let disk = World::new(1).disk(&name, ByteCount::new(SIZE).unwrap(), 512);
    disk.fail(range(0, SIZE), KERNEL_EIO, FaultOn::Reads, u32::MAX);
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        let sentence = &client.read(0, 0, 512).errors[0].2;
        assert!((4095..=4096).contains(&sentence.len()), "{}", sentence.len());
        assert!(sentence.ends_with('\u{fc}'));
        client.leave();
    });
}

#[test]
fn a_long_read_fails_where_the_disk_does() {
    let disk = failing();
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        for _ in 0..10 {
            // The pieces before are there, or were under way.
            let read = client.read(0, 0, 16 << 20);
            assert_eq!(read.errors.len(), 1);
            assert_eq!(read.errors[0].1, Some(3 << 20));
            assert!(read.missing() >= 512 << 10, "{}", read.missing());
        }
        client.leave();
    });
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(false);
        for _ in 0..10 {
            assert_eq!(client.read_simply(0, 16 << 20), Err(EIO));
            assert!(client.read_simply(4 << 20, 12 << 20).unwrap() == pattern(4 << 20, 12 << 20));
        }
        client.leave();
    });
}

/// Every piece fails, in every order, also the last of a read whose end is a hole.
#[test]
fn a_dead_disk_answers_every_request_once() {
    let disk = disk(SIZE, &[(0, 8 << 20)]);
    disk.fail(range(0, SIZE), KERNEL_EIO, FaultOn::Reads, u32::MAX);
    for structured in [true, false] {
        well(&Export::read_only("", &disk).unwrap(), |client| {
            client.go(structured);
            let lengths = [0, 1, 4096, 100_000, 600_000, 5_000_000, 16_000_000];
            let cookies: Vec<_> = lengths.iter().map(|length| client.request(0, READ, 0, *length)).collect();
            let mut ended = Vec::new();
            let mut errors = 0;
            while ended.len() < cookies.len() {
                match client.reply() {
                    Reply::Simple { error, cookie } => {
                        errors += u32::from(error == EIO);
                        ended.push(cookie);
                    }
                    Reply::Chunk { done, kind, cookie, payload } => {
                        let mut reading = Assembly::new(0, 16_000_000);
                        reading.add(kind, &payload);
                        assert!(kind != 1, "nothing can be read");
                        errors += u32::try_from(reading.errors.len()).unwrap();
                        ended.extend(done.then_some(cookie));
                    }
                }
            }
            // The read of no bytes reads nothing.
            assert_eq!(errors, 6);
            ended.sort_unstable();
            assert_eq!(ended, cookies);
            client.leave();
        });
    }
}

#[test]
fn faults_that_pass() {
    let disk = disk(SIZE, &[(0, 16 << 20)]);
    disk.short_transfers(60);
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        disk.fail(range(0, SIZE), KERNEL_EIO, FaultOn::Reads, 1);
        assert_eq!(client.read(0, 0, 4096).errors.len(), 1);
        assert!(client.read(0, 0, 16 << 20).whole() == pattern(0, 16 << 20));
        client.leave();
    });
}

#[test]
fn what_is_below_an_overlay_fails_below_it_only() {
    let disk = failing();
    let overlay = Overlay::new(disk, Path::new("/dev/shm")).unwrap();
    well(&Export::throw_away("", &overlay).unwrap(), |client| {
        client.go(true);
        // A part of the block: the rest of it cannot be had.
        assert_eq!(client.write(3 << 20, &[1; 512]), EIO);
        assert_eq!(client.ask(0, super::client::WRITE_ZEROES, (3 << 20) + 100, 512), EIO);
        assert_eq!(client.read(0, 3 << 20, 4096).errors.len(), 1);
        // All of it: nothing of what is below is needed.
        assert_eq!(client.write(3 << 20, &[2; 4096]), 0);
        assert_eq!(client.read(0, 3 << 20, 4096).whole(), [2; 4096]);
        assert_eq!(client.write(3 << 20, &[3; 512]), 0);
        let around = client.read(0, (3 << 20) - 100_000, 200_000).whole();
        assert_eq!(around[100_000..100_512], [3; 512]);
        assert_eq!(around[100_512..104_096], [2; 3584]);
        client.leave();
    });
}
