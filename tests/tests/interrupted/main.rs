//! Stopped in the middle, by a person or by an accident: what is said of the disk is true, and the same command finishes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod job;
mod killed;
mod record;
mod signals;
