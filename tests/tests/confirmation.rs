//! Nothing is written before somebody, or `--yes`, has said so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Place, Running, Unchanged, has_programs, root_of_file};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

struct Job {
    place: Place,
    delta: PathBuf,
    target: PathBuf,
    result: PathBuf,
}

fn job() -> Job {
    let place = Place::new();
    let (target, result) = (place.noisy("target.img", 100_000, 1), place.noisy("result.img", 100_000, 2));
    let delta = place.delta("d", &target, &result, "4K");
    Job { place, delta, target, result }
}

#[test]
fn without_a_terminal_yes_is_needed() {
    let job = job();
    let untouched = Unchanged::since(&job.target);
    failback!("apply", job.delta, job.target).refused("add --yes if it may");
    failback!("apply", "-", job.target).fed(fs::read(&job.delta).unwrap()).refused("add --yes if it may");
    // An answer that is piped in is no answer of a person.
    let answer = format!("{}\n", job.target.display()).into_bytes();
    failback!("apply", job.delta, job.target).fed(answer).refused("standard input is no terminal");
    untouched.check();
    assert!(!job.place.names().iter().any(|name| name.contains("intent")));
    failback!("apply", "-", job.target, "--yes").fed(fs::read(&job.delta).unwrap()).done();
    assert_eq!(root_of_file(&job.target), root_of_file(&job.result));
}

/// Runs apply on a pseudo-terminal; types once it is asked. `None` where the machine has no `script`.
fn on_a_terminal(job: &Job, typed: &str) -> Option<(i32, String)> {
    if !has_programs(&["script"]) {
        return None;
    }
    let program = failback!("apply", job.delta, job.target).command();
    let words = std::iter::once(program.get_program()).chain(program.get_args());
    let line: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let log = job.place.path("terminal.log");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--flush", "--log-out"]).arg(&log).args(["--command", &line.join(" ")]);
    let mut running = Running::start(script);
    let mut keyboard = running.stdin();
    assert!(running.wait_until(|| fs::read_to_string(&log).is_ok_and(|text| text.contains("to go on: "))));
    keyboard.write_all(typed.as_bytes()).unwrap();
    let code = running.finish().code;
    drop(keyboard);
    Some((code, fs::read_to_string(&log).unwrap()))
}

#[test]
fn typing_the_name_of_the_disk_goes_on() {
    let job = job();
    let Some((code, seen)) = on_a_terminal(&job, &format!("{}\n", job.target.display())) else { return };
    assert_eq!(code, 0, "{seen}");
    assert!(seen.contains("100000 bytes"), "the disk is not described: {seen}");
    assert_eq!(root_of_file(&job.target), root_of_file(&job.result));
}

#[test]
fn typing_anything_else_does_not() {
    let job = job();
    let untouched = Unchanged::since(&job.target);
    for typed in ["yes\n", "\n", "y\n", "target.img\n", "\u{4}"] {
        let Some((code, seen)) = on_a_terminal(&job, typed) else { return };
        assert_eq!(code, 3, "{typed:?}: {seen}");
        assert!(seen.contains("was not confirmed, so nothing was written"), "{seen}");
    }
    untouched.check();
}

/// The terminal turns Ctrl-C into SIGINT: while the question stands, it must end the program.
#[test]
fn interrupting_the_question_ends_the_program() {
    let job = job();
    let untouched = Unchanged::since(&job.target);
    let Some((code, seen)) = on_a_terminal(&job, "\u{3}") else { return };
    assert_eq!(code, 130, "{seen}");
    untouched.check();
}
