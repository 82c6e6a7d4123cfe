//! Work that is done on several threads and comes back in the order in which it was handed out.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Scope};

/// How many threads a job uses for hashing and compressing: one for each processor, at most 8, since disks bind before.
///
/// Found out once: to ask means to read files of the control group, and frames are handed out by this number.
pub(crate) fn worker_count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| thread::available_parallelism().map_or(2, NonZero::get).clamp(1, 8))
}

/// Threads that turn items of type `I` into results of type `O`.
///
/// The caller bounds what is under way by taking out results: every item handed in occupies memory until then.
pub(crate) struct Ordered<I, O> {
    items: Sender<(u64, I)>,
    results: Receiver<(u64, O)>,
    waiting: BTreeMap<u64, O>,
    pushed: u64,
    popped: u64,
}

impl<I: Send, O: Send> Ordered<I, O> {
    /// Starts `threads` threads; each makes its own worker function with `make`. They end when this is dropped.
    pub(crate) fn start<'scope, W>(
        scope: &'scope Scope<'scope, '_>,
        threads: usize,
        make: impl Fn() -> W + Send + Clone + 'scope,
    ) -> Self
    where
        W: FnMut(I) -> O,
        I: 'scope,
        O: 'scope,
    {
        let (items, receive_item) = channel::<(u64, I)>();
        let (send_result, results) = channel();
        let receive_item = Arc::new(Mutex::new(receive_item));
        for _ in 0..threads.max(1) {
            let (receive_item, send_result, make) = (Arc::clone(&receive_item), send_result.clone(), make.clone());
            scope.spawn(move || {
                let mut work = make();
                loop {
                    let item = receive_item.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((number, item)) = item else { return };
                    if send_result.send((number, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        Self { items, results, waiting: BTreeMap::new(), pushed: 0, popped: 0 }
    }

    /// How many items were handed in whose results were not taken out.
    pub(crate) const fn under_way(&self) -> u64 {
        self.pushed - self.popped
    }

    /// Hands in an item.
    pub(crate) fn push(&mut self, item: I) {
        self.items.send((self.pushed, item)).expect("the threads live as long as this");
        self.pushed += 1;
    }

    /// Waits for the oldest result; `None` when nothing is under way.
    pub(crate) fn pop(&mut self) -> Option<O> {
        if self.under_way() == 0 {
            return None;
        }
        let number = self.popped;
        self.popped += 1;
        loop {
            if let Some(result) = self.waiting.remove(&number) {
                return Some(result);
            }
            let (number, result) = self.results.recv().expect("the threads live as long as this");
            self.waiting.insert(number, result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        thread::scope(|scope| {
            let mut ordered = Ordered::start(scope, 3, || {
                |item: u64| {
                    thread::sleep(std::time::Duration::from_micros((item * 7919) % 300));
                    item * 2
                }
            });
            let mut results = Vec::new();
            for item in 0..200 {
                ordered.push(item);
                if ordered.under_way() > 10 {
                    results.extend(ordered.pop());
                }
            }
            results.extend(std::iter::from_fn(|| ordered.pop()));
            assert_eq!(results, (0..200).map(|item| item * 2).collect::<Vec<_>>());
        });
    }
}
