//! What a source remembers of a pass, so that it can go on after it was stopped: the delta without its payloads.
//!
//! The file begins with what the moment of the source is known by, 32 bytes, zeroes if by nothing. It goes on as the delta does, with header and map. Then comes a record for each frame: the length of its outline (`u32`), its
//! outline (head, extents, values), and BLAKE3 of the outline, keyed with the delta's header hash. Nothing of it is flushed: a program that
//! is killed loses nothing, and after a stop of the machine the records count up to the first that is not whole. It is about a hundredth of the
//! delta.

use failback_delta::{DeltaHeader, DeltaReader, DeltaWriter, FrameTable, FreeBlocks, PointKind};
use failback_orchestrate::JobError;
use failback_units::BlockIndex;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The head of a frame.
const HEAD: usize = 80;
/// What stands before the header.
const MOMENT: u64 = 32;
/// The longest outline of a frame: its head, 256 extents, and 33280 values.
const OUTLINE_MAX: usize = HEAD + 256 * 8 + 33_280 * 32;

/// The journal of a pass.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// The start of what is being written, until it is known what it is.
    part: Vec<u8>,
    /// Bytes of header and map, and of a payload, that are still to come and are passed over.
    start_left: u64,
    payload_left: u64,
    key: [u8; 32],
}

/// What was found in a journal.
pub(super) struct Earlier {
    pub(super) header: DeltaHeader,
    pub(super) key: [u8; 32],
    pub(super) free: FreeBlocks,
    moment: [u8; 32],
    /// The length of header and map.
    pub(super) start: u64,
    /// Up to where the delta can go on: the end of the last frame that is known.
    pub(super) until: u64,
    path: PathBuf,
}

impl Earlier {
    /// Reads a journal. `None` if there is none, or none that is of use.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let (mut file, mut moment) = (BufReader::new(File::open(path).ok()?), [0; 32]);
        file.read_exact(&mut moment).ok()?;
        let reader = DeltaReader::open(file).ok()?;
        let (header, key, free) = (reader.header().clone(), *reader.key(), reader.free().clone());
        let start = reader.position();
        let mut found = Self { header, key, free, moment, start, until: start, path: path.to_owned() };
        found.until = found.frames(u64::MAX).ok()?.map_while(Result::ok).last().map_or(start, |frame| frame.end);
        Some(found)
    }

    /// Whether the delta may go on with what the source is now: only then is all of it from the moment that its header claims. One that claims
    /// none may always.
    pub(super) fn is_of(&self, moment: Option<[u8; 32]>) -> bool {
        self.header.kind == PointKind::Fuzzy || moment.is_some_and(|moment| moment == self.moment)
    }

    /// Removes the file: the pass cannot go on.
    pub(super) fn remove(&self) -> Result<(), JobError> {
        remove(&self.path)
    }

    /// The frames that end at or before `end`.
    pub(super) fn frames(&self, end: u64) -> Result<Frames<'_>, JobError> {
        let mut input = File::open(&self.path).map_err(|source| failed("read", &self.path, source))?;
        input.seek(SeekFrom::Start(MOMENT + self.start)).map_err(|source| failed("read", &self.path, source))?;
        let input = BufReader::with_capacity(1 << 20, input);
        Ok(Frames {
            earlier: self,
            input,
            index: 0,
            after: BlockIndex::ZERO,
            at: self.start,
            place: MOMENT + self.start,
            end,
        })
    }
}

/// A frame that was sent.
pub(super) struct Sent {
    pub(super) table: FrameTable,
    /// Its length in the delta, and where it ends there.
    pub(super) len: usize,
    pub(super) end: u64,
    /// Where its record ends in the journal.
    pub(super) place: u64,
}

pub(super) struct Frames<'a> {
    earlier: &'a Earlier,
    input: BufReader<File>,
    index: u64,
    after: BlockIndex,
    at: u64,
    place: u64,
    end: u64,
}

impl Frames<'_> {
    fn record(&mut self) -> io::Result<Vec<u8>> {
        let mut len = [0; 4];
        self.input.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > OUTLINE_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (mut outline, mut hash) = (vec![0; len], [0; 32]);
        self.input.read_exact(&mut outline)?;
        self.input.read_exact(&mut hash)?;
        if *blake3::keyed_hash(&self.earlier.key, &outline).as_bytes() != hash {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(outline)
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<Sent, JobError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let read = self.record().map_err(|source| failed("read", &self.earlier.path, source));
        let frame = read.and_then(|outline| {
            self.place += 4 + outline.len() as u64 + 32;
            let frame = FrameTable::from_outline(&outline, &self.earlier.header, self.index, self.after)?;
            Ok(frame)
        });
        Some(frame.map(|(table, len)| {
            (self.index, self.after, self.at) = (self.index + 1, table.end(), self.at + len as u64);
            Sent { table, len, end: self.at, place: self.place }
        }))
    }
}

impl Journal {
    /// A journal of a delta that begins with this header and map, in the place of any other. Header and map are still to come.
    pub(super) fn create(
        path: &Path,
        moment: Option<[u8; 32]>,
        header: DeltaHeader,
        free: &FreeBlocks,
    ) -> Result<Self, JobError> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let mut file = file.map_err(|source| failed("write", path, source))?;
        file.write_all(&moment.unwrap_or_default()).map_err(|source| failed("write", path, source))?;
        let start = DeltaWriter::new(&file, header, free)?;
        let (start_left, key) = (start.position(), start.key());
        Ok(Self { path: path.to_owned(), file, part: Vec::new(), start_left, payload_left: 0, key })
    }

    /// Goes on with a journal behind the frames that end at or before `end`. Header and map will not come again.
    pub(super) fn go_on(earlier: &Earlier, end: u64) -> Result<Self, JobError> {
        let place = earlier.frames(end)?.last().transpose()?.map_or(MOMENT + earlier.start, |frame| frame.place);
        let path = &earlier.path;
        let opened = OpenOptions::new().write(true).open(path).and_then(|mut file| {
            file.set_len(place)?;
            file.seek(SeekFrom::Start(place))?;
            Ok(file)
        });
        let file = opened.map_err(|source| failed("write", path, source))?;
        let key = earlier.key;
        Ok(Self { path: path.clone(), file, part: Vec::new(), start_left: 0, payload_left: 0, key })
    }

    /// Takes in bytes of the delta. The trailer is passed over.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.start_left > 0 {
                // They stand here already.
                let now = piece(self.start_left, bytes);
                self.start_left -= now as u64;
                bytes = &bytes[now..];
                continue;
            }
            if self.payload_left > 0 {
                let now = piece(self.payload_left, bytes);
                self.payload_left -= now as u64;
                bytes = &bytes[now..];
                continue;
            }
            let outline = FrameTable::outline_len(&self.part);
            if outline.is_none() && self.part.len() >= HEAD {
                // The trailer: there is no frame behind it.
                return Ok(());
            }
            let wanted = outline.map_or(HEAD, |(len, _)| len);
            let now = bytes.len().min(wanted - self.part.len());
            self.part.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            if let Some((len, payload)) = FrameTable::outline_len(&self.part)
                && len == self.part.len()
            {
                self.record()?;
                self.payload_left = payload;
            }
        }
        Ok(())
    }

    fn record(&mut self) -> io::Result<()> {
        let outline = std::mem::take(&mut self.part);
        let len = u32::try_from(outline.len()).expect("an outline is short");
        let hash = blake3::keyed_hash(&self.key, &outline);
        self.file.write_all(&[&len.to_le_bytes()[..], &outline, hash.as_bytes()].concat())
    }

    /// Removes the file: the pass is done.
    pub(super) fn remove(self) -> Result<(), JobError> {
        remove(&self.path)
    }
}

fn piece(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
}

fn remove(path: &Path) -> Result<(), JobError> {
    std::fs::remove_file(path).map_err(|source| failed("remove", path, source))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> JobError {
    JobError::File { action, path: path.to_owned(), source }
}
