//! One disk that is received by a machine that does nothing else.

use crate::site::{Daemon, MIB, Site};
use failback_tests::failback;
use failback_tests::lab::{Dice, Port, Program, Run, noise, root_of_file};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::ChildStdout;
use std::thread;
use std::time::{Duration, Instant};

/// A machine that receives, and what it printed when it was ready.
struct Receiver {
    daemon: Daemon,
    ready: Value,
    out: BufReader<ChildStdout>,
}

impl Receiver {
    fn start(site: &Site, more: &str) -> Self {
        Self::start_at(site, "127.0.0.1:0", more)
    }

    /// Where an earlier one was, too.
    fn start_on(site: &Site, port: &Port) -> Self {
        Self::start_at(site, &port.address(), "")
    }

    fn start_at(site: &Site, listen: &str, more: &str) -> Self {
        let mut args: Vec<OsString> = ["receive".into(), site.vmdk("disk").into()].into();
        args.extend(["--source".into(), site.source("disk").into()]);
        args.extend(["--retention".into(), site.place.path("retention").into()]);
        let linger = if more.contains("--linger") { "" } else { "--linger 2s " };
        let words = format!("--json --listen {listen} {linger}{more}");
        args.extend(words.split_ascii_whitespace().map(OsString::from));
        let args: Vec<_> = args.iter().map(OsString::as_os_str).collect::<Vec<&OsStr>>();
        let mut daemon = site.start("here", &args, "ready to receive the disk");
        let mut out = BufReader::new(daemon.running.stdout());
        let ready = line(&mut out);
        assert_eq!((&ready["event"], &ready["pair"]), (&"ready".into(), &"disk".into()));
        assert_eq!(ready["address"], daemon.data);
        Self { daemon, ready, out }
    }

    /// Lets the machine elsewhere in.
    fn invite(&self, site: &Site) {
        self.join(site).done();
    }

    fn join(&self, site: &Site) -> Program {
        let token = self.ready["token"].as_str().unwrap().as_bytes().to_vec();
        site.elsewhere(failback!("enroll", "join", self.daemon.data)).fed(token)
    }

    fn send(&self, site: &Site) -> Program {
        site.send("disk", &self.daemon.data)
    }

    /// Waits until it ends by itself: how, and what it printed last.
    fn end(mut self) -> (Run, Value) {
        let last = line(&mut self.out);
        (self.daemon.running.finish(), last)
    }
}

fn line(out: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    if line.is_empty() { Value::Null } else { serde_json::from_str(&line).unwrap() }
}

/// A source, and a disk that holds what the source held once.
fn site(bytes: usize) -> Site {
    let site = Site::new();
    let content = noise(bytes, 4);
    fs::write(site.source("disk"), &content).unwrap();
    failback!("vmdk", "create", site.vmdk("disk"), "--size", bytes.to_string(), "--subformat", "monolithicFlat").done();
    fs::write(site.target("disk"), &content).unwrap();
    site
}

#[test]
fn one_disk_is_received_and_then_it_ends() {
    let site = site(8 * MIB);
    let mut receiver = Receiver::start(&site, "");
    let key = site.place.path("here/credentials");
    let modes = fs::read_dir(key).unwrap().map(|entry| entry.unwrap().metadata().unwrap().permissions().mode() & 0o777);
    assert!(modes.into_iter().all(|mode| mode % 0o100 == 0));
    let send = receiver.ready["send"].as_str().unwrap();
    let server = receiver.ready["server"].as_str().unwrap();
    assert!(send.ends_with(" --pair disk --final") && send.contains(&format!(" --server {server} ")), "{send}");
    assert_eq!(receiver.ready["join"], format!("failback enroll join {}", receiver.daemon.data));
    receiver.invite(&site);
    // What was read while somebody might have written is no end.
    site.write("disk", 1 << 20, &noise(100_000, 5));
    receiver.send(&site).arg("--fuzzy").done();
    site.is_home("disk");
    // Longer than it lingers.
    thread::sleep(Duration::from_millis(3500));
    assert!(receiver.daemon.running.is_running());
    site.write("disk", 5 << 20, &noise(100_000, 6));
    // As it is printed, word by word.
    let words = send.strip_prefix("failback ").unwrap().to_owned();
    let journal = site.place.path("journal");
    site.elsewhere(Program::new().args(&words).arg("--journal").arg(journal)).done();
    site.is_home("disk");
    let (run, last) = receiver.end();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!((&last["event"], &last["kind"]), (&"received".into(), &"crash".into()), "{last}");
    assert_eq!(last["root"], root_of_file(&site.source("disk")));
    // It has kept the way back.
    let points = failback!("point", "list", site.vmdk("disk"), "--retention", site.place.path("retention")).json();
    assert!(points["points"].as_array().unwrap().len() >= 3, "{points}");
    // Whoever sent it is known no more: another token is given out for another time.
    // It waits until it is killed, however long that takes.
    let again = Receiver::start(&site, "--linger 60s");
    assert!(again.ready["token"].is_string());
    let refused = again.send(&site).args("--retry 1s").run();
    assert_ne!(refused.code, 0, "{}", refused.stderr);
    // The same machine may come again by it. Killed once the disk is here, the receiver knows so when it is started anew.
    again.invite(&site);
    site.write("disk", 3 << 20, &noise(100_000, 7));
    again.send(&site).arg("--final").done();
    site.ended_jobs_in("here");
    let killed = again;
    killed.daemon.running.signal("KILL");
    let _ = killed.daemon.running.finish();
    let (run, last) = Receiver::start(&site, "").end();
    assert_eq!((run.code, &last["event"]), (0, &"received".into()), "{}", run.stderr);
    site.is_home("disk");
}

#[test]
fn a_disk_that_others_wrote_to_is_not_received() {
    let site = site(8 * MIB);
    let receiver = Receiver::start(&site, "");
    receiver.invite(&site);
    site.write("disk", 1 << 20, &noise(100_000, 5));
    receiver.send(&site).arg("--fuzzy").done();
    // Where the source changes nothing any more, so that no pass looks at it.
    let target = OpenOptions::new().write(true).open(site.target("disk")).unwrap();
    target.write_all_at(&noise(4096, 6), 6 << 20).unwrap();
    site.write("disk", 3 << 20, &noise(100_000, 7));
    receiver.send(&site).arg("--final").done();
    let (run, last) = receiver.end();
    assert_eq!((run.code, &last), (4, &Value::Null));
    // What it says is the way out.
    let said = fs::read_to_string(site.place.path("here.log")).unwrap();
    assert!(said.contains("something else wrote to it") && said.contains("another directory as --retention"), "{said}");
    fs::rename(site.place.path("retention"), site.place.path("before")).unwrap();
    site.place.directory("retention");
    let receiver = Receiver::start(&site, "");
    receiver.send(&site).arg("--final").done();
    let (run, last) = receiver.end();
    assert_eq!((run.code, &last["proven"]), (0, &"whole disk read".into()), "{}", run.stderr);
    site.is_home("disk");
}

#[test]
fn nothing_is_received_but_that_disk_from_that_source() {
    let site = site(4 * MIB);
    let receiver = Receiver::start(&site, "");
    // Before anybody has joined, and on this machine.
    let socket = format!("unix:{}", site.place.path("here/data.sock").display());
    assert_ne!(site.send("disk", &socket).args("--retry 1s").run().code, 0);
    assert_ne!(receiver.send(&site).args("--retry 1s").run().code, 0);
    receiver.invite(&site);
    // The token was for one.
    let token = receiver.ready["token"].as_str().unwrap().as_bytes().to_vec();
    let other = site.place.path("other");
    failback!("enroll", "join", receiver.daemon.data, "--state", other).fed(token).refused("token");
    let before = root_of_file(&site.target("disk"));
    // Another disk of that machine, and another pair.
    fs::write(site.source("wrong"), noise(4 * MIB, 9)).unwrap();
    let journal = site.place.path("journal");
    let wrong = failback!("send", site.source("wrong"), "--to", receiver.daemon.data, "--pair", "disk");
    site.elsewhere(wrong.arg("--journal").arg(&journal)).refused("send that disk, or add a pair for this one");
    let wrong = failback!("send", site.source("disk"), "--to", receiver.daemon.data, "--pair", "other");
    site.elsewhere(wrong.arg("--journal").arg(&journal)).refused("pair");
    // It can be looked at here, and nothing else.
    let state = site.place.path("here");
    let pairs = failback!("pair", "list", "--state", state).json();
    assert_eq!(pairs["pairs"].as_array().unwrap().len(), 1, "{pairs}");
    failback!("pair", "remove", "disk", "--state", state).refused("receives one disk");
    assert_eq!(root_of_file(&site.target("disk")), before);
    site.write("disk", 0, &noise(5000, 10));
    receiver.send(&site).done();
    site.is_home("disk");
    assert_eq!(receiver.end().0.code, 0);
}

#[test]
fn what_cannot_be_received_is_refused_before_anybody_is_let_in() {
    let site = site(MIB);
    let retention = site.place.path("retention");
    let receive = |disk: &std::path::Path, source: &str, state: &str| {
        let call = failback!("receive", disk, "--source", source, "--retention", retention, "--listen", "127.0.0.1:0");
        call.arg("--state").arg(site.place.path(state))
    };
    receive(&site.source("disk"), "/dev/x", "new").refused("is a plain image");
    receive(&site.place.path("none.vmdk"), "/dev/x", "new").refused("none.vmdk");
    receive(&site.vmdk("disk"), "", "new").refused("source");
    // The state of another disk.
    let receiver = Receiver::start(&site, "");
    receiver.invite(&site);
    receiver.send(&site).arg("--fuzzy").done();
    receiver.daemon.running.signal("TERM");
    assert_eq!(receiver.end().0.code, 130);
    failback!("vmdk", "create", site.vmdk("more"), "--size", "1M", "--subformat", "monolithicFlat").done();
    let source = site.source("disk");
    receive(&site.vmdk("more"), source.to_str().unwrap(), "here").refused("is the state of pair disk");
    receive(&site.vmdk("disk"), "/dev/another", "here").refused("is the state of pair disk");
    // A token that nobody used in time.
    let late = receive(&site.vmdk("disk"), source.to_str().unwrap(), "late").args("--expires 1s").run();
    assert_eq!(late.code, 3, "{}", late.stderr);
    assert!(late.sentence().contains("the token has ended and nobody has joined"), "{}", late.stderr);
    let text = String::from_utf8(late.stdout).unwrap();
    assert!(text.contains("failback enroll join 127.0.0.1:") && text.contains("token  "), "{text}");
}

#[test]
fn who_is_on_the_receiving_machine_is_told_how_a_disk_is_sent() {
    let site = site(MIB);
    let receiver = Receiver::start(&site, "");
    let socket = format!("unix:{}", site.place.path("here/data.sock").display());
    let sentence =
        site.send("disk", &socket).args("--retry 1s").refused("the other side says: this is failback receive");
    assert!(sentence.contains("type on that one what was printed here"), "{sentence}");
    // The source is let in all the same.
    receiver.invite(&site);
    receiver.send(&site).arg("--final").done();
    assert_eq!(receiver.end().0.code, 0);
}

#[test]
fn one_that_is_told_to_stop_says_that_it_is_unfinished_and_goes_on() {
    let site = site(8 * MIB);
    let port = Port::reserve();
    let receiver = Receiver::start_on(&site, &port);
    receiver.invite(&site);
    let before = root_of_file(&site.target("disk"));
    site.write("disk", 1 << 20, &noise(6 << 20, 5));
    // Slow enough that it is in the middle.
    let sending = receiver.send(&site).args("--retry 60s --limit 2M").start();
    let began = Instant::now();
    let status = |state: &str| failback!("jobs", "--state", site.place.path(state)).json();
    while status("here")["jobs"][0]["phase"] != "receiving" {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", status("here"));
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(500));
    receiver.daemon.running.signal("TERM");
    let (run, last) = receiver.end();
    assert_eq!((run.code, &last), (130, &Value::Null), "{}", run.stderr);
    assert!(fs::read_to_string(site.place.path("here.log")).unwrap().contains("the same command goes on"));
    assert_eq!(root_of_file(&site.target("disk")), before, "nothing is written before all of it is here");
    let receiver = Receiver::start_on(&site, &port);
    assert_eq!((&receiver.ready["token"], &receiver.ready["join"]), (&Value::Null, &Value::Null), "it is known");
    let sent = sending.finish();
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    assert_eq!(receiver.end().0.code, 0);
    site.is_home("disk");
}

#[test]
fn slow_one_that_is_killed_at_any_moment_goes_on() {
    let site = site(4 * MIB);
    let port = Port::reserve();
    let mut receiver = Receiver::start_on(&site, &port);
    receiver.invite(&site);
    let address = port.address();
    let mut dice = Dice::new(7);
    let change = |dice: &mut Dice, round: u64| {
        site.write("disk", dice.below(2 * MIB) as u64, &noise(1 << 20, round));
    };
    let pass = || site.send("disk", &address).args("--fuzzy --threads 1 --retry 60s --limit 4M");
    let (mut landed, mut round) = (0, 0);
    let mut takes = Duration::ZERO;
    while landed < 20 {
        if round % 10 == 0 {
            // How long a pass takes on this machine and now.
            change(&mut dice, 1000 + round);
            let began = Instant::now();
            pass().done();
            takes = began.elapsed();
        }
        round += 1;
        assert!(round < 60, "{landed} of {round} were killed in the middle of a pass");
        change(&mut dice, round);
        let mut sending = pass().start();
        thread::sleep(takes * u32::try_from(dice.below(1000)).unwrap() / 1000);
        landed += usize::from(sending.is_running());
        receiver.daemon.running.signal("KILL");
        let _ = receiver.daemon.running.finish();
        receiver = Receiver::start_on(&site, &port);
        assert_eq!(receiver.ready["token"], Value::Null);
        let sent = sending.finish();
        assert_eq!(sent.code, 0, "round {round}: {}", sent.stderr);
        site.is_home("disk");
    }
    receiver.send(&site).arg("--final").done();
    assert_eq!(receiver.end().0.code, 0);
}
