//! The socket in the file system: who may connect, how many, and how it ends.

use super::client::{Client, READ, disk, pattern};
use failback_nbd::{BindError, Export, Limits, Server, SessionError};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

/// How long a server waits for clients that do not take their replies.
const GRACE: Duration = Duration::from_secs(2);
const LIMITS: Limits = Limits { connections: 3, patience: Duration::from_secs(60) };

/// Runs a server while `clients` does something; returns how sessions ended that did not end well, and how long it took
/// to stop.
fn running(path: &Path, clients: impl FnOnce()) -> (Vec<String>, Duration) {
    let disk = disk(1 << 20, &[(0, 1 << 20)]);
    let export = Export::read_only("", &disk).unwrap();
    let server = Server::bind(path, LIMITS).unwrap();
    let (stop, ended) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let report = |error: &SessionError| ended.lock().unwrap().push(error.to_string());
    let stopped = thread::scope(|scope| {
        let running = scope.spawn(|| server.run(&export, || stop.load(SeqCst), report));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(clients));
        stop.store(true, SeqCst);
        let start = Instant::now();
        running.join().unwrap().unwrap();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        start.elapsed()
    });
    (ended.into_inner().unwrap(), stopped)
}

fn connect(path: &Path) -> Client {
    Client::new(UnixStream::connect(path).unwrap())
}

#[test]
fn comes_and_goes() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let (ended, stopped) = running(&path, || {
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        for _ in 0..10 {
            let mut client = connect(&path);
            client.go(true);
            assert_eq!(client.read(0, 1000, 4096).whole(), pattern(1000, 4096));
            client.leave();
        }
    });
    assert_eq!(ended, [""; 0]);
    assert!(stopped < GRACE, "{stopped:?}");
    assert!(!path.exists());
}

#[test]
fn idle_clients_do_not_hold_it_up() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let clients = Mutex::new(Vec::new());
    let (ended, stopped) = running(&path, || {
        let mut clients = clients.lock().unwrap();
        clients.extend([connect(&path), connect(&path), connect(&path)]);
        clients[1].greet(3);
        clients[2].go(true);
    });
    assert!(stopped < GRACE, "{stopped:?}");
    assert_eq!(ended, [""; 0]);
    let mut clients = clients.into_inner().unwrap();
    assert!(clients[1].is_closed() && clients[2].is_closed());
}

#[test]
fn what_was_asked_for_is_still_answered() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let clients = Mutex::new(Vec::new());
    running(&path, || {
        let mut client = connect(&path);
        client.go(true);
        for number in 0..20 {
            client.request(0, READ, number * 4096, 4096);
        }
        clients.lock().unwrap().push(client);
    });
    let mut client = clients.into_inner().unwrap().pop().unwrap();
    for _ in 0..20 {
        client.reply();
    }
    assert!(client.is_closed());
}

#[test]
fn a_client_that_takes_nothing_does_not_hold_it_up_for_long() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let clients = Mutex::new(Vec::new());
    let (ended, stopped) = running(&path, || {
        let mut client = connect(&path);
        client.go(true);
        for _ in 0..20 {
            client.request(0, READ, 0, 1 << 20);
        }
        clients.lock().unwrap().push(client);
        thread::sleep(Duration::from_millis(100));
    });
    assert!(stopped > GRACE && stopped < 10 * GRACE, "{stopped:?}");
    assert_eq!(ended, ["the client went away in the middle of a message"]);
}

#[test]
fn connections_are_bounded() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    running(&path, || {
        let mut clients: Vec<_> = (0..3).map(|_| connect(&path)).collect();
        for client in &mut clients {
            client.go(true);
        }
        assert!(connect(&path).is_closed());
        clients.pop().unwrap().leave();
        // The place is free as soon as the server has noticed.
        let end = Instant::now() + Duration::from_secs(10);
        while connect(&path).is_closed() {
            assert!(Instant::now() < end);
        }
    });
}

#[test]
fn a_broken_client_is_reported() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let (ended, _) = running(&path, || {
        let mut client = connect(&path);
        client.greet(0x100);
        assert!(client.is_closed());
    });
    assert_eq!(ended, ["the client does not speak the NBD protocol: it sent the unknown flags 0x100"]);
}

#[test]
fn a_stale_socket_is_replaced() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    running(&path, || connect(&path).go(true));
    assert!(!path.exists());
}

#[test]
fn what_is_there_stays() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let error = Server::bind(&path, LIMITS).unwrap_err();
    assert!(matches!(&error, BindError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("choose another path"), "{error}");
    drop(listener);

    // A server of which nobody takes connections any more is not gone.
    let path = place.path().join("busy");
    let server = Server::bind(&path, LIMITS).unwrap();
    assert!(matches!(Server::bind(&path, LIMITS), Err(BindError::InUse { .. })));
    drop(server);

    let path = place.path().join("file");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::bind(&path, LIMITS), Err(BindError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let target = place.path().join("target");
    std::os::unix::fs::symlink(&target, place.path().join("link")).unwrap();
    assert!(matches!(Server::bind(&place.path().join("link"), LIMITS), Err(BindError::NotASocket { .. })));
    assert!(!target.exists());
}

#[test]
fn paths_that_cannot_be() {
    let place = tempfile::tempdir().unwrap();
    let error = Server::bind(&place.path().join("x".repeat(108)), LIMITS).unwrap_err();
    assert!(matches!(error, BindError::TooLong { .. }), "{error}");
    let error = Server::bind(&place.path().join("missing/socket"), LIMITS).unwrap_err();
    assert!(matches!(error, BindError::Io { .. }), "{error}");
}

/// Only what the server made is removed.
#[test]
fn somebody_elses_socket_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let server = Server::bind(&path, LIMITS).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
}
