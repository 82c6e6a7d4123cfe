//! Reading blocks, as they are on the disk or as they would be after the journal was replayed.

use crate::volume::within;
use crate::{ReadError, Unclear, Volume};
use failback_units::ByteOffset;
use std::cell::RefCell;

/// Contents are fetched from the journal in aligned stretches of so many bytes: what belongs together was mostly logged
/// together, and a read costs more than copying this much.
const FETCH: u64 = 64 << 10;

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
    replayed: Option<&'a Replay>,
}

/// Replacements, and the stretch of the journal that was fetched last.
pub(super) struct Replay {
    replacements: Replacements,
    /// Its bytes, and the first of its blocks.
    fetched: RefCell<(u64, Vec<u8>)>,
}

impl Replay {
    pub(super) fn new(replacements: Replacements) -> Self {
        Self { replacements, fetched: RefCell::default() }
    }
}

impl<'a> Blocks<'a> {
    /// As they are on the disk.
    pub(super) fn on_disk(volume: &'a dyn Volume, block_size: u32) -> Self {
        Self { volume, block_size, replayed: None }
    }

    /// As they would be with these replaced.
    pub(super) fn replayed(self, replayed: &'a Replay) -> Self {
        Self { replayed: Some(replayed), ..self }
    }

    /// Fills `into`, a whole number of blocks, from block `first` on.
    pub(super) fn read(&self, first: u64, into: &mut [u8]) -> Result<(), Unclear> {
        self.read_from_disk(first, into)?;
        let Some(replay) = self.replayed else { return Ok(()) };
        let Replacements(all) = &replay.replacements;
        let block_len = usize::try_from(self.block_size).map_err(|_| ReadError::Beyond)?;
        let begin = all.partition_point(|replacement| replacement.block < first);
        for replacement in &all[begin..] {
            let number = usize::try_from(replacement.block - first).map_err(|_| ReadError::Beyond)?;
            let Some(block) = into.chunks_exact_mut(block_len).nth(number) else { break };
            self.fetch(replay, replacement.content, block)?;
            if replacement.escaped {
                block[..4].copy_from_slice(&super::journal::MAGIC.to_be_bytes());
            }
        }
        Ok(())
    }

    /// One block of the journal.
    fn fetch(&self, replay: &Replay, content: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let mut fetched = replay.fetched.borrow_mut();
        let (start, bytes) = &mut *fetched;
        let within = |start: u64| usize::try_from(content.checked_sub(start)?).ok();
        if let Some(block) = within(*start).and_then(|number| bytes.chunks_exact(into.len()).nth(number)) {
            into.copy_from_slice(block);
            return Ok(());
        }
        let size = u64::from(self.block_size);
        let aligned = content - content % (FETCH / size);
        let blocks = (FETCH / size).min((self.volume.size().get() / size).saturating_sub(aligned));
        bytes.clear();
        bytes.resize(usize::try_from(blocks * size).map_err(|_| ReadError::Beyond)?, 0);
        *start = aligned;
        if self.read_from_disk(aligned, bytes).is_err() {
            // Perhaps only a neighbour cannot be read.
            bytes.clear();
            return self.read_from_disk(content, into);
        }
        let block = within(aligned).and_then(|number| bytes.chunks_exact(into.len()).nth(number));
        into.copy_from_slice(block.ok_or(ReadError::Beyond)?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext::journal::MAGIC;
    use crate::volume::MemoryVolume;

    const SIZE: usize = 1024;

    #[test]
    fn replaced_blocks_come_from_the_journal() {
        // Each block holds its number, block 90 begins with zeroes instead of the signature.
        let mut bytes: Vec<u8> = (0..100).flat_map(|number| [number; SIZE]).collect();
        bytes[90 * SIZE..90 * SIZE + 4].fill(0);
        let volume = MemoryVolume { bytes, sector_size: 512 };
        let replacement = |block, content, escaped| Replacement { block, content, escaped };
        let all = vec![replacement(3, 80, false), replacement(4, 99, false), replacement(6, 90, true)];
        let replay = Replay::new(Replacements(all));
        let blocks = Blocks::on_disk(&volume, 1024).replayed(&replay);
        let mut read = vec![0; 5 * SIZE];
        blocks.read(2, &mut read).unwrap();
        assert_eq!(read.iter().skip(SIZE - 1).step_by(SIZE).copied().collect::<Vec<_>>(), [2, 80, 99, 5, 90]);
        assert_eq!(read[4 * SIZE..4 * SIZE + 4], MAGIC.to_be_bytes());
        assert_eq!(blocks.one(4).unwrap()[0], 99);
        assert_eq!(blocks.one(7).unwrap()[0], 7);
        assert!(blocks.one(100).is_err());
    }
}
