//! Tests of the whole program, and what they share.
#![forbid(unsafe_code)]

pub mod fuzz;
pub mod fuzz_enrolment;
pub mod fuzz_ext;
pub mod fuzz_layout;
pub mod fuzz_protocol;
pub mod fuzz_reiserfs;
pub mod fuzz_streams;
pub mod fuzz_vmdk;
pub mod fuzz_xfs;
pub mod lab;
pub mod proof;
pub mod vmdk_made;
pub mod vmdk_read;
