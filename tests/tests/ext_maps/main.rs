//! Maps of ext2, ext3 and ext4: what is free, on clean and on dirty file systems, and on damaged ones.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clean;
mod dirty;
mod refused;
