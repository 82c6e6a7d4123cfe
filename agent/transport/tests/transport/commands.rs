//! Connections through ssh and other commands.

use crate::common::{
    SOON, breaks_anywhere, breaks_at_once, echoes, end_of_reader, end_of_writer, held, is_there, patient, wait_until,
};
use failback_transport::{Address, CommandConnector, Connector, End, Limits, Link};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

fn run(command: &str) -> Link {
    CommandConnector::exec(command, patient()).connect().unwrap()
}

fn short() -> Limits {
    let limit = Duration::from_millis(300);
    Limits { silence: limit, stall: limit, ..patient() }
}

/// The first line that the other side says.
fn first_line(link: &mut Link) -> String {
    let mut said = String::new();
    let mut byte = [0];
    while link.reader.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        said.push(char::from(byte[0]));
    }
    said
}

#[test]
fn bytes_go_both_ways_and_the_end_comes_last() {
    echoes(run("cat"), 8 << 20);
    echoes(run("cat"), 0);
}

#[test]
fn breaking_ends_a_reader_and_a_writer_that_wait() {
    breaks_at_once(run("sleep 1000"));
}

#[test]
fn breaking_anywhere_loses_what_was_not_read_and_nothing_else() {
    breaks_anywhere(100, || run("cat"));
}

#[test]
fn the_command_and_what_it_started_go_with_the_link() {
    let mut link = run("sleep 1000 & echo $! $$; wait");
    let processes = first_line(&mut link);
    let (child, shell) = processes.split_once(' ').unwrap();
    assert!(is_there(child) && is_there(shell));
    (link.breaker)();
    drop(link);
    // The shell was reaped here; what it had started is reaped by init.
    assert!(!is_there(shell));
    let ended =
        |process: &str| fs::read_to_string(format!("/proc/{process}/stat")).map_or(true, |stat| stat.contains(") Z "));
    wait_until("what the shell had started is ended", || ended(child));
}

#[test]
fn a_command_may_finish_what_it_was_given_last() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("got");
    let mut link = run(&format!("cat > {0}.part; sleep 0.3; mv {0}.part {0}", file.display()));
    link.writer.write_all(b"the last words").unwrap();
    drop(link);
    assert_eq!(fs::read(file).unwrap(), b"the last words");
}

#[test]
fn the_last_words_of_a_command_are_the_reason() {
    let words = "cat >/dev/null & echo one >&2; printf 'Permission denied\\033[2J (publickey).\\r\\n\\n' >&2; exit 255";
    let mut link = run(words);
    let error = end_of_reader(&mut link);
    assert_eq!(error.to_string(), "the command ended (status 255): Permission denied[2J (publickey).");
    let error = end_of_writer(&mut link);
    assert!(error.to_string().ends_with("Permission denied[2J (publickey)."), "{error}");
    let mut link = run("kill -9 $$");
    assert_eq!(end_of_reader(&mut link).to_string(), "the command ended (signal 9)");
}

#[test]
fn any_number_of_words_takes_little_memory() {
    let mut link = run("yes 'it is all wrong' | head -c 50000000 >&2; echo 'the end' >&2; exit 1");
    assert_eq!(end_of_reader(&mut link).to_string(), "the command ended (status 1): the end");
    let mut link = run("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1");
    let sentence = end_of_reader(&mut link).to_string();
    assert!(sentence.len() < 500 && sentence.ends_with("xxx"), "{sentence}");
}

#[test]
fn who_leaves_the_group_and_keeps_standard_error_is_not_waited_for() {
    let mut link = run("setsid sleep 20 </dev/null >/dev/null & exit 1");
    let began = Instant::now();
    end_of_reader(&mut link);
    drop(link);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[test]
fn silence_breaks_a_connection() {
    let mut link = CommandConnector::exec("sleep 1000", short()).connect().unwrap();
    let began = Instant::now();
    let error = end_of_reader(&mut link);
    assert_eq!(End::of(&error), Some(&End::Silent(Duration::from_millis(300))), "{error}");
    assert!((Duration::from_millis(250)..SOON).contains(&began.elapsed()));
    let error = link.writer.write_all(b"more").unwrap_err();
    assert_eq!(End::of(&error), Some(&End::BrokenOff), "nothing follows");
}

#[test]
fn who_says_something_in_time_is_not_silent() {
    let limits = Limits { silence: Duration::from_secs(2), ..patient() };
    // Together longer than the limit.
    let mut link = CommandConnector::exec("for i in 1 2 3 4 5; do sleep 0.5; echo x; done", limits).connect().unwrap();
    let began = Instant::now();
    let mut all = String::new();
    link.reader.read_to_string(&mut all).unwrap();
    assert_eq!(all.len(), 10);
    assert!(began.elapsed() > limits.silence, "{:?}", began.elapsed());
}

#[test]
fn who_takes_nothing_breaks_a_connection() {
    let mut link = CommandConnector::exec("sleep 1000", short()).connect().unwrap();
    let error = end_of_writer(&mut link);
    assert_eq!(End::of(&error), Some(&End::Stalled(Duration::from_millis(300))), "{error}");
}

#[test]
fn ssh_is_told_everything_as_arguments_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (script, told) = (directory.path().join("ssh"), directory.path().join("told"));
    fs::write(
        &script,
        format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" > {}\necho 'Host key verification failed.' >&2\nexit 255\n",
            told.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = |address: &str| {
        let Ok(Address::Ssh(address)) = address.parse() else { panic!("{address}") };
        let mut link = CommandConnector::ssh(&address, patient()).program(script.clone()).connect().unwrap();
        let sentence = end_of_reader(&mut link).to_string();
        assert_eq!(sentence, "ssh ended (status 255): Host key verification failed.");
        fs::read_to_string(&told).unwrap()
    };
    let all = arguments("ssh:admin@[2001:db8::1]:2222");
    assert!(all.contains("BatchMode=yes\n") && all.contains("ServerAliveInterval=20\n"), "{all}");
    assert!(all.ends_with("-p\n2222\n-l\nadmin\n--\n2001:db8::1\nfailback\nserve\n--stdio\n"), "{all}");
    let all = arguments("ssh:mt");
    assert!(all.ends_with("ClearAllForwardings=yes\n--\nmt\nfailback\nserve\n--stdio\n"), "{all}");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let connector = CommandConnector::exec("true", patient()).program("/nowhere/ssh".into());
    let error = connector.connect().err().unwrap();
    assert_eq!(error.to_string(), "/nowhere/ssh is not on this machine: install it");
}

#[test]
fn nothing_is_left_of_links_that_have_gone() {
    let before = held();
    for number in 0..50 {
        let mut link = run(if number % 3 == 0 { "exit 1" } else { "cat" });
        let breaker = link.breaker.clone();
        match number % 3 {
            0 => drop(end_of_reader(&mut link)),
            1 => breaker(),
            _ => {}
        }
        drop(link);
        breaker();
    }
    assert_eq!(held(), before);
}
