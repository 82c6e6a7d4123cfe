//! Pairs that come home together.

use crate::{Lab, NOW, group, pair, sentence};
use failback_control::state::{Group, JobKind, Subject};
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
    assert!(sentence(state.remove_group("a"), &lab).starts_with("the job 1 of \"a\" is not over"));
    state.job_failed(job, "no.", NOW).unwrap();
    state.remove_group("a").unwrap();
    state.remove_pair("pair 2").unwrap();
    assert_eq!(crate::names(&state), ["pair 1"]);
    for said in [sentence(state.remove_group("a"), &lab), sentence(state.group("a"), &lab)] {
        assert_eq!(said, "there is no group \"a\": `failback group list` shows which there are");
    }
}
