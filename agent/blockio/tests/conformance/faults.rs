//! What real devices do when something goes wrong.

use crate::{
    CACHINGS, ENGINES,
    backends::{Loop, device, image},
    suite::{count, offset, pattern, range, read, write},
};
use failback_blockio::{Action, Buffer, Caching, Device, Engine, FileDevice, Operation, Options, run};
use failback_units::{ByteOffset, ByteRange};
use std::{fs::File, io::ErrorKind, path::Path, process::Command};
use tempfile::TempDir;

#[test]
fn a_file_truncated_beneath_us() {
    for engine in ENGINES {
        for caching in CACHINGS {
            let image = image(&std::env::temp_dir(), 1 << 20);
            let device = device(image.path(), engine, caching);
            write(&device, ByteOffset::ZERO, &pattern(1 << 20, 1));
            for (kept, at, len) in [(700_001, 0, 1 << 20), (8192, 4096, 8192), (5000, 4096, 4096), (0, 0, 512)] {
                image.as_file().set_len(kept).expect("truncated");
                let into = Buffer::zeroed(len);
                let error = run(&device, Operation::Read { at: offset(at), into }).expect_err("not all is there");
                assert_eq!((error.action, error.source.kind()), (Action::Read, ErrorKind::UnexpectedEof));
                let error = device.extent_at(offset(900_000)).expect_err("a hole would be a lie");
                assert_eq!((error.action, error.source.kind()), (Action::Map, ErrorKind::UnexpectedEof));
            }
        }
    }
}

#[test]
fn holes_and_data() {
    for directory in [std::env::temp_dir(), "/dev/shm".into()] {
        for engine in ENGINES {
            let image = image(&directory, 8 << 20);
            let device = device(image.path(), engine, Caching::Direct);
            let kinds = |device: &FileDevice| {
                let mut found = Vec::new();
                let mut from = ByteOffset::ZERO;
                while let Some(extent) = device.extent_at(from).expect("extents") {
                    found.push((extent.range.to_string(), extent.hole));
                    from = extent.range.end();
                }
                found
            };
            assert_eq!(kinds(&device), [("0..8388608".to_owned(), true)]);
            write(&device, offset(1 << 20), &pattern(1 << 20, 1));
            assert_eq!(
                kinds(&device),
                [
                    ("0..1048576".to_owned(), true),
                    ("1048576..2097152".to_owned(), false),
                    ("2097152..8388608".to_owned(), true)
                ]
            );
            // From the middle of an extent.
            let extent = device.extent_at(offset(1_500_000)).expect("extents").expect("an extent");
            assert_eq!((extent.range, extent.hole), (range(1_500_000, 2 << 20), false));
            run(&device, Operation::Zero { range: range(1 << 20, 2 << 20) }).expect("zeroing");
            assert_eq!(kinds(&device), [("0..8388608".to_owned(), true)], "zeroing gives the space back");
        }
    }
}

#[test]
fn counters_count_what_succeeded() {
    for engine in ENGINES {
        let image = image(&std::env::temp_dir(), 100_000);
        let device = device(image.path(), engine, Caching::Probe);
        write(&device, offset(5), &[1; 5000]);
        write(&device, offset(8192), &[1; 4096]);
        read(&device, offset(1), 99_999);
        run(&device, Operation::Zero { range: range(0, 50_001) }).expect("zeroing");
        run(&device, Operation::Flush).expect("a flush");
        run(&device, Operation::Read { at: offset(99_999), into: Buffer::zeroed(2) }).expect_err("out of range");
        let counters = device.counters();
        assert_eq!((counters.reads, counters.bytes_read), (1, 99_999));
        assert_eq!((counters.writes, counters.bytes_written), (2, 9096));
        assert_eq!((counters.bytes_zeroed, counters.flushes), (50_001, 1));
    }
}

#[test]
fn a_read_only_device_is_not_written() {
    for engine in ENGINES {
        let image = image(&std::env::temp_dir(), 8192);
        let file = File::open(image.path()).expect("an image");
        let options = Options { engine, caching: Caching::Direct };
        let device = FileDevice::new(file.into(), "read-only", options).expect("a device");
        for operation in
            [Operation::Write { at: offset(0), from: Buffer::zeroed(4096) }, Operation::Zero { range: range(10, 8192) }]
        {
            let error = run(&device, operation).expect_err("read-only");
            assert_eq!(error.source.raw_os_error(), Some(libc::EBADF), "{error}");
        }
        assert_eq!(device.counters().bytes_written + device.counters().bytes_zeroed, 0);
    }
}

#[test]
fn more_operations_than_the_depth_panic() {
    for engine in ENGINES {
        let image = image(&std::env::temp_dir(), 8192);
        let device = device(image.path(), engine, Caching::Direct);
        let outcome = std::panic::catch_unwind(|| {
            let mut queue = device.queue(2).expect("a queue");
            for token in 0..3 {
                queue.submit(token, Operation::Flush);
            }
        });
        assert!(outcome.is_err());
    }
}

/// A file system of two megabytes, unmounted when dropped.
struct Small(TempDir);

impl Small {
    fn new() -> Option<Self> {
        let directory = TempDir::new().expect("a directory");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "small"]).arg(directory.path()).status();
        if status.is_ok_and(|status| status.success()) {
            Some(Self(directory))
        } else {
            eprintln!("SKIPPED full file system: cannot mount a tmpfs");
            None
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.path().display());
        }
    }
}

#[test]
fn a_full_file_system() {
    let Some(small) = Small::new() else { return };
    for engine in ENGINES {
        for caching in CACHINGS {
            let image = image(small.path(), 8 << 20);
            let device = device(image.path(), engine, caching);
            let from = Buffer::copy_of(&pattern(6 << 20, 1));
            let error = run(&device, Operation::Write { at: offset(0), from }).expect_err("no space");
            assert_eq!(error.source.raw_os_error(), Some(libc::ENOSPC));
            assert_eq!((error.action, error.at.get(), error.count.get()), (Action::Write, 0, 6 << 20));
            assert_eq!(device.counters().writes, 0);
        }
    }
}

#[test]
fn a_disk_on_a_full_file_system() {
    let Some(small) = Small::new() else { return };
    for engine in ENGINES {
        let Some(disk) = Loop::new(small.path(), 8 << 20, 512) else { return };
        let device = device(&disk.path, engine, Caching::Direct);
        let mut queue = device.queue(8).expect("a queue");
        for token in 0..8 {
            let from = Buffer::copy_of(&pattern(1 << 20, token));
            queue.submit(token, Operation::Write { at: offset(token << 20), from });
        }
        let mut errors = Vec::new();
        while let Some(completion) = queue.wait() {
            let written = completion.buffer.expect("the buffer comes back, failed or not");
            assert!(written[..] == pattern(1 << 20, completion.token));
            errors.extend(completion.result.err().map(|error| (completion.token, error)));
        }
        assert!(errors.len() >= 6, "two megabytes cannot hold {} of eight", 8 - errors.len());
        for (token, error) in errors {
            assert_eq!((error.at.get(), error.count.get()), (token << 20, 1 << 20));
            assert!(matches!(error.source.raw_os_error(), Some(libc::EIO | libc::ENOSPC)), "{error:?}");
        }
    }
}

/// A write-back that fails long after a cached write was acknowledged comes out at the flush.
#[test]
fn a_flush_reports_what_was_lost() {
    let Some(small) = Small::new() else { return };
    for engine in ENGINES {
        let Some(disk) = Loop::new(small.path(), 8 << 20, 512) else { return };
        let device = device(&disk.path, engine, Caching::Cached);
        for at in 0..8 {
            let from = Buffer::copy_of(&pattern(1 << 20, at));
            run(&device, Operation::Write { at: offset(at << 20), from }).expect("the page cache has room");
        }
        let error = run(&device, Operation::Flush).expect_err("the disk has not");
        assert_eq!(error.action, Action::Flush);
        assert!(matches!(error.source.raw_os_error(), Some(libc::EIO | libc::ENOSPC)), "{error:?}");
        assert_eq!(device.counters().flushes, 0);
    }
}

#[test]
fn a_large_range_is_zeroed_at_once() {
    let image = image(&std::env::temp_dir(), 1 << 40);
    for engine in ENGINES {
        let device = device(image.path(), engine, Caching::Direct);
        write(&device, offset((1 << 39) + 5), b"something");
        let all = ByteRange::new(offset(3), count((1 << 40) - 10)).expect("in range");
        run(&device, Operation::Zero { range: all }).expect("zeroing");
        assert_eq!(read(&device, offset(1 << 39), 4096), [0; 4096]);
        assert_eq!(device.counters().bytes_zeroed, (1 << 40) - 10);
    }
}

#[test]
fn the_engine_is_as_asked_for() {
    let image = image(&std::env::temp_dir(), 8192);
    for (engine, name) in [(Engine::IoUring, "io_uring"), (Engine::Blocking, "pread/pwrite")] {
        let device = device(image.path(), engine, Caching::Probe);
        assert_eq!((device.engine(), device.engine_note()), (name, None));
    }
}
