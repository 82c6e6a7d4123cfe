//! What can be said on the command line about the control plane.

use crate::args::{Common, parse_size};
use crate::config::parse_age;
use crate::points::args::{Keeping, Retention};
use clap::{Args, Subcommand, ValueEnum};
use failback_control::open_hooks;
use failback_hooks::Hooks;
use failback_orchestrate::{ByteCount, JobError};
use failback_replication::Schedule;
use failback_transport::{Address, HostPort};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the control plane keeps its state.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// The directory of the control plane: state, key, known peers, sockets
    ///
    /// It is made if it is not there, and belongs to root alone.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/failback/control")]
    pub(crate) state: PathBuf,
}

/// How a server in the network is reached.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Which server, where this machine knows several
    ///
    /// Its name or fingerprint, as `failback enroll list` shows them.
    #[arg(long, value_name = "PEER")]
    pub(crate) server: Option<String>,
    /// Connections over TLS, 1 to 16
    ///
    /// For links that are fast, far and lossy. Of TLS only.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) streams: u8,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct PairArgs {
    #[command(subcommand)]
    pub(crate) command: PairCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PairCommand {
    /// Bind a source disk to a target disk
    ///
    /// Nothing is received for a disk that is bound to no source. The target is bound by what identifies it, its SCSI UUID or the VMDK, and
    /// found by that whatever it is called later.
    Add(PairAddArgs),
    /// List the pairs
    List(AskArgs),
    /// Show a pair
    Show(NameArgs),
    /// Remove a pair; its disks and recovery points stay
    Remove(NameArgs),
    /// Turn a pair round: who received may send, or the other way
    Turn(TurnArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PairAddArgs {
    /// The pair's name, 1 to 64 bytes
    pub(crate) name: String,
    /// The source: its SCSI UUID, or the name that it has on its machine, such as /dev/nvme1n1
    #[arg(long, value_name = "UUID|NAME")]
    pub(crate) source: String,
    /// The target: a block device with a SCSI UUID, or a VMDK
    #[arg(long, value_name = "DISK")]
    pub(crate) target: PathBuf,
    /// The machine that may send: its name or fingerprint, as `failback enroll list` shows
    ///
    /// Without it, only callers on this machine may, such as `failback serve --stdio` through ssh.
    #[arg(long, value_name = "PEER")]
    pub(crate) peer: Option<String>,
    #[command(flatten)]
    pub(crate) retention: Retention,
    /// Accept a target that was never this disk; wipes its free space
    ///
    /// As for `failback apply --new-disk`, as long as it has no recovery points.
    #[arg(long)]
    pub(crate) new_disk: bool,
    /// Refuse what this Ed25519 key did not sign: a public key in PEM form
    #[arg(long, value_name = "FILE")]
    pub(crate) trusted_key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which master target is asked, and how its answer is told.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// Ask a master target elsewhere, at port 443 by default
    ///
    /// This machine has to be an administrator there: it has joined with a token of `failback enroll token NAME --role admin`. Without this the
    /// master target on this machine is asked.
    #[arg(long, value_name = "HOST[:PORT]", value_parser = HostPort::of_api)]
    pub(crate) to: Option<HostPort>,
    /// Which server, where this machine knows several
    ///
    /// Its name or fingerprint, as `failback enroll list` shows them.
    #[arg(long, value_name = "PEER", requires = "to")]
    pub(crate) server: Option<String>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TurnArgs {
    /// The name
    pub(crate) name: String,
    /// `receive`: the peer sends; `send`: the target disk here is sent to the peer
    #[arg(long, value_parser = ["receive", "send"])]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    pub(crate) command: GroupCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Put pairs into a protection group: they come home together
    Add(GroupAddArgs),
    /// List the groups
    List(AskArgs),
    /// Show a group: who waits for its mark, and what became of earlier ones
    Show(NameArgs),
    /// Remove a group; its pairs stay
    Remove(GroupRemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GroupRemoveArgs {
    /// Also if a mark of it is not applied as a whole
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) named: NameArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GroupAddArgs {
    /// The group's name, 1 to 64 bytes
    pub(crate) name: String,
    /// Its pairs, in the order in which they are taken
    #[arg(required = true, value_name = "PAIR")]
    pub(crate) pairs: Vec<String>,
    /// How long all of them together may take to come to rest and take their mark: 1s to 10m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_age)]
    pub(crate) quiesce: Duration,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    /// Show it again every second until it is stopped
    #[arg(long, conflicts_with = "cancel")]
    pub(crate) watch: bool,
    /// Those of this pair only
    #[arg(long, value_name = "NAME")]
    pub(crate) pair: Option<String>,
    /// How many, the newest first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    /// End this job at the next safe place
    #[arg(long, value_name = "ID", conflicts_with_all = ["pair", "limit"])]
    pub(crate) cancel: Option<i64>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// Programs that run around what is received.
#[derive(Clone, Debug, Args)]
pub(crate) struct HookArgs {
    /// Run the programs in this directory around passes
    ///
    /// before-receive, after-receive, before-apply and after-apply; others are refused. They get `FAILBACK_HOOK` (the name), `FAILBACK_PAIR`, `FAILBACK_DISK` (the
    /// target), `FAILBACK_KIND` (fuzzy, crash, filesystem or application) and `FAILBACK_GROUP` (or nothing); after ones also `FAILBACK_OUTCOME` (done or failed),
    /// `FAILBACK_ROOT` (if done) and `FAILBACK_ERROR` (if failed). If before-receive fails, nothing is received; if before-apply fails, the disk stays as it is, and the
    /// pass is kept until its source comes back. Of a group, before-apply of all has to succeed before anything is applied. after-apply runs after each before-apply that did
    /// not fail, after `kill -9` at the next start.
    #[arg(long, value_name = "DIR")]
    pub(crate) hooks: Option<PathBuf>,
    /// How long a hook may take
    #[arg(long, value_name = "TIME", value_parser = parse_age, default_value = "5m", hide_short_help = true)]
    pub(crate) hook_timeout: Duration,
}

impl HookArgs {
    /// The hooks that there are.
    pub(crate) fn open(&self) -> Result<Hooks, JobError> {
        self.hooks.as_deref().map_or(Ok(Hooks::default()), |directory| open_hooks(directory, self.hook_timeout))
    }
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Serve one source over standard input and output, as ssh runs it
    ///
    /// Where the daemon runs, what comes is handed on to it.
    #[arg(long, conflicts_with_all = ["listen", "control", "local"])]
    pub(crate) stdio: bool,
    /// Where sources connect, such as [::]:9443; may be given more than once
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:9443")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where the API is, such as [::]:443; may be given more than once
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:443")]
    pub(crate) control: Vec<SocketAddr>,
    /// Do not listen in the network
    ///
    /// Only the Unix sockets in the state directory are there then.
    #[arg(long, conflicts_with_all = ["listen", "control"])]
    pub(crate) local: bool,
    /// What this machine is called where others join it
    #[arg(long, value_name = "NAME", default_value = "master-target")]
    pub(crate) name: String,
    /// How the log on standard error is written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log: LogFormat,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) hooks: HookArgs,
    #[command(flatten)]
    pub(crate) keeping: Keeping,
    /// Threads that read and hash a disk; 0 for one on each processor
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = crate::args::parse_threads)]
    pub(crate) threads: usize,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct ReceiveArgs {
    /// The disk to write: a block device with a SCSI UUID, or a VMDK
    pub(crate) disk: PathBuf,
    /// The source: its SCSI UUID, or its name there, such as /dev/nvme1n1
    #[arg(long, value_name = "UUID|NAME")]
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) retention: Retention,
    /// What both disks are called
    #[arg(long, value_name = "NAME", default_value = "disk")]
    pub(crate) pair: String,
    /// Where the source connects; may be given more than once
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:9443")]
    pub(crate) listen: Vec<SocketAddr>,
    /// How the source reaches this machine, for what is printed
    ///
    /// HOST or HOST:PORT. Without it, the address of --listen, or the first one that this machine has if that is any.
    #[arg(long, value_name = "HOST")]
    pub(crate) address: Option<String>,
    /// How long the token can be used
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_age)]
    pub(crate) expires: Duration,
    /// How long to wait for another pass once the disk is here
    ///
    /// `failback send --final` makes a pass, runs its hook before-final, and makes another one.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_age, hide_short_help = true)]
    pub(crate) linger: Duration,
    /// Accept a target that was never this disk; wipes its free space
    ///
    /// As for `failback apply --new-disk`, as long as it has no recovery points.
    #[arg(long)]
    pub(crate) new_disk: bool,
    /// Refuse what this Ed25519 key did not sign (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) trusted_key: Option<PathBuf>,
    /// Do not read the whole disk in the end
    ///
    /// An apply reads and proves what it changes. What it does not change is taken to be what it was before, which only reading shows.
    #[arg(long, hide_short_help = true)]
    pub(crate) no_verify: bool,
    /// The directory of this machine's key and what it remembers
    ///
    /// It is made if it is not there, and belongs to root alone. One for each disk that is received.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/failback/receive")]
    pub(crate) state: PathBuf,
    /// How the log on standard error is written
    #[arg(long, value_enum, default_value_t = LogFormat::Text, hide_short_help = true)]
    pub(crate) log: LogFormat,
    #[command(flatten)]
    pub(crate) hooks: HookArgs,
    #[command(flatten)]
    pub(crate) keeping: Keeping,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What asks a relay that runs, so that none is started.
const ASKING: [&str; 3] = ["status", "give_up", "drop_aside"];

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    /// Where the master target is, as for send
    #[arg(long, value_name = "ADDRESS", required_unless_present_any = ASKING, conflicts_with_all = ASKING)]
    pub(crate) to: Option<Address>,
    /// A pair, and who sends it; may be given more than once
    ///
    /// Who sends is named as `failback enroll list` shows it on this machine, by name or fingerprint, and may join later. What is not named is
    /// refused.
    #[arg(long, value_name = "NAME=PEER", required_unless_present_any = ASKING, conflicts_with_all = ASKING)]
    pub(crate) pair: Vec<String>,
    /// What a pair is signed with: a public key (PEM)
    ///
    /// Once for each pair. What is not signed is refused in any case, since the master target takes nothing else from a relay. With the key, what is signed by another
    /// one is refused here, while the source is there to hear it.
    #[arg(long, value_name = "NAME=FILE")]
    pub(crate) trusted_key: Vec<String>,
    /// Show what waits in the relay that runs here
    #[arg(long, conflicts_with_all = ["give_up", "drop_aside"])]
    pub(crate) status: bool,
    /// Set aside what waits of a pair, for good
    ///
    /// For what the master target will never take. The source begins again from what the target has.
    #[arg(long, value_name = "NAME", conflicts_with = "drop_aside")]
    pub(crate) give_up: Option<String>,
    /// Remove what was set aside of a pair
    #[arg(long, value_name = "NAME")]
    pub(crate) drop_aside: Option<String>,
    /// Where sources connect, such as [::]:9443; may be given more than once
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:9443")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where what waits is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/failback/relay")]
    pub(crate) spool: PathBuf,
    /// How much may wait; sources wait when it is full
    #[arg(long, value_name = "SIZE", default_value = "100G", value_parser = parse_size)]
    pub(crate) space: ByteCount,
    /// How much of one pair may wait [default: a quarter of --space]
    ///
    /// All of it where there is one pair. Of the deltas that arrive at the same time all but the first one leave as much of --space free.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, hide_short_help = true)]
    pub(crate) pair_space: Option<ByteCount>,
    /// Bytes a second at most to the master target, also by time of day, as for send
    #[arg(long, value_name = "SCHEDULE", hide_short_help = true)]
    pub(crate) limit: Option<Schedule>,
    /// What this machine is called where others join it
    #[arg(long, value_name = "NAME", default_value = "relay", hide_short_help = true)]
    pub(crate) name: String,
    /// How the log on standard error is written
    #[arg(long, value_enum, default_value_t = LogFormat::Text, hide_short_help = true)]
    pub(crate) log: LogFormat,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// How a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object in a line.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct EnrollArgs {
    #[command(subcommand)]
    pub(crate) command: EnrollCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EnrollCommand {
    /// Print a token that lets one machine in, once
    Token(TokenArgs),
    /// Join a master target or a relay with a token that it printed
    Join(JoinArgs),
    /// List whom this machine knows
    List(ListArgs),
    /// Trust a machine no longer
    Revoke(RevokeArgs),
    /// Show the fingerprint of this machine
    Show(ListArgs),
    /// Give out this machine's certificate, for curl, Prometheus and the like
    ///
    /// It goes with the key in the state directory, which stays there, and is the same each time. With it and that key other programs ask the API of a
    /// master target where this machine is an administrator; on a master target it is what they compare the server with. Told are also
    /// the pins of this machine and of the servers that it knows, for `curl --pinnedpubkey`.
    Certificate(CertificateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CertificateArgs {
    /// Write `certificate.pem` into this directory, which has to be there
    ///
    /// Without it the certificate goes to standard output.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// What the machine will be called here: letters, digits, dots and dashes
    pub(crate) name: String,
    /// What it may do
    #[arg(long, value_parser = ["source", "relay", "admin"], default_value = "source")]
    pub(crate) role: String,
    /// How long the token can be used, at most 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_age)]
    pub(crate) expires: Duration,
    /// How long the machine is trusted; without it, until it is revoked
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    pub(crate) trusted_for: Option<Duration>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// Where the server is: HOST or HOST:PORT
    pub(crate) address: Address,
    /// The file that has the token, instead of standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Its name or its fingerprint
    pub(crate) peer: String,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    #[command(subcommand)]
    pub(crate) command: StateCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Copy all that the control plane knows into a new directory
    ///
    /// Pairs, groups, jobs, known peers, and this machine's key: whoever has the copy can take its place, so keep it where nobody else reads.
    Backup(BackupArgs),
    /// Take over what a backup holds, on this machine or another
    ///
    /// Nothing may use the state meanwhile. Sources know the master target by its key, so they find it again at another address.
    Restore(BackupArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The directory of the backup
    pub(crate) directory: PathBuf,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}
