//! Making the free space of a result zero.

use crate::{JobError, Progress};
use failback_blockio::{Device, Operation, run};
use failback_delta::FreeBlocks;
use failback_hashtree::Shape;
use failback_units::{ByteCount, ByteRange};

/// Operations under way: zeroing is a command to the disk or the file system, which gains little from more.
const DEPTH: usize = 16;
/// Free space that is made zero by one operation: 64 MiB, so that a stop is heard soon where zeroing means writing.
const AT_ONCE: ByteCount = ByteCount::of_memory(64 << 20);

/// Makes free blocks zero where they are not a hole already, durably. Returns how many bytes.
///
/// Nobody compares what is lost by this. So the caller has found out before that everything else is the result: then the
/// file systems are those of the result, and nothing lives in these blocks.
pub(super) fn make_zero(
    device: &dyn Device,
    free: &FreeBlocks,
    shape: Shape,
    progress: &dyn Progress,
) -> Result<u64, JobError> {
    progress.phase("zeroing free space", Some(free.bytes(shape).get()));
    let mut queue = device.queue(DEPTH)?;
    let mut zeroed = 0;
    for run in free.runs() {
        let mut rest = shape.bytes_of(*run);
        while !rest.is_empty() {
            let piece = ByteRange::new(rest.start(), rest.count().min(AT_ONCE)).unwrap_or(rest);
            rest = ByteRange::between(piece.end(), rest.end()).unwrap_or_default();
            progress.advance(piece.count().get());
            if is_hole(device, piece)? {
                continue;
            }
            if queue.in_flight() == DEPTH
                && let Some(completion) = queue.wait()
            {
                completion.result?;
            }
            queue.submit(0, Operation::Zero { range: piece });
            zeroed += piece.count().get();
            if progress.stop_requested() {
                return Err(JobError::Interrupted(
                    "the change is applied and durable, but not all free space is zero: run the same command again"
                        .into(),
                ));
            }
        }
    }
    while let Some(completion) = queue.wait() {
        completion.result?;
    }
    run(device, Operation::Flush)?;
    Ok(zeroed)
}

fn is_hole(device: &dyn Device, bytes: ByteRange) -> Result<bool, JobError> {
    let extent = device.extent_at(bytes.start())?;
    Ok(extent.is_some_and(|extent| extent.hole && bytes.end() <= extent.range.end()))
}
