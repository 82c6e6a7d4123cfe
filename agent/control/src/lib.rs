//! The control plane of a master target: what it knows beside its disks, and what it does with them for those who call.
//!
//! - [`state`] keeps which disks belong together, who may send to them, and what was done, in one file that is backed up and
//!   moved to another machine as a whole. `STATE.md` beside this crate describes the file table by table.
//! - [`api`] is what can be asked and changed, as JSON.
//! - [`MasterTarget`] serves sessions: it finds the disk of a pair, claims it, and has what arrives applied with a recovery point.
//!
//! What is on a disk, and which recovery points it has, stands beside the disks and nowhere here: a copy of it could only be wrong.
#![forbid(unsafe_code)]

pub mod api;
mod master;
pub mod state;

pub use master::{Caller, LiveJob, MasterTarget, Settings, describe_target, hook_failed, open_hooks, target_of};
