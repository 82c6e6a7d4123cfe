//! Loop devices, mounts and processes that tests take and always give back.
#![allow(dead_code, reason = "not every test file needs all of it")]

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

/// Set for a test that runs again in a mount namespace of its own.
const INSIDE: &str = "FAILBACK_TEST_INSIDE";

/// Loop devices are few: one test at a time, of those of the whole program as well, which have the same lock.
const LOCK: &str = "failback-tests.lock";

/// How long others may have all loop devices, or something of them.
const PATIENCE: Duration = Duration::from_secs(60);

/// What programs say of a device that somebody has opened exclusively, as a look at all devices does for a moment.
const BUSY: [&str; 4] = ["busy", "is in use", "apparently in use by the system", "opened exclusively"];

/// Runs a program and wants it to succeed; returns what it printed. Where it says that a device is busy, it is run again for a while.
#[track_caller]
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> String {
    again(program, arguments, |told| BUSY.iter().any(|words| told.contains(words)))
}

/// Runs a program until it succeeds, while `may_pass` takes what it says for something that passes.
#[track_caller]
fn again<S: AsRef<OsStr>>(program: &str, arguments: &[S], may_pass: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let output = try_run(program, arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap().trim().to_owned();
        }
        assert!(may_pass(&told) && Instant::now() < end, "{program}: {told}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a program.
pub(crate) fn try_run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Output {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Command::new(program).args(arguments).env("PATH", path).stdin(Stdio::null()).output().unwrap()
}

/// Says why a test is skipped; where skips are not accepted, the test fails.
#[track_caller]
pub(crate) fn skipped(reason: &str) {
    println!("skipped: {reason}");
    let demanded = env::var_os("FAILBACK_REQUIRE_ROOT_TESTS").is_some_and(|value| value == "1");
    assert!(!demanded, "FAILBACK_REQUIRE_ROOT_TESTS is set, but {reason}");
}

/// What a test needs: root, loop devices, a directory, and to be alone.
pub(crate) struct Bench {
    directory: TempDir,
    _alone: Option<Flock<File>>,
}

impl Bench {
    /// `None`, with the reason printed, where the machine has not what these tests need.
    pub(crate) fn new() -> Option<Self> {
        let reason = if !nix::unistd::geteuid().is_root() {
            "this needs root"
        } else if !Path::new("/dev/loop-control").exists() {
            "there are no loop devices"
        } else {
            let alone = (!is_inside()).then(|| {
                let file = File::create(env::temp_dir().join(LOCK)).unwrap();
                Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap()
            });
            return Some(Self { directory: tempfile::tempdir().unwrap(), _alone: alone });
        };
        skipped(reason);
        None
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An image of 64 MiB, with nothing in it.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        File::create_new(&path).unwrap().set_len(64 << 20).unwrap();
        path
    }

    /// A loop device over a new image of 256 MiB: btrfs wants as much.
    pub(crate) fn large_device(&self, name: &str) -> Loop {
        let image = self.image(name);
        File::options().write(true).open(&image).unwrap().set_len(256 << 20).unwrap();
        Loop::attach(&image, &[])
    }

    /// A loop device over a new image.
    pub(crate) fn device(&self, name: &str) -> Loop {
        Loop::attach(&self.image(name), &[])
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}

/// An attached loop device.
pub(crate) struct Loop {
    pub(crate) path: PathBuf,
}

impl Loop {
    /// Attaches an image; waits for a while if others have all devices.
    pub(crate) fn attach(image: &Path, options: &[&str]) -> Self {
        let arguments: Vec<&OsStr> =
            ["-f", "--show"].iter().chain(options).map(OsStr::new).chain([image.as_os_str()]).collect();
        let path = PathBuf::from(again("losetup", &arguments, |_| true));
        // A mark that the device is to be kept read-only outlives what was attached to it.
        run("blockdev", &["--setrw".as_ref(), path.as_os_str()]);
        Self { path }
    }

    /// Adds partition 1 from 1 MiB on, 32 MiB long, as the kernel would for a partition table.
    pub(crate) fn with_partition(&self) -> PathBuf {
        run("addpart", &[self.path.as_os_str(), "1".as_ref(), "2048".as_ref(), "65536".as_ref()]);
        PathBuf::from(format!("{}p1", self.path.display()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        try_run("delpart", &[self.path.as_os_str(), "1".as_ref()]);
        let output = try_run("losetup", &[OsStr::new("-d"), self.path.as_os_str()]);
        if !output.status.success() {
            eprintln!("losetup -d {}: {}", self.path.display(), String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// A mount in the mount namespace of this process.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn new(device: &Path, at: &Path, options: &str) -> Self {
        run("mount", &[OsStr::new("-o"), options.as_ref(), device.as_os_str(), at.as_os_str()]);
        Self(at.to_owned())
    }

    /// What was mounted otherwise, to be unmounted.
    pub(crate) fn taken(at: &Path) -> Self {
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        try_run("umount", &[&self.0]);
    }
}

/// An active swap device.
pub(crate) struct Swap(PathBuf);

impl Swap {
    pub(crate) fn on(path: &Path) -> Self {
        run("mkswap", &[path]);
        run("swapon", &[path]);
        Self(path.to_owned())
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        try_run("swapoff", &[&self.0]);
    }
}

/// Whether the test runs in a mount namespace of its own.
pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Runs the named test again in a mount namespace of its own, so that mounts made by it end with it.
pub(crate) fn run_inside(test: &str) {
    let program = env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its mount namespace");
}
