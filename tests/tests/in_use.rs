//! A disk that anybody uses is refused by name, and stays as it is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{
    Loop, Mount, Place, Running, Swap, Unchanged, has_programs, is_inside, lone, noise, root_of_file, run_inside, tool,
    try_tool,
};
use std::fs;
use std::path::{Path, PathBuf};

const SIZE: usize = 32 << 20;

struct Job {
    place: Place,
    /// Leads from `disk.img`, or the part of it at 1 MiB, to something else.
    delta: PathBuf,
    state: PathBuf,
}

impl Job {
    fn new() -> Self {
        let place = Place::new();
        let (image, result) = (place.sparse("disk.img", SIZE as u64, &[]), place.noisy("new.img", 1 << 20, 1));
        let delta = place.delta("d", &image, &result, "64K");
        let state = place.directory("state");
        Self { place, delta, state }
    }

    /// Apply and plan refuse the target, with these words, and leave it alone.
    #[track_caller]
    fn refuses(&self, target: &Path, words: &str) {
        let untouched = Unchanged::since(target);
        let apply = failback!("apply", self.delta, target, "--yes", "--no-undo", "--state", self.state);
        let sentence = apply.refused(words);
        assert!(sentence.starts_with(&target.display().to_string()), "the disk is not named: {sentence}");
        let planned = failback!("plan", self.delta, target, "--state", self.state).json_of(3);
        assert!(planned["refusals"].to_string().contains(words), "{planned}");
        untouched.check();
        assert_eq!(fs::read_dir(&self.state).unwrap().count(), 0);
    }
}

#[test]
fn mounted() {
    if is_inside() {
        let Some(_lone) = lone() else { return };
        let job = Job::new();
        let device = Loop::attach(&job.place.path("disk.img"), &[]);
        let at = job.place.directory("mount point");
        // Nothing is left for the kernel to write by itself once it is mounted.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        tool("mkfs.ext4", &["-q".as_ref(), "-E".as_ref(), options.as_ref(), device.path.as_os_str()]);
        for options in ["ro", "rw"] {
            let _mount = Mount::device(&device.path, &at, options);
            tool("sync", &["-f".as_ref(), at.as_os_str()]);
            job.refuses(&device.path, &format!("is mounted at {}", at.display()));
            // Not through the file under it either.
            job.refuses(&job.place.path("disk.img"), "mounted at");
        }
    } else if let Some(_lone) = lone() {
        run_inside("mounted");
    }
}

#[test]
fn mounted_by_a_partition() {
    if is_inside() {
        let Some(_lone) = lone() else { return };
        let job = Job::new();
        let device = Loop::attach(&job.place.path("disk.img"), &[]);
        let partition = device.with_partition(40_000);
        let at = job.place.directory("mnt");
        tool("mkfs.ext4", &["-q".as_ref(), partition.as_os_str()]);
        let _mount = Mount::device(&partition, &at, "ro");
        let words = format!("is mounted at {} (from {})", at.display(), partition.display());
        job.refuses(&device.path, &words);
        job.refuses(&partition, &words);
    } else if let Some(_lone) = lone() {
        run_inside("mounted_by_a_partition");
    }
}

#[test]
fn swapped_to() {
    let Some(_lone) = lone() else { return };
    let job = Job::new();
    let image = job.place.path("disk.img");
    // Swap space must not have holes.
    fs::write(&image, noise(SIZE, 2)).unwrap();
    let device = Loop::attach(&image, &[]);
    let partition = device.with_partition(40_000);
    let _swap = Swap::on(&partition);
    let words = format!("is in use as swap space ({}): switch that off", partition.display());
    let apply = failback!("apply", job.delta, device.path, "--yes", "--no-undo", "--state", job.state);
    let untouched = Unchanged::since(&device.path);
    apply.refused(&words);
    job.refuses(&partition, "swap space");
    untouched.check();
}

#[test]
fn attached_as_a_loop_device() {
    let Some(_lone) = lone() else { return };
    let job = Job::new();
    let image = job.place.path("disk.img");
    let device = Loop::attach(&image, &[]);
    job.refuses(&image, &format!("is attached as loop device {}", device.path.display()));
    let upper = Loop::attach(&device.path, &[]);
    job.refuses(&device.path, &format!("loop device {}", upper.path.display()));
}

#[test]
fn held_by_the_device_mapper() {
    let Some(_lone) = lone().filter(|_| has_programs(&["dmsetup"])) else { return };
    let job = Job::new();
    let device = Loop::attach(&job.place.path("disk.img"), &[]);
    let name = format!("failback-test-{}", std::process::id());
    let table = format!("0 2048 linear {} 0", device.path.display());
    // Some kernels are built without it, and then there is nothing to be tested, whoever asks.
    let driver = try_tool("dmsetup", &["version"]);
    if !driver.status.success() {
        println!("skipped: no device mapper: {}", String::from_utf8_lossy(&driver.stderr));
        return;
    }
    tool("dmsetup", &["create", &name, "--table", &table]);
    let removed = RemoveOnDrop(name);
    job.refuses(&device.path, "is in use by");
    drop(removed);
    failback!("apply", job.delta, device.path, "--yes", "--no-undo", "--state", job.state).done();
}

struct RemoveOnDrop(String);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        tool("dmsetup", &["remove", "--retry", &self.0]);
    }
}

/// An apply that waits for the rest of a piped delta.
fn waiting(delta: &Path, target: &Path, state: &Path) -> (Running, std::process::ChildStdin) {
    let mut running = failback!("apply", "-", target, "--yes", "--no-undo", "--state", state).start();
    let mut stdin = running.stdin();
    std::io::Write::write_all(&mut stdin, &fs::read(delta).unwrap()[..300]).unwrap();
    let claimed = || failback!("status", target, "--state", state).json()["state"] != "at-rest";
    assert!(running.wait_until(claimed));
    (running, stdin)
}

#[test]
fn claimed_by_another_failback() {
    let place = Place::new();
    let (target, result) = (place.noisy("disk.img", 1 << 20, 3), place.noisy("new.img", 1 << 20, 4));
    let delta = place.delta("d", &target, &result, "4K");
    let state = place.directory("state");
    let (running, stdin) = waiting(&delta, &target, &state);
    let untouched = Unchanged::since(&target);
    let sentence = failback!("apply", delta, target, "--yes").refused("claimed by another program");
    assert!(sentence.contains("failback"), "{sentence}");
    assert_eq!(failback!("status", target, "--state", state).json()["state"], "in-use");
    // Reading it meanwhile is no matter.
    failback!("verify", target, "--root", root_of_file(&target)).done();
    untouched.check();
    drop(stdin);
    assert_eq!(running.finish().code, 6);
    failback!("apply", delta, target, "--yes", "--state", state).done();
    assert_eq!(root_of_file(&target), root_of_file(&result));
}

#[test]
fn a_device_claimed_by_another_failback() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let (image, result) = (place.noisy("disk.img", 1 << 20, 5), place.noisy("new.img", 1 << 20, 6));
    let delta = place.delta("d", &image, &result, "4K");
    let device = Loop::attach(&image, &[]);
    let state = place.directory("state");
    let (running, stdin) = waiting(&delta, &device.path, &state);
    let apply = failback!("apply", delta, device.path, "--yes", "--no-undo", "--state", state);
    apply.refused("claimed by another program");
    drop(stdin);
    assert_eq!(running.finish().code, 6);
    apply.done();
    assert_eq!(root_of_file(&device.path), root_of_file(&result));
}
