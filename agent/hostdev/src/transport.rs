//! How a disk is attached: over which bus, through which driver, at which address.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use crate::topology::{DevNum, Host};
use crate::uses::plain;

/// How a disk is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// A SCSI host, and the name by which its driver goes: `vmw_pvscsi`, `mptspi` (LSI Logic), `mptsas`, `virtio_scsi`.
    Scsi {
        /// The driver's name; empty if the kernel does not tell.
        driver: String,
    },
    /// SATA or IDE.
    Ata,
    /// USB.
    Usb,
    /// `NVMe`.
    Nvme,
    /// A virtio block device.
    Virtio,
    /// A loop device over a file or another device.
    Loop,
    /// Another bus, by the name of its subsystem in the kernel.
    Other(String),
}

impl Transport {
    /// Its name in one word: the driver of a SCSI host, else the bus.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Scsi { driver } if driver.is_empty() => "scsi".into(),
            Self::Scsi { driver: name } | Self::Other(name) => plain(name),
            Self::Ata => "ata".into(),
            Self::Usb => "usb".into(),
            Self::Nvme => "nvme".into(),
            Self::Virtio => "virtio".into(),
            Self::Loop => "loop".into(),
        }
    }
}

/// The address of a SCSI disk: host, channel, target and unit, as in `2:0:3:0`.
///
/// A VM's settings call the third disk of its second controller `SCSI (1:2)`: the last number is the target here. The host
/// is counted by Linux, in the order in which it finds controllers, and need not be the controller's number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScsiAddress {
    /// The SCSI host, counted by Linux.
    pub host: u32,
    /// The channel of the host.
    pub channel: u32,
    /// The target on the channel.
    pub target: u32,
    /// The logical unit of the target.
    pub unit: u64,
}

impl FromStr for ScsiAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut fields = text.split(':');
        let mut next = || fields.next().ok_or(());
        let number = |text: &str| text.parse().map_err(|_| ());
        let found = Self {
            host: number(next()?)?,
            channel: number(next()?)?,
            target: number(next()?)?,
            unit: next()?.parse().map_err(|_| ())?,
        };
        if fields.next().is_none() { Ok(found) } else { Err(()) }
    }
}

impl fmt::Display for ScsiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.host, self.channel, self.target, self.unit)
    }
}

impl Host {
    /// The SCSI address of a disk, if it has one.
    pub(crate) fn scsi_address(&self, disk: DevNum) -> Option<ScsiAddress> {
        fs::canonicalize(self.node(disk).join("device")).ok()?.file_name()?.to_str()?.parse().ok()
    }

    /// How a disk is attached.
    pub(crate) fn transport(&self, disk: DevNum) -> Transport {
        if self.node(disk).join("loop").exists() {
            return Transport::Loop;
        }
        let place = fs::canonicalize(self.node(disk)).unwrap_or_default();
        let passes = |prefix: &str| place.iter().filter_map(|part| part.to_str()).any(|part| is_numbered(part, prefix));
        if let Some(address) = self.scsi_address(disk) {
            let driver = self.sys.join(format!("class/scsi_host/host{}/proc_name", address.host));
            let driver = fs::read_to_string(driver).unwrap_or_default().trim().to_owned();
            return match driver.as_str() {
                _ if passes("usb") => Transport::Usb,
                _ if passes("ata") => Transport::Ata,
                // What a driver states that has no name for itself.
                "<NULL>" | "(null)" => Transport::Scsi { driver: String::new() },
                _ => Transport::Scsi { driver },
            };
        }
        let subsystem = fs::canonicalize(self.node(disk).join("device/subsystem")).ok();
        match subsystem.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()) {
            Some("nvme" | "nvme-subsystem") => Transport::Nvme,
            Some("virtio") => Transport::Virtio,
            Some(name) => Transport::Other(name.to_owned()),
            None => Transport::Other("unknown".into()),
        }
    }
}

/// Whether a name is a word with a number behind it, such as `ata3`.
fn is_numbered(name: &str, word: &str) -> bool {
    name.strip_prefix(word).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let address = ScsiAddress { host: 2, channel: 0, target: 3, unit: 17 };
        assert_eq!("2:0:3:17".parse(), Ok(address));
        assert_eq!(address.to_string(), "2:0:3:17");
        for wrong in ["", "2:0:3", "2:0:3:1:0", "2:0:3:x", "nvme0", "-1:0:0:0"] {
            assert_eq!(wrong.parse::<ScsiAddress>(), Err(()), "{wrong}");
        }
    }
}
