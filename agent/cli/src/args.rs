//! What can be said on the command line. The first line of a description is what `--help` shows; the rest is for the man page.

use crate::control::Place;
use crate::exit;
use crate::points::args::{CommitArgs, Keeping, MoveArgs, PointArgs, ResumeArgs, Retention, parse_point};
use crate::report::print_bytes;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use failback_orchestrate::{BlockSize, ByteCount, Compression, Engine, PointId, Root, ScsiUuid};
use std::path::PathBuf;
use std::process::ExitCode;

/// Bring changed disks home: sign, compare, apply and verify, proven by BLAKE3.
#[derive(Debug, Parser)]
#[command(name = "failback", version, after_help = exit::HELP)]
#[command(arg_required_else_help = true, disable_help_subcommand = true, max_term_width = 80)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Print help; the man pages say more
    // One short form for -h and --help: what is asked for in a hurry fits a screen.
    #[arg(short, long, global = true, action = clap::ArgAction::HelpShort)]
    help: Option<bool>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the attached disks, and say which can be targets
    Disks(DisksArgs),
    /// Say what is on disks, and what of it is free
    ///
    /// Partitions, LVM, file systems, their state, and what sign, diff and apply leave out because of it.
    Scan(ScanArgs),
    /// Read a disk and write its signature
    Sign(SignArgs),
    /// Read a source once and write what changed since a signature
    Diff(DiffArgs),
    /// Check a signature or a delta and say what it holds
    Inspect(InspectArgs),
    /// Say what apply would do, and write nothing
    Plan(PlanArgs),
    /// Bring a target disk from the base of a delta to its result
    Apply(ApplyArgs),
    /// Send what changed to a target elsewhere, again and again
    ///
    /// The source is read once in each pass and compared with the target's tree; only what differs goes over the connection. What breaks is
    /// connected again, and the pass goes on where the target has it durable, also after this was stopped or killed: by the same command.
    ///
    /// With --json it prints an array with one object for each pass that was made; with --follow one object in a line for each pass, and for each
    /// alarm of --rpo (`event` is pass, refused, rpo-missed or rpo-kept).
    Send(Box<crate::send::args::SendArgs>),
    /// Say where a disk is, and whether a change of it is under way or was interrupted
    Status(StatusArgs),
    /// Finish a change that was interrupted
    Resume(ResumeArgs),
    /// Take back what was interrupted, or everything since the last commit
    Undo(MoveArgs),
    /// Keep the present state of a disk, and give the way back up
    Commit(CommitArgs),
    /// List, reach, keep, remove and copy out recovery points
    Point(PointArgs),
    /// Read a disk and compare it with a root, a signature or a recovery point
    Verify(VerifyArgs),
    /// Look at, check, make and convert VMDKs
    Vmdk(crate::vmdk::VmdkArgs),
    /// Bind source disks to target disks
    Pair(crate::control::PairArgs),
    /// Put pairs together, so that they come home together
    Group(crate::control::GroupArgs),
    /// Receive what sources send, and write it to the target disks of their pairs
    Serve(crate::control::ServeArgs),
    /// Receive one disk from one source, and end when it is here
    ///
    /// For a machine whose own disk comes home, started from the live ISO: no daemon and no pairs are needed. It prints a one-time token and what
    /// is to be typed on the source, serves that source and this disk only, and ends once a pass that is a moment of the source is applied (send --final,
    /// or of a source that nobody writes to) and no other follows within --linger. Interrupted or killed, the same command goes on.
    ///
    /// With --json it prints one object in a line when it is ready and one when the disk is here (`event` is ready or received).
    Receive(Box<crate::control::ReceiveArgs>),
    /// Keep what sources send, and send it on over a slow link
    Relay(crate::control::RelayArgs),
    /// Let machines in by a one-time token, list and revoke them
    Enroll(crate::control::EnrollArgs),
    /// Show what a master target does and did
    Jobs(crate::control::JobsArgs),
    /// Back the control plane up, and restore it here or elsewhere
    State(crate::control::StateArgs),
    /// Say what is wrong with this machine as a master target, and what mends it
    ///
    /// Names of disks, controllers, the retention drive, `io_uring`, the clock, ports, what would take foreign disks, kernel and space. Nothing
    /// is changed. It ends with 3 if something fails, and with 0 if all is well or only warned of. What does not answer for 30 s fails,
    /// and after 50 s all that was not reached yet.
    Check(CheckArgs),
    /// Show this machine's state on its terminal, with a menu
    ///
    /// Addresses, disks, the retention drive, what runs, and what is wrong; the menu has network, logs, a shell and power. It needs nothing of
    /// a terminal but that it can be cleared, so that it works on a serial line.
    Console(ConsoleArgs),
    /// Put what support needs to see into a file, without the secrets that can be recognised
    ///
    /// Configuration, what the kernel says of disks and mounts, states of disks and recovery points, and logs; no content of a disk.
    /// The file begins with a list of what is in it, and of what did not answer. Passwords, tokens, keys and logins are taken out where a name before them, their form
    /// or their place shows them, and a marker such as `[removed:value]` tells where; rather too much is removed. What nothing shows stays,
    /// such as a password in a sentence, and so do names of users, hosts and disks, and addresses: look through it before you send it.
    SupportBundle(SupportBundleArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the man pages into a directory
    Man(ManArgs),
}

/// What every verb that reads or writes a disk understands.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// How disks are read and written
    ///
    /// `auto` is `io_uring`, or pread and pwrite where the kernel refuses that; the report names the one in use.
    #[arg(long, value_enum, default_value_t = EngineName::Auto, hide_possible_values = false)]
    pub(crate) engine: EngineName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum EngineName {
    Auto,
    #[value(name = "io_uring")]
    IoUring,
    Blocking,
}

impl From<EngineName> for Engine {
    fn from(name: EngineName) -> Self {
        match name {
            EngineName::Auto => Self::Auto,
            EngineName::IoUring => Self::IoUring,
            EngineName::Blocking => Self::Blocking,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DisksArgs {
    /// Refuse unless every data disk shows a SCSI UUID of VMware's, and no two the same
    ///
    /// For master targets on VMware. All disks but the system's own and loop devices count as data disks. Where UUIDs are
    /// missing it says how to set `disk.EnableUUID`.
    #[arg(long)]
    pub(crate) check: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// The disks: block devices or raw images
    ///
    /// Volume groups that lie on several disks are understood if all of these are named.
    #[arg(required = true, value_name = "DISK")]
    pub(crate) disks: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The disk: a block device, a raw image or a VMDK
    pub(crate) disk: PathBuf,
    /// The signature file to write; - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Size of the blocks that are compared later: 4K to 1M, a power of two
    ///
    /// A signature holds 32 bytes for each block. Smaller blocks make smaller deltas and larger signatures.
    #[arg(long, value_name = "SIZE", default_value = "16K", value_parser = parse_block_size)]
    pub(crate) block_size: BlockSize,
    /// Take the disk as it is although it is being written
    ///
    /// What is read then is no moment of the disk's life: a base for the next pass, not to be booted. All of it counts.
    #[arg(long)]
    pub(crate) fuzzy: bool,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What every verb that reads a disk from end to end understands.
#[derive(Debug, Args)]
pub(crate) struct Reading {
    /// Read free space too, and count it as it is
    ///
    /// By default the free space of file systems that are understood and at rest counts as zeroes and is not read: the
    /// coverage is `used`. `failback scan` shows what that is.
    #[arg(long)]
    pub(crate) whole: bool,
    /// Another disk of the same LVM volume group
    ///
    /// Volumes that lie on both are understood only with it. Both must be of one moment.
    #[arg(long, value_name = "DISK", conflicts_with = "whole")]
    pub(crate) with: Vec<PathBuf>,
    /// Threads that read and hash; 0 for one on each processor
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_threads)]
    pub(crate) threads: usize,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The signature of what the target holds
    #[arg(long, value_name = "FILE")]
    pub(crate) base: PathBuf,
    /// The source: a block device, a raw image or a VMDK
    pub(crate) source: PathBuf,
    /// The delta file to write; - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Effort to compress, 1 to 19, or off
    #[arg(long, value_name = "N", default_value = "3")]
    pub(crate) compression: Compression,
    /// Sign the delta with this Ed25519 key, PKCS#8 in PEM form
    ///
    /// `openssl genpkey -algorithm ed25519` makes one. Nobody but its owner may read or write the file.
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key: Option<PathBuf>,
    /// Take the source as it is although it is being written
    #[arg(long)]
    pub(crate) fuzzy: bool,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The signature or delta
    pub(crate) file: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// What plan and apply have in common.
#[derive(Debug, Args)]
pub(crate) struct Applying {
    /// Keep the intent record in this directory
    ///
    /// By default it lies beside an image, and in /var/lib/failback for a block device.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Refuse a target with another SCSI UUID than this
    ///
    /// 32 hexadecimal digits, also as `naa....`, `wwn-0x...`, `scsi-3...` or the bytes of a VMX file. Of a VMDK it is the ddb.uuid.
    #[arg(long, value_name = "UUID")]
    pub(crate) expect_uuid: Option<ScsiUuid>,
    /// Accept a target that was never this disk; wipes its free space
    ///
    /// By its partition table and file systems it is another one, or empty. Its content is overwritten, and its free space is made zero as with --zero-free.
    #[arg(long)]
    pub(crate) new_disk: bool,
    /// Make the free space of the result zero
    ///
    /// By default it is left as it is. Zeroes give space back where the target is thin, and b3sum of the target prints the
    /// root then.
    #[arg(long)]
    pub(crate) zero_free: bool,
    /// Refuse a delta that this key did not sign
    #[arg(long, value_name = "FILE")]
    pub(crate) trusted_key: Option<PathBuf>,
    /// Go on although another apply was interrupted
    ///
    /// For a delta that was made from a signature taken after the interruption. The whole disk is read at the end.
    #[arg(long)]
    pub(crate) discard_intent: bool,
    #[command(flatten)]
    pub(crate) retention: Retention,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The delta file
    pub(crate) delta: PathBuf,
    /// The target: a block device, a raw image or a VMDK
    pub(crate) disk: PathBuf,
    #[command(flatten)]
    pub(crate) applying: Applying,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The delta file; - for standard input
    pub(crate) delta: PathBuf,
    /// The target: a block device, a raw image or a VMDK
    pub(crate) disk: PathBuf,
    /// Do not ask before writing
    #[arg(long)]
    pub(crate) yes: bool,
    /// Accept that the change cannot be undone
    ///
    /// What is overwritten is kept nowhere. A block device is written only with this or with a retention directory; for an image
    /// it is implied and said.
    #[arg(long, conflicts_with = "retention")]
    pub(crate) no_undo: bool,
    #[command(flatten)]
    pub(crate) keeping: Keeping,
    /// Read the whole disk at the end and compare its root
    #[arg(long)]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) applying: Applying,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The target: a block device, a raw image or a VMDK
    pub(crate) disk: PathBuf,
    /// Where the intent record was kept
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) retention: Retention,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("expected").required(true),
    // What clap would write does not fit on a line.
    override_usage = "failback verify [OPTIONS] --root <HEX> <DISK>\n       failback verify [OPTIONS] --signature <FILE> <DISK>\n       \
                      failback verify [OPTIONS] --point <ID> <DISK>"
)]
pub(crate) struct VerifyArgs {
    /// The disk: a block device, a raw image or a VMDK
    pub(crate) disk: PathBuf,
    /// The root it should have: 64 hexadecimal digits, as b3sum prints them
    #[arg(long, value_name = "HEX", group = "expected")]
    pub(crate) root: Option<Root>,
    /// The signature it should have; names the ranges that differ
    #[arg(long, value_name = "FILE", group = "expected")]
    pub(crate) signature: Option<PathBuf>,
    /// The recovery point that is read, and whose root it should have; names the ranges that differ where they are known
    ///
    /// The present point is what the disk itself holds. Any other is read without moving the disk.
    #[arg(long, value_name = "ID", group = "expected", value_parser = parse_point)]
    pub(crate) point: Option<PointId>,
    #[command(flatten)]
    pub(crate) retention: Retention,
    /// Look at the first BYTES only, for a disk larger than what it holds
    #[arg(long, value_name = "BYTES", requires = "root")]
    pub(crate) size: Option<u64>,
    /// Count free space as zeroes, as a root of coverage `used` does
    ///
    /// A signature says so itself.
    #[arg(long, requires = "root")]
    pub(crate) used: bool,
    /// The block size of such a root
    #[arg(long, value_name = "SIZE", default_value = "16K", value_parser = parse_block_size, requires = "used")]
    pub(crate) block_size: BlockSize,
    /// Another disk of the same LVM volume group
    ///
    /// Volumes that lie on both are understood only with it. Both must be of one moment.
    #[arg(long, value_name = "DISK", requires = "used")]
    pub(crate) with: Vec<PathBuf>,
    /// Threads that read and hash; 0 for one on each processor
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_threads)]
    pub(crate) threads: usize,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    /// Print everything once, without a menu, and end
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct SupportBundleArgs {
    /// The file to write, such as support.tar.zst; none that is there is replaced, and standard output (-) is refused
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where to write them
    pub(crate) directory: PathBuf,
}

/// At most as many threads as any machine has a use for; each takes memory.
pub(crate) fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|threads| *threads <= 64).ok_or_else(|| "give a number from 0 to 64".to_owned())
}

/// A block size such as `4096`, `64K` or `1M`.
fn parse_block_size(text: &str) -> Result<BlockSize, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix(['M', 'm']).map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    let number = digits.parse::<u64>().map_err(|_| "write it like 4096, 64K or 1M".to_owned())?;
    BlockSize::new(number.saturating_mul(unit)).map_err(|error| error.to_string())
}

/// The size of a disk such as `1073741824`, `512M`, `40G` or `2T`.
pub(crate) fn parse_size(text: &str) -> Result<ByteCount, String> {
    const UNITS: [(char, u64); 4] = [('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30), ('T', 1 << 40)];
    let unit = UNITS.into_iter().find(|(letter, _)| text.ends_with([*letter, letter.to_ascii_lowercase()]));
    let digits = if unit.is_some() { &text[..text.len() - 1] } else { text };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit.map_or(1, |(_, bytes)| bytes)));
    number.and_then(ByteCount::new).ok_or_else(|| "write it like 1073741824, 512M or 40G".to_owned())
}

pub(crate) fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "failback", &mut script);
    print_bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn block_sizes() {
        assert_eq!(parse_block_size("4K").unwrap().bytes(), 4096);
        assert_eq!(parse_block_size("65536").unwrap().bytes(), 65_536);
        assert_eq!(parse_block_size("1M").unwrap(), BlockSize::MAX);
        for wrong in ["", "K", "3K", "2K", "2M", "-4K", "99999999999999999999", "18446744073709551615M"] {
            assert!(parse_block_size(wrong).is_err(), "{wrong}");
        }
    }
}
