//! The source's side of a pass, over as many connections as it takes.

mod connection;
mod journal;
mod meeting;
mod questions;
mod remote;
mod state;
mod stored;

use crate::{Adaptive, Backoff, Link, SessionError, Traffic};
use connection::keep_connected;
use failback_delta::PointKind;
use failback_hashtree::Root;
use failback_orchestrate::{
    Compression, Device, DiffOptions, Effort, Packed, Progress, TreeDiffReport, diff_tree, tree_header,
};
use journal::{Earlier, Journal};
pub use meeting::{Marking, meet};
pub use questions::{Questions, ask_target};
use remote::{PassWriter, RemoteBase};
use state::{Counts, Pass};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};
pub use stored::{StoredDelta, StoredOptions, StoredReport, send_stored};

/// Makes connections to one target.
pub trait Connector: Sync {
    /// Connects once.
    ///
    /// # Errors
    ///
    /// When it cannot be reached now: it is tried again later, unless the error is of the kind `PermissionDenied`.
    fn connect(&self) -> io::Result<Link>;
}

/// What a pass sends.
pub struct PassOptions<'a> {
    /// The name of the replication pair.
    pub pair: String,
    /// How the source is compared and the delta made.
    pub diff: DiffOptions<'a>,
    /// What chooses the level of each frame by how fast the link is; `None` where `diff.compression` does all.
    pub adaptive: Option<&'a Adaptive>,
    /// When to try again after a connection broke.
    pub backoff: Backoff,
    /// A file in which the pass remembers what it has sent. If there is one of a pass that was stopped, that pass goes on: its kind, time, id
    /// and identity are used, and not those above. Unless it is fuzzy, it does so only from the same `moment`; else another one begins.
    pub journal: Option<&'a Path>,
    /// What tells the state that the source has now from any other; `None` if nothing does.
    pub moment: Option<[u8; 32]>,
    /// When the pass is done, if the other side is a relay.
    pub finish: Finish,
    /// The mark of a group that is read: the pass is applied with those of the others of the group, or not at all.
    pub mark: Option<[u8; 16]>,
}

/// Where a pass has to be before a source lets it go, and where it is then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finish {
    /// The target has applied it.
    #[default]
    Applied,
    /// A relay has it, proven and durable, and will send it on. The target need not have it yet. Where there is no relay in
    /// between, this is never so, and the pass ends when the target has applied it.
    Stored,
}

/// What a pass did.
#[derive(Clone, Copy, Debug)]
pub struct PassReport {
    /// The delta that was sent, and what was read for it.
    pub difference: TreeDiffReport,
    /// The root that the target says it has now; if only a relay has the pass, the root that it leads to.
    pub root: Root,
    /// Which of the two it is.
    pub reached: Finish,
    /// The time that the delta states, in seconds since 1970: of a pass that goes on, when it began at first.
    pub created: i64,
    /// What moment the source is from: of a pass that goes on, what it claimed at first.
    pub kind: PointKind,
    /// Whether it went on where an earlier run of it had come.
    pub went_on: bool,
    /// Bytes sent and received over all connections, everything counted.
    pub sent: u64,
    /// As `sent`.
    pub received: u64,
    /// Bytes of the delta that were sent more than once.
    pub sent_again: u64,
    /// Connections that were made.
    pub connections: u64,
    /// How long the pass took, from its beginning until the target had applied it.
    pub took: Duration,
    /// How long of it the link was busy with the delta.
    pub sending: Duration,
    /// How many frames were compressed at each level: not at all, and by zstd's 1 to 19.
    pub frames: [u64; 20],
}

/// Finds what differs from the target, sends it, and has it applied.
///
/// A connection that breaks is made anew, and the pass goes on where the target has it durable. If the journal is that of a pass that the
/// target had applied when its source was stopped, that is noted, and this pass begins from there.
///
/// # Errors
///
/// When the target refuses, cannot be reached any more, or the source cannot be read. The target's disk is at its base then, or
/// its apply is unfinished and it says so.
pub fn send_pass(
    connector: &dyn Connector,
    device: &dyn Device,
    options: &PassOptions<'_>,
    progress: &dyn Progress,
) -> Result<PassReport, SessionError> {
    let traffic = Arc::<Traffic>::default();
    loop {
        if let Some(report) = one_pass(connector, device, options, &traffic, progress)? {
            return Ok(report);
        }
    }
}

/// `None` if all that was found is that an earlier pass is done.
fn one_pass(
    connector: &dyn Connector,
    device: &dyn Device,
    options: &PassOptions<'_>,
    traffic: &Arc<Traffic>,
    progress: &dyn Progress,
) -> Result<Option<PassReport>, SessionError> {
    let started = Instant::now();
    let effort = Tally::new(options.adaptive.map_or(options.diff.compression, |adaptive| adaptive));
    let found = options.journal.and_then(Earlier::open);
    let was_found = found.is_some();
    let earlier = found.filter(|earlier| earlier.is_of(options.moment));
    if was_found && earlier.is_none() {
        progress.note("the pass that was stopped was of another moment of the source, so another one begins");
    }
    let pass = Pass::of_disk(options, device.size(), earlier.as_ref().map(|earlier| (earlier.key, earlier.until)));
    let difference = thread::scope(|scope| {
        let pass = &pass;
        attend(scope, connector, pass, &options.backoff, traffic, progress);
        let difference = run(pass, device, options, &effort, earlier.as_ref(), progress);
        if let Err(SessionError::Job(error)) = &difference {
            pass.give_up(error.to_string());
        }
        let done = difference.and_then(|found| match found {
            Some(found) => Ok(Some((found, pass.wait_until_done()?))),
            None => Ok(None),
        });
        pass.end();
        done
    });
    let Some((Found { difference, journal, created, kind, went_on }, (root, reached))) = difference? else {
        earlier.as_ref().map_or(Ok(()), Earlier::remove)?;
        progress.note(match pass.arrived_before() {
            Some(Finish::Stored) => {
                "the pass that was stopped had arrived at the relay, which sends it on; another one begins"
            }
            _ => "the pass that was stopped had arrived, and was applied; another one begins",
        });
        return Ok(None);
    };
    journal.map_or(Ok(()), Journal::remove)?;
    let Counts { sent_again, connections, sending } = pass.counts();
    let (sent, received) = (traffic.sent.load(Ordering::Relaxed), traffic.received.load(Ordering::Relaxed));
    let (took, frames) = (started.elapsed(), effort.frames());
    Ok(Some(PassReport {
        difference,
        root,
        reached,
        created,
        kind,
        went_on,
        sent,
        received,
        sent_again,
        connections,
        took,
        sending,
        frames,
    }))
}

/// Between two looks at whether the pass is to stop: whoever waits for the target does not look.
const STOP_TICK: Duration = Duration::from_millis(100);

/// Counts how frames are compressed.
struct Tally<'a> {
    effort: &'a dyn Effort,
    frames: [AtomicU64; 20],
}

impl<'a> Tally<'a> {
    fn new(effort: &'a dyn Effort) -> Self {
        Self { effort, frames: Default::default() }
    }

    fn frames(&self) -> [u64; 20] {
        self.frames.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

impl Effort for Tally<'_> {
    fn next(&self) -> Compression {
        self.effort.next()
    }

    fn packed(&self, frame: &Packed) {
        let level = usize::try_from(frame.compression.level()).unwrap_or(0);
        if let Some(count) = self.frames.get(level) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.effort.packed(frame);
    }
}

/// Keeps a pass connected, and looks whether it is to stop, until it has ended.
fn attend<'scope>(
    scope: &'scope Scope<'scope, '_>,
    connector: &'scope dyn Connector,
    pass: &'scope Pass<'_>,
    backoff: &Backoff,
    traffic: &'scope Arc<Traffic>,
    progress: &'scope dyn Progress,
) {
    let backoff = *backoff;
    scope.spawn(move || {
        // Whoever waits for the target does so no longer than there is somebody who connects.
        let _end = EndOfPass(pass);
        keep_connected(connector, pass, &backoff, traffic, progress);
    });
    scope.spawn(move || {
        while !pass.pause(STOP_TICK) {
            if progress.stop_requested() {
                pass.interrupt();
            }
        }
    });
}

/// Ends the pass when it goes.
struct EndOfPass<'a>(&'a Pass<'a>);

impl Drop for EndOfPass<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn run(
    pass: &Pass<'_>,
    device: &dyn Device,
    options: &PassOptions<'_>,
    effort: &dyn Effort,
    earlier: Option<&Earlier>,
    progress: &dyn Progress,
) -> Result<Option<Found>, SessionError> {
    let Some(base) = RemoteBase::meet(pass, options.diff.free, device.size())? else { return Ok(None) };
    let mut how = DiffOptions { compression: effort, ..options.diff.clone() };
    if let Some(header) = earlier.map(|earlier| &earlier.header) {
        (how.kind, how.created, how.id) = (header.kind, header.created, header.id);
        how.identity = header.identity.clone();
    }
    let (header, blocks) = tree_header(&base, device.size(), &how);
    let durable = base.durable();
    if let Some(earlier) = earlier
        && (earlier.header != header || earlier.free != blocks)
    {
        // Nothing was sent over this connection yet, and what the target keeps goes with the next offer.
        earlier.remove()?;
        let why = "target or source have changed since this pass was stopped, so it cannot go on: begin it again";
        return Err(SessionError::Changed(why));
    }
    let goes_on = earlier.filter(|earlier| durable >= earlier.start);
    let mut journal = match (options.journal, goes_on) {
        (None, _) => None,
        (Some(_), Some(earlier)) => Some(Journal::go_on(earlier, durable)?),
        (Some(path), None) => Some(Journal::create(path, options.moment, header, &blocks)?),
    };
    let start = goes_on.map(|earlier| earlier.start);
    let out = PassWriter {
        pass,
        journal: journal.as_mut(),
        target_has: start.unwrap_or(durable),
        journal_has: start.unwrap_or(0),
    };
    let frames = goes_on.map(|earlier| earlier.frames(durable)).transpose()?.into_iter().flatten();
    let told = frames.map(|frame| frame.map(|frame| (frame.table, frame.len)));
    let report = match diff_tree(&base, device, out, &how, told, &Compared { pass, progress }) {
        Ok(report) => report,
        // What the connection met is the reason, and not that its streams failed.
        Err(error) => return Err(pass.failure().unwrap_or(SessionError::Job(error))),
    };
    pass.complete(report.delta.delta_bytes, report.delta.result_root);
    progress.phase("sending the rest, until it is applied", None);
    Ok(Some(Found { difference: report, journal, created: how.created, kind: how.kind, went_on: start.is_some() }))
}

/// What was found and sent.
struct Found {
    difference: TreeDiffReport,
    journal: Option<Journal>,
    created: i64,
    kind: PointKind,
    went_on: bool,
}

/// Counts how much of the source has been compared, for whoever looks at the target.
struct Compared<'a> {
    pass: &'a Pass<'a>,
    progress: &'a dyn Progress,
}

impl Progress for Compared<'_> {
    fn phase(&self, what: &'static str, total: Option<u64>) {
        self.pass.comparing(total.unwrap_or(0));
        self.progress.phase(what, total);
    }

    fn advance(&self, bytes: u64) {
        self.pass.compared_more(bytes);
        self.progress.advance(bytes);
    }

    fn note(&self, sentence: &str) {
        self.progress.note(sentence);
    }

    fn stop_requested(&self) -> bool {
        self.progress.stop_requested()
    }
}
