//! Where the extents of a link's delta are: what a random read needs, without the delta.
//!
//! An index can be made again from its delta at any time. It has a hash of its own, so that a damaged one is noticed before it
//! leads to the wrong place.

use super::layout::{INDEX_MAGIC, INDEX_VERSION, RawIndexEnd, RawIndexExtent, RawIndexFrame, RawIndexHeader};
use crate::StoredFile;
use failback_delta::{Content, DeltaReader, FormatError, FrameTable, Item, Proof};
use failback_units::{BlockCount, BlockIndex, BlockRange};
use std::io::{self, Read};
use zerocopy::{FromBytes, IntoBytes};

/// How much of an index is written at a time, in bytes.
const WRITE_AT_ONCE: usize = 1 << 20;

/// More than a frame can have: 1 MiB of payload and 1 MiB of values and extents.
const FRAME_LEN_MAX: u32 = 4 << 20;

/// An extent of a delta: which blocks, what they were and become, and where their content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexExtent {
    /// Which blocks, in the block size of the delta.
    pub blocks: BlockRange,
    /// What they were.
    pub old: Content,
    /// What they become.
    pub new: Content,
    /// The number of the frame.
    pub frame: u32,
    /// Where their content begins in the content of that frame.
    pub data: u32,
}

/// A frame of a delta: where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexFrame {
    /// Where it starts in the file of the delta, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u32,
    /// The block behind the previous frame's last extent.
    pub after: BlockIndex,
}

/// All extents and frames of a delta, in the order of the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// The extents.
    pub extents: Vec<IndexExtent>,
    /// The frames.
    pub frames: Vec<IndexFrame>,
}

/// Writes an index beside its delta, frame by frame, in memory for the frames alone.
pub(super) struct IndexWriter {
    file: Box<dyn StoredFile>,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    extents: u64,
    frames: Vec<IndexFrame>,
}

impl IndexWriter {
    /// Begins the index of the delta with this header hash in an empty file.
    pub(super) fn new(file: Box<dyn StoredFile>, key: [u8; 32]) -> Self {
        let header = RawIndexHeader { magic: INDEX_MAGIC, version: INDEX_VERSION.into(), reserved: [0; 6], key };
        let buffer = header.as_bytes().to_vec();
        Self { file, hasher: blake3::Hasher::new(), buffer, extents: 0, frames: Vec::new() }
    }

    /// Takes in the next frame, which stands at `offset`.
    pub(super) fn frame(&mut self, table: &FrameTable, offset: u64, len: usize) -> io::Result<()> {
        let number = index_of(self.frames.len());
        for extent in extents_of(table, number) {
            self.extents += 1;
            let raw = RawIndexExtent {
                first: extent.blocks.start().get().into(),
                count: index_of(usize::try_from(extent.blocks.count().get()).unwrap_or(usize::MAX)).into(),
                frame: extent.frame.into(),
                data: extent.data.into(),
                new: extent.new.code(),
                old: extent.old.code(),
                reserved: [0; 2],
            };
            self.buffer.extend_from_slice(raw.as_bytes());
        }
        self.frames.push(IndexFrame { offset, len: index_of(len), after: table.after });
        if self.buffer.len() >= WRITE_AT_ONCE { self.flush() } else { Ok(()) }
    }

    /// Ends the index, durably but for its name.
    pub(super) fn finish(mut self) -> io::Result<()> {
        for frame in std::mem::take(&mut self.frames) {
            let raw = RawIndexFrame {
                offset: frame.offset.into(),
                after: frame.after.get().into(),
                len: frame.len.into(),
                reserved: [0; 4],
            };
            self.buffer.extend_from_slice(raw.as_bytes());
            self.frames.push(frame);
        }
        let mut end =
            RawIndexEnd { extents: self.extents.into(), frames: (self.frames.len() as u64).into(), hash: [0; 32] };
        self.buffer.extend_from_slice(&end.as_bytes()[..16]);
        self.hasher.update(&self.buffer);
        end.hash = self.hasher.finalize().into();
        self.file.append(&self.buffer)?;
        self.file.append(&end.hash)?;
        self.file.sync()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.file.append(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// A number that the limits of a delta keep within 32 bits: 2^32 frames of 1 MiB are more than any disk has.
fn index_of(number: usize) -> u32 {
    u32::try_from(number).expect("the limits of a delta keep it small")
}

fn extents_of(table: &FrameTable, frame: u32) -> impl Iterator<Item = IndexExtent> {
    table.extents.iter().map(move |extent| IndexExtent {
        blocks: extent.blocks,
        old: extent.old,
        new: extent.new,
        frame,
        data: index_of(extent.data.start),
    })
}

impl Index {
    /// Reads the index of the delta with this header hash; `None` if the file is not that, whole.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(super) fn read(file: &dyn StoredFile, key: &[u8; 32]) -> io::Result<Option<Self>> {
        let Ok(len) = usize::try_from(file.len()?) else { return Ok(None) };
        let mut bytes = vec![0; len];
        file.read_at(0, &mut bytes)?;
        Ok(Self::decode(&bytes, key))
    }

    fn decode(bytes: &[u8], key: &[u8; 32]) -> Option<Self> {
        let (header, rest) = RawIndexHeader::read_from_prefix(bytes).ok()?;
        let (rest, end) = RawIndexEnd::read_from_suffix(rest).ok()?;
        let hashed = &bytes[..bytes.len() - end.hash.len()];
        let ours = header.magic == INDEX_MAGIC && header.version.get() == INDEX_VERSION && header.key == *key;
        if !ours || *blake3::hash(hashed).as_bytes() != end.hash {
            return None;
        }
        let extents_len = usize::try_from(end.extents.get()).ok()?.checked_mul(size_of::<RawIndexExtent>())?;
        let (extents, frames) = rest.split_at_checked(extents_len)?;
        let extents = <[RawIndexExtent]>::ref_from_bytes(extents).ok()?;
        let frames = <[RawIndexFrame]>::ref_from_bytes(frames).ok()?;
        if frames.len() as u64 != end.frames.get() {
            return None;
        }
        let extents = extents.iter().map(|raw| {
            let (first, count) = (BlockIndex::new(raw.first.get()), BlockCount::new(raw.count.get().into()));
            (usize::try_from(raw.frame.get()).ok()? < frames.len()).then_some(IndexExtent {
                blocks: BlockRange::new(first, count)?,
                old: Content::from_code(raw.old)?,
                new: Content::from_code(raw.new)?,
                frame: raw.frame.get(),
                data: raw.data.get(),
            })
        });
        let extents = extents.collect::<Option<Vec<_>>>()?;
        let in_order = extents
            .windows(2)
            .all(|pair| pair[0].blocks.end() <= pair[1].blocks.start() && pair[0].frame <= pair[1].frame);
        if !in_order || extents.iter().any(|extent| extent.blocks.is_empty()) {
            return None;
        }
        let frames = frames.iter().map(|raw| {
            (raw.len.get() <= FRAME_LEN_MAX).then_some(IndexFrame {
                offset: raw.offset.get(),
                len: raw.len.get(),
                after: BlockIndex::new(raw.after.get()),
            })
        });
        Some(Self { extents, frames: frames.collect::<Option<_>>()? })
    }

    /// Makes the index of a delta from the delta, which is read to its end and proven on the way.
    pub(super) fn of_delta<R: Read>(mut reader: DeltaReader<R>) -> Result<Self, FormatError> {
        let header = reader.header().clone();
        let mut index = Self::default();
        let mut proof = Proof::new(&header.shapes);
        loop {
            let offset = reader.position();
            match reader.next_item()? {
                Item::Frame(frame) => {
                    proof.absorb(&frame.table);
                    index.extents.extend(extents_of(&frame.table, index_of(index.frames.len())));
                    let len = usize::try_from(reader.position() - offset).unwrap_or(usize::MAX);
                    index.frames.push(IndexFrame { offset, len: index_of(len), after: frame.table.after });
                }
                Item::Trailer(trailer) => {
                    proof.finish(&header, &trailer)?;
                    return Ok(index);
                }
            }
        }
    }
}
