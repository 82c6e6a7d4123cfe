//! The live ISO of this program, built once for all tests.

use failback_tests::lab::{files_below, program, skipped, tool, try_tool};
use nix::fcntl::{Flock, FlockArg};
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What building and booting it takes beside what every test needs. A name with slashes is a file.
const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    ("xorriso", "xorriso"),
    ("grub-mkimage", "grub-common"),
    ("/usr/lib/grub/i386-pc", "grub-pc-bin"),
    ("/usr/lib/grub/x86_64-efi", "grub-efi-amd64-bin"),
    ("mcopy", "mtools"),
    ("cpio", "cpio"),
    ("busybox", "busybox-static"),
    ("dropbear", "dropbear-bin"),
    ("/usr/lib/openssh/sftp-server", "openssh-sftp-server"),
];
/// What else decides about its bytes.
const CARRIED: &[&str] = &["busybox", "dropbear", "dropbearkey", "mke2fs", "blkid"];

/// The time that is the time of the build: any, but the same for all, so that a commit does not build another one.
pub(crate) const EPOCH: &str = "1700000000";

/// The top of the source tree.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The builder with these arguments, at the time [`EPOCH`].
pub(crate) fn builder() -> Command {
    let mut command = Command::new(top().join("appliance/live/build"));
    command.env("SOURCE_DATE_EPOCH", EPOCH).env("CARGO_TARGET_DIR", target()).stdin(Stdio::null());
    command
}

/// The live ISO with the program that is tested; `None`, with the reason printed, where it cannot be built.
///
/// What it is made of is in its name, so that it is built again when any of that has changed.
pub(crate) fn live_iso() -> Option<PathBuf> {
    if !is_possible() {
        return None;
    }
    let cache = target().join("guest");
    fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join("live.lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    let kernel = unpacked_kernel();
    let fetched = try_tool("bash", &[&top().join("scripts/lib/guest-kernel"), &kernel]);
    if !fetched.status.success() {
        skipped(String::from_utf8_lossy(&fetched.stderr).lines().last().unwrap_or("there is no kernel"));
        return None;
    }
    let iso = cache.join(format!("live-{}.iso", &made_of(&kernel)[..16]));
    if !iso.exists() {
        for old in fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()) {
            let name = old.file_name().and_then(OsStr::to_str).unwrap();
            if name.starts_with("live-") {
                fs::remove_file(&old).unwrap();
            }
        }
        let built = builder().arg("-o").arg(&iso).arg("--binary").arg(program()).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    Some(iso)
}

/// Where the kernel of the live ISO is: there once [`live_iso`] has made one.
pub(crate) fn unpacked_kernel() -> PathBuf {
    target().join("guest/kernel")
}

/// The same ISO with other boot arguments.
pub(crate) fn with_arguments(iso: &Path, arguments: &str, out: &Path) {
    let made = builder().arg("--from").arg(iso).args(["--arguments", arguments, "-o"]).arg(out).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn is_possible() -> bool {
    for (needed, package) in NEEDED {
        let is_there = if needed.starts_with('/') {
            Path::new(needed).exists()
        } else {
            try_tool("sh", &["-c", &format!("command -v {needed}")]).status.success()
        };
        if !is_there {
            return skipped(&format!("{needed} is not installed (package {package}); scripts/setup test installs it"));
        }
    }
    failback_tests::lab::has_devices()
}

/// The hash of everything that decides about its bytes.
fn made_of(kernel: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |path: &Path| {
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update(&fs::read(path).unwrap());
    };
    for directory in ["appliance/lib", "appliance/live", "scripts/lib"] {
        for path in files_below(&top().join(directory)) {
            add(&path);
        }
    }
    add(program());
    for name in CARRIED {
        add(Path::new(&tool("sh", &["-c", &format!("command -v {name}")])));
    }
    // Its version stands in its name.
    for path in files_below(&kernel.join("boot")) {
        add(&path);
    }
    hasher.finalize().to_hex().to_string()
}

/// Where cargo builds.
fn target() -> PathBuf {
    // target/debug/deps/test-0123
    env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}
