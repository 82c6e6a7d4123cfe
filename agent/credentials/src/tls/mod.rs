//! What a key and the peers that it knows are in TLS.
//!
//! A certificate is only how a key travels. Its names, its dates and who signed it are its owner's own words, so they decide
//! nothing, and a wrong clock on the other side locks nobody out. What counts is that the owner signs the handshake with the
//! key, and what this side's [`TrustStore`] says of the key's fingerprint.

mod refusal;
mod verifier;

pub use refusal::{Refusal, explain, tells_of_revocation};

use crate::{Fingerprint, Identity, Peer, Token, TrustStore};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, CommonState, ProtocolVersion, ServerConfig};
use std::sync::{Arc, PoisonError};
use verifier::Verifier;

/// What a connection is for. Client and server name it in the handshake (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Replication, between known peers.
    Data,
    /// Replication over several connections that are one link, between known peers.
    Streams,
    /// The API, between known peers.
    Api,
    /// The same for programs that know nothing of failback, such as curl and Prometheus: a client may also name no protocol at all.
    Http,
    /// For a key that is not known yet: one message each way, and nothing else.
    Enrolment,
}

impl Protocol {
    /// The name in ALPN.
    #[must_use]
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Data => b"failback/1",
            Self::Streams => b"failback-streams/1",
            Self::Api => b"failback-api/1",
            Self::Http => b"http/1.1",
            Self::Enrolment => b"failback-enroll/1",
        }
    }

    /// Whether a handshake that agreed on this name, or on none, is one for this protocol.
    fn is_agreed(self, alpn: Option<&[u8]>) -> bool {
        alpn.map_or(self == Self::Http, |alpn| alpn == self.alpn())
    }
}

/// What a client wants, by the first message of a handshake. Whoever does not ask for enrolment has to be known.
#[must_use]
pub fn protocol_of(hello: &ClientHello<'_>) -> Protocol {
    let offered: Vec<_> = hello.alpn().into_iter().flatten().collect();
    let others = [Protocol::Enrolment, Protocol::Streams, Protocol::Api];
    let asked = others.into_iter().find(|protocol| offered.contains(&protocol.alpn()));
    asked.unwrap_or(Protocol::Data)
}

/// What a client calls every server; rustls wants a name. It is not sent, and decides nothing.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]))
}

/// Makes configurations for connections of this machine.
#[derive(Clone)]
pub struct Tls {
    own: Fingerprint,
    key: Arc<CertifiedKey>,
    trust: Arc<TrustStore>,
    provider: Arc<CryptoProvider>,
}

/// One connection: how it is to be made, and who is at the other end of it.
pub struct Attempt<C> {
    config: Arc<C>,
    own: Fingerprint,
    protocol: Protocol,
    verifier: Arc<Verifier>,
}

impl Tls {
    /// For a machine with a key that knows peers.
    #[must_use]
    pub fn new(identity: &Identity, trust: Arc<TrustStore>) -> Self {
        let provider = Arc::new(ring::default_provider());
        Self { own: *identity.fingerprint(), key: identity.certified(), trust, provider }
    }

    /// For a connection that a client has made; of what it asks for, [`protocol_of`] tells.
    ///
    /// The time is in seconds since 1970. A handshake should be given seconds, not minutes.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up at all.
    pub fn server(&self, protocol: Protocol, now: i64) -> Result<Attempt<ServerConfig>, Refusal> {
        let trust = (protocol != Protocol::Enrolment).then(|| Arc::clone(&self.trust));
        let verifier = Arc::new(Verifier::new(&self.provider, None, trust, now));
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let mut config = builder
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::clone(&verifier) as _)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        // Whoever comes again shows its key again: it may have been revoked.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Attempt { config: Arc::new(config), own: self.own, protocol, verifier })
    }

    /// For a connection to a server that has this key and is a trusted peer.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up at all.
    pub fn client(&self, server: &Fingerprint, now: i64) -> Result<Attempt<ClientConfig>, Refusal> {
        self.connect(Protocol::Data, server, Some(Arc::clone(&self.trust)), now)
    }

    /// As [`Self::client`], for one of several connections that are one link.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up at all.
    pub fn stream(&self, server: &Fingerprint, now: i64) -> Result<Attempt<ClientConfig>, Refusal> {
        self.connect(Protocol::Streams, server, Some(Arc::clone(&self.trust)), now)
    }

    /// As [`Self::client`], for the server's API.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up at all.
    pub fn api(&self, server: &Fingerprint, now: i64) -> Result<Attempt<ClientConfig>, Refusal> {
        self.connect(Protocol::Api, server, Some(Arc::clone(&self.trust)), now)
    }

    /// For a connection to the server that a token is for, whether it is known yet or not.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up at all.
    pub fn enrolment(&self, token: &Token) -> Result<Attempt<ClientConfig>, Refusal> {
        self.connect(Protocol::Enrolment, token.server(), None, 0)
    }

    fn connect(
        &self,
        protocol: Protocol,
        server: &Fingerprint,
        trust: Option<Arc<TrustStore>>,
        now: i64,
    ) -> Result<Attempt<ClientConfig>, Refusal> {
        let verifier = Arc::new(Verifier::new(&self.provider, Some(*server), trust, now));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let mut config = builder
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        Ok(Attempt { config: Arc::new(config), own: self.own, protocol, verifier })
    }
}

impl<C> Attempt<C> {
    /// What the connection is to be made with. It is for one connection: what is refused is remembered by [`Self::explain`].
    #[must_use]
    pub fn config(&self) -> Arc<C> {
        Arc::clone(&self.config)
    }

    /// What the connection is for.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// This machine's own key.
    #[must_use]
    pub const fn own(&self) -> &Fingerprint {
        &self.own
    }

    /// Who is at the other end, once the handshake is through. The store is asked anew, so that what was revoked meanwhile is.
    ///
    /// What a client has sent before the server refused it is never read; so a server that asks this first is safe, and a client
    /// whose handshake is through may still meet the server's refusal at its first read.
    ///
    /// # Errors
    ///
    /// When the handshake is not through, was for something else, or the peer is not trusted.
    pub fn peer(&self, connection: &CommonState, now: i64) -> Result<Peer, Refusal> {
        let key = self.key(connection)?;
        self.verifier.trusted(&key, now)?.ok_or(Refusal::UnknownKey(key))
    }

    /// The key of the other end, once the handshake is through. In an enrolment that is all that is known of it.
    ///
    /// # Errors
    ///
    /// When the handshake is not through, or was for something else.
    pub fn key(&self, connection: &CommonState) -> Result<Fingerprint, Refusal> {
        if connection.is_handshaking() || connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Err(Refusal::NotThrough);
        }
        if !self.protocol.is_agreed(connection.alpn_protocol()) {
            return Err(Refusal::OtherProtocol);
        }
        let shown = connection.peer_certificates().and_then(<[_]>::first).ok_or(Refusal::NoKey)?;
        self.verifier.expected(shown)
    }

    /// Why a connection failed, for a person; [`explain`] finds the error of TLS in one of I/O.
    #[must_use]
    pub fn explain(&self, error: &rustls::Error) -> Refusal {
        // Of a refusal of this side TLS knows less than this side.
        let refused = self.verifier.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            rustls::Error::InvalidCertificate(_) => refused.clone().unwrap_or_else(|| error.clone().into()),
            _ => error.clone().into(),
        }
    }
}
