//! The failback program.
fn main() {}
