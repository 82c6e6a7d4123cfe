//! Real block devices: what is refused, in which words, and that a claim ends when it should.
//!
//! Needs root and loop devices; elsewhere the tests print why they were skipped.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Bench, Loop, Mount, Swap, is_inside, run, run_inside, skipped};
use failback_hostdev::{Claim, ClaimError, Medium, Source, SourceError, Use, look};

/// The names of the kinds of uses, to compare what was found.
fn kinds(uses: &[Use]) -> Vec<&'static str> {
    uses.iter()
        .map(|it| match it {
            Use::Mounted { .. } => "mounted",
            Use::Swap { .. } => "swap",
            Use::Held { .. } => "held",
            Use::Loop { .. } => "loop",
            Use::RunsFrom { .. } => "runs from",
            Use::Locked { .. } => "locked",
            Use::Busy => "busy",
            Use::ReadOnly => "read-only",
            Use::Forbidden => "forbidden",
            _ => "other",
        })
        .collect()
}

/// Wants a claim to be refused, and `look` to give the same reasons without claiming.
fn refused(path: &Path, wanted: &[&str]) -> ClaimError {
    let error = Claim::target(path).expect_err("the claim must be refused");
    assert_eq!(kinds(error.uses()), wanted, "{error}");
    assert_eq!(kinds(&look(path).unwrap().1), wanted);
    error
}

fn claimable(path: &Path) {
    assert_eq!(look(path).unwrap().1, []);
    Claim::target(path).unwrap().release().unwrap();
}

#[test]
fn a_free_device_is_claimed_once_at_a_time() {
    let Some(bench) = Bench::new() else { return };
    let device = bench.device("disk");
    let claim = Claim::target(&device.path).unwrap();
    let identity = claim.identity().clone();
    assert!(matches!(identity.medium, Medium::BlockDevice { major: 7, .. }));
    assert_eq!(identity.size.get(), 64 << 20);
    assert_eq!(identity.logical_block, 512);
    assert_eq!(identity.kernel_name.as_deref(), device.path.file_name().unwrap().to_str());
    assert_eq!((identity.scsi_uuid, identity.inode), (None, None));

    let error = refused(&device.path, &["locked"]);
    assert!(matches!(error, ClaimError::Claimed { .. }));
    assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");

    // A clone goes on with the claim where its origin ends.
    let clone = File::from(claim.try_clone_fd().unwrap());
    clone.write_all_at(b"written", 4096).unwrap();
    claim.release().unwrap();
    refused(&device.path, &["locked"]);
    drop(clone);
    claimable(&device.path);
    let source = Source::open(&device.path).unwrap();
    let mut read = [0; 7];
    File::from(source.try_clone_fd().unwrap()).read_exact_at(&mut read, 4096).unwrap();
    assert_eq!(&read, b"written");
}

#[test]
fn what_is_opened_does_not_outlive_exec_and_waits_for_the_disk() {
    let Some(bench) = Bench::new() else { return };
    let device = bench.device("disk");
    let claim = Claim::target(&device.path).unwrap();
    let source = Source::open(&device.path).unwrap();
    let flags = |fd: &OwnedFd| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
        let octal = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
        i32::from_str_radix(&octal, 8).unwrap()
    };
    for fd in [claim.try_clone_fd().unwrap(), source.try_clone_fd().unwrap()] {
        assert_ne!(flags(&fd) & libc::O_CLOEXEC, 0);
        assert_eq!(flags(&fd) & libc::O_NONBLOCK, 0);
    }
}

#[test]
fn someone_with_an_exclusive_open_is_noticed() {
    use std::os::unix::fs::OpenOptionsExt;
    let Some(bench) = Bench::new() else { return };
    let device = bench.device("disk");
    let other = File::options().read(true).custom_flags(libc::O_EXCL).open(&device.path).unwrap();
    let error = refused(&device.path, &["busy"]);
    assert!(matches!(error, ClaimError::Busy { .. }));
    drop(other);
    claimable(&device.path);
}

#[test]
fn a_mounted_disk_is_refused() {
    const NAME: &str = "a_mounted_disk_is_refused";
    let Some(bench) = Bench::new() else { return };
    if !is_inside() {
        return run_inside(NAME);
    }
    let device = bench.device("disk");
    let at = bench.directory("with a blank");
    run("mkfs.ext4", &[Path::new("-q"), &device.path]);
    let mounted = Mount::new(&device.path, &at, "rw");
    let error = refused(&device.path, &["mounted"]);
    assert!(matches!(error, ClaimError::Mounted { .. }));
    let name = device.path.display();
    let wanted = format!("{name} is mounted at {} (from {name}): unmount it first, then run this again", at.display());
    assert_eq!(error.to_string(), wanted);
    let source = Source::open(&device.path).unwrap();
    assert_eq!(kinds(&source.writable_uses().unwrap()), ["mounted"]);
    // Its image is in use, too: through the loop device.
    refused(&bench.path("disk"), &["mounted", "loop"]);
    let image = Source::open(&bench.path("disk")).unwrap();
    assert_eq!(kinds(&image.writable_uses().unwrap()), ["mounted"]);
    drop(mounted);
    assert_eq!(source.writable_uses().unwrap(), []);

    let mounted = Mount::new(&device.path, &at, "ro");
    refused(&device.path, &["mounted"]);
    assert_eq!(source.writable_uses().unwrap(), []);
    drop(mounted);
    claimable(&device.path);
}

#[test]
fn a_read_only_bind_mount_does_not_hide_a_writable_file_system() {
    const NAME: &str = "a_read_only_bind_mount_does_not_hide_a_writable_file_system";
    let Some(bench) = Bench::new() else { return };
    if !is_inside() {
        return run_inside(NAME);
    }
    let device = bench.device("disk");
    run("mkfs.ext4", &[Path::new("-q"), &device.path]);
    let (at, again) = (bench.directory("at"), bench.directory("again"));
    let first = Mount::new(&device.path, &at, "rw");
    let second = Mount::new(&at, &again, "bind");
    run("mount", &["-o", "remount,bind,ro", again.to_str().unwrap()]);
    run("umount", &[&at]);
    std::mem::forget(first);
    let source = Source::open(&device.path).unwrap();
    assert_eq!(kinds(&source.writable_uses().unwrap()), ["mounted"]);
    drop(second);
}

#[test]
fn a_mounted_partition_is_refused_and_a_free_one_is_not() {
    const NAME: &str = "a_mounted_partition_is_refused_and_a_free_one_is_not";
    let Some(bench) = Bench::new() else { return };
    if !is_inside() {
        return run_inside(NAME);
    }
    let device = bench.device("disk");
    let partition = device.with_partition();
    claimable(&device.path);
    claimable(&partition);
    let at = bench.directory("srv");
    run("mkfs.ext4", &[Path::new("-q"), &partition]);
    let mounted = Mount::new(&partition, &at, "rw");
    let error = refused(&device.path, &["mounted"]);
    let wanted = format!("is mounted at {} (from {})", at.display(), partition.display());
    assert!(error.to_string().contains(&wanted), "{error}");
    refused(&partition, &["mounted"]);
    let source = Source::open(&device.path).unwrap();
    assert_eq!(kinds(&source.writable_uses().unwrap()), ["mounted"]);
    drop(mounted);
    claimable(&device.path);
    let whole = Claim::target(&device.path).unwrap();
    refused(&partition, &["busy"]);
    whole.release().unwrap();
}

#[test]
fn a_mount_in_another_namespace_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let device = bench.device("disk");
    let at = bench.directory("srv");
    run("mkfs.ext4", &[Path::new("-q"), &device.path]);
    let mut other = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", "mount \"$0\" \"$1\" && echo mounted && read end"])
        .args([&device.path, &at])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "mounted\n");
    let error = refused(&device.path, &["mounted"]);
    assert!(error.to_string().contains("in the mount namespace of process"), "{error}");
    other.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(other.wait().unwrap().success());
    claimable(&device.path);
}

#[test]
fn swap_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let device = bench.device("disk");
    let partition = device.with_partition();
    let swap = Swap::on(&partition);
    let error = refused(&device.path, &["swap"]);
    assert!(matches!(error, ClaimError::Swap { .. }));
    assert!(error.to_string().contains(&format!("swapoff {}", partition.display())), "{error}");
    assert_eq!(kinds(&Source::open(&device.path).unwrap().writable_uses().unwrap()), ["swap"]);
    drop(swap);
    claimable(&device.path);
}

#[test]
fn loop_devices_over_the_target_are_refused() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.image("disk");
    let hard_link = bench.path("other-name");
    std::fs::hard_link(&image, &hard_link).unwrap();
    claimable(&image);
    let device = Loop::attach(&image, &[]);
    let error = refused(&image, &["loop"]);
    assert!(matches!(error, ClaimError::Loop { .. }));
    assert!(error.to_string().contains(&format!("losetup -d {}", device.path.display())), "{error}");
    refused(&hard_link, &["loop"]);
    // Once the name it was attached by is gone, only the loop driver knows.
    std::fs::remove_file(&image).unwrap();
    refused(&hard_link, &["loop"]);

    let above = Loop::attach(&device.path, &[]);
    refused(&device.path, &["loop"]);
    let partition = device.with_partition();
    let above_partition = Loop::attach(&partition, &["-r"]);
    refused(&device.path, &["loop", "loop"]);
    drop(above_partition);
    drop(above);
    claimable(&device.path);
    drop(device);
    claimable(&hard_link);
}

/// Whoever uses a disk uses the loop devices over it, too: the kernel lets anybody attach one and write through it.
#[test]
fn a_loop_device_is_no_way_round_who_uses_what_it_shows() {
    const NAME: &str = "a_loop_device_is_no_way_round_who_uses_what_it_shows";
    let Some(bench) = Bench::new() else { return };
    if !is_inside() {
        return run_inside(NAME);
    }
    let device = bench.device("disk");
    let partition = device.with_partition();
    let at = bench.directory("srv");
    run("mkfs.ext4", &[Path::new("-q"), &partition]);
    {
        let over = Loop::attach(&device.path, &[]);
        let over_that = Loop::attach(&over.path, &[]);
        let mounted = Mount::new(&partition, &at, "rw");
        let error = refused(&over_that.path, &["mounted"]);
        assert!(matches!(error, ClaimError::Mounted { .. }));
        let wanted = format!("is mounted at {} (from {})", at.display(), partition.display());
        assert!(error.to_string().contains(&wanted), "{error}");
        let source = Source::open(&over_that.path).unwrap();
        assert_eq!(kinds(&source.writable_uses().unwrap()), ["mounted"]);
        drop(mounted);
        assert_eq!(source.writable_uses().unwrap(), []);
        // As nobody uses it, it is a disk as any other, and what lies under it is claimed with it.
        let claim = Claim::target(&over_that.path).unwrap();
        let exclusively = |path: &Path| {
            use std::os::unix::fs::OpenOptionsExt;
            File::options().read(true).custom_flags(libc::O_EXCL).open(path)
        };
        for under in [&over.path, &device.path] {
            assert_eq!(exclusively(under).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        }
        claim.release().unwrap();
        // Somebody whom the kernel does not name.
        let somebody = exclusively(&device.path).unwrap();
        refused(&over_that.path, &["busy"]);
        drop(somebody);
        claimable(&over_that.path);
    }
    let over = Loop::attach(&partition, &[]);
    let swap = Swap::on(&partition);
    refused(&over.path, &["swap"]);
    drop(swap);
    claimable(&over.path);
}

/// The file system that an image lies on is in use, and its image is not; but whoever uses the image uses the loop devices over it.
#[test]
fn a_loop_device_is_no_way_round_who_uses_the_image() {
    const NAME: &str = "a_loop_device_is_no_way_round_who_uses_the_image";
    let Some(bench) = Bench::new() else { return };
    if !is_inside() {
        return run_inside(NAME);
    }
    let outer = bench.device("outer");
    let at = bench.directory("srv");
    run("mkfs.ext4", &[Path::new("-q"), &outer.path]);
    let _mounted = Mount::new(&outer.path, &at, "rw");
    let image = at.join("image");
    std::fs::write(&image, vec![0; 8 << 20]).unwrap();
    let inner = Loop::attach(&image, &[]);
    claimable(&inner.path);
    let again = Loop::attach(&image, &[]);
    refused(&inner.path, &["loop"]);
    drop(again);
    let machine = File::open(&image).unwrap();
    let lock = libc::flock { l_type: 0, l_whence: 0, l_start: 100, l_len: 1, l_pid: 0 };
    nix::fcntl::fcntl(&machine, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    refused(&inner.path, &["locked"]);
    drop(machine);
    let swap = Swap::on(&image);
    refused(&inner.path, &["swap"]);
    drop(swap);
    claimable(&inner.path);
}

#[test]
fn an_image_is_claimed_once_at_a_time() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.image("disk");
    let claim = Claim::target(&image).unwrap();
    assert_eq!(claim.identity().medium, Medium::Image);
    let metadata = std::fs::metadata(&image).unwrap();
    assert_eq!(claim.identity().inode, Some((metadata.dev(), metadata.ino())));
    assert!(matches!(refused(&image, &["locked"]), ClaimError::Claimed { .. }));
    drop(claim);
    claimable(&image);
}

#[test]
fn of_many_claims_at_once_one_wins() {
    let Some(bench) = Bench::new() else { return };
    let device = bench.device("disk");
    for path in [device.path.clone(), bench.image("image")] {
        let claims: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| Claim::target(&path))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1);
        for error in claims.iter().filter_map(|claim| claim.as_ref().err()) {
            assert!(matches!(error, ClaimError::Claimed { .. }), "{error}");
        }
    }
}

#[test]
fn a_passing_shared_lock_is_waited_for() {
    let Some(bench) = Bench::new() else { return };
    let device = bench.device("disk");
    let udev = File::open(&device.path).unwrap();
    // SAFETY: the descriptor is open; flock has no memory arguments.
    assert_eq!(unsafe { libc::flock(udev.as_raw_fd(), libc::LOCK_SH) }, 0);
    assert_eq!(look(&device.path).unwrap().1, []);
    let looking = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(udev);
    });
    Claim::target(&device.path).unwrap();
    looking.join().unwrap();
}

#[test]
fn an_image_that_a_virtual_machine_runs_on_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.image("disk");
    let machine = File::open(&image).unwrap();
    // As QEMU does: shared locks of single bytes that belong to the open file.
    let lock = libc::flock { l_type: 0, l_whence: 0, l_start: 100, l_len: 1, l_pid: 0 };
    nix::fcntl::fcntl(&machine, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    assert!(matches!(refused(&image, &["locked"]), ClaimError::Claimed { .. }));
    drop(machine);
    claimable(&image);
}

#[test]
fn a_swap_file_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.path("disk");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let swap = Swap::on(&image);
    assert!(matches!(refused(&image, &["swap"]), ClaimError::Swap { .. }));
    drop(swap);
    claimable(&image);
}

#[test]
fn every_device_of_a_btrfs_is_refused() {
    const NAME: &str = "every_device_of_a_btrfs_is_refused";
    let Some(bench) = Bench::new() else { return };
    if !is_inside() {
        return run_inside(NAME);
    }
    let devices = [bench.large_device("one"), bench.large_device("two")];
    let paths = devices.each_ref().map(|device| device.path.as_os_str());
    let Ok(made) = Command::new("mkfs.btrfs").args(["-q", "-m", "raid1"]).args(paths).output() else {
        return skipped("there is no mkfs.btrfs");
    };
    assert!(made.status.success());
    run("btrfs", &[&["device", "scan"].map(std::ffi::OsStr::new), paths.as_slice()].concat());
    let at = bench.directory("srv");
    let mounted = Mount::new(&devices[0].path, &at, "rw");
    for device in &devices {
        refused(&device.path, &["mounted"]);
        assert_eq!(kinds(&Source::open(&device.path).unwrap().writable_uses().unwrap()), ["mounted"]);
    }
    // Images on it have a device number that neither procfs nor mountinfo shows.
    let image = at.join("disk");
    File::create_new(&image).unwrap().set_len(1 << 20).unwrap();
    let claim = Claim::target(&image).unwrap();
    assert!(matches!(refused(&image, &["locked"]), ClaimError::Claimed { .. }));
    drop(claim);
    let over = Loop::attach(&image, &[]);
    assert!(matches!(refused(&image, &["loop"]), ClaimError::Loop { .. }));
    drop(over);
    claimable(&image);
    drop(mounted);
    run("btrfs", &["device", "scan", "--forget"]);
    for device in &devices {
        claimable(&device.path);
    }
}

#[test]
fn links_are_followed_and_named() {
    let Some(bench) = Bench::new() else { return };
    let device = bench.device("disk");
    let link = bench.path("by-id");
    symlink(&device.path, &link).unwrap();
    let claim = Claim::target(&link).unwrap();
    assert_eq!(claim.identity().path, link);
    assert_eq!(claim.identity().resolved.as_deref(), Some(&*device.path));
    let message = refused(&link, &["locked"]).to_string();
    assert!(message.starts_with(&format!("{} ({}) is", link.display(), device.path.display())), "{message}");
}

#[test]
fn what_is_no_disk_is_refused_and_nothing_is_created() {
    let Some(bench) = Bench::new() else { return };
    let fifo = bench.path("fifo");
    run("mkfifo", &[&fifo]);
    let _socket = std::os::unix::net::UnixListener::bind(bench.path("socket")).unwrap();
    for (path, kind) in [
        (bench.directory("directory"), "a directory"),
        (PathBuf::from("/dev/null"), "a character device"),
        (fifo, "a FIFO"),
        (bench.path("socket"), "a socket"),
    ] {
        for error in [Source::open(&path).unwrap_err(), look(&path).unwrap_err()] {
            assert!(matches!(&error, SourceError::NotADisk { kind: found, .. } if *found == kind), "{error}");
        }
        let error = Claim::target(&path).unwrap_err();
        assert!(matches!(error, ClaimError::Unusable(SourceError::NotADisk { .. })), "{error}");
        assert!(error.uses().is_empty());
    }
    let missing = bench.path("missing");
    assert!(matches!(Source::open(&missing), Err(SourceError::Missing { .. })));
    assert!(matches!(Claim::target(&missing), Err(ClaimError::Unusable(SourceError::Missing { .. }))));
    assert!(!missing.exists());
}

#[test]
fn a_device_without_a_medium_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let detached = bench.device("gone").path.clone();
    // Any other process may attach the free device: the kernel counts that.
    let told = Path::new("/sys/block").join(detached.file_name().unwrap());
    let attached = || std::fs::read_to_string(told.join("diskseq")).unwrap();
    for _ in 0..100 {
        let before = attached();
        let (source, target) = (Source::open(&detached), Claim::target(&detached));
        if attached() == before && !told.join("loop").exists() {
            assert!(matches!(source, Err(SourceError::NoMedium { .. })));
            assert!(matches!(target, Err(ClaimError::Unusable(SourceError::NoMedium { .. }))));
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    panic!("{} is never left alone", detached.display());
}

#[test]
fn large_sectors_and_write_protection() {
    let Some(bench) = Bench::new() else { return };
    let large = Loop::attach(&bench.image("large"), &["-b", "4096"]);
    assert_eq!(Claim::target(&large.path).unwrap().identity().logical_block, 4096);
    let protected = Loop::attach(&bench.image("protected"), &["-r"]);
    let error = refused(&protected.path, &["read-only"]);
    assert!(matches!(error, ClaimError::ReadOnly { .. }));
    Source::open(&protected.path).unwrap();
}

#[test]
fn writes_are_counted() {
    let Some(bench) = Bench::new() else { return };
    let device = bench.device("disk");
    let source = Source::open(&device.path).unwrap();
    let (counter, mark) = (source.write_counter().unwrap(), source.change_mark().unwrap());
    assert_eq!(mark, source.change_mark().unwrap());
    let claim = Claim::target(&device.path).unwrap();
    File::from(claim.try_clone_fd().unwrap()).write_all_at(&[7; 8192], 0).unwrap();
    claim.release().unwrap();
    assert!(source.write_counter().unwrap() >= counter + 16);
    assert_ne!(mark, source.change_mark().unwrap());
}

#[test]
fn the_disk_of_the_system_is_refused() {
    let Some(_bench) = Bench::new() else { return };
    let root = std::fs::metadata("/").unwrap().dev();
    let Ok(node) = std::fs::canonicalize(format!("/sys/dev/block/{}:{}", libc::major(root), libc::minor(root))) else {
        println!("skipped: the root file system lies on no block device of its own");
        return;
    };
    let path = Path::new("/dev").join(node.file_name().unwrap());
    let error = Claim::target(&path).unwrap_err();
    assert!(matches!(error, ClaimError::RunsFrom { .. }), "{error}");
    let root = Use::RunsFrom { what: "the root file system".into() };
    assert!(error.uses().contains(&root));
    match look(&path) {
        Ok((_, uses)) => assert!(uses.contains(&root)),
        Err(error) => println!("skipped in part: {error}"),
    }
}

/// Runs itself a second time as the process that is killed.
#[test]
fn a_killed_process_leaves_nothing_claimed() {
    if let Some(path) = std::env::var_os("FAILBACK_TEST_HOLD") {
        let _claim = Claim::target(Path::new(&path)).unwrap();
        // Not println, whose output the test harness may keep.
        writeln!(std::io::stdout(), "claimed").unwrap();
        std::thread::sleep(std::time::Duration::from_secs(60));
        return;
    }
    let Some(bench) = Bench::new() else { return };
    let device = bench.device("disk");
    for path in [device.path.clone(), bench.image("image")] {
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_process_leaves_nothing_claimed", "--nocapture"])
            .env("FAILBACK_TEST_HOLD", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(holder.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("claimed") {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the holder ended");
        }
        let error = refused(&path, &["locked"]);
        assert!(error.to_string().contains(&format!("(process {})", holder.id())), "{error}");
        holder.kill().unwrap();
        holder.wait().unwrap();
        claimable(&path);
    }
}
