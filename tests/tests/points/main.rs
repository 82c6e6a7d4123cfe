//! Recovery points, by the real program: used, served, misused, interrupted and killed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod exporting;
mod fuzzy;
mod journey;
mod misuse;
mod pruning;
mod serving;
mod world;
