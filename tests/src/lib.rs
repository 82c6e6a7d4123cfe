//! Tests of the whole program.

pub mod lab;
