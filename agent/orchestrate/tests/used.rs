//! Free space: it is neither read nor sent nor written, and what is claimed of the disk is true all the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{SlotIntents, counted, delta_used, noise, signature_used};
use failback_blockio::Device;
use failback_blockio::sim::{EventKind, SimDisk, World};
use failback_orchestrate::{
    Against, ApplyOptions, ApplyReport, ByteCount, DeltaInput, DiskBinding, ExpectedRoot, IntentStore, JobError, Pace,
    Proven, Root, SignatureReader, Silent, apply, free_blocks_of, plan, verify,
};
use failback_units::ByteOffset;
use proptest::prelude::*;
use std::io::Cursor;

const BLOCK: usize = 4096;

/// A target whose free blocks hold something that nobody knows.
struct Case {
    world: World,
    target: SimDisk,
    records: SimDisk,
    delta: Vec<u8>,
    /// What the target holds before, and what it should hold where the result is in use.
    before: Vec<u8>,
    result: Vec<u8>,
    result_free: Vec<bool>,
}

impl Case {
    fn new(base: &[u8], base_free: &[bool], result: &[u8], result_free: &[bool]) -> Self {
        let delta = delta_used(&signature_used(base, Some(base_free)), result, Some(result_free));
        let mut before = base.to_vec();
        for (number, block) in before.chunks_mut(BLOCK).enumerate().filter(|(number, _)| base_free[*number]) {
            block.copy_from_slice(&noise(900 + number as u64, block.len()));
        }
        let world = World::new(5);
        let target = world.disk("target", ByteCount::of_memory(before.len()), 512);
        let records = world.disk("records", ByteCount::of_memory(8192), 512);
        target.write_durably(ByteOffset::ZERO, &before);
        let (result, result_free) = (result.to_vec(), result_free.to_vec());
        Self { world, target, records, delta, before, result, result_free }
    }

    fn options() -> ApplyOptions {
        let pace = Pace { frames_in_batch: 1, batches_in_window: 2 };
        ApplyOptions { pace, disk: DiskBinding { id: [7; 32], certain: true }, ..ApplyOptions::default() }
    }

    fn apply(&self, options: &ApplyOptions, piped: bool) -> Result<ApplyReport, JobError> {
        let mut intents = SlotIntents::new(self.records.clone());
        let (mut cursor, mut pipe) = (Cursor::new(&self.delta), self.delta.as_slice());
        let input = if piped { DeltaInput::Stream(&mut pipe) } else { DeltaInput::File(&mut cursor) };
        apply(&self.target, input, &mut intents, options, &Silent)
    }

    fn root(&self) -> Root {
        Root::of(&counted(&self.result, Some(&self.result_free)))
    }

    /// What is wrong with the target at the result. What `was` there must still be there where the result is free.
    fn wrong(&self, zeroed: bool, was: &[u8]) -> Option<String> {
        let content = self.target.content();
        for (number, now) in content.chunks(BLOCK).enumerate() {
            let at = number * BLOCK..number * BLOCK + now.len();
            let right = match (self.result_free[number], zeroed) {
                (false, _) => &self.result[at],
                (true, false) => &was[at],
                (true, true) => &[0; BLOCK][..now.len()],
            };
            if now != right {
                return Some(format!("block {number}, free: {}", self.result_free[number]));
            }
        }
        None
    }
}

/// Two disks of 64 blocks and a bit, the free blocks of each, from one number for each block.
fn disks(blocks: &[u8]) -> (Vec<u8>, Vec<bool>, Vec<u8>, Vec<bool>) {
    let len = blocks.len() * BLOCK - 1000;
    let (mut base, mut result) = (noise(1, len), noise(1, len));
    for (number, kind) in blocks.iter().enumerate() {
        let at = number * BLOCK..((number + 1) * BLOCK).min(len);
        match kind & 3 {
            0 => base[at.clone()].fill(0),
            1 => result[at.clone()].fill(0),
            2 => result[at.clone()].copy_from_slice(&noise(number as u64 + 50, at.len())),
            _ => {}
        }
    }
    let free = |bit: u8| blocks.iter().map(|kind| kind & bit != 0).collect();
    (base, free(4), result, free(8))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_two_maps(blocks in prop::collection::vec(0_u8..16, 1..65), piped in any::<bool>(), zero in any::<bool>()) {
        let (base, base_free, result, result_free) = disks(&blocks);
        let case = Case::new(&base, &base_free, &result, &result_free);
        // A delta that compares nothing is applied from a file only.
        let options = ApplyOptions { zero_free: zero, verify: true, ..Case::options() };
        let report = match case.apply(&options, piped) {
            Err(JobError::Refused(text)) if piped && text.contains("store it in a file") => case.apply(&options, false),
            other => other,
        }.unwrap();
        prop_assert_eq!(report.result_root, case.root());
        prop_assert_eq!(case.wrong(zero, &case.before), None);
        let masked = result_free.contains(&true) && !zero;
        prop_assert_eq!(report.proven, if masked { Proven::UsedSpace } else { Proven::WholeDisk });
        if zero {
            prop_assert_eq!(Root::of(&case.target.content()), case.root(), "b3sum prints the same");
        }
        // Applying again finds everything in place.
        let again = case.apply(&Case::options(), false).unwrap();
        prop_assert!(again.already_in_place());
        // And a signature of the result says the same of the disk, whatever free space holds.
        let signature = signature_used(&result, Some(&result_free));
        let open = || SignatureReader::open(Cursor::new(&signature)).unwrap();
        let against = Against::Signature(Box::new(open()), free_blocks_of(open()).unwrap());
        prop_assert!(verify(&case.target, against, 1, &Silent).unwrap().matches());
    }
}

/// The blocks that operations of some kind touched on the target.
fn touched(case: &Case, kinds: &[EventKind]) -> Vec<usize> {
    let events = case.world.trace().into_iter();
    let blocks = events.filter(|event| &*event.disk == "target" && kinds.contains(&event.kind)).flat_map(|event| {
        let (start, end) = (event.range.start().get(), event.range.end().get());
        start / BLOCK as u64..end.div_ceil(BLOCK as u64)
    });
    blocks.map(|block| usize::try_from(block).unwrap()).collect()
}

/// The blocks that are looked at for file systems, wherever they may be; from here on reads are traced.
fn probed(case: &Case) -> Vec<usize> {
    case.world.trace_reads(true);
    let _ = failback_volumes::scan(&[&case.target]);
    let blocks = touched(case, &[EventKind::Read]);
    case.world.clear_trace();
    blocks
}

/// A result in which every third block is free, on a base in which every fifth is.
fn example() -> Case {
    let len = 400 * BLOCK;
    let (base, result) = (noise(1, len), noise(2, len));
    let free = |every: usize| (0..400).map(|block| block % every == 0).collect::<Vec<_>>();
    Case::new(&base, &free(5), &result, &free(3))
}

#[test]
fn free_space_of_the_result_is_neither_read_nor_written() {
    for piped in [false, true] {
        let case = example();
        let probed = probed(&case);
        let report = case.apply(&ApplyOptions { verify: true, ..Case::options() }, piped).unwrap();
        assert_eq!(report.proven, Proven::UsedSpace);
        assert_eq!(report.bytes_free, 134 * BLOCK as u64);
        let blocks = touched(&case, &[EventKind::Read, EventKind::Write, EventKind::Zero]);
        let left_alone = |block: &usize| !case.result_free[*block] || probed.contains(block);
        assert!(blocks.contains(&1) && blocks.iter().all(left_alone));
        let changed = touched(&case, &[EventKind::Write, EventKind::Zero]);
        assert!(changed.iter().all(|block| !case.result_free[*block]));
        // What was free in the base has no old content to be compared with, and all else was compared.
        let compared = (0..400).filter(|block| block % 3 != 0 && block % 5 != 0).count() * BLOCK;
        assert_eq!(report.examined.bytes_compared, compared as u64);
    }
}

#[test]
fn a_stop_while_free_space_is_made_zero_is_made_up_for() {
    let case = example();
    let start = case.world.snapshot();
    let options = ApplyOptions { zero_free: true, ..Case::options() };
    let before = case.world.mutations();
    case.apply(&options, false).unwrap();
    let total = case.world.mutations() - before;
    for n in (1..=total + 1).step_by(3) {
        case.world.restore(&start);
        case.world.reseed(n);
        case.world.crash_after(n);
        let first = case.apply(&options, false);
        case.world.crash_now();
        case.world.reboot();
        if first.is_err() {
            case.apply(&options, false).unwrap();
            case.world.crash_now();
            case.world.reboot();
        }
        assert_eq!(case.wrong(true, &case.before), None, "cut at mutation {n} of {total}");
        assert!(SlotIntents::new(case.records.clone()).load().unwrap().is_none());
    }
}

#[test]
fn power_cuts_leave_free_space_alone() {
    let case = example();
    let start = case.world.snapshot();
    let options = Case::options();
    let before = case.world.mutations();
    case.apply(&options, false).unwrap();
    let total = case.world.mutations() - before;
    for n in (1..=total + 1).step_by(3) {
        for certain in [true, false] {
            case.world.restore(&start);
            case.world.reseed(n);
            case.world.crash_after(n);
            let options = ApplyOptions { disk: DiskBinding { id: [7; 32], certain }, ..options.clone() };
            let first = case.apply(&options, false);
            case.world.crash_now();
            case.world.reboot();
            if first.is_err() {
                case.apply(&options, false).unwrap();
            }
            assert_eq!(case.wrong(false, &case.before), None, "cut at mutation {n} of {total}");
        }
    }
}

#[test]
fn a_base_that_is_compared_nowhere_is_read_but_for_its_free_space() {
    let len = 400 * BLOCK;
    let base = noise(1, len);
    let mut result = base.clone();
    let free = |blocks: std::ops::Range<usize>| (0..400).map(|block| blocks.contains(&block)).collect::<Vec<_>>();
    // Blocks 100 to 200 are free; then 120 to 200 are, since twenty come into use.
    result[100 * BLOCK..120 * BLOCK].copy_from_slice(&noise(3, 20 * BLOCK));
    let case = Case::new(&base, &free(100..200), &result, &free(120..200));
    let probed = probed(&case);
    let report = case.apply(&Case::options(), false).unwrap();
    assert_eq!(report.examined.bytes_compared, 0);
    assert_eq!(case.wrong(false, &case.before), None);
    let read = touched(&case, &[EventKind::Read]);
    assert!((0..100).chain(200..400).all(|block| read.contains(&block)));
    assert!(!(120..200).any(|block| read.contains(&block) && !probed.contains(&block)));
    assert!((120..200).any(|block| !probed.contains(&block)));
    // Another disk is found out.
    let other = Case::new(&base, &free(100..200), &result, &free(120..200));
    other.target.write_durably(ByteOffset::new(300 * BLOCK as u64).unwrap(), &[7; 100]);
    let untouched = other.target.content();
    let error = other.apply(&Case::options(), false).unwrap_err();
    assert!(matches!(error, JobError::Mismatch(_)), "{error}");
    assert_eq!(other.target.content(), untouched);
}

#[test]
fn plan_tells_of_free_space() {
    let case = example();
    let mut intents = SlotIntents::new(case.records.clone());
    let report = plan(&case.target, &mut Cursor::new(&case.delta), &mut intents, &Case::options(), &Silent).unwrap();
    assert!(report.refusals.is_empty(), "{:?}", report.refusals);
    assert_eq!(report.bytes_free, 134 * BLOCK as u64);
    assert_eq!(report.examined.bytes_to_write, 266 * BLOCK as u64);
    assert_eq!(case.target.content(), case.before);
}

#[test]
fn a_root_of_used_space_needs_the_map() {
    let case = example();
    case.apply(&Case::options(), false).unwrap();
    let whole = Against::<Cursor<&[u8]>>::Root(ExpectedRoot::whole(case.root(), None));
    assert!(!verify(&case.target, whole, 1, &Silent).unwrap().matches());
    assert_eq!(case.target.size().get(), 400 * BLOCK as u64);
}
