//! A relay between sources and targets in memory, over links that are counted, break, and can be down.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several tests; a test fails by panicking"
)]

#[path = "../../../replication/tests/common/mod.rs"]
pub mod target;

pub use target::{Target, disk_of, link_over, noise};

use failback_blockio::sim::SimDisk;
use failback_delta::FreeBlocks;
use failback_orchestrate::{JobError, SigningKey, Silent, VerifyingKey};
use failback_relay::{Gate, Hooks, Limits, PairRules, PairStatus, Relay, RelayOptions, Step};
use failback_replication::{
    Backoff, Connector, Finish, Link, Offer, PassOptions, PassReport, SessionError, SessionReport, send_pass,
};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const DISK: usize = 4 << 20;

pub const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
pub const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

/// A disk of which every so many bytes, or so, one is another.
pub fn changed(base: &[u8], step: usize) -> Vec<u8> {
    let mut result = base.to_vec();
    result.iter_mut().skip(step / 2).step_by(step).for_each(|byte| *byte ^= 1);
    result
}

pub fn quick() -> Backoff {
    Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(2), attempts: 5, patience: Duration::MAX }
}

/// Waits for something that has to come.
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !ready() {
        assert!(Instant::now() < until, "{what} does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Reads and writes, counted.
struct Counted<T>(T, Arc<AtomicU64>);

impl<T: Read> Read for Counted<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl<T: Write> Write for Counted<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

type Lasts = Box<dyn Fn(u64) -> u64 + Send + Sync>;

/// The slow link to the target of one pair.
pub struct Far {
    pub target: Mutex<Arc<Target>>,
    pub is_up: AtomicBool,
    /// Bytes in both directions.
    pub bytes: Arc<AtomicU64>,
    pub connections: AtomicU64,
    /// How many bytes a connection lasts, by its number.
    pub lasts: Mutex<Lasts>,
    last: Mutex<Option<JoinHandle<Result<SessionReport, SessionError>>>>,
    /// Whose signature the relay asks for.
    pub signer: Mutex<Option<VerifyingKey>>,
    /// Whether it asks for one at all.
    pub signed: AtomicBool,
    /// What stands in the place of the target, if something does.
    pub impostor: Mutex<Option<Vec<u8>>>,
}

impl Far {
    pub fn new(target: &Arc<Target>) -> Self {
        Self {
            target: Mutex::new(Arc::clone(target)),
            is_up: AtomicBool::new(true),
            bytes: Arc::default(),
            connections: AtomicU64::new(0),
            lasts: Mutex::new(Box::new(|_| u64::MAX)),
            last: Mutex::default(),
            signer: Mutex::default(),
            signed: AtomicBool::new(false),
            impostor: Mutex::default(),
        }
    }

    pub fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
    }

    pub fn taken(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
    }

    fn connect(&self) -> io::Result<Link> {
        if !self.is_up.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        // One session at a time, as a target keeps it for one pair.
        let mut last = self.last.lock().unwrap();
        if let Some(last) = last.take() {
            let _ = last.join().unwrap();
        }
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let lasts = (self.lasts.lock().unwrap())(number);
        let (near, far) = UnixStream::pair()?;
        if let Some(says) = self.impostor.lock().unwrap().clone() {
            thread::spawn(move || {
                let mut reader = far.try_clone().unwrap();
                thread::spawn(move || drop(io::copy(&mut reader, &mut io::sink())));
                let _ = (&far).write_all(&says);
                thread::sleep(Duration::from_millis(30));
                let _ = far.shutdown(std::net::Shutdown::Both);
            });
        } else {
            let target = Arc::clone(&self.target.lock().unwrap());
            *last = Some(thread::spawn(move || target.serve(link_over(&far, u64::MAX))));
        }
        drop(last);
        let Link { reader, writer, breaker } = link_over(&near, lasts);
        let counted = || Arc::clone(&self.bytes);
        let (reader, writer) = (Box::new(Counted(reader, counted())), Box::new(Counted(writer, counted())));
        Ok(Link { reader, writer, breaker })
    }
}

/// The slow links, by pairs.
#[derive(Default)]
pub struct Links {
    pub far: Mutex<BTreeMap<String, Arc<Far>>>,
    pub notes: Mutex<Vec<String>>,
}

impl Hooks for Links {
    fn pair(&self, name: &str) -> Option<PairRules> {
        let far = Arc::clone(self.far.lock().unwrap().get(name)?);
        let signer = *far.signer.lock().unwrap();
        Some(PairRules { signer, signed: far.signed.load(Ordering::Relaxed) })
    }
    fn connect(&self, pair: &str) -> io::Result<Link> {
        let far = Arc::clone(self.far.lock().unwrap().get(pair).unwrap());
        far.connect()
    }
    fn note(&self, pair: &str, sentence: &str) {
        self.notes.lock().unwrap().push(format!("{pair}: {sentence}"));
    }
}

/// Lets everybody in.
pub struct Open;

impl Gate for Open {
    fn admit(&self, _: &Offer) -> Result<(), JobError> {
        Ok(())
    }
}

pub fn relay_options() -> RelayOptions {
    RelayOptions {
        backoff: Backoff { attempts: 2, ..quick() },
        patience: Duration::from_secs(20),
        leaf_bytes: 1 << 20,
        ..RelayOptions::new(Limits { total: 1 << 30, pair: 1 << 28 })
    }
}

/// A relay, and the pairs that it serves.
pub struct Site {
    pub relay: Arc<Relay>,
    pub links: Arc<Links>,
    pub directory: tempfile::TempDir,
    pub options: RelayOptions,
}

impl Site {
    pub fn new(options: RelayOptions) -> Self {
        let (links, directory) = (Arc::<Links>::default(), tempfile::tempdir().unwrap());
        let path = directory.path().join("relay");
        let relay = Arc::new(Relay::open(&path, options, Arc::clone(&links) as Arc<dyn Hooks>).unwrap());
        Self { relay, links, directory, options }
    }

    /// One pair, whose target holds this.
    pub fn with(content: &[u8]) -> (Self, Arc<Far>, Arc<Target>) {
        let site = Self::new(relay_options());
        let (far, target) = site.add("pair", content);
        (site, far, target)
    }

    pub fn add(&self, pair: &str, content: &[u8]) -> (Arc<Far>, Arc<Target>) {
        let target = Target::new(content, &FreeBlocks::NONE);
        *target.pair.lock().unwrap() = pair.into();
        let far = Arc::new(Far::new(&target));
        self.links.far.lock().unwrap().insert(pair.into(), Arc::clone(&far));
        (far, target)
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("relay")
    }

    pub fn pair_path(&self, pair: &str) -> PathBuf {
        self.path().join(format!("pair-{pair}"))
    }

    /// The names of the files of a pair.
    pub fn names(&self, pair: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.pair_path(pair)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The program stops and starts again. All sessions have ended.
    pub fn restart(&mut self) {
        self.close();
        let hooks = Arc::clone(&self.links) as Arc<dyn Hooks>;
        self.relay = Arc::new(Relay::open(&self.path(), self.options, hooks).unwrap());
    }

    /// The program stops. Another relay without anything takes its place.
    pub fn close(&mut self) {
        self.relay.stop();
        let none = tempfile::tempdir().unwrap();
        let hooks = Arc::clone(&self.links) as Arc<dyn Hooks>;
        let mut old = Arc::new(Relay::open(none.path(), self.options, hooks).unwrap());
        std::mem::swap(&mut old, &mut self.relay);
        wait_for("the end of all sessions", || Arc::strong_count(&old) == 1);
    }

    pub fn status(&self, pair: &str) -> PairStatus {
        self.relay.status().pairs.into_iter().find(|status| status.pair == pair).unwrap()
    }

    /// Forwards until nothing is left to do, or something goes wrong.
    pub fn forward(&self, pair: &str) -> Step {
        loop {
            self.relay.try_now(pair);
            match self.relay.step_of(pair) {
                Step::Forwarded | Step::Asked => {}
                other => return other,
            }
        }
    }

    /// Does the relay's work in threads until the returned guard goes.
    pub fn running(&self) -> Running {
        let relay = Arc::clone(&self.relay);
        let worker = Arc::clone(&relay);
        Running { relay, thread: Some(thread::spawn(move || worker.run())) }
    }
}

pub struct Running {
    relay: Arc<Relay>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.relay.stop();
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

/// Connects a source to the relay.
pub struct Near {
    pub relay: Arc<Relay>,
    pub lasts: Lasts,
    pub made: AtomicU64,
    pub ended: Arc<Mutex<Vec<Result<SessionReport, SessionError>>>>,
}

impl Near {
    pub fn new(site: &Site) -> Self {
        Self::lasting(site, |_| u64::MAX)
    }

    pub fn lasting(site: &Site, lasts: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Self {
        let (made, ended) = (AtomicU64::new(0), Arc::default());
        Self { relay: Arc::clone(&site.relay), lasts: Box::new(lasts), made, ended }
    }
}

impl Connector for Near {
    fn connect(&self) -> io::Result<Link> {
        let lasts = (self.lasts)(self.made.fetch_add(1, Ordering::Relaxed));
        let (near, far) = UnixStream::pair()?;
        let (relay, ended) = (Arc::clone(&self.relay), Arc::clone(&self.ended));
        thread::spawn(move || {
            let report = relay.serve(link_over(&far, u64::MAX), &Open, &Arc::default());
            drop(relay);
            ended.lock().unwrap().push(report);
        });
        Ok(link_over(&near, lasts))
    }
}

pub fn pass(pair: &str, id: u8, finish: Finish) -> PassOptions<'static> {
    PassOptions { pair: pair.into(), finish, backoff: quick(), ..target::options(None, id) }
}

/// A pass that ends when the relay has it.
pub fn store(site: &Site, source: &SimDisk, id: u8) -> Result<PassReport, SessionError> {
    send_pass(&Near::new(site), source, &pass("pair", id, Finish::Stored), &Silent)
}

pub fn signing_key() -> SigningKey {
    SigningKey::from_pem(PRIVATE).unwrap()
}

pub fn verifying_key() -> VerifyingKey {
    VerifyingKey::from_pem(PUBLIC).unwrap()
}
