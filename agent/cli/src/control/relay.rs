//! The verb `relay`: the process server.

use super::args::{Place, RelayArgs};
use super::client::{ANSWER_WITHIN, Control, refused};
use super::connect::connector;
use super::daemon::{Setting, answer, told};
use crate::files;
use crate::report::{Lines, print};
use anyhow::Result;
use failback_credentials::{Fingerprint, Role, TrustStore};
use failback_orchestrate::{HumanBytes, JobError, VerifyingKey};
use failback_relay::{Gate, Hooks, Limits as Space, PairRules, PairStatus, Relay, RelayOptions};
use failback_replication::{Offer, SystemClock, Throttle, Traffic};
use failback_transport::http::{self, Bytes};
use failback_transport::{Caller, Connector, Event, Handler, Limits, Link};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

/// Which source may send for a pair, and what it has to sign with.
#[derive(Clone, Copy)]
struct Bound {
    source: Fingerprint,
    rules: PairRules,
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
    key: Fingerprint,
}

impl Gate for Admission<'_> {
    fn admit(&self, offer: &Offer) -> Result<(), JobError> {
        match self.way.pairs.get(&offer.pair) {
            Some(bound) if bound.source == self.key => Ok(()),
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
            tracing::warn!("refused: a relay takes only what comes over TLS, from sources that it knows");
            return;
        };
        let gate = Admission { way: &self.way, key: peer.fingerprint };
        match self.relay.serve(link, &gate, &self.traffic) {
            Ok(_) => tracing::info!(source = %peer.name, "a pass is here, or at its target"),
            Err(error) => tracing::warn!(source = %peer.name, "{}", crate::text::with_causes(&error)),
        }
    }

    fn request(&self, request: http::Request<Bytes>, caller: Caller) -> http::Response<Bytes> {
        let is_asked = request.method() == http::Method::GET && request.uri().path() == PATH;
        match caller {
            Caller::Local { .. } if is_asked => {
                let body = serde_json::to_vec(&StatusJson::of(&self.relay)).unwrap_or_default();
                answer(200, "application/json", body)
            }
            _ => answer(404, "text/plain", b"a relay tells how it is at /v1/relay, on this machine only\n".to_vec()),
        }
    }

    fn event(&self, event: Event) {
        told(event);
    }
}

/// Where a relay tells how it is.
const PATH: &str = "/v1/relay";

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

pub(crate) fn relay(args: &RelayArgs) -> Result<ExitCode> {
    let place = &args.connect.place;
    if args.status {
        return status(args, place);
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
    let space = Space { total: args.space.get(), pair: args.pair_space.unwrap_or(args.space).get() };
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
    daemon.run(|| drop(relay.status()));
    tracing::info!("the relay is ending");
    relay.stop();
    daemon.end();
    let _ = forwarding.join();
    Ok(ExitCode::SUCCESS)
}

/// Pairs and their sources, as `NAME=PEER` and `NAME=FILE` say.
fn bound_pairs(args: &RelayArgs, place: &Place) -> Result<BTreeMap<String, Bound>> {
    let known = TrustStore::new(place.credentials()?).peers().map_err(|error| refused(&error))?;
    let split = |text: &str| {
        let parts = text.rsplit_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let text = text.escape_debug().to_string();
        parts.ok_or_else(|| JobError::Refused(format!("\"{text}\" is not understood: write NAME=VALUE")))
    };
    let mut keys = BTreeMap::new();
    for text in &args.trusted_key {
        let (name, file) = split(text)?;
        keys.insert(name, files::trusted_key(file.as_ref())?);
    }
    let mut bound = BTreeMap::new();
    for text in &args.pair {
        let (name, peer) = split(text)?;
        let source = match peer.parse::<Fingerprint>() {
            Ok(key) => key,
            Err(_) => {
                let found = known.iter().find(|known| known.name.as_str() == peer && known.revoked.is_none());
                let peer = peer.escape_debug();
                found.map(|known| known.fingerprint).ok_or_else(|| {
                    JobError::Refused(format!(
                        "no peer is called \"{peer}\": failback enroll list tells which there are"
                    ))
                })?
            }
        };
        let signer: Option<VerifyingKey> = keys.remove(&name);
        bound.insert(name, Bound { source, rules: PairRules { signer } });
    }
    match keys.keys().next() {
        None => Ok(bound),
        Some(name) => {
            let name = name.escape_debug();
            Err(JobError::Refused(format!("a key is given for \"{name}\", which is no pair: add --pair {name}=PEER"))
                .into())
        }
    }
}

fn status(args: &RelayArgs, place: &Place) -> Result<ExitCode> {
    let Some(daemon) = Control::of_daemon(place)? else {
        return Err(JobError::Refused("no relay runs with this state: name its directory with --state".into()).into());
    };
    let status: StatusJson = daemon.look(PATH, "", ANSWER_WITHIN)?;
    let mut lines = Lines::default();
    lines.add("kept", format!("{} of {}", HumanBytes(status.bytes), HumanBytes(status.limit)));
    for pair in &status.pairs {
        let oldest = pair.oldest_seconds.map(|age| format!(", the oldest for {age} s")).unwrap_or_default();
        let mut text = format!("{} deltas wait with {}{oldest}", pair.deltas, HumanBytes(pair.bytes));
        for more in [&pair.held, &pair.last_error].into_iter().flatten() {
            text = format!("{text}\n{more}");
        }
        lines.add(&pair.pair, text);
    }
    print(args.json, &status, &lines)?;
    Ok(ExitCode::SUCCESS)
}
