//! A point as a disk that can be read: the disk that is there, with what the links between say over it.

mod cache;
pub(crate) mod overlay;

use crate::{LinkError, LinkReader};
use cache::Cache;
use failback_blockio::{Action, Buffer, Completion, Device, Extent, IoError, Operation, Queue};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use overlay::{Run, Source, first_behind, runs_of, stacked};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Reads of the disk that are under way for one read of the point.
const PARTS_AT_ONCE: usize = 16;

/// A recovery point, read without moving the disk: for whoever has the disk and the links between the disk and the point.
///
/// It is a device that refuses to be written. Free space that a link knows of reads as zeroes. Every frame of a link is checked
/// against its hash when it is first used. It takes 32 bytes of memory for each run of blocks that differs from the disk, and
/// 32 MiB for content that was read lately.
pub struct PointDevice<D> {
    disk: D,
    links: Vec<LinkReader>,
    runs: Vec<Run<Source>>,
    size: ByteCount,
    cache: Cache,
    name: Arc<str>,
}

impl<D: Device> PointDevice<D> {
    /// A point of `size` bytes that lies behind these links, the farthest from the disk first.
    #[must_use]
    pub fn new(disk: D, links: Vec<LinkReader>, size: ByteCount, name: &str) -> Self {
        let layers = (0..).zip(&links).map(|(number, link)| runs_of(link, number)).collect();
        Self { disk, runs: stacked(layers), links, size, cache: Cache::default(), name: name.into() }
    }

    /// The links, the farthest from the disk first.
    #[must_use]
    pub fn links(&self) -> &[LinkReader] {
        &self.links
    }

    /// Cuts a range into parts that come from one source each; `None` stands for the disk.
    fn parts(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, Option<Source>)> {
        let (mut at, end) = (range.start().get(), range.end().get());
        let mut next = first_behind(&self.runs, at);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (until, source) = match self.runs.get(next) {
                Some(run) if run.start <= at => {
                    next += 1;
                    let part = run.part(at, run.end.min(end));
                    (part.end, Some(part.told))
                }
                Some(run) => (run.start.min(end), None),
                None => (end, None),
            };
            let part = ByteOffset::new(at).zip(ByteOffset::new(until));
            at = until;
            Some((part.and_then(|(start, end)| ByteRange::between(start, end))?, source))
        })
    }

    fn failed(&self, range: ByteRange, source: io::Error) -> IoError {
        IoError {
            action: Action::Read,
            device: Arc::clone(&self.name),
            at: range.start(),
            count: range.count(),
            source,
        }
    }

    /// Reads a range that comes from more than the disk.
    fn read_parts(&self, queue: &mut dyn Queue, at: ByteOffset, into: &mut [u8]) -> Result<(), IoError> {
        let range = ByteRange::new(at, ByteCount::of_memory(into.len())).unwrap_or_default();
        let place = |offset: ByteOffset| {
            offset.distance_from(at).and_then(ByteCount::to_usize).expect("a part of a range in memory")
        };
        let mut under_way = Vec::new();
        let mut failed = None;
        for (part, source) in self.parts(range) {
            let here = place(part.start())..place(part.end());
            match source {
                Some(Source::Zero) => into[here].fill(0),
                Some(Source::Link { link, frame, at }) => {
                    let at = usize::try_from(at).unwrap_or(usize::MAX);
                    let copied = self.cache.copy(&self.links, (link, frame), at, &mut into[here]);
                    if let Err(error) = copied {
                        failed = failed.or(Some(self.failed(part, cause(error))));
                    }
                }
                None => {
                    if queue.in_flight() == queue.depth() {
                        collect(queue, &mut under_way, into, &mut failed);
                    }
                    let token = under_way.len() as u64;
                    let buffer = Buffer::zeroed(here.len());
                    under_way.push(here);
                    queue.submit(token, Operation::Read { at: part.start(), into: buffer });
                }
            }
        }
        while queue.in_flight() > 0 {
            collect(queue, &mut under_way, into, &mut failed);
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Waits for one part that is read from the disk.
fn collect(
    queue: &mut dyn Queue,
    places: &mut [std::ops::Range<usize>],
    into: &mut [u8],
    failed: &mut Option<IoError>,
) {
    let Some(Completion { token, buffer, result }) = queue.wait() else { return };
    let place = usize::try_from(token).ok().and_then(|token| places.get(token).cloned());
    match (result, buffer, place) {
        (Ok(()), Some(buffer), Some(place)) => into[place].copy_from_slice(&buffer),
        (Err(error), ..) => *failed = failed.take().or(Some(error)),
        _ => unreachable!("a read that succeeded hands back its buffer"),
    }
}

/// A damaged link is an error of the device that it is a part of.
fn cause(error: LinkError) -> io::Error {
    match error {
        LinkError::Io { source, .. } if source.raw_os_error().is_some() => source,
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

impl<D: Device> Device for PointDevice<D> {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> ByteCount {
        self.size
    }

    fn logical_block(&self) -> u32 {
        self.disk.logical_block()
    }

    fn engine(&self) -> &'static str {
        self.disk.engine()
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        let (disk, parts) = (self.disk.queue(depth)?, self.disk.queue(PARTS_AT_ONCE)?);
        Ok(Box::new(PointQueue { point: self, disk, parts, done: VecDeque::new() }))
    }

    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        let Some(rest) = ByteRange::between(from, self.size.as_end()).filter(|rest| !rest.is_empty()) else {
            return Ok(None);
        };
        let Some((part, source)) = self.parts(rest).next() else { return Ok(None) };
        if let Some(source) = source {
            return Ok(Some(Extent { range: part, hole: source == Source::Zero }));
        }
        let below = self.disk.extent_at(from)?;
        let hole = below.is_none_or(|extent| extent.hole);
        let end = below.map_or(part.end(), |extent| extent.range.end().min(part.end()));
        Ok(Some(Extent { range: ByteRange::between(from, end).unwrap_or(part), hole }))
    }
}

/// Reads of a point. One that comes from the disk alone is the disk's; any other is done at once.
struct PointQueue<'a, D> {
    point: &'a PointDevice<D>,
    disk: Box<dyn Queue + 'a>,
    parts: Box<dyn Queue + 'a>,
    done: VecDeque<Completion>,
}

impl<D: Device> Queue for PointQueue<'_, D> {
    fn depth(&self) -> usize {
        self.disk.depth()
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight() + self.done.len()
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        assert!(self.in_flight() < self.depth(), "more than {} operations in flight", self.depth());
        let refused = |range: ByteRange, errno| self.point.failed(range, io::Error::from_raw_os_error(errno));
        let (buffer, result) = match operation {
            Operation::Read { at, mut into } => {
                let range = ByteRange::new(at, ByteCount::of_memory(into.len()));
                let Some(range) = range.filter(|range| range.fits(self.point.size)) else {
                    let result = Err(refused(ByteRange::default(), nix::libc::EINVAL));
                    self.done.push_back(Completion { token, buffer: Some(into), result });
                    return;
                };
                let mut parts = self.point.parts(range);
                if matches!(parts.next(), Some((part, None)) if part == range) {
                    self.disk.submit(token, Operation::Read { at, into });
                    return;
                }
                let result = self.point.read_parts(self.parts.as_mut(), at, &mut into);
                (Some(into), result)
            }
            Operation::Write { from, .. } => (Some(from), Err(refused(ByteRange::default(), nix::libc::EROFS))),
            Operation::Zero { range } => (None, Err(refused(range, nix::libc::EROFS))),
            Operation::Flush => (None, Ok(())),
        };
        self.done.push_back(Completion { token, buffer, result });
    }

    fn wait(&mut self) -> Option<Completion> {
        self.done.pop_front().or_else(|| self.disk.wait())
    }
}
