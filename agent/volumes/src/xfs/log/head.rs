//! Where the log ends and begins, found as the kernel finds it.
//!
//! Each basic block carries the cycle in which it was written. So the log is, from its start, blocks of one cycle up to the
//! head, and from there on blocks of the cycle before, or never written ones. Some of the last records may be missing or
//! torn, since several are under way at a time and in any order: the head is where the first hole begins.

use super::record::{Fault, Header, Record};
use super::ring::{BLOCK_LEN, Ring};
use crate::Unclear;
use crate::xfs::layout::{
    BASIC_BLOCK, BODY_PER_HEADER, RECORD_MAGIC, RECORD_MAX, RECORDS_IN_FLIGHT, RawOperation, operation,
};
use crate::xfs::superblock::Superblock;
use zerocopy::FromBytes;

/// What has to be replayed.
pub(super) struct Extent {
    /// The basic block behind the last record.
    pub(super) head: u32,
    /// The first record that is needed.
    pub(super) tail: u32,
    /// The same with its cycle.
    pub(super) tail_lsn: u64,
}

/// Finds what has to be replayed; `None` where the log ends with an unmount record.
pub(super) fn find(ring: &mut Ring<'_>, superblock: &Superblock) -> Result<Option<Extent>, Unclear> {
    let head = find_head(ring, superblock)?;
    let headers = headers_before(ring, head)?;
    let Some(last) = headers.last() else {
        return Err(Unclear::because("its log holds no record"));
    };
    if is_unmount(ring, superblock, *last, head)? {
        return Ok(None);
    }
    let (head, last) = without_torn_records(ring, superblock, &headers, head)?;
    if is_unmount(ring, superblock, last, head)? {
        return Ok(None);
    }
    let header = header_at(ring, superblock, last)?;
    let tail = u32::try_from(header.tail & u64::from(u32::MAX)).expect("masked to 32 bits");
    if tail >= ring.blocks() || tail == head {
        return Err(damaged());
    }
    Ok(Some(Extent { head, tail, tail_lsn: header.tail }))
}

fn damaged() -> Unclear {
    Unclear::because("it was not unmounted, and its log is damaged")
}

/// The place behind the last record that was completely written, as far as cycles tell.
fn find_head(ring: &Ring<'_>, superblock: &Superblock) -> Result<u32, Unclear> {
    let end = ring.blocks();
    // The most that can be under way, and the longest record, in basic blocks.
    let longest = if superblock.log_version_2 { RECORD_MAX } else { BODY_PER_HEADER } / BASIC_BLOCK;
    let in_flight = end.min(longest * RECORDS_IN_FLIGHT);
    let (first, last) = (ring.cycle(0)?, ring.cycle(end - 1)?);
    if first == 0 {
        return Err(Unclear::because("its log is empty, which is no mark of an unmount"));
    }
    if last == 0 {
        // Never written to its end: the head is where zeroes begin.
        let mut head = start_of_cycle(ring, 0, end - 1)?;
        let scan = in_flight.min(head);
        head = ring.first_with(0, head - scan, scan)?.unwrap_or(head);
        return before_partial_record(ring, superblock, head, longest);
    }
    // Where all has one cycle, the head is at the end or at the start of a hole there; otherwise where the last cycle begins.
    let (mut head, hole) =
        if first == last { (end, last.wrapping_sub(1)) } else { (start_of_cycle(ring, last, end - 1)?, last) };
    if head >= in_flight {
        head = ring.first_with(hole, head - in_flight, in_flight)?.unwrap_or(head);
    } else {
        let behind = in_flight - head;
        match ring.first_with(hole.wrapping_sub(1), end - behind, behind)? {
            Some(at) => head = at,
            None => head = ring.first_with(hole, 0, head)?.unwrap_or(head),
        }
    }
    before_partial_record(ring, superblock, head, longest)
}

/// The first basic block of `cycle`, given that the one at `last` has it and the one at 0 has not, by halving.
fn start_of_cycle(ring: &Ring<'_>, cycle: u32, last: u32) -> Result<u32, Unclear> {
    let (mut other, mut found) = (0, last);
    while found - other > 1 {
        let middle = other + (found - other) / 2;
        if ring.cycle(middle)? == cycle {
            found = middle;
        } else {
            other = middle;
        }
    }
    Ok(found)
}

/// The head, moved to the start of the record that it lies in the middle of.
fn before_partial_record(ring: &Ring<'_>, superblock: &Superblock, head: u32, longest: u32) -> Result<u32, Unclear> {
    let end = ring.blocks();
    // A record with its header.
    let reach = longest + longest / (BODY_PER_HEADER / BASIC_BLOCK);
    let (at, blocks) = last_header(ring, head, reach.min(end))?;
    let Some(block) = blocks else {
        return Err(Unclear::because("its log's last record has no beginning"));
    };
    let header = Header::parse(&block, superblock).map_err(|fault| match fault {
        Fault::Torn => damaged(),
        Fault::Refused(reason) => reason,
    })?;
    let head = if head == end { 0 } else { head };
    if ring.distance(at, head) == header.blocks() || (at == head && header.blocks() == end) { Ok(head) } else { Ok(at) }
}

/// The last basic block before `head`, at most `reach` away, that a record begins with.
fn last_header(ring: &Ring<'_>, head: u32, reach: u32) -> Result<(u32, Option<Vec<u8>>), Unclear> {
    let start = ring.before(ring.after(head, 0), reach);
    let blocks = ring.read(start, reach)?;
    let found = blocks.chunks_exact(BLOCK_LEN).zip(0_u32..).filter(|(block, _)| is_header(block)).last();
    Ok(found.map_or((start, None), |(block, index)| (ring.after(start, index), Some(block.to_vec()))))
}

fn is_header(block: &[u8]) -> bool {
    block.first_chunk().is_some_and(|magic| u32::from_be_bytes(*magic) == RECORD_MAGIC)
}

/// The places of the records that may have been under way before `head`, the last one last.
fn headers_before(ring: &Ring<'_>, head: u32) -> Result<Vec<u32>, Unclear> {
    let record = (RECORD_MAX + RECORD_MAX / BODY_PER_HEADER * BASIC_BLOCK) / BASIC_BLOCK;
    let reach = ring.blocks().min(record * RECORDS_IN_FLIGHT);
    let start = ring.before(head, reach);
    let blocks = ring.read(start, reach)?;
    let found = blocks.chunks_exact(BLOCK_LEN).zip(0_u32..).filter(|(block, _)| is_header(block));
    Ok(found.map(|(_, index)| ring.after(start, index)).collect())
}

/// Checks the last few records, and gives up those from the first torn one on: the new head and the record before it.
fn without_torn_records(
    ring: &mut Ring<'_>,
    superblock: &Superblock,
    headers: &[u32],
    head: u32,
) -> Result<(u32, u32), Unclear> {
    let last = *headers.last().ok_or_else(damaged)?;
    let tail = header_at(ring, superblock, last)?.tail & u64::from(u32::MAX);
    let tail = u32::try_from(tail).ok().filter(|tail| *tail < ring.blocks()).ok_or_else(damaged)?;
    // Records before the tail are not needed by anyone, and may be anything.
    let needed = ring.distance(tail, head);
    let recent: Vec<u32> = headers.iter().copied().filter(|at| ring.distance(*at, head) <= needed).collect();
    let skipped = recent.len().saturating_sub(RECORDS_IN_FLIGHT.try_into().unwrap_or(usize::MAX));
    let recent = &recent[skipped..];
    let mut before = None;
    for (index, at) in recent.iter().enumerate() {
        let next = recent.get(index + 1).copied().unwrap_or(head);
        match Record::read(ring, *at, superblock) {
            Ok(record) if record.blocks() == ring.distance(*at, next) => before = Some(*at),
            Err(Fault::Refused(reason)) => return Err(reason),
            Ok(_) | Err(Fault::Torn) => {
                return before.map(|before| (*at, before)).ok_or_else(damaged);
            }
        }
    }
    Ok((head, last))
}

/// Whether the record at `at` ends at `head` and says that the file system was unmounted.
fn is_unmount(ring: &Ring<'_>, superblock: &Superblock, at: u32, head: u32) -> Result<bool, Unclear> {
    let header = header_at(ring, superblock, at)?;
    if header.operations != 1 || header.blocks() > ring.blocks() || ring.after(at, header.blocks()) != head {
        return Ok(false);
    }
    let first = ring.after(at, header.own_blocks);
    let body = ring.read(first, header.len.div_ceil(BASIC_BLOCK))?;
    // The first word has the cycle in its place; the flags lie behind it.
    let unmounts = RawOperation::ref_from_prefix(&body).is_ok_and(|(raw, _)| raw.flags & operation::UNMOUNT != 0);
    if !unmounts {
        return Ok(false);
    }
    let len = usize::try_from(header.len).expect("a record is short");
    if header.is_whole(&ring.read(at, header.own_blocks)?, &body[..len]) {
        Ok(true)
    } else {
        Err(Unclear::because("the record of its unmount is damaged"))
    }
}

fn header_at(ring: &Ring<'_>, superblock: &Superblock, at: u32) -> Result<Header, Unclear> {
    Header::parse(&ring.read(at, 1)?, superblock).map_err(|fault| match fault {
        Fault::Torn => damaged(),
        Fault::Refused(reason) => reason,
    })
}
