//! Connections that are one link together, until all of them are there.

use super::network::linger;
use super::registry::Ticket;
use super::{Caller, Event, Shared};
use crate::End;
use crate::bridge::bridged;
use crate::secured::end_of;
use crate::streams::{RawPreface, Streams, read_preface, send_preface, verdict};
use failback_credentials::{Attempt, Fingerprint};
use rustls::ServerConfig;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::server::TlsStream;

/// A connection of a peer, with its place.
pub(super) struct Arrived {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) attempt: Attempt<ServerConfig>,
    pub(super) ticket: Arc<Ticket>,
}

/// Whose group it is, and which one.
type Key = (Fingerprint, [u8; 16]);

/// Groups of which not all streams are there. Each has at least one connection that counts, so there are no more than those.
#[derive(Default)]
pub(super) struct Groups(Mutex<HashMap<Key, Group>>);

struct Group {
    /// Which task waits for it.
    first: Arc<()>,
    streams: Vec<Option<(Arrived, RawPreface)>>,
}

/// What comes of a stream that has joined.
enum Joined {
    /// The group waits for more, and this one was the first.
    First(Arc<()>),
    Waits,
    All(Vec<(Arrived, RawPreface)>),
    /// It contradicts the others, and none of them goes on.
    Contradicts(Vec<(Arrived, RawPreface)>),
}

impl Groups {
    fn open(&self) -> MutexGuard<'_, HashMap<Key, Group>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, key: Key, arrived: Arrived, preface: RawPreface) -> Joined {
        let mut open = self.open();
        let mut is_first = false;
        let group = open.entry(key).or_insert_with(|| {
            is_first = true;
            Group { first: Arc::new(()), streams: (0..preface.count).map(|_| None).collect() }
        });
        let count = group.streams.len();
        match group.streams.get_mut(usize::from(preface.index)) {
            Some(place @ None) if count == usize::from(preface.count) => *place = Some((arrived, preface)),
            _ => {
                let others = open.remove(&key).into_iter().flat_map(|group| group.streams).flatten();
                return Joined::Contradicts(others.chain([(arrived, preface)]).collect());
            }
        }
        if group.streams.iter().all(Option::is_some) {
            let all = open.remove(&key).into_iter().flat_map(|group| group.streams).flatten();
            return Joined::All(all.collect());
        }
        if is_first { Joined::First(Arc::clone(&group.first)) } else { Joined::Waits }
    }

    /// The streams of a group that still waits, which are not waited for any more.
    fn give_up(&self, key: &Key, first: &Arc<()>) -> Vec<(Arrived, RawPreface)> {
        let mut open = self.open();
        let waits = open.get(key).is_some_and(|group| Arc::ptr_eq(&group.first, first));
        let group = if waits { open.remove(key) } else { None };
        group.into_iter().flat_map(|group| group.streams).flatten().collect()
    }
}

/// Adds a connection to its group, and starts the session when that is complete.
pub(super) async fn join(
    shared: &Arc<Shared>,
    mut arrived: Arrived,
    peer: Fingerprint,
    caller: Caller,
    until: Instant,
    mut gone: watch::Receiver<bool>,
) -> Result<(), End> {
    let preface = match timeout_at(until, read_preface(&mut arrived.stream)).await {
        Ok(preface) => preface.map_err(|error| end_of(&arrived.attempt, &error))?,
        Err(_) => return Err(End::Silent(shared.bounds.handshake)),
    };
    if !preface.is_understood() {
        refuse(vec![(arrived, preface)], verdict::NOT_UNDERSTOOD).await;
        return Err(End::Because("the preface of several streams is not understood".into()));
    }
    let key = (peer, preface.group);
    match shared.groups.join(key, arrived, preface) {
        Joined::Waits => Ok(()),
        Joined::All(streams) => {
            start(shared, streams, caller);
            Ok(())
        }
        Joined::Contradicts(streams) => {
            refuse(streams, verdict::NOT_UNDERSTOOD).await;
            Err(End::Because("streams of one link contradict each other".into()))
        }
        Joined::First(first) => {
            tokio::select! {
                () = sleep_until(until) => {}
                _ = gone.wait_for(|gone| *gone) => {}
            }
            let left = shared.groups.give_up(&key, &first);
            if left.is_empty() {
                return Ok(());
            }
            let why = format!("{} of {} streams of a link came in time", left.len(), preface.count);
            refuse(left, verdict::INCOMPLETE).await;
            Err(End::Because(why))
        }
    }
}

/// Says to all streams of a group that there will be no link.
async fn refuse(streams: Vec<(Arrived, RawPreface)>, verdict: u8) {
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|(Arrived { mut stream, ticket, .. }, mut preface)| {
            preface.verdict = verdict;
            tokio::spawn(async move {
                let _ticket = ticket;
                if send_preface(&mut stream, &preface).await.is_ok() {
                    linger(stream.into_inner().0).await;
                }
            })
        })
        .collect();
    for task in tasks {
        drop(task.await);
    }
}

/// Starts the session of a group.
fn start(shared: &Arc<Shared>, streams: Vec<(Arrived, RawPreface)>, caller: Caller) {
    let made = bridged(shared.limits, Vec::new());
    let made = made.and_then(|(link, bridge)| Ok((link, Streams::new(bridge, streams.len())?)));
    let (link, together) = match made {
        Ok(made) => made,
        Err(error) => return shared.event(Event::Trouble(error)),
    };
    for (arrived, _) in &streams {
        arrived.ticket.breaks_by(Arc::clone(&link.breaker));
    }
    if let Some((first, _)) = streams.first() {
        shared.start_session(link, caller, Arc::clone(&first.ticket));
    }
    for (Arrived { stream, attempt, ticket }, preface) in streams {
        let together = Arc::clone(&together);
        shared.spawner().spawn(async move {
            let _ticket = ticket;
            together.begin(stream, preface, |error| end_of(&attempt, error)).await;
        });
    }
}
