//! Where the metadata is that every file system has: superblocks, descriptors, bitmaps, inode tables, the journal.
//!
//! A group whose bitmap was never written is in use exactly there, and with flexible groups also where metadata of other
//! groups lies. In every other group the bitmap has to agree: one that calls metadata free is damaged.

use super::blocks::Blocks;
use super::descriptors;
use super::geometry::Geometry;
use crate::Unclear;
use std::ops::Range;

/// Extents that are kept at most: 16 MiB of them. With flexible groups there are one or two for each 16 groups.
const MAX_EXTENTS: usize = 1 << 20;

/// All metadata at places that descriptors tell.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// Sorted; they neither overlap nor touch.
    extents: Vec<Range<u64>>,
    /// Whether every descriptor could be believed. If not, there is metadata of which nobody knows where it is.
    pub(super) complete: bool,
}

impl Metadata {
    /// Gathers them from all descriptors. The journal's blocks, `journal`, are metadata too: recovery reads them.
    pub(super) fn gather(geometry: &Geometry, blocks: Blocks<'_>, journal: &[Range<u64>]) -> Result<Self, Unclear> {
        let mut all = Self { extents: journal.to_vec(), complete: true };
        let mut group = 0;
        for number in 0..geometry.descriptor_blocks() {
            for descriptor in descriptors::read(geometry, blocks, number)? {
                all.extents.extend(geometry.fixed_places(group));
                if let Ok(descriptor) = descriptor {
                    let table = descriptor.inode_table;
                    all.extents.push(descriptor.bitmap..descriptor.bitmap + 1);
                    all.extents.push(descriptor.inode_bitmap..descriptor.inode_bitmap + 1);
                    all.extents.push(table..table + geometry.inode_table_blocks);
                } else {
                    all.complete = false;
                }
                group += 1;
            }
            if all.extents.len() > MAX_EXTENTS {
                all.merge();
                if all.extents.len() > MAX_EXTENTS / 2 {
                    return Err(Unclear::because("its metadata is in more pieces than this program keeps in memory"));
                }
            }
        }
        all.merge();
        Ok(all)
    }

    /// Metadata in these blocks, from left to right; the first and the last may reach over the ends.
    pub(super) fn within(&self, blocks: Range<u64>) -> impl Iterator<Item = &Range<u64>> {
        let begin = self.extents.partition_point(|extent| extent.end <= blocks.start);
        self.extents[begin..].iter().take_while(move |extent| extent.start < blocks.end)
    }

    fn merge(&mut self) {
        self.extents.retain(|extent| !extent.is_empty());
        self.extents.sort_unstable_by_key(|extent| extent.start);
        self.extents.dedup_by(|next, last| {
            let touch = next.start <= last.end;
            if touch {
                last.end = last.end.max(next.end);
            }
            touch
        });
    }
}
