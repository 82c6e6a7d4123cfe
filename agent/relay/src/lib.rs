//! The process server: it stands near the sources of disks, takes their deltas as a target would, and sends them on to the master
//! target over a link that may be slow, or away for a while.
//!
//! - It answers comparisons from a tree on its own disk, so that the slow link carries little but deltas.
//! - What it has said to be stored is durable here, and is forgotten only when the target has applied it. Deltas of a pair are sent on
//!   byte for byte and in their order; pairs do not wait for each other.
//! - It cannot forge: a target takes from it only what the source has signed
//!   ([`required_signer`](failback_replication::required_signer)), and proves every byte of that.
//! - It holds a bounded amount of everything. When it is full, sources wait.
//!
//! [`Relay::serve`] is one connection of a source, [`Relay::run`] the way to the targets. Who may connect, and how a target is
//! reached, is said by [`Gate`] and [`Hooks`]: keys and TLS are somebody else's. `RELAY.md` describes the directory.
#![forbid(unsafe_code)]

mod base;
mod files;
mod forward;
mod leaves;
mod ledger;
mod pair;
mod session;
mod status;

pub use forward::Step;
pub use status::{PairStatus, Status};

use crate::files::{directory_name, pair_of, sync_directory};
use crate::ledger::Ledger;
use crate::pair::Pair;
use crate::session::Session;
use failback_orchestrate::{ByteCount, JobError, VerifyingKey};
use failback_replication::{Backoff, Link, Offer, SessionError, SessionReport, Traffic, serve_session};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the relay has to know of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairRules {
    /// Whose signature deltas have to bear, so that what the target will refuse is refused here, while the source is there to hear
    /// it. The target compares it all the same.
    pub signer: Option<VerifyingKey>,
    /// Whether deltas have to be signed, by whomever: what a master target asks of all that comes through a relay.
    pub signed: bool,
}

/// Which pairs there are, and how their targets are reached.
pub trait Hooks: Send + Sync {
    /// What is to be known of a pair; `None` if this relay does not serve it.
    fn pair(&self, name: &str) -> Option<PairRules>;

    /// Connects to the target of a pair once. The connection says who this relay is.
    ///
    /// # Errors
    ///
    /// When it cannot be reached now: it is tried again later.
    fn connect(&self, pair: &str) -> io::Result<Link>;

    /// Something that an administrator should know, in a sentence.
    fn note(&self, pair: &str, sentence: &str) {
        let _ = (pair, sentence);
    }
}

/// What the other side of one connection may do, by the key that the connection was made with.
pub trait Gate: Send + Sync {
    /// Looks at an offer before anything is done for it.
    ///
    /// # Errors
    ///
    /// When this peer may not send this source for this pair: the sentence goes to it.
    fn admit(&self, offer: &Offer) -> Result<(), JobError>;
}

/// How many bytes of deltas the relay keeps. The trees, 0.05 % of the disks, and the caches come on top of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For all pairs together.
    pub total: u64,
    /// For one pair, and so for one delta: at most `total`.
    pub pair: u64,
}

/// How a relay works.
#[derive(Clone, Copy, Debug)]
pub struct RelayOptions {
    /// How many bytes it keeps.
    pub limits: Limits,
    /// Pairs that it keeps something of.
    pub pairs: usize,
    /// The largest disk that a source may have. Its tree is stored here.
    pub largest_disk: ByteCount,
    /// Bytes of the cache of each pair for values of blocks: 520 for each 64 KiB of a disk that was compared block by block.
    pub leaf_bytes: u64,
    /// Pairs whose targets are spoken to at the same time.
    pub forwarders: usize,
    /// How long to wait before a target is tried again, and how long at most.
    pub backoff: Backoff,
    /// How long a source waits at the start of a pass for the tree of a target that cannot be reached.
    pub patience: Duration,
}

impl RelayOptions {
    /// The usual options with some limits: 1024 pairs with disks of up to 64 TiB, caches of 64 MiB, 8 targets at a time, a minute of
    /// patience.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            pairs: 1024,
            largest_disk: ByteCount::new(64 << 40).unwrap_or_default(),
            leaf_bytes: 64 << 20,
            forwarders: 8,
            backoff: Backoff::default(),
            patience: Duration::from_secs(60),
        }
    }
}

/// Why a relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Another one uses the directory.
    #[error("the relay's directory {} is in use by another process: stop that, or give this relay another directory", .0.display())]
    InUse(PathBuf),
    /// What is in it cannot be used.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The limits contradict each other.
    #[error(
        "a pair may have {pair} bytes of the spool and all pairs together only {total}: raise the one or lower the other"
    )]
    Limits {
        /// For one pair.
        pair: u64,
        /// For all.
        total: u64,
    },
}

/// A relay.
pub struct Relay {
    path: PathBuf,
    options: RelayOptions,
    hooks: Arc<dyn Hooks>,
    ledger: Arc<Ledger>,
    pairs: Mutex<BTreeMap<String, Arc<Pair>>>,
    stopping: AtomicBool,
    work: Mutex<()>,
    work_there: Condvar,
    _lock: Flock<File>,
}

impl Relay {
    /// Opens the directory of a relay, or makes it, and finishes what was interrupted there.
    ///
    /// # Errors
    ///
    /// When another process uses it, it cannot be read or written, or the limits contradict each other.
    pub fn open(path: &Path, options: RelayOptions, hooks: Arc<dyn Hooks>) -> Result<Self, RelayError> {
        let Limits { total, pair } = options.limits;
        if pair > total {
            return Err(RelayError::Limits { pair, total });
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(files::failed("create", path, error).into());
            }
            _ => {}
        }
        let lock_path = path.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let file = file.map_err(|error| files::failed("open", &lock_path, error))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Err(RelayError::InUse(path.to_owned())),
            Err((_, errno)) => return Err(files::failed("lock", &lock_path, errno.into()).into()),
        };
        sync_directory(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        let relay = Self {
            path: path.to_owned(),
            options,
            hooks,
            ledger: Arc::new(Ledger::new(options.limits)),
            pairs: Mutex::default(),
            stopping: AtomicBool::new(false),
            work: Mutex::default(),
            work_there: Condvar::new(),
            _lock: lock,
        };
        relay.open_pairs()?;
        Ok(relay)
    }

    fn open_pairs(&self) -> Result<(), JobError> {
        let read = |error| files::failed("read", &self.path, error);
        for entry in fs::read_dir(&self.path).map_err(read)? {
            let name = entry.map_err(read)?.file_name();
            if let Some(pair) = name.to_str().and_then(pair_of) {
                let opened = self.open_pair(&pair)?;
                self.lock_pairs().insert(pair, opened);
            }
        }
        Ok(())
    }

    fn open_pair(&self, name: &str) -> Result<Arc<Pair>, JobError> {
        let path = self.path.join(directory_name(name));
        let (pair, remarks) = Pair::open(name, &path, self.options.leaf_bytes, &self.ledger)?;
        for remark in remarks {
            self.hooks.note(name, &remark);
        }
        Ok(Arc::new(pair))
    }

    /// Serves one source over one connection.
    ///
    /// # Errors
    ///
    /// As of [`serve_session`]. What arrived until then stays here.
    pub fn serve(&self, link: Link, gate: &dyn Gate, traffic: &Arc<Traffic>) -> Result<SessionReport, SessionError> {
        let breaker = Arc::clone(&link.breaker);
        serve_session(link, traffic, &mut Session::new(self, gate, breaker))
    }

    /// Does one thing for a pair that [`run`](Self::run) would do: sends on a delta, or asks what is to be known.
    pub fn step_of(&self, pair: &str) -> Step {
        let pair = self.lock_pairs().get(pair).cloned();
        pair.map_or(Step::Nothing, |pair| self.step(&pair))
    }

    /// Ends all sessions and connections. What is durable stays; the rest comes again.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        for pair in self.pairs() {
            let state = pair.lock();
            if let Some((_, token, breaker)) = &state.session {
                // The connection first, so that nobody is refused.
                breaker();
                token.supersede();
            }
            if let Some(breaker) = &state.upstream {
                breaker();
            }
            drop(state);
            pair.questions.wake();
            pair.notify();
        }
        self.work_there.notify_all();
    }

    /// What waits, and what is wrong.
    #[must_use]
    pub fn status(&self) -> Status {
        let (bytes, limit) = (self.ledger.total(), self.options.limits.total);
        let of = |pair: &Arc<Pair>| PairStatus::of(pair, self.ledger.share(&pair.name), bytes, limit);
        Status { bytes, limit, pairs: self.pairs().iter().map(of).collect() }
    }

    /// Lets a pair whose target failed be tried at once.
    pub fn try_now(&self, pair: &str) {
        if let Some(pair) = self.lock_pairs().get(pair) {
            pair.lock().not_before = None;
        }
        self.poke();
    }

    /// Removes what is kept aside of a pair, since it can never be applied. Returns how many deltas that were, and how many bytes.
    ///
    /// # Errors
    ///
    /// When there is no such pair, or a file cannot be removed.
    pub fn drop_aside(&self, pair: &str) -> Result<(u64, u64), JobError> {
        self.known(pair)?.drop_aside()
    }

    /// Gives up what waits for the target of a pair, and what this relay knows of the target: the deltas are kept aside, sources begin
    /// again from what the target has, and nothing is sent on. For a delta that the target will never take. Returns how many deltas
    /// that are.
    ///
    /// # Errors
    ///
    /// When there is no such pair, one of its deltas is being sent, or a file cannot be renamed.
    pub fn give_up(&self, pair: &str) -> Result<u64, JobError> {
        let pair = self.known(pair)?;
        {
            let mut state = pair.lock();
            if state.is_busy {
                let why = format!(
                    "pair {} is speaking to its target: wait until that ends, or cut the connection",
                    pair.name
                );
                return Err(JobError::Refused(why));
            }
            state.is_busy = true;
        }
        let lost = pair.lose_base("an administrator has given up what waited for the target");
        pair.lock().is_busy = false;
        pair.notify();
        lost
    }

    fn known(&self, pair: &str) -> Result<Arc<Pair>, JobError> {
        let no_pair = || JobError::Refused(format!("this relay has nothing of a pair {pair}: look at its status"));
        self.lock_pairs().get(pair).cloned().ok_or_else(no_pair)
    }

    /// The pair of this name, which may be new here.
    fn pair(&self, name: &str) -> Result<Arc<Pair>, JobError> {
        let mut pairs = self.lock_pairs();
        if let Some(pair) = pairs.get(name) {
            return Ok(Arc::clone(pair));
        }
        if pairs.len() >= self.options.pairs {
            return Err(JobError::Refused(format!(
                "this relay keeps something of {} pairs already, and of no more: raise that limit, or remove the directory of a pair \
                 that is no more",
                pairs.len()
            )));
        }
        let pair = self.open_pair(name)?;
        pairs.insert(name.to_owned(), Arc::clone(&pair));
        Ok(pair)
    }

    fn pairs(&self) -> Vec<Arc<Pair>> {
        self.lock_pairs().values().cloned().collect()
    }

    fn lock_pairs(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Pair>>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hooks(&self) -> &dyn Hooks {
        &*self.hooks
    }

    const fn options(&self) -> &RelayOptions {
        &self.options
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    const fn work_lock(&self) -> &Mutex<()> {
        &self.work
    }

    const fn work_there(&self) -> &Condvar {
        &self.work_there
    }

    /// There may be something to do.
    fn poke(&self) {
        self.work_there.notify_all();
    }
}
