//! Plans, and what becomes of a catalogue that they are carried out on.

use super::*;
use crate::{Apply, DeltaSource, Direction, Disk, FileId, Link, Point, Proof};
use failback_delta::{Coverage, PointKind};
use failback_hashtree::Root;
use failback_units::BlockSize;
use proptest::prelude::*;

/// When the first point was recorded.
const START: i64 = 1_700_000_000;

fn count(bytes: u64) -> ByteCount {
    ByteCount::new(bytes).unwrap()
}

fn point(id: u64, recorded: i64) -> Point {
    Point {
        id: PointId(id),
        root: Root([0; 32]),
        size: count(1 << 30),
        block_size: BlockSize::MIN,
        coverage: Coverage::Whole,
        kind: PointKind::Crash,
        time: 0,
        recorded,
        pinned: false,
        proven: Proof::ChangedBlocks,
        delta: [7; 32],
    }
}

fn link(file: FileId, direction: Direction, bytes: u64) -> Link {
    Link { file, direction, bytes: count(bytes), content_bytes: count(bytes), key: [0; 32] }
}

/// Adds a point for each link: recorded so many seconds after `START`, with a link of so many bytes.
fn extend(catalogue: Catalogue, links: &[(i64, u64)]) -> Catalogue {
    links.iter().fold(catalogue, |now, (seconds, bytes)| {
        let apply = Apply {
            delta: [7; 32],
            source: DeltaSource::Path(String::new()),
            result: point(now.next_point().0, 0),
            inverse: link(now.next_file(), Direction::Reverse, *bytes),
            started: 0,
        };
        now.begin_apply(apply).unwrap().finish_apply(Proof::ChangedBlocks, START + seconds).unwrap()
    })
}

/// A disk with a point at `START` and those.
fn chain(links: &[(i64, u64)]) -> Catalogue {
    let disk = Disk { binding: [0; 32], description: String::new(), size: count(1 << 30) };
    extend(Catalogue::new(disk, point(0, START)).unwrap(), links)
}

/// Commits the present point, and keeps all others without a pin.
fn commit(catalogue: &Catalogue) -> Catalogue {
    let oldest = catalogue.points()[0].id;
    catalogue.pin(oldest).unwrap().commit().unwrap().unpin(oldest).unwrap()
}

/// Five points, 100 seconds apart, with links of 10, 20, 30 and 40 bytes.
fn five() -> Catalogue {
    chain(&[(100, 10), (200, 20), (300, 30), (400, 40)])
}

/// The same with the newest one committed, so that all others may go.
fn five_committed() -> Catalogue {
    commit(&five())
}

fn roll_back(catalogue: &Catalogue, goal: u64) -> Catalogue {
    let mut now = catalogue.begin_rollback(PointId(goal), 0).unwrap();
    while let Some(next) = now.next_link() {
        let inverse = link(now.next_file(), next.direction.opposite(), next.bytes.get());
        now = now.begin_step(inverse).unwrap().finish_step().unwrap();
    }
    now
}

fn prunes(plan: &Plan) -> Vec<Prune> {
    plan.steps.iter().map(|step| step.prune).collect()
}

fn points(keep: usize) -> Policy {
    Policy { keep_points: Some(keep), ..Policy::default() }
}

fn age(keep: u64) -> Policy {
    Policy { keep_for: Some(Duration::from_secs(keep)), ..Policy::default() }
}

fn bytes(keep: u64) -> Policy {
    Policy { keep_bytes: Some(count(keep)), ..Policy::default() }
}

const fn drop_of(id: u64) -> Prune {
    Prune::Drop(PointId(id))
}

const fn merge_of(id: u64) -> Prune {
    Prune::Merge(PointId(id))
}

#[test]
fn without_limits_everything_is_kept() {
    assert_eq!(plan_prune(&five(), &Policy::default(), i64::MAX), Plan::default());
}

#[test]
fn the_oldest_go_first_and_the_base_of_an_undo_stays() {
    let plan = plan_prune(&five_committed(), &points(3), START);
    assert_eq!(prunes(&plan), [drop_of(0), drop_of(1)]);
    assert_eq!(plan.steps[0].reason, Reason::Count { points: 5, keep: 3 });
    assert_eq!(plan.steps.iter().map(|step| step.frees.get()).collect::<Vec<_>>(), [10, 20]);
    assert_eq!((plan.frees(), plan.remarks.len()), (count(30), 0));
    // Where nothing was committed since, the base is the oldest point, and those after it are merged.
    let plan = plan_prune(&five(), &points(3), START);
    assert_eq!(prunes(&plan), [merge_of(1), merge_of(2)]);
    // Half of 10; then 10 + 20 - 5 are before point 2, and 30 behind it.
    assert_eq!(plan.steps.iter().map(|step| step.frees.get()).collect::<Vec<_>>(), [5, 12]);
}

#[test]
fn pinned_points_stay_and_what_is_left_over_is_said() {
    let pinned = five_committed().pin(PointId(1)).unwrap();
    let plan = plan_prune(&pinned, &points(2), START);
    assert_eq!(prunes(&plan), [drop_of(0), merge_of(2), merge_of(3)]);
    assert_eq!(plan.remarks, []);
    let plan = plan_prune(&pinned, &points(0), START);
    assert_eq!(prunes(&plan), [drop_of(0), merge_of(2), merge_of(3)]);
    assert_eq!(plan.remarks, [Remark::MustStay(Reason::Count { points: 2, keep: 0 })]);
    let text = plan.remarks[0].to_string();
    assert!(text.starts_with("a limit is exceeded (2 points, and 0 are kept), and all points"), "{text}");
}

#[test]
fn points_after_the_present_one_are_merged_but_for_the_newest() {
    let back = roll_back(&five(), 1);
    let plan = plan_prune(&back, &points(1), START);
    assert_eq!(prunes(&plan), [merge_of(2), merge_of(3)]);
    assert_eq!(plan.remarks, [Remark::MustStay(Reason::Count { points: 3, keep: 1 })]);
}

#[test]
fn age_counts_from_when_a_point_was_recorded() {
    let catalogue = five_committed();
    assert_eq!(prunes(&plan_prune(&catalogue, &age(250), START + 400)), [drop_of(0), drop_of(1)]);
    let plan = plan_prune(&catalogue, &age(200), START + 400);
    // The one that is exactly as old as points are kept is kept.
    assert_eq!(prunes(&plan), [drop_of(0), drop_of(1)]);
    assert_eq!(plan.steps[1].reason, Reason::Age { age: 300, keep: 200 });
    assert_eq!(plan.steps[1].reason.to_string(), "recorded 300 seconds ago, and points are kept for 200");
    let plan = plan_prune(&catalogue, &age(0), i64::MAX);
    assert_eq!((plan.steps.len(), plan.remarks.len()), (4, 0));
    // A point of the future is young, and those behind it may be old all the same.
    let jumped = chain(&[(100_000, 1), (200, 1), (300, 1)]);
    assert_eq!(prunes(&plan_prune(&jumped, &age(50), START + 300)), [merge_of(2)]);
    assert_eq!(
        prunes(&plan_prune(&chain(&[(i64::MIN + START, 1), (5, 1)]), &age(1 << 62), i64::MAX - 1)),
        [] as [Prune; 0]
    );
}

#[test]
fn a_clock_that_ran_backwards_removes_nothing_for_its_age() {
    let plan = plan_prune(&five_committed(), &age(0), START + 399);
    assert_eq!((plan.steps.len(), &plan.remarks[..]), (0, &[Remark::ClockBackwards { behind: 1 }][..]));
    let text = plan.remarks[0].to_string();
    assert!(text.contains("1 seconds behind the newest") && text.ends_with("set the clock right"), "{text}");
    let plan = plan_prune(&five_committed(), &Policy { keep_points: Some(4), ..age(0) }, i64::MIN);
    assert_eq!((prunes(&plan), plan.remarks.len()), (vec![drop_of(0)], 1));
    assert_eq!(plan_prune(&five_committed(), &points(5), i64::MIN).remarks, []);
}

#[test]
fn space_is_counted_over_all_links() {
    let plan = plan_prune(&five_committed(), &bytes(75), START);
    assert_eq!(prunes(&plan), [drop_of(0), drop_of(1)]);
    assert_eq!(plan.steps[1].reason, Reason::Space { bytes: count(90), keep: count(75) });
    assert_eq!(plan.steps[1].reason.to_string(), "90 B in all, and 75 B are kept");
    assert_eq!(plan_prune(&five_committed(), &bytes(100), START), Plan::default());
    let none = plan_prune(&five(), &bytes(0), START);
    assert_eq!(prunes(&none), [merge_of(1), merge_of(2), merge_of(3)]);
    assert!(matches!(none.remarks[..], [Remark::MustStay(Reason::Space { .. })]));
}

#[test]
fn every_limit_is_held() {
    let all = Policy { keep_points: Some(4), keep_for: Some(Duration::from_secs(250)), keep_bytes: Some(count(69)) };
    let plan = plan_prune(&five_committed(), &all, START + 400);
    let reasons: Vec<_> = plan.steps.iter().map(|step| std::mem::discriminant(&step.reason)).collect();
    assert_eq!(prunes(&plan), [drop_of(0), drop_of(1), drop_of(2)]);
    let space = Reason::Space { bytes: count(70), keep: count(69) };
    assert_eq!(reasons[0], reasons[1]);
    assert_eq!(plan.steps[2].reason, space);
}

#[test]
fn nothing_is_removed_while_something_is_under_way() {
    let busy = five().begin_rollback(PointId(1), 0).unwrap();
    let plan = plan_prune(&busy, &points(1), START);
    assert_eq!((plan.steps.len(), &plan.remarks[..]), (0, &[Remark::UnderWay("rollback")][..]));
}

#[test]
fn as_many_are_removed_as_are_needed() {
    let catalogue = five_committed();
    for (wanted, steps) in [(0, 0), (1, 1), (10, 1), (11, 2), (30, 2), (31, 3), (60, 3)] {
        let plan = plan_free(&catalogue, &points(2), START, count(wanted));
        assert_eq!((plan.steps.len(), plan.remarks.len()), (steps, 0), "{wanted}");
    }
    let plan = plan_free(&catalogue, &points(2), START, count(61));
    assert_eq!((plan.steps.len(), plan.frees()), (3, count(60)));
    let wanted = "61 B are needed, and removing what the policy allows frees about 60 B: make room on the retention drive, or keep less";
    assert_eq!(plan.remarks.last().unwrap().to_string(), wanted);
    // What the policy keeps is kept, however much is needed.
    assert_eq!(plan_free(&catalogue, &Policy::default(), START, count(1)).steps, []);
}

#[test]
fn a_forecast_needs_two_moments_and_a_clock_that_goes_forward() {
    assert_eq!(Forecast::of(&chain(&[])), None);
    assert_eq!(Forecast::of(&chain(&[(0, 10)])), None);
    assert_eq!(Forecast::of(&chain(&[(100, 10), (99, 10)])), None);
    let forecast = Forecast::of(&five()).unwrap();
    assert_eq!(forecast, Forecast { bytes: count(100), seconds: 400 });
    assert_eq!((forecast.bytes_per_second(), forecast.seconds_until_full(count(1000))), (0, Some(4000)));
    assert_eq!(forecast.seconds_until_full(ByteCount::ZERO), Some(0));
    let fast = Forecast::of(&chain(&[(10, 3000), (10, 3000)])).unwrap();
    assert_eq!((fast.bytes_per_second(), fast.seconds_until_full(count(599))), (600, Some(0)));
    let nothing = Forecast::of(&chain(&[(10, 0)])).unwrap();
    assert_eq!((nothing.bytes_per_second(), nothing.seconds_until_full(count(1000))), (0, None));
    let slow = Forecast { bytes: count(1), seconds: u64::MAX };
    assert_eq!(slow.seconds_until_full(count(MAX_DISK_BYTES)), Some(u64::MAX));
}

#[test]
fn links_of_absurd_sizes_are_counted() {
    let huge = chain(&[(1, MAX_DISK_BYTES), (2, MAX_DISK_BYTES), (3, MAX_DISK_BYTES)]);
    assert_eq!(huge.link_bytes(), count(MAX_DISK_BYTES));
    assert_eq!(prunes(&plan_prune(&huge, &bytes(MAX_DISK_BYTES - 1), START)), [merge_of(1), merge_of(2)]);
    assert_eq!(plan_prune(&huge, &bytes(0), START).frees(), count(MAX_DISK_BYTES - 1));
}

/// Does what a plan says; a merged link is as large as was assumed.
fn carry_out(plan: &Plan, catalogue: &Catalogue) -> Catalogue {
    let mut now = catalogue.clone();
    for step in &plan.steps {
        now = match step.prune {
            Prune::Drop(id) => {
                assert_ne!(id, now.committed());
                now.drop_oldest(id).unwrap()
            }
            Prune::Merge(id) => {
                let index = now.index_of(id).unwrap();
                let [before, after] = [index - 1, index].map(|place| now.links()[place]);
                let bytes = before.bytes.get() + after.bytes.get() - step.frees.get();
                now.merge(id, link(now.next_file(), before.direction, bytes)).unwrap()
            }
        };
    }
    now
}

fn some_catalogue() -> impl Strategy<Value = Catalogue> {
    let links = || prop::collection::vec((0..50_i64, 0..100_u64), 0..7);
    let times = |links: Vec<(i64, u64)>, start: i64| -> Vec<_> {
        let later = |time: &mut i64, (seconds, bytes): (i64, u64)| {
            *time += seconds;
            Some((*time, bytes))
        };
        links.into_iter().scan(start, later).collect()
    };
    let goal = any::<Option<prop::sample::Index>>();
    (links(), links(), any::<bool>(), any::<[bool; 13]>(), goal).prop_map(
        move |(before, after, commits, pins, goal)| {
            let mut now = chain(&times(before, 0));
            if commits {
                now = commit(&now);
            }
            now = extend(now, &times(after, 300));
            for (id, _) in (0..now.next_point().0).zip(pins).filter(|(_, pinned)| *pinned) {
                now = now.pin(PointId(id)).unwrap();
            }
            let goal = goal.map(|goal| goal.index(now.points().len())).filter(|goal| *goal != now.present_index());
            goal.map_or_else(|| now.clone(), |goal| roll_back(&now, now.points()[goal].id.0))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_can_be_carried_out_and_then_nothing_is_left_to_do(
        catalogue in some_catalogue(),
        keep_points in prop::option::of(0..10_usize),
        keep_for in prop::option::of(0..500_u64),
        keep_bytes in prop::option::of(0..800_u64),
        later in -10..600_i64,
    ) {
        let policy = Policy {
            keep_points,
            keep_for: keep_for.map(Duration::from_secs),
            keep_bytes: keep_bytes.map(count),
        };
        let now = START + later;
        let plan = plan_prune(&catalogue, &policy, now);
        let pruned = carry_out(&plan, &catalogue);
        let must_stay = |point: &&Point| {
            point.pinned || [catalogue.present().id, catalogue.committed()].contains(&point.id)
        };
        for kept in catalogue.points().iter().filter(must_stay) {
            prop_assert!(pruned.point(kept.id).is_some());
        }
        prop_assert_eq!(catalogue.link_bytes().get() - plan.frees().get(), pruned.link_bytes().get());
        let again = plan_prune(&pruned, &policy, now);
        prop_assert_eq!(again.steps, []);
        prop_assert_eq!(again.remarks, plan.remarks);
        // What goes for count or space is older than all that may go and stays.
        let youngest = plan.steps.iter().filter(|step| !matches!(step.reason, Reason::Age { .. }));
        if let Some(youngest) = youngest.map(|step| step.prune.point()).max() {
            let newest = pruned.points().last().unwrap().id;
            let may_go = |point: &&Point| !must_stay(point) && point.id != newest;
            prop_assert!(pruned.points().iter().filter(may_go).all(|point| point.id > youngest));
        }
    }
}
