//! Connections to Unix sockets.

use crate::common::{breaks_anywhere, breaks_at_once, echoes, patient};
use failback_transport::{Connector, Limits, UnixConnector};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A listener that sends back what comes, for as long as the test lasts.
fn echo_at(directory: &Path) -> PathBuf {
    let path = directory.join("echo");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || {
                drop(io::copy(&mut &stream, &mut &stream));
                drop(stream.shutdown(std::net::Shutdown::Write));
            });
        }
    });
    path
}

#[test]
fn bytes_go_both_ways_and_the_end_comes_last() {
    let directory = tempfile::tempdir().unwrap();
    let connector = UnixConnector::new(echo_at(directory.path()), patient());
    echoes(connector.connect().unwrap(), 8 << 20);
}

#[test]
fn breaking_ends_a_reader_and_a_writer_that_wait() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mute");
    let listener = UnixListener::bind(&path).unwrap();
    let link = UnixConnector::new(path, patient()).connect().unwrap();
    let mute = listener.accept().unwrap();
    breaks_at_once(link);
    drop(mute);
}

#[test]
fn breaking_anywhere_loses_what_was_not_read_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let connector = UnixConnector::new(echo_at(directory.path()), patient());
    breaks_anywhere(100, || connector.connect().unwrap());
}

#[test]
fn a_socket_that_nobody_answers_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let sentence =
        |path: &Path, limits: Limits| UnixConnector::new(path.to_owned(), limits).connect().err().unwrap().to_string();
    let path = directory.path().join("none");
    let expected = format!("nobody listens at {}: start failback serve there, or name its socket", path.display());
    assert_eq!(sentence(&path, patient()), expected);
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(sentence(&path, patient()), expected);

    let busy = directory.path().join("busy");
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(&busy).unwrap()).unwrap();
    listen(&fd, Backlog::new(0).unwrap()).unwrap();
    let hurried = Limits { connect: Duration::from_millis(200), ..patient() };
    let waiting = UnixConnector::new(busy.clone(), hurried).connect().unwrap();
    let began = Instant::now();
    let refused = sentence(&busy, hurried);
    assert!(refused.contains("accepts no connection"), "{refused}");
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(waiting);
}
