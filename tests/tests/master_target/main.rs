//! The master target through the program: daemon, tokens, pairs, and sources that send over TLS, through a command, and at Unix sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod api;
mod clocks;
mod drives;
mod faults;
mod groups;
mod hooks;
mod kills;
mod many;
mod moves;
mod partitions;
mod receives;
mod relays;
mod site;
mod whole;
