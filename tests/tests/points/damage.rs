//! Files of the retention drive that are damaged or gone: what can still be used is used, and nothing else.

use crate::world::{World, flip, names_in};
use failback_tests::failback;
use failback_tests::lab::{Unchanged, tool};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Four points, the disk at the newest, and the files of the links that lead back from it, the oldest first.
fn with_links() -> (World, Vec<PathBuf>) {
    let world = World::at_the_end();
    let links = (0..3).map(|place| world.link(place)).collect();
    (world, links)
}

impl World {
    /// Fails unless nothing came of what was tried: the disk is at rest at its newest point, and the nearer points are right.
    #[track_caller]
    fn is_usable_down_to(&self, oldest: u64) {
        let status = self.status();
        assert_eq!((&status["state"], &status["present"]), (&"at-rest".into(), &3.into()), "{status}");
        for id in oldest..=3 {
            assert_eq!(self.call("verify", &format!("--point {id}")).json()["matches"], true, "{id}");
        }
        self.rollback(oldest);
        self.is_at(usize::try_from(oldest).unwrap());
        self.rollback(3);
        self.is_at(3);
    }
}

/// One bit anywhere in the link between the points 1 and 2.
#[test]
fn a_damaged_link_is_found_when_it_is_used() {
    let (world, links) = with_links();
    let intact = fs::read(&links[1]).unwrap();
    let middle = i64::try_from(intact.len() / 2).unwrap();
    let mut found = 0;
    for at in [9, 40, 90, 150, 300, 2000, middle, -20_000, -300, -100, -1] {
        flip(&links[1], at);
        // Lengths are looked at, and this one is right.
        assert_eq!(world.ids(), [0, 1, 2, 3]);
        for id in [1, 0] {
            // Where the damage lies in what is not needed, such as values for the way back, the content is right.
            let run = world.call("verify", &format!("--point {id} --json")).run();
            if run.code == 0 {
                assert!(String::from_utf8(run.stdout).unwrap().contains("\"matches\": true"));
            } else {
                found += 1;
                assert_eq!(run.code, 6, "{at}: {}", run.stderr);
                assert!(run.stdout.is_empty() && run.sentence().contains("link-"), "{at}: {}", run.stderr);
            }
        }
        let output = world.place.path("out.img");
        let exported = world.call("point export", "1 -o").arg(&output).run();
        if exported.code == 0 {
            assert!(fs::read(&output).unwrap() == fs::read(&world.states[1]).unwrap(), "{at}");
            fs::remove_file(output).unwrap();
        } else {
            assert_eq!(exported.code, 6, "{at}: {}", exported.stderr);
            assert!(!output.exists());
        }
        // The disk goes as far as it can, is told to be on its way, and comes back.
        let sentence = world.call("point rollback", "0 --yes").fails(6, "link-");
        assert!(sentence.contains(links[1].file_name().unwrap().to_str().unwrap()), "{at}: {sentence}");
        let status = world.status();
        assert_eq!(
            (&status["state"], &status["under_way"], &status["present"]),
            (&"interrupted".into(), &"rollback".into(), &2.into())
        );
        world.is_at(2);
        assert_eq!(world.call("undo", "--yes").json()["point"], 3);
        world.is_usable_down_to(2);
        fs::write(&links[1], &intact).unwrap();
    }
    assert!(found > 10, "the damage was met {found} times only");
    world.all_are_right();
    world.rollback(0);
    world.is_at(0);
}

/// What an undo passes cannot be gone back to, so it does not begin where it could not come to its end.
#[test]
fn an_undo_over_damage_does_not_begin() {
    let (world, links) = with_links();
    flip(&links[1], 300);
    let untouched = Unchanged::since(&world.disk);
    world.call("undo", "--yes").fails(6, "link-");
    let status = world.status();
    assert_eq!((&status["state"], &status["present"]), (&"at-rest".into(), &3.into()), "{status}");
    world.call("resume", "--yes").refused("nothing is to be resumed");
    untouched.check();
    // A rollback keeps the way forward, so it goes as far as it can.
    world.call("point rollback", "0 --yes").fails(6, "link-");
    let status = world.status();
    assert_eq!((&status["under_way"], &status["present"]), (&"rollback".into(), &2.into()), "{status}");
    world.call("undo", "--yes").done();
    world.is_at(3);
    world.is_usable_down_to(2);
}

/// Fails unless the points 0 and 1 are told to be lost, and stay so, and the others can be used.
#[track_caller]
fn lost_beyond(world: &World, link: &Path, words: &str) {
    let untouched = Unchanged::since(&world.disk);
    let list = world.list();
    let reachable: Vec<_> = (0..4).map(|place| list["points"][place]["reachable"].as_bool().unwrap()).collect();
    assert_eq!(reachable, [false, false, true, true], "{list}");
    let text = String::from_utf8(world.call("point list", "").done()).unwrap();
    assert_eq!(text.lines().filter(|line| line.ends_with("CANNOT BE REACHED")).count(), 2, "{text}");
    let name = link.file_name().unwrap().to_str().unwrap();
    let told = format!("recovery points 0, 1 cannot be reached: the file {name} {words}");
    assert!(text.contains(&told), "{told} is not in {text}");
    assert!(String::from_utf8(world.call("point show", "0").done()).unwrap().contains(&told));
    let all = failback!("point", "list", "--retention", world.retention).done();
    assert!(String::from_utf8(all).unwrap().contains(&told));
    let (image, delta, socket) = (world.place.path("out.img"), world.place.path("o.delta"), world.place.path("socket"));
    world.call("verify", "--point 0").fails(6, words);
    world.call("point export", "0 -o").arg(&image).fails(6, words);
    world.call("point export", "1 -o").arg(&delta).fails(6, words);
    world.call("point serve", "1 --socket").arg(&socket).fails(6, words);
    world.call("point prune", "1 --yes").fails(6, words);
    assert!(!image.exists() && !delta.exists() && !socket.exists());
    // Nothing is begun that cannot come to its end.
    world.call("point rollback", "0 --yes").fails(6, words);
    world.call("point rollback", "1 --yes").fails(6, words);
    world.call("undo", "--yes").fails(6, words);
    untouched.check();
    world.is_usable_down_to(2);
}

#[test]
fn a_missing_link_loses_what_lies_beyond_it() {
    let (world, links) = with_links();
    let away = world.place.path("away");
    fs::rename(&links[1], &away).unwrap();
    lost_beyond(&world, &links[1], "is missing: restore it from a backup");
    fs::rename(&away, &links[1]).unwrap();
    world.all_are_right();
    world.rollback(0);
    world.is_at(0);
}

#[test]
fn a_link_of_another_length_is_none() {
    let (world, links) = with_links();
    let intact = fs::read(&links[1]).unwrap();
    let long = [&intact[..], b"more"].concat();
    for other in [&intact[..intact.len() - 1], &intact[..100], &[], &long] {
        fs::write(&links[1], other).unwrap();
        lost_beyond(&world, &links[1], &format!("has {} bytes instead of {}", other.len(), intact.len()));
    }
    fs::write(&links[1], &intact).unwrap();
    world.all_are_right();
}

#[test]
fn something_else_in_the_place_of_a_link() {
    let (world, links) = with_links();
    let away = world.place.path("away");
    fs::rename(&links[1], &away).unwrap();
    symlink(&away, &links[1]).unwrap();
    lost_beyond(&world, &links[1], "cannot be opened");
    fs::remove_file(&links[1]).unwrap();
    tool("mkfifo", &[&links[1]]);
    lost_beyond(&world, &links[1], "cannot be opened");
    fs::remove_file(&links[1]).unwrap();
    fs::create_dir(&links[1]).unwrap();
    lost_beyond(&world, &links[1], "cannot be opened");
    fs::remove_dir(&links[1]).unwrap();
    // Another link, of the right length.
    let mut other = fs::read(&links[0]).unwrap();
    other.resize(usize::try_from(fs::metadata(&away).unwrap().len()).unwrap(), 0);
    fs::write(&links[1], other).unwrap();
    world.call("verify", "--point 1").fails(6, "is not the delta that the catalogue names");
    world.is_usable_down_to(2);
}

/// What lies behind a lost link can be given up, and then nothing is wrong any more.
#[test]
fn lost_points_can_be_given_up() {
    let (world, links) = with_links();
    fs::remove_file(&links[1]).unwrap();
    world.call("point prune", "0 --yes").refused("recovery point 0 is the committed one");
    world.call("point prune", "1 --yes").fails(6, "is missing");
    assert_eq!(world.call("commit", "--yes").json()["removed"], serde_json::json!([0, 1, 2]));
    world.has_links(0);
    world.all_are_right();
}

/// An index saves reading and is nothing else.
#[test]
fn without_an_index_all_is_as_it_was() {
    let (world, links) = with_links();
    let indices: Vec<_> = links.iter().map(|link| link.with_extension("index")).collect();
    let intact = fs::read(&indices[1]).unwrap();
    let check = || {
        for id in 0..4 {
            let run = world.call("verify", &format!("--point {id}")).run();
            assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{id}");
        }
    };
    for at in [0, 8, 20, 60, -60, -1] {
        flip(&indices[1], at);
        check();
        fs::write(&indices[1], &intact).unwrap();
    }
    for other in [&intact[..intact.len() - 1], &intact[..10], &[]] {
        fs::write(&indices[1], other).unwrap();
        check();
    }
    // That of another link.
    fs::copy(&indices[0], &indices[1]).unwrap();
    check();
    for index in &indices {
        fs::remove_file(index).unwrap();
    }
    check();
    assert_eq!(world.call("point prune", "1 --yes").json()["removed"], serde_json::json!([1]));
    for (id, state) in [(0, 0), (3, 3)] {
        world.rollback(id);
        world.is_at(state);
    }
    world.has_links(2);
}

/// The catalogue stands in its file twice.
#[test]
fn one_copy_of_the_catalogue_is_enough() {
    let (world, _) = with_links();
    let catalogue = world.own().join("catalogue");
    let len = i64::try_from(fs::metadata(&catalogue).unwrap().len()).unwrap();
    for at in [100, len / 2 + 100, 20, len / 2 + 20, 3, len / 2 + 3] {
        flip(&catalogue, at);
        let text = String::from_utf8(world.call("point list", "").done()).unwrap();
        assert!(text.contains("one of the two copies of the catalogue is damaged"), "{at}: {text}");
        assert_eq!((world.ids(), &world.list()["catalogue_damaged"]), (vec![0, 1, 2, 3], &true.into()));
        world.all_are_right();
        // The next change writes both anew.
        world.call("point pin", "1").done();
        assert_eq!(world.list()["catalogue_damaged"], false);
    }
    // Half of it is a copy.
    File::options().write(true).open(&catalogue).unwrap().set_len(u64::try_from(len).unwrap() / 2).unwrap();
    assert_eq!(world.ids(), [0, 1, 2, 3]);
    world.rollback(0);
    world.is_at(0);
    assert_eq!(world.list()["catalogue_damaged"], false);
}

/// Fails unless nothing can be done, nothing is done, and all of it says why.
#[track_caller]
fn nothing_works(world: &World, own: &Path, code: i32, words: &str) {
    let names = names_in(own);
    let untouched = Unchanged::since(&world.disk);
    for (verb, rest) in [
        ("point list", ""),
        ("status", ""),
        ("point show", "1"),
        ("point rollback", "1 --yes"),
        ("point prune", "1 --yes"),
        ("point pin", "1"),
        ("undo", "--yes"),
        ("resume", "--yes"),
        ("commit", "--yes"),
        ("verify", "--point 1"),
    ] {
        world.call(verb, rest).fails(code, words);
    }
    world.apply(2).fails(code, words);
    world.apply_of("-").fed(fs::read(&world.deltas[2]).unwrap()).fails(code, words);
    let all = failback!("point", "list", "--retention", world.retention).run();
    assert_eq!(all.code, 6, "{all:?}");
    assert!(String::from_utf8(all.stdout).unwrap().contains("DAMAGED: "));
    assert!(failback!("point", "list", "--retention", world.retention).json_of(6)["disks"][0]["error"].is_string());
    untouched.check();
    assert_eq!(names_in(own), names);
}

#[test]
fn without_a_catalogue_nothing_is_touched() {
    let (world, _) = with_links();
    let own = world.own();
    let catalogue = own.join("catalogue");
    let intact = fs::read(&catalogue).unwrap();
    let len = i64::try_from(intact.len()).unwrap();
    flip(&catalogue, 120);
    flip(&catalogue, len / 2 + 50);
    let words = "cannot be used: restore the whole directory from a backup, and remove nothing";
    nothing_works(&world, &own, 6, words);
    // Shorter than one copy.
    for length in [500, 100, 0] {
        fs::write(&catalogue, &intact[..length]).unwrap();
        nothing_works(&world, &own, 6, words);
    }
    fs::remove_file(&catalogue).unwrap();
    nothing_works(&world, &own, 6, "has lost its catalogue");
    fs::write(&catalogue, &intact).unwrap();
    world.all_are_right();
    // A newer program's.
    let mut newer = intact.clone();
    for copy in [0, intact.len() / 2] {
        newer[copy + 8] = 2;
    }
    fs::write(&catalogue, newer).unwrap();
    nothing_works(&world, &own, 6, "use a newer failback");
    fs::write(&catalogue, &intact).unwrap();
    world.rollback(0);
    world.is_at(0);
}

#[test]
fn something_else_in_the_place_of_the_catalogue() {
    let (world, _) = with_links();
    let own = world.own();
    let (catalogue, away) = (own.join("catalogue"), world.place.path("away"));
    fs::rename(&catalogue, &away).unwrap();
    tool("mkfifo", &[&catalogue]);
    nothing_works(&world, &own, 5, "catalogue");
    fs::remove_file(&catalogue).unwrap();
    symlink(&away, &catalogue).unwrap();
    nothing_works(&world, &own, 5, "catalogue");
    fs::remove_file(&catalogue).unwrap();
    fs::rename(&away, &catalogue).unwrap();
    world.all_are_right();
}

/// What an interrupted change left is removed by the next one, and what is nobody's is left alone.
#[test]
fn leftovers_are_removed_and_strangers_are_not() {
    let (world, _) = with_links();
    let own = world.own();
    let leftovers =
        ["catalogue.new", "link-00000000000000ff.delta", "link-00000000000000ff.index", "spool-00000000000000fe.delta"];
    let strangers = ["notes.txt", "link-xyz.delta", "link-00000000000000FF.delta", "catalogue.old"];
    for name in leftovers.iter().chain(&strangers) {
        fs::write(own.join(name), b"something").unwrap();
    }
    let before = names_in(&own);
    world.list();
    world.status();
    world.call("point export", "0 -o").arg(world.place.path("out.img")).done();
    assert_eq!(names_in(&own), before, "who looks removes nothing");
    world.call("point pin", "1").done();
    let after = names_in(&own);
    assert!(leftovers.iter().all(|name| !after.contains(&(*name).to_owned())), "{after:?}");
    assert_eq!(after.len(), before.len() - leftovers.len(), "{after:?}");
}
