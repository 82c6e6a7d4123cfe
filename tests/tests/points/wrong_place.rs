//! Retention directories that are not what they should be, and disks that are not whose they are.

use crate::world::{Kind, SMALL, World, names_in};
use failback_tests::failback;
use failback_tests::lab::{Loop, Mount, Place, Program, Unchanged, is_alone_inside, lone, noise, root_of_file, tool};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

impl World {
    /// The verbs that need recovery points, with another directory.
    fn each_with(&self, directory: &Path) -> Vec<Program> {
        let calls = [
            ("point show", "0"),
            ("point rollback", "0 --yes"),
            ("point prune", "0 --yes"),
            ("point pin", "0"),
            ("undo", "--yes"),
            ("resume", "--yes"),
            ("commit", "--yes"),
            ("verify", "--point 0"),
        ];
        let call = |(verb, rest): (&str, &str)| {
            Program::new().args(verb).arg(&self.disk).args(rest).arg("--retention").arg(directory)
        };
        calls.into_iter().map(call).collect()
    }

    fn apply_with(&self, directory: &Path) -> Program {
        failback!("apply", self.deltas[0], self.disk, "--yes", "--retention", directory)
    }

    fn look_with(&self, directory: &Path) -> [Program; 3] {
        let list = failback!("point", "list", self.disk, "--retention", directory);
        let all = failback!("point", "list", "--retention", directory);
        [list, all, failback!("status", self.disk, "--retention", directory)]
    }
}

#[test]
fn a_directory_that_is_none() {
    let world = World::of_bytes(Kind::Raw, SMALL);
    let untouched = Unchanged::since(&world.disk);
    let (missing, file) = (world.place.path("missing"), world.place.file("file", b""));
    for (directory, words) in [
        (&missing, "missing does not exist: mount the retention drive, or make the directory on it"),
        (&file, "file is no directory: name one on the retention drive"),
    ] {
        for call in world.each_with(directory).into_iter().chain(world.look_with(directory)) {
            call.refused(words);
        }
        world.apply_with(directory).refused(words);
    }
    assert!(!missing.exists());
    failback!("undo", world.disk, "--yes").refused("add --retention DIR");
    failback!("point", "list").refused("add --retention DIR");
    untouched.check();
}

#[test]
fn the_directory_of_one_disk() {
    let world = World::at_the_end();
    let own = world.own();
    let names = names_in(&own);
    let words = "holds the recovery points of one disk: name the directory above it";
    for call in world.each_with(&own).into_iter().chain(world.look_with(&own)).chain([world.apply_with(&own)]) {
        call.refused(words);
    }
    assert_eq!(names_in(&own), names);
}

/// Nobody's points are taken for those of another disk, though they lie where those would.
#[test]
fn the_points_of_another_disk() {
    let (world, other) = (World::at_the_end(), World::at_the_end());
    let (own, theirs) = (world.own(), other.own());
    let away = world.place.path("away");
    fs::rename(&own, &away).unwrap();
    tool("cp", &["-r".as_ref(), theirs.as_os_str(), own.as_os_str()]);
    let names = names_in(&own);
    let untouched = Unchanged::since(&world.disk);
    let words = "is the retention directory of another disk (";
    for call in world.each_with(&world.retention) {
        let sentence = call.refused(words);
        assert!(sentence.ends_with("): name the directory of this one"), "{sentence}");
        assert!(sentence.contains(other.disk.to_str().unwrap()), "{sentence}");
    }
    let [list, _, status] = world.look_with(&world.retention);
    list.refused(words);
    status.refused(words);
    world.apply(2).refused(words);
    world.apply_of("-").fed(fs::read(&world.deltas[2]).unwrap()).refused(words);
    untouched.check();
    assert_eq!(names_in(&own), names);
    fs::remove_dir_all(&own).unwrap();
    fs::rename(&away, &own).unwrap();
    world.all_are_right();
}

/// An image is what it is by its inode: renamed it is the same one, a copy is another.
#[test]
fn an_image_that_was_renamed_or_copied() {
    let mut world = World::at_the_end();
    let (copy, renamed) = (world.place.path("copy.img"), world.place.path("renamed.img"));
    fs::copy(&world.disk, &copy).unwrap();
    fs::rename(&world.disk, &renamed).unwrap();
    world.disk = copy;
    assert_eq!(world.list()["points"], serde_json::json!([]));
    for call in world.each_with(&world.retention) {
        call.refused("there are no recovery points of");
    }
    assert_eq!(names_in(&world.retention).len(), 1, "looking made a directory");
    world.disk = renamed;
    assert_eq!(world.ids(), [0, 1, 2, 3]);
    world.rollback(0);
    world.is_at(0);
    let all = failback!("point", "list", "--retention", world.retention).json();
    assert!(all["disks"][0]["description"].as_str().unwrap().contains("disk.img"), "{all}");
}

/// Several disks in one directory, something that is none of ours, and nothing at all.
#[test]
fn all_disks_of_a_directory() {
    let world = World::at_the_end();
    fs::create_dir(world.retention.join("lost+found")).unwrap();
    fs::write(world.retention.join("README"), b"a file").unwrap();
    let second = world.place.path("second.img");
    let mut bytes = fs::read(&world.states[0]).unwrap();
    bytes.resize(SMALL + 8192, 0);
    fs::write(&second, bytes).unwrap();
    failback!("apply", world.deltas[0], second, "--yes", "--retention", world.retention).done();
    let all = failback!("point", "list", "--retention", world.retention).json();
    let disks = all["disks"].as_array().unwrap();
    let mut counts: Vec<_> = disks.iter().map(|disk| disk["points"].as_array().unwrap().len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [2, 4], "{all}");
    let empty = world.place.directory("empty");
    assert_eq!(failback!("point", "list", "--retention", empty).json()["disks"], serde_json::json!([]));
}

/// What a first apply that was refused leaves is no recovery point.
#[test]
fn a_first_apply_that_is_refused_leaves_no_points() {
    let world = World::of_bytes(Kind::Raw, SMALL);
    world.apply(1).fails(4, "");
    let list = world.list();
    assert_eq!((&list["points"], &list["present"]), (&serde_json::json!([]), &serde_json::Value::Null));
    assert!(String::from_utf8(world.call("point list", "").done()).unwrap().contains("no recovery points yet"));
    let status = world.status();
    let null = serde_json::Value::Null;
    assert_eq!((&status["state"], &status["present"], &status["root"]), (&"at-rest".into(), &null, &null), "{status}");
    for call in world.each_with(&world.retention) {
        let run = call.run();
        assert_eq!(run.code, 3, "{}", run.stderr);
    }
    world.apply_all();
    assert_eq!(world.ids(), [0, 1, 2, 3]);
    world.rollback(0);
    world.is_at(0);
}

#[test]
fn a_retention_drive_that_is_read_only() {
    if !is_alone_inside("wrong_place::a_retention_drive_that_is_read_only") {
        return;
    }
    let world = World::of_bytes(Kind::Raw, SMALL);
    let mount = Mount::memory(&world.retention, "32m");
    let read_only = |yes: bool| {
        let options = if yes { "remount,ro" } else { "remount,rw" };
        tool("mount", &["-o".as_ref(), options.as_ref(), world.retention.as_os_str()]);
    };
    read_only(true);
    let untouched = Unchanged::since(&world.disk);
    let words = "is on a file system that is mounted read-only: mount it writable, or name another retention directory";
    world.apply(0).refused(words);
    untouched.check();
    read_only(false);
    world.apply_all();
    world.rollback(2);
    read_only(true);
    let untouched = Unchanged::since(&world.disk);
    // Whoever only looks needs no more.
    assert_eq!(world.ids(), [0, 1, 2, 3]);
    assert_eq!(world.status()["present"], 2);
    world.all_are_right();
    world.call("point export", "0 -o").arg(world.place.path("out.img")).done();
    for (verb, rest) in [
        ("point rollback", "1 --yes"),
        ("point prune", "1 --yes"),
        ("point pin", "1"),
        ("undo", "--yes"),
        ("commit", "--yes"),
    ] {
        world.call(verb, rest).refused(words);
    }
    untouched.check();
    read_only(false);
    world.rollback(0);
    world.is_at(0);
    drop(mount);
}

/// A file system on the disk itself is written by the change, and is no place to keep what that replaces.
#[test]
fn a_retention_drive_that_lies_on_the_disk_itself() {
    if !is_alone_inside("wrong_place::a_retention_drive_that_lies_on_the_disk_itself") {
        return;
    }
    let place = Place::new();
    let image = place.sparse("disk.img", 32 << 20, &[(0, &noise(4096, 1))]);
    let other = place.sparse("other.img", 32 << 20, &[(0, &noise(4096, 2))]);
    let delta = place.delta("d", &image, &other, "4K");
    let device = Loop::attach(&image, &[]);
    let partition = device.with_partition(40_000);
    tool("mkfs.ext4", &["-q".as_ref(), partition.as_os_str()]);
    let mount = Mount::device(&partition, &place.directory("mnt"), "rw");
    let retention = place.path("mnt/retention");
    fs::create_dir(&retention).unwrap();
    for disk in [&device.path, &image] {
        failback!("apply", delta, disk, "--yes", "--retention", retention, "--state", place.path("state"))
            .refused("is ");
    }
    assert_eq!(fs::read_dir(&retention).unwrap().count(), 0);
    drop(mount);
    assert!(fs::read(&image).unwrap()[..4096] == noise(4096, 1), "it was written to");
}

/// Others than root are told what they may not do.
#[test]
fn a_retention_directory_that_may_not_be_used() {
    let Some(_lone) = lone() else { return };
    let world = World::at_the_end();
    let as_nobody = |call: Program| {
        let command = call.command();
        let program = world.place.path("failback");
        fs::copy(command.get_program(), &program).unwrap();
        tool("chmod", &["-R".as_ref(), "go+rX".as_ref(), world.place.root().as_os_str()]);
        fs::set_permissions(world.own(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let output = std::process::Command::new(program).args(command.get_args()).uid(65_534).gid(65_534).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let before = root_of_file(&world.disk);
    for (verb, rest) in [("point show", "0"), ("point list", ""), ("commit", "--yes")] {
        let (code, told) = as_nobody(world.call(verb, rest));
        assert_eq!(code, Some(3), "{told}");
        assert!(told.contains("may not be used by this user: run this as root"), "{told}");
    }
    assert_eq!(root_of_file(&world.disk), before);
}
