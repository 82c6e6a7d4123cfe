//! Connections of every kind, whole, broken, silent and stalled.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod commands;
mod common;
mod enrolment;
mod hostile;
mod machine;
mod network;
mod runtime;
mod sockets;
mod stdio;
mod stopping;
mod streams;
