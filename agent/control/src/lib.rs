//! The control plane of a master target: what it knows beside its disks.
//!
//! - [`state`] keeps which disks belong together, who may send to them, and what was done, in one file that is backed up and
//!   moved to another machine as a whole. `STATE.md` beside this crate describes the file table by table.
//!
//! What is on a disk, and which recovery points it has, stands beside the disks and nowhere here: a copy of it could only be wrong.
#![forbid(unsafe_code)]

pub mod state;
