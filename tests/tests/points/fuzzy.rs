//! States that were read while they were being written: bases for the next pass, never to be booted.

use crate::world::{Kind, SMALL, World};
use failback_tests::failback;
use std::fs;

/// Point 1 is fuzzy, the others are not.
fn with_a_fuzzy_point() -> World {
    let mut world = World::of_bytes(Kind::Raw, SMALL);
    let (base, delta) = (world.place.path("0.delta.base.sig"), world.place.path("fuzzy.delta"));
    let diffed = failback!("diff", "--base", base, world.states[1], "-o", delta, "--fuzzy").json();
    assert_eq!(diffed["kind"], "fuzzy");
    world.deltas[0] = delta;
    world.apply_all();
    world
}

#[test]
fn it_is_said_of_it_wherever_it_is_told_of() {
    let world = with_a_fuzzy_point();
    let list = world.list();
    let kinds: Vec<_> =
        (0..4).map(|number| (&list["points"][number]["kind"], &list["points"][number]["bootable"])).collect();
    for (number, (kind, bootable)) in kinds.into_iter().enumerate() {
        let wanted = if number == 1 { ("fuzzy", false) } else { ("crash", true) };
        assert_eq!((kind.as_str(), bootable.as_bool()), (Some(wanted.0), Some(wanted.1)), "{list}");
    }
    let text = String::from_utf8(world.call("point list", "").done()).unwrap();
    let marked: Vec<_> = text.lines().filter(|line| line.contains("not to be booted")).collect();
    assert!(marked.len() == 1 && marked[0].starts_with("     1  "), "{text}");
    let shown = String::from_utf8(world.call("point show", "1").done()).unwrap();
    assert!(shown.contains("fuzzy: not to be booted"), "{shown}");
}

#[test]
fn it_is_given_to_nobody_who_does_not_insist() {
    let world = with_a_fuzzy_point();
    let (image, socket) = (world.place.path("out.img"), world.place.path("socket"));
    let words = "recovery point 1 is fuzzy: it was read while it was being written";
    let sentence = world.call("point rollback", "1 --yes").refused(words);
    assert!(sentence.ends_with("choose another one, or add --fuzzy to use it all the same"), "{sentence}");
    world.call("point export", "1 -o").arg(&image).refused(words);
    world.call("point export", "1 --format delta -o").arg(&image).refused(words);
    world.call("point serve", "1 --socket").arg(&socket).refused(words);
    assert!(!image.exists() && !socket.exists());
    world.is_at(3);
    // Past it, in both directions.
    world.rollback(0);
    world.is_at(0);
    world.rollback(3);
    world.is_at(3);
    // To it, for who insists: a rollback, and what can be compared.
    world.all_are_right();
    world.call("point export", "1 --fuzzy -o").arg(&image).done();
    assert!(fs::read(&image).unwrap() == fs::read(&world.states[1]).unwrap());
    world.call("point rollback", "1 --yes --fuzzy").done();
    world.is_at(1);
    world.call("undo", "--yes").done();
    world.is_at(0);
}
