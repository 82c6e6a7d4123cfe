//! The other end of a command, in a process of its own.

use crate::common::{breaks_anywhere, echo_program, echoes, end_of_reader, noise, patient};
use failback_transport::{CommandConnector, Connector};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;

/// The program with something in the place of its input or output, and what it says of that.
fn refusal(input: Stdio, output: Stdio) -> String {
    let child = Command::new(echo_program()).stdin(input).stdout(output).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn bytes_go_both_ways_over_a_socket() {
    let program = echo_program();
    let connector = CommandConnector::exec(program.to_str().unwrap(), patient());
    echoes(connector.connect().unwrap(), 8 << 20);
    breaks_anywhere(10, || connector.connect().unwrap());
}

#[test]
fn bytes_go_both_ways_over_pipes_and_nothing_else_does() {
    let (far_input, mut input) = io::pipe().unwrap();
    let (mut output, far_output) = io::pipe().unwrap();
    // The same descriptions as the child's.
    let (its_input, its_output) = (far_input.try_clone().unwrap(), far_output.try_clone().unwrap());
    let mut command = Command::new(echo_program());
    let mut child = command.stdin(far_input).stdout(far_output).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let sent = noise(3, 4 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            input.write_all(&sent).unwrap();
            drop(input);
        });
        let mut back = vec![0; sent.len()];
        output.read_exact(&mut back).unwrap();
        assert!(back == sent);
    });
    for fd in [OwnedFd::from(its_input), OwnedFd::from(its_output)] {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK), "others see the same description");
    }
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "what is printed is not in between");
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(errors, "this is not part of any message\n");
    assert!(child.wait().unwrap().success());
}

#[test]
fn silence_ends_it() {
    let command = format!("{} 200", echo_program().display());
    let mut link = CommandConnector::exec(&command, patient()).connect().unwrap();
    let sentence = end_of_reader(&mut link).to_string();
    assert!(
        sentence.ends_with("the other side was silent for 200 ms, so the connection counts as broken"),
        "{sentence}"
    );
}

#[test]
fn what_is_no_connection_is_refused() {
    let pty = openpty(None, None).unwrap();
    let sentence = refusal(pty.slave.try_clone().unwrap().into(), Stdio::piped());
    assert!(sentence.starts_with("standard input is a terminal"), "{sentence}");
    let sentence = refusal(Stdio::piped(), pty.slave.into());
    assert!(sentence.starts_with("standard output is a terminal"), "{sentence}");
    let sentence = refusal(Stdio::null(), Stdio::piped());
    assert!(sentence.starts_with("standard input is no pipe"), "{sentence}");
    let sentence = refusal(Stdio::piped(), File::from(OwnedFd::from(tempfile::tempfile().unwrap())).into());
    assert!(sentence.starts_with("standard output is no pipe"), "{sentence}");
}
