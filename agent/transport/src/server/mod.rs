//! The side that is connected to: listeners in the network and at Unix sockets, and what comes of their connections.

mod api;
mod groups;
mod local;
mod network;
mod registry;

use crate::http::{Bytes, Request, Response};
use crate::runtime::{Kind, Runtime, Spawner};
use crate::{End, Limits, Link};
use failback_credentials::{Fingerprint, Peer, PeerName, RateLimit, Role, Tls, TrustStore};
use groups::Groups;
use local::LocalSocket;
use registry::{Registry, Ticket};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A peer that this machine trusted when the connection was made.
    Peer(Peer),
    /// A process on this machine.
    Local {
        /// The user that it ran as when it connected (`SO_PEERCRED`, unix(7)).
        uid: u32,
        /// Its number, if the system tells it.
        pid: Option<i32>,
    },
}

/// What is done with connections. What a caller may do is decided here.
pub trait Handler: Send + Sync + 'static {
    /// Runs a session, on a thread of its own. The connection is gone when the link is.
    fn session(&self, link: Link, caller: Caller);

    /// Answers a request to the API, on a thread where it may wait.
    fn request(&self, request: Request<Bytes>, caller: Caller) -> Response<Bytes>;

    /// Hears what happened to connections that came to nothing, for a log. Called on the threads of the network: it must not wait.
    fn event(&self, event: Event) {
        drop(event);
    }
}

/// What happened to a connection, for a log.
#[derive(Debug)]
pub enum Event {
    /// Somebody was refused.
    Refused {
        /// Where it came from.
        from: SocketAddr,
        /// Why.
        why: String,
    },
    /// Somebody was let in by a token.
    Enrolled {
        /// Where it came from.
        from: SocketAddr,
        /// What it is now.
        peer: Peer,
    },
    /// There are too many connections. It is told at most once in ten seconds.
    Full {
        /// Where the one that was too many came from; from this machine, if that is none.
        from: Option<IpAddr>,
        /// Which bound it is.
        why: Full,
    },
    /// The system does not give what a connection needs.
    Trouble(io::Error),
}

/// Which bound a connection was above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Before it is known who it is, from everywhere.
    #[error("{0} connections at once have not yet shown a key: one more was closed")]
    Strangers(usize),
    /// Before it is known who it is, from one address.
    #[error("{0} connections at once from this address have not yet shown a key: one more was closed")]
    StrangersOfOne(usize),
    /// Of peers, from everywhere.
    #[error("{0} connections are there, as many as this machine takes: one more was closed")]
    All(usize),
    /// Of one peer.
    #[error("{0} connections of this peer are there, as many as it may have: one more was closed")]
    OfOne(usize),
    /// From this machine.
    #[error("{0} connections from this machine are there, as many as it may have: one more was closed")]
    Local(usize),
    /// The server is being stopped.
    #[error("the server is being stopped")]
    Stopping,
}

/// How much of anything there may be at once, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections that have not yet shown a key.
    pub strangers: usize,
    /// The same from one address (of IPv6: a /64).
    pub strangers_of_one: usize,
    /// Connections of peers.
    pub connections: usize,
    /// The same of one peer.
    pub connections_of_one: usize,
    /// Connections from this machine, over both Unix sockets.
    pub local: usize,
    /// Until keys are shown, and an enrolment's message is there.
    pub handshake: Duration,
    /// Until the head of a request to the API is there.
    pub head: Duration,
    /// From there until its body is there.
    pub body: Duration,
    /// From the answer's beginning until it is taken.
    pub answer: Duration,
    /// Bytes of a request's body.
    pub body_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            strangers: 128,
            strangers_of_one: 16,
            connections: 256,
            connections_of_one: 64,
            local: 64,
            handshake: seconds(10),
            head: seconds(10),
            body: seconds(30),
            answer: seconds(60),
            body_bytes: 1 << 20,
        }
    }
}

/// What tokens are answered with.
#[derive(Clone)]
pub struct Enrolment {
    /// Where peers and tokens are.
    pub trust: Arc<TrustStore>,
    /// What this machine is called.
    pub name: PeerName,
    /// What it is.
    pub role: Role,
}

/// Where a server listens, and how.
#[derive(Clone)]
pub struct ServerOptions {
    /// Where sessions are taken over TLS.
    pub data: Vec<SocketAddr>,
    /// Where the API is served over TLS.
    pub control: Vec<SocketAddr>,
    /// The Unix socket where sessions are taken.
    pub unix_data: Option<PathBuf>,
    /// The Unix socket where the API is served.
    pub unix_control: Option<PathBuf>,
    /// This machine's key, and whom it trusts.
    pub tls: Tls,
    /// Whether and how machines are let in by tokens, at all addresses.
    pub enrolment: Option<Enrolment>,
    /// How long sessions wait.
    pub limits: Limits,
    /// How much there may be at once.
    pub bounds: Bounds,
    /// Threads that encrypt; at least one.
    pub threads: usize,
    /// What they run on; as the environment and the kernel have it, if that is none.
    pub runtime: Option<Kind>,
}

impl ServerOptions {
    /// Nowhere yet; with the usual limits, and a thread for each processor, but at most four.
    #[must_use]
    pub fn new(tls: Tls) -> Self {
        let threads = thread::available_parallelism().map_or(1, |processors| processors.get().min(4));
        Self {
            data: Vec::new(),
            control: Vec::new(),
            unix_data: None,
            unix_control: None,
            tls,
            enrolment: None,
            limits: Limits::default(),
            bounds: Bounds::default(),
            threads,
            runtime: None,
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address in the network cannot be had.
    #[error("cannot listen at {address}: {}", listening(.source))]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A Unix socket cannot be had.
    #[error("{0}")]
    Socket(String),
    /// What connections run on cannot be had.
    #[error("the network cannot be served")]
    Runtime(#[source] io::Error),
}

fn listening(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there; end it, or choose another port".into(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address; use one that it has".into(),
        io::ErrorKind::PermissionDenied => "this user may not; use a port above 1023, or run it as root".into(),
        _ => error.to_string(),
    }
}

/// Some connections did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} connections did not end in time: what they do goes on until it notices, or until this process ends")]
pub struct StillBusy(pub usize);

/// What listeners and connections share.
struct Shared {
    handler: Arc<dyn Handler>,
    tls: Tls,
    enrolment: Option<Enrolment>,
    tries: Mutex<RateLimit>,
    /// When the server began: the clock that never goes back.
    began: Instant,
    limits: Limits,
    bounds: Bounds,
    registry: Arc<Registry>,
    groups: Groups,
    spawners: Vec<Spawner>,
    turn: AtomicUsize,
}

impl Shared {
    /// The thread whose turn it is.
    fn spawner(&self) -> &Spawner {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.spawners[turn % self.spawners.len()]
    }

    fn event(&self, event: Event) {
        self.handler.event(event);
    }

    fn full(&self, from: Option<IpAddr>, why: Full) {
        if why != Full::Stopping && self.registry.tells_of_full() {
            self.event(Event::Full { from, why });
        }
    }

    /// Starts a session on a thread of its own.
    fn start_session(self: &Arc<Self>, link: Link, caller: Caller, ticket: Arc<Ticket>) {
        let shared = Arc::clone(self);
        let body = move || {
            let _ticket = ticket;
            shared.handler.session(link, caller);
        };
        if let Err(error) = thread::Builder::new().name("failback-session".into()).spawn(body) {
            self.event(Event::Trouble(error));
        }
    }
}

/// A running server. It stops when it is dropped, and then waits for nobody.
pub struct Server {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    data: Vec<SocketAddr>,
    control: Vec<SocketAddr>,
    sockets: Vec<LocalSocket>,
    runtimes: Vec<Runtime>,
}

impl Server {
    /// Listens at all addresses, and serves.
    ///
    /// # Errors
    ///
    /// When any of them cannot be had; then none is served.
    pub fn start(options: ServerOptions, handler: Arc<dyn Handler>) -> Result<Self, ServerError> {
        let start = || options.runtime.map_or_else(Runtime::start, Runtime::start_as);
        let runtimes: io::Result<Vec<_>> = (0..options.threads.max(1)).map(|_| start()).collect();
        let runtimes = runtimes.map_err(ServerError::Runtime)?;
        let data = network::listen_all(&options.data)?;
        let control = network::listen_all(&options.control)?;
        let addresses = |listeners: &[std::net::TcpListener]| {
            listeners.iter().flat_map(std::net::TcpListener::local_addr).collect()
        };
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            handler,
            tls: options.tls,
            enrolment: options.enrolment,
            tries: Mutex::default(),
            began: Instant::now(),
            limits: options.limits,
            bounds: options.bounds,
            registry: Arc::new(Registry::new(options.bounds)),
            groups: Groups::default(),
            spawners: runtimes.iter().map(Runtime::spawner).collect(),
            turn: AtomicUsize::new(0),
        });
        let mut server =
            Self { shared, stop, data: addresses(&data), control: addresses(&control), sockets: Vec::new(), runtimes };
        for (path, door) in [(options.unix_data, Door::Data), (options.unix_control, Door::Control)] {
            let Some(path) = path else { continue };
            let (socket, listener) = LocalSocket::bind(path)?;
            server.sockets.push(socket);
            let accept = local::accept(Arc::clone(&server.shared), listener, door, stopped.clone());
            server.shared.spawner().spawn(accept);
        }
        for (listeners, door) in [(data, Door::Data), (control, Door::Control)] {
            for listener in listeners {
                let accept = network::accept(Arc::clone(&server.shared), listener, door, stopped.clone());
                server.shared.spawner().spawn(accept);
            }
        }
        Ok(server)
    }

    /// Where sessions are taken over TLS, with the ports that the system chose.
    #[must_use]
    pub fn data(&self) -> &[SocketAddr] {
        &self.data
    }

    /// Where the API is served over TLS, with the ports that the system chose.
    #[must_use]
    pub fn control(&self) -> &[SocketAddr] {
        &self.control
    }

    /// How many connections there are, those of strangers included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.registry.count()
    }

    /// Breaks off all connections of a peer, and says how many there were. It is called after the peer is revoked: then none
    /// that was being made meanwhile is left either.
    #[allow(clippy::must_use_candidate, reason = "it is called for what it does")]
    pub fn drop_peer(&self, peer: &Fingerprint) -> usize {
        self.shared.registry.break_off(Some(peer))
    }

    /// Takes no more connections, breaks those off that are there, and waits for their ends. A session whose connection is broken off has
    /// to end by itself.
    ///
    /// # Errors
    ///
    /// How many have not ended within the time.
    pub fn stop(mut self, within: Duration) -> Result<(), StillBusy> {
        let left = self.end(within);
        if left == 0 { Ok(()) } else { Err(StillBusy(left)) }
    }

    fn end(&mut self, within: Duration) -> usize {
        self.stop.send_replace(true);
        self.shared.registry.stop();
        self.shared.registry.break_off(None);
        let left = self.shared.registry.wait_until_empty(within);
        self.sockets.clear();
        self.runtimes.clear();
        left
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Data,
    Control,
}

/// A reason without its cause in front of it.
fn told(end: &End) -> String {
    End::sentence(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_the_same() {
        let document = include_str!("../../TRANSPORT.md");
        let bounds = Bounds::default();
        for (what, all, one) in [
            ("that have not shown a key", bounds.strangers, format!("{} of an address", bounds.strangers_of_one)),
            ("of peers", bounds.connections, format!("{} of a peer", bounds.connections_of_one)),
            ("of this machine", bounds.local, String::new()),
        ] {
            let row = document.lines().find(|line| line.starts_with(&format!("| {what}")));
            assert!(row.is_some_and(|row| row.contains(&format!("| {all} | {one}"))), "{what}: {all}, {one}");
        }
        let api = [
            format!("is there after {} s", bounds.head.as_secs()),
            format!("is there {} s later", bounds.body.as_secs()),
            format!("taken within {} s", bounds.answer.as_secs()),
            format!("at most {} MiB", bounds.body_bytes >> 20),
        ];
        for told in api {
            assert!(document.contains(&told), "{told}");
        }
        let handshake = format!("an enrolment's message | {} s |", bounds.handshake.as_secs());
        assert!(document.contains(&handshake), "{handshake}");
    }
}
