//! Reading blocks, as they are on the disk or as they would be after the journal was replayed.

use crate::volume::within;
use crate::{ReadError, Unclear, Volume};
use failback_units::ByteOffset;

/// A block that the journal has a newer content for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replacement {
    /// Where it belongs.
    pub(super) block: u64,
    /// The block of the volume, within the journal, that has its content.
    pub(super) content: u64,
    /// Whether its first four bytes, being the journal's own signature, are zero there.
    pub(super) escaped: bool,
}

/// What a replay would write: only places are remembered, never contents. Sorted by `block`, each once.
#[derive(Debug, Default)]
pub(super) struct Replacements(pub(super) Vec<Replacement>);

/// Blocks of a volume.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    volume: &'a dyn Volume,
    block_size: u32,
    replayed: Option<&'a Replacements>,
}

impl<'a> Blocks<'a> {
    /// As they are on the disk.
    pub(super) fn on_disk(volume: &'a dyn Volume, block_size: u32) -> Self {
        Self { volume, block_size, replayed: None }
    }

    /// As they would be with these replaced.
    pub(super) fn replayed(self, replayed: &'a Replacements) -> Self {
        Self { replayed: Some(replayed), ..self }
    }

    /// Fills `into`, a whole number of blocks, from block `first` on.
    pub(super) fn read(&self, first: u64, into: &mut [u8]) -> Result<(), Unclear> {
        self.read_from_disk(first, into)?;
        let Some(Replacements(all)) = self.replayed else { return Ok(()) };
        let block_len = usize::try_from(self.block_size).map_err(|_| ReadError::Beyond)?;
        let begin = all.partition_point(|replacement| replacement.block < first);
        for replacement in &all[begin..] {
            let number = usize::try_from(replacement.block - first).map_err(|_| ReadError::Beyond)?;
            let Some(block) = into.chunks_exact_mut(block_len).nth(number) else { break };
            self.read_from_disk(replacement.content, block)?;
            if replacement.escaped {
                block[..4].copy_from_slice(&super::journal::MAGIC.to_be_bytes());
            }
        }
        Ok(())
    }

    /// One block.
    pub(super) fn one(&self, number: u64) -> Result<Vec<u8>, Unclear> {
        let mut block = vec![0; usize::try_from(self.block_size).map_err(|_| ReadError::Beyond)?];
        self.read(number, &mut block)?;
        Ok(block)
    }

    fn read_from_disk(&self, first: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let at = first.checked_mul(u64::from(self.block_size)).and_then(ByteOffset::new).ok_or(ReadError::Beyond)?;
        within(self.volume.size(), at, into.len())?;
        self.volume.read(at, into)
    }
}
