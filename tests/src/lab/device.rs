//! Loop devices, mounts and swap space that tests take and always give back.

use nix::fcntl::{Flock, FlockArg};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

/// Set for a test that runs again in a mount namespace of its own.
const INSIDE: &str = "FAILBACK_TEST_INSIDE";

/// How long others may have all loop devices, or something of them.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long somebody else may have a device that has to be this one. Tests that need that have ten minutes.
const LONG_PATIENCE: Duration = Duration::from_secs(300);

/// What programs say of a device that somebody has opened exclusively, as a look of another failback at all devices does for a moment.
const BUSY: [&str; 4] = ["busy", "is in use", "apparently in use by the system", "opened exclusively"];

/// Where a test that needs root begins: `false`, with the reason printed, where the machine has not what it needs.
pub fn has_devices() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "this needs root"
    } else if !Path::new("/dev/loop-control").exists() {
        "there are no loop devices"
    } else {
        return true;
    };
    skipped(reason)
}

/// The same for a test that needs FUSE as well.
pub fn has_fuse() -> bool {
    has_devices() && (Path::new("/dev/fuse").exists() || skipped("there is no /dev/fuse: modprobe fuse"))
}

/// Whether a program of the system can be found.
pub fn is_installed(program: &str) -> bool {
    try_tool("sh", &["-c", &format!("command -v {program}")]).status.success()
}

/// Where a test that needs these programs begins: `false`, with the reason printed, where one is missing.
pub fn has_programs(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !is_installed(program));
    missing.is_none_or(|program| skipped(&format!("{program} is not installed; scripts/setup test installs it")))
}

/// Says why a test is skipped, and returns `false`; where skips are not accepted, the test fails.
pub fn skipped(reason: &str) -> bool {
    println!("skipped: {reason}");
    let demanded = env::var_os("FAILBACK_REQUIRE_ROOT_TESTS").is_some_and(|value| value == "1");
    assert!(!demanded, "FAILBACK_REQUIRE_ROOT_TESTS is set, but {reason}");
    false
}

/// The same, for tests that do not take long: while what is returned lives, no other of them runs. Loop devices are few.
pub fn lone() -> Option<Flock<File>> {
    if !has_devices() {
        return None;
    }
    let name = if is_inside() { "failback-tests-inside.lock" } else { "failback-tests.lock" };
    let file = File::create(env::temp_dir().join(name)).unwrap();
    Some(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap())
}

/// Runs a program of the system.
pub fn try_tool<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Output {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Command::new(program).args(arguments).env("PATH", path).stdin(Stdio::null()).output().unwrap()
}

/// Runs a program of the system and wants it to succeed; returns what it printed. Where it says that a device is busy, it is run again for
/// a while, until whoever has the device lets go of it.
#[track_caller]
pub fn tool<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> String {
    again(program, arguments, PATIENCE, |told| BUSY.iter().any(|words| told.contains(words)))
}

/// The same for what cannot be done while others have a device, whatever it says then.
#[track_caller]
fn patiently<S: AsRef<OsStr>>(program: &str, arguments: &[S], patience: Duration) -> String {
    again(program, arguments, patience, |_| true)
}

/// Runs a program of the system until it succeeds, while `may_pass` takes what it says for something that passes.
#[track_caller]
fn again<S: AsRef<OsStr>>(
    program: &str,
    arguments: &[S],
    patience: Duration,
    may_pass: impl Fn(&str) -> bool,
) -> String {
    let end = Instant::now() + patience;
    loop {
        let output = try_tool(program, arguments);
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap().trim().to_owned();
        }
        // Some say it where they say everything.
        let told = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
        assert!(may_pass(&told) && Instant::now() < end, "{program}: {told}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// An attached loop device.
#[must_use]
pub struct Loop {
    /// The device, such as `/dev/loop3`.
    pub path: PathBuf,
}

impl Loop {
    /// Attaches an image; waits for a while if others have all devices.
    pub fn attach(image: &Path, options: &[&str]) -> Self {
        let arguments = ["-f", "--show"].iter().chain(options).map(OsStr::new).chain([image.as_os_str()]);
        let path = PathBuf::from(patiently("losetup", &arguments.collect::<Vec<_>>(), PATIENCE));
        // A mark that the device is to be kept read-only outlives what was attached to it.
        tool("blockdev", &["--setrw".as_ref(), path.as_os_str()]);
        Self { path }
    }

    /// Attaches an image to the device of this name, which may have been somebody else's in the meantime.
    pub fn attach_as(device: &Path, image: &Path) -> Self {
        patiently("losetup", &[device, image], LONG_PATIENCE);
        Self { path: device.to_owned() }
    }

    /// Adds partition 1 from 1 MiB on, `sectors` of 512 bytes long, as the kernel would for a partition table.
    pub fn with_partition(&self, sectors: u64) -> PathBuf {
        tool("addpart", &[self.path.as_os_str(), "1".as_ref(), "2048".as_ref(), sectors.to_string().as_ref()]);
        PathBuf::from(format!("{}p1", self.path.display()))
    }

    /// `loop3`.
    pub fn kernel_name(&self) -> String {
        self.path.file_name().unwrap().to_string_lossy().into_owned()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        try_tool("delpart", &[self.path.as_os_str(), "1".as_ref()]);
        let output = try_tool("losetup", &[OsStr::new("-d"), self.path.as_os_str()]);
        if !output.status.success() {
            eprintln!("losetup -d {}: {}", self.path.display(), String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Sectors written to a loop device since it appeared, as the kernel counts them.
pub fn sectors_written(device: &Loop) -> u64 {
    let text = fs::read_to_string("/proc/diskstats").unwrap();
    let name = device.kernel_name();
    let fields = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let line = fields.into_iter().find(|fields| fields[2] == name).unwrap();
    line[9].parse().unwrap()
}

/// A mount in the mount namespace of this process.
#[must_use]
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts a device.
    pub fn device(device: &Path, at: &Path, options: &str) -> Self {
        tool("mount", &[OsStr::new("-o"), options.as_ref(), device.as_os_str(), at.as_os_str()]);
        Self(at.to_owned())
    }

    /// Mounts a device as a file system of this kind, which is not guessed.
    pub fn kind(kind: &str, device: &Path, at: &Path, options: &str) -> Self {
        let (given, options) = ([OsStr::new("-t"), kind.as_ref(), "-o".as_ref()], OsStr::new(options));
        tool("mount", &[&given[..], &[options, device.as_os_str(), at.as_os_str()]].concat());
        Self(at.to_owned())
    }

    /// Mounts a file system in memory that holds so much.
    pub fn memory(at: &Path, size: &str) -> Self {
        let options = format!("size={size}");
        tool(
            "mount",
            &["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), options.as_ref(), "tmpfs".as_ref(), at.as_os_str()],
        );
        Self(at.to_owned())
    }

    /// What somebody else mounted here, to be unmounted.
    pub fn taken(at: &Path) -> Self {
        Self(at.to_owned())
    }

    /// Lets a file system in memory hold more.
    pub fn resize(&self, size: &str) {
        tool("mount", &["-o".as_ref(), format!("remount,size={size}").as_ref(), self.0.as_os_str()]);
    }

    /// Unmounts, and wants that to succeed. What a process had there that was killed is gone a moment after it.
    pub fn end(mut self) {
        patiently("umount", &[&std::mem::take(&mut self.0)], PATIENCE);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            try_tool("umount", &[&self.0]);
        }
    }
}

/// An active swap device.
#[must_use]
pub struct Swap(PathBuf);

impl Swap {
    /// Makes swap space on a device, and uses it.
    pub fn on(path: &Path) -> Self {
        tool("mkswap", &[path]);
        tool("swapon", &[path]);
        Self(path.to_owned())
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        try_tool("swapoff", &[&self.0]);
    }
}

/// Whether the test runs in a mount namespace of its own.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Whether this runs in a mount namespace of its own. If it does not, the named test is run again in one, while no other that is
/// alone runs; with the reason printed, where it cannot be.
pub fn is_alone_inside(test: &str) -> bool {
    if is_inside() {
        return true;
    }
    if let Some(_lone) = lone() {
        run_inside(test);
    }
    false
}

/// Runs the named test again in a mount namespace of its own, so that mounts made by it end with it.
pub fn run_inside(test: &str) {
    let program = env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(program);
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    assert!(command.status().unwrap().success(), "{test} failed in its mount namespace");
}
