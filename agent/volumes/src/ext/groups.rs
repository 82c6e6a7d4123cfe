//! Which clusters of a group are in use.

use super::bits::Bits;
use super::blocks::Blocks;
use super::checksum::crc32c;
use super::descriptors::{self, Group, Groups};
use super::geometry::{Checks, Geometry};
use super::layout::DESCRIPTOR_64_LEN;
use super::metadata::Metadata;
use crate::Unclear;
use failback_units::{ByteOffset, ByteRange};
use std::ops::Range;

/// Bitmaps that lie in a row are read together, up to so many bytes.
const PIECE: usize = 256 << 10;

/// One view of the groups: as they are on the disk, or as they would be after a replay. Meant to be asked from left to
/// right.
pub(super) struct Groupwise<'a> {
    geometry: &'a Geometry,
    blocks: Blocks<'a>,
    metadata: Metadata,
    /// The descriptors of one descriptor block, and which.
    descriptors: Groups,
    descriptor_block: Option<u64>,
    /// Bitmap blocks that lie in a row, and the first of them.
    bitmaps: Vec<u8>,
    bitmaps_at: u64,
}

impl<'a> Groupwise<'a> {
    pub(super) fn new(geometry: &'a Geometry, blocks: Blocks<'a>, journal: &[Range<u64>]) -> Result<Self, Unclear> {
        Ok(Self {
            geometry,
            blocks,
            metadata: Metadata::gather(geometry, blocks, journal)?,
            descriptors: Vec::new(),
            descriptor_block: None,
            bitmaps: Vec::new(),
            bitmaps_at: 0,
        })
    }

    /// What is in use in a group, as far as it says so. Where it contradicts itself, why.
    pub(super) fn bits(&mut self, number: u64, into: &mut Bits) -> Result<Result<(), &'static str>, Unclear> {
        let clusters = self.clusters(number);
        let group = match self.descriptor(number)? {
            Ok(group) => group,
            Err(why) => {
                into.clear(clusters);
                return Ok(Err(why));
            }
        };
        let mut verdict = Ok(());
        if group.uninitialised {
            into.clear(clusters);
            if !self.metadata.complete {
                verdict = Err("its bitmap was never written, and metadata of a damaged group may lie in it");
            }
        } else {
            self.load(number, group)?;
            let block = self.bitmap(group.bitmap).unwrap_or_default();
            if !self.is_intact(block, group) {
                verdict = Err("its bitmap's checksum is wrong");
            }
            into.take(block, clusters);
        }
        let was_marked = self.mark_metadata(number, into);
        if !group.uninitialised && !was_marked {
            verdict = verdict.and(Err("its bitmap calls metadata free"));
        }
        if into.free() != group.free_clusters {
            verdict = verdict.and(Err("its bitmap and its count of free blocks differ"));
        }
        Ok(verdict)
    }

    /// The bytes of clusters of a group. What reaches behind the end of the file system is left out.
    pub(super) fn bytes(&self, number: u64, clusters: Range<u64>) -> Option<ByteRange> {
        let group = self.geometry.group(number);
        let block = |cluster: u64| group.end.min(group.start + cluster * self.geometry.cluster_blocks);
        let byte = |block: u64| block.checked_mul(self.geometry.block_size.into()).and_then(ByteOffset::new);
        ByteRange::between(byte(block(clusters.start))?, byte(block(clusters.end))?)
    }

    /// Clusters of a group; the last group's last one may be cut short.
    fn clusters(&self, number: u64) -> u64 {
        let group = self.geometry.group(number);
        (group.end - group.start).div_ceil(self.geometry.cluster_blocks)
    }

    fn descriptor(&mut self, number: u64) -> Result<Result<Group, &'static str>, Unclear> {
        let per_block = self.geometry.descriptors_per_block();
        let block = number / per_block;
        if self.descriptor_block != Some(block) {
            self.descriptors = descriptors::read(self.geometry, self.blocks, block)?;
            self.descriptor_block = Some(block);
        }
        let found = usize::try_from(number % per_block).ok().and_then(|at| self.descriptors.get(at).copied());
        Ok(found.unwrap_or(Err("it has no descriptor")))
    }

    /// Has the bitmap of a group in memory, with those of the next groups where they follow it.
    fn load(&mut self, number: u64, group: Group) -> Result<(), Unclear> {
        if self.bitmap(group.bitmap).is_some() {
            return Ok(());
        }
        let block_len = self.geometry.block_len();
        let next = usize::try_from(number % self.geometry.descriptors_per_block()).map_or(usize::MAX, |at| at + 1);
        let following = self.descriptors.get(next..).unwrap_or_default().iter();
        let in_a_row = following
            .zip(group.bitmap + 1..)
            .take_while(|(next, block)| next.is_ok_and(|next| next.bitmap == *block && !next.uninitialised));
        let count = 1 + in_a_row.take(PIECE / block_len).count();
        self.bitmaps.resize(count * block_len, 0);
        self.bitmaps_at = group.bitmap;
        let read = self.blocks.read(group.bitmap, &mut self.bitmaps);
        if read.is_err() {
            self.bitmaps.clear();
        }
        read
    }

    /// A bitmap block, if it is in memory.
    fn bitmap(&self, block: u64) -> Option<&[u8]> {
        let number = usize::try_from(block.checked_sub(self.bitmaps_at)?).ok()?;
        self.bitmaps.chunks_exact(self.geometry.block_len()).nth(number)
    }

    /// Whether the checksum of a bitmap is right, where it has one. It covers what a full group needs.
    fn is_intact(&self, block: &[u8], group: Group) -> bool {
        let Checks::Everything { seed } = self.geometry.checks else { return true };
        let len = usize::try_from(self.geometry.clusters_per_group() / 8).unwrap_or(usize::MAX);
        let Some(covered) = block.get(..len) else { return false };
        let checksum = crc32c(seed, covered);
        if self.geometry.descriptor_size >= DESCRIPTOR_64_LEN {
            checksum == group.bitmap_checksum
        } else {
            checksum & u32::from(u16::MAX) == group.bitmap_checksum
        }
    }

    /// Sets the bits of all metadata in a group; returns whether all were set before.
    fn mark_metadata(&self, number: u64, bits: &mut Bits) -> bool {
        let group = self.geometry.group(number);
        let ratio = self.geometry.cluster_blocks;
        let mut were_set = true;
        for extent in self.metadata.within(group.clone()) {
            let start = extent.start.max(group.start) - group.start;
            let end = extent.end.min(group.end) - group.start;
            were_set &= bits.set(start / ratio..end.div_ceil(ratio));
        }
        were_set
    }
}
