//! A master target with real files: VMDKs, recovery points, spools, and a source at the other end of a socket.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod passes;
mod refusals;
mod stops;

use failback_control::state::{Direction, NewPair, SourceDisk};
use failback_control::{Caller, MasterTarget, Settings, target_of};
use failback_orchestrate::{
    ByteCount, Compression, DiffOptions, Engine, Identity, NewDisk, PointKind, Progress, Root, Silent,
    SourceDisk as OpenedSource, SourceOptions, Subformat, create_vmdk,
};
use failback_replication::{
    Backoff, Connector, Finish, Link, PassOptions, PassReport, SessionError, SessionReport, send_pass,
};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tempfile::TempDir;

/// The size of the disks in these tests: enough for several frames and a ragged end of nodes.
const SIZE: usize = (5 << 20) + 4096;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = std::iter::repeat_with(|| next().to_le_bytes()).take(len.div_ceil(8));
    let mut bytes: Vec<u8> = words.flatten().collect();
    bytes.truncate(len);
    bytes
}

/// A directory with a source, a target and a retention drive.
struct Lab {
    directory: TempDir,
}

impl Lab {
    /// Both disks hold the same, and are bound as `pair`.
    fn new() -> Self {
        let lab = Self { directory: tempfile::tempdir().unwrap() };
        let content = noise(1, SIZE);
        fs::write(lab.path("source.img"), &content).unwrap();
        fs::create_dir(lab.path("retention")).unwrap();
        let new = NewDisk {
            subformat: Subformat::MonolithicFlat,
            capacity: ByteCount::of_memory(SIZE),
            adapter: "lsilogic".into(),
            hardware_version: 14,
            uuid: None,
            cid: 7,
            zeroed_grains: false,
        };
        create_vmdk(&lab.path("target.vmdk"), &new, Engine::Blocking).unwrap();
        lab.write_target(0, &content);
        let master = lab.master();
        master.state().add_pair(&lab.pair(), 0).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn pair(&self) -> NewPair {
        NewPair {
            name: "pair".into(),
            peer: None,
            source: SourceDisk::Named(self.path("source.img").to_str().unwrap().into()),
            target: target_of(&self.path("target.vmdk")).unwrap().0,
            direction: Direction::Receive,
            retention: self.path("retention"),
            new_disk: false,
            signer: None,
        }
    }

    fn master(&self) -> Arc<MasterTarget> {
        let settings = Settings { engine: Engine::Blocking, threads: 1, ..Settings::default() };
        MasterTarget::open(&self.path("state"), settings).unwrap()
    }

    fn write_source(&self, at: u64, bytes: &[u8]) {
        let file = fs::OpenOptions::new().write(true).open(self.path("source.img")).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    fn write_target(&self, at: u64, bytes: &[u8]) {
        let file = fs::OpenOptions::new().write(true).open(self.path("target-flat.vmdk")).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    fn source(&self) -> Vec<u8> {
        fs::read(self.path("source.img")).unwrap()
    }

    fn target(&self) -> Vec<u8> {
        fs::read(self.path("target-flat.vmdk")).unwrap()
    }

    /// The recovery points, as roots and kinds, the oldest first.
    fn points(&self) -> Vec<(Root, PointKind)> {
        let disk = target_of(&self.path("target.vmdk")).unwrap().1;
        let found = failback_orchestrate::look_at_points(&self.path("retention"), &disk).unwrap();
        let (store, _) = found.unwrap();
        store.catalogue().points().iter().map(|point| (point.root, point.kind)).collect()
    }
}

/// Connections to a master target in this process, which break after so many bytes from the target if their number says so.
struct Near {
    master: Arc<MasterTarget>,
    caller: Caller,
    lasts: fn(u64) -> u64,
    made: AtomicU64,
    sessions: Mutex<Vec<JoinHandle<Result<SessionReport, SessionError>>>>,
}

impl Near {
    fn new(master: &Arc<MasterTarget>) -> Self {
        Self {
            master: Arc::clone(master),
            caller: Caller::Local,
            lasts: |_| u64::MAX,
            made: AtomicU64::new(0),
            sessions: Mutex::default(),
        }
    }

    fn ended(&self) -> Vec<Result<SessionReport, SessionError>> {
        self.sessions.lock().unwrap().drain(..).map(|session| session.join().unwrap()).collect()
    }
}

fn link(stream: &UnixStream, lasts: u64) -> Link {
    let broken = stream.try_clone().unwrap();
    Link {
        reader: Box::new(stream.try_clone().unwrap().take(lasts)),
        writer: Box::new(stream.try_clone().unwrap()),
        breaker: Arc::new(move || drop(broken.shutdown(std::net::Shutdown::Both))),
    }
}

impl Connector for Near {
    fn connect(&self) -> io::Result<Link> {
        let lasts = (self.lasts)(self.made.fetch_add(1, Ordering::Relaxed));
        let (near, far) = UnixStream::pair()?;
        let (master, caller) = (Arc::clone(&self.master), self.caller.clone());
        let session = thread::spawn(move || master.session(link(&far, u64::MAX), &caller));
        self.sessions.lock().unwrap().push(session);
        Ok(link(&near, lasts))
    }
}

/// Sends the source of a lab, by the name that its path is.
fn send(connector: &dyn Connector, source: &Path, kind: PointKind) -> Result<PassReport, SessionError> {
    send_by_name(connector, source, kind, source.to_str().unwrap())
}

fn send_by_name(
    connector: &dyn Connector,
    path: &Path,
    kind: PointKind,
    name: &str,
) -> Result<PassReport, SessionError> {
    let source = OpenedSource::open(path, SourceOptions { engine: Engine::Blocking, fuzzy: false }).unwrap();
    let mut id = [0; 16];
    getrandom::fill(&mut id).unwrap();
    let identity = Identity { name: Some(name.into()), ..Identity::default() };
    let options = PassOptions {
        pair: "pair".into(),
        diff: DiffOptions {
            free: None,
            kind,
            created: 0,
            id,
            identity,
            compression: &Compression::LIGHTEST,
            threads: 1,
            signer: None,
            before_end: &|| Ok(()),
        },
        adaptive: None,
        backoff: Backoff {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(5),
            attempts: 20,
            patience: Duration::MAX,
        },
        journal: None,
        moment: None,
        finish: Finish::Applied,
        mark: None,
    };
    send_pass(connector, source.device(), &options, &Silent as &dyn Progress)
}
