//! What a relay tells of itself.

use crate::ledger::Share;
use crate::pair::Pair;
use failback_hashtree::Root;
use failback_orchestrate::HumanBytes;
use std::time::{Duration, SystemTime};

/// What waits, for all pairs.
#[derive(Clone, Debug)]
pub struct Status {
    /// Bytes in the spool, everything counted.
    pub bytes: u64,
    /// As many as there may be.
    pub limit: u64,
    /// Each pair that this relay has something of, in the order of their names.
    pub pairs: Vec<PairStatus>,
}

/// What waits for the target of one pair.
#[derive(Clone, Debug)]
pub struct PairStatus {
    /// The name of the pair.
    pub pair: String,
    /// Complete deltas that wait.
    pub deltas: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long ago the oldest of them was complete.
    pub oldest: Option<Duration>,
    /// Bytes of the delta that arrives, or that has arrived in part.
    pub arriving: u64,
    /// Whether a source is connected.
    pub has_source: bool,
    /// Whether there is a connection to the target, or one is being made.
    pub is_forwarding: bool,
    /// Deltas that can never be applied and are kept until they are dropped.
    pub aside_deltas: u64,
    /// Their bytes, in whole pages.
    pub aside_bytes: u64,
    /// The root that the target will have when everything that waits was applied, if that is known.
    pub base: Option<Root>,
    /// The last root that the target said it has.
    pub applied: Option<Root>,
    /// Why a source is held, in a sentence.
    pub held: Option<String>,
    /// What went wrong last, in a sentence.
    pub last_error: Option<String>,
}

impl PairStatus {
    pub(crate) fn of(pair: &Pair, share: Share, total: u64, limit: u64) -> Self {
        let state = pair.lock();
        let deltas = state.waiting.len() as u64;
        let bytes = state.waiting.iter().fold(0_u64, |sum, waiting| sum.saturating_add(waiting.len));
        let held = state.is_held.then(|| {
            let mut sentence = format!(
                "the source of pair {} is held until there is room: {deltas} of its deltas with {} wait for the target, and all pairs \
                 have {} of {}",
                pair.name,
                HumanBytes(bytes),
                HumanBytes(total),
                HumanBytes(limit)
            );
            if share.aside_deltas > 0 {
                sentence.push_str("; what is kept aside takes room too: drop it if nobody needs it");
            }
            sentence
        });
        let since = state.waiting.front().map(|first| first.since);
        Self {
            pair: pair.name.clone(),
            deltas,
            bytes,
            oldest: since.map(|since| SystemTime::now().duration_since(since).unwrap_or_default()),
            arriving: share.arriving,
            has_source: state.session.is_some(),
            is_forwarding: state.is_busy,
            aside_deltas: share.aside_deltas,
            aside_bytes: share.aside,
            base: state.tree.as_ref().map(|tree| tree.root()).or(state.waiting.back().map(|last| last.root)),
            applied: state.applied.map(|applied| applied.root),
            held,
            last_error: state.last_error.clone(),
        }
    }
}
