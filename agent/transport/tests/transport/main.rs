//! Connections of every kind, whole, broken, silent and stalled.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod common;
mod sockets;
mod stdio;
