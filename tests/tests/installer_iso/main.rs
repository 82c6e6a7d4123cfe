//! The ISOs that install an appliance: a CentOS ISO with our kickstart and packages in it, and the seed beside one. CentOS's own ISOs
//! cannot be had here, so the tests make ISOs of the same layouts, with another kernel.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod boots;
mod centos;
mod isos;
mod made;
mod refused;
mod seed;
