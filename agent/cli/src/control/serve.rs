//! The verb `serve`: the master target.

use super::args::ServeArgs;
use super::client::open_master;
use super::daemon::{Setting, answer, told};
use crate::config::Config;
use crate::points::open::policy;
use anyhow::Result;
use failback_control::api::{Request, Response};
use failback_control::{Caller, MasterTarget, Settings};
use failback_credentials::Role;
use failback_orchestrate::JobError;
use failback_transport::http::{self, Bytes};
use failback_transport::{Caller as Connected, Connector, Event, Handler, Limits, Link, UnixConnector, stdio_link};
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

pub(crate) fn serve(args: &ServeArgs) -> Result<ExitCode> {
    let settings = Settings {
        engine: args.common.engine.into(),
        threads: args.threads,
        policy: policy(&args.keeping, &Config::load()?)?,
        trust: None,
        hooks: args.hooks.open()?,
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
    let setting = Setting {
        place: &args.place,
        data: if args.local { Vec::new() } else { args.listen.clone() },
        control: if args.local { Vec::new() } else { args.control.clone() },
        name: &args.name,
        role: Role::Target,
        log: args.log,
    };
    let prepared = setting.prepare()?;
    let master = open_master(&args.place, settings)?;
    let daemon = prepared.begin(Arc::new(Serving(Arc::clone(&master))))?;
    let recovering = thread::spawn({
        let master = Arc::clone(&master);
        move || master.attend()
    });
    daemon.ready("the master target is ready");
    // Whoever holds the state and does not let go of it is a daemon that does nothing any more.
    daemon.run(|| false, || drop(master.state()));
    tracing::info!("the master target is ending");
    master.stop();
    daemon.end(master.hooks_at_end());
    // An apply stops at its next safe place.
    let _ = recovering.join();
    Ok(ExitCode::SUCCESS)
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
        answer(status, content_type, body)
    }

    fn event(&self, event: Event) {
        told(event);
    }
}
