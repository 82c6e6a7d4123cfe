//! The free space of XFS: against what other programs say where it was unmounted, and by losing it where it was not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clean;
mod damage;

mod dirty;
mod fixtures;
mod oracle;
mod refused;
mod version_4;
