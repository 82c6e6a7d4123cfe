//! A file system on a disk that never answers.

use super::{Fused, Loop, Mount, Place, Running, try_tool};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system that was mounted when its disk died: whoever opens a file there waits in the kernel, and cannot be killed. It is mounted in the
/// mount namespace of this process.
#[must_use]
pub struct Hung {
    /// Where it is mounted.
    pub at: PathBuf,
    // In this order: unmounted, detached, unmounted, and then over.
    mount: Mount,
    device: Loop,
    fused: Fused,
    server: Running,
}

impl Hung {
    /// A file system with this file, whose name nobody has looked up before the disk dies.
    pub fn new(place: &Place, file: &Path) -> Self {
        let image = place.ext4("hung.img", 16 << 20, &[file]);
        let socket = place.path("hung.sock");
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--readonly", "--unix"]).arg(&socket).arg("file").arg(&image);
        let mut server = Running::start(command);
        assert!(server.wait_until(|| socket.exists()), "nbdkit ended");
        let fused = Fused::new(place, &format!("nbd+unix:///?socket={}", socket.display()), &["-r"]);
        let device = Loop::attach(&fused.file, &["-r"]);
        let at = place.directory("hung");
        let mount = Mount::device(&device.path, &at, "ro,noload");
        server.signal("STOP");
        Self { at, mount, device, fused, server }
    }

    /// The state of every process of this program's that looks at a machine, as `ps` tells it.
    pub fn looks() -> Vec<String> {
        let output = try_tool("ps", &["-e", "-o", "stat=,args="]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| line.contains("/proc/self/exe look ")).map(str::to_owned).collect()
    }

    /// Lets the disk answer again, and gives everything back.
    pub fn end(self) {
        let Self { mount, device, fused, server, .. } = self;
        server.signal("CONT");
        mount.end();
        drop(device);
        fused.end();
        drop(server);
    }
}
