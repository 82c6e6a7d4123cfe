//! The target's tree and its spool, as they look to whoever finds the difference.

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
    pass: &'a Pass,
    accept: Accept,
    free: FreeBlocks,
}

impl<'a> RemoteBase<'a> {
    /// Waits for a target, and learns what its base has free. A map that is that of the source, of `size`, is not sent.
    pub(super) fn meet(pass: &'a Pass, source: Option<&FreeMap>, size: ByteCount) -> Result<Self, SessionError> {
        let fail = |error| pass.failure().unwrap_or(error);
        let accept = pass.base().map_err(fail)?;
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
        Ok(Self { pass, accept, free })
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

/// The delta on its way to the target.
pub(super) struct WindowWriter<'a>(pub(super) &'a Pass);

impl Write for WindowWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
