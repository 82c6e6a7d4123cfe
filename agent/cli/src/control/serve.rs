//! The verb `serve`: the master target.

use super::args::{LogFormat, ServeArgs};
use super::client::{open_master, refused};
use crate::config::Config;
use crate::points::open::policy;
use crate::report::tell;
use crate::signals::stop_flag;
use anyhow::Result;
use failback_control::api::{Request, Response};
use failback_control::{Caller, MasterTarget, Settings};
use failback_credentials::{Fingerprint, Identity, PeerName, Role, Tls, TrustStore};
use failback_orchestrate::JobError;
use failback_transport::http::{self, Bytes};
use failback_transport::{
    Caller as Connected, Connector, Enrolment, Event, Handler, Limits, Link, Server, ServerOptions, UnixConnector,
    stdio_link,
};
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// How often the daemon looks whether it is to end, and whom it trusts no longer.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long sessions may take to end: an apply stops at its next safe place.
const END_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn serve(args: &ServeArgs) -> Result<ExitCode> {
    let settings = Settings {
        engine: args.common.engine.into(),
        threads: args.threads,
        policy: policy(&args.keeping, &Config::load()?)?,
        trust: None,
    };
    if args.stdio { over_stdio(args, settings) } else { daemon(args, settings) }
}

/// One session over standard input and output, here or in the daemon.
fn over_stdio(args: &ServeArgs, settings: Settings) -> Result<ExitCode> {
    let link = stdio_link(Limits::default()).map_err(|error| JobError::Refused(error.to_string()))?;
    let socket = args.place.data_socket();
    if let Ok(daemon) = UnixConnector::new(socket, Limits::default()).connect() {
        hand_on(link, daemon);
        return Ok(ExitCode::SUCCESS);
    }
    open_master(&args.place, settings)?.session(link, &Caller::Local)?;
    Ok(ExitCode::SUCCESS)
}

/// Copies both ways until one of them ends.
fn hand_on(mut near: Link, mut far: Link) {
    let (break_near, break_far) = (Arc::clone(&near.breaker), Arc::clone(&far.breaker));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = copy(&mut *far.reader, &mut *near.writer);
            break_near();
        });
        let _ = copy(&mut *near.reader, &mut *far.writer);
        break_far();
    });
}

fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            len => to.write_all(&buffer[..len]).and_then(|()| to.flush())?,
        }
    }
}

fn daemon(args: &ServeArgs, settings: Settings) -> Result<ExitCode> {
    let stop = stop_flag()?;
    log_to_stderr(args.log);
    let credentials = args.place.credentials()?;
    let identity = Identity::load_or_create(&credentials).map_err(|error| refused(&error))?;
    let trust = Arc::new(TrustStore::new(credentials));
    let name = PeerName::new(&args.name).map_err(|error| JobError::Refused(error.to_string()))?;
    let master = open_master(&args.place, settings)?;
    let mut options = ServerOptions::new(Tls::new(&identity, Arc::clone(&trust)));
    if !args.local {
        (options.data, options.control) = (args.listen.clone(), args.control.clone());
    }
    options.unix_data = Some(args.place.data_socket());
    options.unix_control = Some(args.place.control_socket());
    options.enrolment = Some(Enrolment { trust: Arc::clone(&trust), name, role: Role::Target });
    let server = Server::start(options, Arc::new(Serving(Arc::clone(&master))))
        .map_err(|error| JobError::Refused(crate::text::with_causes(&error)))?;
    for address in server.data() {
        tracing::info!(%address, "sources connect here");
    }
    for address in server.control() {
        tracing::info!(%address, "the API is here");
    }
    tracing::info!(fingerprint = %identity.fingerprint(), state = %args.place.state.display(), "the master target is ready");
    let recovering = thread::spawn({
        let master = Arc::clone(&master);
        move || master.recover()
    });
    let watchdog = sd_notify::watchdog_enabled();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut fed = Instant::now();
    let mut revoked = revoked_keys(&trust);
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(LOOK_EVERY);
        if watchdog.is_some_and(|every| fed.elapsed() >= every / 3) {
            // Whoever holds the state and does not let go of it is a daemon that does nothing any more.
            drop(master.state());
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            fed = Instant::now();
        }
        let now = revoked_keys(&trust);
        for key in now.iter().filter(|key| !revoked.contains(key)) {
            let ended = server.drop_peer(key);
            tracing::warn!(peer = %key, connections = ended, "it is trusted no longer");
        }
        revoked = now;
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("the master target is ending");
    master.stop();
    if let Err(busy) = server.stop(END_WITHIN) {
        tell(&format!(
            "{} sessions have not ended within {} s; what they write goes on with the next start",
            busy.0,
            END_WITHIN.as_secs()
        ));
    }
    // An apply stops at its next safe place.
    let _ = recovering.join();
    Ok(ExitCode::SUCCESS)
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

/// What comes over connections.
struct Serving(Arc<MasterTarget>);

/// Who calls, for a session.
fn caller_of(connected: &Connected) -> Caller {
    match connected {
        Connected::Peer(peer) => Caller::Peer { key: peer.fingerprint, name: peer.name.to_string(), role: peer.role },
        Connected::Local { .. } => Caller::Local,
    }
}

impl Handler for Serving {
    fn session(&self, link: Link, caller: Connected) {
        // What became of it is in the log and in the job.
        let _ = self.0.session(link, &caller_of(&caller));
    }

    fn request(&self, request: http::Request<Bytes>, caller: Connected) -> http::Response<Bytes> {
        let (role, local) = match &caller {
            Connected::Peer(peer) => (peer.role, false),
            Connected::Local { .. } => (Role::Admin, true),
        };
        let uri = request.uri().clone();
        let asked = Request {
            method: request.method().as_str(),
            path: uri.path(),
            query: uri.query().unwrap_or_default(),
            body: request.body(),
            local,
        };
        let Response { status, content_type, body } = self.0.answer(&asked, role);
        if local && asked.method == "GET" {
            // The console looks all the time, and changes nothing.
            tracing::debug!(path = asked.path, status, "request on this machine");
        } else {
            tracing::info!(caller = %caller_of(&caller), method = asked.method, path = asked.path, status, "request");
        }
        let mut response = http::Response::new(Bytes::from(body));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
        response
    }

    fn event(&self, event: Event) {
        match event {
            Event::Refused { from, why } => tracing::warn!(%from, "refused: {why}"),
            Event::Enrolled { from, peer } => {
                tracing::info!(%from, peer = %peer.name, fingerprint = %peer.fingerprint, role = peer.role.name(), "joined");
            }
            Event::Full { from, why } => tracing::warn!(from = from.map(|from| from.to_string()), "{why}"),
            Event::Trouble(error) => tracing::error!("a connection could not be served: {error}"),
        }
    }
}
