//! Recovery points, by the real program: used, served, misused, interrupted and killed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damage;
mod exporting;
mod full;
mod fuzzy;
mod journey;
mod killed;
mod others;
mod pruning;
mod serving;
mod signals;
mod world;
mod wrong_place;
