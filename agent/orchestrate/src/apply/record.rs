//! The intent record before, during and after an apply: what a recorded one means, and how the present one moves on.

use super::batches::Batch;
use super::refusals::{LEFT_AS_IT_WAS, NOTHING_WRITTEN};
use super::run::Ledger;
use super::target::{Target, Written};
use super::{ApplyOptions, Intent, IntentStore, Pace};
use crate::{JobError, Outcome};
use failback_delta::{DeltaHeader, SealedFrame};
use failback_hashtree::Root;
use failback_units::{BlockIndex, BlockRange};
use std::sync::Arc;

/// What an intent record that was found means for this apply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resume {
    /// Blocks that may be half written.
    pub(super) torn: BlockRange,
    pub(super) resuming: bool,
    /// Whether unchanged blocks may be other than those of the base, so that only reading them all shows the result.
    pub(super) must_verify: bool,
    /// When the first attempt was started.
    started: i64,
}

impl Resume {
    /// Decides whether a recorded apply is the one at hand.
    ///
    /// Blocks outside the delta at hand that an interrupted apply of another delta wrote are seen by nobody unless the
    /// whole disk is read. So a delta that is not known to be the same is accepted only with that.
    pub(super) fn decide(
        recorded: Option<Intent>,
        key: &[u8; 32],
        header: &DeltaHeader,
        result_root: Option<Root>,
        options: &ApplyOptions,
        intents: &dyn IntentStore,
    ) -> Result<Self, JobError> {
        let Some(intent) = recorded else {
            let nothing = BlockRange::default();
            return Ok(Self { torn: nothing, resuming: false, must_verify: false, started: options.now });
        };
        if intent.disk != options.disk.id {
            return Err(JobError::Refused(format!(
                "the intent record {} is that of another disk: find out which, and move the record away if that disk is no longer \
                 needed",
                intents.place()
            )));
        }
        let resumed = |must_verify| Self {
            torn: intent.window,
            resuming: true,
            must_verify: must_verify || intent.doubtful,
            started: intent.started,
        };
        let shapes = &header.shapes;
        let same_ends = intent.base_root == header.base_root
            && intent.base_size == shapes.base.size()
            && intent.result_size == shapes.result.size()
            && intent.block_shift == shapes.block_size().shift();
        let unknown = intent.result_root.is_none() || result_root.is_none();
        let same_result = !unknown && intent.result_root == result_root;
        if same_ends && (same_result || (unknown && intent.delta == *key)) {
            return Ok(resumed(false));
        }
        if same_ends && unknown {
            return Ok(resumed(true));
        }
        if options.discard_intent {
            return Ok(Self { torn: BlockRange::default(), resuming: false, must_verify: true, started: options.now });
        }
        Err(JobError::Refused(format!(
            "an apply of another delta to this disk was interrupted ({}): finish it with that delta; or sign the disk as it \
             is, make a new delta from that and add --discard-intent",
            intents.place()
        )))
    }

    pub(super) const fn is_resuming(&self) -> bool {
        self.resuming
    }
}

/// The blocks that a recorded apply may have torn, if it was of this delta. Which they are must be known before the result
/// root is; a record of another result is refused later.
pub(super) fn torn_by(recorded: Option<&Intent>, key: &[u8; 32], options: &ApplyOptions) -> BlockRange {
    let kept = recorded.filter(|intent| !options.discard_intent || intent.delta == *key);
    kept.map_or(BlockRange::default(), |intent| intent.window)
}

pub(super) fn new_intent(
    header: &DeltaHeader,
    key: [u8; 32],
    result_root: Option<Root>,
    resume: &Resume,
    options: &ApplyOptions,
) -> Intent {
    Intent {
        delta: key,
        disk: options.disk.id,
        base_root: header.base_root,
        result_root,
        base_size: header.shapes.base.size(),
        result_size: header.shapes.result.size(),
        window: BlockRange::default(),
        block_shift: header.shapes.block_size().shift(),
        doubtful: resume.must_verify,
        started: resume.started,
    }
}

/// The intent record as it follows the writing.
pub(super) struct Windows<'a> {
    intents: &'a mut dyn IntentStore,
    intent: Intent,
    pub(super) resume: Resume,
    pace: Pace,
    /// The block behind the recorded window, while one is recorded.
    until: Option<BlockIndex>,
    /// Batches since the window was opened.
    batches: usize,
    /// The block behind the last batch that was dealt with.
    done: BlockIndex,
}

impl<'a> Windows<'a> {
    pub(super) fn new(intents: &'a mut dyn IntentStore, intent: Intent, resume: Resume, pace: Pace) -> Self {
        Self { intents, intent, resume, pace, until: None, batches: 0, done: BlockIndex::default() }
    }

    /// Records that blocks up to `end` are going to be written, beginning with `frames`. Before a new window begins, what
    /// was written in the former one, or by an interrupted apply, is made durable.
    pub(super) fn open(
        &mut self,
        target: &Target<'_>,
        frames: &[Arc<SealedFrame>],
        end: BlockIndex,
        written: &Written,
    ) -> Result<(), JobError> {
        let first = frames.first().and_then(|frame| frame.table.extents.first());
        let start = first.map_or(end, |extent| extent.blocks.start());
        if self.until.is_none() {
            self.settle(target, written)?;
            self.intent.window = BlockRange::between(start, start).unwrap_or_default();
        }
        // What an interrupted apply may have torn stays on record until it is written again.
        let recorded = end.max(self.resume.torn.end());
        self.intent.window = BlockRange::between(self.intent.window.start(), recorded).unwrap_or_default();
        let saved = self.intents.save(&self.intent);
        saved.map_err(|error| self.failed(error.into(), written))?;
        self.until = Some(end);
        Ok(())
    }

    /// The disk is at the result: forgets that it was on its way there.
    pub(super) fn remove_record(self, written: &Written) -> Result<(), JobError> {
        let cleared = self.intents.clear();
        cleared.map_err(|error| self.failed(error.into(), written))
    }

    /// Leaves a clean state behind before an error is reported: all that was written is durable, and nothing is torn but
    /// what an earlier interruption tore and this apply did not come to.
    pub(super) fn stopped(&mut self, target: &Target<'_>, error: JobError, written: &Written) -> JobError {
        if written.is_nothing() {
            return error;
        }
        if let Err(flush) = target.flush() {
            return self.failed(flush.into(), written);
        }
        self.intent.window =
            BlockRange::between(self.done.max(self.resume.torn.start()), self.resume.torn.end()).unwrap_or_default();
        match self.intents.save(&self.intent) {
            Ok(()) => error,
            Err(save) => self.failed(save.into(), written),
        }
    }

    pub(super) fn consequence(&self, written: &Written) -> String {
        if written.is_nothing() {
            return if self.resume.resuming { LEFT_AS_IT_WAS } else { NOTHING_WRITTEN }.into();
        }
        format!(
            "the disk holds a part of the change ({} bytes written, {} made zero) and is not to be used as it is",
            written.data, written.zeroes
        )
    }
}

impl Ledger for Windows<'_> {
    fn before(
        &mut self,
        target: &Target<'_>,
        frames: &[Arc<SealedFrame>],
        left: &[Batch],
        written: &Written,
    ) -> Result<(), JobError> {
        match left.get(self.pace.batches_in_window.min(left.len()) - 1) {
            Some(last) if self.until.is_none() => self.open(target, frames, last.end, written),
            _ => Ok(()),
        }
    }

    fn batch_done(&mut self, end: BlockIndex) {
        self.done = end;
        self.batches += 1;
        if self.batches == self.pace.batches_in_window {
            self.batches = 0;
            self.until = None;
        }
    }

    /// Makes durable what was written, by this apply or by an interrupted one. Only then may the record move on or go.
    fn settle(&self, target: &Target<'_>, written: &Written) -> Result<(), JobError> {
        if self.resume.resuming || self.resume.must_verify || !written.is_nothing() {
            target.flush().map_err(|error| self.failed(error.into(), written))?;
        }
        Ok(())
    }

    fn interrupted(&mut self, target: &Target<'_>, written: &Written) -> JobError {
        let state = self.consequence(written);
        let error = JobError::Interrupted(format!("{state}; run the same command again to finish"));
        self.stopped(target, error, written)
    }

    fn failed(&self, error: JobError, written: &Written) -> JobError {
        if written.is_nothing() && self.until.is_none() {
            return error;
        }
        let next = match error {
            JobError::Format(_) if error.outcome() == Outcome::Damaged => {
                "get an intact copy of this delta and apply that"
            }
            _ => "remove the cause and run the same command again",
        };
        let state = format!(
            "failed while writing: a part of the change is on the disk, which is not to be used as it is; {next} to finish \
             (recorded in {})",
            self.intents.place()
        );
        JobError::WhileWriting { state, source: Box::new(error) }
    }
}
