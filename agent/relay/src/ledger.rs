//! Who may take how much of the spool.

use crate::Limits;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A file takes a page at least, whatever it holds.
const PAGE: u64 = 4096;
/// Complete deltas of one pair, those that were set aside among them. Each takes some memory.
pub(crate) const DELTAS_MAX: u64 = 10_000;

/// What a file of this length counts.
pub(crate) const fn charge(len: u64) -> u64 {
    len.saturating_add(PAGE - 1) / PAGE * PAGE
}

/// Bytes of all pairs.
#[derive(Debug)]
pub(crate) struct Ledger {
    limits: Limits,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pairs: BTreeMap<String, Share>,
    next: u64,
}

/// What one pair has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Complete deltas that wait for the target, and those that were set aside.
    pub(crate) waiting: u64,
    pub(crate) aside: u64,
    /// How many deltas those are.
    pub(crate) waiting_deltas: u64,
    pub(crate) aside_deltas: u64,
    /// What has come of the delta that arrives.
    pub(crate) arriving: u64,
    /// Its turn: the lowest number may take the last of the space. `None` if no source is sending.
    turn: Option<u64>,
}

impl Share {
    const fn total(&self) -> u64 {
        self.waiting.saturating_add(self.aside).saturating_add(self.arriving)
    }
}

/// A delta is longer than the relay ever keeps for one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Ledger {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(crate) const fn limits(&self) -> Limits {
        self.limits
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pair has.
    pub(crate) fn share(&self, pair: &str) -> Share {
        self.lock().pairs.get(pair).copied().unwrap_or_default()
    }

    /// What all pairs have.
    pub(crate) fn total(&self) -> u64 {
        self.lock().total()
    }

    /// Changes what a pair has.
    pub(crate) fn change(&self, pair: &str, change: impl FnOnce(&mut Share)) {
        let mut state = self.lock();
        change(state.pairs.entry(pair.to_owned()).or_default());
        drop(state);
        self.changed.notify_all();
    }

    /// No source is sending for this pair any more. What has arrived stays.
    pub(crate) fn source_left(&self, pair: &str, arrived: u64) {
        self.change(pair, |share| (share.turn, share.arriving) = (None, arrived));
    }

    /// Whether the delta of this pair that arrives, of which `here` bytes are here, may grow by `more`; waits for that for at most
    /// `patience`.
    ///
    /// Of the deltas that arrive at the same time the one that began first may take everything. The others leave as much as one
    /// pair may have. So one of them can always be completed, and sent on, and then there is room again: without this, several
    /// could fill the spool so that none is ever complete.
    pub(crate) fn reserve(&self, pair: &str, here: u64, more: u64, patience: Duration) -> Result<bool, TooLong> {
        let wanted = here.saturating_add(more);
        if wanted > self.limits.pair {
            return Err(TooLong);
        }
        let until = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            let next = state.next;
            let share = state.pairs.entry(pair.to_owned()).or_default();
            share.arriving = here;
            let is_new = share.turn.is_none();
            let turn = *share.turn.get_or_insert(next);
            let share = *share;
            state.next += u64::from(is_new);
            let kept = share.waiting.saturating_add(share.aside);
            let fits_pair = kept.saturating_add(wanted) <= self.limits.pair
                && share.waiting_deltas + share.aside_deltas < DELTAS_MAX;
            let is_first = state.pairs.values().filter_map(|share| share.turn).min() == Some(turn);
            let most = if is_first { self.limits.total } else { self.limits.total - self.limits.pair };
            if fits_pair && state.total().saturating_add(more) <= most {
                state.pairs.entry(pair.to_owned()).or_default().arriving = wanted;
                return Ok(true);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn total(&self) -> u64 {
        self.pairs.values().fold(0, |sum, share| sum.saturating_add(share.total()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn ledger(total: u64, pair: u64) -> Ledger {
        Ledger::new(Limits { total, pair })
    }

    #[test]
    fn the_first_that_arrives_can_always_be_completed() {
        let ledger = ledger(100, 40);
        assert_eq!(ledger.reserve("a", 0, 10, NOW), Ok(true));
        // Others leave 40.
        assert_eq!(ledger.reserve("b", 0, 40, NOW), Ok(true));
        assert_eq!(ledger.reserve("c", 0, 11, NOW), Ok(false));
        assert_eq!(ledger.reserve("c", 0, 10, NOW), Ok(true));
        assert_eq!(ledger.reserve("c", 10, 1, NOW), Ok(false));
        assert_eq!(ledger.reserve("a", 10, 30, NOW), Ok(true));
        assert_eq!(ledger.total(), 90);
        // It is complete, and the next one has its turn.
        ledger.change("a", |share| (share.waiting, share.arriving, share.turn) = (40, 0, None));
        assert_eq!(ledger.reserve("c", 10, 1, NOW), Ok(false));
        assert_eq!(ledger.reserve("b", 40, 1, NOW), Err(TooLong));
        ledger.source_left("b", 40);
        assert_eq!(ledger.reserve("c", 10, 10, NOW), Ok(true));
        assert_eq!(ledger.reserve("c", 20, 1, NOW), Ok(false), "full");
        ledger.change("a", |share| share.waiting = 0);
        assert_eq!(ledger.reserve("c", 20, 20, NOW), Ok(true));
    }

    #[test]
    fn a_pair_has_no_more_than_its_own_limit() {
        let ledger = ledger(1000, 40);
        ledger.change("a", |share| share.waiting = 30);
        assert_eq!(ledger.reserve("a", 0, 11, NOW), Ok(false));
        assert_eq!(ledger.reserve("a", 0, 10, NOW), Ok(true));
        assert_eq!(ledger.reserve("a", 0, 41, NOW), Err(TooLong));
        ledger.change("a", |share| (share.waiting, share.aside) = (0, 30));
        assert_eq!(ledger.reserve("a", 10, 1, NOW), Ok(false));
        ledger.change("b", |share| (share.waiting_deltas, share.aside_deltas) = (DELTAS_MAX - 1, 1));
        assert_eq!(ledger.reserve("b", 0, 1, NOW), Ok(false));
    }

    #[test]
    fn who_waits_is_woken() {
        let ledger = ledger(40, 40);
        ledger.change("a", |share| share.waiting = 40);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| ledger.reserve("b", 0, 1, Duration::from_secs(60)));
            std::thread::sleep(Duration::from_millis(20));
            ledger.change("a", |share| share.waiting = 0);
            assert_eq!(waits.join().unwrap(), Ok(true));
        });
        assert_eq!((charge(0), charge(1), charge(4096), charge(4097)), (0, 4096, 4096, 8192));
    }
}
