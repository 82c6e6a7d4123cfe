//! Taking a delta apart, from a file or a pipe.

use super::{Content, DeltaHeader, KIND, SealedFrame, Totals, Trailer, map};
use crate::layout::{DELTA_END_MAGIC, FRAME_MAGIC, RawDeltaEnd, TRAILER_VALUES_MAX, signature_scheme};
use crate::seal::{Input, Sealed, reserved_is_zero};
use crate::signing::{ExtentsHash, VerifyingKey};
use crate::{Coverage, FormatError, FreeBlocks};
use failback_hashtree::{ChainingValue, Root};
use failback_units::{BlockIndex, BlockRange};
use std::io::Read;
use zerocopy::FromBytes;

/// Reads a delta from left to right. Every part is checked against its hash, its limits and what came before it, and only
/// then handed out. What only the whole can show, the roots, is checked by a [`Proof`](super::Proof).
#[derive(Debug)]
pub struct DeltaReader<R> {
    input: Input<R>,
    header: DeltaHeader,
    key: [u8; 32],
    free: FreeBlocks,
    after: BlockIndex,
    totals: Totals,
    extents: ExtentsHash,
    /// Whether a frame keeps what no root tells of.
    keeps: bool,
}

/// The next part of a delta.
#[derive(Debug)]
pub enum Item {
    /// Some changed blocks.
    Frame(SealedFrame),
    /// The end.
    Trailer(Trailer),
}

impl<R: Read> DeltaReader<R> {
    /// Reads the header and the map of the result's free space.
    ///
    /// # Errors
    ///
    /// When the stream is no delta, of another version, cut off, or its header or map is damaged.
    pub fn open(inner: R) -> Result<Self, FormatError> {
        let mut input = Input::new(inner, KIND);
        let (header, key) = DeltaHeader::read(&mut input)?;
        let mut extents = ExtentsHash::new(&key);
        let free = match header.result_coverage {
            Coverage::Whole => FreeBlocks::NONE,
            Coverage::Used => map::read(&mut input, &key, header.shapes.result.blocks())?,
        };
        extents.absorb_map(&free);
        Ok(Self { input, header, key, free, after: BlockIndex::ZERO, totals: Totals::default(), extents, keeps: false })
    }

    /// What the delta says before its frames.
    #[must_use]
    pub const fn header(&self) -> &DeltaHeader {
        &self.header
    }

    /// The free blocks of the result. Every extent agrees with it: what becomes free is in it, what becomes data or zero is
    /// not.
    #[must_use]
    pub const fn free(&self) -> &FreeBlocks {
        &self.free
    }

    /// The hash of the header, which keys the hashes of all that follows. It names this delta: the header has a random part.
    #[must_use]
    pub const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// How many bytes were read so far.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.input.position
    }

    /// The next frame, or the trailer. Behind the trailer nothing more may be asked for.
    ///
    /// # Errors
    ///
    /// When the stream is cut off, damaged, or has a feature that this program does not know.
    pub fn next_item(&mut self) -> Result<Item, FormatError> {
        let mut magic = [0; 4];
        self.input.fill(&mut magic, "its frames: the trailer is missing")?;
        match magic {
            FRAME_MAGIC => self.frame(magic).map(Item::Frame),
            DELTA_END_MAGIC => self.trailer(magic).map(Item::Trailer),
            _ => Err(FormatError::damaged(KIND, self.part(), "it begins as nothing that can stand here")),
        }
    }

    fn part(&self) -> String {
        format!("frame {}", self.totals.frames)
    }

    fn frame(&mut self, magic: [u8; 4]) -> Result<SealedFrame, FormatError> {
        let place = (self.totals.frames, self.after);
        let frame = SealedFrame::read(&mut self.input, magic, &self.header, &self.key, place)?;
        let table = &frame.table;
        let mut at = table.after;
        for extent in &table.extents {
            let agrees = match extent.new {
                Content::Free => self.free.covers(extent.blocks),
                Content::Kept => {
                    let behind = extent.blocks.start() >= self.header.shapes.result.blocks().as_end();
                    behind || self.free.covers(extent.blocks)
                }
                Content::Data | Content::Zero => !self.free.touches(extent.blocks),
                Content::Absent => true,
            };
            if !agrees || !self.may_be_unchanged(at, extent.blocks.start()) {
                return Err(FormatError::damaged(KIND, self.part(), "the map of free space says something else"));
            }
            at = extent.blocks.end();
        }
        self.after = table.end();
        self.extents.absorb(table);
        self.keeps |= table.extents.iter().any(|extent| extent.old == Content::Kept || extent.new == Content::Kept);
        let totals = &mut self.totals;
        totals.frames += 1;
        totals.extents += table.extents.len() as u64;
        totals.data_bytes += table.data_len() as u64;
        totals.stored_bytes += frame.stored_len() as u64;
        let zero = totals.zero_bytes.checked_add(table.zero_bytes(&self.header.shapes));
        totals.zero_bytes = zero
            .ok_or_else(|| FormatError::damaged(KIND, format!("frame {}", table.index), "its sums are out of range"))?;
        Ok(frame)
    }

    /// Whether these blocks can be the same in base and result: what was not free in the base and is free now has changed.
    fn may_be_unchanged(&self, from: BlockIndex, to: BlockIndex) -> bool {
        let gap = BlockRange::between(from, to).unwrap_or_default();
        self.header.base_coverage == Coverage::Used || !self.free.touches(gap)
    }

    fn trailer(&mut self, magic: [u8; 4]) -> Result<Trailer, FormatError> {
        let damaged = |why| FormatError::damaged(KIND, "trailer", why);
        let mut bytes = [0; size_of::<RawDeltaEnd>()];
        bytes[..4].copy_from_slice(&magic);
        self.input.fill(&mut bytes[4..], "the trailer")?;
        let raw = RawDeltaEnd::read_from_bytes(&bytes).expect("the length fits");
        if raw.value_count.get() > TRAILER_VALUES_MAX {
            return Err(damaged("it has more values than there can be"));
        }
        let values = self.input.bytes(raw.value_count.get() as usize * 32, "the trailer")?;
        if !raw.is_intact(Some(&self.key), &[&values]) {
            return Err(damaged("its hash does not fit"));
        }
        reserved_is_zero(KIND, "trailer", &[&raw.reserved, &raw.reserved2])?;
        let totals = Totals {
            frames: raw.frames.get(),
            extents: raw.extents.get(),
            data_bytes: raw.data_bytes.get(),
            zero_bytes: raw.zero_bytes.get(),
            stored_bytes: raw.stored_bytes.get(),
        };
        if totals != self.totals {
            return Err(damaged("its sums are not those of the frames"));
        }
        if !self.may_be_unchanged(self.after, self.header.shapes.common_end()) {
            return Err(damaged("the map of free space says something else"));
        }
        let result_root = Root(raw.result_root);
        let signed_by = match raw.signature_scheme {
            signature_scheme::NONE => {
                reserved_is_zero(KIND, "trailer", &[&raw.public_key, &raw.signature])?;
                None
            }
            // What is signed are roots and extents: kept bytes follow from neither.
            signature_scheme::ED25519 if self.keeps => {
                return Err(damaged("it is signed and keeps bytes that no signature covers"));
            }
            signature_scheme::ED25519 => {
                let (public, signature) = (&raw.public_key, &raw.signature);
                let good = VerifyingKey::of_signature(public, signature, &self.key, &result_root, &self.extents);
                Some(good.ok_or_else(|| damaged("its signature is not good"))?)
            }
            value => {
                let value = u64::from(value);
                return Err(FormatError::UnknownFeature { kind: KIND, what: "signature scheme", value });
            }
        };
        self.input.end()?;
        let values = values.as_chunks().0.iter().map(|value| ChainingValue(*value)).collect();
        Ok(Trailer { result_root, totals, values, signed_by })
    }
}
