//! From any disk to a new one in another format.

use super::new::NewFiles;
use crate::ordered::{Ordered, worker_count};
use crate::{JobError, Progress};
use failback_blockio::{Buffer, Completion, Device, Engine, Operation, Pool};
use failback_hashtree::is_zero;
use failback_image::create::{CreateError, NewDisk, NewFile, Subformat, descriptor_of, files_of};
use failback_image::stream::{GRAIN_BYTES, PackedGrain, StreamWriter};
use failback_image::{Access, open};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// What is read and written at a time.
const PIECE: usize = 1 << 20;
/// Reads under way.
const READS: usize = 8;
/// Writes under way.
const WRITES: usize = 16;
/// Pieces in memory.
const BUFFERS: usize = 32;
/// The unit in which zeroes are left out: a grain.
const GRAIN: usize = 64 << 10;

/// What a new disk is to be made as.
#[derive(Clone, Debug)]
pub enum NewImage {
    /// A raw image: the bytes of the disk.
    Raw,
    /// A VMDK; its capacity is that of the source.
    Vmdk(NewDisk),
}

/// What was converted.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ConvertReport {
    /// The size of the disk.
    pub size: u64,
    /// Bytes that were read of the source.
    pub bytes_read: u64,
    /// Bytes known to be zero without reading them.
    pub bytes_hole: u64,
    /// Bytes that are not zero, and were written, before any compression.
    pub bytes_written: u64,
    /// The new files; the first one is, or has, the descriptor.
    pub files: Vec<PathBuf>,
}

/// Makes a new, empty disk. Returns its files.
///
/// # Errors
///
/// When there can be no such disk, or one of its files is there already.
pub fn create(path: &Path, new: &NewDisk, engine: Engine) -> Result<Vec<PathBuf>, JobError> {
    if new.subformat == Subformat::StreamOptimized {
        return Err(JobError::Refused(
            "an empty stream is of no use, since it is written once: choose another subformat, or convert a disk to it"
                .into(),
        ));
    }
    let files = NewFiles::make(path, files_of(new, name_of(path)?)?, engine)?;
    files.publish()
}

/// Copies a disk into a new one. Holes and zeroes of the source become holes.
///
/// `before_end` is called after the last read; if it fails, there is no new disk.
///
/// # Errors
///
/// When the source cannot be read, the new disk cannot be made or written, or the user stops it. There are no new files then.
pub fn convert(
    source: &dyn Device,
    path: &Path,
    image: &NewImage,
    engine: Engine,
    before_end: &dyn Fn() -> Result<(), JobError>,
    progress: &dyn Progress,
) -> Result<ConvertReport, JobError> {
    let name = name_of(path)?;
    let files = match image {
        NewImage::Raw => vec![NewFile { name: name.to_owned(), length: source.size(), content: Vec::new() }],
        NewImage::Vmdk(new) => files_of(new, name)?,
    };
    let files = NewFiles::make(path, files, engine)?;
    progress.phase("converting", Some(source.size().get()));
    let read = match image {
        NewImage::Raw => {
            let device = files.first_device()?;
            let read = copy(source, &device, progress)?;
            failback_blockio::run(&device, Operation::Flush)?;
            read
        }
        NewImage::Vmdk(new) if new.subformat == Subformat::StreamOptimized => {
            let out = BufWriter::with_capacity(PIECE, files.first()?);
            let failed = |error| JobError::Refused(format!("{}: {error}", path.display()));
            let text = descriptor_of(new, name)?;
            let stream = StreamWriter::new(out, new.capacity, &text).map_err(failed)?;
            pack(source, stream, path, progress)?
        }
        NewImage::Vmdk(_) => {
            let disk = open(path, Access::Write, &files)?;
            let read = copy(source, &disk, progress)?;
            disk.close()?;
            read
        }
    };
    before_end()?;
    let files = files.publish()?;
    Ok(ConvertReport {
        size: source.size().get(),
        bytes_read: read.read,
        bytes_hole: read.hole,
        bytes_written: read.written,
        files,
    })
}

impl From<CreateError> for JobError {
    fn from(error: CreateError) -> Self {
        Self::Refused(error.to_string())
    }
}

fn name_of(path: &Path) -> Result<&str, JobError> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| JobError::Refused(format!("{} is no name for a new disk", path.display())))
}

/// Bytes, counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    read: u64,
    hole: u64,
    written: u64,
}

/// Where on the disk something is, and what.
type Run = (u64, Buffer);

/// A piece that was read.
struct Piece {
    /// Pieces are counted in the order of the disk.
    number: u64,
    at: u64,
    /// `None` if it is all zero.
    content: Option<Buffer>,
}

/// Copies what is not zero; pieces may come in any order.
fn copy(source: &dyn Device, target: &dyn Device, progress: &dyn Progress) -> Result<Counted, JobError> {
    with_reader(source, progress, |pieces| {
        let mut queue = target.queue(WRITES)?;
        let mut written = 0;
        for piece in pieces {
            for (at, run) in piece.content.map(|content| runs(piece.at, content)).into_iter().flatten() {
                written += ByteCount::of_memory(run.len()).get();
                if queue.in_flight() == queue.depth() {
                    finished(queue.wait())?;
                }
                let at = ByteOffset::new(at).unwrap_or_default();
                queue.submit(at.get(), Operation::Write { at, from: run });
            }
        }
        while queue.in_flight() > 0 {
            finished(queue.wait())?;
        }
        Ok(written)
    })
}

fn finished(completion: Option<Completion>) -> Result<(), JobError> {
    completion.map_or(Ok(()), |completion| Ok(completion.result?))
}

/// The stretches of a piece that are not zero, in whole grains.
fn runs(at: u64, piece: Buffer) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let (mut at, mut rest) = (at, piece);
    while !rest.is_empty() {
        let zero = is_zero(&rest[..GRAIN.min(rest.len())]);
        let grains = rest.chunks(GRAIN).take_while(|grain| is_zero(grain) == zero);
        let length = grains.map(<[u8]>::len).sum();
        let behind = rest.split_off(length);
        let run = std::mem::replace(&mut rest, behind);
        if !zero {
            runs.push((at, run));
        }
        at += ByteCount::of_memory(length).get();
    }
    runs
}

/// Packs what is not zero, on all processors, and writes it in the order of the disk.
fn pack<W: Write>(
    source: &dyn Device,
    mut stream: StreamWriter<W>,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Counted, JobError> {
    let failed = |error| match error {
        failback_image::stream::WriteError::Io(source) => {
            JobError::File { action: "write", path: path.to_owned(), source }
        }
        error => JobError::Refused(format!("{}: {error}", path.display())),
    };
    with_reader(source, progress, |pieces| {
        let mut written = 0;
        thread::scope(|scope| {
            let work = || |(at, content): Run| packed(at, &content);
            let mut packers: Ordered<Run, Vec<(u64, PackedGrain)>> = Ordered::start(scope, worker_count(), work);
            let (mut early, mut next) = (BTreeMap::new(), 0_u64);
            let mut write = |grains: Vec<(u64, PackedGrain)>| {
                grains.iter().try_for_each(|(index, grain)| {
                    written += ByteCount::of_memory(grain.unpacked_len()).get();
                    stream.push(*index, grain).map_err(failed)
                })
            };
            for piece in pieces {
                early.insert(piece.number, piece);
                while let Some(piece) = early.remove(&next) {
                    next += 1;
                    piece.content.into_iter().for_each(|content| packers.push((piece.at, content)));
                }
                while packers.under_way() > READS as u64 {
                    write(packers.pop().unwrap_or_default())?;
                }
            }
            while let Some(grains) = packers.pop() {
                write(grains)?;
            }
            Ok::<_, JobError>(())
        })?;
        let (mut out, _) = stream.finish().map_err(failed)?;
        out.flush().map_err(|source| JobError::File { action: "write", path: path.to_owned(), source })?;
        Ok(written)
    })
}

/// The grains of a piece, without those of zeroes.
fn packed(at: u64, piece: &[u8]) -> Vec<(u64, PackedGrain)> {
    let first = at / u64::from(GRAIN_BYTES);
    let grains = (first..).zip(piece.chunks(GRAIN));
    grains.filter_map(|(index, grain)| Some((index, PackedGrain::pack(grain)?))).collect()
}

/// Reads a disk on a thread of its own, and hands over the pieces in whatever order they come.
fn with_reader(
    source: &dyn Device,
    progress: &dyn Progress,
    consume: impl FnOnce(Receiver<Piece>) -> Result<u64, JobError>,
) -> Result<Counted, JobError> {
    let memory = |source| JobError::File { action: "map memory for", path: PathBuf::from("the disk"), source };
    let pool = Pool::new(BUFFERS, PIECE).map_err(memory)?;
    thread::scope(|scope| {
        let (send, receive) = sync_channel(BUFFERS);
        let reader = scope.spawn(move || read(source, &pool, progress, &send));
        let written = consume(receive);
        let counted = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // If reading failed, that is why writing ended early.
        let counted = counted?;
        Ok(Counted { written: written?, ..counted })
    })
}

fn read(
    source: &dyn Device,
    pool: &Pool,
    progress: &dyn Progress,
    send: &SyncSender<Piece>,
) -> Result<Counted, JobError> {
    let mut queue = source.queue(READS)?;
    let mut places = Places { source, at: 0, hole_end: 0, data_end: 0, hole: 0 };
    let mut counted = Counted::default();
    let mut under_way: BTreeMap<u64, u64> = BTreeMap::new();
    let mut number = 0;
    loop {
        while queue.in_flight() < queue.depth() {
            if progress.stop_requested() {
                return Err(JobError::Interrupted("the new disk was not made".into()));
            }
            // What is under way is taken in first: others may wait for it, and hold all memory.
            let Some(mut into) = pool.try_take().or_else(|| (queue.in_flight() == 0).then(|| pool.take())) else {
                break;
            };
            let Some((at, length)) = places.next()? else { break };
            into.truncate(length);
            under_way.insert(number, at);
            queue.submit(number, Operation::Read { at: ByteOffset::new(at).unwrap_or_default(), into });
            number += 1;
        }
        progress.advance(std::mem::take(&mut places.hole));
        let Some(Completion { token: number, buffer, result }) = queue.wait() else { break };
        result?;
        let (Some(content), Some(at)) = (buffer, under_way.remove(&number)) else { continue };
        let length = ByteCount::of_memory(content.len()).get();
        counted.read += length;
        progress.advance(length);
        let content = (!is_zero(&content)).then_some(content);
        if send.send(Piece { number, at, content }).is_err() {
            // Whoever writes has failed, and says why.
            break;
        }
    }
    counted.hole = source.size().get().saturating_sub(counted.read);
    Ok(counted)
}

/// Where to read: what is no hole, in pieces.
struct Places<'a> {
    source: &'a dyn Device,
    at: u64,
    hole_end: u64,
    data_end: u64,
    /// Bytes of holes that were passed and not told of.
    hole: u64,
}

impl Places<'_> {
    fn next(&mut self) -> Result<Option<(u64, usize)>, JobError> {
        let size = self.source.size().get();
        loop {
            if self.at >= size {
                return Ok(None);
            }
            let piece = ByteCount::of_memory(PIECE).get();
            let end = (self.at / piece + 1).saturating_mul(piece).min(size);
            if end <= self.hole_end {
                self.hole += end - self.at;
                self.at = end;
                continue;
            }
            if self.at >= self.hole_end && self.at >= self.data_end {
                let found = self.source.extent_at(ByteOffset::new(self.at).unwrap_or_default())?;
                let range = found.map_or_else(|| ByteRange::whole(self.source.size()), |found| found.range);
                let stop = range.end().get().max(self.at + 1);
                if found.is_some_and(|found| found.hole) {
                    self.hole_end = stop;
                } else {
                    self.data_end = stop;
                }
                continue;
            }
            let start = self.at;
            self.at = end;
            return Ok(Some((start, usize::try_from(end - start).unwrap_or(PIECE))));
        }
    }
}
