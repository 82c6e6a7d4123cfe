//! Sending a delta that is complete in a file: what a relay does.

use super::questions::Questions;
use super::state::{Counts, Pass};
use super::{Connector, attend};
use crate::message::{Accept, Offer, Resumed};
use crate::{Backoff, SessionError, Traffic};
use failback_delta::{DeltaHeader, DeltaReader, trailing_root};
use failback_hashtree::Root;
use failback_orchestrate::{JobError, Progress};
use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

/// A complete delta in a file that nobody changes.
#[derive(Debug)]
pub struct StoredDelta {
    path: PathBuf,
    file: File,
    len: u64,
    header: DeltaHeader,
    key: [u8; 32],
    root: Root,
}

impl StoredDelta {
    /// Opens a delta, and reads how it begins and how it ends. What lies between was proven when it was stored, and the target
    /// proves it again.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is no complete delta.
    pub fn open(path: &Path) -> Result<Self, JobError> {
        let failed = |source| JobError::File { action: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let reader = DeltaReader::open(BufReader::new(&file))?;
        let (header, key) = (reader.header().clone(), *reader.key());
        let mut end = vec![0; usize::try_from(len.min(failback_delta::TRAILER_BYTES_MAX)).unwrap_or(0)];
        let from = len - end.len() as u64;
        file.read_exact_at(&mut end, from).map_err(failed)?;
        let cut_off = || failed(io::Error::new(io::ErrorKind::UnexpectedEof, "it is no complete delta"));
        let root = trailing_root(&end, &key).ok_or_else(cut_off)?;
        Ok(Self { path: path.to_owned(), file, len, header, key, root })
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Never: a delta has a header.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it says before its frames.
    #[must_use]
    pub const fn header(&self) -> &DeltaHeader {
        &self.header
    }

    /// The hash of its header, which names it.
    #[must_use]
    pub const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The root that it leads to.
    #[must_use]
    pub const fn root(&self) -> Root {
        self.root
    }

    pub(super) fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, JobError> {
        let mut bytes = vec![0; len];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(|source| JobError::File { action: "read", path: self.path.clone(), source })?;
        Ok(bytes)
    }
}

/// How a stored delta is sent.
#[derive(Clone, Debug)]
pub struct StoredOptions {
    /// The name of the replication pair.
    pub pair: String,
    /// When to try again after a connection broke.
    pub backoff: Backoff,
}

/// What sending a stored delta did.
#[derive(Clone, Copy, Debug)]
pub struct StoredReport {
    /// The root that the target says it has, or had after this delta.
    pub root: Root,
    /// Whether the target had applied it before anything of it was sent now.
    pub applied_before: bool,
    /// Bytes sent and received over all connections, everything counted.
    pub sent: u64,
    /// As `sent`.
    pub received: u64,
    /// Bytes of the delta that were sent more than once.
    pub sent_again: u64,
    /// Connections on which it was accepted.
    pub connections: u64,
}

/// Sends a stored delta, byte for byte, and waits until the target has applied it. Questions about the target's base are answered
/// meanwhile.
///
/// It goes on where the target has it durable, over as many connections as that takes.
///
/// # Errors
///
/// When the target refuses or cannot be reached any more, or the file cannot be read. [`SessionError::OtherBase`] if the target is
/// not at the base of this delta: it can never be applied there.
pub fn send_stored(
    connector: &dyn Connector,
    delta: &Arc<StoredDelta>,
    options: &StoredOptions,
    questions: &Questions,
    progress: &dyn Progress,
) -> Result<StoredReport, SessionError> {
    let traffic = Arc::<Traffic>::default();
    let resumed = Some(Resumed { delta: delta.key, until: delta.len });
    let pass = Pass::of_stored(Offer::of(&options.pair, &delta.header, resumed), delta);
    let sent = thread::scope(|scope| {
        let pass = &pass;
        attend(scope, connector, pass, &options.backoff, &traffic, progress);
        questions.answered_by(scope, pass);
        let sent = send(pass, delta);
        pass.end();
        questions.wake();
        sent
    });
    let (root, applied_before) = sent?;
    let Counts { sent_again, connections, .. } = pass.counts();
    let (sent, received) = (traffic.sent.load(Ordering::Relaxed), traffic.received.load(Ordering::Relaxed));
    Ok(StoredReport { root, applied_before, sent, received, sent_again, connections })
}

fn send(pass: &Pass<'_>, delta: &StoredDelta) -> Result<(Root, bool), SessionError> {
    let accepted = pass.base().map_err(|error| pass.failure().unwrap_or(error))?;
    if let Some(accept) = accepted {
        fits(&delta.header, &accept)?;
        pass.complete(delta.len, delta.root);
    }
    let (root, _) = pass.wait_until_done()?;
    Ok((root, accepted.is_none()))
}

/// Whether a delta with this header starts from the base that a target says it has.
fn fits(header: &DeltaHeader, accept: &Accept) -> Result<(), SessionError> {
    let base = header.shapes.base;
    let same = accept.root == header.base_root
        && accept.size == base.size()
        && accept.block_size == base.block_size()
        && accept.coverage == header.base_coverage;
    if same { Ok(()) } else { Err(SessionError::OtherBase { expected: header.base_root, found: accept.root }) }
}
