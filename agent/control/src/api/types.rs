//! What requests and answers hold.

use serde::{Deserialize, Serialize};

/// What went wrong, in a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The sentence.
    pub error: String,
    /// `refused`, `mismatch`, `io`, `damaged` or `interrupted`: what the exit codes of the command line mean.
    pub outcome: String,
}

/// A replication pair. Fields that are none are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Its name.
    pub name: String,
    /// The fingerprint of the peer that may send to it; none: only callers on the master target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The source's SCSI UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_uuid: Option<String>,
    /// The source's name on its machine, where it has no UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_name: Option<String>,
    /// The target's SCSI UUID, or the `ddb.uuid` of the VMDK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_uuid: Option<String>,
    /// The descriptor of the VMDK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_path: Option<String>,
    /// `receive` or `send`.
    pub direction: String,
    /// Where its recovery points are kept.
    pub retention: String,
    /// Whether a target is taken that was never this disk.
    pub new_disk: bool,
    /// The Ed25519 public key that has to have signed what is written, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// When it was added, in seconds since 1970.
    pub created: i64,
    /// Since when its target has recovery points, in seconds since 1970; absent before its first pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points_since: Option<i64>,
    /// The protection group that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// A pair that is to be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPair {
    /// 1 to 64 bytes.
    pub name: String,
    /// The fingerprint of the peer that may send to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// A SCSI UUID, or the name that the source has on its machine.
    pub source: String,
    /// Where the target is now: a block device with a SCSI UUID, or a VMDK. It is bound by what identifies it.
    pub target: String,
    /// Where its recovery points are kept.
    pub retention: String,
    /// `receive`, which is the default, or `send`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// Whether a target is taken that was never this disk.
    #[serde(default)]
    pub new_disk: bool,
    /// The Ed25519 public key that has to have signed what is written, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
}

/// Which way a pair is to be replicated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// `receive` or `send`.
    pub direction: String,
}

/// A protection group that is to be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewGroup {
    /// 1 to 64 bytes.
    pub name: String,
    /// Its pairs, in the order in which they are taken.
    pub pairs: Vec<String>,
    /// How long all of them may take to come to rest and take their mark, in milliseconds.
    pub quiesce_ms: u64,
}

/// A protection group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its pairs, in the order in which they are taken.
    pub pairs: Vec<String>,
    /// How long all of them may take to come to rest and take their mark, in milliseconds.
    pub quiesce_ms: u64,
    /// The pairs whose sources are there to take a mark, while others are not.
    pub waiting: Vec<String>,
    /// Its marks, the newest first; of the list of all groups only the newest.
    pub marks: Vec<Mark>,
}

/// A moment that all pairs of a group were read at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// When it was taken, in seconds since 1970.
    pub time: i64,
    /// `marked`: nothing of it is applied; `decided`: all of its passes are here and are being applied; `whole`: all are applied;
    /// `given up`: nothing of it is or will be.
    pub state: String,
    /// Its pairs, by name.
    pub pairs: Vec<MarkedPair>,
}

/// A pair at a mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkedPair {
    /// The pair.
    pub pair: String,
    /// Whether all of its pass is here.
    pub complete: bool,
    /// The recovery point that it is, once it is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<u64>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Its number.
    pub id: i64,
    /// What it does: `replicate`, `final` and others.
    pub kind: String,
    /// The pair that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
    /// The group that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `queued`, `running`, `waiting`, `done`, `failed`, `cancelled` or `interrupted`.
    pub state: String,
    /// What it does now, or did last.
    pub phase: String,
    /// Bytes of that which are done; of what is received, those that are durable.
    pub durable: u64,
    /// How many there will be, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Bytes per second over the last minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// How many seconds this takes at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// Bytes of the source that have been compared, while something is received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_compared: Option<u64>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_size: Option<u64>,
    /// When it was asked for, in seconds since 1970.
    pub queued: i64,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<i64>,
    /// When it was heard of last.
    pub updated: i64,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<i64>,
    /// What went wrong last, or what it waits for, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A machine or person that is known by its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// What people call it.
    pub name: String,
    /// The SHA-256 of its key.
    pub fingerprint: String,
    /// `source`, `relay`, `target` or `admin`.
    pub role: String,
    /// Since when it is known, in seconds since 1970.
    pub added: i64,
    /// When it is trusted no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// Since when it is trusted no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<i64>,
}

/// Where a copy of the state is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// A file; an earlier backup there is replaced.
    pub path: String,
}

/// What this master target is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The fingerprint of its key, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// How many seconds it has been running.
    pub uptime_seconds: u64,
    /// How many pairs there are.
    pub pairs: usize,
    /// How many jobs are at work.
    pub running_jobs: usize,
}

/// Lists, each in an object, so that something can be added beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs {
    /// By name.
    pub pairs: Vec<Pair>,
}

/// See [`Pairs`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// By name.
    pub groups: Vec<Group>,
}

/// See [`Pairs`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {
    /// Newest first.
    pub jobs: Vec<Job>,
}

/// See [`Pairs`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// In the order in which they were added.
    pub peers: Vec<Peer>,
}
