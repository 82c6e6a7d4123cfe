//! Disks in files: VMDK in all its forms.
//!
//! A VMDK is a descriptor and extents. Each extent is a file in one of several formats; [`extent::Extent`] is what they
//! have in common: where each grain is, if it is anywhere. The disk above joins the extents, asks the parent where an
//! extent holds nothing, and is a [`failback_blockio::Device`].
//!
//! Everything that is read here may be hostile, and is read by root: no `unsafe`, checked arithmetic, bounded loops and
//! memory, and no file is opened because a descriptor names it but through [`Files`], which the caller controls.
#![forbid(unsafe_code)]

mod check;
pub mod cowd;
pub mod create;
pub mod descriptor;
mod disk;
pub mod extent;
mod files;
mod findings;
mod grains;
pub mod layout;
pub mod sesparse;
mod source;
mod sparse;
pub mod stream;

pub use check::{CheckReport, check};
pub use disk::{Damage, Disk, DiskFacts, ExtentFacts, OpenError, is_vmdk, may_be_written, open, owner_of};
pub use files::{Access, Files};
pub use findings::{Finding, Findings, Severity};
