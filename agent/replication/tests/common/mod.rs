//! A target in memory, connections to it that break, and whoever sends.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several tests; a test fails by panicking"
)]

use failback_blockio::sim::{SimDisk, World};
use failback_delta::{FreeBlocks, Identity, PointKind};
use failback_hashtree::{Root, Shape};
use failback_orchestrate::{
    ApplyOptions, BaseTree, BlockSize, ByteCount, Compression, DeltaInput, DiffOptions, DiskBinding, FreeMap, Intent,
    IntentError, IntentStore, JobError, LocalBase, Progress, Silent, StoredTree, VerifyingKey, advance_tree, apply,
    build_tree,
};
use failback_replication::{
    Backoff, Connector, Finish, Link, Offer, Offered, PassOptions, PassReport, Replica, SessionError, SessionReport,
    Spool, send_pass, serve_session,
};
use failback_units::ByteOffset;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("failback test noise").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[derive(Default)]
struct MemoryIntents(Option<Intent>);

impl IntentStore for MemoryIntents {
    fn load(&mut self) -> Result<Option<Intent>, IntentError> {
        Ok(self.0)
    }
    fn save(&mut self, intent: &Intent) -> Result<(), IntentError> {
        self.0 = Some(*intent);
        Ok(())
    }
    fn clear(&mut self) -> Result<(), IntentError> {
        self.0 = None;
        Ok(())
    }
    fn place(&self) -> String {
        "memory".into()
    }
}

/// A target disk, its tree, and its spool.
pub struct Target {
    pub disk: SimDisk,
    pub directory: tempfile::TempDir,
    spool: Mutex<Spool>,
    /// The delta that was applied last.
    applied: Mutex<Option<([u8; 32], Root)>>,
    pub applies: AtomicU64,
    /// The pair that it belongs to.
    pub pair: Mutex<String>,
    /// Who has to have signed what is applied.
    pub trusted: Mutex<Option<VerifyingKey>>,
}

pub fn disk_of(content: &[u8]) -> SimDisk {
    let disk = World::new(3).disk("disk", ByteCount::of_memory(content.len()), 512);
    disk.write_durably(ByteOffset::ZERO, content);
    disk
}

impl Target {
    pub fn new(content: &[u8], free: &FreeBlocks) -> Arc<Self> {
        let disk = disk_of(content);
        let directory = tempfile::tempdir().unwrap();
        let shape = Shape::new(ByteCount::of_memory(content.len()), BlockSize::MIN);
        build_tree(&disk, shape, free, &directory.path().join("tree"), 1, &Silent).unwrap();
        let spool = Mutex::new(Spool::open(&directory.path().join("spool")).unwrap());
        Arc::new(Self {
            disk,
            directory,
            spool,
            applied: Mutex::default(),
            applies: AtomicU64::new(0),
            trusted: Mutex::default(),
            pair: Mutex::new("pair".into()),
        })
    }

    fn tree_path(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    pub fn spool_path(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    /// The program stops and starts again: what is not in files is forgotten.
    pub fn restart(&self) {
        *self.spool.lock().unwrap() = Spool::open(&self.spool_path()).unwrap();
    }

    pub fn spooled(&self) -> u64 {
        self.spool.lock().unwrap().len()
    }

    pub fn durable(&self) -> u64 {
        self.spool.lock().unwrap().durable()
    }

    pub fn serve(&self, link: Link) -> Result<SessionReport, SessionError> {
        let tree = StoredTree::open(&self.tree_path()).unwrap();
        let mut replica = Served { target: self, base: LocalBase { tree: &tree, device: &self.disk } };
        serve_session(link, &Arc::default(), &mut replica)
    }
}

struct Served<'a> {
    target: &'a Target,
    base: LocalBase<'a>,
}

impl Replica for Served<'_> {
    fn offer(&mut self, offer: &Offer) -> Result<Offered, JobError> {
        if offer.pair != *self.target.pair.lock().unwrap() {
            return Err(JobError::Refused(format!("there is no pair {}: add it with pair add", offer.pair)));
        }
        let applied = *self.target.applied.lock().unwrap();
        match (offer.resumed, applied) {
            (Some(resumed), Some((key, root))) if resumed.delta == key => Ok(Offered::Applied(root)),
            _ => Ok(Offered::Ready),
        }
    }

    fn base(&self) -> Result<&dyn BaseTree, JobError> {
        Ok(&self.base)
    }

    fn spool(&self) -> &Mutex<Spool> {
        &self.target.spool
    }

    fn apply(&mut self, expected: Root) -> Result<Root, JobError> {
        let target = self.target;
        let mut file = File::open(target.spool_path()).unwrap();
        let trusted = *target.trusted.lock().unwrap();
        let disk = DiskBinding { id: [7; 32], certain: true };
        let options = ApplyOptions { disk, trusted, ..ApplyOptions::default() };
        let mut intents = MemoryIntents::default();
        let report = apply(&target.disk, DeltaInput::File(&mut file), &mut intents, &options, &Silent)?;
        assert_eq!(report.result_root, expected);
        let next = target.directory.path().join("next");
        advance_tree(self.base.tree, File::open(target.spool_path()).unwrap(), &next)?;
        fs::rename(next, target.tree_path()).unwrap();
        let mut spool = target.spool.lock().unwrap();
        *target.applied.lock().unwrap() = Some((spool.key().unwrap(), report.result_root));
        spool.cut(0).unwrap();
        target.applies.fetch_add(1, Ordering::Relaxed);
        Ok(report.result_root)
    }
}

/// Breaks after so many bytes, in both directions together.
struct Fuse {
    left: Arc<Mutex<u64>>,
    stream: UnixStream,
}

impl Fuse {
    fn burn(&self, wanted: usize) -> io::Result<usize> {
        let mut left = self.left.lock().unwrap();
        let now = usize::try_from(*left).unwrap_or(usize::MAX).min(wanted);
        if now == 0 {
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        *left -= now as u64;
        Ok(now)
    }
}

impl Read for Fuse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(64 << 10);
        let mut piece = vec![0; len];
        let read = self.stream.read(&mut piece)?;
        if read == 0 {
            return Ok(0);
        }
        let now = self.burn(read)?;
        buffer[..now].copy_from_slice(&piece[..now]);
        if now < read { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(now) }
    }
}

impl Write for Fuse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now = self.burn(bytes.len())?;
        self.stream.write(&bytes[..now])
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As many bytes as it takes until a message of this kind would come: how many those are depends on how the delta is cut into messages.
pub const fn until(kind: u8) -> u64 {
    u64::MAX - kind as u64
}

/// Breaks in the place of the first message of a kind.
struct Until {
    kind: u8,
    stream: UnixStream,
}

impl Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read_exact(buffer)?;
        // The head of a message is read by itself. A length has no such byte there.
        if buffer.len() == 8 && buffer[4] == self.kind {
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(buffer.len())
    }
}

/// A connection over a socket, which breaks after so many bytes.
pub fn link_over(stream: &UnixStream, bytes: u64) -> Link {
    if let Some(kind) = u8::try_from(u64::MAX - bytes).ok().filter(|kind| *kind > 0) {
        let reader = Box::new(Until { kind, stream: stream.try_clone().unwrap() });
        return Link { reader, ..link_over(stream, u64::MAX) };
    }
    let left = Arc::new(Mutex::new(bytes));
    let fuse = || Fuse { left: Arc::clone(&left), stream: stream.try_clone().unwrap() };
    let broken = stream.try_clone().unwrap();
    Link {
        reader: Box::new(fuse()),
        writer: Box::new(fuse()),
        breaker: Arc::new(move || drop(broken.shutdown(std::net::Shutdown::Both))),
    }
}

/// Connects to a target in this process. How many bytes a connection lasts is told by its number, from 0, before it is made.
pub struct Near<F> {
    pub target: Arc<Target>,
    pub lasts: F,
    pub made: AtomicU64,
    pub sessions: Mutex<Vec<JoinHandle<Result<SessionReport, SessionError>>>>,
}

impl<F: Fn(u64) -> u64 + Sync> Near<F> {
    pub fn new(target: &Arc<Target>, lasts: F) -> Self {
        Self { target: Arc::clone(target), lasts, made: AtomicU64::new(0), sessions: Mutex::default() }
    }

    pub fn ended(&self) -> Vec<Result<SessionReport, SessionError>> {
        self.sessions.lock().unwrap().drain(..).map(|session| session.join().unwrap()).collect()
    }
}

impl<F: Fn(u64) -> u64 + Sync> Connector for Near<F> {
    fn connect(&self) -> io::Result<Link> {
        // One session at a time, as a target keeps it for one pair.
        let last = self.sessions.lock().unwrap().pop();
        if let Some(last) = last {
            let _ = last.join().unwrap();
        }
        let lasts = (self.lasts)(self.made.fetch_add(1, Ordering::Relaxed));
        let (near, far) = UnixStream::pair()?;
        let target = Arc::clone(&self.target);
        let session = thread::spawn(move || target.serve(link_over(&far, u64::MAX)));
        self.sessions.lock().unwrap().push(session);
        Ok(link_over(&near, lasts))
    }
}

pub fn options(free: Option<&FreeMap>, id: u8) -> PassOptions<'_> {
    PassOptions {
        pair: "pair".into(),
        diff: DiffOptions {
            free,
            kind: PointKind::Crash,
            created: 0,
            id: [id; 16],
            identity: Identity::default(),
            compression: &Compression::LIGHTEST,
            threads: 1,
            signer: None,
            before_end: &|| Ok(()),
        },
        adaptive: None,
        backoff: Backoff {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(2),
            attempts: 5,
            patience: Duration::MAX,
        },
        journal: None,
        moment: Some([1; 32]),
        finish: Finish::Applied,
        mark: None,
    }
}

pub fn send(connector: &dyn Connector, source: &SimDisk, id: u8) -> Result<PassReport, SessionError> {
    send_pass(connector, source, &options(None, id), &Silent)
}

pub struct Notes(pub Mutex<Vec<String>>);

impl Progress for Notes {
    fn phase(&self, _: &'static str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn note(&self, sentence: &str) {
        self.0.lock().unwrap().push(sentence.into());
    }
    fn stop_requested(&self) -> bool {
        false
    }
}
