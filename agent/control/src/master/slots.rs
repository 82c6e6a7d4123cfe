//! One session for each pair: a source that connects again takes the place of the connection that it had before.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often whoever waits looks whether all is to end.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) type Breaker = Arc<dyn Fn() + Send + Sync>;

/// Which pairs have a session, and what breaks its connection.
#[derive(Default)]
pub(super) struct Slots {
    taken: Mutex<BTreeMap<String, Breaker>>,
    freed: Condvar,
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().keys()).finish()
    }
}

/// The right to a pair, until it goes.
pub(super) struct Slot {
    slots: Arc<Slots>,
    pair: String,
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Breaker>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pair. Who has it loses its connection, and is waited for: it may be writing the disk. `None` if all is to end before.
    pub(super) fn take(self: &Arc<Self>, pair: &str, breaker: &Breaker, stop: &AtomicBool) -> Option<Slot> {
        let mut taken = self.lock();
        loop {
            if stop.load(Ordering::Acquire) {
                return None;
            }
            let Some(earlier) = taken.get(pair) else { break };
            earlier();
            taken = self.freed.wait_timeout(taken, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        taken.insert(pair.to_owned(), Arc::clone(breaker));
        Some(Slot { slots: Arc::clone(self), pair: pair.to_owned() })
    }

    /// Takes a pair that nobody has.
    pub(super) fn take_if_free(self: &Arc<Self>, pair: &str) -> Option<Slot> {
        let mut taken = self.lock();
        if taken.contains_key(pair) {
            return None;
        }
        taken.insert(pair.to_owned(), Arc::new(|| ()));
        Some(Slot { slots: Arc::clone(self), pair: pair.to_owned() })
    }

    /// Breaks all connections.
    pub(super) fn break_all(&self) {
        self.lock().values().for_each(|breaker| breaker());
        self.freed.notify_all();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().remove(&self.pair);
        self.slots.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    #[test]
    fn the_later_one_breaks_the_earlier_one_and_waits_for_it() {
        let (slots, stop, broken) = (Arc::<Slots>::default(), AtomicBool::new(false), Arc::new(AtomicUsize::new(0)));
        let breaker = |count: &Arc<AtomicUsize>| -> Breaker {
            let count = Arc::clone(count);
            Arc::new(move || _ = count.fetch_add(1, Ordering::AcqRel))
        };
        let first = slots.take("a", &breaker(&broken), &stop).unwrap();
        let other = slots.take("b", &breaker(&Arc::default()), &stop).unwrap();
        assert_eq!(format!("{slots:?}"), "[\"a\", \"b\"]");
        thread::scope(|scope| {
            let second = scope.spawn(|| slots.take("a", &breaker(&Arc::default()), &stop).is_some());
            while broken.load(Ordering::Acquire) == 0 {
                thread::yield_now();
            }
            assert!(!second.is_finished(), "it waits until the earlier one has ended");
            drop(first);
            assert!(second.join().unwrap());
        });
        assert_eq!(format!("{slots:?}"), "[\"b\"]", "it went with who had it");
        assert!(slots.take_if_free("b").is_none());
        drop(other);
        drop(slots.take_if_free("b").unwrap());
        let held = slots.take("a", &breaker(&broken), &stop).unwrap();
        stop.store(true, Ordering::Release);
        assert!(slots.take("a", &breaker(&broken), &stop).is_none(), "nobody waits for what is to end");
        drop(held);
    }
}
