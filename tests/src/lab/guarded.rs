//! A machine that keeps disks read-only while nobody has claimed them.

use super::{Loop, Mount, is_inside, lone, run_inside, tool, try_tool};
use std::fs::{self, File};
use std::path::Path;

/// A loop device that is kept read-only. It is made writable before it is detached, since the kernel keeps that mark.
pub struct Guarded(Loop);

impl Guarded {
    /// Attached to this image.
    pub fn new(image: &Path) -> Self {
        let disk = Self(Loop::attach(image, &[]));
        tool("blockdev", &["--setro", disk.name()]);
        disk
    }

    /// One with a write protection of its own, by the options of `losetup`.
    pub fn protected(image: &Path) -> Self {
        Self(Loop::attach(image, &["-r"]))
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The same as text.
    pub fn name(&self) -> &str {
        self.0.path.to_str().unwrap()
    }

    /// Whether it has the kernel's mark.
    pub fn is_read_only(&self) -> bool {
        tool("blockdev", &["--getro", self.name()]) == "1"
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        try_tool("blockdev", &["--setrw", self.name()]);
    }
}

/// Runs the named test where disks are guarded: `/run` says so, in its mount namespace. `None` where it cannot run, or has run inside.
pub fn guarding(test: &str) -> Option<Mount> {
    if !is_inside() {
        let _lock = lone()?;
        run_inside(test);
        return None;
    }
    let run = Mount::memory(Path::new("/run"), "1M");
    fs::create_dir("/run/failback").unwrap();
    File::create_new("/run/failback/guard").unwrap();
    Some(run)
}
