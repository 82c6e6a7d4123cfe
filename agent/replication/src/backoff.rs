//! How long to wait before the next attempt to connect.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

/// Waits that grow twofold, each cut by a random part of itself, so that many sources do not come back at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The longest first wait.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// How many attempts may fail one after the other before it is given up. A connection that moved the pass on begins the
    /// count anew, and the time.
    pub attempts: u32,
    /// How long attempts may go on failing before it is given up.
    pub patience: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(60), attempts: 20, patience: Duration::MAX }
    }
}

impl Backoff {
    /// How long to wait after `failed` attempts in a row have failed, 1 or more: between half of the longest wait for that number
    /// and all of it.
    #[must_use]
    pub fn wait(&self, failed: u32) -> Duration {
        let grown = self.first.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1)));
        let longest = grown.min(self.longest);
        let random = RandomState::new().hash_one(failed) % 1024;
        longest / 2 + (longest / 2).mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        let backoff = Backoff::default();
        for (failed, longest) in [(1, 1), (2, 2), (5, 16), (7, 60), (40, 60), (u32::MAX, 60)] {
            let waits: Vec<_> = (0..50).map(|_| backoff.wait(failed)).collect();
            let longest = Duration::from_secs(longest);
            assert!(waits.iter().all(|wait| (longest / 2..=longest).contains(wait)), "{waits:?}");
            assert!(waits.iter().any(|wait| *wait != waits[0]));
        }
    }
}
