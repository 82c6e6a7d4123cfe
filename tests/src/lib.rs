//! Tests of the whole program, and what they share.
#![forbid(unsafe_code)]

pub mod fuzz;
pub mod fuzz_streams;
pub mod fuzz_vmdk;
pub mod lab;
pub mod vmdk_made;
pub mod vmdk_read;
