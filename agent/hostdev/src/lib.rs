//! Linux disks: what is at a path, who uses it, which disk it is, and claiming it for writing.
//!
//! - [`Source`] opens a disk or image for reading and tells who could write to it meanwhile.
//! - [`Candidate`] opens a target disk for reading, so that it can be seen which one it is.
//! - [`Claim`] opens it for writing, exclusively, or says in one sentence why not and what to do.
//! - [`look`] tells the same beforehand, without claiming.
//! - [`inventory`] looks at every attached disk.
//!
//! # Rules
//!
//! Nothing is ever created: a path that names nothing stays so. What is opened is compared with what was looked at, by
//! device and inode number, and every statement about a disk is read from its opened descriptor. Disks are recognised by
//! number, never by name; names are for people. When procfs or sysfs cannot be read, the answer is an error, not "unused".
//!
//! A loop device is used by everybody who uses what it is attached to: the kernel keeps nobody away from that.
//!
//! A disk whose SCSI UUID another attached disk shows too is no target, and neither is the other. Two paths to one disk show one
//! UUID by right: while multipath has them, they are refused because it holds them; while it has not, they are two disks that
//! nobody can tell apart.

mod attached;
mod candidate;
mod claim;
mod enable_uuid;
mod guard;
mod identity;
mod inventory;
mod lookout;
mod mounted;
mod open;
mod own_disks;
mod plain_file;
mod proctext;
mod source;
#[cfg(test)]
mod synthetic;
mod sys;
mod topology;
mod transport;
mod uses;
mod vpd;
mod writable;

pub use candidate::Candidate;
pub use claim::{Claim, ClaimError, look};
pub use enable_uuid::UuidProblem;
pub use identity::{DiskIdentity, DiskName, Medium};
pub use inventory::{AttachedDisk, disks_with_uuid, inventory, inventory_of};
pub use mounted::MountedAt;
pub use open::SourceError;
pub use plain_file::{Links, read_plain_file};
pub use source::{ChangeMark, Source};
pub use sys::clock_is_synchronised;
pub use topology::Host;
pub use transport::{ScsiAddress, Transport};
pub use uses::{Use, plain};
pub use vpd::{ScsiUuid, ScsiUuidError};
pub use writable::{protect_claimed_disks, protect_on_panic};
