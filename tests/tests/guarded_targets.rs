//! Targets that are kept read-only until they are claimed, with the whole program: what it asks the kernel for, in which order, and what
//! is left after every kind of end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{
    self, Guarded, Mount, Place, Program, Running, files_below, hash_of, program, root_of_file, skipped, tool,
};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, thread};

const SIZE: u64 = 16 << 20;

/// A place where disks are guarded, with a delta.
struct Guarding {
    place: Place,
    retention: PathBuf,
    delta: PathBuf,
    old: PathBuf,
    new: PathBuf,
    _run: Mount,
}

/// Prepares it; `None` where the test cannot run here, or has run inside.
fn guarding(test: &str) -> Option<Guarding> {
    let run = lab::guarding(test)?;
    let place = Place::new();
    let old = place.sparse("old.img", SIZE, &[(0, b"old"), (5 << 20, b"old too")]);
    let new = place.sparse("new.img", SIZE, &[(0, b"new"), (9 << 20, b"more of it")]);
    let delta = place.delta("change", &old, &new, "16K");
    let retention = place.directory("retention");
    Some(Guarding { place, retention, delta, old, new, _run: run })
}

impl Guarding {
    /// A disk with the old content that is read-only.
    fn disk(&self, name: &str) -> Guarded {
        let image = self.place.path(name);
        fs::copy(&self.old, &image).unwrap();
        Guarded::new(&image)
    }

    fn apply(&self, disk: &Guarded) -> Program {
        let engine = "--engine blocking --yes --retention";
        failback!("apply", self.delta, disk.path()).args(engine).arg(&self.retention)
    }

    /// An apply that has made the disk writable, and waits for a delta that never comes.
    fn waiting(&self, disk: &Guarded) -> Running {
        let state = self.place.path("state");
        let mut running = failback!("apply", "-", disk.path(), "--yes", "--no-undo", "--state", state).start();
        assert!(running.wait_until(|| !disk.is_read_only()));
        running
    }
}

/// Runs a call under strace; what it asked the kernel for with regard to `disk`, one word each, and its exit code.
fn recorded(call: &Program, disk: &Guarded, to: &Path) -> (Vec<String>, Option<i32>) {
    let plain = call.command();
    let mut command = Command::new("strace");
    command
        .args(["-f", "-y", "-e", "trace=openat,ioctl,flock,pwrite64,fdatasync", "-o"])
        .arg(to)
        .arg(plain.get_program());
    let output = command.args(plain.get_args()).output().unwrap();
    let text = fs::read_to_string(to).unwrap();
    let words = text.lines().filter(|line| line.contains(disk.name())).filter_map(word);
    let mut found: Vec<String> = words.map(str::to_owned).collect();
    found.dedup();
    (found, output.status.code())
}

/// What a line of the record means for the order of things.
fn word(line: &str) -> Option<&'static str> {
    let failed = line.contains(" = -1 ");
    Some(match line {
        _ if line.contains("openat(") && line.contains("O_RDWR") && line.contains("O_EXCL") => "claim",
        _ if line.contains("flock(") && line.contains("LOCK_EX") => "lock",
        _ if line.contains("BLKROSET, [0]") => "writable",
        _ if line.contains("BLKROSET, [1]") => "read-only",
        _ if line.contains("pwrite64(") && !failed => "write",
        _ if line.contains("pwrite64(") => "refused write",
        _ if line.contains("fdatasync(") => "flush",
        _ => return None,
    })
}

#[test]
fn claim_then_writable_then_write_then_flush_then_read_only() {
    let Some(guarding) = guarding("claim_then_writable_then_write_then_flush_then_read_only") else { return };
    let disk = guarding.disk("disk.img");
    let (words, code) = recorded(&guarding.apply(&disk), &disk, &guarding.place.path("record"));
    assert_eq!(code, Some(0), "{words:?}");
    let place =
        |word: &str| words.iter().position(|found| found == word).unwrap_or_else(|| panic!("no {word}: {words:?}"));
    let last = |word: &str| words.iter().rposition(|found| found == word).unwrap();
    assert!(place("claim") < place("lock") && place("lock") < place("writable"), "{words:?}");
    assert!(place("writable") < place("write") && last("write") < last("flush"), "{words:?}");
    assert_eq!(words.last().unwrap(), "read-only", "{words:?}");
    assert_eq!(words.iter().filter(|word| matches!(word.as_str(), "writable" | "read-only")).count(), 2, "{words:?}");
    assert!(!words.contains(&"refused write".to_owned()), "{words:?}");
    assert!(disk.is_read_only());
    assert_eq!(hash_of(disk.path(), None), root_of_file(&guarding.new));
    // The way back is a claim of its own.
    failback!("undo", disk.path(), "--yes", "--retention", guarding.retention).done();
    assert!(disk.is_read_only());
    assert_eq!(hash_of(disk.path(), None), root_of_file(&guarding.old));
}

#[test]
fn a_disk_that_is_another_one_never_becomes_writable() {
    let Some(guarding) = guarding("a_disk_that_is_another_one_never_becomes_writable") else { return };
    let disk = guarding.disk("disk.img");
    let uuid = "6000c2999176dd776e0123456789abcd";
    for call in [
        guarding.apply(&disk).arg("--expect-uuid").arg(uuid),
        failback!("plan", guarding.delta, disk.path()),
        failback!("status", disk.path()),
        failback!("scan", disk.path()),
    ] {
        let (words, _) = recorded(&call, &disk, &guarding.place.path("record"));
        assert!(!words.contains(&"writable".to_owned()), "{words:?}");
        assert!(disk.is_read_only());
    }
    // Of other content: it was writable while it was compared, and nothing was written.
    let other = guarding.disk("other.img");
    let before = hash_of(other.path(), None);
    tool("blockdev", &["--setrw", other.name()]);
    fs::write(other.path(), b"somebody else's").unwrap();
    tool("blockdev", &["--setro", other.name()]);
    assert_ne!(before, hash_of(other.path(), None));
    let before = hash_of(other.path(), None);
    let run = guarding.apply(&other).run();
    assert!(matches!(run.code, 3 | 4), "{}", run.stderr);
    assert!(other.is_read_only());
    assert_eq!(before, hash_of(other.path(), None));
}

#[test]
fn after_a_kill_the_disk_is_named_and_the_next_claim_mends_it() {
    let Some(guarding) = guarding("after_a_kill_the_disk_is_named_and_the_next_claim_mends_it") else { return };
    let disk = guarding.disk("disk.img");
    // A delta that never comes: it is claimed and waits.
    let running = guarding.waiting(&disk);
    let listed = || {
        let report = failback!("disks").json();
        let disks = report["disks"].as_array().unwrap().clone();
        disks.into_iter().find(|found| found["path"] == disk.name()).unwrap()
    };
    let found = listed();
    assert_eq!(
        (&found["guarded"], &found["read_only"], &found["usable"]),
        (&true.into(), &false.into(), &false.into())
    );
    running.signal("KILL");
    assert_eq!(running.finish().code, -1);
    assert!(!disk.is_read_only(), "nobody was there to mend it");
    assert_eq!(listed()["usable"], true);
    guarding.apply(&disk).done();
    assert!(disk.is_read_only());
    // A signal that is heeded leaves nothing to mend.
    let running = guarding.waiting(&disk);
    running.signal("TERM");
    assert_eq!(running.finish().code, 130);
    assert!(disk.is_read_only());
}

/// Nobody has to wait for a pipe of which nothing comes, and until all came the disk is not writable.
#[test]
fn a_pipe_that_is_silent_keeps_nobody_waiting() {
    let Some(guarding) = guarding("a_pipe_that_is_silent_keeps_nobody_waiting") else { return };
    let disk = guarding.disk("disk.img");
    let mut running = failback!("apply", "-", disk.path(), "--yes", "--retention", guarding.retention).start();
    let stored = || files_below(&guarding.retention).iter().any(|file| file.to_string_lossy().contains("spool"));
    assert!(running.wait_until(stored));
    assert!(disk.is_read_only());
    let started = Instant::now();
    running.signal("TERM");
    let _held = running.stdin();
    let run = running.finish();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!((run.code, run.sentence().as_str()), (130, "stopped: nothing was written"));
    assert!(!stored() && disk.is_read_only());
}

/// Signals that end the program at once, while it is held in a write.
#[test]
fn slow_a_signal_that_ends_the_program_leaves_the_disk_read_only() {
    let Some(guarding) = guarding("slow_a_signal_that_ends_the_program_leaves_the_disk_read_only") else { return };
    for (number, (signals, code)) in
        [(["INT", "INT"].as_slice(), 130), (&["TERM", "TERM"], 130), (&["HUP", "INT", "TERM"], 130), (&["QUIT"], -1)]
            .into_iter()
            .enumerate()
    {
        let disk = guarding.disk(&format!("disk{number}.img"));
        let record = guarding.place.path(&format!("record{number}"));
        let apply = guarding.apply(&disk).command();
        let mut command = Command::new("strace");
        // Not above the program, but beside it: so that the signals are the program's.
        command.args(["-D", "-f", "-y", "-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=15000000", "-o"]);
        command.arg(&record).arg(apply.get_program()).args(apply.get_args());
        let mut running = Running::start(command);
        let is_held = || fs::read_to_string(&record).is_ok_and(|text| text.contains(disk.name()));
        assert!(running.wait_until(is_held), "{signals:?}");
        assert!(!disk.is_read_only());
        for signal in signals {
            assert!(running.is_running(), "{signals:?}");
            running.signal(signal);
            // Two that come at once may be one to the kernel.
            thread::sleep(Duration::from_millis(500));
        }
        assert!(!running.wait_until(|| false));
        assert!(disk.is_read_only(), "{signals:?}");
        assert_eq!(running.finish().code, code, "{signals:?}");
    }
}

/// A thread that cannot be started is a panic. In a release that aborts; where it unwinds, the claim that is dropped sets the mark too,
/// but after the panic was told.
#[test]
fn a_fault_of_the_program_leaves_the_disk_read_only() {
    let Some(guarding) = guarding("a_fault_of_the_program_leaves_the_disk_read_only") else { return };
    let mut programs = vec![program().to_owned()];
    match env::var_os("FAILBACK_STATIC") {
        Some(path) => programs.push(path.into()),
        None => {
            skipped("FAILBACK_STATIC names no program as it is released, for which this is tried as well");
        }
    }
    let record = guarding.place.path("record");
    for (number, program) in programs.iter().enumerate() {
        let disk = guarding.disk(&format!("disk{number}.img"));
        let apply = guarding.apply(&disk).command();
        let mut command = Command::new("strace");
        // The first thread waits for signals; those after it do the work.
        command.args(["-f", "-y", "-s", "200", "-e", "trace=ioctl,write,clone,clone3"]);
        command.args(["-e", "inject=clone,clone3:error=EAGAIN:when=2+", "-o"]);
        let output = command.arg(&record).arg(program).args(apply.get_args()).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
        let text = fs::read_to_string(&record).unwrap();
        let told = |line: &str| line.contains("write(2<") && line.contains("panicked");
        let before: Vec<_> = text.lines().take_while(|line| !told(line)).collect();
        assert!(before.len() < text.lines().count(), "{text}");
        let marks: Vec<_> =
            before.iter().filter(|line| line.contains(disk.name())).filter_map(|line| word(line)).collect();
        assert_eq!(marks, ["writable", "read-only"], "{}: {text}", program.display());
        assert!(disk.is_read_only());
    }
}

#[test]
fn a_disk_with_a_write_protection_of_its_own_stays_refused() {
    let Some(guarding) = guarding("a_disk_with_a_write_protection_of_its_own_stays_refused") else { return };
    let image = guarding.place.path("disk.img");
    fs::copy(&guarding.old, &image).unwrap();
    let disk = Guarded::protected(&image);
    guarding.apply(&disk).refused("is read-only: remove the write protection first");
    assert!(disk.is_read_only());
    assert_eq!(hash_of(&image, None), root_of_file(&guarding.old));
}

#[test]
fn an_own_disk_list_that_is_wrong_stops_every_apply() {
    let Some(guarding) = guarding("an_own_disk_list_that_is_wrong_stops_every_apply") else { return };
    let disk = guarding.disk("disk.img");
    let _etc = Mount::memory(Path::new("/etc"), "1M");
    fs::create_dir("/etc/failback").unwrap();
    fs::write("/etc/failback/own-disks", "naa.6000c2999176dd77\n").unwrap();
    let sentence = guarding.apply(&disk).refused("/etc/failback/own-disks cannot be read");
    assert!(sentence.contains("line 1 begins with 'naa.6000c2999176dd77'"), "{sentence}");
    // A name that leads nowhere is not the same as none.
    fs::remove_file("/etc/failback/own-disks").unwrap();
    fs::remove_file("/run/failback/guard").unwrap();
    symlink("nowhere", "/etc/failback/own-disks").unwrap();
    let sentence = guarding.apply(&disk).refused("/etc/failback/own-disks cannot be read");
    assert!(sentence.contains("it is a symbolic link: put a plain file in its place"), "{sentence}");
    assert!(disk.is_read_only());
    fs::remove_file("/etc/failback/own-disks").unwrap();
    fs::write("/etc/failback/own-disks", "system naa.6000c2999176dd77\n").unwrap();
    guarding.apply(&disk).done();
    assert!(disk.is_read_only(), "the list alone says that disks are guarded");
}
