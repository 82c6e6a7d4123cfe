//! What the daemons have in common: listening, the log, systemd, and those who are trusted no longer.

use super::args::{LogFormat, Place};
use super::client::refused;
use crate::report::tell;
use crate::signals::stop_flag;
use anyhow::Result;
use failback_credentials::{Fingerprint, Identity, PeerName, Role, Tls, TrustStore};
use failback_orchestrate::JobError;
use failback_replication::refuse_session;
use failback_transport::http::{self, Bytes};
use failback_transport::{Enrolment, Event, Handler, Link, Server, ServerOptions};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often a daemon looks whether it is to end, and whom it trusts no longer.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long sessions may take to end: an apply stops at its next safe place.
const END_WITHIN: Duration = Duration::from_secs(60);

/// What a daemon is, and where it listens.
pub(super) struct Setting<'a> {
    pub(super) place: &'a Place,
    pub(super) data: Vec<SocketAddr>,
    pub(super) control: Vec<SocketAddr>,
    pub(super) name: &'a str,
    pub(super) role: Role,
    pub(super) log: LogFormat,
}

/// A daemon that has its key, and does not listen yet.
pub(super) struct Prepared {
    options: ServerOptions,
    trust: Arc<TrustStore>,
    own: Fingerprint,
    stop: Arc<AtomicBool>,
}

/// A daemon that listens.
pub(super) struct Daemon {
    server: Server,
    trust: Arc<TrustStore>,
    own: Fingerprint,
    stop: Arc<AtomicBool>,
}

impl Setting<'_> {
    /// Begins to listen to signals and to log, and looks at the key.
    pub(super) fn prepare(self) -> Result<Prepared> {
        let stop = stop_flag()?;
        log_to_stderr(self.log);
        let credentials = self.place.credentials()?;
        let identity = Identity::load_or_create(&credentials).map_err(|error| refused(&error))?;
        let trust = Arc::new(TrustStore::new(credentials));
        let name = PeerName::new(self.name).map_err(|error| JobError::Refused(error.to_string()))?;
        let mut options = ServerOptions::new(Tls::new(&identity, Arc::clone(&trust)));
        (options.data, options.control) = (self.data, self.control);
        options.unix_data = Some(self.place.data_socket());
        options.unix_control = Some(self.place.control_socket());
        options.enrolment = Some(Enrolment { trust: Arc::clone(&trust), name, role: self.role });
        Ok(Prepared { options, trust, own: *identity.fingerprint(), stop })
    }
}

impl Prepared {
    /// Listens.
    pub(super) fn begin(self, handler: Arc<dyn Handler>) -> Result<Daemon> {
        let server = Server::start(self.options, handler)
            .map_err(|error| JobError::Refused(crate::text::with_causes(&error)))?;
        Ok(Daemon { server, trust: self.trust, own: self.own, stop: self.stop })
    }
}

impl Daemon {
    /// Says where it is, in the log and to systemd.
    pub(super) fn ready(&self, sentence: &str) {
        for address in self.server.data() {
            tracing::info!(%address, "sources connect here");
        }
        for address in self.server.control() {
            tracing::info!(%address, "the API is here");
        }
        tracing::info!(fingerprint = %self.own, "{sentence}");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Where sources connect.
    pub(super) fn data(&self) -> Vec<SocketAddr> {
        self.server.data().to_vec()
    }

    /// Runs until somebody wants it to end, or it is over. Whether it is alive is found out by `breathe`, which has to come back.
    pub(super) fn run(&self, is_over: impl Fn() -> bool, breathe: impl Fn()) {
        let watchdog = sd_notify::watchdog_enabled();
        let mut fed = Instant::now();
        let mut revoked = revoked_keys(&self.trust);
        while !self.stop.load(Ordering::Relaxed) && !is_over() {
            thread::sleep(LOOK_EVERY);
            if watchdog.is_some_and(|every| fed.elapsed() >= every / 3) {
                breathe();
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                fed = Instant::now();
            }
            let now = revoked_keys(&self.trust);
            for key in now.iter().filter(|key| !revoked.contains(key)) {
                let ended = self.server.drop_peer(key);
                tracing::warn!(peer = %key, connections = ended, "it is trusted no longer");
            }
            revoked = now;
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    }

    /// Ends all connections, and waits for what they do, `more` longer than what is usual.
    pub(super) fn end(self, more: Duration) {
        let within = END_WITHIN.saturating_add(more);
        if let Err(busy) = self.server.stop(within) {
            tell(&format!(
                "{} sessions have not ended within {} s; what they do goes on with the next start",
                busy.0,
                within.as_secs()
            ));
        }
    }
}

fn revoked_keys(trust: &TrustStore) -> Vec<Fingerprint> {
    let peers = trust.peers().unwrap_or_default();
    peers.into_iter().filter(|peer| peer.revoked.is_some()).map(|peer| peer.fingerprint).collect()
}

fn log_to_stderr(format: LogFormat) {
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// Tells whoever wants to send why that is not taken here: by the protocol, so that its program prints it, and in the log.
pub(super) fn turn_away(link: Link, why: &str) {
    tracing::warn!("refused: {why}");
    // Who does not wait to hear it has gone.
    let _ = refuse_session(link, &Arc::default(), JobError::Refused(why.to_owned()));
}

/// An answer as HTTP has it.
pub(super) fn answer(status: u16, content_type: &'static str, body: Vec<u8>) -> http::Response<Bytes> {
    let mut response = http::Response::new(Bytes::from(body));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// Writes into the log what became of a connection.
pub(super) fn told(event: Event) {
    match event {
        Event::Refused { from, why } => tracing::warn!(%from, "refused: {why}"),
        Event::Enrolled { from, peer } => {
            tracing::info!(%from, peer = %peer.name, fingerprint = %peer.fingerprint, role = peer.role.name(), "joined");
        }
        Event::Full { from, why } => tracing::warn!(from = from.map(|from| from.to_string()), "{why}"),
        Event::Trouble(error) => tracing::error!("a connection could not be served: {error}"),
    }
}
