//! The source's side of a pass, over as many connections as it takes.

mod connection;
mod remote;
mod state;

use crate::{Backoff, Link, SessionError, Traffic};
use connection::keep_connected;
use failback_delta::{Identity, PointKind, SigningKey};
use failback_hashtree::Root;
use failback_orchestrate::{Device, DiffOptions, FreeMap, JobError, Progress, TreeDiffReport, diff_tree};
use remote::{RemoteBase, WindowWriter};
use state::Pass;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

/// Makes connections to one target.
pub trait Connector: Sync {
    /// Connects once.
    ///
    /// # Errors
    ///
    /// When it cannot be reached now: it is tried again later.
    fn connect(&self) -> io::Result<Link>;
}

/// What a pass sends.
pub struct PassOptions<'a> {
    /// The name of the replication pair.
    pub pair: String,
    /// The source's free space, which is not read and counts as zero; `None` where the whole disk counts.
    pub free: Option<&'a FreeMap>,
    /// What moment the source's content is from.
    pub kind: PointKind,
    /// The time to state, in seconds since 1970.
    pub created: i64,
    /// 16 random bytes, which tell this pass's delta from any other.
    pub id: [u8; 16],
    /// Which disk the source is.
    pub identity: Identity,
    /// zstd's level, 1 to 19.
    pub level: i32,
    /// Threads that read and hash; 0 for one on each processor.
    pub threads: usize,
    /// Who signs.
    pub signer: Option<&'a SigningKey>,
    /// Called after the last read and before the delta is complete: the place to find out that the source was at rest.
    pub before_end: &'a dyn Fn() -> Result<(), JobError>,
    /// When to try again after a connection broke.
    pub backoff: Backoff,
}

/// What a pass did.
#[derive(Clone, Copy, Debug)]
pub struct PassReport {
    /// The delta that was sent, and what was read for it.
    pub difference: TreeDiffReport,
    /// The root that the target says it has now.
    pub root: Root,
    /// Bytes sent and received over all connections, everything counted.
    pub sent: u64,
    /// As `sent`.
    pub received: u64,
    /// Bytes of the delta that were sent more than once.
    pub sent_again: u64,
    /// Connections that were made.
    pub connections: u64,
}

/// Finds what differs from the target, sends it, and has it applied.
///
/// A connection that breaks is made anew, and the pass goes on where the target has it durable.
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
    let pass = Pass::new(options, device.size());
    let difference = thread::scope(|scope| {
        let (pass, traffic, backoff) = (&pass, &traffic, options.backoff);
        scope.spawn(move || {
            // Whoever waits for the target does so no longer than there is somebody who connects.
            let _end = EndOfPass(pass);
            keep_connected(connector, pass, &backoff, traffic, progress);
        });
        let difference = run(pass, device, options, progress);
        if let Err(SessionError::Job(error)) = &difference {
            pass.give_up(error.to_string());
        }
        let done = difference.and_then(|difference| Ok((difference, pass.wait_until_done()?)));
        pass.end();
        done
    });
    let (difference, root) = difference?;
    let (sent_again, connections) = pass.counts();
    let (sent, received) = (traffic.sent.load(Ordering::Relaxed), traffic.received.load(Ordering::Relaxed));
    Ok(PassReport { difference, root, sent, received, sent_again, connections })
}

/// Ends the pass when it goes.
struct EndOfPass<'a>(&'a Pass);

impl Drop for EndOfPass<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn run(
    pass: &Pass,
    device: &dyn Device,
    options: &PassOptions<'_>,
    progress: &dyn Progress,
) -> Result<TreeDiffReport, SessionError> {
    let base = RemoteBase::meet(pass, options.free, device.size())?;
    let how = DiffOptions {
        free: options.free,
        kind: options.kind,
        created: options.created,
        id: options.id,
        identity: options.identity.clone(),
        level: options.level,
        threads: options.threads,
        signer: options.signer,
        before_end: options.before_end,
    };
    let report = match diff_tree(&base, device, WindowWriter(pass), &how, [], progress) {
        Ok(report) => report,
        // What the connection met is the reason, and not that its streams failed.
        Err(error) => return Err(pass.failure().unwrap_or(SessionError::Job(error))),
    };
    pass.complete(report.delta.delta_bytes, report.delta.result_root);
    Ok(report)
}
