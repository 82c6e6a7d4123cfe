//! The order of things.

use super::target::{Target, Written};
use super::{ApplyOptions, ApplyReport, Examined, Intent, IntentStore, Pace, Proven, ReadSeek};
use crate::scan::ScanReport;
use crate::{Against, JobError, Outcome, Progress, verify};
use failback_blockio::Device;
use failback_delta::{
    Coverage, DeltaHeader, DeltaReader, FormatError, Item, Proof, SealedFrame, Totals, Trailer, VerifyingKey,
};
use failback_hashtree::Root;
use failback_units::{BlockIndex, BlockRange};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::thread;

/// What is read of a delta at a time, in bytes.
const READ_AHEAD: usize = 1 << 20;

const NOTHING_WRITTEN: &str = "nothing was written";
const EMPTY_BASE: &str =
    "the base of this delta is empty, and the disk is not: sign the disk and make a new delta from that";
const LEFT_AS_IT_WAS: &str = "it was left as the interrupted apply had left it";

type Reader<'a, R> = DeltaReader<BufReader<&'a mut R>>;

/// Everything that is known of a delta and a target before anything is written.
pub(super) struct Checked {
    pub(super) header: DeltaHeader,
    pub(super) key: [u8; 32],
    pub(super) result_root: Root,
    pub(super) totals: Totals,
    pub(super) signed_by: Option<VerifyingKey>,
    pub(super) total: Examined,
    batches: Vec<Batch>,
}

/// What is known of some frames that are written as one.
struct Batch {
    /// For each frame, whether all of it is in place.
    in_place: Vec<bool>,
    /// A hash over the hashes of the frames: what is written is what was proven.
    seal: [u8; 32],
    /// The block behind the last extent.
    end: BlockIndex,
}

impl Checked {
    /// The refusal of a target that is at another base; none if it is at the right one.
    pub(super) fn wrong_base(&self, device: &dyn Device, consequence: &str) -> Option<JobError> {
        wrong_base(&self.total, device, consequence)
    }
}

fn wrong_base(examined: &Examined, device: &dyn Device, consequence: &str) -> Option<JobError> {
    examined.first_other.map(|first| JobError::WrongBase {
        disk: device.name().into(),
        blocks: examined.other,
        first,
        consequence: consequence.into(),
    })
}

/// Refuses a target that cannot hold the base, and so is not at it, or cannot hold the result.
pub(super) fn fits(header: &DeltaHeader, device: &dyn Device) -> Result<(), JobError> {
    if header.base_coverage != Coverage::Whole || header.result_coverage != Coverage::Whole {
        return Err(JobError::Refused(
            "this delta leaves free space out, which this program cannot apply yet: use a newer failback, or make the delta \
             from a signature with coverage whole"
                .into(),
        ));
    }
    let (base, result) = (header.shapes.base.size(), header.shapes.result.size());
    let needed = base.max(result);
    if needed <= device.size() {
        return Ok(());
    }
    let what = if base > result { "base" } else { "result" };
    Err(JobError::Refused(format!(
        "{} has {} bytes and the {what} of this delta has {needed}: make the disk {} bytes larger, or choose the right one",
        device.name(),
        device.size(),
        needed.saturating_sub(device.size())
    )))
}

/// Refuses a delta that the wrong one, or nobody, has signed.
pub(super) fn check_signer(options: &ApplyOptions, signed_by: Option<VerifyingKey>) -> Result<(), JobError> {
    match (options.trusted, signed_by) {
        (None, _) => Ok(()),
        (Some(trusted), Some(signer)) if trusted == signer => Ok(()),
        (Some(_), Some(_)) => Err(JobError::Refused(
            "this delta is signed by another key than the trusted one: get it from its source again".into(),
        )),
        (Some(_), None) => Err(JobError::Refused(
            "this delta is not signed, and a trusted key is demanded: make it with --signing-key".into(),
        )),
    }
}

/// What an intent record that was found means for this apply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resume {
    /// Blocks that may be half written.
    torn: BlockRange,
    resuming: bool,
    /// Whether unchanged blocks may be other than those of the base, so that only reading them all shows the result.
    must_verify: bool,
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

fn in_place(frames: &[Examined]) -> Vec<bool> {
    frames.iter().map(Examined::is_in_place).collect()
}

/// The frames that are not in place.
fn without(frames: Vec<Arc<SealedFrame>>, in_place: &[bool]) -> Vec<Arc<SealedFrame>> {
    frames.into_iter().zip(in_place).filter(|(_, in_place)| !**in_place).map(|(frame, _)| frame).collect()
}

fn seal(frames: &[Arc<SealedFrame>]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for frame in frames {
        hasher.update(frame.hash());
    }
    hasher.finalize().into()
}

/// The frames of the next batch, and the trailer if it was met.
fn next_batch<R: Read>(
    reader: &mut DeltaReader<R>,
    pace: Pace,
) -> Result<(Vec<Arc<SealedFrame>>, Option<Trailer>), FormatError> {
    let mut frames = Vec::with_capacity(pace.frames_in_batch);
    while frames.len() < pace.frames_in_batch {
        match reader.next_item()? {
            Item::Frame(frame) => frames.push(Arc::new(frame)),
            Item::Trailer(trailer) => return Ok((frames, Some(trailer))),
        }
    }
    Ok((frames, None))
}

fn open<R: Read>(delta: &mut R) -> Result<Reader<'_, R>, FormatError> {
    DeltaReader::open(BufReader::with_capacity(READ_AHEAD, delta))
}

/// What a delta says before its frames.
pub(super) fn header_of(mut delta: &mut dyn ReadSeek) -> Result<DeltaHeader, JobError> {
    length_of(delta)?;
    Ok(open(&mut delta)?.header().clone())
}

/// Reads a whole delta and all that it would replace, and proves what can be proven before writing.
pub(super) fn check_all(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    recorded: Option<&Intent>,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<Checked, JobError> {
    progress.phase("checking", length_of(delta)?);
    let mut delta = delta;
    let mut reader = open(&mut delta)?;
    let header = reader.header().clone();
    let key = *reader.key();
    // Before anything is read, and before values are computed for a disk of any size that a damaged header may claim.
    fits(&header, device)?;
    // Which blocks may be torn must be known before the result root is; a record of another result is refused later.
    let kept = recorded.filter(|intent| !options.discard_intent || intent.delta == key);
    let torn = kept.map_or(BlockRange::default(), |intent| intent.window);
    let mut proof = Proof::new(&header.shapes);
    let mut total = Examined::default();
    let mut batches = Vec::new();
    let mut position = 0;
    thread::scope(|scope| {
        let mut target = Target::new(device, header.shapes, scope)?;
        loop {
            let (frames, trailer) = next_batch(&mut reader, options.pace)?;
            for frame in &frames {
                proof.absorb(&frame.table);
            }
            target.start_checking(&frames);
            let found = target.examine(&frames, torn)?;
            target.finish_checking()?;
            for examined in &found {
                total.add(examined);
            }
            if let Some(last) = frames.last() {
                batches.push(Batch { in_place: in_place(&found), seal: seal(&frames), end: last.table.end() });
            }
            progress.advance(reader.position() - position);
            position = reader.position();
            if let Some(trailer) = trailer {
                proof.finish(&header, &trailer)?;
                let Trailer { result_root, totals, signed_by, .. } = trailer;
                return Ok(Checked { header, key, result_root, totals, signed_by, total, batches });
            }
            if progress.stop_requested() {
                return Err(JobError::Interrupted(NOTHING_WRITTEN.into()));
            }
        }
    })
}

/// Applies a delta that can be read twice.
pub(super) fn from_file(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    intents: &mut dyn IntentStore,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<ApplyReport, JobError> {
    let recorded = intents.load()?;
    let checked = check_all(device, delta, recorded.as_ref(), options, progress)?;
    check_signer(options, checked.signed_by)?;
    let result_root = Some(checked.result_root);
    let resume = Resume::decide(recorded, &checked.key, &checked.header, result_root, options, intents)?;
    let untouched = if resume.resuming { LEFT_AS_IT_WAS } else { NOTHING_WRITTEN };
    if let Some(error) = checked.wrong_base(device, untouched) {
        return Err(error);
    }
    prove_disk(device, delta, &checked, &resume, options, untouched, progress)?;
    let total = length_of(delta)?;
    let mut delta = delta;
    let mut reader = open(&mut delta)?;
    let replaced = || JobError::Refused("the delta was replaced while it was read: run this again".into());
    if *reader.key() != checked.key {
        return Err(replaced());
    }
    let intent = new_intent(&checked.header, checked.key, result_root, &resume, options);
    let mut windows = Windows::new(intents, intent, resume, options.pace);
    let mut written = Written::default();
    thread::scope(|scope| {
        let mut target = Target::new(device, checked.header.shapes, scope)?;
        if checked.total.is_in_place() {
            return windows.settle(&target, &written);
        }
        progress.phase("writing", total);
        let mut position = 0;
        for (number, batch) in checked.batches.iter().enumerate() {
            let (frames, _) =
                next_batch(&mut reader, options.pace).map_err(|error| windows.failed(error.into(), &written))?;
            if seal(&frames) != batch.seal {
                return Err(windows.failed(replaced(), &written));
            }
            let frames = without(frames, &batch.in_place);
            if !frames.is_empty() {
                if windows.is_closed() {
                    let last = (number + options.pace.batches_in_window).min(checked.batches.len()) - 1;
                    windows.open(&target, &frames, checked.batches[last].end, &written)?;
                }
                written.add(target.write(frames).map_err(|error| windows.failed(error, &written))?);
            }
            windows.batch_done(batch.end);
            progress.advance(reader.position() - position);
            position = reader.position();
            if progress.stop_requested() {
                return Err(windows.interrupted(&target, &written));
            }
        }
        windows.settle(&target, &written)
    })?;
    let Checked { header, result_root, totals, signed_by, total, .. } = checked;
    let applied = Applied { header, result_root, totals, signed_by, examined: total, written };
    finish(device, applied, windows, options, progress)
}

/// Applies a delta that can be read only once.
pub(super) fn from_stream(
    device: &dyn Device,
    mut delta: &mut dyn Read,
    intents: &mut dyn IntentStore,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<ApplyReport, JobError> {
    if options.trusted.is_some() {
        return Err(JobError::Refused(
            "a signature stands at the end of a delta, too late to refuse one from a pipe: store it in a file first"
                .into(),
        ));
    }
    let recorded = intents.load()?;
    let mut reader = open(&mut delta)?;
    let header = reader.header().clone();
    fits(&header, device)?;
    let resume = Resume::decide(recorded, reader.key(), &header, None, options, intents)?;
    let intent = new_intent(&header, *reader.key(), None, &resume, options);
    let mut windows = Windows::new(intents, intent, resume, options.pace);
    let (mut examined, mut written) = (Examined::default(), Written::default());
    let mut proof = Proof::new(&header.shapes);
    let mut position = 0;
    progress.phase("writing", None);
    let trailer = thread::scope(|scope| {
        let mut target = Target::new(device, header.shapes, scope)?;
        loop {
            let (frames, trailer) = match next_batch(&mut reader, options.pace) {
                Ok(batch) => batch,
                // Ctrl-C reaches both ends of a pipe: that it breaks off then is no damage.
                Err(_) if progress.stop_requested() => return Err(windows.interrupted(&target, &written)),
                Err(error) => return Err(windows.failed(error.into(), &written)),
            };
            for frame in &frames {
                proof.absorb(&frame.table);
            }
            let found = target.examine(&frames, resume.torn).map_err(|error| windows.failed(error, &written))?;
            for frame in &found {
                examined.add(frame);
            }
            if let Some(error) = wrong_base(&examined, device, &windows.consequence(&written)) {
                return Err(windows.stopped(&target, error, &written));
            }
            if let Some(error) = too_little_known(&header, &examined, options) {
                return Err(windows.stopped(&target, error, &written));
            }
            if let Some(end) = frames.last().map(|last| last.table.end()) {
                let frames = without(frames, &in_place(&found));
                if !frames.is_empty() {
                    // What comes later is not known yet: the window grows batch by batch.
                    windows.open(&target, &frames, end, &written)?;
                    written.add(target.write(frames).map_err(|error| windows.failed(error, &written))?);
                }
                windows.batch_done(end);
            }
            progress.advance(reader.position() - position);
            position = reader.position();
            if let Some(trailer) = trailer {
                let proven = std::mem::replace(&mut proof, Proof::new(&header.shapes)).finish(&header, &trailer);
                proven.map_err(|error| windows.failed(error.into(), &written))?;
                windows.settle(&target, &written)?;
                return Ok(trailer);
            }
            if progress.stop_requested() {
                return Err(windows.interrupted(&target, &written));
            }
        }
    })?;
    if examined.bytes_compared == 0 && !header.shapes.base.size().is_zero() && !holds_base(device, &header, progress)? {
        return Err(not_the_base(device, &windows.consequence(&written)));
    }
    let Trailer { result_root, totals, signed_by, .. } = trailer;
    let applied = Applied { header, result_root, totals, signed_by, examined, written };
    finish(device, applied, windows, options, progress)
}

/// What stands when everything is written and durable.
struct Applied {
    header: DeltaHeader,
    result_root: Root,
    totals: Totals,
    signed_by: Option<VerifyingKey>,
    examined: Examined,
    written: Written,
}

/// Reads the whole disk if that is asked for or needed, removes the record, and reports.
fn finish(
    device: &dyn Device,
    applied: Applied,
    windows: Windows<'_>,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<ApplyReport, JobError> {
    let Applied { header, result_root, totals, signed_by, examined, written } = applied;
    let resume = windows.resume;
    let mut verified = None;
    if resume.must_verify {
        // As long as that is in doubt, the record stays.
        progress.note("another delta may have been written in part before, so the whole disk is read");
        verified = Some(read_all(device, &header, result_root, progress)?);
    }
    windows.remove_record(&written)?;
    if options.verify && verified.is_none() {
        verified = Some(read_all(device, &header, result_root, progress)?);
    }
    Ok(ApplyReport {
        header,
        result_root,
        totals,
        signed_by,
        examined,
        bytes_written: written.bytes_written,
        bytes_zeroed: written.bytes_zeroed,
        resumed: resume.resuming,
        proven: if verified.is_some() { Proven::WholeDisk } else { Proven::ChangedBlocks },
        verified,
    })
}

/// Reads the whole result back and compares its root.
fn read_all(
    device: &dyn Device,
    header: &DeltaHeader,
    result_root: Root,
    progress: &dyn Progress,
) -> Result<ScanReport, JobError> {
    let size = header.shapes.result.size();
    let report = verify(device, Against::<File>::Root(result_root, Some(size)), 0, progress).map_err(|error| {
        let state =
            "the change is written and durable, but reading the disk to check it was not finished: run failback verify";
        JobError::WhileWriting { state: state.into(), source: Box::new(error) }
    })?;
    if report.matches() {
        return Ok(report.scan);
    }
    Err(JobError::Mismatch(format!(
        "the changed blocks are in place and durable, but {} has the root {} and not {result_root}: blocks outside the delta \
         are not those of the base; sign this disk as it is, make a new delta, and if a record is left add --discard-intent",
        device.name(),
        report.root
    )))
}

/// Where the delta's own comparisons do not show that this is its disk, finds out by reading the blocks that do not change.
fn prove_disk(
    device: &dyn Device,
    mut delta: &mut dyn ReadSeek,
    checked: &Checked,
    resume: &Resume,
    options: &ApplyOptions,
    untouched: &str,
    progress: &dyn Progress,
) -> Result<(), JobError> {
    let shapes = &checked.header.shapes;
    if shapes.base.size().is_zero() && checked.total.bytes_unknown > 0 {
        return Err(JobError::Refused(EMPTY_BASE.into()));
    }
    if checked.total.torn == 0 || options.disk.certain {
        if checked.total.bytes_compared > 0 || shapes.base.size().is_zero() || resume.must_verify {
            return Ok(());
        }
        return if holds_base(device, &checked.header, progress)? {
            Ok(())
        } else {
            Err(not_the_base(device, untouched))
        };
    }
    progress
        .note("this disk has no SCSI UUID by which it could be recognised, so all blocks that do not change are read");
    progress.phase("recognising", length_of(delta)?);
    let mut reader = open(&mut delta)?;
    let (mut end, mut position) = (BlockIndex::ZERO, 0);
    thread::scope(|scope| {
        let mut target = Target::new(device, *shapes, scope)?;
        loop {
            match reader.next_item()? {
                Item::Frame(frame) => {
                    for (blocks, values) in frame.table.gaps() {
                        if !target.holds(blocks, values)? {
                            return Err(not_the_base(device, untouched));
                        }
                    }
                    end = frame.table.end();
                }
                Item::Trailer(trailer) => {
                    let (blocks, values) = trailer.gap(shapes, end);
                    return if target.holds(blocks, values)? { Ok(()) } else { Err(not_the_base(device, untouched)) };
                }
            }
            progress.advance(reader.position() - position);
            position = reader.position();
            if progress.stop_requested() {
                return Err(JobError::Interrupted(untouched.into()));
            }
        }
    })
}

/// Reads all of the base: for a delta that replaces nothing that is known.
fn holds_base(device: &dyn Device, header: &DeltaHeader, progress: &dyn Progress) -> Result<bool, JobError> {
    progress.note("nothing that this delta replaces tells whether this is its disk, so all of the base is read");
    let base = Against::<File>::Root(header.base_root, Some(header.shapes.base.size()));
    Ok(verify(device, base, 0, progress)?.matches())
}

fn not_the_base(device: &dyn Device, consequence: &str) -> JobError {
    JobError::Mismatch(format!(
        "{} is not at the base of this delta: blocks that do not change are not those of the base, so {consequence}; choose \
         the right disk, or sign this one and make a new delta",
        device.name()
    ))
}

/// Refuses a delta from a pipe of which too little is known to tell whether this is its disk. From a file that is found out.
fn too_little_known(header: &DeltaHeader, examined: &Examined, options: &ApplyOptions) -> Option<JobError> {
    let refused = |sentence: &str| Some(JobError::Refused(sentence.into()));
    if examined.torn > 0 && !options.disk.certain {
        return refused(
            "this disk has no SCSI UUID by which it could be recognised after the interruption: store the delta in a file and \
             apply that",
        );
    }
    if header.shapes.base.size().is_zero() {
        return if examined.bytes_unknown > 0 { refused(EMPTY_BASE) } else { None };
    }
    if examined.bytes_compared == 0 && !examined.is_in_place() {
        return refused(
            "nothing that this delta replaces tells whether this is its disk: store it in a file and apply that, so that the \
             whole base can be read first",
        );
    }
    None
}

fn new_intent(
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

impl Written {
    fn add(&mut self, more: Self) {
        self.bytes_written += more.bytes_written;
        self.bytes_zeroed += more.bytes_zeroed;
    }

    const fn is_nothing(&self) -> bool {
        self.bytes_written == 0 && self.bytes_zeroed == 0
    }
}

/// The intent record as it follows the writing.
struct Windows<'a> {
    intents: &'a mut dyn IntentStore,
    intent: Intent,
    resume: Resume,
    pace: Pace,
    /// The block behind the recorded window, while one is recorded.
    until: Option<BlockIndex>,
    /// Batches since the window was opened.
    batches: usize,
    /// The block behind the last batch that was dealt with.
    done: BlockIndex,
}

impl<'a> Windows<'a> {
    fn new(intents: &'a mut dyn IntentStore, intent: Intent, resume: Resume, pace: Pace) -> Self {
        Self { intents, intent, resume, pace, until: None, batches: 0, done: BlockIndex::default() }
    }

    const fn is_closed(&self) -> bool {
        self.until.is_none()
    }

    /// Records that blocks up to `end` are going to be written, beginning with `frames`. Before a new window begins, what
    /// was written in the former one, or by an interrupted apply, is made durable.
    fn open(
        &mut self,
        target: &Target<'_>,
        frames: &[Arc<SealedFrame>],
        end: BlockIndex,
        written: &Written,
    ) -> Result<(), JobError> {
        let first = frames.first().and_then(|frame| frame.table.extents.first());
        let start = first.map_or(end, |extent| extent.blocks.start());
        if self.until.is_none() {
            if self.resume.resuming || self.resume.must_verify || !written.is_nothing() {
                target.flush().map_err(|error| self.failed(error.into(), written))?;
            }
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

    /// A batch that ends at `end` was written, or needed no writing.
    fn batch_done(&mut self, end: BlockIndex) {
        self.done = end;
        self.batches += 1;
        if self.batches == self.pace.batches_in_window {
            self.batches = 0;
            self.until = None;
        }
    }

    /// Everything is written: makes it durable. Only then may the record be removed.
    fn settle(&self, target: &Target<'_>, written: &Written) -> Result<(), JobError> {
        if self.resume.resuming || self.resume.must_verify || !written.is_nothing() {
            target.flush().map_err(|error| self.failed(error.into(), written))?;
        }
        Ok(())
    }

    /// The disk is at the result: forgets that it was on its way there.
    fn remove_record(self, written: &Written) -> Result<(), JobError> {
        let cleared = self.intents.clear();
        cleared.map_err(|error| self.failed(error.into(), written))
    }

    /// The user wants to stop: what was written is made durable.
    fn interrupted(&mut self, target: &Target<'_>, written: &Written) -> JobError {
        let state = self.consequence(written);
        let error = JobError::Interrupted(format!("{state}; run the same command again to finish"));
        self.stopped(target, error, written)
    }

    /// Leaves a clean state behind before an error is reported: all that was written is durable, and nothing is torn but
    /// what an earlier interruption tore and this apply did not come to.
    fn stopped(&mut self, target: &Target<'_>, error: JobError, written: &Written) -> JobError {
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

    fn consequence(&self, written: &Written) -> String {
        if written.is_nothing() {
            return if self.resume.resuming { LEFT_AS_IT_WAS } else { NOTHING_WRITTEN }.into();
        }
        format!(
            "the disk holds a part of the change ({} bytes written, {} made zero) and is not to be used as it is",
            written.bytes_written, written.bytes_zeroed
        )
    }

    /// What an error in the middle means for the disk.
    fn failed(&self, error: JobError, written: &Written) -> JobError {
        if written.is_nothing() && self.until.is_none() {
            return error;
        }
        let next = match error.outcome() {
            Outcome::Damaged => "get an intact copy of this delta and apply that",
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

/// The length of a delta, and back to its start.
fn length_of(delta: &mut dyn ReadSeek) -> Result<Option<u64>, JobError> {
    let failed = |error: io::Error| JobError::from(FormatError::Read(failback_delta::FileKind::Delta, error));
    let length = delta.seek(io::SeekFrom::End(0)).map_err(failed)?;
    delta.rewind().map_err(failed)?;
    Ok(Some(length))
}
