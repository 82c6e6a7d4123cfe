//! The block in which a point ends before the block does.
//!
//! No root counts what lies behind the end, and a link keeps what no root counts by whole blocks. So those bytes are zero where they
//! can be overwritten, which is checked before, and zero again after each step that leads back there: then nothing of them is lost.

use crate::JobError;
use failback_blockio::{Buffer, Device, IoError, Operation, run};
use failback_delta::Shapes;
use failback_hashtree::{Shape, is_zero};
use failback_units::{BlockIndex, BlockRange, ByteRange};

/// What lies behind the end of the smaller disk, in the block in which it ends, as far as the larger one goes. None if it ends with a
/// block, or is not the smaller one.
fn behind_end(smaller: Shape, larger: Shape) -> Option<ByteRange> {
    let ragged = !smaller.size().get().is_multiple_of(smaller.block_size().bytes());
    let end = smaller.blocks().as_end();
    let last = BlockRange::between(BlockIndex::new(end.get().checked_sub(1)?), end)?;
    let behind = ByteRange::between(smaller.size().as_end(), larger.bytes_of(last).end())?;
    (ragged && !behind.is_empty()).then_some(behind)
}

fn holds_something(device: &dyn Device, bytes: ByteRange) -> Result<bool, IoError> {
    let into = Buffer::zeroed(bytes.count().to_usize().expect("less than a block"));
    let read = run(device, Operation::Read { at: bytes.start(), into })?;
    Ok(read.is_some_and(|content| !is_zero(&content)))
}

/// Refuses a result that is larger than the base if that would overwrite something behind the base's end, in its last block.
pub(super) fn check_ragged_end(device: &dyn Device, shapes: &Shapes) -> Result<(), JobError> {
    let Some(behind) = behind_end(shapes.base, shapes.result) else { return Ok(()) };
    if !holds_something(device, behind)? {
        return Ok(());
    }
    Err(JobError::Refused(format!(
        "behind the end of the base {} holds something (bytes {behind}) that this delta would overwrite and that could not be brought \
         back: make the delta in smaller blocks, or use --no-undo if it is not needed",
        device.name()
    )))
}

/// Makes zero what is left of a base that is larger than the result, in the last block of that. The way back has it. Says whether
/// anything was left: then it is to be flushed.
pub(super) fn clear_ragged_end(device: &dyn Device, shapes: &Shapes) -> Result<bool, IoError> {
    match behind_end(shapes.result, shapes.base) {
        Some(range) if holds_something(device, range)? => run(device, Operation::Zero { range }).map(|_| true),
        _ => Ok(false),
    }
}
