//! Points over NBD: what others read there, and that nothing of it reaches the disk.

use crate::world::{Kind, SMALL, World, flip};
use failback_tests::lab::{
    Fused, Loop, Mount, Running, Unchanged, has_fuse, is_alone_inside, noise, root_of_file, tool, try_tool,
};
use failback_tests::proof::file_hashes;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A point that is served until this is dropped.
struct Served {
    running: Running,
    socket: PathBuf,
    uri: String,
}

impl World {
    fn serve(&self, id: u64, more: &str) -> Served {
        let socket = self.place.path("socket");
        let call = self.call("point serve", &format!("{id} --json {more} --socket")).arg(&socket);
        // A leftover is there before, and was made at another time.
        let made = |path: &Path| fs::metadata(path).map(|about| (about.ctime(), about.ctime_nsec())).ok();
        let before = made(&socket);
        let mut running = call.start();
        let there = running.wait_until(|| made(&socket).is_some() && made(&socket) != before);
        assert!(there, "it ended");
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        Served { running, socket, uri }
    }
}

impl Served {
    /// Ends it as an administrator would, and wants it to end well; returns its report.
    #[track_caller]
    fn end(self, signal: &str) -> Value {
        self.running.signal(signal);
        let run = self.running.finish();
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(!self.socket.exists(), "the socket was left behind");
        assert!(run.stderr.starts_with("served "), "{}", run.stderr);
        serde_json::from_slice(&run.stdout).unwrap()
    }
}

/// Whether QEMU reads the same.
#[track_caller]
fn is_the_same(uri: &str, image: &Path) {
    let formats = ["compare", "-f", "raw", "-F", "raw", uri].map(OsStr::new);
    tool("qemu-img", &[&formats[..], &[image.as_os_str()]].concat());
}

#[test]
fn qemu_and_libnbd_read_the_oldest_a_middle_and_the_present_point() {
    let world = World::at_the_end();
    world.rollback(2);
    let untouched = Unchanged::since(&world.disk);
    for (id, state) in [(0, 0), (1, 1), (2, 2), (3, 3)] {
        let served = world.serve(id, "");
        let mode = fs::metadata(&served.socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o77, 0, "others than its owner may connect: {mode:o}");
        let state = &world.states[state];
        let size = fs::metadata(state).unwrap().len();
        let about: Value = serde_json::from_str(&tool("nbdinfo", &["--json", &served.uri])).unwrap();
        let export = &about["exports"][0];
        assert_eq!((&export["export-size"], &export["is_read_only"]), (&size.into(), &true.into()), "{about:#}");
        is_the_same(&served.uri, state);
        let copies = ["by-qemu.img", "by-nbdcopy.img"].map(|name| world.place.path(name));
        let formats = ["convert", "-f", "raw", "-O", "raw", &served.uri].map(OsStr::new);
        tool("qemu-img", &[&formats[..], &[copies[0].as_os_str()]].concat());
        tool("nbdcopy", &[OsStr::new(&served.uri), copies[1].as_os_str()]);
        // QEMU counts in sectors.
        let by_qemu = failback_tests::lab::hash_of(&copies[0], Some(size));
        assert_eq!([by_qemu, root_of_file(&copies[1])], [root_of_file(state), root_of_file(state)]);
        let written = try_tool("qemu-io", &["-f", "raw", "-c", "write -P 7 0 4k", &served.uri]);
        assert!(!written.status.success(), "{written:?}");
        let report = served.end("TERM");
        assert_eq!((&report["point"], &report["size"]), (&id.into(), &size.into()), "{report}");
        assert_eq!(
            (&report["root"], &report["writable"]),
            (&world.list()["points"][usize::try_from(id).unwrap()]["root"], &false.into())
        );
    }
    untouched.check();
}

/// Who serves a point relies on the disk and on all links: nobody moves them meanwhile, and everybody may look.
#[test]
fn while_it_is_served_the_disk_is_not_moved() {
    let world = World::at_the_end();
    let served = world.serve(1, "");
    let words = "is in use by process";
    for (verb, rest) in [
        ("point rollback", "0 --yes"),
        ("point prune", "1 --yes"),
        ("undo", "--yes"),
        ("commit", "--yes"),
        ("point pin", "0"),
    ] {
        let sentence = world.call(verb, rest).refused(words);
        assert!(sentence.contains("(failback): wait until that ends, or stop it, and try again"), "{sentence}");
    }
    world.apply(2).refused(words);
    assert_eq!(world.ids(), [0, 1, 2, 3]);
    let status = world.status();
    assert_eq!((&status["state"], &status["present"]), (&"at-rest".into(), &3.into()), "{status}");
    world.all_are_right();
    // Another one beside it.
    let image = world.place.path("out.img");
    world.call("point export", "0 -o").arg(&image).done();
    is_the_same(&served.uri, &world.states[1]);
    served.end("INT");
    world.rollback(0);
    world.is_at(0);
}

#[test]
fn a_socket_that_is_taken_is_not_replaced() {
    let world = World::at_the_end();
    let file = world.place.file("precious", b"something");
    world.call("point serve", "1 --socket").arg(&file).refused("precious");
    assert_eq!(fs::read(&file).unwrap(), b"something");
    let served = world.serve(1, "");
    world.call("point serve", "2 --socket").arg(&served.socket).refused("socket");
    is_the_same(&served.uri, &world.states[1]);
    // One that nobody listens at any more is a leftover.
    served.running.signal("KILL");
    let Served { running, socket, .. } = served;
    assert_eq!(running.finish().code, -1);
    assert!(socket.exists());
    let served = world.serve(2, "");
    is_the_same(&served.uri, &world.states[2]);
    served.end("TERM");
    world.call("point serve", "9 --socket").arg(&socket).refused("there is no recovery point 9");
    world.call("point serve", "1 --socket").arg(world.place.path("missing/socket")).fails(5, "missing");
    world.call("point serve", "1 --writable --scratch /missing --socket").arg(&socket).fails(5, "/missing");
    assert!(!socket.exists());
    world.call("point serve", "1 --scratch /tmp --socket").arg(&socket).misused();
}

/// What clients write goes into a layer over the point, and with it.
#[test]
fn what_is_written_is_thrown_away() {
    let world = World::at_the_end();
    let untouched = Unchanged::since(&world.disk);
    let files = world.files();
    let scratch = world.place.directory("scratch");
    let more = format!("--writable --scratch {}", scratch.display());
    let served = world.serve(1, &more);
    let other = world.place.noisy("other.img", SMALL, 99);
    tool("nbdcopy", &[other.as_os_str(), OsStr::new(&served.uri)]);
    let mut wanted = fs::read(&other).unwrap();
    wanted.extend_from_slice(&fs::read(&world.states[1]).unwrap()[SMALL..]);
    is_the_same(&served.uri, &world.place.file("wanted.img", &wanted));
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "the layer has a name");
    assert_eq!(served.end("TERM")["writable"], true);
    untouched.check();
    assert_eq!(world.files(), files);
    let served = world.serve(1, &more);
    is_the_same(&served.uri, &world.states[1]);
    served.end("TERM");
}

/// A disk that others write to under a server is told in the end.
#[test]
fn a_disk_that_changes_under_a_server_is_told() {
    let world = World::at_the_end();
    let served = world.serve(1, "");
    flip(&world.disk, 5000);
    served.running.signal("TERM");
    let run = served.running.finish();
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.sentence().contains("was written to while it was served"), "{}", run.stderr);
}

/// The files of a state, out of a point that is mounted; and a mounted one that is written.
#[test]
fn a_point_is_mounted() {
    if !has_fuse() || !is_alone_inside("serving::a_point_is_mounted") {
        return;
    }
    let world = World::of_files(Kind::Raw);
    world.apply_all();
    world.rollback(2);
    let untouched = Unchanged::since(&world.disk);
    let at = world.place.directory("mnt");
    let expected = |state: usize| {
        let copy = world.place.path("copy.img");
        fs::copy(&world.states[state], &copy).unwrap();
        let device = Loop::attach(&copy, &[]);
        let _mount = Mount::kind("ext4", &device.path, &at, "ro,noload");
        file_hashes(&at)
    };
    for (id, state) in [(0, 0), (2, 2), (3, 3)] {
        let served = world.serve(id, "");
        let fused = Fused::new(&world.place, &served.uri, &["-r"]);
        {
            let disk = Loop::attach(&fused.file, &["-r"]);
            let mount = Mount::kind("ext4", &disk.path, &at, "ro,noload");
            let found = file_hashes(&at);
            drop(mount);
            assert_eq!(found, expected(state), "state {state}");
        }
        fused.end();
        served.end("TERM");
    }
    let served = world.serve(1, "--writable");
    let fused = Fused::new(&world.place, &served.uri, &[]);
    {
        let disk = Loop::attach(&fused.file, &[]);
        let _mount = Mount::kind("ext4", &disk.path, &at, "rw");
        let added = noise(2_000_000, 6);
        fs::write(at.join("added"), &added).unwrap();
        fs::remove_file(at.join("new-1")).unwrap();
        assert!(fs::read(at.join("added")).unwrap() == added);
    }
    tool("e2fsck", &["-f".as_ref(), "-n".as_ref(), fused.file.as_os_str()]);
    fused.end();
    served.end("TERM");
    untouched.check();
    world.is_at(2);
    world.all_are_right();
}
