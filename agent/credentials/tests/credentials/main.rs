//! Machines in memory that meet, are enrolled, and are refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod enrolment;
mod keys;
mod machine;
mod refusals;
mod store;
mod tls;
