//! What is on a disk: real tables, volume groups and file systems, made by their own tools, whole and damaged.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod disk;
mod groups;
mod signatures;
mod tables;
mod verb;
