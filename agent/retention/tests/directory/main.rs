//! One suite for both kinds of directory, and what only one of them can show: a real one its locks, a simulated one what a
//! power loss leaves.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod power_loss;
mod real;
mod suite;

use failback_blockio::sim::World;
use failback_retention::{FsDirectory, sim::SimDirectory};

#[test]
fn a_real_directory_does_what_it_should() {
    for check in suite::ALL {
        let place = tempfile::tempdir().unwrap();
        check(&FsDirectory::open(place.path()).unwrap());
    }
}

#[test]
fn a_simulated_directory_does_what_it_should() {
    for check in suite::ALL {
        check(&SimDirectory::new(&World::new(1), "retention", 64));
    }
}
