//! The appliance's custom changes: nothing but the agent touches a disk of others.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod disks;
mod fake_root;
mod guest;
mod odd_root;
