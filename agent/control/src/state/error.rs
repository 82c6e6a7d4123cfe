//! What can be wrong with the state or with what is asked of it, each in one sentence that says what to do.

use crate::state::job::{JobId, JobState};
use crate::state::pair::DiskKey;
use std::io;
use std::path::PathBuf;

/// Why the state did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// What was asked does not go with what there is; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another process has the state open.
    #[error("the state {} is in use by {who}: stop that, or ask the daemon to do it", path.display())]
    InUse {
        /// The state's file.
        path: PathBuf,
        /// The process, if the kernel told; otherwise `another process`.
        who: String,
    },
    /// The file is not one that failback made.
    #[error("{} is no state of failback, {what}: name the right file, or move this one away", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// A later failback made the file.
    #[error("{} was written by a later failback, with schema {found}, and this one knows up to {known}: install that version", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of its schema.
        found: i64,
        /// The last version that is known here.
        known: i64,
    },
    /// The file contradicts itself.
    #[error("{} is damaged, {what}: restore a good backup with `failback state restore`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found; the first of it.
        what: String,
    },
    /// The file is larger than a state can be.
    #[error("{} has {bytes} bytes, and a state has at most {limit}: name the right file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The greatest size in bytes.
        limit: u64,
    },
    /// Others than its owner may read or write the file.
    #[error("{} has mode {mode:03o}, and only its owner may have access: look at who changed it, then run chmod 600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// A restore has moved the old state away and not put the new one in its place.
    #[error(
        "a restore of {} was interrupted: run `failback state restore` again, or put back what is in {}",
        path.display(), left.display()
    )]
    HalfRestored {
        /// The state's file, which is not there.
        path: PathBuf,
        /// What it left: the old state where there was one, otherwise what was to be the new one.
        left: PathBuf,
    },
    /// There is something else where a backup is to go.
    #[error("{} is there and no backup of a state: give another name, or move it away", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// The backup is to go where the state itself is, or the other way round.
    #[error("{} is the state itself: give another name for the backup", path.display())]
    Itself {
        /// The file.
        path: PathBuf,
    },
    /// A file that is to be restored has changes beside it that are not in it.
    #[error("{} is a state with changes in a file beside it, and no backup: make one with `failback state backup`", path.display())]
    NoBackup {
        /// The file.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// `SQLite` failed.
    #[error("cannot {action} the state {}: check the space and the health of its file system", path.display())]
    Sqlite {
        /// What was tried.
        action: &'static str,
        /// The state's file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rusqlite::Error,
    },
}

/// Why something that was asked cannot be. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is no name.
    #[error("\"{}\" is no name: use 1 to 64 bytes, without control characters and without blanks at its ends", name.escape_debug())]
    BadName {
        /// What was given.
        name: String,
    },
    /// A pair has that name.
    #[error("there is a pair \"{name}\" already: give another name, or remove that one with `failback pair remove`")]
    PairExists {
        /// The name.
        name: String,
    },
    /// A group has that name.
    #[error("there is a group \"{name}\" already: give another name, or remove that one with `failback group remove`")]
    GroupExists {
        /// The name.
        name: String,
    },
    /// The disk is in a pair.
    #[error(
        "{disk} belongs to the pair \"{pair}\": name another disk, or remove that pair with `failback pair remove`"
    )]
    DiskBound {
        /// The disk.
        disk: DiskKey,
        /// The pair it is in.
        pair: String,
    },
    /// Source and target are one disk.
    #[error("{disk} is given as the source and as the target: look with `failback disks` which is which")]
    OneDisk {
        /// The disk.
        disk: DiskKey,
    },
    /// The path leads to different places for different processes, or is no path.
    #[error("\"{}\" is no absolute path of at most 4095 bytes, without control characters and \"..\": give one that begins with /", path.to_string_lossy().escape_debug())]
    BadPath {
        /// The path.
        path: PathBuf,
    },
    /// The source's name for its disk is no name.
    #[error("\"{}\" is no name of a source disk: use 1 to 255 bytes without control characters", name.escape_debug())]
    BadSourceName {
        /// What was given.
        name: String,
    },
    /// No pair has that name.
    #[error("there is no pair \"{}\": `failback pair list` shows which there are", name.escape_debug())]
    NoPair {
        /// The name.
        name: String,
    },
    /// No group has that name.
    #[error("there is no group \"{}\": `failback group list` shows which there are", name.escape_debug())]
    NoGroup {
        /// The name.
        name: String,
    },
    /// The pair is in a group.
    #[error("the pair \"{pair}\" is in the group \"{group}\": remove the group first, with `failback group remove`")]
    PairInGroup {
        /// The pair.
        pair: String,
        /// The group.
        group: String,
    },
    /// A job is not over.
    #[error("the job {job} of \"{subject}\" is not over: wait for it, or cancel it")]
    Busy {
        /// The pair or group.
        subject: String,
        /// The job.
        job: JobId,
    },
    /// A group of nothing.
    #[error("a group needs a pair at least: name those that are to come home together")]
    EmptyGroup,
    /// There is no such mark any more.
    #[error(
        "the mark of the group of the pair \"{pair}\" takes no such pass: it was given up, or is applied already; begin the last pass of the whole group again"
    )]
    MarkGone {
        /// The pair.
        pair: String,
    },
    /// A mark of the group is being applied.
    #[error(
        "a mark of the group \"{group}\" is not applied as a whole: `failback group show` tells what it waits for, and --force gives that up"
    )]
    MarkUnfinished {
        /// The group.
        group: String,
    },
    /// A pair is named twice.
    #[error("the pair \"{pair}\" is named twice: name each one once, in the order in which they are to be taken")]
    NamedTwice {
        /// The pair.
        pair: String,
    },
    /// The time limit is too short or too long.
    #[error("a time limit of {millis} ms for quiescing is no use: give one from 100 ms to 10 min")]
    QuiesceLimit {
        /// What was given, in milliseconds.
        millis: u128,
    },
    /// There are too many.
    #[error(
        "there are {limit} {what} already, which is the most: remove those that are not needed, or add a master target"
    )]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The most.
        limit: usize,
    },
    /// No job has that number.
    #[error("there is no job {job}: `failback jobs` shows which there are, and old ones are removed from the history")]
    NoJob {
        /// The number.
        job: JobId,
    },
    /// A job in that state cannot get into the other one.
    #[error("the job {job} is {from} and cannot become {to}: look at it with `failback jobs`")]
    WrongState {
        /// The job.
        job: JobId,
        /// Its state.
        from: JobState,
        /// The state that was asked for.
        to: JobState,
    },
}

impl StateError {
    /// Makes an error of the file system's.
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
