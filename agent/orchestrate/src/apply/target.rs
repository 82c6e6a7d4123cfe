//! The target disk under a delta: what stands there, and writing to it, frame by frame.

use super::Pace;
use crate::JobError;
use crate::ordered::Ordered;
use failback_blockio::{Buffer, Completion, Device, Extent as DiskExtent, IoError, Operation, Pool, Queue, run};
use failback_delta::{Content, Extent, FormatError, FreeBlocks, SealedFrame, Shapes, Standing};
use failback_hashtree::{ChainingValue, Frontier, LeafHasher, is_zero};
use failback_units::{BlockIndex, BlockRange, ByteCount, ByteOffset, ByteRange};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::Scope;

/// Operations under way on the target. Measured with `scripts/bench`: 64 to 128 is where scattered 4 KiB blocks go fastest.
const DEPTH: usize = 128;
/// What a buffer has: for content that is read, and for payloads between unpacking and writing.
const BUFFER_BYTES: usize = 1 << 20;

/// What stands at the places that a frame, or all frames, would change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Examined {
    /// Bytes that were read from the target.
    pub bytes_read: u64,
    /// Bytes known to be zero without reading them.
    pub bytes_hole: u64,
    /// Bytes of those whose content the delta knows, and that were compared with it.
    pub bytes_compared: u64,
    /// Bytes of which the delta knows nothing, and that hold something else than it would write.
    pub bytes_unknown: u64,
    /// Bytes that hold what the delta would write.
    pub bytes_in_place: u64,
    /// Bytes to be written.
    pub bytes_to_write: u64,
    /// Bytes to be made zero.
    pub bytes_to_zero: u64,
    /// Extents that hold neither what is expected nor what would be written, because a write was interrupted.
    pub torn: u64,
    /// Extents of known content that hold what is expected or what would be written: what a disk is recognised by.
    #[serde(skip)]
    pub recognised: u64,
    /// Extents that hold something else for no known reason.
    pub other: u64,
    /// The first of those, in bytes.
    #[serde(skip)]
    pub first_other: Option<ByteRange>,
}

impl Examined {
    /// Whether nothing is left to be done.
    #[must_use]
    pub const fn is_in_place(&self) -> bool {
        self.bytes_to_write == 0 && self.bytes_to_zero == 0 && self.torn == 0 && self.other == 0
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.bytes_read += more.bytes_read;
        self.bytes_hole += more.bytes_hole;
        self.bytes_compared += more.bytes_compared;
        self.bytes_unknown += more.bytes_unknown;
        self.bytes_in_place += more.bytes_in_place;
        self.bytes_to_write += more.bytes_to_write;
        self.bytes_to_zero += more.bytes_to_zero;
        self.torn += more.torn;
        self.recognised += more.recognised;
        self.other += more.other;
        self.first_other = self.first_other.or(more.first_other);
    }
}

/// What writing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes of content.
    pub(crate) data: u64,
    /// Bytes that were made zero because they are zero in the result.
    pub(crate) zeroes: u64,
}

impl Written {
    pub(crate) fn add(&mut self, more: Self) {
        self.data += more.data;
        self.zeroes += more.zeroes;
    }

    pub(crate) const fn is_nothing(&self) -> bool {
        self.data == 0 && self.zeroes == 0
    }
}

type Unpacked = (Arc<SealedFrame>, Buffer, Result<(), FormatError>);

/// A target disk with a delta's two shapes.
pub(crate) struct Target<'a> {
    device: &'a dyn Device,
    queue: Box<dyn Queue + 'a>,
    pool: Pool,
    shapes: Shapes,
    hasher: LeafHasher,
    workers: usize,
    unpacker: Ordered<(Arc<SealedFrame>, Buffer), Unpacked>,
    checker: Ordered<Arc<SealedFrame>, Result<(), FormatError>>,
    extent: Option<DiskExtent>,
    zeroes: Vec<u8>,
}

/// A part of an extent that is looked at in one piece.
struct Piece<'f> {
    frame: usize,
    /// The number of the extent in its frame.
    number: usize,
    extent: &'f Extent,
    bytes: ByteRange,
}

/// Whoever wants to see the content that is examined.
pub(crate) trait Witness {
    /// `content` stands at an extent, number `number` of frame `frame` of the batch; at all of it if that has weight, else at a
    /// part. `is_old` says whether that is what the delta expects to replace.
    fn sees(&mut self, frame: usize, number: usize, extent: &Extent, content: &[u8], is_old: bool);
}

impl<'a> Target<'a> {
    pub(super) fn new<'scope>(
        device: &'a dyn Device,
        shapes: Shapes,
        pace: Pace,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<Self, JobError> {
        let pool = Pool::new(pace.buffers(), BUFFER_BYTES).map_err(|source| JobError::File {
            action: "map memory for",
            path: device.name().into(),
            source,
        })?;
        let workers = pace.workers();
        let unpacker = Ordered::start(scope, workers, move || {
            let mut hasher = LeafHasher::new();
            move |(frame, mut buffer): (Arc<SealedFrame>, Buffer)| {
                let opened = frame.open(&shapes, &mut hasher, &mut buffer);
                (frame, buffer, opened)
            }
        });
        let checker = Ordered::start(scope, workers, move || {
            let (mut hasher, mut data) = (LeafHasher::new(), Vec::new());
            move |frame: Arc<SealedFrame>| {
                data.resize(frame.table.data_len(), 0);
                frame.open(&shapes, &mut hasher, &mut data)
            }
        });
        let queue = device.queue(DEPTH)?;
        let (hasher, extent, zeroes) = (LeafHasher::new(), None, vec![0; BUFFER_BYTES]);
        Ok(Self { device, queue, pool, shapes, hasher, workers, unpacker, checker, extent, zeroes })
    }

    /// Begins to unpack frames and to compare their payloads with their tables, while something else is done.
    pub(super) fn start_checking(&mut self, frames: &[Arc<SealedFrame>]) {
        for frame in frames {
            self.checker.push(Arc::clone(frame));
        }
    }

    /// Waits for what [`start_checking`](Self::start_checking) began, but for the last `pending` frames, and fails if a payload
    /// is not what its table states.
    pub(super) fn finish_checking(&mut self, pending: usize) -> Result<(), FormatError> {
        while self.checker.under_way() > pending as u64
            && let Some(result) = self.checker.pop()
        {
            result?;
        }
        Ok(())
    }

    /// Whether the disk holds blocks with these values, those of the nodes that cover `blocks`. Free ones count as zero.
    pub(super) fn holds(
        &mut self,
        blocks: BlockRange,
        stated: &[ChainingValue],
        free: &FreeBlocks,
    ) -> Result<bool, JobError> {
        let (base, mut nodes) = (self.shapes.base, Frontier::new(self.shapes.gap_level()));
        let mut rest = base.bytes_of(blocks);
        let mut leaves = Vec::new();
        while !rest.is_empty() {
            let mut buffer = self.pool.take();
            // Pieces end at multiples of a buffer's length, so that they are whole blocks.
            let piece = BUFFER_BYTES as u64 - rest.start().get() % BUFFER_BYTES as u64;
            buffer.truncate(usize::try_from(piece.min(rest.count().get())).expect("a piece fits in memory"));
            let count = ByteCount::of_memory(buffer.len());
            self.queue.submit(0, Operation::Read { at: rest.start(), into: buffer });
            let Some(Completion { buffer: Some(mut buffer), result, .. }) = self.queue.wait() else { break };
            result?;
            let first = BlockIndex::containing(rest.start(), base.block_size());
            let here = BlockRange::new(first, base.block_size().blocks_in(count)).unwrap_or_default();
            for run in free.within(here) {
                let bytes = base.bytes_of(run);
                let place = |at: ByteOffset| at.distance_from(rest.start()).and_then(ByteCount::to_usize).unwrap_or(0);
                buffer[place(bytes.start())..place(bytes.end())].fill(0);
            }
            leaves.clear();
            self.hasher.hash(base, first, &buffer, &mut leaves);
            nodes.push_leaves(&mut self.hasher, first, &leaves);
            let next = rest.start().checked_add(count).unwrap_or(rest.end());
            rest = ByteRange::between(next, rest.end()).unwrap_or_default();
        }
        Ok(nodes.take().map(|(_, value)| value).eq(stated.iter().copied()))
    }

    /// What stands at `bytes`, which are 1 MiB at most; `None` if it is a hole.
    pub(crate) fn read(&mut self, bytes: ByteRange) -> Result<Option<Buffer>, JobError> {
        if self.is_hole(bytes)? {
            return Ok(None);
        }
        let mut buffer = self.pool.take();
        buffer.truncate(bytes.count().to_usize().expect("a piece fits in memory"));
        self.queue.submit(0, Operation::Read { at: bytes.start(), into: buffer });
        let completion = self.queue.wait().expect("an operation is in flight");
        completion.result?;
        Ok(completion.buffer)
    }

    /// Reads what stands at the places of some frames, and compares. `torn` are the blocks that may hold anything. A witness
    /// is shown all that the frames replace, also where they write nothing.
    pub(super) fn examine(
        &mut self,
        frames: &[Arc<SealedFrame>],
        torn: BlockRange,
        mut witness: Option<&mut dyn Witness>,
    ) -> Result<Vec<Examined>, JobError> {
        let mut found = vec![Examined::default(); frames.len()];
        let shapes = self.shapes;
        let all = witness.is_some();
        let mut pieces = frames.iter().enumerate().flat_map(|(frame, sealed)| {
            sealed.table.extents.iter().enumerate().flat_map(move |(number, extent)| {
                pieces_of(&shapes, extent, all).map(move |bytes| Piece { frame, number, extent, bytes })
            })
        });
        let mut reading: BTreeMap<u64, Piece<'_>> = BTreeMap::new();
        let mut spare: Option<Buffer> = None;
        let mut held: Option<Piece<'_>> = None;
        let mut token = 0;
        loop {
            while self.queue.in_flight() < DEPTH {
                let Some(piece) = held.take().or_else(|| pieces.next()) else { break };
                let len = usize::try_from(piece.bytes.count().get()).expect("a piece fits in memory");
                if self.is_hole(piece.bytes)? {
                    found[piece.frame].bytes_hole += piece.bytes.count().get();
                    let content = std::mem::take(&mut self.zeroes);
                    self.judge(&piece, frames, &content[..len], torn, &mut found, witness.as_deref_mut());
                    self.zeroes = content;
                    continue;
                }
                let Some(buffer) = self.carve(&mut spare, len) else {
                    held = Some(piece);
                    break;
                };
                self.queue.submit(token, Operation::Read { at: piece.bytes.start(), into: buffer });
                reading.insert(token, piece);
                token += 1;
            }
            let Some(Completion { token, buffer, result }) = self.queue.wait() else { return Ok(found) };
            result?;
            let (Some(piece), Some(buffer)) = (reading.remove(&token), buffer) else { continue };
            found[piece.frame].bytes_read += piece.bytes.count().get();
            self.judge(&piece, frames, &buffer, torn, &mut found, witness.as_deref_mut());
        }
    }

    /// Writes frames, in memory for a few of them. Returns when all are written, not yet durable.
    pub(super) fn write(&mut self, frames: Vec<Arc<SealedFrame>>) -> Result<Written, JobError> {
        let mut written = Written::default();
        let mut frames = frames.into_iter();
        let mut failed: Option<JobError> = None;
        loop {
            while failed.is_none()
                && self.unpacker.under_way() < 2 * self.workers as u64
                && let Some(mut buffer) = self.pool.try_take()
                && let Some(frame) = frames.next()
            {
                buffer.truncate(frame.table.data_len());
                self.unpacker.push((frame, buffer));
            }
            let Some((frame, buffer, opened)) = self.unpacker.pop() else {
                // Everything was handed to the queue, or no buffer is free before something is written.
                if self.finish_one(&mut failed) {
                    continue;
                }
                break;
            };
            if let Err(error) = opened {
                failed = failed.or(Some(error.into()));
            }
            if failed.is_none() {
                self.submit(&frame, buffer, &mut written, &mut failed);
            }
        }
        while self.finish_one(&mut failed) {}
        failed.map_or(Ok(written), Err)
    }

    /// Makes durable what was written.
    pub(crate) fn flush(&self) -> Result<(), IoError> {
        run(self.device, Operation::Flush).map(|_| ())
    }

    /// Hands the writes of one frame to the queue.
    fn submit(&mut self, frame: &SealedFrame, payload: Buffer, written: &mut Written, failed: &mut Option<JobError>) {
        let mut rest = payload;
        for extent in &frame.table.extents {
            let bytes = extent.new_bytes(&self.shapes);
            let operation = match extent.new {
                Content::Absent | Content::Free => continue,
                Content::Zero => {
                    written.zeroes += bytes.count().get();
                    Operation::Zero { range: bytes }
                }
                Content::Data | Content::Kept => {
                    let behind = rest.split_off(extent.data.len());
                    let from = std::mem::replace(&mut rest, behind);
                    written.data += bytes.count().get();
                    Operation::Write { at: bytes.start(), from }
                }
            };
            while self.queue.in_flight() >= DEPTH {
                self.finish_one(failed);
            }
            if failed.is_some() {
                return;
            }
            self.queue.submit(0, operation);
        }
    }

    /// Waits for one operation; keeps the first error. `false` when none is under way.
    fn finish_one(&mut self, failed: &mut Option<JobError>) -> bool {
        match self.queue.wait() {
            None => false,
            Some(Completion { result, .. }) => {
                if let Err(error) = result
                    && failed.is_none()
                {
                    *failed = Some(error.into());
                }
                true
            }
        }
    }

    /// A piece of memory of `len` bytes, aligned for direct reads; `None` while all memory is in use.
    fn carve(&mut self, spare: &mut Option<Buffer>, len: usize) -> Option<Buffer> {
        let room = len.next_multiple_of(4096);
        if spare.as_ref().is_none_or(|spare| spare.len() < room) {
            *spare = None;
            *spare = Some(self.pool.try_take()?);
        }
        let mut buffer = spare.take()?;
        if buffer.len() > room {
            *spare = Some(buffer.split_off(room));
        }
        buffer.truncate(len);
        Some(buffer)
    }

    /// Whether the target has a hole there. Asked from left to right, mostly.
    fn is_hole(&mut self, bytes: ByteRange) -> Result<bool, IoError> {
        let covers = |extent: &DiskExtent| extent.range.start() <= bytes.start() && bytes.start() < extent.range.end();
        if !self.extent.as_ref().is_some_and(covers) {
            self.extent = self.device.extent_at(bytes.start())?;
        }
        Ok(self.extent.is_some_and(|extent| extent.hole && bytes.end() <= extent.range.end()))
    }

    /// Decides what stands at a piece.
    fn judge(
        &mut self,
        piece: &Piece<'_>,
        frames: &[Arc<SealedFrame>],
        content: &[u8],
        torn: BlockRange,
        found: &mut [Examined],
        witness: Option<&mut (dyn Witness + '_)>,
    ) {
        let (extent, shapes) = (piece.extent, &self.shapes);
        let table = &frames[piece.frame].table;
        let mut known_old = false;
        if let Some(witness) = witness {
            let is_old = if extent.is_weighty() {
                table.stands_old(shapes, &mut self.hasher, extent, content)
            } else {
                extent.old != Content::Zero || is_zero(content)
            };
            known_old = is_old && extent.old.has_values();
            witness.sees(piece.frame, piece.number, extent, content, is_old);
        }
        let standing = if known_old {
            Standing::Old
        } else if !extent.new.is_written() {
            Standing::Other
        } else if !extent.is_weighty() {
            match (is_zero(content), extent.old) {
                (true, _) => Standing::New,
                (false, Content::Zero) => Standing::Other,
                (false, _) => Standing::Old,
            }
        } else {
            table.standing(shapes, &mut self.hasher, extent, content)
        };
        let found = &mut found[piece.frame];
        let new = ByteRange::between(piece.bytes.start(), piece.bytes.end().min(extent.new_bytes(shapes).end()));
        let len = new.unwrap_or_default().count().get();
        if matches!(extent.old, Content::Data | Content::Zero | Content::Kept) {
            found.bytes_compared += len;
        } else if standing == Standing::Old && !is_zero(content) {
            found.bytes_unknown += len;
        }
        let known = if standing == Standing::New { extent.new.has_values() } else { extent.old.has_values() };
        found.recognised += u64::from(known && standing != Standing::Other);
        match standing {
            Standing::New => {
                found.bytes_in_place += len;
                return;
            }
            Standing::Old | Standing::Mixed => {}
            Standing::Other if extent.blocks.start() < torn.end() && torn.start() < extent.blocks.end() => {
                found.torn += 1;
            }
            Standing::Other => {
                found.other += 1;
                found.first_other = found.first_other.or(Some(piece.bytes));
            }
        }
        match extent.new {
            Content::Data | Content::Kept => found.bytes_to_write += len,
            Content::Zero => found.bytes_to_zero += len,
            Content::Free | Content::Absent => {}
        }
    }
}

/// The bytes of an extent that are to be looked at: none where nothing will be written, unless `all` that is known of the old
/// content is wanted.
fn pieces_of(shapes: &Shapes, extent: &Extent, all: bool) -> impl Iterator<Item = ByteRange> + use<> {
    let wanted = extent.new.is_written() || (all && extent.old.has_values());
    // Where one disk's last block is shorter than the other's, as much as counts on either side.
    let whole = if extent.is_weighty() { shapes.larger().bytes_of(extent.blocks) } else { extent.new_bytes(shapes) };
    let mut rest = if wanted { whole } else { ByteRange::default() };
    std::iter::from_fn(move || {
        let now = rest.count().min(ByteCount::of_memory(BUFFER_BYTES));
        let piece = ByteRange::new(rest.start(), now).filter(|piece| !piece.is_empty())?;
        rest = ByteRange::between(piece.end(), rest.end())?;
        Some(piece)
    })
}
