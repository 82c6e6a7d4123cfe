//! What a delta says, all of it but its payloads: read once before anything else is done with it.

use crate::apply::{ReadSeek, length_of, open};
use crate::{JobError, Progress};
use failback_delta::{
    BaseFree, Content, Coverage, DeltaHeader, Extent, FreeBlocks, Item, Proof, Totals, Trailer, VerifyingKey,
};

/// A delta whose frames are whole and whose values lead to both roots. Payloads are not unpacked yet.
pub(super) struct Survey {
    pub(super) header: DeltaHeader,
    pub(super) key: [u8; 32],
    /// The free blocks of the result, and those of the base.
    pub(super) free: FreeBlocks,
    pub(super) base_free: FreeBlocks,
    pub(super) trailer: Trailer,
    /// The old content that the delta knows and that the way back has to carry, in bytes.
    pub(super) old_bytes: u64,
    /// The most that the way back may have to carry besides: what lies where the base has nothing that counts.
    pub(super) uncounted_bytes: u64,
}

impl Survey {
    /// Reads a delta to its end.
    pub(super) fn of(mut delta: &mut dyn ReadSeek, progress: &dyn Progress) -> Result<Self, JobError> {
        progress.phase("proving", length_of(delta)?);
        let mut reader = open(&mut delta)?;
        let (header, key, free) = (reader.header().clone(), *reader.key(), reader.free().clone());
        let shapes = header.shapes;
        let (mut proof, mut base_free) = (Proof::new(&shapes), BaseFree::new(&free));
        let (mut old_bytes, mut uncounted_bytes) = (0, 0);
        let mut position = 0;
        let trailer = loop {
            if progress.stop_requested() {
                return Err(JobError::Interrupted("nothing was written".into()));
            }
            let item = reader.next_item()?;
            progress.advance(reader.position() - position);
            position = reader.position();
            match item {
                Item::Frame(frame) => {
                    proof.absorb(&frame.table);
                    base_free.absorb(&frame.table, &shapes);
                    for extent in &frame.table.extents {
                        if extent.old.has_values() {
                            old_bytes += extent.old_bytes(&shapes).count().get();
                        } else if overwrites_uncounted(extent) {
                            uncounted_bytes += extent.new_bytes(&shapes).count().get();
                        }
                    }
                }
                Item::Trailer(trailer) => break trailer,
            }
        };
        proof.finish(&header, &trailer)?;
        let base_free = match header.base_coverage {
            Coverage::Used => base_free.finish(&shapes),
            Coverage::Whole => FreeBlocks::NONE,
        };
        Ok(Self { header, key, free, base_free, trailer, old_bytes, uncounted_bytes })
    }

    /// The most that the way back may have to carry, in bytes before compression.
    pub(super) const fn bytes_to_keep(&self) -> u64 {
        self.old_bytes + self.uncounted_bytes
    }

    pub(super) const fn totals(&self) -> Totals {
        self.trailer.totals
    }

    pub(super) const fn signed_by(&self) -> Option<VerifyingKey> {
        self.trailer.signed_by
    }
}

/// Whether an extent is written where the base has free space or ends, so that no root tells what it overwrites.
pub(super) const fn overwrites_uncounted(extent: &Extent) -> bool {
    matches!(extent.old, Content::Free | Content::Absent) && extent.new.is_written()
}
