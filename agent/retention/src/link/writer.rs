//! Writing a link.

use super::LinkError;
use super::index::IndexWriter;
use crate::{Appender, Direction, FileId, Link, Store, StoreError};
use failback_delta::{DeltaHeader, DeltaWriter, FormatError, FrameTable, FreeBlocks, Proven};
use failback_hashtree::ChainingValue;
use failback_units::ByteCount;

/// A delta and its index on the way to the retention drive.
pub struct LinkWriter {
    delta: DeltaWriter<Appender>,
    index: IndexWriter,
    file: FileId,
    place: String,
}

/// A link that is written, whole and durable but for the names of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFile {
    /// Its number.
    pub file: FileId,
    /// The length of its delta.
    pub bytes: ByteCount,
    /// The content that it carries, before compression.
    pub content_bytes: ByteCount,
    /// The header hash of its delta.
    pub key: [u8; 32],
}

impl LinkFile {
    /// The link in a catalogue.
    #[must_use]
    pub const fn link(&self, direction: Direction) -> Link {
        let Self { file, bytes, content_bytes, key } = *self;
        Link { file, direction, bytes, content_bytes, key }
    }
}

impl LinkWriter {
    /// Begins a link of a store.
    ///
    /// # Errors
    ///
    /// When its files cannot be made. What is left of them is nobody's, and is removed when the store is next opened.
    pub fn create(store: &mut Store, header: DeltaHeader, free: &FreeBlocks) -> Result<Self, StoreError> {
        let (file, delta) = store.create_link()?;
        let index = store.create_index(file)?;
        let place = format!("{}/{}", store.directory().place(), file.delta_name());
        let delta = DeltaWriter::new(Appender::new(delta), header, free)
            .map_err(|error| StoreError::from(LinkError::format(place.clone(), error)))?;
        let index = IndexWriter::new(index, delta.key());
        Ok(Self { delta, index, file, place })
    }

    /// The number of its file.
    #[must_use]
    pub const fn file(&self) -> FileId {
        self.file
    }

    /// The key with which frames are sealed.
    #[must_use]
    pub fn key(&self) -> [u8; 32] {
        self.delta.key()
    }

    /// Adds the next frame: its table, and its sealed bytes.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn frame(&mut self, table: &FrameTable, sealed: &[u8]) -> Result<(), LinkError> {
        let offset = self.delta.position();
        self.delta.frame(table, sealed).map_err(|error| self.failed(error))?;
        self.index
            .frame(table, offset, sealed.len())
            .map_err(|source| LinkError::io("write the index of", self.place.clone(), source))
    }

    /// Ends the link and makes both files durable, not yet their names: the directory has to be synced for that.
    ///
    /// # Errors
    ///
    /// When they cannot be written. A sync that failed is not tried again: the link is to be made anew under another number.
    pub fn finish(self, values: &[ChainingValue], proven: Proven) -> Result<LinkFile, LinkError> {
        let Self { delta, index, file, place } = self;
        let key = delta.key();
        let (output, totals, bytes) =
            delta.finish(values, proven, None).map_err(|error| LinkError::format(place.clone(), error))?;
        output.into_inner().sync().map_err(|source| LinkError::io("make durable", place.clone(), source))?;
        index.finish().map_err(|source| LinkError::io("write the index of", place, source))?;
        let count = |bytes| ByteCount::new(bytes).unwrap_or_default();
        Ok(LinkFile { file, bytes: count(bytes), content_bytes: count(totals.data_bytes), key })
    }

    fn failed(&self, error: FormatError) -> LinkError {
        LinkError::format(self.place.clone(), error)
    }
}
