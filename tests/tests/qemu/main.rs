//! The live ISO: what it is made of, and that a machine which boots it is a master target that does its job.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arguments;
mod cables;
mod home;
mod image;
mod interrupted;
mod iso;
mod joined;
mod kernels;
mod machine;
mod originals;
mod refusals;
mod remote;
mod retention;
mod sent;
mod terminals;
