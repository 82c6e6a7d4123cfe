//! Pairs that come home together.

use crate::{Lab, NOW, group, pair, sentence};
use failback_control::state::{Direction, Group, JobKind, MarkState, State, Subject};
use std::time::Duration;

#[test]
fn the_order_is_kept() {
    let lab = Lab::new();
    let mut state = lab.open();
    (1..=4).for_each(|number| state.add_pair(&pair(number), NOW).unwrap());
    let new = Group { quiesce: Duration::from_millis(1500), ..group("b", &[3, 1, 4]) };
    state.add_group(&new, NOW).unwrap();
    state.add_group(&group("a", &[2]), NOW).unwrap();
    drop(state);
    let state = lab.open();
    assert_eq!(state.groups().unwrap(), [group("a", &[2]), new.clone()], "by name");
    assert_eq!(state.group("b").unwrap(), new);
    assert_eq!(state.pair("pair 4").unwrap().group.as_deref(), Some("b"));
}

#[test]
fn what_is_no_group() {
    let lab = Lab::new();
    let mut state = lab.open();
    (1..=3).for_each(|number| state.add_pair(&pair(number), NOW).unwrap());
    state.add_group(&group("a", &[1]), NOW).unwrap();
    let cases = [
        (
            group("a", &[2]),
            "there is a group \"a\" already: give another name, or remove that one with `failback group remove`",
        ),
        (group("b", &[2, 9]), "there is no pair \"pair 9\": `failback pair list` shows which there are"),
        (
            group("b", &[2, 1]),
            "the pair \"pair 1\" is in the group \"a\": remove the group first, with `failback group remove`",
        ),
        (
            group("b", &[2, 3, 2]),
            "the pair \"pair 2\" is named twice: name each one once, in the order in which they are to be taken",
        ),
        (group("b", &[]), "a group needs a pair at least: name those that are to come home together"),
        (
            Group { quiesce: Duration::from_micros(99_999), ..group("b", &[2]) },
            "a time limit of 99 ms for quiescing is no use: give one from 100 ms to 10 min",
        ),
        (
            Group { quiesce: Duration::MAX, ..group("b", &[2]) },
            "a time limit of 18446744073709551615999 ms for quiescing is no use: give one from 100 ms to 10 min",
        ),
        (
            group("b\n", &[2]),
            "\"b\\n\" is no name: use 1 to 64 bytes, without control characters and without blanks at its ends",
        ),
    ];
    for (new, says) in cases {
        assert_eq!(sentence(state.add_group(&new, NOW), &lab), says);
    }
    assert_eq!(state.groups().unwrap(), [group("a", &[1])], "all of it or nothing");
    state.add_group(&group("b", &[2, 3]), NOW).unwrap();
}

#[test]
fn what_is_removed_leaves_its_pairs() {
    let lab = Lab::new();
    let mut state = lab.open();
    (1..=2).for_each(|number| state.add_pair(&pair(number), NOW).unwrap());
    state.add_group(&group("a", &[1, 2]), NOW).unwrap();
    let said = sentence(state.remove_pair("pair 2"), &lab);
    assert_eq!(said, "the pair \"pair 2\" is in the group \"a\": remove the group first, with `failback group remove`");
    let job = state.queue_job(JobKind::Final, &Subject::Group("a".into()), NOW).unwrap();
    assert!(sentence(state.remove_group("a", false), &lab).starts_with("the job 1 of \"a\" is not over"));
    state.job_failed(job, "no.", NOW).unwrap();
    state.remove_group("a", false).unwrap();
    state.remove_pair("pair 2").unwrap();
    assert_eq!(crate::names(&state), ["pair 1"]);
    for said in [sentence(state.remove_group("a", false), &lab), sentence(state.group("a"), &lab)] {
        assert_eq!(said, "there is no group \"a\": `failback group list` shows which there are");
    }
}

/// A group "a" of two pairs, and their states at its marks, the newest first.
fn marked(lab: &Lab) -> State {
    let mut state = lab.open();
    (1..=2).for_each(|number| state.add_pair(&pair(number), NOW).unwrap());
    state.add_group(&group("a", &[1, 2]), NOW).unwrap();
    state.begin_mark("a", [1; 16], NOW).unwrap();
    state
}

fn states(state: &State) -> Vec<MarkState> {
    state.marks("a", 1000).unwrap().into_iter().map(|mark| mark.state).collect()
}

#[test]
fn a_mark_is_decided_by_its_last_pass_and_whole_by_the_last_point() {
    let lab = Lab::new();
    let mut state = marked(&lab);
    assert_eq!(state.pair_is_complete([1; 16], "pair 1", [8; 32]).unwrap(), MarkState::Marked);
    // It was sent anew, since its source had to begin again.
    assert_eq!(state.pair_is_complete([1; 16], "pair 1", [9; 32]).unwrap(), MarkState::Marked);
    state.pair_is_applied("pair 1", [9; 32], 3).unwrap();
    assert_eq!(states(&state), [MarkState::Marked], "nothing is applied before it is decided");
    assert!(!state.is_decided("pair 1", [9; 32]).unwrap());
    assert_eq!(state.pair_is_not_complete([1; 16], "pair 1").unwrap(), MarkState::Marked);
    assert_eq!(
        state.pair_is_complete([1; 16], "pair 2", [7; 32]).unwrap(),
        MarkState::Marked,
        "the other one was taken back"
    );
    // Nobody holds a disk when a state is opened.
    drop(state);
    let mut state = lab.open();
    assert_eq!(state.pair_is_complete([1; 16], "pair 1", [9; 32]).unwrap(), MarkState::Marked);
    assert_eq!(state.pair_is_complete([1; 16], "pair 2", [7; 32]).unwrap(), MarkState::Decided);
    assert_eq!(state.pair_is_not_complete([1; 16], "pair 1").unwrap(), MarkState::Decided, "it is too late for that");
    assert!(!state.give_up_marks("pair 1").unwrap(), "it is too late for that");
    drop(state);
    let mut state = lab.open();
    assert!(state.is_decided("pair 1", [9; 32]).unwrap() && state.is_decided("pair 2", [7; 32]).unwrap());
    assert!(!state.is_decided("pair 1", [7; 32]).unwrap(), "that is the pass of another pair");
    assert_eq!(state.pairs_decided().unwrap(), ["pair 1", "pair 2"]);
    assert!(sentence(state.set_direction("pair 1", Direction::Send), &lab).contains("is not applied as a whole"));
    assert_eq!(state.pair_is_complete([1; 16], "pair 1", [9; 32]).unwrap(), MarkState::Decided);
    assert!(sentence(state.pair_is_complete([1; 16], "pair 1", [8; 32]), &lab).contains("begin the last pass"));
    assert!(sentence(state.remove_group("a", false), &lab).contains("--force gives that up"));
    state.pair_is_applied("pair 2", [6; 32], 5).unwrap();
    assert!(state.is_decided("pair 2", [7; 32]).unwrap(), "that was another pass");
    state.pair_is_applied("pair 2", [7; 32], 5).unwrap();
    assert_eq!((state.pairs_decided().unwrap(), states(&state)), (vec!["pair 1".to_owned()], vec![MarkState::Decided]));
    state.pair_is_applied("pair 1", [9; 32], 3).unwrap();
    assert_eq!(states(&state), [MarkState::Whole]);
    let [mark] = &state.marks("a", 1000).unwrap()[..] else { panic!() };
    assert_eq!((mark.id, mark.time), ([1; 16], NOW));
    assert_eq!(
        mark.pairs.iter().map(|pair| (pair.delta, pair.point)).collect::<Vec<_>>(),
        [(Some([9; 32]), Some(3)), (Some([7; 32]), Some(5))]
    );
    state.remove_group("a", false).unwrap();
}

#[test]
fn a_mark_that_is_not_decided_is_given_up_by_the_next_one_or_by_hand() {
    let lab = Lab::new();
    let mut state = marked(&lab);
    state.pair_is_complete([1; 16], "pair 1", [8; 32]).unwrap();
    state.begin_mark("a", [2; 16], NOW).unwrap();
    assert_eq!(states(&state), [MarkState::Marked, MarkState::GivenUp]);
    for pair in ["pair 1", "pair 2"] {
        assert!(sentence(state.pair_is_complete([1; 16], pair, [8; 32]), &lab).contains("was given up"));
        assert!(sentence(state.mark_of([1; 16], pair), &lab).contains("was given up"));
        assert!(sentence(state.mark_of([3; 16], pair), &lab).contains("was given up"), "there was never one");
    }
    assert!(state.give_up_marks("pair 2").unwrap());
    assert!(!state.give_up_marks("pair 2").unwrap());
    assert_eq!(states(&state), [MarkState::GivenUp, MarkState::GivenUp]);
    for number in 3..150 {
        state.begin_mark("a", [number; 16], NOW).unwrap();
    }
    assert_eq!(state.marks("a", 1000).unwrap().len(), 100, "the newest are kept");
    let ids = |limit| state.marks("a", limit).unwrap().iter().map(|mark| mark.id[0]).collect::<Vec<_>>();
    assert_eq!((ids(0), ids(1), ids(3)), (vec![], vec![149], vec![149, 148, 147]));
    state.pair_is_complete([149; 16], "pair 1", [8; 32]).unwrap();
    state.pair_is_complete([149; 16], "pair 2", [8; 32]).unwrap();
    state.remove_group("a", true).unwrap();
    assert!(state.pairs_decided().unwrap().is_empty());
    assert!(sentence(state.begin_mark("a", [200; 16], NOW), &lab).contains("there is no group"));
}
