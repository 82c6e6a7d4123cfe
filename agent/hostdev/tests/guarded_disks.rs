//! Disks that are kept read-only until they are claimed, on real block devices: when one becomes writable, and when not.
//!
//! Each test runs in a mount namespace of its own, where `/run` says that disks are guarded.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Bench, Loop, Mount, is_inside, run, run_inside};
use failback_hostdev::{Candidate, Claim, ClaimError, Use, inventory, look, protect_claimed_disks, protect_on_panic};

/// A loop device that is read-only, and gives its mark back: the kernel keeps it for whoever has the device next.
struct Guarded(Loop);

impl Guarded {
    fn new(bench: &Bench, options: &[&str]) -> Self {
        let device = Self(Loop::attach(&bench.image("disk"), options));
        run("blockdev", &["--setro".as_ref(), device.0.path.as_os_str()]);
        device
    }

    fn path(&self) -> &Path {
        &self.0.path
    }

    fn is_read_only(&self) -> bool {
        run("blockdev", &["--getro".as_ref(), self.0.path.as_os_str()]) == "1"
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        common::try_run("blockdev", &["--setrw".as_ref(), self.0.path.as_os_str()]);
    }
}

/// The bench of the named test, where disks are guarded; `None` where it cannot run, or where it runs inside now and is done.
fn guarded_bench(test: &str) -> Option<(Bench, Mount)> {
    let bench = Bench::new()?;
    if !is_inside() {
        run_inside(test);
        return None;
    }
    run("mount", &["-t", "tmpfs", "none", "/run"]);
    let mounted = Mount::taken(Path::new("/run"));
    std::fs::create_dir("/run/failback").unwrap();
    File::create_new("/run/failback/guard").unwrap();
    Some((bench, mounted))
}

/// Writes through a claim; the kernel's answer if that is no.
fn write(claim: &Claim) -> Result<(), Option<i32>> {
    let file = File::from(claim.try_clone_fd().unwrap());
    file.write_all_at(&[7; 4096], 0).map_err(|error| error.raw_os_error())
}

#[test]
fn a_disk_is_writable_from_the_step_that_says_so_until_release() {
    let Some((bench, _run)) = guarded_bench("a_disk_is_writable_from_the_step_that_says_so_until_release") else {
        return;
    };
    let device = Guarded::new(&bench, &[]);
    assert_eq!(look(device.path()).unwrap().1, [], "a guarded disk can be a target");
    let mut claim = Claim::target(device.path()).unwrap();
    assert!(device.is_read_only());
    assert_eq!(write(&claim), Err(Some(libc::EPERM)), "claimed is not writable yet");
    claim.make_writable().unwrap();
    assert!(!device.is_read_only());
    write(&claim).unwrap();
    // Another one is refused and takes nothing away.
    assert!(matches!(Claim::target(device.path()), Err(ClaimError::Claimed { .. })));
    assert!(!device.is_read_only());
    claim.release().unwrap();
    assert!(device.is_read_only());
    let mut first = [0; 4096];
    File::open(device.path()).unwrap().read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first, [7; 4096]);
}

#[test]
fn however_a_claim_ends_the_disk_is_read_only_again() {
    let Some((bench, _run)) = guarded_bench("however_a_claim_ends_the_disk_is_read_only_again") else { return };
    let device = Guarded::new(&bench, &[]);
    // Dropped, as after an error.
    let mut claim = Claim::target(device.path()).unwrap();
    claim.make_writable().unwrap();
    drop(claim);
    assert!(device.is_read_only());
    // Dropped while a descriptor is still open: that writes nothing any more.
    let mut claim = Claim::target(device.path()).unwrap();
    claim.make_writable().unwrap();
    let left = File::from(claim.try_clone_fd().unwrap());
    drop(claim);
    assert_eq!(left.write_all_at(&[8; 512], 0).unwrap_err().raw_os_error(), Some(libc::EPERM));
    drop(left);
    // Dropped before it was ever writable, as when it proves to be another disk.
    drop(Claim::target(device.path()).unwrap());
    assert!(device.is_read_only());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut claim = Claim::target(device.path()).unwrap();
        claim.make_writable().unwrap();
        assert!(device.is_read_only(), "it is writable, so this panics");
    }));
    assert!(panicked.is_err());
    assert!(device.is_read_only());
}

/// The process of the test that has a disk claimed and writable. How it ends is said by `FAILBACK_TEST_END`.
fn hold_and_end(path: &std::ffi::OsStr) {
    let end = std::env::var("FAILBACK_TEST_END").unwrap();
    if end.starts_with("abort") {
        // As a panic ends where panics abort: the hook is called, and nothing is dropped.
        std::panic::set_hook(Box::new(|_| std::process::abort()));
    }
    if end != "abort unprotected" {
        protect_on_panic();
    }
    let mut claim = Claim::target(Path::new(path)).unwrap();
    claim.make_writable().unwrap();
    write(&claim).unwrap();
    println!("writable");
    match end.as_str() {
        "kill" => std::thread::sleep(std::time::Duration::from_secs(60)),
        "exit" => {
            protect_claimed_disks();
            assert_eq!(write(&claim), Err(Some(libc::EPERM)));
            let error = claim.make_writable().unwrap_err();
            assert!(std::error::Error::source(&error).unwrap().to_string().contains("about to end"), "{error:?}");
            std::process::exit(0);
        }
        _ => panic!("the program has a fault"),
    }
}

/// Runs the named test again as such a process, and waits until the disk is writable.
fn holder(test: &str, device: &Guarded, end: &str) -> Child {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("FAILBACK_TEST_HOLD", device.path())
        .env("FAILBACK_TEST_END", end)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(holder.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("writable") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the holder ended");
    }
    holder
}

#[test]
fn a_program_that_ends_without_dropping_its_claim_leaves_the_disk_read_only() {
    const NAME: &str = "a_program_that_ends_without_dropping_its_claim_leaves_the_disk_read_only";
    if let Some(path) = std::env::var_os("FAILBACK_TEST_HOLD") {
        return hold_and_end(&path);
    }
    let Some((bench, _run)) = guarded_bench(NAME) else { return };
    let device = Guarded::new(&bench, &[]);
    for (end, signal, read_only) in
        [("abort unprotected", Some(libc::SIGABRT), false), ("abort", Some(libc::SIGABRT), true), ("exit", None, true)]
    {
        let ended = holder(NAME, &device, end).wait().unwrap();
        assert_eq!(ended.signal(), signal, "{end}: {ended}");
        assert_eq!(device.is_read_only(), read_only, "{end}");
        run("blockdev", &["--setro".as_ref(), device.path().as_os_str()]);
    }
}

#[test]
fn after_a_kill_the_next_claim_mends_it() {
    const NAME: &str = "after_a_kill_the_next_claim_mends_it";
    if let Some(path) = std::env::var_os("FAILBACK_TEST_HOLD") {
        return hold_and_end(&path);
    }
    let Some((bench, _run)) = guarded_bench(NAME) else { return };
    let device = Guarded::new(&bench, &[]);
    let mut holder = holder(NAME, &device, "kill");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(!device.is_read_only(), "nobody was there to mend it");
    let listed = inventory(&|_| {}).unwrap().into_iter().find(|disk| disk.path == device.path()).unwrap();
    assert!(listed.guarded && !listed.read_only && listed.refusal.is_none(), "{listed:?}");
    let claim = Claim::target(device.path()).unwrap();
    assert!(!device.is_read_only());
    claim.release().unwrap();
    assert!(device.is_read_only());
}

#[test]
fn a_disk_that_is_write_protected_besides_stays_refused() {
    let Some((bench, _run)) = guarded_bench("a_disk_that_is_write_protected_besides_stays_refused") else { return };
    let device = Guarded::new(&bench, &["-r"]);
    let mut claim = Claim::target(device.path()).unwrap();
    let error = claim.make_writable().unwrap_err();
    assert!(matches!(error, ClaimError::ReadOnly { .. }));
    assert!(error.to_string().ends_with("is read-only: remove the write protection first, then run this again"));
    assert!(write(&claim).is_err());
    drop(claim);
    assert!(device.is_read_only());
}

#[test]
fn a_partition_is_no_target_where_disks_are_guarded() {
    let Some((bench, _run)) = guarded_bench("a_partition_is_no_target_where_disks_are_guarded") else { return };
    let device = Guarded::new(&bench, &[]);
    let partition = device.0.with_partition();
    let uses = look(&partition).unwrap().1;
    assert_eq!(uses[0], Use::Guarded { disks: vec![device.path().display().to_string()] });
    let error = Claim::target(&partition).unwrap_err();
    assert!(matches!(error, ClaimError::Guarded { .. }));
    let wanted = format!("name {} as a whole", device.path().display());
    assert!(error.to_string().contains(&wanted), "{error}");
    assert!(device.is_read_only());
}

/// The claim is of the disk that was looked at, or there is none.
#[test]
fn a_disk_that_changed_since_it_was_looked_at_is_not_claimed() {
    let Some(bench) = Bench::new() else { return };
    let device = Loop::attach(&bench.image("disk"), &[]);
    let candidate = Candidate::open(&device.path).unwrap();
    assert_eq!(candidate.identity().size.get(), 64 << 20);
    File::options().write(true).open(bench.path("disk")).unwrap().set_len(65 << 20).unwrap();
    run("losetup", &["-c".as_ref(), device.path.as_os_str()]);
    let error = candidate.claim().unwrap_err();
    assert!(error.to_string().contains("was replaced by something else"), "{error}");
    Candidate::open(&device.path).unwrap().claim().unwrap().release().unwrap();
}

/// A console, a check and a list may look at the same moment: none of them takes another for somebody who uses the disk.
#[test]
fn those_who_look_do_not_disturb_each_other() {
    let Some((bench, _run)) = guarded_bench("those_who_look_do_not_disturb_each_other") else { return };
    let device = Guarded::new(&bench, &[]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..30 {
                    assert_eq!(look(device.path()).unwrap().1, []);
                }
            });
        }
    });
}

#[test]
fn an_image_is_not_guarded() {
    let Some((bench, _run)) = guarded_bench("an_image_is_not_guarded") else { return };
    let image = bench.image("disk");
    let mut claim = Claim::target(&image).unwrap();
    claim.make_writable().unwrap();
    write(&claim).unwrap();
    claim.release().unwrap();
}

#[test]
fn without_a_guard_a_read_only_disk_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let device = Guarded::new(&bench, &[]);
    assert_eq!(look(device.path()).unwrap().1, [Use::ReadOnly]);
    assert!(matches!(Claim::target(device.path()), Err(ClaimError::ReadOnly { .. })));
    assert!(device.is_read_only());
    run("blockdev", &["--setrw".as_ref(), device.path().as_os_str()]);
    let mut claim = Claim::target(device.path()).unwrap();
    claim.make_writable().unwrap();
    claim.release().unwrap();
    assert!(!device.is_read_only(), "nobody asked for that");
}
