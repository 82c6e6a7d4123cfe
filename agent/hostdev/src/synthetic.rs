//! A machine made of directories: sysfs and procfs as tests want them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::topology::{DevNum, Host};
use crate::vpd::ScsiUuid;

/// A synthetic machine. Its block devices are directories under `sys/devices`, with the links of sysfs to them.
pub(crate) struct Machine {
    directory: TempDir,
    pub(crate) host: Host,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let host = Host::below(directory.path());
        for name in ["sys/devices", "sys/dev/block", "sys/block", "proc/self", "dev", "files"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let machine = Self { directory, host };
        fs::write(machine.host.proc.join("self/mountinfo"), "").unwrap();
        fs::write(machine.file("program"), "").unwrap();
        symlink(machine.file("program"), machine.host.proc.join("self/exe")).unwrap();
        machine
    }

    /// The path of a file of this machine that is neither in sysfs nor in procfs.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("files").join(name)
    }

    fn device(&self, place: &Path, number: &str) -> DevNum {
        fs::create_dir_all(place.join("holders")).unwrap();
        fs::write(place.join("dev"), format!("{number}\n")).unwrap();
        symlink(place, self.host.sys.join("dev/block").join(number)).unwrap();
        number.parse().unwrap()
    }

    /// A disk, or anything else that is no partition.
    pub(crate) fn disk(&self, name: &str, number: &str) -> DevNum {
        let place = self.host.sys.join("devices").join(name);
        fs::create_dir_all(place.join("slaves")).unwrap();
        symlink(&place, self.host.sys.join("block").join(name)).unwrap();
        self.device(&place, number)
    }

    /// A SCSI disk at an address, on a host of that driver, with its UUID on VPD page 0x83. Its name may be a path, whose
    /// last part is the name and whose others are what the disk hangs on.
    pub(crate) fn scsi(&self, path: &str, number: &str, address: &str, driver: &str, uuid: Option<&str>) -> DevNum {
        let name = path.rsplit('/').next().unwrap();
        let place = self.host.sys.join("devices").join(path);
        fs::create_dir_all(place.join("slaves")).unwrap();
        symlink(&place, self.host.sys.join("block").join(name)).unwrap();
        let device = self.device(&place, number);
        let unit = self.host.sys.join("units").join(name).join(address);
        fs::create_dir_all(&unit).unwrap();
        symlink(&unit, place.join("device")).unwrap();
        let host = self.host.sys.join(format!("class/scsi_host/host{}", address.split(':').next().unwrap()));
        fs::create_dir_all(&host).unwrap();
        fs::write(host.join("proc_name"), format!("{driver}\n")).unwrap();
        if let Some(uuid) = uuid {
            let uuid: ScsiUuid = uuid.parse().unwrap();
            let page = [&[0, 0x83, 0, 20, 1, 3, 0, 16], uuid.as_bytes().as_slice()].concat();
            fs::write(unit.join("vpd_pg83"), page).unwrap();
        }
        device
    }

    pub(crate) fn partition(&self, disk: &str, name: &str, number: &str) -> DevNum {
        let place = self.host.sys.join("devices").join(disk).join(name);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("partition"), "1\n").unwrap();
        self.device(&place, number)
    }

    /// Makes `above` out of `below`.
    pub(crate) fn stack(&self, below: DevNum, above: DevNum) {
        let name = |device| self.host.kernel_name(device).unwrap();
        let (lower, upper) = (self.host.node(below), self.host.node(above));
        symlink(fs::canonicalize(&upper).unwrap(), lower.join("holders").join(name(above))).unwrap();
        symlink(fs::canonicalize(&lower).unwrap(), upper.join("slaves").join(name(below))).unwrap();
    }

    /// A loop device over a file.
    pub(crate) fn attach(&self, name: &str, number: &str, backing: &Path) -> DevNum {
        let device = self.disk(name, number);
        self.write(device, "loop/backing_file", format!("{}\n", backing.display()).as_bytes());
        self.write(device, "ro", b"0\n");
        device
    }

    /// Writes an attribute of a device.
    pub(crate) fn write(&self, device: DevNum, name: &str, content: &[u8]) {
        let path = self.host.node(device).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Writes the mountinfo of a process: `self`, or a number with a mount namespace of that number.
    pub(crate) fn mounts(&self, process: &str, text: &str) {
        let place = self.host.proc.join(process);
        fs::create_dir_all(place.join("ns")).unwrap();
        if fs::symlink_metadata(place.join("ns/mnt")).is_err() {
            symlink(format!("mnt:[{process}]"), place.join("ns/mnt")).unwrap();
        }
        fs::write(place.join("mountinfo"), text).unwrap();
    }

    /// Makes `device` a member of a mounted btrfs file system.
    pub(crate) fn btrfs(&self, uuid: &str, device: DevNum) {
        let place = self.host.sys.join("fs/btrfs").join(uuid).join("devices");
        fs::create_dir_all(&place).unwrap();
        let name = self.host.kernel_name(device).unwrap();
        symlink(fs::canonicalize(self.host.node(device)).unwrap(), place.join(name)).unwrap();
    }
}
