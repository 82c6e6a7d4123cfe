//! Whether every data disk shows the UUID that VMware gave it, so that no disk can be taken for another.

use std::fmt;

use crate::inventory::AttachedDisk;
use crate::transport::Transport;
use crate::vpd::ScsiUuid;

/// Why a disk cannot be told from others by its SCSI UUID. Its `Display` completes a sentence that begins with the disk's name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UuidProblem {
    /// It is a SCSI disk that shows none: the VM lacks `disk.EnableUUID`.
    Missing,
    /// It is attached to something else than a SCSI controller.
    NotScsi {
        /// To what.
        transport: String,
    },
    /// It shows one that is not VMware's.
    Foreign {
        /// What it shows.
        uuid: ScsiUuid,
    },
    /// Others show the same.
    Duplicate {
        /// What they show.
        uuid: ScsiUuid,
        /// The kernel names of the others.
        others: Vec<String>,
    },
}

impl UuidProblem {
    /// A word for scripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NotScsi { .. } => "not-scsi",
            Self::Foreign { .. } => "foreign",
            Self::Duplicate { .. } => "duplicate",
        }
    }
}

impl fmt::Display for UuidProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("shows no SCSI UUID: set disk.EnableUUID = TRUE on this VM"),
            Self::NotScsi { transport } => write!(
                f,
                "is attached by {transport}, where VMware shows no SCSI UUID: attach it to a VMware Paravirtual SCSI controller"
            ),
            Self::Foreign { uuid } => {
                write!(
                    f,
                    "shows {uuid}, which is no UUID of VMware's (6000c29...): attach a VMDK, not another kind of disk"
                )
            }
            Self::Duplicate { uuid, others } => write!(
                f,
                "shows the same SCSI UUID ({uuid}) as {}: detach all but one of them, or give the copy of a VMDK a UUID of its \
                 own (on the ESXi host, VM powered off: `vmkfstools -J setuuid DISK.vmdk`)",
                others.join(" and ")
            ),
        }
    }
}

impl AttachedDisk {
    /// Whether it may be a disk that came to be written: neither the machine's own nor a loop device.
    #[must_use]
    pub fn is_data(&self) -> bool {
        !self.is_system() && self.own.is_none() && self.transport != Transport::Loop
    }

    /// What keeps it from being known by its SCSI UUID on a master target; `None` for disks that hold no data of others.
    #[must_use]
    pub fn uuid_problem(&self) -> Option<UuidProblem> {
        match self.scsi_uuid {
            _ if !self.is_data() => None,
            Some(uuid) if !self.same_uuid.is_empty() => {
                Some(UuidProblem::Duplicate { uuid, others: self.same_uuid.clone() })
            }
            Some(uuid) if !uuid.is_vmware() => Some(UuidProblem::Foreign { uuid }),
            Some(_) => None,
            None if matches!(self.transport, Transport::Scsi { .. }) => Some(UuidProblem::Missing),
            None => Some(UuidProblem::NotScsi { transport: self.transport.name() }),
        }
    }
}
