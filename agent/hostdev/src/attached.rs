//! The whole disks that are attached to this machine, as sysfs lists them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::identity::scsi_uuid;
use crate::sys;
use crate::topology::{DevNum, Host, number_in, open_node};
use crate::vpd::ScsiUuid;

/// Kernel names of block devices that hold no disk of anybody's: memory, compressed memory, floppies, CD drives.
const NO_DISKS: [&str; 4] = ["ram", "zram", "fd", "sr"];
/// The SCSI peripheral device types that are disks (SPC-4, 6.6.2): direct access, optical memory, simplified direct access,
/// host-managed zoned.
const DISK_TYPES: [u32; 4] = [0x00, 0x07, 0x0e, 0x14];

/// A whole disk, or a loop device that is attached to something.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) device: DevNum,
    /// The kernel's name, such as `sdb`.
    pub(crate) name: String,
    pub(crate) uuid: Option<ScsiUuid>,
}

impl Host {
    /// Every whole disk, in the order in which people count: `sdz` before `sdaa`.
    ///
    /// What the kernel made of disks (device mapper, RAID, bcache) is none, nor is a path that it hides behind another. `tell` gets the path of
    /// each before it is opened.
    pub(crate) fn attached(&self, tell: &dyn Fn(&Path)) -> io::Result<Vec<Attached>> {
        let mut found = Vec::new();
        for place in self.block_entries()? {
            let Some(device) = number_in(&place)? else { continue };
            let Some(name) = self.kernel_name(device) else { continue };
            if self.is_disk(device, &name)? {
                tell(&self.dev.join(&name));
                found.push(Attached { device, uuid: self.uuid_of(device, &name), name });
            }
        }
        found.sort_by_cached_key(|it| (it.name.chars().take(2).collect::<String>(), it.name.len(), it.name.clone()));
        Ok(found)
    }

    fn is_disk(&self, device: DevNum, name: &str) -> io::Result<bool> {
        let named = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u32>().is_ok());
        let has = |attribute: &str| self.node(device).join(attribute).exists();
        // Only SCSI states a type as a number; the cards of MMC state theirs as a word.
        let kind = self.attribute(device, "device/type").and_then(|kind| kind.parse().ok());
        let no_disk = NO_DISKS.iter().any(|prefix| named(prefix))
            || named("loop") && !has("loop/backing_file")
            || has("dm/name")
            || has("md/level")
            || kind.is_some_and(|kind| !DISK_TYPES.contains(&kind))
            || self.attribute(device, "hidden").as_deref() == Some("1")
            // An nbd device that is not connected; a card reader is there without a card, too.
            || self.attribute(device, "size").as_deref() == Some("0") && !has("device");
        Ok(!no_disk && self.slaves(device)?.is_empty())
    }

    /// The SCSI UUID of an attached disk. One that keeps it from sysfs is opened for reading and asked.
    pub(crate) fn uuid_of(&self, device: DevNum, name: &str) -> Option<ScsiUuid> {
        scsi_uuid(self, device, |page| {
            let node = open_node(&self.dev.join(name), device)?;
            sys::inquire(node.as_fd(), page).ok()
        })
    }

    /// The names of the other disks that show the SCSI UUID of `disk`.
    ///
    /// Paths to one disk that multipath has put together are no others: it holds them all, so that none of them can be taken
    /// for a target.
    pub(crate) fn namesakes(&self, disk: &Attached, all: &[Attached]) -> io::Result<Vec<String>> {
        let Some(uuid) = disk.uuid else { return Ok(Vec::new()) };
        let path_of = self.multipath(disk.device)?;
        let mut found = Vec::new();
        for other in all {
            let is_other = other.device != disk.device && other.uuid == Some(uuid);
            if is_other && self.multipath(other.device)?.is_disjoint(&path_of) {
                found.push(other.name.clone());
            }
        }
        Ok(found)
    }

    /// The multipath devices that a disk is a path of.
    fn multipath(&self, disk: DevNum) -> io::Result<BTreeSet<DevNum>> {
        let is_multipath =
            |holder: &DevNum| self.attribute(*holder, "dm/uuid").is_some_and(|uuid| uuid.starts_with("mpath-"));
        Ok(self.holders(disk)?.into_iter().filter(is_multipath).collect())
    }

    /// The names that udev gives to a disk, in `/dev/disk/by-id` and `/dev/disk/by-path`, for people to recognise it by.
    pub(crate) fn names_by_udev(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        for directory in ["disk/by-id", "disk/by-path"] {
            let Ok(entries) = fs::read_dir(self.dev.join(directory)) else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                let target = fs::read_link(&path).ok();
                if let Some(name) = target.as_deref().and_then(Path::file_name) {
                    found.push((path, name.to_string_lossy().into_owned()));
                }
            }
        }
        found.sort();
        found
    }
}
