//! The verb console: what it shows, and that it gives the terminal back as it was, however it ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Place, Port, Program};
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A console on a terminal of its own.
struct Console {
    child: Child,
    screen: File,
    line: OwnedFd,
    before: Termios,
}

impl Console {
    fn start(columns: u16, rows: u16, terminal: &str) -> Self {
        Self::in_group(columns, rows, terminal, None)
    }

    /// In this process group, as a shell with job control starts it (0: one of its own), or in that of the test.
    fn in_group(columns: u16, rows: u16, terminal: &str, group: Option<i32>) -> Self {
        Self::of(&failback!("console"), columns, rows, terminal, group)
    }

    fn of(program: &Program, columns: u16, rows: u16, terminal: &str, group: Option<i32>) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let end = || pty.slave.try_clone().unwrap();
        let mut command = program.command();
        if let Some(group) = group {
            command.process_group(group);
        }
        let child = command.env("TERM", terminal).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Self { child, screen: File::from(pty.master), line: pty.slave, before }
    }

    /// Everything that is shown until a text comes.
    fn until(&mut self, wanted: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            assert!(Instant::now() < end, "{wanted} never came: {}", String::from_utf8_lossy(&seen));
            if poll(&mut [PollFd::new(self.screen.as_fd(), PollFlags::POLLIN)], 100_u16).unwrap() > 0 {
                let length = self.screen.read(&mut piece).unwrap();
                seen.extend_from_slice(&piece[..length]);
            }
        }
        String::from_utf8(seen).unwrap()
    }

    fn press(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).unwrap();
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn mode(&self) -> Termios {
        tcgetattr(&self.line).unwrap()
    }

    /// Waits until the terminal takes single keys, or lines again.
    fn wait_for_keys(&self, single: bool) {
        let end = Instant::now() + PATIENCE;
        while self.mode().local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO) == single {
            assert!(Instant::now() < end, "single keys: {single} never came");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end; the terminal is as it was before.
    fn ends(mut self, code: i32) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end");
            thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(code));
        assert_eq!(self.mode(), self.before);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn everything_once_in_plain_text() {
    let text = String::from_utf8(failback!("console", "--once").done()).unwrap();
    assert!(text.starts_with("failback "), "{text}");
    for section in ["addresses", "retention", "runs now", "serve", "wrong", "disks"] {
        assert!(text.lines().any(|line| line.starts_with(section)), "{section}\n{text}");
    }
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    // What check finds is on the screen, with its fix.
    let report: serde_json::Value = serde_json::from_slice(&failback!("check", "--json").run().stdout).unwrap();
    let fails = report["checks"].as_array().unwrap().iter().filter(|found| found["level"] != "ok");
    // Others may take or leave the two ports between the one look and the other.
    let (fails, shown) = (fails.filter(|found| found["check"] != "ports").count(), text.matches("=> ").count());
    assert!((fails..=fails + 2).contains(&shown), "{text}");
}

#[test]
fn what_runs_is_shown_and_cannot_drive_the_terminal() {
    let place = Place::new();
    let disk = place.noisy("evil\x1b[2J\u{202e}.img", 100_000, 1);
    let running = failback!("apply", "-", disk, "--yes").start();
    let wanted = r"evil\u{1b}[2J\u{202e}.img";
    let end = Instant::now() + PATIENCE;
    loop {
        let text = String::from_utf8(failback!("console", "--once").done()).unwrap();
        assert!(!text.contains(['\x1b', '\u{202e}']), "{text:?}");
        let flowing = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if flowing.contains(wanted) && flowing.contains("--yes (process ") {
            break;
        }
        assert!(Instant::now() < end, "{text}");
    }
    assert_ne!(running.finish().code, 0, "it got no delta");
}

#[test]
fn without_a_terminal_it_is_refused() {
    failback!("console").refused("add --once");
}

#[test]
fn it_leaves_by_a_key() {
    let mut console = Console::start(80, 24, "vt100");
    let text = console.until("[q]uit");
    assert!(text.starts_with("\x1b[H\x1b[Jfailback "), "{text:?}");
    assert!(text.lines().count() <= 24, "{text}");
    console.wait_for_keys(true);
    console.press("xq");
    console.ends(0);
}

#[test]
fn a_line_that_tells_no_size_is_taken_for_80_by_24() {
    let mut console = Console::start(0, 0, "");
    let text = console.until("[q]uit");
    assert!(!text.contains('\x1b'), "a terminal of an unknown kind is not even cleared: {text:?}");
    let screen: Vec<_> = text.trim_start().lines().collect();
    assert!(screen.len() <= 24 && screen.iter().all(|line| line.chars().count() <= 80), "{text}");
    console.press("q");
    console.ends(0);
}

#[test]
fn signals_end_it_and_the_terminal_is_given_back() {
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1), ("QUIT", 3)] {
        let mut console = Console::start(80, 24, "vt100");
        console.until("[q]uit");
        console.wait_for_keys(true);
        console.signal(name);
        console.ends(128 + number);
    }
}

#[test]
fn stopped_it_gives_the_terminal_back_and_goes_on_later() {
    let mut console = Console::in_group(80, 24, "vt100", Some(0));
    console.until("[q]uit");
    console.wait_for_keys(true);
    console.signal("TSTP");
    console.wait_for_keys(false);
    assert_eq!(console.mode(), console.before);
    console.signal("CONT");
    console.until("[q]uit");
    console.wait_for_keys(true);
    console.press("q");
    console.ends(0);
}

/// On the terminal of an appliance there is no shell that could let it go on.
#[test]
fn without_a_shell_nothing_stops_it() {
    let mut console = Console::start(80, 24, "vt100");
    console.until("[q]uit");
    console.wait_for_keys(true);
    console.signal("TSTP");
    console.press("q");
    console.ends(0);
}

#[test]
fn the_menu_leads_back() {
    let mut console = Console::start(80, 24, "vt100");
    console.until("[q]uit");
    console.press("l");
    console.until("q leave");
    console.press("q");
    console.until("[q]uit");
    // Anything but the whole word switches nothing off.
    console.press("p");
    console.until("to go back: ");
    console.wait_for_keys(false);
    console.press("of\n");
    console.until("[q]uit");
    console.press("q");
    console.ends(0);
}

#[test]
fn what_runs_is_asked_anew_before_the_machine_is_switched_off() {
    let place = Place::new();
    let disk = place.noisy("disk.img", 100_000, 1);
    let mut console = Console::start(200, 50, "vt100");
    console.until("[q]uit");
    console.wait_for_keys(true);
    let mut running = failback!("apply", "-", disk, "--yes").start();
    let process = format!("/proc/{}/comm", running.id());
    assert!(running.wait_until(|| std::fs::read_to_string(&process).is_ok_and(|name| name == "failback\n")));
    console.press("p");
    let text = console.until("to go back: ");
    assert!(text.contains(&format!("(process {})", running.id())), "{text:?}");
    console.wait_for_keys(false);
    // What does not fit into an answer is no answer to a later question.
    console.press(&format!("{}rest\n", "x".repeat(256)));
    console.until("[q]uit");
    console.wait_for_keys(true);
    console.press("p");
    console.until("to go back: ");
    console.wait_for_keys(false);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(console.mode(), console.before, "nobody has answered yet");
    console.press("\n");
    console.until("[q]uit");
    console.press("q");
    console.ends(0);
    drop(running);
}

/// The daemon is shown as it is: at work, without an answer, and ended; and a machine that the console has let in joins it.
#[test]
fn the_daemon_is_shown_and_a_machine_is_let_in() {
    let place = Place::new();
    let (state, other) = (place.path("state"), place.path("other"));
    let ports = [Port::reserve(), Port::reserve()];
    let [data, control] = [&ports[0], &ports[1]].map(Port::address);
    let once = || String::from_utf8(failback!("console", "--once", "--state", state).done()).unwrap();
    let section = |text: &str| text.lines().find(|line| line.starts_with("serve ")).unwrap_or_default().to_owned();
    assert!(section(&once()).starts_with("serve      does not run: no machine can join"), "{}", once());
    assert!(!state.exists(), "to look makes nothing");

    let mut daemon = failback!("serve", "--state", state, "--listen", data, "--control", control).start();
    assert!(daemon.wait_until(|| section(&once()).contains("runs, version")));
    let shown = failback!("enroll", "show", "--state", state).json();
    let key = shown["fingerprint"].as_str().unwrap();
    let flowing: String = once().split_whitespace().collect();
    assert!(flowing.contains(&format!("0machinesletin,0jobsatworkkey{key}")), "{flowing}");

    let mut console = Console::of(&failback!("console", "--state", state), 200, 50, "vt100", None);
    console.until("runs, version");
    console.wait_for_keys(true);
    // What is no name lets nobody in.
    console.press("a");
    console.until("to go back: ");
    console.wait_for_keys(false);
    console.press("no name\x1b\n");
    let text = console.until("Enter leads back. ");
    assert!(!text.contains("The token"), "{text}");
    console.press("\n");
    console.until("[q]uit");
    console.wait_for_keys(true);
    console.press("a");
    console.until("to go back: ");
    console.wait_for_keys(false);
    console.press("web\n");
    let text = console.until("Enter leads back. ");
    assert!(text.contains(key) && text.contains("failback enroll join ") && !text.contains("cannot join"), "{text}");
    let token = text.split_once("as web:").unwrap().1.trim_start().lines().next().unwrap().trim();
    let joined = failback!("enroll", "join", data, "--state", other).fed(token.into()).json();
    assert_eq!((joined["name"].as_str(), joined["role"].as_str()), (Some("web"), Some("source")), "{joined:#}");
    console.press("\n");
    console.until("1 machine let in");
    console.press("q");
    console.ends(0);

    daemon.signal("STOP");
    let begun = Instant::now();
    assert!(section(&once()).contains("does not answer within 2 s"), "{}", once());
    println!("{:?}", begun.elapsed());
    daemon.signal("CONT");
    assert!(daemon.wait_until(|| section(&once()).contains("1 machine let in")));
    daemon.signal("TERM");
    assert_eq!(daemon.finish().code, 0);
    let text = once();
    assert!(section(&text).contains("does not run") && text.contains(&key[..20]), "{text}");
}
