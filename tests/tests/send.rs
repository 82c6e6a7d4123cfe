//! The source's side of replication through the program, with a target behind a command.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Place, Program, hash, noise, program, root_of_file, tool};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// A source, a target, and what both keep.
struct Pair {
    place: Place,
    source: PathBuf,
    target: PathBuf,
}

impl Pair {
    fn new(base: &[u8], source: &[u8]) -> Self {
        // Built before anything is timed.
        let _ = program();
        let place = Place::new();
        place.directory("state");
        let (source, target) = (place.file("source.img", source), place.file("target.img", base));
        Self { place, source, target }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.place.path("state").join(name)
    }

    /// The command that serves the target.
    fn serving(&self) -> String {
        format!(
            "{} '{}' '{}'",
            env!("CARGO_BIN_EXE_serve-image"),
            self.target.display(),
            self.place.path("state").display()
        )
    }

    fn to(&self, command: &str) -> Program {
        let journal = self.place.path("journal");
        failback!("send", self.source, "--to", format!("exec:{command}"), "--pair", "pair", "--journal", journal)
    }

    fn send(&self) -> Program {
        self.to(&self.serving())
    }

    #[track_caller]
    fn is_home(&self) {
        assert_eq!(root_of_file(&self.target), root_of_file(&self.source));
    }

    /// Names in the directory of journals but for the lock.
    fn left_behind(&self) -> Vec<String> {
        let names = fs::read_dir(self.place.path("journal")).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| !name.contains(".lock")).collect()
    }

    fn hook(&self, name: &str, script: &str) {
        let directory = self.place.path("hooks");
        let _ = fs::create_dir(&directory);
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\nset -eu\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A hook that notes that it ran.
    fn noting(&self, name: &str, more: &str) {
        let log = self.place.path("log");
        self.hook(
            name,
            &format!("echo \"$FAILBACK_HOOK $FAILBACK_FINAL ${{FAILBACK_OUTCOME:-}}\" >> '{}'\n{more}", log.display()),
        );
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place.path("log")).unwrap_or_default();
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

/// The same with another byte in every `step`.
fn changed(base: &[u8], step: usize) -> Vec<u8> {
    let mut result = base.to_vec();
    result.iter_mut().skip(step / 2).step_by(step).for_each(|byte| *byte ^= 1);
    result
}

/// Text that compresses well, and no two blocks of it are the same.
fn text(len: usize) -> Vec<u8> {
    (0..).flat_map(|line: u32| format!("line {line} of a log\n").into_bytes()).take(len).collect()
}

fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"))
}

const PASS: &str = "base_root bytes_free bytes_hole bytes_per_second bytes_read bytes_read_again bytes_received bytes_sent bytes_sent_again changed_blocks \
                    changed_bytes compression compression_levels connections coverage created delta_bytes disk engine final group_mark kind pair pass proven root \
                    seconds seconds_sending size went_on";

#[test]
fn a_pass_brings_the_target_to_the_source() {
    let base = noise(8 * MIB, 1);
    let pair = Pair::new(&base, &changed(&base, 70_000));
    let reports = pair.send().json();
    let [report] = reports.as_array().unwrap().as_slice() else { panic!("{reports}") };
    let mut names: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut wanted: Vec<_> = PASS.split_ascii_whitespace().collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    pair.is_home();
    assert_eq!((&report["base_root"], &report["root"]), (&hash(&base).into(), &root_of_file(&pair.source).into()));
    assert_eq!(
        (&report["kind"], &report["coverage"], &report["final"]),
        (&"crash".into(), &"whole".into(), &false.into())
    );
    assert_eq!((number(report, "connections"), number(report, "bytes_sent_again")), (1, 0));
    assert_eq!((number(report, "bytes_read"), number(report, "pass")), (8 << 20, 1));
    assert_eq!(fs::read_to_string(pair.state("offer")).unwrap(), format!("crash {}\n", pair.source.display()));
    assert_eq!(pair.left_behind(), [""; 0]);
    // For people.
    let told = String::from_utf8(pair.send().done()).unwrap();
    let lines: Vec<Vec<_>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    for words in ["pass 1", "kind crash", "compression adaptive: nothing to compress", "changed 0 bytes"] {
        assert!(lines.contains(&words.split(' ').collect()), "{words}\n{told}");
    }
}

#[test]
fn an_unchanged_disk_costs_a_few_kib_on_the_wire() {
    let base = noise(64 * MIB, 1);
    let pair = Pair::new(&base, &base);
    let wire = pair.place.path("wire");
    let reports = pair.to(&format!("tee '{}' | {}", wire.display(), pair.serving())).json();
    let counted = fs::metadata(wire).unwrap().len();
    assert!(counted <= 4096, "{counted}");
    assert_eq!(number(&reports[0], "bytes_sent"), counted, "what is reported is what was on the wire");
    assert!(number(&reports[0], "bytes_received") <= 4096);
    assert_eq!(number(&reports[0], "changed_blocks"), 0);
}

#[test]
fn compression_is_what_was_asked_for() {
    let result = text(6 * MIB);
    let sent = |compression: &str| {
        let pair = Pair::new(&vec![0; result.len()], &result);
        let report = pair.send().args(&format!("--compression {compression}")).json();
        pair.is_home();
        let levels: Vec<_> = report[0]["compression_levels"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(report[0]["compression"], compression);
        (number(&report[0], "bytes_sent"), levels)
    };
    let (off, light, hard, adaptive) = (sent("off"), sent("1"), sent("19"), sent("adaptive"));
    assert!(off.0 > 6 << 20 && off.1 == ["off"], "{off:?}");
    assert!(light.0 < 3 << 20 && light.1 == ["1"], "{light:?}");
    assert!(hard.0 < light.0 && hard.1 == ["19"], "{hard:?}");
    assert!(adaptive.0 < 3 << 20 && adaptive.1.contains(&"3".to_owned()), "{adaptive:?}");
    let pair = Pair::new(&[0; 4096], &[0; 4096]);
    pair.send().args("--compression 20").misused();
    pair.send().args("--compression 0").misused();
}

#[test]
fn passes_end_when_little_is_left() {
    let base = noise(80 * MIB, 1);
    let pair = Pair::new(&base, &noise(80 * MIB, 2));
    // Each pass finds another MiB changed; the first one has more than 64 MiB, and takes less than a minute to send: so one is enough.
    let change =
        format!("dd if=/dev/urandom of='{}' bs=1M count=1 seek=3 conv=notrunc status=none", pair.source.display());
    pair.noting("after-pass", &change);
    let hooks = pair.place.path("hooks");
    let reports = pair.send().arg("--hooks").arg(&hooks).args("--passes until-small").json();
    assert_eq!(reports.as_array().unwrap().len(), 1, "{reports}");
    // A number is a number, and each pass starts where the last one ended.
    let reports = pair.send().arg("--hooks").arg(&hooks).args("--passes 3").json();
    let reports = reports.as_array().unwrap();
    let numbers: Vec<_> = reports.iter().map(|report| number(report, "pass")).collect();
    assert_eq!(numbers, [1, 2, 3]);
    for pass in reports {
        assert_eq!(number(pass, "changed_bytes"), 1 << 20);
    }
    assert!(reports.windows(2).all(|pair| pair[1]["base_root"] == pair[0]["root"]));
    assert_eq!(pair.log(), vec!["after-pass 0 done"; 4]);
}

#[test]
fn what_is_small_can_be_said() {
    let base = noise(MIB, 1);
    let pair = Pair::new(&base, &noise(MIB, 2));
    // Each pass finds this much changed: less and less, as it is more than a fifth less than what the one before found.
    let source = pair.source.display();
    let change = format!(
        "count=$(cat '{0}' 2>/dev/null || echo 512); echo $((count / 4)) > '{0}'\n\
         dd if=/dev/urandom of='{source}' bs=1K count=$count conv=notrunc status=none",
        pair.place.path("count").display()
    );
    pair.noting("after-pass", &change);
    let until_small = |more: &str| {
        let _ = fs::remove_file(pair.place.path("count"));
        let send = pair.send().arg("--hooks").arg(pair.place.path("hooks")).args("--passes until-small");
        let reports = send.args(more).json();
        reports.as_array().unwrap().iter().map(|report| number(report, "delta_bytes")).collect::<Vec<_>>()
    };
    let all = until_small("--small 100K --small-time 0s");
    assert!(all.len() > 2, "{all:?}");
    let (last, before) = all.split_last().unwrap();
    assert!(*last <= 100 << 10 && before.iter().all(|bytes| *bytes > 100 << 10), "{all:?}");
    // Either of the two is enough.
    assert_eq!(until_small("--small 0 --small-time 1h").len(), 1);
    assert_eq!(until_small("--small 10M --small-time 0s").len(), 1);
    let words = "add --passes until-small, or leave them out";
    pair.send().args("--small 1M").refused(words);
    pair.send().args("--passes 2 --small-time 1s").refused(words);
    pair.send().args("--follow 1h --small 1M").misused();
    pair.send().args("--passes until-small --small much").misused();
}

#[test]
fn a_last_pass_follows_and_is_a_moment() {
    let base = noise(4 * MIB, 1);
    let pair = Pair::new(&base, &changed(&base, 50_000));
    let reports = pair.send().args("--passes 2 --final").json();
    let finals: Vec<_> = reports.as_array().unwrap().iter().map(|report| report["final"].as_bool().unwrap()).collect();
    assert_eq!(finals, [false, false, true]);
    assert_eq!(reports[2]["kind"], "crash");
    pair.is_home();
    pair.send().args("--final --fuzzy").misused();
    pair.send().args("--final --follow 1m").misused();
    pair.send().args("--rpo 1m").misused();
}

#[test]
fn a_source_that_is_written_meanwhile_is_refused_or_fuzzy() {
    let base = noise(MIB, 1);
    let pair = Pair::new(&base, &noise(MIB, 2));
    // The target's first act is to write to the source.
    let writing = format!("printf x | dd of='{}' conv=notrunc status=none; {}", pair.source.display(), pair.serving());
    let said = pair.to(&writing).refused("was written to while it was read");
    assert!(said.contains("--fuzzy"), "{said}");
    assert_eq!(root_of_file(&pair.target), hash(&base), "nothing was applied");
    let report = pair.to(&writing).arg("--fuzzy").json();
    assert_eq!(report[0]["kind"], "fuzzy");
    pair.is_home();
}

#[test]
fn a_killed_source_goes_on_by_the_same_command() {
    let base = noise(48 * MIB, 1);
    let pair = Pair::new(&base, &noise(48 * MIB, 2));
    let spool = pair.state("spool");
    let arrived = || fs::metadata(&spool).map_or(0, |about| about.len());
    let mut running = pair.send().args("--limit 24M").start();
    assert!(running.wait_until(|| arrived() > 20 << 20), "it was too fast to be killed");
    running.signal("KILL");
    assert_eq!(running.finish().code, -1);
    assert_eq!(pair.left_behind().len(), 1);
    let report = pair.send().json();
    let (report, known) = (&report[0], 20 << 20);
    pair.is_home();
    assert_eq!(report["went_on"], true);
    // Sent again is at most what was not durable: half a frame, when the target has seen the end of the connection.
    assert!(number(report, "bytes_sent") + known < (50 << 20), "{report}");
    assert!(number(report, "bytes_read") + number(report, "bytes_read_again") < 2 * (30 << 20), "{report}");
    assert_eq!(pair.left_behind(), [""; 0]);
}

#[test]
fn a_killed_source_that_changed_begins_again() {
    let base = noise(48 * MIB, 1);
    let pair = Pair::new(&base, &noise(48 * MIB, 2));
    let spool = pair.state("spool");
    let mut running = pair.send().args("--limit 24M").start();
    assert!(running.wait_until(|| fs::metadata(&spool).is_ok_and(|about| about.len() > 20 << 20)));
    running.signal("KILL");
    running.finish();
    fs::write(&pair.source, noise(48 * MIB, 3)).unwrap();
    let with_json = pair.send().arg("--json");
    let run = with_json.run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("of another moment of the source"), "{}", run.stderr);
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&report[0]["went_on"], &report[0]["kind"]), (&false.into(), &"crash".into()));
    pair.is_home();
}

#[test]
fn an_interrupted_source_goes_on() {
    let base = noise(48 * MIB, 1);
    for signal in ["INT", "TERM"] {
        let pair = Pair::new(&base, &noise(48 * MIB, 2));
        let spool = pair.state("spool");
        let mut running = pair.send().args("--limit 16M").start();
        assert!(running.wait_until(|| fs::metadata(&spool).is_ok_and(|about| about.len() > 10 << 20)));
        running.signal(signal);
        let asked = Instant::now();
        let run = running.finish();
        assert_eq!(run.code, 130, "{}", run.stderr);
        assert!(asked.elapsed() < Duration::from_secs(10));
        assert!(run.sentence().starts_with("stopped: "), "{}", run.stderr);
        assert!(
            run.stderr.contains("the same command goes on") && !run.stderr.contains("connecting again"),
            "{}",
            run.stderr
        );
        let report = pair.send().json();
        assert_eq!(report[0]["went_on"], true);
        pair.is_home();
    }
}

#[test]
fn a_connection_that_breaks_is_made_again() {
    let base = noise(32 * MIB, 1);
    let pair = Pair::new(&base, &noise(32 * MIB, 2));
    fs::write(pair.state("break"), b"").unwrap();
    let run = pair.to(&format!("{} {}", pair.serving(), 20 << 20)).arg("--json").run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("broke") && run.stderr.contains("connecting again in"), "{}", run.stderr);
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(number(&report[0], "connections"), 2);
    assert!(number(&report[0], "bytes_sent_again") <= 32 << 20, "at most the window: {report}");
    pair.is_home();
    assert!(!pair.state("break").exists());
}

#[test]
fn a_limit_is_kept() {
    let pair = Pair::new(&noise(6 * MIB, 1), &noise(6 * MIB, 2));
    let started = Instant::now();
    let report = pair.send().args("--limit 2M").json();
    let took = started.elapsed().as_secs_f64();
    assert!((2.8..30.0).contains(&took), "6 MiB at 2 MiB a second took {took} s");
    let sending = report[0]["seconds_sending"].as_f64().unwrap();
    assert!(sending > 2.5 && number(&report[0], "bytes_per_second") < 5 << 19, "{report}");
    for unclear in ["08:00-18:00=5M", "fast", "1"] {
        pair.send().arg("--limit").arg(unclear).misused();
    }
}

#[test]
fn following_makes_a_pass_each_interval_and_tells_of_a_late_target() {
    let base = noise(2 * MIB, 1);
    let pair = Pair::new(&base, &noise(2 * MIB, 2));
    // The second pass begins late.
    let count = pair.place.path("count");
    pair.hook(
        "before-pass",
        &format!("echo x >> '{0}'; if [ \"$(wc -l < '{0}')\" = 2 ]; then sleep 5; fi", count.display()),
    );
    let hooks = pair.place.path("hooks");
    let program = pair.send().args("--follow 1s --rpo 4s --json").arg("--hooks").arg(hooks);
    let mut running = program.start();
    let lines = || fs::read_to_string(&count).unwrap_or_default().lines().count();
    assert!(running.wait_until(|| lines() >= 5));
    running.signal("INT");
    let run = running.finish();
    assert_eq!(run.code, 130, "{}", run.stderr);
    let events: Vec<Value> =
        String::from_utf8(run.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert!(names.len() >= 5 && names[..3] == ["pass", "rpo-missed", "pass"], "{names:?}");
    // Whoever looks at the clock may be a pass late on a busy machine, and that may be too late again: each time it is told once, and once that
    // it is over.
    let told: Vec<_> = names[3..].iter().filter(|name| **name != "pass").collect();
    let in_turn = ["rpo-kept", "rpo-missed"].iter().cycle();
    assert!(!told.is_empty() && told.iter().zip(in_turn).all(|(told, wanted)| *told == wanted), "{names:?}");
    assert!(number(&events[1], "age_seconds") >= 4 && events[1]["rpo_seconds"] == 4, "{events:?}");
    assert_eq!((number(&events[0], "pass"), number(&events[2], "pass")), (1, 2));
    assert!(run.stderr.contains("and may be 4 s") && run.stderr.contains("within 4 s again"), "{}", run.stderr);
    pair.is_home();
}

#[test]
fn following_waits_for_a_target_that_refuses_and_tells_once() {
    let base = noise(2 * MIB, 1);
    let pair = Pair::new(&base, &noise(2 * MIB, 2));
    // The target refuses each pass for as long as this is there: it serves nothing at its place.
    let (held, away) = (pair.place.path("state/held"), pair.place.path("target.away"));
    fs::write(&held, "").unwrap();
    let refusing = format!(
        "if [ -e '{0}' ]; then exec '{1}' serve --stdio --state '{2}'; fi; {3}",
        held.display(),
        program().display(),
        away.display(),
        pair.serving()
    );
    let out = pair.place.path("out");
    let mut command = pair.to(&refusing).args("--follow 1s --rpo 3s --json").command();
    command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(pair.place.path("err")).unwrap());
    let mut child = command.spawn().unwrap();
    let events = || -> Vec<Value> {
        let text = fs::read_to_string(&out).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let mut until = |what: &str, wanted: usize| {
        let began = Instant::now();
        while events().iter().filter(|event| event["event"] == what).count() < wanted {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < Duration::from_secs(60), "{what}: {ended:?} {:?}", events());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until("refused", 1);
    until("rpo-missed", 1);
    std::thread::sleep(Duration::from_secs(2));
    fs::remove_file(&held).unwrap();
    until("pass", 1);
    until("rpo-kept", 1);
    tool("kill", &["-INT", &child.id().to_string()]);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let refused: Vec<_> = events().into_iter().filter(|event| event["event"] == "refused").collect();
    let [refused] = refused.as_slice() else { panic!("{refused:?}") };
    assert!(refused["error"].as_str().unwrap().contains("the other side says"), "{refused}");
    let said = fs::read_to_string(pair.place.path("err")).unwrap();
    assert_eq!(said.matches("it is tried again each interval").count(), 1, "{said}");
    pair.is_home();
    // What is wrong here does not pass by itself.
    fs::remove_file(&pair.source).unwrap();
    assert_ne!(pair.send().args("--follow 1s").run().code, 0);
    pair.send().args("--follow 1m --rpo 30s").refused("make --rpo longer than --follow");
}

#[test]
fn hooks_run_in_their_order() {
    let base = noise(MIB, 1);
    let pair = Pair::new(&base, &noise(MIB, 2));
    let snapshot = pair.place.path("snapshot.img");
    for name in ["before-pass", "after-pass", "before-final", "after-final", "unmark"] {
        pair.noting(name, "");
    }
    pair.noting("mark", &format!("cp '{}' '{}'; echo '{1}'", pair.source.display(), snapshot.display()));
    pair.hook("README", "");
    let hooks = pair.place.path("hooks");
    let report = pair.send().arg("--hooks").arg(&hooks).args("--final --mark-kind filesystem").json();
    let passes = ["before-pass 0", "mark 0", "unmark 0", "after-pass 0 done"];
    let last = ["before-final 1", "mark 1", "unmark 1", "after-final 1 done"];
    assert_eq!(pair.log(), [passes, last].concat());
    assert_eq!((&report[0]["kind"], &report[1]["kind"]), (&"filesystem".into(), &"filesystem".into()));
    // The target knows the disk, and not its snapshot.
    assert_eq!(fs::read_to_string(pair.state("offer")).unwrap(), format!("filesystem {}\n", pair.source.display()));
    pair.is_home();
    assert_eq!(pair.left_behind(), [""; 0]);
}

#[test]
fn a_hook_that_fails_stops_the_job() {
    let base = noise(MIB, 1);
    for failing in ["before-pass", "mark", "before-final"] {
        let pair = Pair::new(&base, &noise(MIB, 2));
        for name in ["before-pass", "after-pass", "before-final", "after-final", "mark", "unmark"] {
            let more =
                if name == failing { "echo other >&2; echo 'the database does not answer' >&2; exit 3" } else { "" };
            pair.noting(name, more);
        }
        let run = pair.send().arg("--hooks").arg(pair.place.path("hooks")).arg("--final").run();
        assert_eq!(run.code, 3, "{}", run.stderr);
        let said = run.sentence();
        assert!(
            said.contains(&format!("the hook {failing} failed (exit status: 3): the database does not answer;")),
            "{said}"
        );
        let expected: &[&str] = match failing {
            "before-pass" => &["before-pass 0"],
            "mark" => &["before-pass 0", "mark 0", "unmark 0", "after-pass 0 failed"],
            _ => &["before-pass 0", "mark 0", "unmark 0", "after-pass 0 done", "before-final 1"],
        };
        assert_eq!(pair.log(), expected);
        assert_eq!(root_of_file(&pair.target) == hash(&base), failing != "before-final");
        assert_eq!(pair.left_behind(), [""; 0]);
    }
}

#[test]
fn a_hook_that_does_not_end_is_ended() {
    let pair = Pair::new(&[1; 4096], &[2; 4096]);
    pair.hook("before-pass", "sleep 100 & sleep 100");
    let hooks = pair.place.path("hooks");
    let started = Instant::now();
    let said =
        pair.send().arg("--hooks").arg(&hooks).args("--hook-timeout 1s").refused("before-pass did not end within 1 s");
    assert!(said.contains("--hook-timeout") && started.elapsed() < Duration::from_secs(30), "{said}");
    // Or by whoever wants the job to stop.
    let mut running = pair.send().arg("--hooks").arg(&hooks).start();
    std::thread::sleep(Duration::from_millis(500));
    assert!(running.is_running());
    running.signal("INT");
    assert_eq!(running.finish().code, 130);
}

#[test]
fn hooks_that_cannot_be_right_are_refused() {
    let pair = Pair::new(&[1; 4096], &[2; 4096]);
    let directory = pair.place.path("hooks");
    let refused = |words: &str| pair.send().arg("--hooks").arg(&directory).refused(words);
    pair.hook("before_pass", "");
    refused("is no hook: call it one of before-pass");
    fs::remove_file(directory.join("before_pass")).unwrap();
    pair.hook("mark", "echo");
    refused("add unmark");
    pair.hook("unmark", "");
    fs::set_permissions(directory.join("unmark"), fs::Permissions::from_mode(0o644)).unwrap();
    refused("chmod +x");
    fs::set_permissions(directory.join("unmark"), fs::Permissions::from_mode(0o777)).unwrap();
    refused("others can write to");
    fs::set_permissions(directory.join("unmark"), fs::Permissions::from_mode(0o755)).unwrap();
    pair.hook("mark", &format!("echo '{}'", pair.place.file("small.img", &[0; 512]).display()));
    refused("let it name a snapshot of the whole disk");
    pair.hook("mark", &format!("echo '{}'", pair.place.path("missing").display()));
    refused("missing");
    // A mark that names nothing: the disk itself is read.
    pair.hook("mark", "");
    pair.send().arg("--hooks").arg(&directory).done();
    pair.is_home();
}

#[test]
fn a_mark_that_was_left_is_taken_back_first() {
    let pair = Pair::new(&noise(16 * MIB, 1), &noise(16 * MIB, 2));
    let snapshot = pair.place.path("snapshot.img");
    pair.noting("mark", &format!("cp '{}' '{}'; echo '{1}'", pair.source.display(), snapshot.display()));
    pair.noting("unmark", "rm -f \"$FAILBACK_MARK\"");
    let hooks = pair.place.path("hooks");
    let mut running = pair.send().args("--limit 2M").arg("--hooks").arg(&hooks).start();
    let spool = pair.state("spool");
    assert!(running.wait_until(|| fs::metadata(&spool).is_ok_and(|about| about.len() > 1 << 20)));
    running.signal("KILL");
    running.finish();
    assert!(snapshot.exists());
    pair.send().refused("give its --hooks, so that unmark takes it back");
    pair.send().arg("--hooks").arg(&hooks).done();
    assert_eq!(pair.log(), ["mark 0", "unmark 0", "mark 0", "unmark 0"]);
    assert!(!snapshot.exists());
    pair.is_home();
}

#[test]
fn hostile_targets_are_told_apart() {
    let pair = Pair::new(&noise(MIB, 1), &noise(MIB, 2));
    let preface = |oldest: u8, role: u8| {
        format!(
            r"printf '\211FBREP\r\n\00{oldest}\000\00{oldest}\000\00{role}\000\000\0009.9.9\0\0\0\0\0\0\0\0\0\0\0'; cat >/dev/null"
        )
    };
    // Garbage is no failback: not tried again.
    let said = pair.to("cat /dev/urandom").refused("does not answer as failback does");
    assert!(said.contains("check address and port"), "{said}");
    pair.to(&preface(7, 2)).refused("install the newer one on this side");
    pair.to(&preface(1, 1)).refused("is no target");
    // A message of a kind that there is not, and one that is too long.
    pair.to(&preface(1, 2).replace("; cat", r"; printf '\377\000\000\000\377\000\000\000'; cat"))
        .fails(5, "does not keep to the protocol");
    pair.to(&preface(1, 2).replace("; cat", r"; printf '\377\377\377\377\020\000\000\000'; cat"))
        .fails(5, "does not keep to the protocol");
    // Silence, and a command that ends at once.
    let run = pair.to("sleep 100").args("--silence 1s --retry 2s").run();
    assert_eq!(run.code, 5, "{}", run.stderr);
    let run = pair.to("echo 'no route to the master target' >&2; exit 1").args("--retry 1s").run();
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(run.sentence().contains("no route to the master target"), "{}", run.stderr);
    assert!(run.stderr.contains("the same command goes on"), "{}", run.stderr);
    // What it refuses is its own sentence.
    pair.send().arg("--pair").arg("x").misused();
    let other = failback!(
        "send",
        pair.source,
        "--to",
        format!("exec:{}", pair.serving()),
        "--pair",
        "another",
        "--journal",
        pair.place.path("journal")
    );
    other.refused("the other side says: there is no pair another: add it with pair add");
    assert_eq!(root_of_file(&pair.target), hash(&noise(MIB, 1)));
}

#[test]
fn words_that_are_wrong() {
    let pair = Pair::new(&[1; 4096], &[2; 4096]);
    let send = |to: &str, name: &str| {
        failback!("send", pair.source, "--to", to, "--pair", name, "--journal", pair.place.path("journal"))
    };
    send("https://mt", "pair").misused();
    send("exec:", "pair").misused();
    send("exec:true", "").misused();
    send("exec:true", &"x".repeat(65)).misused();
    send("exec:true", "a\nb").misused();
    let state = pair.place.path("control");
    send("mt", "pair").arg("--state").arg(&state).refused("run failback enroll token there");
    failback!(
        "send",
        pair.place.path("missing"),
        "--to",
        "exec:true",
        "--pair",
        "pair",
        "--journal",
        pair.place.path("journal")
    )
    .refused("missing");
}

#[test]
fn two_at_once_are_one_too_many() {
    let pair = Pair::new(&noise(16 * MIB, 1), &noise(16 * MIB, 2));
    let mut first = pair.send().args("--limit 1M").start();
    let spool = pair.state("spool");
    assert!(first.wait_until(|| spool.exists()));
    pair.send().refused("is being sent there already");
    drop(first);
    assert!(Path::new(&pair.source).exists());
}
