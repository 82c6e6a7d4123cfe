//! Putting sealed frames into a stream.

use super::{DeltaHeader, FrameTable, KIND, Proven, Totals, map};
use crate::layout::{DELTA_END_MAGIC, RawDeltaEnd, signature_scheme};
use crate::seal::Sealed;
use crate::signing::{ExtentsHash, SigningKey};
use crate::{Coverage, FormatError, FreeBlocks};
use failback_hashtree::ChainingValue;
use std::io::{self, Write};
use zerocopy::IntoBytes;

/// Writes a delta: header, map, frames in their order, trailer.
#[derive(Debug)]
pub struct DeltaWriter<W> {
    out: W,
    header: DeltaHeader,
    key: [u8; 32],
    written: u64,
    totals: Totals,
    extents: ExtentsHash,
}

impl<W: Write> DeltaWriter<W> {
    /// Begins a delta by writing its header and the free space of the result.
    ///
    /// # Errors
    ///
    /// What the output said.
    ///
    /// # Panics
    ///
    /// When blocks are free though the whole of the result counts.
    pub fn new(mut out: W, header: DeltaHeader, free: &FreeBlocks) -> Result<Self, FormatError> {
        let (raw, identity) = header.to_bytes();
        out.write_all(raw.as_bytes()).and_then(|()| out.write_all(&identity)).map_err(failed)?;
        let mut written = (size_of_val(&raw) + identity.len()) as u64;
        let mut extents = ExtentsHash::new(&raw.hash);
        match header.result_coverage {
            Coverage::Whole => assert!(free.is_empty(), "no block is free where all count"),
            Coverage::Used => {
                extents.absorb_map(free);
                for page in map::pages(free, &raw.hash) {
                    out.write_all(&page).map_err(failed)?;
                    written += page.len() as u64;
                }
            }
        }
        Ok(Self { out, header, key: raw.hash, written, totals: Totals::default(), extents })
    }

    /// What the delta says before its frames.
    #[must_use]
    pub const fn header(&self) -> &DeltaHeader {
        &self.header
    }

    /// The key with which frames of this delta are sealed.
    #[must_use]
    pub const fn key(&self) -> [u8; 32] {
        self.key
    }

    /// How many bytes were written so far.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.written
    }

    /// Adds the next frame: its table, and its bytes as [`Frame::seal`](super::Frame::seal) made them.
    ///
    /// # Errors
    ///
    /// What the output said.
    ///
    /// # Panics
    ///
    /// When it is not the next frame.
    pub fn frame(&mut self, table: &FrameTable, sealed: &[u8]) -> Result<(), FormatError> {
        self.out.write_all(sealed).map_err(failed)?;
        self.written_before(table, sealed.len());
        Ok(())
    }

    /// Takes in the next frame as one that stands in the output already, with this length.
    ///
    /// # Panics
    ///
    /// When it is not the next frame.
    pub fn written_before(&mut self, table: &FrameTable, sealed_len: usize) {
        assert_eq!(table.index, self.totals.frames, "frames are written in their order");
        self.written += sealed_len as u64;
        self.extents.absorb(table);
        self.totals.frames += 1;
        self.totals.extents += table.extents.len() as u64;
        self.totals.data_bytes += table.data_len() as u64;
        self.totals.zero_bytes += table.zero_bytes(&self.header.shapes);
        self.totals.stored_bytes += table.stored_len(sealed_len) as u64;
    }

    /// Writes the trailer, signed if a key is given, and flushes the output. Returns the output, the sums and the length
    /// in bytes.
    ///
    /// `proven` is what the builder found. Its base root is for the caller to compare with the one in the header: a delta in
    /// which they differ is refused by every reader.
    ///
    /// # Errors
    ///
    /// What the output said.
    pub fn finish(
        mut self,
        values: &[ChainingValue],
        proven: Proven,
        signer: Option<&SigningKey>,
    ) -> Result<(W, Totals, u64), FormatError> {
        let mut raw = RawDeltaEnd {
            magic: DELTA_END_MAGIC,
            signature_scheme: signature_scheme::NONE,
            reserved: [0; 3],
            frames: self.totals.frames.into(),
            extents: self.totals.extents.into(),
            data_bytes: self.totals.data_bytes.into(),
            zero_bytes: self.totals.zero_bytes.into(),
            stored_bytes: self.totals.stored_bytes.into(),
            value_count: u32::try_from(values.len()).expect("a cover is small").into(),
            reserved2: [0; 4],
            result_root: proven.result.0,
            public_key: [0; 32],
            signature: [0; 64],
            hash: [0; 32],
        };
        if let Some(signer) = signer {
            raw.signature_scheme = signature_scheme::ED25519;
            raw.public_key = signer.public();
            raw.signature = signer.sign(&self.key, &proven.result, &self.extents);
        }
        let values: Vec<u8> = values.iter().flat_map(|value| value.0).collect();
        raw.seal(Some(&self.key), &[&values]);
        let out = &mut self.out;
        out.write_all(raw.as_bytes())
            .and_then(|()| out.write_all(&values))
            .and_then(|()| out.flush())
            .map_err(failed)?;
        self.written += (size_of_val(&raw) + values.len()) as u64;
        Ok((self.out, self.totals, self.written))
    }
}

fn failed(error: io::Error) -> FormatError {
    FormatError::Write(KIND, error)
}
