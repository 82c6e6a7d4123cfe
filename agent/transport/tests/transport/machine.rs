//! Machines with keys, and servers that write down what happens.

use crate::common::{patient, wait_until};
use failback_credentials::{
    Directory, Fingerprint, Identity, NewPeer, NewToken, PeerName, Role, Tls, Token, TrustStore,
};
use failback_transport::http::{Bytes, Request, Response, StatusCode};
use failback_transport::{
    Caller, Enrolment, Event, Handler, HostPort, Kind, Limits, Link, Runtime, Server, ServerOptions, TlsConnector,
};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

pub(crate) struct Machine {
    _temp: tempfile::TempDir,
    pub(crate) identity: Identity,
    pub(crate) trust: Arc<TrustStore>,
    pub(crate) tls: Tls,
}

pub(crate) fn name(name: &str) -> PeerName {
    PeerName::new(name).unwrap()
}

impl Machine {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path().join("keys")).unwrap();
        let identity = Identity::load_or_create(&directory).unwrap();
        let trust = Arc::new(TrustStore::new(directory));
        let tls = Tls::new(&identity, Arc::clone(&trust));
        Self { _temp: temp, identity, trust, tls }
    }

    pub(crate) fn key(&self) -> Fingerprint {
        *self.identity.fingerprint()
    }

    pub(crate) fn knows(&self, other: &Self, called: &str, role: Role) {
        let new = NewPeer { name: name(called), fingerprint: other.key(), role, expires: None };
        self.trust.add(&new, now()).unwrap();
    }

    pub(crate) fn issue(&self, called: &str) -> Token {
        let new = NewToken { name: name(called), role: Role::Source, expires: now() + 3600, peer_expires: None };
        self.trust.issue(&self.key(), &new, now()).unwrap()
    }
}

/// A source and a target that know each other.
pub(crate) fn friends() -> (Machine, Machine) {
    let (source, target) = (Machine::new(), Machine::new());
    source.knows(&target, "site", Role::Target);
    target.knows(&source, "web-1", Role::Source);
    (source, target)
}

/// The kinds of runtime that this kernel has.
pub(crate) fn kinds() -> Vec<Kind> {
    let has = |kind: &Kind| match Runtime::start_as(*kind) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(*kind, Kind::IoUring, "{error}");
            eprintln!("skipped: there is no io_uring here ({error})");
            false
        }
    };
    [Kind::Tokio, Kind::IoUring].into_iter().filter(has).collect()
}

/// Sends back what comes, and writes down what happens.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) events: Mutex<Vec<String>>,
    pub(crate) callers: Mutex<Vec<String>>,
    /// Sessions read nothing, say nothing and end when this is taken away or their link breaks.
    pub(crate) mute: AtomicBool,
    /// Sessions do not even notice that their link breaks.
    pub(crate) deaf: AtomicBool,
    /// Bytes of every answer of the API; what was asked, if it is none.
    pub(crate) answer: Mutex<Option<usize>>,
    /// Requests are answered only when this is taken away.
    pub(crate) slow: AtomicBool,
}

impl Recorder {
    pub(crate) fn told(&self, what: &str) -> bool {
        self.events.lock().unwrap().iter().any(|event| event.contains(what))
    }

    pub(crate) fn tells(&self, what: &str) {
        wait_until(&format!("{what:?} is told"), || self.told(what));
    }

    fn caller(&self, caller: &Caller) -> String {
        let told = match caller {
            Caller::Peer(peer) => format!("{} ({})", peer.name, peer.role),
            Caller::Local { uid, pid } => format!("user {uid}, process {}", pid.unwrap_or_default()),
        };
        self.callers.lock().unwrap().push(told.clone());
        told
    }
}

fn while_set(flag: &AtomicBool) {
    while flag.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(5));
    }
}

impl Handler for Recorder {
    fn session(&self, mut link: Link, caller: Caller) {
        self.caller(&caller);
        while_set(&self.deaf);
        if self.mute.load(Ordering::SeqCst) {
            // Hears only that it ends.
            thread::sleep(Duration::from_millis(300));
            while_set(&self.mute);
        }
        let ended = io::copy(&mut link.reader, &mut link.writer);
        if let Err(error) = ended {
            self.events.lock().unwrap().push(format!("session: {error}"));
        }
    }

    fn request(&self, request: Request<Bytes>, caller: Caller) -> Response<Bytes> {
        let caller = self.caller(&caller);
        while_set(&self.slow);
        let told = format!("{} {} of {} bytes for {caller}", request.method(), request.uri(), request.body().len());
        let body = self.answer.lock().unwrap().map_or_else(|| told.into_bytes(), |len| vec![b'x'; len]);
        let mut response = Response::new(body.into());
        *response.status_mut() = StatusCode::CREATED;
        response
    }

    fn event(&self, event: Event) {
        let told = match event {
            Event::Refused { why, .. } => format!("refused: {why}"),
            Event::Enrolled { peer, .. } => format!("enrolled: {}", peer.name),
            Event::Full { why, .. } => format!("full: {why}"),
            Event::Trouble(error) => format!("trouble: {error}"),
        };
        self.events.lock().unwrap().push(told);
    }
}

/// A server on loopback, at ports that the system chooses.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) recorder: Arc<Recorder>,
}

impl Site {
    pub(crate) fn options(target: &Machine) -> ServerOptions {
        let mut options = ServerOptions::new(target.tls.clone());
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        options.data.push(any);
        options.control.push(any);
        options.limits = patient();
        options.threads = 2;
        let trust = Arc::clone(&target.trust);
        options.enrolment = Some(Enrolment { trust, name: name("site"), role: Role::Target });
        options
    }

    pub(crate) fn start(options: ServerOptions) -> Self {
        let recorder = Arc::<Recorder>::default();
        let server = Server::start(options, recorder.clone()).unwrap();
        Self { server, recorder }
    }

    pub(crate) fn of(target: &Machine) -> Self {
        Self::start(Self::options(target))
    }

    pub(crate) fn data(&self) -> SocketAddr {
        self.server.data()[0]
    }

    pub(crate) fn control(&self) -> SocketAddr {
        self.server.control()[0]
    }
}

pub(crate) fn host_port(address: SocketAddr) -> HostPort {
    address.to_string().parse().unwrap()
}

/// How a machine connects to another one at an address.
pub(crate) fn connector_with(from: &Machine, to: &Machine, at: SocketAddr, limits: Limits, kind: Kind) -> TlsConnector {
    let runtime = Arc::new(Runtime::start_as(kind).unwrap());
    TlsConnector::new(host_port(at), from.tls.clone(), to.key(), limits, runtime)
}

pub(crate) fn connector(from: &Machine, to: &Machine, at: SocketAddr) -> TlsConnector {
    connector_with(from, to, at, patient(), Kind::Tokio)
}

/// Whether the other side has closed a connection, within ten seconds.
pub(crate) fn is_closed(mut stream: &std::net::TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}
