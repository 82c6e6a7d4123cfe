//! The target's tree and its spool, as they look to whoever finds the difference.

use super::journal::Journal;
use super::state::Pass;
use crate::SessionError;
use crate::map::{map_hash, unpack};
use crate::message::Accept;
use failback_delta::FreeBlocks;
use failback_hashtree::{ChainingValue, Root, Shape};
use failback_orchestrate::{BaseTree, Coverage, FreeMap, JobError, NodeRun, free_blocks};
use failback_units::ByteCount;
use std::io::{self, Write};

/// The tree of a target that is elsewhere.
pub(super) struct RemoteBase<'a> {
    pass: &'a Pass<'a>,
    accept: Accept,
    free: FreeBlocks,
}

impl<'a> RemoteBase<'a> {
    /// How much of the delta the target had when it was first met.
    pub(super) const fn durable(&self) -> u64 {
        self.accept.durable
    }

    /// Waits for a target, and learns what its base has free. A map that is that of the source, of `size`, is not sent. `None` if all of
    /// the delta that was to go on has arrived.
    pub(super) fn meet(
        pass: &'a Pass<'a>,
        source: Option<&FreeMap>,
        size: ByteCount,
    ) -> Result<Option<Self>, SessionError> {
        let fail = |error| pass.failure().unwrap_or(error);
        let Some(accept) = pass.base().map_err(fail)? else { return Ok(None) };
        let shape = Shape::new(accept.size, accept.block_size);
        let free = if accept.coverage == Coverage::Whole {
            FreeBlocks::NONE
        } else {
            let ours = source.map_or(FreeBlocks::NONE, |map| free_blocks(map, Shape::new(size, accept.block_size)));
            if accept.size == size && map_hash(&ours) == accept.map {
                ours
            } else {
                let packed = pass.map().map_err(fail)?;
                let free = unpack(&packed, shape.blocks());
                free.ok()
                    .filter(|free| map_hash(free) == accept.map)
                    .ok_or(SessionError::Breach("its map is damaged"))?
            }
        };
        Ok(Some(Self { pass, accept, free }))
    }
}

impl<'a> RemoteBase<'a> {
    /// Waits for a target. What its base has free is not asked for, so nobody may want to know it.
    pub(super) fn without_map(pass: &'a Pass<'a>) -> Option<Self> {
        // Why there is none is for the pass to tell.
        let accept = pass.base().ok()??;
        Some(Self { pass, accept, free: FreeBlocks::NONE })
    }
}

impl BaseTree for RemoteBase<'_> {
    fn shape(&self) -> Shape {
        Shape::new(self.accept.size, self.accept.block_size)
    }

    fn root(&self) -> Root {
        self.accept.root
    }

    fn coverage(&self) -> Coverage {
        self.accept.coverage
    }

    fn free(&self) -> &FreeBlocks {
        &self.free
    }

    fn values(&self, nodes: &[NodeRun]) -> Result<Vec<ChainingValue>, JobError> {
        self.pass.ask(nodes).map_err(|error| JobError::Interrupted(error.to_string()))
    }
}

/// The delta on its way to the target, and into the journal.
pub(super) struct PassWriter<'a> {
    pub(super) pass: &'a Pass<'a>,
    pub(super) journal: Option<&'a mut Journal>,
    /// Bytes at the start that the target has already, and that the journal has.
    pub(super) target_has: u64,
    pub(super) journal_has: u64,
}

impl Write for PassWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match take(&mut self.target_has, bytes.len()) {
            0 => self.pass.write(bytes).map_err(io::Error::other)?,
            known => known,
        };
        let known = take(&mut self.journal_has, written);
        if let Some(journal) = &mut self.journal {
            journal.take(&bytes[known..written])?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes at most `most` from what is left; returns how much that was.
fn take(left: &mut u64, most: usize) -> usize {
    let now = usize::try_from(*left).unwrap_or(usize::MAX).min(most);
    *left -= now as u64;
    now
}
