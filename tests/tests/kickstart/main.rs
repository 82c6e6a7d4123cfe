//! The kickstart of the appliance: a valid one for each release, which destroys no disk but the one that is named. Its scripts run here
//! as they are, in a prepared root with disks that are files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod network;
mod post;
mod prepared;
mod refused;
mod retention;
mod syntax;
mod system;
