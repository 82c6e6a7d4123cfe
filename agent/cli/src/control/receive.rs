//! The verb `receive`: a master target for one disk, until that has arrived.
//!
//! It is `serve` with a state of its own, in which there is one pair. Whoever joins with the one token that it gives out is the source of that
//! pair, and nobody else is served. It ends after a pass that is a moment of the source.

use super::args::{Place, ReceiveArgs};
use super::client::{absolute, open_master, refused};
use super::daemon::{Daemon, Setting, answer, told, turn_away};
use super::enroll::issue;
use super::jobs::line as job_line;
use crate::compare::open_source;
use crate::config::Config;
use crate::files;
use crate::meter::Meter;
use crate::points::open::{needed_directory, policy};
use crate::report::{Lines, print, print_bytes, tell};
use crate::text::with_causes;
use anyhow::{Context, Result};
use failback_control::api::types::{Failure, Jobs};
use failback_control::api::{Request, Response};
use failback_control::state::{
    Direction, Job, JobKind, JobQuery, JobState, NewPair, Refusal, SourceDisk, StateError, Subject,
};
use failback_control::{Caller, MasterTarget, Settings, describe_target, target_of};
use failback_credentials::{Fingerprint, Identity, Peer, Role, TrustStore};
use failback_orchestrate::{
    Coverage, JobError, Proven, ScsiUuid, SourceOptions, look_at_points, look_at_target, points_for_reading,
    verify_point,
};
use failback_transport::http::{self, Bytes};
use failback_transport::{Caller as Connected, Event, Handler, Link};
use serde_json::json;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What the source is called here.
const SOURCE: &str = "source";
/// The port that need not be said.
const PORT: u16 = 9443;
/// How often it is told how far the disk is.
const TOLD_EVERY: Duration = Duration::from_secs(5);

pub(crate) fn receive(args: &ReceiveArgs) -> Result<ExitCode> {
    let place = Place { state: std::path::absolute(&args.state).context("cannot find the directory of the state")? };
    let identity = Identity::load_or_create(&place.credentials()?).map_err(|error| refused(&error))?;
    let own = *identity.fingerprint();
    // A source that knows several of them tells them by this.
    let digits: String = own.to_string().chars().filter(char::is_ascii_hexdigit).take(12).collect();
    let name = format!("receive-{digits}");
    let setting = Setting {
        place: &place,
        data: args.listen.clone(),
        control: Vec::new(),
        name: &name,
        role: Role::Target,
        log: args.log,
    };
    let prepared = setting.prepare()?;
    let hooks = args.hooks.open()?;
    let new = new_pair(args)?;
    let settings = Settings {
        engine: args.common.engine.into(),
        policy: policy(&args.keeping, &Config::load()?)?,
        hooks,
        ..Settings::default()
    };
    let receiving = Arc::new(Receiving::begin(open_master(&place, settings)?, &place, new)?);
    let daemon = prepared.begin(Arc::clone(&receiving) as Arc<dyn Handler>)?;
    let recovering = thread::spawn({
        let receiving = Arc::clone(&receiving);
        move || receiving.master.attend()
    });
    daemon.ready("ready to receive the disk");
    let invited = receiving.invite(args, &place, &daemon, &name, &own);
    if let Ok(ends) = &invited {
        let progress = RefCell::new(Told { at: Instant::now(), said: String::new() });
        let over = || {
            progress.borrow_mut().tell(&receiving);
            receiving.is_over(args.linger) || receiving.is_late(*ends)
        };
        daemon.run(over, || drop(receiving.master.state()));
    }
    receiving.master.stop();
    daemon.end(receiving.master.hooks_at_end());
    // An apply stops at its next safe place.
    let _ = recovering.join();
    let ends = invited?;
    if !receiving.is_here() {
        return Err(receiving.unfinished(args, ends).into());
    }
    let proven = receiving.prove(args)?;
    receiving.report(args, proven)?;
    receiving.forget_source();
    Ok(ExitCode::SUCCESS)
}

/// The pair as it is to be, but for who sends; the disk is looked at before anybody is let in.
fn new_pair(args: &ReceiveArgs) -> Result<NewPair> {
    let key = args.trusted_key.as_deref().map(files::trusted_key).transpose()?;
    let reasons = look_at_target(&args.disk)?.reasons;
    if !reasons.is_empty() {
        return Err(JobError::Refused(reasons.join("; ")).into());
    }
    let (target, _) = target_of(&args.disk)?;
    let source = match args.source.parse::<ScsiUuid>() {
        Ok(uuid) => SourceDisk::Scsi(uuid),
        Err(_) => SourceDisk::Named(args.source.clone()),
    };
    Ok(NewPair {
        name: args.pair.clone(),
        peer: None,
        source,
        target,
        direction: Direction::Receive,
        retention: PathBuf::from(absolute(&needed_directory(&args.retention)?)?),
        new_disk: args.new_disk,
        signer: key.map(|key| *key.bytes()),
    })
}

/// Connections of the source.
struct Sessions {
    open: usize,
    /// When the last one ended.
    quiet: Instant,
}

/// What is received, and by whom it is sent.
struct Receiving {
    master: Arc<MasterTarget>,
    trust: TrustStore,
    new: NewPair,
    sessions: Mutex<Sessions>,
    /// Held by whoever binds the pair to the source that has joined.
    binding: Mutex<()>,
}

impl Receiving {
    /// Looks whether the state is that of an earlier run for the same disk, or else whether such a pair can be.
    fn begin(master: Arc<MasterTarget>, place: &Place, new: NewPair) -> Result<Self> {
        let trust = TrustStore::new(place.credentials()?);
        let sessions = Mutex::new(Sessions { open: 0, quiet: Instant::now() });
        let this = Self { master, trust, new, sessions, binding: Mutex::default() };
        let source = this.source()?.map(|peer| peer.fingerprint);
        let mut state = this.master.state();
        let others = state.pairs().map_err(|error| refused(&error))?;
        for pair in others {
            let is_the_same = NewPair { peer: pair.is.peer, ..this.new.clone() } == pair.is;
            if is_the_same && (pair.is.peer.is_none() || pair.is.peer != source) {
                // It was made to see whether it can be, and that was interrupted; or its source is trusted no more.
                state.remove_pair(&pair.is.name).map_err(|error| refused(&error))?;
            } else if !is_the_same {
                return Err(JobError::Refused(format!(
                    "{} is the state of pair {}, from {} to {}, and not of what is to be received now: name another directory with --state, or \
                     say the same again",
                    place.state.display(),
                    pair.is.name,
                    source_text(&pair.is.source),
                    describe_target(&pair.is.target)
                ))
                .into());
            }
        }
        if let Err(StateError::Refused(Refusal::NoPair { .. })) = state.pair(&this.new.name) {
            state.add_pair(&this.new, files::now()).map_err(|error| refused(&error))?;
            state.remove_pair(&this.new.name).map_err(|error| refused(&error))?;
        }
        drop(state);
        Ok(this)
    }

    /// The source that may send, if one has joined.
    fn source(&self) -> Result<Option<Peer>> {
        let peers = self.trust.peers().map_err(|error| refused(&error))?;
        Ok(peers.into_iter().find(|peer| peer.role == Role::Source && peer.revoked.is_none()))
    }

    /// Binds the pair to the source that has joined, unless it is.
    fn bind(&self, peer: &Peer) -> Result<(), StateError> {
        let _binding = self.binding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.master.state();
        match state.pair(&self.new.name) {
            Err(StateError::Refused(Refusal::NoPair { .. })) => {
                state.add_pair(&NewPair { peer: Some(peer.fingerprint), ..self.new.clone() }, files::now())
            }
            // Whose it is, the master target looks at.
            found => found.map(drop),
        }
    }

    /// All jobs of the pair.
    fn jobs(&self) -> Result<Vec<Job>> {
        let query = JobQuery { subject: Some(Subject::Pair(self.new.name.clone())), ..JobQuery::default() };
        self.master.state().jobs(&query).map_err(|error| refused(&error))
    }

    /// Whether the last pass was a moment of the source, and was applied. A later one that is not done, or is no moment, makes that untrue.
    fn is_here(&self) -> bool {
        let jobs = match self.jobs() {
            Ok(jobs) => jobs,
            Err(error) => {
                tracing::error!("what became of the pass cannot be read: {}", with_causes(error.as_ref()));
                return false;
            }
        };
        // Those of an earlier source are older than what this one is bound by.
        let Ok(bound) = self.master.state().pair(&self.new.name).map(|pair| pair.created) else { return false };
        // One that goes on after it was interrupted keeps its number.
        let last = jobs.into_iter().filter(|job| job.queued >= bound).max_by_key(|job| (job.updated, job.id));
        last.is_some_and(|job| job.kind == JobKind::Final && job.state == JobState::Done)
    }

    /// Whether the disk is here and its source has sent nothing for so long.
    fn is_over(&self, linger: Duration) -> bool {
        let sessions = self.lock_sessions();
        let is_quiet = sessions.open == 0 && sessions.quiet.elapsed() >= linger;
        drop(sessions);
        is_quiet && self.is_here()
    }

    fn lock_sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the token has ended and nobody has joined.
    fn is_late(&self, ends: Option<i64>) -> bool {
        ends.is_some_and(|ends| files::now() >= ends) && !matches!(self.source(), Ok(Some(_)))
    }

    /// Says what is to be typed on the source, and gives out the token unless the source has joined already. Returns when that ends.
    fn invite(
        &self,
        args: &ReceiveArgs,
        place: &Place,
        daemon: &Daemon,
        name: &str,
        own: &Fingerprint,
    ) -> Result<Option<i64>> {
        let address = args.address.clone().unwrap_or_else(|| reached_at(&daemon.data()));
        let joined = self.source()?;
        let issued = match &joined {
            Some(_) => None,
            None => Some(issue(place, SOURCE, Role::Source, args.expires, None)?),
        };
        let disk = if let SourceDisk::Named(name) = &self.new.source { quoted(name) } else { "DISK".into() };
        let pair = quoted(&self.new.name);
        let join = format!("failback enroll join {address}");
        let signing = if self.new.signer.is_some() { " --signing-key KEY" } else { "" };
        let send = format!("failback send {disk} --to {address} --server {name} --pair {pair}{signing} --final");
        let token = issued.as_ref().map(|issued| issued.token.reveal());
        if args.common.json {
            let object = json!({
                "event": "ready",
                "pair": self.new.name,
                "address": address,
                "fingerprint": own.to_string(),
                "server": name,
                "token": token.as_ref().map(|token| token.as_str()),
                "expires": issued.as_ref().map(|issued| issued.expires),
                "join": issued.as_ref().map(|_| &join),
                "send": send,
            });
            print_bytes(format!("{object}\n").as_bytes())?;
            return Ok(issued.map(|issued| issued.expires));
        }
        let mut lines = Lines::default();
        lines.add("fingerprint of this machine", own);
        if let Some(token) = &token {
            lines.add("token", token.as_str());
            lines.add("ends in", format!("{} min, or when it is used", args.expires.as_secs() / 60));
            lines.add("on the source, with the token on its input", &join);
            lines.add("and then", &send);
        } else {
            lines.add("the source has joined; on it", &send);
        }
        print_bytes(lines.to_string().as_bytes())?;
        Ok(issued.map(|issued| issued.expires))
    }

    /// What to do about a disk that is not here yet.
    fn unfinished(&self, args: &ReceiveArgs, ends: Option<i64>) -> JobError {
        if self.is_late(ends) {
            return JobError::Refused(
                "the token has ended and nobody has joined with it: run this again for another one".into(),
            );
        }
        JobError::Interrupted(format!(
            "no pass that is a moment of the source was applied, so {} is not what it is to be yet: the same command goes on, and failback \
             status tells where it stands",
            args.disk.display()
        ))
    }

    /// Reads the disk from end to end, unless nobody wants that: what a pass did not change was not read while it was applied, and the
    /// machine is going to start from this disk.
    fn prove(&self, args: &ReceiveArgs) -> Result<Proven> {
        if args.no_verify {
            return Ok(Proven::ChangedBlocks);
        }
        let meter = Meter::new()?;
        let source =
            open_source(&args.disk, SourceOptions { engine: args.common.engine.into(), fuzzy: false }, &meter)?;
        let mut points = points_for_reading(&self.new.retention, source.identity())?;
        let present = points.store.catalogue().present().id;
        let report = verify_point(source.device(), &mut points.store, present, false, 0, &meter)?.report;
        meter.finish();
        if !report.matches() {
            // It is not here, then. With other recovery points it is read as it is, and what differs is sent.
            self.master.state().remove_pair(&self.new.name).map_err(|error| refused(&error))?;
            let differs = report.differences.first().map(|first| format!(", first at byte {}", first.start));
            return Err(JobError::Mismatch(format!(
                "{} was received, but read from end to end it has the root {} and not {} of recovery point {present}{}: something else \
                 wrote to it, so receive it once more with another directory as --retention",
                args.disk.display(),
                report.root,
                report.expected,
                differs.unwrap_or_default()
            ))
            .into());
        }
        Ok(match report.coverage {
            Coverage::Whole => Proven::WholeDisk,
            Coverage::Used => Proven::UsedSpace,
        })
    }

    /// Says what the disk is now, from its recovery points.
    fn report(&self, args: &ReceiveArgs, proven: Proven) -> Result<()> {
        let disk = look_at_target(&args.disk)?.identity;
        let Some((store, _)) = look_at_points(&self.new.retention, &disk)? else {
            return Err(
                JobError::Refused("the retention drive has no point of the disk any more: look at it".into()).into()
            );
        };
        let point = store.catalogue().present();
        let object = json!({
            "event": "received",
            "pair": self.new.name,
            "disk": args.disk,
            "root": point.root.to_string(),
            "kind": point.kind.name(),
            "coverage": point.coverage.name(),
            "point": point.id.0,
            "proven": proven.name(),
        });
        if args.common.json {
            return print_bytes(format!("{object}\n").as_bytes());
        }
        let mut lines = Lines::default();
        lines.add("received", args.disk.display()).add("root", point.root).add("coverage", point.coverage.name());
        lines.add("kind", point.kind.name()).add("recovery point", point.id).add("proven", proven.name());
        print(false, &object, &lines)
    }

    /// Whoever has sent the disk may not send another one, but by another token.
    fn forget_source(&self) {
        let forget = || -> Result<()> {
            self.master.state().remove_pair(&self.new.name).map_err(|error| refused(&error))?;
            match self.source()? {
                Some(peer) => self.trust.forget(&peer.fingerprint).map_err(|error| refused(&error)),
                None => Ok(()),
            }
        };
        if let Err(error) = forget() {
            tell(&format!("the disk is here, but its source could not be forgotten: {}", with_causes(error.as_ref())));
        }
    }
}

fn source_text(source: &SourceDisk) -> String {
    match source {
        SourceDisk::Scsi(uuid) => uuid.to_string(),
        SourceDisk::Named(name) => name.clone(),
    }
}

/// Where others reach what listens here, as far as this machine can tell.
fn reached_at(listening: &[SocketAddr]) -> String {
    let Some(first) = listening.first() else { return "ADDRESS".into() };
    let shown = |ip: &str| match (ip.contains(':'), first.port()) {
        (false, PORT) => ip.to_owned(),
        (true, PORT) => format!("[{ip}]"),
        (false, port) => format!("{ip}:{port}"),
        (true, port) => format!("[{ip}]:{port}"),
    };
    if !first.ip().is_unspecified() {
        return shown(&first.ip().to_string());
    }
    let known = failback_machine::addresses().unwrap_or_default();
    let address = known.first().and_then(|line| line.split([' ', '/']).nth(1));
    shown(address.unwrap_or("ADDRESS"))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) && !word.starts_with('-') {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What was told last of how far the disk is.
struct Told {
    at: Instant,
    said: String,
}

impl Told {
    fn tell(&mut self, receiving: &Receiving) {
        if self.at.elapsed() < TOLD_EVERY || receiving.master.live_jobs().is_empty() {
            return;
        }
        self.at = Instant::now();
        let asked = Request { method: "GET", path: "/v1/jobs", query: "limit=1", body: &[], local: true };
        let Response { body, .. } = receiving.master.answer(&asked, Role::Admin);
        let line = serde_json::from_slice::<Jobs>(&body).ok().and_then(|jobs| jobs.jobs.first().map(job_line));
        if let Some(line) = line.filter(|line| *line != self.said) {
            tracing::info!("{line}");
            self.said = line;
        }
    }
}

impl Handler for Receiving {
    fn session(&self, link: Link, caller: Connected) {
        let Connected::Peer(peer) = caller else {
            return turn_away(
                link,
                "this is failback receive, which takes one disk over TLS only, from the source that has joined: type on that one what was \
                 printed here, or run failback serve",
            );
        };
        if peer.role != Role::Source {
            return turn_away(
                link,
                "this is failback receive, and this machine has not joined it as a source: join with the token that it prints",
            );
        }
        if let Err(error) = self.bind(&peer) {
            return turn_away(link, &format!("the disk could not be bound to its source: {}", with_causes(&error)));
        }
        let caller = Caller::Peer { key: peer.fingerprint, name: peer.name.to_string(), role: peer.role };
        self.lock_sessions().open += 1;
        // What became of it is in the log and in the job.
        let _ = self.master.session(link, &caller);
        let mut sessions = self.lock_sessions();
        sessions.open = sessions.open.saturating_sub(1);
        sessions.quiet = Instant::now();
    }

    fn request(&self, request: http::Request<Bytes>, caller: Connected) -> http::Response<Bytes> {
        let uri = request.uri();
        if let (Connected::Local { .. }, &http::Method::GET) = (&caller, request.method()) {
            let query = uri.query().unwrap_or_default();
            let asked = Request { method: "GET", path: uri.path(), query, body: &[], local: true };
            let Response { status, content_type, body } = self.master.answer(&asked, Role::Admin);
            return answer(status, content_type, body);
        }
        let error =
            "this receives one disk, and can be looked at on this machine only: run failback serve for more".to_owned();
        let failure = Failure { error, outcome: "refused".into() };
        answer(403, "application/json", serde_json::to_vec(&failure).unwrap_or_default())
    }

    fn event(&self, event: Event) {
        told(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_typed_can_be() {
        let quotes = [("/dev/sdb", "/dev/sdb"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("-x", "'-x'"), ("", "''")];
        for (word, shell) in quotes {
            assert_eq!(quoted(word), shell);
        }
        let at = |text: &str| reached_at(&[text.parse().unwrap()]);
        assert_eq!((at("192.0.2.1:9443"), at("192.0.2.1:1")), ("192.0.2.1".into(), "192.0.2.1:1".into()));
        assert_eq!(
            (at("[2001:db8::1]:9443"), at("[2001:db8::1]:1")),
            ("[2001:db8::1]".into(), "[2001:db8::1]:1".into())
        );
        assert_eq!(reached_at(&[]), "ADDRESS");
    }
}
