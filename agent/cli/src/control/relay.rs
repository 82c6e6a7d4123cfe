//! The verb `relay`: the process server.

use super::args::{Place, RelayArgs};
use super::client::{ANSWER_WITHIN, Control, refused};
use super::connect::connector;
use super::daemon::{Setting, answer, told, turn_away};
use crate::files;
use crate::report::{Lines, print};
use anyhow::Result;
use failback_control::api::types::Failure;
use failback_credentials::{Fingerprint, Peer, PeerName, Role, TrustStore};
use failback_orchestrate::{ByteCount, HumanBytes, JobError};
use failback_relay::{Gate, Hooks, Limits as Space, PairRules, PairStatus, Relay, RelayOptions};
use failback_replication::{Offer, SystemClock, Throttle, Traffic};
use failback_transport::http::{self, Bytes, Method};
use failback_transport::{Caller, Connector, Event, Handler, Limits, Link};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Which source may send for a pair, and what it has to sign with.
struct Bound {
    source: Named,
    rules: PairRules,
}

/// A machine, as it was named: it may join later.
#[derive(PartialEq, Eq)]
enum Named {
    Key(Fingerprint),
    Name(PeerName),
}

impl Named {
    fn is(&self, peer: &Peer) -> bool {
        match self {
            Self::Key(key) => *key == peer.fingerprint,
            Self::Name(name) => *name == peer.name,
        }
    }
}

/// The way to the master target, and the pairs that go there.
struct Way {
    pairs: BTreeMap<String, Bound>,
    connector: Box<dyn Connector + Send>,
    throttle: Option<Throttle>,
}

impl Hooks for Way {
    fn pair(&self, name: &str) -> Option<PairRules> {
        self.pairs.get(name).map(|bound| bound.rules)
    }

    fn connect(&self, _: &str) -> io::Result<Link> {
        let link = self.connector.connect()?;
        Ok(match &self.throttle {
            Some(throttle) => throttle.hold(link),
            None => link,
        })
    }

    fn note(&self, pair: &str, sentence: &str) {
        tracing::warn!(pair, "{sentence}");
    }
}

/// What one source may send.
struct Admission<'a> {
    way: &'a Way,
    peer: &'a Peer,
}

impl Gate for Admission<'_> {
    fn admit(&self, offer: &Offer) -> Result<(), JobError> {
        match self.way.pairs.get(&offer.pair) {
            Some(bound) if self.peer.role == Role::Source && bound.source.is(self.peer) => Ok(()),
            // The same for what is not there and for what is another's.
            _ => Err(JobError::Refused(
                "the relay has no pair of that name for this source: compare the name and the fingerprint with --pair there".into(),
            )),
        }
    }
}

/// What comes over connections.
struct Relaying {
    relay: Arc<Relay>,
    way: Arc<Way>,
    traffic: Arc<Traffic>,
}

impl Handler for Relaying {
    fn session(&self, link: Link, caller: Caller) {
        let Caller::Peer(peer) = caller else {
            return turn_away(
                link,
                "this is a relay, which takes passes over TLS only, from sources that have joined it: join it with failback enroll join, and \
                 send to its address",
            );
        };
        let gate = Admission { way: &self.way, peer: &peer };
        match self.relay.serve(link, &gate, &self.traffic) {
            Ok(_) => tracing::info!(source = %peer.name, "a pass is here, or at its target"),
            Err(error) => tracing::warn!(source = %peer.name, "{}", crate::text::with_causes(&error)),
        }
    }

    fn request(&self, request: http::Request<Bytes>, caller: Caller) -> http::Response<Bytes> {
        let answered = match caller {
            Caller::Local { .. } => self.answered(request.method(), request.uri().path(), request.body()),
            Caller::Peer(_) => None,
        };
        match answered {
            Some(Ok(body)) => answer(200, "application/json", body),
            Some(Err(error)) => failure(409, &crate::text::with_causes(&error)),
            None => failure(
                404,
                "this is a relay, and only failback relay on this machine can ask it: see failback relay --help",
            ),
        }
    }

    fn event(&self, event: Event) {
        told(event);
    }
}

/// What is done for a pair: with how many deltas, of how many bytes.
type Done = Result<(u64, u64), JobError>;

impl Relaying {
    /// What this machine may ask; `None` for anything else.
    fn answered(&self, method: &Method, path: &str, body: &[u8]) -> Option<Result<Vec<u8>, JobError>> {
        let done: fn(&Self, &str) -> Done = match (method, path) {
            (&Method::GET, PATH) => return Some(Ok(as_json(&StatusJson::of(&self.relay)))),
            (&Method::POST, GIVE_UP) => Self::give_up,
            (&Method::POST, DROP_ASIDE) => Self::drop_aside,
            _ => return None,
        };
        let PairAsked { pair } = serde_json::from_slice(body).ok()?;
        Some(done(self, &pair).map(|(deltas, bytes)| as_json(&DoneJson { pair, deltas, bytes })))
    }

    fn give_up(&self, pair: &str) -> Done {
        let before = self.relay.status().pairs.into_iter().find(|status| status.pair == pair);
        let deltas = self.relay.give_up(pair)?;
        tracing::warn!(pair, deltas, "what waited is given up");
        Ok((deltas, before.map_or(0, |before| before.bytes)))
    }

    fn drop_aside(&self, pair: &str) -> Done {
        let (deltas, bytes) = self.relay.drop_aside(pair)?;
        tracing::warn!(pair, deltas, "what was set aside is removed");
        Ok((deltas, bytes))
    }
}

fn as_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn failure(status: u16, error: &str) -> http::Response<Bytes> {
    let failure = Failure { error: error.to_owned(), outcome: "refused".into() };
    answer(status, "application/json", as_json(&failure))
}

/// Where a relay tells how it is, and what it can be asked to do.
const PATH: &str = "/v1/relay";
const GIVE_UP: &str = "/v1/relay/give-up";
const DROP_ASIDE: &str = "/v1/relay/drop-aside";

/// Which pair something is asked for.
#[derive(Serialize, Deserialize)]
struct PairAsked {
    pair: String,
}

/// What was set aside or removed.
#[derive(Serialize, Deserialize)]
struct DoneJson {
    pair: String,
    deltas: u64,
    bytes: u64,
}

/// What waits.
#[derive(Serialize, Deserialize)]
struct StatusJson {
    bytes: u64,
    limit: u64,
    pairs: Vec<PairJson>,
}

#[derive(Serialize, Deserialize)]
struct PairJson {
    pair: String,
    deltas: u64,
    bytes: u64,
    oldest_seconds: Option<u64>,
    arriving: u64,
    has_source: bool,
    is_forwarding: bool,
    aside_deltas: u64,
    aside_bytes: u64,
    base: Option<String>,
    applied: Option<String>,
    held: Option<String>,
    last_error: Option<String>,
}

impl StatusJson {
    fn of(relay: &Relay) -> Self {
        let status = relay.status();
        Self { bytes: status.bytes, limit: status.limit, pairs: status.pairs.into_iter().map(PairJson::from).collect() }
    }
}

impl From<PairStatus> for PairJson {
    fn from(is: PairStatus) -> Self {
        Self {
            pair: is.pair,
            deltas: is.deltas,
            bytes: is.bytes,
            oldest_seconds: is.oldest.map(|oldest| oldest.as_secs()),
            arriving: is.arriving,
            has_source: is.has_source,
            is_forwarding: is.is_forwarding,
            aside_deltas: is.aside_deltas,
            aside_bytes: is.aside_bytes,
            base: is.base.map(|root| root.to_string()),
            applied: is.applied.map(|root| root.to_string()),
            held: is.held,
            last_error: is.last_error,
        }
    }
}

/// One pair may have so much of the space as this part of it, where there are several.
const SHARES: u64 = 4;

pub(crate) fn relay(args: &RelayArgs) -> Result<ExitCode> {
    let place = &args.connect.place;
    if args.status {
        return status(args, place);
    }
    if let Some(pair) = &args.give_up {
        return ask(args, place, GIVE_UP, pair, "set aside");
    }
    if let Some(pair) = &args.drop_aside {
        return ask(args, place, DROP_ASIDE, pair, "removed");
    }
    let Some(to) = &args.to else {
        return Err(JobError::Refused("say where the master target is: add --to".into()).into());
    };
    let setting = Setting {
        place,
        data: args.listen.clone(),
        control: Vec::new(),
        name: &args.name,
        role: Role::Relay,
        log: args.log,
    };
    let prepared = setting.prepare()?;
    let way = Arc::new(Way {
        pairs: bound_pairs(args, place)?,
        connector: connector(to, &args.connect, Limits::default())?,
        throttle: args.limit.clone().map(|schedule| Throttle::new(schedule, Arc::new(SystemClock::default()))),
    });
    // What others leave free is what one of them may have: with all of it, they would wait for each other.
    let share = args.space.get() / if way.pairs.len() > 1 { SHARES } else { 1 };
    let space = Space { total: args.space.get(), pair: args.pair_space.map_or(share, ByteCount::get) };
    if let Some(above) = args.spool.parent() {
        std::fs::create_dir_all(above).map_err(|error| refused(&error))?;
    }
    let relay = Relay::open(&args.spool, RelayOptions::new(space), Arc::clone(&way) as Arc<dyn Hooks>)
        .map_err(|error| refused(&error))?;
    let relay = Arc::new(relay);
    let forwarding = thread::spawn({
        let relay = Arc::clone(&relay);
        move || relay.run()
    });
    let relaying = Relaying { relay: Arc::clone(&relay), way, traffic: Arc::default() };
    let daemon = prepared.begin(Arc::new(relaying))?;
    daemon.ready("the relay is ready");
    daemon.run(|| false, || drop(relay.status()));
    tracing::info!("the relay is ending");
    relay.stop();
    daemon.end(Duration::ZERO);
    let _ = forwarding.join();
    Ok(ExitCode::SUCCESS)
}

/// Pairs and their sources, as `NAME=PEER` and `NAME=FILE` say.
fn bound_pairs(args: &RelayArgs, place: &Place) -> Result<BTreeMap<String, Bound>> {
    let known = TrustStore::new(place.credentials()?).peers().map_err(|error| refused(&error))?;
    let mut keys = BTreeMap::new();
    for text in &args.trusted_key {
        let (name, file) = named(text)?;
        if keys.insert(name, files::trusted_key(file.as_ref())?).is_some() {
            let name = name.escape_debug();
            let why = format!(
                "--trusted-key is given twice for the pair \"{name}\": a pair has one source, so give its key once"
            );
            return Err(JobError::Refused(why).into());
        }
    }
    let mut bound = BTreeMap::new();
    for text in &args.pair {
        let (name, peer) = named(text)?;
        let source = match peer.parse::<Fingerprint>() {
            Ok(key) => Named::Key(key),
            Err(_) => Named::Name(PeerName::new(peer).map_err(|error| refused(&error))?),
        };
        if !known.iter().any(|peer| peer.revoked.is_none() && source.is(peer)) {
            tracing::warn!(
                pair = name,
                "its source \"{peer}\" has not joined yet: make a token for it with failback enroll token"
            );
        }
        let rules = PairRules { signer: keys.remove(name), signed: true };
        if bound.insert(name.to_owned(), Bound { source, rules }).is_some() {
            let name = name.escape_debug();
            return Err(JobError::Refused(format!("the pair \"{name}\" is named twice: name one source for it")).into());
        }
    }
    match keys.keys().next() {
        None => Ok(bound),
        Some(name) => {
            let name = name.escape_debug();
            let why = format!("a key is given for \"{name}\", which is no pair: add --pair {name}=PEER");
            Err(JobError::Refused(why).into())
        }
    }
}

/// A pair's name and what is said of it.
fn named(text: &str) -> Result<(&str, &str), JobError> {
    let not_understood = || {
        JobError::Refused(format!(
            "\"{}\" is not understood: write NAME=VALUE with the name of a pair",
            text.escape_debug()
        ))
    };
    text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(not_understood)
}

/// The relay that runs here.
fn running(place: &Place) -> Result<Control> {
    let none = || JobError::Refused("no relay runs with this state: name its directory with --state".into());
    Ok(Control::of_daemon(place)?.ok_or_else(none)?)
}

fn ask(args: &RelayArgs, place: &Place, path: &str, pair: &str, what: &str) -> Result<ExitCode> {
    let done: DoneJson = running(place)?.ask_with(path, &PairAsked { pair: pair.to_owned() })?;
    let mut lines = Lines::default();
    lines.add(what, format!("{} with {} of {}", deltas(done.deltas), HumanBytes(done.bytes), done.pair));
    print(args.json, &done, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn deltas(count: u64) -> String {
    if count == 1 { "1 delta".into() } else { format!("{count} deltas") }
}

fn status(args: &RelayArgs, place: &Place) -> Result<ExitCode> {
    let status: StatusJson = running(place)?.look(PATH, "", ANSWER_WITHIN)?;
    let mut lines = Lines::default();
    lines.add("kept", format!("{} of {}", HumanBytes(status.bytes), HumanBytes(status.limit)));
    for pair in &status.pairs {
        let oldest = pair.oldest_seconds.map(|age| format!(", the oldest for {age} s")).unwrap_or_default();
        let waiting = if pair.deltas == 1 { "1 delta waits".into() } else { format!("{} deltas wait", pair.deltas) };
        let mut text = format!("{waiting} with {}{oldest}", HumanBytes(pair.bytes));
        if pair.arriving > 0 {
            text = format!("{text}; {} of the next one have arrived", HumanBytes(pair.arriving));
        }
        if pair.aside_deltas > 0 {
            let aside = HumanBytes(pair.aside_bytes);
            text = format!("{text}; {} with {aside} set aside", deltas(pair.aside_deltas));
        }
        for more in [&pair.held, &pair.last_error].into_iter().flatten() {
            text = format!("{text}\n{more}");
        }
        lines.add(&pair.pair, text);
    }
    print(args.json, &status, &lines)?;
    Ok(ExitCode::SUCCESS)
}
