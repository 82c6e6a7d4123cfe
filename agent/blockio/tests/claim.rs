//! A claim on a block device ends when the device is dropped, not some time later.
//!
//! In a program of its own, since other tests start processes, and a process that is just being started shares all
//! descriptors, claims included, until it runs its own program.

use failback_blockio::{Buffer, Caching, FileDevice, Operation, Options, run};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::Path, process::Command};

const SIZE: u64 = 1 << 20;

fn claim_and_release(path: &Path) {
    for round in 0..1000 {
        let caching = [Caching::Probe, Caching::Direct, Caching::Cached][round % 3];
        let fd = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(path);
        let fd = fd.unwrap_or_else(|error| panic!("round {round}: {error}"));
        let device =
            FileDevice::new(fd.into(), "claimed", Options { caching, ..Options::default() }).expect("a device");
        let from = |start: u64| {
            let start = ByteOffset::new(start).expect("an offset");
            ByteRange::between(start, ByteCount::new(SIZE).expect("a size").as_end()).expect("in order")
        };
        for operation in [
            Operation::Zero { range: from(0) },
            Operation::Write { at: from(5).start(), from: Buffer::copy_of(&[1; 10_000]) },
            Operation::Zero { range: from(3) },
            Operation::Flush,
        ] {
            run(&device, operation).expect("an operation");
        }
    }
}

#[test]
fn a_claim_ends_with_the_device() {
    let backing = tempfile::NamedTempFile::new_in("/dev/shm").expect("a temporary file");
    backing.as_file().set_len(SIZE).expect("its size");
    let attached = Command::new("losetup").args(["--find", "--show"]).arg(backing.path()).output();
    let path = match attached {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(output) => return eprintln!("SKIPPED: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => return eprintln!("SKIPPED: no losetup: {error}"),
    };
    let outcome = std::panic::catch_unwind(|| claim_and_release(Path::new(&path)));
    let detached = Command::new("losetup").args(["--detach", &path]).status();
    assert!(detached.is_ok_and(|status| status.success()), "cannot detach {path}");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
