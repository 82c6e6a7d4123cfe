//! What a path names, and which disk that is.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use failback_units::ByteCount;

use crate::sys;
use crate::topology::{DevNum, Host, Object};
use crate::uses::{plain, plain_path};
use crate::vpd::ScsiUuid;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A block device: a disk, a partition, or something made of them.
    BlockDevice {
        /// The major device number.
        major: u32,
        /// The minor device number.
        minor: u32,
    },
    /// A regular file that holds the bytes of a disk.
    Image,
}

/// How a disk was named, and what that leads to if it is a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskName {
    /// The path as it was given.
    pub given: PathBuf,
    /// Where the path leads, if it is a symbolic link such as those in `/dev/disk/by-id`.
    pub resolved: Option<PathBuf>,
}

impl DiskName {
    /// Takes a path, and resolves it if it is a link.
    pub(crate) fn new(path: &Path) -> Self {
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        Self { given: path.to_owned(), resolved: is_link.then(|| fs::canonicalize(path).ok()).flatten() }
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain_path(&self.given))?;
        match &self.resolved {
            Some(resolved) => write!(f, " ({})", plain_path(resolved)),
            None => Ok(()),
        }
    }
}

/// Which disk it is, as far as Linux tells: read from the opened descriptor, so that it is true of what is then read and
/// written, whatever becomes of the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskIdentity {
    /// The path as it was given.
    pub path: PathBuf,
    /// Where the path leads, if it is a symbolic link.
    pub resolved: Option<PathBuf>,
    /// Device or image.
    pub medium: Medium,
    /// The size when it was opened.
    pub size: ByteCount,
    /// The logical block size in bytes; 512 for images.
    pub logical_block: u32,
    /// The UUID that the hypervisor shows. A partition has none: it is not the disk.
    pub scsi_uuid: Option<ScsiUuid>,
    /// Vendor and model, such as `VMware Virtual disk`; none for partitions and images.
    pub model: Option<String>,
    /// The kernel's name of a block device, such as `sdb` or `loop3`.
    pub kernel_name: Option<String>,
    /// Device number of the file system (`st_dev`) and inode number of an image.
    pub inode: Option<(u64, u64)>,
}

impl DiskIdentity {
    /// The name for messages: the path, and where it leads.
    #[must_use]
    pub fn name(&self) -> DiskName {
        DiskName { given: self.path.clone(), resolved: self.resolved.clone() }
    }

    /// Reads the identity of what `file` has open, which is `object`.
    pub(crate) fn read(host: &Host, name: &DiskName, file: &File, object: Object) -> io::Result<Self> {
        let blank = |medium, size: u64, logical_block| {
            let size = ByteCount::new(size).ok_or_else(|| io::Error::other("the size is beyond 2^63 bytes"))?;
            Ok(Self {
                path: name.given.clone(),
                resolved: name.resolved.clone(),
                medium,
                size,
                logical_block,
                scsi_uuid: None,
                model: None,
                kernel_name: None,
                inode: None,
            })
        };
        match object {
            Object::File { .. } => {
                use std::os::unix::fs::MetadataExt;
                let metadata = file.metadata()?;
                let identity: io::Result<Self> = blank(Medium::Image, metadata.len(), 512);
                Ok(Self { inode: Some((metadata.dev(), metadata.ino())), ..identity? })
            }
            Object::Block(device) => {
                let medium = Medium::BlockDevice { major: device.major, minor: device.minor };
                let size = sys::device_bytes(file.as_fd())?;
                let identity: io::Result<Self> = blank(medium, size, sys::logical_block(file.as_fd())?);
                Ok(Self {
                    scsi_uuid: scsi_uuid(host, device, |page| sys::inquire(file.as_fd(), page).ok()),
                    model: model(host, device),
                    kernel_name: host.kernel_name(device),
                    ..identity?
                })
            }
        }
    }
}

/// Page 0x83 before page 0x80: the first is the name proper, the second a serial number that happens to repeat it.
///
/// The kernel keeps both for disks that call themselves SPC-2 or later. Of virtual disks that claim an older standard, as
/// VMware's do in older virtual hardware, it keeps none (`scsi_device_supports_vpd`), and they are asked directly: these
/// only, since there are USB disks that hang when asked.
pub(crate) fn scsi_uuid(host: &Host, device: DevNum, ask: impl Fn(u8) -> Option<Vec<u8>>) -> Option<ScsiUuid> {
    let directory = host.node(device).join("device");
    let kept = |name: &str| fs::read(directory.join(name)).ok();
    let pages = match (kept("vpd_pg83"), kept("vpd_pg80")) {
        (None, None) if host.attribute(device, "device/vendor").as_deref() == Some("VMware") => (ask(0x83), ask(0x80)),
        kept => kept,
    };
    let name = pages.0.as_deref().and_then(ScsiUuid::from_page_83);
    name.or_else(|| pages.1.as_deref().and_then(ScsiUuid::from_page_80))
}

/// Vendor and model, as a text that cannot drive a terminal: both are what the disk says of itself.
pub(crate) fn model(host: &Host, device: DevNum) -> Option<String> {
    let model = host.attribute(device, "device/model")?;
    Some(plain(&match host.attribute(device, "device/vendor") {
        Some(vendor) if !vendor.starts_with("0x") => format!("{vendor} {model}"),
        _ => model,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::Machine;

    const UUID: &str = "6000c2999176dd776e0123456789abcd";

    fn page_83() -> Vec<u8> {
        let uuid: ScsiUuid = UUID.parse().unwrap();
        [&[0, 0x83, 0, 20, 1, 3, 0, 16], uuid.as_bytes().as_slice()].concat()
    }

    fn page_80() -> Vec<u8> {
        [&[0, 0x80, 0, 32], UUID.as_bytes()].concat()
    }

    fn nobody(_: u8) -> Option<Vec<u8>> {
        panic!("this disk must not be asked");
    }

    #[test]
    fn the_pages_that_the_kernel_keeps() {
        let machine = Machine::new();
        let disk = machine.disk("sda", "8:0");
        assert_eq!(scsi_uuid(&machine.host, disk, nobody), None);
        machine.write(disk, "device/vpd_pg80", &page_80());
        assert_eq!(scsi_uuid(&machine.host, disk, nobody).unwrap().to_string(), UUID);
        machine.write(disk, "device/vpd_pg83", b"\0\x83\xff\xff\x01");
        assert_eq!(scsi_uuid(&machine.host, disk, nobody).unwrap().to_string(), UUID);
        machine.write(disk, "device/vpd_pg83", &page_83());
        machine.write(disk, "device/vpd_pg80", b"\0\x80\0\x04lies");
        assert_eq!(scsi_uuid(&machine.host, disk, nobody).unwrap().to_string(), UUID);
        // The disk's identity is not that of a partition on it.
        let partition = machine.partition("sda", "sda1", "8:1");
        assert_eq!(scsi_uuid(&machine.host, partition, nobody), None);
    }

    #[test]
    fn an_old_virtual_disk_is_asked() {
        let machine = Machine::new();
        let disk = machine.disk("sda", "8:0");
        machine.write(disk, "device/vendor", b"VMware  \n");
        machine.write(disk, "device/model", b"Virtual disk    \n");
        let ask = |page| (page == 0x83).then(page_83);
        assert_eq!(scsi_uuid(&machine.host, disk, ask).unwrap().to_string(), UUID);
        assert_eq!(scsi_uuid(&machine.host, disk, |_| None), None);
        assert_eq!(model(&machine.host, disk).as_deref(), Some("VMware Virtual disk"));
        machine.write(disk, "device/model", b"Virtual\x1b[2J\n");
        assert_eq!(model(&machine.host, disk).as_deref(), Some(r"VMware Virtual\u{1b}[2J"));
    }
}
