//! Both disks as a program sees them: loop devices of the same names each time, and the retention drive mounted at the same place.

use super::{RETENTION, TARGET};
use crate::lab::{Loop, Mount, tool};
use std::path::{Path, PathBuf};

/// Both disks, attached.
pub(super) struct Stage {
    // In the order in which they are to end.
    mount: Option<Mount>,
    devices: [Loop; 2],
}

impl Stage {
    /// Attaches two images.
    pub(super) fn attach(images: &[PathBuf; 2]) -> Self {
        Self { mount: None, devices: images.each_ref().map(|image| Loop::attach(image, &[])) }
    }

    /// Attaches two images under the names that the disks had before: a program may know a disk by its name.
    pub(super) fn attach_as(names: &[PathBuf; 2], images: &[PathBuf; 2]) -> Self {
        Self { mount: None, devices: [TARGET, RETENTION].map(|disk| Loop::attach_as(&names[disk], &images[disk])) }
    }

    /// The devices.
    pub(super) fn names(&self) -> [PathBuf; 2] {
        self.devices.each_ref().map(|device| device.path.clone())
    }

    /// Mounts the retention drive, which replays its journal where there is something to replay.
    pub(super) fn mount(&mut self, at: &Path) {
        self.mount = Some(Mount::kind("ext4", &self.devices[RETENTION].path, at, "rw"));
    }

    /// Unmounts it, and forgets what the kernel has kept of both disks: their images are changed behind its back.
    pub(super) fn unmount(&mut self) {
        self.mount.take().into_iter().for_each(Mount::end);
        let names = self.names();
        let [target, retention] = names.each_ref().map(|name| name.as_os_str());
        tool("blockdev", &["--flushbufs".as_ref(), target, retention]);
    }
}
