//! The state of the control plane, on real files: what it keeps, what it refuses, and what is left of it after anything.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backups;
mod files;
mod groups;
mod hostile;
mod jobs;
mod kill;
mod model;
mod pairs;

use failback_control::state::{Direction, Group, NewPair, SourceDisk, State, StateError, TargetDisk, VmdkId};
use failback_credentials::Fingerprint;
use failback_hostdev::ScsiUuid;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// When everything happens in these tests.
const NOW: i64 = 1_700_000_000;

/// A directory with room for a state.
struct Lab(TempDir);

impl Lab {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn path(&self) -> PathBuf {
        self.file("state")
    }

    fn open(&self) -> State {
        State::open(&self.path()).unwrap()
    }

    /// The names of the files in it.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn uuid(number: u8) -> ScsiUuid {
    let mut bytes = [0x60; 16];
    bytes[15] = number;
    ScsiUuid::from_bytes(bytes).unwrap()
}

fn peer(number: u8) -> Fingerprint {
    Fingerprint::from_bytes([number; 32])
}

/// A pair of two disks that no other number has.
fn pair(number: u8) -> NewPair {
    NewPair {
        name: format!("pair {number}"),
        peer: Some(peer(1)),
        source: SourceDisk::Named(format!("/dev/disk {number}")),
        target: TargetDisk::Scsi(uuid(number)),
        direction: Direction::Receive,
        retention: PathBuf::from("/mnt/retention"),
        new_disk: false,
        signer: None,
    }
}

fn vmdk(path: &str, id: VmdkId) -> TargetDisk {
    TargetDisk::Vmdk { path: PathBuf::from(path), id }
}

fn file(inode: u64) -> VmdkId {
    VmdkId::File { inode, born: 1 << 60 }
}

fn group(name: &str, pairs: &[u8]) -> Group {
    let pairs = pairs.iter().map(|number| pair(*number).name).collect();
    Group { name: name.to_owned(), pairs, quiesce: Duration::from_secs(30) }
}

fn names(state: &State) -> Vec<String> {
    state.pairs().unwrap().into_iter().map(|pair| pair.is.name).collect()
}

/// The sentence, without what differs from run to run.
fn sentence<T: std::fmt::Debug>(result: Result<T, StateError>, lab: &Lab) -> String {
    let error = result.unwrap_err().to_string();
    error
        .replace(lab.0.path().canonicalize().unwrap().to_str().unwrap(), "DIR")
        .replace(lab.0.path().to_str().unwrap(), "DIR")
}

/// The file as anybody may change it who has it.
fn raw(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}
