//! The protocol, byte for byte, by a client that knows nothing of the server's code.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod faults;
mod handshake;
mod hostile;
mod reading;
mod server;
mod writing;
