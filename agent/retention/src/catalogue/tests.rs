//! Catalogues as bytes, and walks through everything that can happen to one.

use super::codec::{encode, read};
use super::layout::{POINTS_MAX, RawHeader};
use super::*;
use crate::StoredFile;
use proptest::prelude::*;
use std::collections::HashMap;
use std::io;
use zerocopy::{FromBytes, IntoBytes};

/// A file in memory, of which some bytes cannot be read.
struct Memory {
    bytes: Vec<u8>,
    bad: std::ops::Range<usize>,
}

impl StoredFile for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        let range = at..at + into.len();
        if range.start < self.bad.end && self.bad.start < range.end {
            return Err(io::Error::from_raw_os_error(5));
        }
        into.copy_from_slice(self.bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn append(&mut self, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn decode(bytes: Vec<u8>) -> Result<(Catalogue, Copies), CatalogueError> {
    read(&Memory { bytes, bad: 0..0 })
}

fn count(bytes: u64) -> ByteCount {
    ByteCount::new(bytes).unwrap()
}

fn point(id: u64) -> Point {
    Point {
        id: PointId(id),
        root: Root([id.to_le_bytes()[0]; 32]),
        size: count(1 << 30),
        block_size: BlockSize::MIN,
        coverage: Coverage::Used,
        kind: PointKind::Filesystem,
        time: -5,
        recorded: 1_700_000_000,
        pinned: false,
        proven: Proof::ChangedBlocks,
        delta: [7; 32],
    }
}

fn link(file: u64, direction: Direction) -> Link {
    Link { file: FileId(file), direction, bytes: count(100 + file % 1000), content_bytes: count(1000), key: [9; 32] }
}

fn disk() -> Disk {
    Disk { binding: [3; 32], description: "/dev/sdb, 6000c29d, VMware ü".into(), size: count(1 << 40) }
}

fn apply(catalogue: &Catalogue, file: u64) -> Apply {
    Apply {
        delta: [7; 32],
        source: DeltaSource::Path("/spool/x.delta".into()),
        result: point(catalogue.next_point().0),
        inverse: link(file, Direction::Reverse),
        started: 12,
    }
}

/// A disk with `applied` points after its first one.
fn chain(applied: u64) -> Catalogue {
    let first = Catalogue::new(disk(), point(0)).unwrap();
    (0..applied).fold(first, |catalogue, file| {
        let begun = catalogue.begin_apply(apply(&catalogue, file)).unwrap();
        begun.finish_apply(Proof::WholeDisk, 99).unwrap()
    })
}

/// One catalogue for each thing that can be under way.
fn every_kind() -> Vec<Catalogue> {
    let three = chain(3);
    let spooled = Apply { source: DeltaSource::Spooled(FileId(8)), ..apply(&three, 7) };
    let rollback = three.begin_rollback(PointId(1), -1).unwrap();
    let undo = three.begin_undo(PointId(0), 5).unwrap();
    vec![
        chain(0),
        three.pin(PointId(2)).unwrap(),
        three.begin_apply(apply(&three, 7)).unwrap(),
        three.begin_apply(spooled).unwrap(),
        rollback.clone(),
        rollback.begin_step(link(3, Direction::Forward)).unwrap(),
        undo.clone(),
        undo.begin_undo_step().unwrap(),
    ]
}

/// Makes the hash of both copies right.
fn seal(bytes: &mut [u8]) {
    let half = bytes.len() / 2;
    for copy in bytes.chunks_mut(half) {
        let (header, _) = RawHeader::mut_from_prefix(copy).unwrap();
        header.hash = [0; 32];
        let len = usize::try_from(header.record_len.get()).unwrap_or(half).min(half);
        let hash = blake3::hash(&copy[..len]);
        copy[112..144].copy_from_slice(hash.as_bytes());
    }
}

#[test]
fn everything_survives() {
    for catalogue in every_kind() {
        let bytes = encode(&catalogue).unwrap();
        assert!(bytes.len().is_multiple_of(8192));
        assert_eq!(decode(bytes).unwrap(), (catalogue, Copies::Intact));
    }
}

#[test]
fn one_damaged_copy_costs_nothing() {
    for catalogue in every_kind() {
        let bytes = encode(&catalogue).unwrap();
        let half = bytes.len() / 2;
        let record = usize::try_from(RawHeader::ref_from_prefix(&bytes).unwrap().0.record_len.get()).unwrap();
        for at in 0..record {
            for (start, wanted) in [(0, Copies::FirstDamaged), (half, Copies::SecondDamaged)] {
                let mut damaged = bytes.clone();
                damaged[start + at] ^= 0x10;
                assert_eq!(decode(damaged).unwrap(), (catalogue.clone(), wanted), "{at}");
            }
            let mut both = bytes.clone();
            both[at] ^= 0x10;
            both[half + at] ^= 0x10;
            decode(both).unwrap_err();
        }
        for (bad, wanted) in [(64..128, Copies::FirstDamaged), (half..half + 1, Copies::SecondDamaged)] {
            let (read, copies) = read(&Memory { bytes: bytes.clone(), bad }).unwrap();
            assert_eq!((read, copies), (catalogue.clone(), wanted));
        }
        let error = read(&Memory { bytes, bad: 0..half + 1 }).unwrap_err();
        assert!(matches!(error, CatalogueError::Read(_)), "{error}");
    }
}

#[test]
fn a_file_that_was_cut_off_or_added_to_is_read_by_its_first_copy() {
    let catalogue = chain(100);
    let bytes = encode(&catalogue).unwrap();
    let half = bytes.len() / 2;
    for len in [half, half + 1, half + 4096, bytes.len() - 1] {
        let wanted = (catalogue.clone(), Copies::SecondDamaged);
        assert_eq!(decode(bytes[..len].to_vec()).unwrap(), wanted, "{len}");
    }
    let longer = [bytes.clone(), vec![0; 8192]].concat();
    assert_eq!(decode(longer).unwrap(), (catalogue, Copies::SecondDamaged));
    for len in [0, 1, 143, 144, 4096, 8192, half - 4096] {
        decode(bytes[..len].to_vec()).unwrap_err();
    }
}

#[test]
fn two_different_copies_are_said_to_be_damaged() {
    let (first, second) = (chain(1), chain(1).pin(PointId(0)).unwrap());
    let [one, other] = [&first, &second].map(|catalogue| encode(catalogue).unwrap());
    let half = one.len() / 2;
    let mixed = [&one[..half], &other[half..]].concat();
    assert_eq!(decode(mixed).unwrap(), (first, Copies::SecondDamaged));
}

#[test]
fn what_is_not_understood_is_refused() {
    type Change = fn(&mut RawHeader);
    let cases: [(Change, &str); 6] = [
        (|header| header.magic[1] = b'X', "no catalogue"),
        (|header| header.version = 2.into(), "format version 2"),
        (|header| header.flags = 4.into(), "flags 0x4"),
        (|header| header.pending = 9, "pending 0x9"),
        (|header| header.header_len = 145.into(), "length of its header"),
        (|header| header.reserved[2] = 1, "reserved"),
    ];
    for (change, wanted) in cases {
        let mut bytes = encode(&chain(3)).unwrap();
        let half = bytes.len() / 2;
        for copy in bytes.chunks_mut(half) {
            change(RawHeader::mut_from_prefix(copy).unwrap().0);
        }
        seal(&mut bytes);
        let error = decode(bytes).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn an_unknown_feature_in_the_first_copy_is_not_passed_over_for_the_second() {
    let mut bytes = encode(&chain(1)).unwrap();
    let intact = bytes.clone();
    RawHeader::mut_from_prefix(&mut bytes).unwrap().0.flags = 1.into();
    seal(&mut bytes);
    let half = bytes.len() / 2;
    bytes[half..].copy_from_slice(&intact[half..]);
    let error = decode(bytes).unwrap_err();
    assert!(matches!(error, CatalogueError::UnknownFeature { what: "flags", value: 1 }), "{error}");
}

#[test]
fn every_invariant_is_checked() {
    type Break = fn(&mut Catalogue);
    let cases: [(Break, Inconsistency); 14] = [
        (|c| c.points.clear(), Inconsistency::NoPoints),
        (|c| c.points = vec![point(0); POINTS_MAX + 1], Inconsistency::TooManyPoints),
        (|c| c.links.truncate(2), Inconsistency::LinkCount { points: 4, links: 2 }),
        (|c| c.points[2].id = PointId(1), Inconsistency::PointOrder(PointId(1))),
        (|c| c.next_point = PointId(3), Inconsistency::PointNumber(PointId(3))),
        (|c| c.present = 4, Inconsistency::Present),
        (|c| c.committed = PointId(9), Inconsistency::Committed(PointId(9))),
        (|c| c.links[1].direction = Direction::Forward, Inconsistency::LinkDirection(FileId(1))),
        (|c| c.present = 2, Inconsistency::LinkDirection(FileId(2))),
        (|c| c.links[0].file = FileId(2), Inconsistency::FileTwice(FileId(2))),
        (|c| c.next_file = FileId(2), Inconsistency::FileNumber(FileId(2))),
        (|c| c.disk.description = "x".repeat(4097), Inconsistency::Description),
        (
            |c| c.pending = Some(Pending::Undo { goal: PointId(3), stepping: false, started: 0 }),
            Inconsistency::Pending("undo"),
        ),
        (
            |c| {
                let (goal, from) = (PointId(0), PointId(2));
                c.pending = Some(Pending::Rollback { goal, from, inverse: None, started: 0 });
            },
            Inconsistency::Pending("rollback"),
        ),
    ];
    for (damage, wanted) in cases {
        let mut catalogue = chain(3);
        damage(&mut catalogue);
        assert_eq!(encode(&catalogue), Err(wanted));
    }
    let long = "x".repeat(4097);
    assert_eq!(Catalogue::new(Disk { description: long, ..disk() }, point(0)), Err(Inconsistency::Description));
}

#[test]
fn an_apply_that_does_not_fit_is_refused() {
    let three = chain(3);
    let fitting = apply(&three, 3);
    let long = Apply { source: DeltaSource::Path("x".repeat(4097)), ..fitting.clone() };
    assert_eq!(three.begin_apply(long), Err(Inconsistency::Path.into()));
    for wrong in [
        Apply { result: point(5), ..fitting.clone() },
        Apply { delta: [8; 32], ..fitting.clone() },
        Apply { inverse: link(3, Direction::Forward), ..fitting.clone() },
    ] {
        assert_eq!(three.begin_apply(wrong), Err(Inconsistency::Pending("apply").into()));
    }
    let in_use = Apply { inverse: link(1, Direction::Reverse), ..fitting.clone() };
    assert_eq!(three.begin_apply(in_use), Err(Inconsistency::FileTwice(FileId(1)).into()));
    let both = Apply { source: DeltaSource::Spooled(FileId(3)), ..fitting };
    assert_eq!(three.begin_apply(both), Err(Inconsistency::FileTwice(FileId(3)).into()));
    assert_eq!(three.begin_apply(apply(&three, u64::MAX)), Err(MoveError::Full));
    let last = Catalogue { next_point: PointId(u64::MAX), ..three };
    assert_eq!(last.begin_apply(apply(&last, 3)), Err(MoveError::Full));
}

#[test]
fn a_catalogue_can_be_full() {
    let points: Vec<_> = (0..POINTS_MAX as u64).map(point).collect();
    let links = (1..POINTS_MAX as u64).map(|file| link(file, Direction::Reverse)).collect();
    let (next_point, next_file) = (PointId(1 << 20), FileId(1 << 20));
    let full = Catalogue { present: POINTS_MAX - 1, points, links, next_point, next_file, ..chain(0) };
    assert_eq!(full.begin_apply(apply(&full, 1 << 20)), Err(MoveError::Full));
    assert_eq!(decode(encode(&full).unwrap()).unwrap().0, full);
}

#[test]
fn only_one_thing_is_under_way_at_a_time() {
    for busy in every_kind().into_iter().filter(|catalogue| catalogue.pending.is_some()) {
        let name = busy.pending().unwrap().name();
        let id = PointId(1);
        for result in [
            busy.begin_apply(apply(&busy, 20)),
            busy.begin_rollback(id, 0),
            busy.begin_undo(id, 0),
            busy.commit(),
            busy.drop_oldest(PointId(0)),
            busy.merge(id, link(20, Direction::Reverse)),
            busy.pin(id),
            busy.unpin(id),
        ] {
            assert_eq!(result, Err(MoveError::UnderWay(name)));
        }
        let cancelled = busy.cancel_pending().unwrap();
        assert_eq!((cancelled.pending(), cancelled.points()), (None, busy.points()));
    }
    let idle = chain(2);
    for result in [
        idle.finish_apply(Proof::WholeDisk, 0),
        idle.cancel_pending(),
        idle.begin_step(link(9, Direction::Forward)),
        idle.finish_step(),
        idle.begin_undo_step(),
        idle.finish_undo_step(),
    ] {
        assert!(matches!(result, Err(MoveError::NotUnderWay(_))));
    }
    assert_eq!(idle.next_link(), None);
}

#[test]
fn a_rollback_keeps_all_points_and_turns_the_links_that_it_passes() {
    let begun = chain(3).begin_rollback(PointId(1), 0).unwrap();
    assert_eq!(begun.next_link().unwrap().file, FileId(2));
    assert!(begun.begin_step(link(3, Direction::Reverse)).is_err());
    let step = begun.begin_step(link(3, Direction::Forward)).unwrap();
    assert!(matches!(step.begin_step(link(4, Direction::Forward)), Err(MoveError::NotUnderWay(_))));
    let between = step.finish_step().unwrap();
    assert_eq!((between.present().id, between.next_link().unwrap().file), (PointId(2), FileId(1)));
    let there = between.begin_step(link(4, Direction::Forward)).unwrap().finish_step().unwrap();
    assert_eq!((there.present().id, there.pending(), there.points().len()), (PointId(1), None, 4));
    assert_eq!(there.links().iter().map(|link| link.file.0).collect::<Vec<_>>(), [0, 4, 3]);
    let error = there.begin_apply(apply(&there, 9)).unwrap_err();
    assert_eq!(error, MoveError::NotAtTheEnd { present: PointId(1), newest: PointId(3) });
    // And forward again.
    let forward = there.begin_rollback(PointId(2), 0).unwrap();
    assert_eq!(forward.next_link().unwrap().file, FileId(4));
    let back = forward.begin_step(link(5, Direction::Reverse)).unwrap().finish_step().unwrap();
    assert_eq!(back.links().iter().map(|link| link.file.0).collect::<Vec<_>>(), [0, 5, 3]);
    assert_eq!((back.present().id, back.pending()), (PointId(2), None));
    assert_eq!(there.begin_rollback(PointId(1), 0), Err(MoveError::ThereAlready(PointId(1))));
    assert_eq!(there.begin_rollback(PointId(8), 0), Err(MoveError::NoSuchPoint(PointId(8))));
}

#[test]
fn an_undo_drops_what_is_newer() {
    let begun = chain(3).begin_undo(PointId(1), 0).unwrap();
    let step = begun.begin_undo_step().unwrap();
    assert_eq!((step.next_link().unwrap().file, step.points().len()), (FileId(2), 4));
    let between = step.finish_undo_step().unwrap();
    assert_eq!((between.points().len(), between.links().len(), between.present().id), (3, 2, PointId(2)));
    let there = between.begin_undo_step().unwrap().finish_undo_step().unwrap();
    assert_eq!((there.points().len(), there.present().id, there.pending()), (2, PointId(1), None));
    // A number is never given twice.
    assert_eq!(there.next_point(), PointId(4));
    assert_eq!(there.begin_undo(PointId(1), 0), Err(MoveError::NotOlder(PointId(1))));
    assert_eq!(chain(3).pin(PointId(2)).unwrap().begin_undo(PointId(1), 0), Err(MoveError::IsPinned(PointId(2))));
    let committed = chain(1).pin(PointId(0)).unwrap().commit().unwrap();
    assert_eq!(committed.begin_undo(PointId(0), 0), Err(MoveError::BeforeCommitted(PointId(0))));
}

#[test]
fn an_undo_after_a_rollback_drops_forward_points_too() {
    let rolled_back = chain(3).begin_rollback(PointId(2), 0).unwrap();
    let rolled_back = rolled_back.begin_step(link(3, Direction::Forward)).unwrap().finish_step().unwrap();
    let undone = rolled_back.begin_undo(PointId(1), 0).unwrap().begin_undo_step().unwrap().finish_undo_step().unwrap();
    assert_eq!((undone.points().len(), undone.links().len()), (2, 1));
}

#[test]
fn a_commit_keeps_what_is_pinned_and_what_leads_there() {
    let committed = chain(4).commit().unwrap();
    assert_eq!((committed.points().len(), committed.committed(), committed.links().len()), (1, PointId(4), 0));
    let pinned = chain(4).pin(PointId(2)).unwrap().commit().unwrap();
    assert_eq!(pinned.points().iter().map(|point| point.id.0).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!((pinned.present().id, pinned.committed()), (PointId(4), PointId(4)));
    let back = chain(2).begin_rollback(PointId(1), 0).unwrap();
    let back = back.begin_step(link(2, Direction::Forward)).unwrap().finish_step().unwrap();
    assert_eq!(back.commit().unwrap().points().len(), 1);
    assert_eq!(back.pin(PointId(2)).unwrap().commit(), Err(MoveError::IsPinned(PointId(2))));
}

#[test]
fn points_go_only_where_nothing_needs_them() {
    let four = chain(3).pin(PointId(1)).unwrap();
    let with = link(10, Direction::Reverse);
    assert_eq!(four.drop_oldest(PointId(2)), Err(MoveError::NotOldest(PointId(2))));
    assert_eq!(four.drop_oldest(PointId(3)), Err(MoveError::IsPresent(PointId(3))));
    assert_eq!(four.merge(PointId(0), with), Err(MoveError::IsCommitted(PointId(0))));
    assert_eq!(four.merge(PointId(1), with), Err(MoveError::IsPinned(PointId(1))));
    assert_eq!(
        four.merge(PointId(2), link(10, Direction::Forward)),
        Err(Inconsistency::LinkDirection(FileId(10)).into())
    );
    let merged = four.merge(PointId(2), with).unwrap();
    assert_eq!(merged.links().iter().map(|link| link.file.0).collect::<Vec<_>>(), [0, 10]);
    assert_eq!((merged.present().id, merged.next_file()), (PointId(3), FileId(11)));
    assert_eq!(merged.drop_oldest(PointId(0)), Err(MoveError::IsCommitted(PointId(0))));
    // A pinned point survives a commit, and so can be older than the committed one.
    let committed = merged.commit().unwrap();
    assert_eq!((committed.committed(), committed.present_index()), (PointId(3), 1));
    assert_eq!(committed.drop_oldest(PointId(1)), Err(MoveError::IsPinned(PointId(1))));
    let there = committed.unpin(PointId(1)).unwrap().drop_oldest(PointId(1)).unwrap();
    assert_eq!((there.points().len(), there.links().len()), (1, 0));
    assert_eq!(there.drop_oldest(PointId(3)), Err(MoveError::IsPresent(PointId(3))));
    let back = chain(2).begin_rollback(PointId(1), 0).unwrap();
    let back = back.begin_step(link(2, Direction::Forward)).unwrap().finish_step().unwrap();
    assert_eq!(back.merge(PointId(2), link(3, Direction::Forward)), Err(MoveError::NotInner(PointId(2))));
}

#[test]
fn links_between_are_told_in_the_order_of_the_way() {
    let catalogue = chain(4);
    let files = |from, to| {
        let links = catalogue.links_between(PointId(from), PointId(to))?;
        Some(links.iter().map(|link| link.file.0).collect::<Vec<_>>())
    };
    assert_eq!(files(4, 1).unwrap(), [3, 2, 1]);
    assert_eq!(files(1, 3).unwrap(), [1, 2]);
    assert_eq!(files(2, 2).unwrap(), [0; 0]);
    assert_eq!(files(2, 9), None);
    assert_eq!(catalogue.link_bytes(), count(406));
}

#[test]
fn names_of_files_are_known_again() {
    let file = FileId(0x00ab_cdef);
    for name in [file.delta_name(), file.index_name(), file.spool_name()] {
        assert_eq!(FileId::of_name(&name), Some(file), "{name}");
    }
    for name in [
        "link-",
        "link-0000000000abcdef",
        "link-0000000000ABCDEF.delta",
        "link-0000000000abcdef.delta~",
        "link-+000000000abcdef.delta",
        "spool-0000000000abcdef.index",
        "link-00000000ü0abcdef.delta",
        "catalogue",
    ] {
        assert_eq!(FileId::of_name(name), None, "{name}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Apply,
    Finish,
    Cancel,
    Rollback(u64),
    Undo(u64),
    Begin,
    Commit,
    Drop(u64),
    Merge(u64),
    Pin(u64),
    Unpin(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0..12_u64;
    let step = prop_oneof![
        4 => Just(Step::Apply),
        6 => Just(Step::Finish),
        1 => Just(Step::Cancel),
        2 => id.clone().prop_map(Step::Rollback),
        1 => id.clone().prop_map(Step::Undo),
        6 => Just(Step::Begin),
        1 => Just(Step::Commit),
        1 => id.clone().prop_map(Step::Drop),
        2 => id.clone().prop_map(Step::Merge),
        1 => id.clone().prop_map(Step::Pin),
        1 => id.prop_map(Step::Unpin),
    ];
    prop::collection::vec(step, 1..80)
}

/// Which points the file of a link leads from and to.
type Ends = HashMap<FileId, (PointId, PointId)>;

/// Takes a step, if it is possible, and writes down what the files that it makes lead from and to.
fn take(step: &Step, now: &Catalogue, ends: &mut Ends) -> Result<Catalogue, MoveError> {
    let file = now.next_file();
    match step {
        Step::Apply => {
            ends.insert(file, (now.next_point(), now.present().id));
            now.begin_apply(apply(now, file.0))
        }
        Step::Begin => match (now.pending(), now.next_link()) {
            (Some(Pending::Rollback { inverse: None, .. }), Some(next)) => {
                let (from, to) = ends[&next.file];
                assert_eq!(from, now.present().id, "a link that begins elsewhere");
                let inverse = link(file.0, next.direction.opposite());
                ends.insert(file, (to, from));
                now.begin_step(inverse)
            }
            _ => now.begin_undo_step(),
        },
        Step::Finish => match now.pending() {
            Some(Pending::Apply(_)) => now.finish_apply(Proof::UsedSpace, 5),
            Some(Pending::Rollback { .. }) => now.finish_step(),
            _ => now.finish_undo_step(),
        },
        Step::Cancel => now.cancel_pending(),
        Step::Rollback(id) => now.begin_rollback(PointId(*id), 0),
        Step::Undo(id) => now.begin_undo(PointId(*id), 0),
        Step::Commit => now.commit(),
        Step::Drop(id) => now.drop_oldest(PointId(*id)),
        Step::Merge(id) => {
            let index = now.index_of(PointId(*id)).filter(|index| (1..now.links().len()).contains(index));
            let index = index.ok_or(MoveError::NotInner(PointId(*id)))?;
            let [before, after] = [index - 1, index].map(|place| now.links()[place]);
            let (first, second) =
                if before.direction == Direction::Reverse { (after, before) } else { (before, after) };
            ends.insert(file, (ends[&first.file].0, ends[&second.file].1));
            now.merge(PointId(*id), link(file.0, before.direction))
        }
        Step::Pin(id) => now.pin(PointId(*id)),
        Step::Unpin(id) => now.unpin(PointId(*id)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_link_leads_to_its_neighbour(steps in steps()) {
        let mut now = chain(0);
        let mut ends = Ends::new();
        let mut newest = PointId(0);
        for step in steps {
            let Ok(next) = take(&step, &now, &mut ends) else { continue };
            for (index, link) in next.links().iter().enumerate() {
                let (older, newer) = (next.points()[index].id, next.points()[index + 1].id);
                let wanted = if index < next.present_index() { (newer, older) } else { (older, newer) };
                prop_assert_eq!(ends[&link.file], wanted, "after {:?}", step);
            }
            prop_assert!(next.next_point() >= newest && next.next_file() >= now.next_file());
            prop_assert_eq!(&decode(encode(&next).unwrap()).unwrap().0, &next);
            newest = next.next_point();
            now = next;
        }
    }

    #[test]
    fn nothing_that_is_sealed_makes_the_reader_fail_or_believe_what_contradicts_itself(
        which in 0..8_usize, changes in prop::collection::vec((0..2048_usize, any::<u8>()), 1..6), cut in 0..10_000_usize,
    ) {
        let mut bytes = encode(&every_kind()[which]).unwrap();
        let half = bytes.len() / 2;
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let (first, second) = bytes.split_at_mut(half);
        second.copy_from_slice(first);
        seal(&mut bytes);
        if let Ok((catalogue, _)) = decode(bytes.clone()) {
            prop_assert_eq!(catalogue.check(), Ok(()));
        }
        bytes.truncate(cut);
        let _ = decode(bytes);
    }

    #[test]
    fn random_bytes_are_no_catalogue(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        prop_assert!(decode(bytes.clone()).is_err());
        let mut header = RawHeader::read_from_prefix(&encode(&chain(0)).unwrap()).unwrap().0;
        header.record_len = u64::MAX.into();
        prop_assert!(decode([header.as_bytes(), &bytes].concat()).is_err());
    }
}
