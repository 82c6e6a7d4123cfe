//! A machine with a key and a store, and connections between two of them in memory.

use failback_credentials::{
    Attempt, Directory, Fingerprint, Identity, NewPeer, NewToken, Peer, PeerName, Protocol, Role, Tls, Token,
    TrustStore, server_name,
};
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, Error, ServerConfig, ServerConnection, SideData};
use std::path::PathBuf;
use std::sync::Arc;

/// 2026-11-25 22:00:01 UTC.
pub(crate) const NOW: i64 = 1_795_644_001;
pub(crate) const HOUR: i64 = 3600;
pub(crate) const DAY: i64 = 24 * HOUR;

pub(crate) struct Machine {
    temp: tempfile::TempDir,
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
        Self { temp, identity, trust, tls }
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.temp.path().join("keys")
    }

    pub(crate) fn key(&self) -> Fingerprint {
        *self.identity.fingerprint()
    }

    pub(crate) fn knows(&self, other: &Self, called: &str, role: Role, expires: Option<i64>) -> Peer {
        let new = NewPeer { name: name(called), fingerprint: other.key(), role, expires };
        self.trust.add(&new, NOW).unwrap()
    }

    pub(crate) fn issue(&self, called: &str) -> Token {
        let new = NewToken { name: name(called), role: Role::Source, expires: NOW + HOUR, peer_expires: None };
        self.trust.issue(&self.key(), &new, NOW).unwrap()
    }
}

/// A source and a target that know each other.
pub(crate) fn friends() -> (Machine, Machine) {
    let (source, target) = (Machine::new(), Machine::new());
    source.knows(&target, "site", Role::Target, None);
    target.knows(&source, "web-1", Role::Source, None);
    (source, target)
}

/// Two ends, and what the handshake came to at each of them.
pub(crate) struct Met {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    pub(crate) at_client: Result<(), Error>,
    pub(crate) at_server: Result<(), Error>,
}

/// Lets two ends speak until neither has anything more to say.
pub(crate) fn meet(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Met {
    let client = ClientConnection::new(client, server_name()).unwrap();
    let server = ServerConnection::new(server).unwrap();
    let mut met = Met { client, server, at_client: Ok(()), at_server: Ok(()) };
    met.speak();
    met
}

impl Met {
    pub(crate) fn speak(&mut self) {
        loop {
            let said = carry(&mut self.client, &mut self.server, &mut self.at_server);
            let answered = carry(&mut self.server, &mut self.client, &mut self.at_client);
            if !said && !answered {
                return;
            }
        }
    }
}

/// Hands on what one end has to say. What an end says after it failed is its last word, and it hears nothing more.
fn carry<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
    outcome: &mut Result<(), Error>,
) -> bool {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() && outcome.is_ok() {
        to.read_tls(&mut rest).unwrap();
        *outcome = to.process_new_packets().map(drop);
    }
    !bytes.is_empty()
}

/// A client and a server and their handshake.
pub(crate) struct Session {
    pub(crate) client: Attempt<ClientConfig>,
    pub(crate) server: Attempt<ServerConfig>,
    pub(crate) met: Met,
}

impl Session {
    pub(crate) fn data(client: &Machine, server: &Machine, now: i64) -> Self {
        let client = client.tls.client(&server.key(), now).unwrap();
        Self::of(client, server.tls.server(Protocol::Data, now).unwrap())
    }

    pub(crate) fn enrolment(client: &Machine, server: &Machine, token: &Token) -> Self {
        Self::of(client.tls.enrolment(token).unwrap(), server.tls.server(Protocol::Enrolment, NOW).unwrap())
    }

    pub(crate) fn of(client: Attempt<ClientConfig>, server: Attempt<ServerConfig>) -> Self {
        let met = meet(client.config(), server.config());
        Self { client, server, met }
    }

    /// What each end says of its failure.
    pub(crate) fn sentences(&self) -> (String, String) {
        let told = |error: &Result<(), Error>, explain: &dyn Fn(&Error) -> String| match error {
            Ok(()) => String::new(),
            Err(error) => explain(error),
        };
        (
            told(&self.met.at_client, &|error| self.client.explain(error).to_string()),
            told(&self.met.at_server, &|error| self.server.explain(error).to_string()),
        )
    }
}
