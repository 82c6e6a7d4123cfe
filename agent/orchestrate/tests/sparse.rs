//! A disk of a tebibyte that is nearly empty: every byte of it is hashed, hardly any is read, and little is stored.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_blockio::{FileDevice, Options};
use failback_delta::{Identity, RunContent, SignatureReader, Uniform};
use failback_orchestrate::{BlockSize, PointKind, SignOptions, Silent, sign};
use failback_units::BlockCount;
use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;

/// What `b3sum` 1.2.0 prints for: truncate -s 1099511628553 disk; printf head | dd of=disk conv=notrunc;
/// printf tail | dd of=disk bs=1 seek=1099511628549 conv=notrunc
const ROOT: &str = "b3ac9b3abbc94ca16ff7ec5f28309348ebdb49d1cca5d9467b77cbdcefa7439f";

#[test]
fn slow_a_sparse_tebibyte_has_the_root_that_b3sum_prints() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let size = (1 << 40) + 777;
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(b"head", 0).unwrap();
    file.write_all_at(b"tail", size - 4).unwrap();
    drop(file);
    let device = FileDevice::new(File::open(&path).unwrap().into(), "disk", Options::default()).unwrap();
    let options = SignOptions {
        free: None,
        block_size: BlockSize::MIN,
        kind: PointKind::Crash,
        created: 0,
        identity: Identity::default(),
        threads: 0,
        before_end: &|| Ok(()),
    };
    let mut signature = Vec::new();
    let report = sign(&device, &mut signature, &options, &Silent).unwrap();
    assert_eq!(report.root.to_string(), ROOT);
    assert_eq!(report.scan.bytes_read + report.scan.bytes_hole, size);
    // The first chunk and the last, shorter one.
    assert_eq!(report.scan.bytes_read, (1 << 20) + 777);
    assert_eq!(device.counters().bytes_read, report.scan.bytes_read);
    assert!(signature.len() < 20_000, "{} bytes for two chunks and a hole", signature.len());
    let mut reader = SignatureReader::open(Cursor::new(signature)).unwrap();
    let mut zero = 0;
    while let Some(run) = reader.next_run(BlockCount::new(u64::MAX)).unwrap() {
        if run.content == RunContent::Uniform(Uniform::Zero) {
            zero += run.blocks.count().get();
        }
    }
    assert_eq!(zero, (1 << 28) - 256);
}
