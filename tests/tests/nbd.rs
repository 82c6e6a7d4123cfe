//! The NBD server against clients of others: QEMU's, libnbd's, and by way of FUSE the kernel's file systems.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_blockio::{Caching, Engine, FileDevice, Options};
use failback_nbd::{Export, Limits, Overlay, Server};
use failback_tests::lab::guest::{Bus, Guest, GuestDisk};
use failback_tests::lab::{
    Fused, Loop, Mount, Place, Unchanged, has_fuse, is_alone_inside, noise, root_of_file, tool, try_tool,
};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

/// 20 MiB and three sectors, and what is data of it.
const SIZE: u64 = (20 << 20) + 1536;
const DATA: [(u64, usize); 4] = [(0, 65_536), (1 << 20, 3 << 20), (12 << 20, 2 << 20), (SIZE - 1536, 1536)];

fn patterned(place: &Place) -> PathBuf {
    let pieces: Vec<_> = DATA.iter().map(|(at, count)| (*at, noise(*count, *at + 1))).collect();
    let pieces: Vec<_> = pieces.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
    place.sparse("disk.img", SIZE, &pieces)
}

fn device(image: &Path, engine: Engine) -> FileDevice {
    let options = Options { engine, caching: Caching::default() };
    FileDevice::new(File::open(image).unwrap().into(), &image.display().to_string(), options).unwrap()
}

/// Serves an export while `clients` connects to the URI that it is given. No connection may end badly.
fn served(place: &Place, export: &Export<'_>, clients: impl FnOnce(&str)) {
    let path = place.path("socket");
    let server = Server::bind(&path, Limits::default()).unwrap();
    let stop = AtomicBool::new(false);
    let report = |error: &failback_nbd::SessionError| panic!("a connection ended with: {error}");
    thread::scope(|scope| {
        let running = scope.spawn(|| server.run(export, || stop.load(SeqCst), report));
        let uri = format!("nbd+unix:///?socket={}", path.display());
        let outcome = catch_unwind(AssertUnwindSafe(|| clients(&uri)));
        stop.store(true, SeqCst);
        running.join().unwrap().unwrap();
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    });
}

fn json<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> serde_json::Value {
    serde_json::from_str(&tool(program, arguments)).unwrap()
}

#[test]
fn qemu_img_reads_it() {
    let place = Place::new();
    let image = patterned(&place);
    for engine in [Engine::Auto, Engine::Blocking] {
        let device = device(&image, engine);
        served(&place, &Export::read_only("state", &device).unwrap(), |uri| {
            let about = json("qemu-img", &["info", "--output=json", uri]);
            assert_eq!(about["virtual-size"], SIZE);
            let map = json("qemu-img", &["map", "--output=json", "-f", "raw", uri]);
            let map = map.as_array().unwrap();
            let data: u64 =
                map.iter().filter(|entry| entry["data"] == true).map(|entry| entry["length"].as_u64().unwrap()).sum();
            assert!((5 << 20..6 << 20).contains(&data), "{data} of it are data: {map:#?}");
            assert!(map.iter().all(|entry| entry["data"] != entry["zero"]), "{map:#?}");
            let copy = place.path("copy.img");
            tool(
                "qemu-img",
                &[
                    "convert".as_ref(),
                    "-f".as_ref(),
                    "raw".as_ref(),
                    "-O".as_ref(),
                    "raw".as_ref(),
                    uri.as_ref(),
                    copy.as_os_str(),
                ],
            );
            assert_eq!(root_of_file(&copy), root_of_file(&image));
            tool(
                "qemu-img",
                &[
                    "compare".as_ref(),
                    "-f".as_ref(),
                    "raw".as_ref(),
                    "-F".as_ref(),
                    "raw".as_ref(),
                    OsStr::new(uri),
                    image.as_os_str(),
                ],
            );
            // By its name, and not by another.
            let (by_name, other) = (uri.replace("///", "///state"), uri.replace("///", "///other"));
            assert_eq!(json("qemu-img", &["info", "--output=json", &by_name])["virtual-size"], SIZE);
            let refused = try_tool("qemu-img", &["info", &other]);
            assert!(!refused.status.success());
            assert!(String::from_utf8_lossy(&refused.stderr).contains("has another name"), "{refused:?}");
        });
    }
}

#[test]
fn libnbd_reads_it() {
    let place = Place::new();
    let image = patterned(&place);
    let device = device(&image, Engine::Auto);
    served(&place, &Export::read_only("state", &device).unwrap(), |uri| {
        let about = json("nbdinfo", &["--json", uri]);
        let export = &about["exports"][0];
        assert_eq!(about["structured"], true, "{about:#}");
        assert_eq!((&export["export-size"], &export["is_read_only"]), (&SIZE.into(), &true.into()), "{about:#}");
        assert_eq!((&export["can_multi_conn"], &export["can_df"]), (&true.into(), &true.into()), "{about:#}");
        assert_eq!((&export["can_cache"], &export["can_flush"]), (&true.into(), &true.into()), "{about:#}");
        assert_eq!((&export["can_trim"], &export["can_zero"]), (&false.into(), &false.into()), "{about:#}");
        assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
        assert_eq!(export["block_size_maximum"], 32 << 20, "{about:#}");
        let listed = json("nbdinfo", &["--list", "--json", uri]);
        assert_eq!(listed["exports"][0]["export-name"], "state");
        let map = json("nbdinfo", &["--map", "--json", uri]);
        let map: Vec<_> = map.as_array().unwrap().iter().map(|entry| entry["type"].as_u64().unwrap()).collect();
        assert_eq!(map, [0, 3, 0, 3, 0, 3, 0]);
        // Several connections, many requests at a time.
        let copy = place.path("copy.img");
        tool("nbdcopy", &[OsStr::new(uri), copy.as_os_str()]);
        assert_eq!(root_of_file(&copy), root_of_file(&image));
        // One connection, one request at a time, and nothing left out.
        tool("nbdcopy", &["--synchronous".as_ref(), "--allocated".as_ref(), OsStr::new(uri), copy.as_os_str()]);
        assert_eq!(root_of_file(&copy), root_of_file(&image));
        let written = try_tool("nbdcopy", &[image.as_os_str(), OsStr::new(uri)]);
        assert!(String::from_utf8_lossy(&written.stderr).contains("read-only"), "{written:?}");
    });
}

#[test]
fn an_overlay_is_written_by_others() {
    let place = Place::new();
    let image = patterned(&place);
    let unchanged = Unchanged::since(&image);
    let overlay = Overlay::new(device(&image, Engine::Auto), place.root()).unwrap();
    let export = Export::throw_away("state", &overlay).unwrap();
    served(&place, &export, |uri| {
        assert_eq!(json("nbdinfo", &["--json", uri])["exports"][0]["is_read_only"], false);
        let arguments =
            ["-f", "raw", "-c", "write -P 7 1000 70000", "-c", "write -z -u 2M 1M", "-c", "discard 12M 64k"];
        let checks = ["-c", "flush", "-c", "read -P 7 1000 70000", "-c", "read -P 0 2M 1M", uri];
        let told = tool("qemu-io", &[&arguments[..], &checks].concat());
        assert!(!told.contains("failed"), "{told}");
        // On another connection, and later.
        tool("qemu-io", &["-r", "-f", "raw", "-c", "read -P 7 1000 70000", "-c", "read -P 0 12M 64k", uri]);
        // All of it anew, with holes made again.
        let other = place.sparse("other.img", SIZE, &[(3 << 20, &noise(5 << 20, 9)), (SIZE - 5, b"ended")]);
        tool("nbdcopy", &[other.as_os_str(), OsStr::new(uri)]);
        tool(
            "qemu-img",
            &[
                "compare".as_ref(),
                "-f".as_ref(),
                "raw".as_ref(),
                "-F".as_ref(),
                "raw".as_ref(),
                OsStr::new(uri),
                other.as_os_str(),
            ],
        );
        let map = json("nbdinfo", &["--map", "--totals", "--json", uri]);
        let holes = map.as_array().unwrap().iter().find(|entry| entry["type"] == 3).unwrap();
        assert!(holes["size"].as_u64().unwrap() > 14 << 20, "{map:#}");
    });
    assert!(overlay.space().unwrap().get() < 6 << 20);
    drop(overlay);
    unchanged.check();
    assert_eq!(place.names(), ["disk.img", "other.img"]);
}

/// An image of an ext4 file system with a file in it, whose holes are holes.
fn ext4(place: &Place) -> (PathBuf, Vec<u8>) {
    let content = noise(3 << 20, 5);
    let directory = place.directory("content");
    fs::write(directory.join("file"), &content).unwrap();
    let image = place.sparse("disk.img", 64 << 20, &[]);
    tool(
        "mke2fs",
        &[
            "-q".as_ref(),
            "-F".as_ref(),
            "-t".as_ref(),
            "ext4".as_ref(),
            "-d".as_ref(),
            directory.as_os_str(),
            image.as_os_str(),
        ],
    );
    (image, content)
}

#[test]
fn a_file_system_is_mounted() {
    if !has_fuse() || !is_alone_inside("a_file_system_is_mounted") {
        return;
    }
    let place = Place::new();
    let (image, content) = ext4(&place);
    let unchanged = Unchanged::since(&image);
    let at = place.directory("mnt");
    let below = device(&image, Engine::Auto);
    served(&place, &Export::read_only("", &below).unwrap(), |uri| {
        let fused = Fused::new(&place, uri, &["-r"]);
        {
            let disk = Loop::attach(&fused.file, &["-r"]);
            let _mount = Mount::kind("ext4", &disk.path, &at, "ro,noload");
            assert!(fs::read(at.join("file")).unwrap() == content);
            assert!(fs::write(at.join("other"), "x").is_err());
        }
        fused.end();
    });
    let overlay = Overlay::new(below, place.root()).unwrap();
    let export = Export::throw_away("", &overlay).unwrap();
    let added = noise(5 << 20, 6);
    for round in 0..2 {
        served(&place, &export, |uri| {
            let fused = Fused::new(&place, uri, &[]);
            {
                let disk = Loop::attach(&fused.file, &[]);
                let _mount = Mount::kind("ext4", &disk.path, &at, "rw");
                assert!(fs::read(at.join("file")).unwrap() == content);
                if round == 0 {
                    fs::write(at.join("added"), &added).unwrap();
                    fs::remove_file(at.join("lost+found")).unwrap_err();
                } else {
                    // Another connection to the same overlay.
                    assert!(fs::read(at.join("added")).unwrap() == added);
                }
            }
            tool("e2fsck", &["-f".as_ref(), "-n".as_ref(), fused.file.as_os_str()]);
            fused.end();
        });
    }
    assert!(export.counters().bytes_written >= 5 << 20);
    let space = overlay.space().unwrap().get();
    assert!((5 << 20..20 << 20).contains(&space), "{space}");
    unchanged.check();
}

#[test]
fn a_full_overlay_is_an_error_and_not_the_end() {
    if !is_alone_inside("a_full_overlay_is_an_error_and_not_the_end") {
        return;
    }
    let place = Place::new();
    let image = patterned(&place);
    let small = place.directory("small");
    let memory = Mount::memory(&small, "1m");
    let overlay = Overlay::new(device(&image, Engine::Auto), &small).unwrap();
    served(&place, &Export::throw_away("", &overlay).unwrap(), |uri| {
        let written = try_tool("qemu-io", &["-f", "raw", "-c", "write -P 7 0 512k", "-c", "write -P 8 4M 4M", uri]);
        let told = format!("{}{}", String::from_utf8_lossy(&written.stdout), String::from_utf8_lossy(&written.stderr));
        assert!(told.contains("wrote 524288/524288") && told.contains("No space left on device"), "{told}");
        memory.resize("16m");
        tool(
            "qemu-io",
            &["-f", "raw", "-c", "read -P 7 0 512k", "-c", "write -P 8 4M 4M", "-c", "read -P 8 4M 4M", uri],
        );
    });
}

/// A guest reads the whole disk, and boots into a world where it has written to it.
#[test]
fn a_guest_has_it_as_its_disk() {
    let place = Place::new();
    let Some(guest) = Guest::new() else { return };
    let (image, content) = ext4(&place);
    let unchanged = Unchanged::since(&image);
    let overlay = Overlay::new(device(&image, Engine::Auto), place.root()).unwrap();
    served(&place, &Export::throw_away("", &overlay).unwrap(), |uri| {
        let disk = GuestDisk::new(Bus::Pvscsi, Path::new(uri));
        let script = "there() { [ -e /dev/sda ]; }\nawait 'the disk' there\n\
            mkdir -p /mnt\n\
            result mount mount -t ext4 /dev/sda /mnt\n\
            result file sha256sum /mnt/file\n\
            result write dd if=/dev/urandom of=/mnt/added bs=64k count=32\n\
            result sync sync\n\
            result umount umount /mnt\n";
        let results = guest.modules(&["vmw_pvscsi", "sd_mod", "crc32c_generic", "ext4"]).disk(disk).run(script);
        for name in ["mount", "file", "write", "sync", "umount"] {
            assert_eq!(results.of(name).code, 0, "{name}: {}\n{}", results.of(name).stderr, results.log());
        }
        let expected = place.file("expected", &content);
        let told = String::from_utf8(results.of("file").stdout.clone()).unwrap();
        assert_eq!(told.split(' ').next(), tool("sha256sum", &[expected]).split(' ').next());
        // What it left behind is sound, and is in the overlay.
        let copy = place.path("copy.img");
        tool("nbdcopy", &[OsStr::new(uri), copy.as_os_str()]);
        tool("e2fsck", &["-f".as_ref(), "-n".as_ref(), copy.as_os_str()]);
        assert!(tool("debugfs", &["-R".as_ref(), "stat /added".as_ref(), copy.as_os_str()]).contains("Size: 2097152"));
    });
    unchanged.check();
}
