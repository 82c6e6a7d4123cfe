//! Which connections there are, how many more there may be, and how each is broken off.

use super::{Bounds, Full};
use failback_credentials::Fingerprint;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type Breaker = Arc<dyn Fn() + Send + Sync>;

/// How often it is told that there are too many.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Who a connection belongs to, as far as that is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Nobody has shown a key yet; from this address, or this /64.
    Stranger(IpAddr),
    Peer(Fingerprint),
    Local,
}

struct Entry {
    whose: Whose,
    breaker: Option<Breaker>,
    /// Whether it was broken off before there was a breaker.
    broken: bool,
}

#[derive(Default)]
struct Open {
    next: u64,
    entries: HashMap<u64, Entry>,
    stopping: bool,
    told: Option<Instant>,
}

impl Open {
    fn count(&self, whose: impl Fn(&Whose) -> bool) -> usize {
        self.entries.values().filter(|entry| whose(&entry.whose)).count()
    }

    fn add(&mut self, whose: Whose) -> u64 {
        let id = self.next;
        self.next += 1;
        self.entries.insert(id, Entry { whose, breaker: None, broken: false });
        id
    }
}

/// All connections of a server.
pub(super) struct Registry {
    bounds: Bounds,
    open: Mutex<Open>,
    fewer: Condvar,
}

/// A connection's place; it is free again when this goes.
pub(super) struct Ticket {
    registry: Arc<Registry>,
    id: u64,
}

impl Registry {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, open: Mutex::default(), fewer: Condvar::new() }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for somebody who has not shown a key yet. Strangers never take the places of peers.
    pub(super) fn stranger(self: &Arc<Self>, from: IpAddr) -> Result<Ticket, Full> {
        let Bounds { strangers, strangers_of_one, .. } = self.bounds;
        let mut open = self.open();
        if open.stopping {
            return Err(Full::Stopping);
        }
        if open.count(|whose| *whose == Whose::Stranger(from)) >= strangers_of_one {
            return Err(Full::StrangersOfOne(strangers_of_one));
        }
        if open.count(|whose| matches!(whose, Whose::Stranger(_))) >= strangers {
            return Err(Full::Strangers(strangers));
        }
        let id = open.add(Whose::Stranger(from));
        Ok(Ticket { registry: Arc::clone(self), id })
    }

    /// A place for a process of this machine.
    pub(super) fn local(self: &Arc<Self>) -> Result<Ticket, Full> {
        let mut open = self.open();
        if open.stopping {
            return Err(Full::Stopping);
        }
        if open.count(|whose| *whose == Whose::Local) >= self.bounds.local {
            return Err(Full::Local(self.bounds.local));
        }
        let id = open.add(Whose::Local);
        Ok(Ticket { registry: Arc::clone(self), id })
    }

    /// Whether it is to be told again that there are too many.
    pub(super) fn tells_of_full(&self) -> bool {
        let mut open = self.open();
        let tells = open.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY);
        if tells {
            open.told = Some(Instant::now());
        }
        tells
    }

    pub(super) fn count(&self) -> usize {
        self.open().entries.len()
    }

    /// From now on there is no place for anybody.
    pub(super) fn stop(&self) {
        self.open().stopping = true;
    }

    /// Breaks off the connections of a peer, or all; says how many.
    pub(super) fn break_off(&self, peer: Option<&Fingerprint>) -> usize {
        let mut breakers = Vec::new();
        let mut count = 0;
        let mut open = self.open();
        for entry in open.entries.values_mut() {
            if peer.is_none_or(|peer| entry.whose == Whose::Peer(*peer)) {
                count += 1;
                entry.broken = true;
                breakers.extend(entry.breaker.clone());
            }
        }
        drop(open);
        for breaker in breakers {
            breaker();
        }
        count
    }

    /// Waits until no connection is left; says how many are after the time.
    pub(super) fn wait_until_empty(&self, within: Duration) -> usize {
        let waited = self.fewer.wait_timeout_while(self.open(), within, |open| !open.entries.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.entries.len()
    }
}

impl Ticket {
    /// A stranger has shown a peer's key, and takes a place among peers.
    pub(super) fn becomes(&self, peer: Fingerprint) -> Result<(), Full> {
        let Bounds { connections, connections_of_one, .. } = self.registry.bounds;
        let mut open = self.registry.open();
        if open.stopping {
            return Err(Full::Stopping);
        }
        if open.count(|whose| *whose == Whose::Peer(peer)) >= connections_of_one {
            return Err(Full::OfOne(connections_of_one));
        }
        if open.count(|whose| matches!(whose, Whose::Peer(_))) >= connections {
            return Err(Full::All(connections));
        }
        if let Some(entry) = open.entries.get_mut(&self.id) {
            entry.whose = Whose::Peer(peer);
        }
        Ok(())
    }

    /// How the connection is broken off. If somebody wanted that before, it is done now.
    pub(super) fn breaks_by(&self, breaker: Breaker) {
        let mut open = self.registry.open();
        let stopping = open.stopping;
        let broken = open.entries.get_mut(&self.id).and_then(|entry| {
            let now = (entry.broken || stopping).then(|| Arc::clone(&breaker));
            entry.breaker = Some(breaker);
            now
        });
        drop(open);
        if let Some(breaker) = broken {
            breaker();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let gone = self.registry.open().entries.remove(&self.id);
        self.registry.fewer.notify_all();
        // Outside of the lock: what a breaker holds may have something to do when it goes.
        drop(gone);
    }
}
