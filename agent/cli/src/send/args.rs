//! What can be said to send.

use crate::args::{Common, Reading, parse_size};
use crate::config::parse_age;
use crate::control::ConnectArgs;
use clap::{Args, ValueEnum};
use failback_orchestrate::{ByteCount, Compression, JobError, PointKind};
use failback_replication::{Plan, Schedule, Small};
use failback_transport::Address;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The source: a block device, a raw image or a VMDK
    pub(crate) disk: PathBuf,
    /// Where the target is: HOST[:PORT], or `ssh:HOST`
    ///
    /// `HOST[:PORT]` over TLS, at port 9443 by default, `ssh:[USER@]HOST[:PORT]`, `unix:/PATH` of a daemon's socket, or `exec:COMMAND`. What is behind it speaks the replication protocol: `failback serve --stdio` over ssh and by a command. A command runs by `sh -c`.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: Address,
    /// The name of the pair, as the target has it
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub(crate) pair: String,
    /// How many passes, or until-small
    ///
    /// `until-small` ends when a pass brought at most 64 MiB or what is sent within a minute, or when one did not bring a fifth less than the one
    /// before. `--small` and `--small-time` say other bounds.
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "follow")]
    pub(crate) passes: Plan,
    /// So many bytes are small for until-small [default: 64M]
    ///
    /// Those of the delta, as it is sent. A pass is small as well if it is sent within `--small-time`.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "follow", hide_short_help = true)]
    pub(crate) small: Option<ByteCount>,
    /// What is sent within this is small for until-small [default: 1m]
    ///
    /// As long as the link was busy with it, however many bytes it has. A pass is small as well if it has no more than `--small`.
    #[arg(long, value_name = "TIME", value_parser = parse_age, conflicts_with = "follow", hide_short_help = true)]
    pub(crate) small_time: Option<Duration>,
    /// Then make a last pass that is a moment of the disk
    ///
    /// Nobody may write to the disk then: the hook before-final can see to that, or the hook mark can name a snapshot.
    #[arg(long = "final", conflicts_with_all = ["follow", "fuzzy"])]
    pub(crate) last: bool,
    /// Make the last pass together with those of this group
    ///
    /// It waits until all pairs of the group are there. All come to rest (hook quiesce), then all take their marks (hook mark, or a disk that stays at rest), and
    /// then all go on (hook release), within the group's time; otherwise none has a mark. Their passes are applied once all have arrived, or none is.
    #[arg(long, value_name = "NAME", requires = "last", value_parser = parse_name)]
    pub(crate) group: Option<String>,
    /// Make a pass each INTERVAL until this is stopped
    ///
    /// What the other side refuses is told once and tried again at the next interval: its disk may be in use, or an administrator there has to mend
    /// it. What is wrong on this machine ends it, and so does a key that was revoked.
    #[arg(long, value_name = "INTERVAL", value_parser = parse_age)]
    pub(crate) follow: Option<Duration>,
    /// Tell when the target is older than this
    ///
    /// And when it no longer is: each once, on standard error, and with `--json` as an object as well. What counts is the age of the newest moment of the source that the target has applied; before the first pass is applied, the time since this began.
    #[arg(long, value_name = "TIME", value_parser = parse_age, requires = "follow")]
    pub(crate) rpo: Option<Duration>,
    /// 1 to 19, off or adaptive
    ///
    /// `adaptive` compresses as hard as the link leaves time for.
    #[arg(long, value_name = "N", default_value = "adaptive")]
    pub(crate) compression: HowHard,
    /// Bytes a second at most; also by time of day
    ///
    /// Such as `20M`, or `08:00-18:00=5M,18:00-08:00=unlimited`: what is said has to cover the day, in the machine's own time zone. `off` and `unlimited` both mean
    /// no limit.
    #[arg(long, value_name = "SCHEDULE")]
    pub(crate) limit: Option<Schedule>,
    /// Run the programs in this directory around passes
    ///
    /// before-pass, after-pass, before-final, after-final, quiesce, release, mark and unmark; others are refused. They get `FAILBACK_HOOK` (the name),
    /// `FAILBACK_PAIR`, `FAILBACK_DISK`, `FAILBACK_FINAL` (0 or 1) and `FAILBACK_GROUP`; after a pass also `FAILBACK_OUTCOME` (done or failed) and `FAILBACK_ROOT`, unmark also
    /// `FAILBACK_MARK`. If a program before a pass fails, the job stops. mark prints the path of the device to be read in the place of the disk,
    /// such as a snapshot, or nothing; unmark always runs afterwards, after `kill -9` at the next start. quiesce runs before mark; release runs once the
    /// snapshot is there, or without one when the disk was read, also after `kill -9`.
    #[arg(long, value_name = "DIR")]
    pub(crate) hooks: Option<PathBuf>,
    /// The kind of what mark makes
    ///
    /// `crash` is one instant, `filesystem` are file systems that were frozen, and `application` are programs that were brought to rest as well.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = MarkKind::Crash, hide_possible_values = true, hide_short_help = true)]
    pub(crate) mark_kind: MarkKind,
    /// How long a hook may take
    #[arg(long, value_name = "TIME", value_parser = parse_age, default_value = "5m", hide_short_help = true)]
    pub(crate) hook_timeout: Duration,
    /// Where a pass remembers how far it is
    ///
    /// So the same command goes on after it was stopped or killed. A file for each pair and address in `/var/lib/failback/send`, unless this names another
    /// directory.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/failback/send", hide_default_value = true)]
    pub(crate) journal: PathBuf,
    /// Begin a new pass in the place of one that was not finished
    ///
    /// Without it the same command goes on with that, which the master target refuses if its job was cancelled there. What was sent of it is given up.
    #[arg(long, hide_short_help = true)]
    pub(crate) anew: bool,
    /// How long to try to connect again [default: 10m]
    ///
    /// With --follow it is tried for ever unless this is given.
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    pub(crate) retry: Option<Duration>,
    /// End a connection that is silent for so long.
    #[arg(long, value_name = "TIME", value_parser = parse_age, hide = true)]
    pub(crate) silence: Option<Duration>,
    /// Sign the deltas with this Ed25519 key (PEM)
    ///
    /// Nobody but its owner may read or write the file.
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key: Option<PathBuf>,
    /// Take the source although it is being written
    #[arg(long)]
    pub(crate) fuzzy: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl SendArgs {
    /// How many passes, with what was said to be small.
    ///
    /// # Errors
    ///
    /// When that was said and has no meaning, since passes are counted.
    pub(crate) fn plan(&self) -> Result<Plan, JobError> {
        match (self.passes, self.small, self.small_time) {
            (Plan::UntilSmall(usual), bytes, time) => Ok(Plan::UntilSmall(Small {
                bytes: bytes.map_or(usual.bytes, ByteCount::get),
                time: time.unwrap_or(usual.time),
            })),
            (passes, None, None) => Ok(passes),
            (Plan::Number(_), ..) => Err(JobError::Refused(
                "--small and --small-time say when until-small ends: add --passes until-small, or leave them out"
                    .into(),
            )),
        }
    }
}

/// How hard to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HowHard {
    Adaptive,
    Fixed(Compression),
}

impl std::str::FromStr for HowHard {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "adaptive" {
            return Ok(Self::Adaptive);
        }
        text.parse().map(Self::Fixed).map_err(|_| "write adaptive, off, or a level from 1 to 19")
    }
}

/// What kind of moment a mark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MarkKind {
    Crash,
    Filesystem,
    Application,
}

impl From<MarkKind> for PointKind {
    fn from(kind: MarkKind) -> Self {
        match kind {
            MarkKind::Crash => Self::Crash,
            MarkKind::Filesystem => Self::Filesystem,
            MarkKind::Application => Self::Application,
        }
    }
}

/// The name of a pair or of a group: what the protocol has room for.
fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 64 || text.contains(char::is_control) {
        return Err("a name has 1 to 64 bytes, and no control characters".into());
    }
    Ok(text.to_owned())
}
