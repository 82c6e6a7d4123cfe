//! Disks in memory that lose power, tear writes, fail and reorder, all from one seed.
//!
//! A [`World`] holds several [`SimDisk`]s and one order of everything that is done on them, since what matters after a
//! power loss is the order *across* disks: was the undo record durable before the target was written? Every write, zero
//! and flush is a numbered mutation; [`World::crash_after`] cuts the power at one of them, and [`World::reboot`] shows
//! what the disks then hold.
//!
//! # The model of a disk
//!
//! - What reads return is the content with every completed operation, flushed or not.
//! - A flush makes durable the operations that were completed when it was submitted, and no other.
//! - After a power loss, every operation that was not flushed, and every one that was in flight, may be there wholly, not
//!   at all, or in any subset of its 512-byte sectors. An overwritten sector may come back in any of its unflushed
//!   versions.
//! - A failed write may have changed any of its sectors.
//! - A failed flush leaves each unflushed sector either durable or lost for good, though it is still read from the cache
//!   until [`SimDisk::drop_caches`] or a power loss; a later flush does not bring it back. That is what Linux does after
//!   a failed write-back.
//! - A size that was changed and not flushed may come back as the old or the new one after a power loss; what then lies
//!   behind the end is gone.
//! - Operations of a queue are carried out in random order, and may be cut into short transfers and interrupted.
//!
//! Everything random comes from the seed: the same program on the same seed sees the same world.

mod content;
mod disk;
mod random;
mod state;
mod store;
mod wrappers;

pub use disk::SimDisk;
pub use state::{Event, EventKind, FaultOn, Snapshot};
pub use wrappers::{DropFlushes, ReadsFrom};

use crate::IoError;
use failback_units::ByteCount;
use state::State;
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The errno with which every operation fails while the power is off: "cannot send after transport endpoint shutdown",
/// which no real disk answers.
pub const POWER_LOSS: i32 = libc::ESHUTDOWN;

/// Whether an error is that of a simulated power loss.
#[must_use]
pub fn is_power_loss(error: &IoError) -> bool {
    error.source.raw_os_error() == Some(POWER_LOSS)
}

/// Several simulated disks with one power supply. Clones are the same world.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
}

impl World {
    /// A world without disks, in which all chance comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(seed))) }
    }

    /// Adds a disk of zeroes. Only what is written takes memory, so `size` may be terabytes.
    ///
    /// # Panics
    ///
    /// If `logical_block` is not 512 or 4096.
    #[must_use]
    pub fn disk(&self, name: &str, size: ByteCount, logical_block: u32) -> SimDisk {
        assert!(matches!(logical_block, 512 | 4096), "a logical block is 512 or 4096 bytes, not {logical_block}");
        let name: Arc<str> = Arc::from(name);
        let index = self.state().add_disk(&name, size.get());
        SimDisk::new(self.clone(), index, name, logical_block)
    }

    /// Starts the chain of chance anew, for example to see another outcome of the same crash.
    pub fn reseed(&self, seed: u64) {
        self.state().reseed(seed);
    }

    /// Cuts the power at the `n`-th mutation (write, zero, flush or new size, on any disk) from now on: that one is in flight when
    /// it happens and fails, and so does everything later, reads included.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    pub fn crash_after(&self, n: u64) {
        assert!(n > 0, "the next mutation is number 1");
        self.state().crash_after(n);
    }

    /// Makes the `n`-th operation of a kind from now on, on any disk, fail with `errno`, and no other. Only the last call counts.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    pub fn fail_after(&self, n: u64, on: FaultOn, errno: i32) {
        assert!(n > 0, "the next operation is number 1");
        self.state().fail_after(n, on, errno);
    }

    /// Cuts the power now, with whatever is in flight.
    pub fn crash_now(&self) {
        self.state().cut_power();
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_down(&self) -> bool {
        !self.state().is_powered()
    }

    /// Returns to service after a power loss, with what happened to survive it: see the model above. Without a power loss
    /// before, it is one now. Injected faults stay.
    pub fn reboot(&self) {
        self.state().reboot();
    }

    /// How many mutations were attempted so far, except while the power was off.
    #[must_use]
    pub fn mutations(&self) -> u64 {
        self.state().mutations()
    }

    /// Everything that was done, in order, since the world began or [`clear_trace`](World::clear_trace).
    #[must_use]
    pub fn trace(&self) -> Vec<Event> {
        self.state().trace().to_vec()
    }

    /// Forgets what was done.
    pub fn clear_trace(&self) {
        self.state().clear_trace();
    }

    /// Whether reads appear in the trace too; at first they do not.
    pub fn trace_reads(&self, traced: bool) {
        self.state().trace_reads(traced);
    }

    /// Remembers everything: disks, faults, trace and the state of chance. Cheap, since pages are shared until written.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.state().snapshot()
    }

    /// Goes back to a snapshot of this world. Disks added since then must not be used any more. What is in flight on a
    /// queue fails as after a power loss.
    pub fn restore(&self, snapshot: &Snapshot) {
        self.state().restore(snapshot);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held the lock has failed already; its disks may still be looked at.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        write!(f, "World({} mutations, {})", state.mutations(), if state.is_powered() { "up" } else { "down" })
    }
}
