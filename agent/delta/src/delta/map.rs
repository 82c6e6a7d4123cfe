//! The free space of a delta's result, in pages between the header and the frames.
//!
//! It stands first, so that a reader can hold every extent against it, and can leave free space alone, or make all of it
//! zero, without looking into the file systems of the disk.

use super::KIND;
use crate::layout::{MAP_MAGIC, MAP_PAGE_RUNS_MAX, MAP_RUNS_MAX, RawMapPage, RawRun};
use crate::seal::{Input, Sealed, reserved_is_zero};
use crate::{FormatError, FreeBlocks};
use failback_units::{BlockCount, BlockIndex, BlockRange};
use std::io::{self, Read, Write};
use zerocopy::{FromBytes, IntoBytes};

/// Writes a map as it stands in a delta, for another place than a delta. `key` keys the hashes of its pages.
///
/// # Errors
///
/// What the output said.
pub fn write_map(free: &FreeBlocks, key: &[u8; 32], out: &mut impl Write) -> io::Result<()> {
    pages(free, key).try_for_each(|page| out.write_all(&page))
}

/// Reads what [`write_map`] wrote of a disk with `blocks` blocks, and nothing of what follows. Memory is bounded as for the map
/// of a delta.
///
/// # Errors
///
/// When it is cut off or damaged.
pub fn read_map(input: impl Read, key: &[u8; 32], blocks: BlockCount) -> Result<FreeBlocks, FormatError> {
    read(&mut Input::new(input, KIND), key, blocks)
}

/// The pages of a map, sealed and in their order; one at least, which may be empty.
pub(super) fn pages(free: &FreeBlocks, key: &[u8; 32]) -> impl Iterator<Item = Vec<u8>> {
    let mut pieces = free.runs().iter().copied().flat_map(split).peekable();
    let (mut index, mut done) = (0_u64, false);
    let key = *key;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let first = pieces.peek().map_or(BlockIndex::ZERO, |run| run.start());
        let (mut runs, mut end) = (Vec::new(), first);
        while runs.len() < MAP_PAGE_RUNS_MAX as usize
            && let Some(run) = pieces.peek()
            && let Some(Ok(gap)) = run.start().distance_from(end).map(|gap| u32::try_from(gap.get()))
        {
            let count = u32::try_from(run.count().get()).expect("runs were split");
            runs.push(RawRun { gap: gap.into(), count: count.into() });
            end = run.end();
            pieces.next();
        }
        done = pieces.peek().is_none();
        let mut page = RawMapPage {
            magic: MAP_MAGIC,
            last: u8::from(done),
            reserved: [0; 3],
            index: index.into(),
            first: first.get().into(),
            run_count: u32::try_from(runs.len()).expect("a page is small").into(),
            reserved2: [0; 4],
            hash: [0; 32],
        };
        page.seal(Some(&key), &[runs.as_bytes()]);
        index += 1;
        Some([page.as_bytes(), runs.as_bytes()].concat())
    })
}

/// A run in pieces whose length fits in a page.
fn split(run: BlockRange) -> impl Iterator<Item = BlockRange> {
    let mut rest = run;
    std::iter::from_fn(move || {
        let count = rest.count().min(BlockCount::new(u64::from(u32::MAX)));
        let piece = BlockRange::new(rest.start(), count).filter(|piece| !piece.is_empty())?;
        rest = BlockRange::between(piece.end(), rest.end())?;
        Some(piece)
    })
}

/// Pages of a map as far as they were looked at: whether each is the one that comes next.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    index: u64,
    runs: u64,
    end: BlockIndex,
    complete: bool,
}

impl Pages {
    /// A delta without a map.
    pub(super) const NONE: Self = Self { index: 0, runs: 0, end: BlockIndex::ZERO, complete: true };

    /// A map of which nothing is here.
    pub(super) const fn some() -> Self {
        Self { complete: false, ..Self::NONE }
    }

    /// Whether the last page is here.
    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The next page of the map of a disk with `blocks` blocks, and the bytes of its runs, which `each` is given.
    pub(super) fn take(
        &mut self,
        page: &RawMapPage,
        runs: &[u8],
        blocks: BlockCount,
        mut each: impl FnMut(BlockRange),
    ) -> Result<(), FormatError> {
        let damaged = |why| FormatError::damaged(KIND, format!("page {} of the map", self.index), why);
        let raw_runs = <[RawRun]>::ref_from_bytes(runs).map_err(|_| damaged("no whole runs"))?;
        let count = raw_runs.len() as u64;
        let first = BlockIndex::new(page.first.get());
        let total = self.runs + count;
        if self.complete
            || page.index.get() != self.index
            || page.last > 1
            || total > MAP_RUNS_MAX
            || (count > 0 && first < self.end)
        {
            return Err(damaged("it is not the one that comes here"));
        }
        // Only a page that ends the map may be empty: otherwise a stream could go on for ever without a run.
        if count == 0 && page.last == 0 {
            return Err(damaged("it has no runs"));
        }
        let mut end = first.max(self.end);
        for raw in raw_runs {
            let start = end.checked_add(BlockCount::new(raw.gap.get().into()));
            let run = start.and_then(|start| BlockRange::new(start, BlockCount::new(raw.count.get().into())));
            let fits = |run: &BlockRange| !run.is_empty() && run.end() <= blocks.as_end();
            let run = run.filter(fits).ok_or_else(|| damaged("a run does not lie on the disk"))?;
            each(run);
            end = run.end();
        }
        *self = Self { index: self.index + 1, runs: total, end, complete: page.last == 1 };
        Ok(())
    }
}

/// Reads all pages of the map of a disk with `blocks` blocks.
pub(super) fn read<R: Read>(
    input: &mut Input<R>,
    key: &[u8; 32],
    blocks: BlockCount,
) -> Result<FreeBlocks, FormatError> {
    let (mut free, mut pages) = (FreeBlocks::NONE, Pages::some());
    while !pages.is_complete() {
        let index = pages.index;
        let damaged = |why| FormatError::damaged(KIND, format!("page {index} of the map"), why);
        let page: RawMapPage = input.structure("the map of its free space")?;
        let count = page.run_count.get();
        if page.magic != MAP_MAGIC || count > MAP_PAGE_RUNS_MAX {
            return Err(damaged("it begins as no such page does"));
        }
        let bytes = input.bytes(count as usize * size_of::<RawRun>(), "the map of its free space")?;
        if !page.is_intact(Some(key), &[&bytes]) {
            return Err(damaged("its hash does not fit"));
        }
        reserved_is_zero(KIND, "map", &[&page.reserved, &page.reserved2])?;
        pages.take(&page, &bytes, blocks, |run| free.push(run))?;
    }
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_back(bytes: &[u8], blocks: u64) -> Result<FreeBlocks, FormatError> {
        let mut input = Input::new(bytes, KIND);
        let free = read(&mut input, &[7; 32], BlockCount::new(blocks))?;
        input.end()?;
        Ok(free)
    }

    fn run(start: u64, count: u64) -> BlockRange {
        BlockRange::new(BlockIndex::new(start), BlockCount::new(count)).unwrap()
    }

    fn written(free: &FreeBlocks) -> Vec<u8> {
        pages(free, &[7; 32]).flatten().collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(gaps in prop::collection::vec((1_u64..1 << 34, 1_u64..1 << 34), 0..20)) {
            let (mut free, mut end) = (FreeBlocks::NONE, 0);
            for (gap, count) in gaps {
                free.push(run(end + gap, count));
                end += gap + count;
            }
            prop_assert_eq!(&read_back(&written(&free), end).unwrap(), &free);
            prop_assert!(free.is_empty() || read_back(&written(&free), end - 1).is_err());
        }
    }

    #[test]
    fn many_runs_need_many_pages() {
        let mut free = FreeBlocks::NONE;
        for at in 0..10_000 {
            free.push(run(2 * at, 1));
        }
        let bytes = written(&free);
        assert_eq!(bytes.len(), 3 * 64 + 10_000 * 8);
        assert_eq!(read_back(&bytes, 20_000).unwrap(), free);
        for at in [0, 4, 5, 8, 16, 24, 28, 32, 64, 68, 64 + 4096 * 8 + 4] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(read_back(&bytes, 20_000).is_err(), "{at}");
        }
        for len in [0, 63, 64, 100, 64 + 4096 * 8, bytes.len() - 1] {
            assert!(matches!(read_back(&bytes[..len], 20_000), Err(FormatError::Truncated(..))), "{len}");
        }
    }
}
