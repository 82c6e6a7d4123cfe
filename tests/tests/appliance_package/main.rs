//! The packages: how they are built, what is in them, and that they work where they are installed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod building;
mod deb;
mod network;
mod pages;
mod rpm;
mod tree;
mod units;
