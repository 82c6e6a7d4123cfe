//! What can be said on the command line about recovery points.

use crate::args::{Common, parse_size};
use crate::config::parse_age;
use clap::{Args, Subcommand, ValueEnum};
use failback_orchestrate::{ByteCount, PointId};
use std::path::PathBuf;
use std::time::Duration;

/// Where recovery points are.
#[derive(Clone, Debug, Args)]
pub(crate) struct Retention {
    /// The directory that recovery points are kept in
    ///
    /// Each disk has a directory of its own there, found by its SCSI UUID. The configuration file can name it for all commands:
    /// `directory` in the section `retention` of /etc/failback/failback.toml.
    #[arg(long, value_name = "DIR")]
    pub(crate) retention: Option<PathBuf>,
}

/// How many recovery points are kept.
#[derive(Clone, Debug, Args)]
pub(crate) struct Keeping {
    /// Keep at most N recovery points
    ///
    /// The present one, the committed one, the newest and pinned ones are never removed for a limit, but they count.
    #[arg(long = "keep-points", value_name = "N")]
    pub(crate) points: Option<usize>,
    /// Keep recovery points for so long: 90s, 15m, 36h or 7d
    #[arg(long = "keep-for", value_name = "TIME", value_parser = parse_age)]
    pub(crate) age: Option<Duration>,
    /// Keep at most so much in files of recovery points, such as 500G
    #[arg(long = "keep-space", value_name = "SIZE", value_parser = parse_size)]
    pub(crate) space: Option<ByteCount>,
}

/// A command that writes to a disk whose way back is kept.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// The disk: a block device, a raw image or a VMDK
    pub(crate) disk: PathBuf,
    #[command(flatten)]
    pub(crate) retention: Retention,
    /// Do not ask before writing
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) moving: MoveArgs,
    /// The delta that was being applied, if it is not where it was
    #[arg(long, value_name = "FILE")]
    pub(crate) delta: Option<PathBuf>,
    /// Read the whole disk at the end and compare its root
    #[arg(long)]
    pub(crate) verify: bool,
}

/// A command about the points of a disk that leaves the disk alone.
#[derive(Debug, Args)]
pub(crate) struct DiskPoints {
    /// The disk: a block device, a raw image or a VMDK
    pub(crate) disk: PathBuf,
    #[command(flatten)]
    pub(crate) retention: Retention,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    #[command(flatten)]
    pub(crate) points: DiskPoints,
    /// Do not ask before the way back is given up
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PointArgs {
    #[command(subcommand)]
    pub(crate) command: PointCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PointCommand {
    /// List recovery points, of one disk or of all
    List(ListArgs),
    /// Say what is known of a recovery point
    Show(ShowArgs),
    /// Bring the disk to a recovery point, back or forward
    ///
    /// All points are kept, so that every other one can still be reached, until a commit.
    Rollback(RollbackArgs),
    /// Keep a recovery point until it is unpinned
    Pin(PinArgs),
    /// No longer keep a recovery point for its own sake
    Unpin(PinArgs),
    /// Remove recovery points: those named, or those that the limits no longer keep
    Prune(PruneArgs),
    /// Copy a recovery point into a new image, VMDK or delta, without moving the disk
    Export(ExportArgs),
    /// Serve a recovery point over NBD on a Unix socket, without moving the disk
    ///
    /// qemu-img, nbdcopy, nbdfuse, or a virtual machine read it at `nbd+unix:///?socket=SOCKET`, until this is ended with SIGINT or
    /// SIGTERM. The disk and its points cannot be changed meanwhile.
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The disk; all disks of the retention directory if none is named
    pub(crate) disk: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) retention: Retention,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) points: DiskPoints,
    /// The number of the recovery point
    #[arg(value_parser = parse_point)]
    pub(crate) id: PointId,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    pub(crate) moving: MoveArgs,
    /// The number of the recovery point
    #[arg(value_parser = parse_point)]
    pub(crate) id: PointId,
    /// Go to a fuzzy point too: a base for the next pass, not to be booted
    #[arg(long)]
    pub(crate) fuzzy: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PinArgs {
    #[command(flatten)]
    pub(crate) points: DiskPoints,
    /// The number of the recovery point
    #[arg(value_parser = parse_point)]
    pub(crate) id: PointId,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// The disk: a block device, a raw image or a VMDK
    pub(crate) disk: PathBuf,
    /// The numbers of the recovery points to be removed
    #[arg(value_parser = parse_point, conflicts_with_all = ["points", "age", "space"])]
    pub(crate) ids: Vec<PointId>,
    #[command(flatten)]
    pub(crate) retention: Retention,
    #[command(flatten)]
    pub(crate) keeping: Keeping,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask before something is removed
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Raw,
    Vmdk,
    Delta,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The disk: a block device, a raw image or a VMDK
    pub(crate) disk: PathBuf,
    /// The number of the recovery point
    #[arg(value_parser = parse_point)]
    pub(crate) id: PointId,
    /// The file to be made
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// What to make: a raw image, a VMDK, or the delta that leads there
    ///
    /// By default what the name of the file says.
    #[arg(long, value_enum)]
    pub(crate) format: Option<ExportFormat>,
    /// The recovery point that a delta starts from; the present one if none is named
    #[arg(long, value_name = "ID", value_parser = parse_point)]
    pub(crate) base: Option<PointId>,
    /// Export a fuzzy point too: a base for the next pass, not to be booted
    #[arg(long)]
    pub(crate) fuzzy: bool,
    #[command(flatten)]
    pub(crate) retention: Retention,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The disk: a block device, a raw image or a VMDK
    pub(crate) disk: PathBuf,
    /// The number of the recovery point
    #[arg(value_parser = parse_point)]
    pub(crate) id: PointId,
    /// The socket to be made; only its owner can connect to it
    #[arg(long, value_name = "SOCKET")]
    pub(crate) socket: PathBuf,
    /// Let clients write, into a layer that is thrown away in the end
    #[arg(long)]
    pub(crate) writable: bool,
    /// Where that layer is kept: a file without a name
    #[arg(long, value_name = "DIR", default_value = "/var/tmp", requires = "writable")]
    pub(crate) scratch: PathBuf,
    /// Serve a fuzzy point too: a base for the next pass, not to be booted
    #[arg(long)]
    pub(crate) fuzzy: bool,
    #[command(flatten)]
    pub(crate) retention: Retention,
    #[command(flatten)]
    pub(crate) common: Common,
}

pub(crate) fn parse_point(text: &str) -> Result<PointId, String> {
    text.parse().map(PointId).map_err(|_| "a recovery point has a number: failback point list tells them".to_owned())
}
