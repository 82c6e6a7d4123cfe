//! What tests of devices stand on: that they do not meet each other, and that a look of somebody else is no failure.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::lab::{Loop, Mount, Place, files_below, lone, tool, workspace};
use nix::libc::O_EXCL;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long somebody has a device.
const MOMENT: Duration = Duration::from_secs(1);

/// Does something to a device that somebody else has for a moment, as a look at all devices has each of them.
#[track_caller]
fn while_looked_at<R>(device: &Path, work: impl FnOnce() -> R) -> R {
    let looking = File::options().read(true).custom_flags(O_EXCL).open(device).unwrap();
    let began = Instant::now();
    let letting_go = thread::spawn(move || {
        thread::sleep(MOMENT);
        drop(looking);
    });
    let done = work();
    assert!(began.elapsed() >= MOMENT, "nobody was in the way");
    letting_go.join().unwrap();
    done
}

#[test]
fn a_look_of_others_is_waited_for() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let device = Loop::attach(&place.sparse("image", 512 << 20, &[]), &[]);
    let path = &device.path;
    let name = path.to_str().unwrap();
    while_looked_at(path, || tool("mkfs.ext4", &["-q", name]));
    while_looked_at(path, || tool("e2fsck", &["-f", "-p", name]));
    let mounted = while_looked_at(path, || Mount::device(path, &place.directory("ext4"), "rw"));
    mounted.end();
    while_looked_at(path, || tool("mkfs.xfs", &["-q", "-f", name]));
}

/// Whether it has tests, or helpers of them, that are alone.
fn is_alone(source: &Path) -> bool {
    let text = fs::read_to_string(source).unwrap();
    ["= lone()", "guarding(", "is_alone_inside("].iter().any(|call| text.contains(call))
}

#[test]
fn tests_that_are_alone_wait_before_their_time_begins() {
    let config = fs::read_to_string(workspace().join(".config/nextest.toml")).unwrap();
    let tests = workspace().join("tests/tests");
    let alone = files_below(&tests).into_iter().filter(|source| is_alone(source));
    let names: BTreeSet<_> = alone.map(|source| binary_of(&tests, &source)).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names.iter().filter(|name| *name != "qemu") {
        assert!(config.contains(&format!("binary(={name})")), "{name} is not in the group of .config/nextest.toml");
    }
}

/// `points` of `points/full.rs`, and `full` of `full.rs`.
fn binary_of(tests: &Path, source: &Path) -> String {
    let first: PathBuf = source.strip_prefix(tests).unwrap().iter().take(1).collect();
    first.file_stem().unwrap().to_str().unwrap().to_owned()
}
