//! Reading a link: its frames in any order.

use super::{Index, LinkError};
use crate::{Link, Reader, Store, StoreError, StoredFile};
use failback_delta::{DeltaHeader, DeltaReader, FormatError, FreeBlocks, Pieces, SealedFrame};
use std::io::{self, BufReader};
use std::iter::repeat_n;
use std::ops::Range;
use std::sync::Arc;

/// What is read ahead of a delta that is read from end to end, in bytes.
const READ_AHEAD: usize = 1 << 20;

/// What is read ahead of one of which only the start is needed, in bytes: a long chain has hundreds.
const READ_OF_START: usize = 4096;

/// A link that is open for reading.
pub struct LinkReader {
    file: Arc<dyn StoredFile>,
    header: DeltaHeader,
    key: [u8; 32],
    free: FreeBlocks,
    index: Index,
    place: String,
}

/// The file of a link as a stream.
pub(crate) type Stream = BufReader<Reader<Arc<dyn StoredFile>>>;

impl LinkReader {
    /// Opens a link: its header, the map of its result, and its index, which is made anew from the delta if it is missing or
    /// damaged.
    ///
    /// # Errors
    ///
    /// When the delta is missing, is not the one that the catalogue names, is damaged, or cannot be read.
    pub fn open(store: &Store, link: &Link) -> Result<Self, StoreError> {
        let file = store.open_link(link)?;
        let index = store.open_index(link.file)?;
        let place = format!("{}/{}", store.directory().place(), link.file.delta_name());
        Ok(Self::of(file, index, link.key, place)?)
    }

    fn of(
        file: Box<dyn StoredFile>,
        index: Option<Box<dyn StoredFile>>,
        wanted: [u8; 32],
        place: String,
    ) -> Result<Self, LinkError> {
        let file: Arc<dyn StoredFile> = file.into();
        let failed = |source| LinkError::io("read", place.clone(), source);
        let damaged = |source| LinkError::format(place.clone(), source);
        let start = DeltaReader::open(stream(&file, READ_OF_START).map_err(failed)?).map_err(damaged)?;
        let (header, key, free) = (start.header().clone(), *start.key(), start.free().clone());
        if key != wanted {
            return Err(LinkError::Other { place });
        }
        let stored = match index {
            Some(index) => Index::read(index.as_ref(), &key).map_err(failed)?,
            None => None,
        };
        let index = if let Some(index) = stored {
            index
        } else {
            let all = stream(&file, READ_AHEAD).map_err(failed)?;
            Index::of_delta(DeltaReader::open(all).map_err(damaged)?).map_err(damaged)?
        };
        Ok(Self { file, header, key, free, index, place })
    }

    /// What its delta says before its frames.
    #[must_use]
    pub const fn header(&self) -> &DeltaHeader {
        &self.header
    }

    /// The free blocks of its result.
    #[must_use]
    pub const fn free(&self) -> &FreeBlocks {
        &self.free
    }

    /// Its extents and frames.
    #[must_use]
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// Its delta, to be read from end to end, so many bytes at a time.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is damaged.
    pub(crate) fn stream(&self, read_ahead: usize) -> Result<DeltaReader<Stream>, LinkError> {
        let stream =
            stream(&self.file, read_ahead).map_err(|source| LinkError::io("read", self.place.clone(), source))?;
        DeltaReader::open(stream).map_err(|error| self.failed(error))
    }

    /// An error that was met in its delta.
    pub(crate) fn failed(&self, error: FormatError) -> LinkError {
        LinkError::format(self.place.clone(), error)
    }

    /// How the content of a frame is cut, once the frame was read and found to be whole.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is damaged.
    pub(crate) fn check_frame(&self, number: u32) -> Result<Pieces, LinkError> {
        let frame = &self.index.frames[number as usize];
        let mut bytes = vec![0; frame.len as usize];
        self.read(frame.offset, &mut bytes)?;
        let sealed = SealedFrame::from_bytes(&bytes, &self.header, &self.key, number.into(), frame.after)
            .map_err(|error| self.failed(error))?;
        Ok(sealed.pieces())
    }

    /// Reads and unpacks a piece of a frame that was checked.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or was damaged meanwhile.
    pub(crate) fn piece(&self, number: u32, pieces: &Pieces, piece: usize) -> Result<Arc<[u8]>, LinkError> {
        let Range { start, end } = pieces.stored(piece);
        let mut stored = vec![0; end - start];
        self.read(self.index.frames[number as usize].offset + start as u64, &mut stored)?;
        let mut content: Arc<[u8]> = repeat_n(0, pieces.content(piece).len()).collect();
        if Arc::get_mut(&mut content).is_some_and(|content| pieces.unpack(piece, &stored, content)) {
            return Ok(content);
        }
        let changed = io::Error::other("it was changed while it was in use");
        Err(LinkError::io("read", self.place.clone(), changed))
    }

    /// The index has a hash of its own, so this is a file that was made wrong.
    pub(crate) fn does_not_fit_its_index(&self) -> LinkError {
        LinkError::Other { place: self.place.clone() }
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), LinkError> {
        self.file.read_at(at, into).map_err(|source| LinkError::io("read", self.place.clone(), source))
    }
}

fn stream(file: &Arc<dyn StoredFile>, read_ahead: usize) -> io::Result<Stream> {
    Ok(BufReader::with_capacity(read_ahead, Reader::new(Arc::clone(file))?))
}
