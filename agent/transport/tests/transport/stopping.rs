//! Servers that stop, peers that are dropped, and sockets that are left behind.

use crate::common::{SOON, echoes, end_of_reader, patient, wait_until};
use crate::machine::{Machine, Recorder, Site, connector, friends, is_closed, kinds, now};
use failback_credentials::Role;
use failback_transport::{Connector, Limits, Link, Server, StillBusy, UnixConnector};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A link over which something has gone both ways.
fn alive(connector: &dyn Connector) -> Link {
    let mut link = connector.connect().unwrap();
    link.writer.write_all(b"a").unwrap();
    link.reader.read_exact(&mut [0]).unwrap();
    link
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn stopping_ends_all_that_is_going_on() {
    for kind in kinds() {
        let (source, target) = friends();
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("run/data");
        let mut options = Site::options(&target);
        options.runtime = Some(kind);
        options.unix_data = Some(socket.clone());
        let site = Site::start(options);
        let at = site.data();
        let mut links =
            [alive(&connector(&source, &target, at)), alive(&UnixConnector::new(socket.clone(), patient()))];
        let stranger = TcpStream::connect(at).unwrap();
        wait_until("they are there", || site.server.connections() == 3);
        let began = Instant::now();
        site.server.stop(SOON).unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        for link in &mut links {
            end_of_reader(link);
        }
        assert!(is_closed(&stranger));
        assert!(TcpStream::connect(at).is_err(), "nobody listens any more");
        assert!(!socket.exists());
        assert_eq!(site.recorder.events.lock().unwrap().len(), 2, "both sessions were broken off");
    }
}

#[test]
fn a_session_that_does_not_end_is_not_waited_for_without_end() {
    let (source, target) = friends();
    let site = Site::of(&target);
    site.recorder.deaf.store(true, Ordering::SeqCst);
    let link = connector(&source, &target, site.data()).connect().unwrap();
    wait_until("the session has begun", || !site.recorder.callers.lock().unwrap().is_empty());
    assert_eq!(site.server.stop(Duration::from_millis(200)), Err(StillBusy(1)));
    site.recorder.deaf.store(false, Ordering::SeqCst);
    site.recorder.tells("session: the connection was broken off");
    drop(link);
}

#[test]
fn a_peer_that_is_revoked_loses_what_it_has() {
    let (source, target) = friends();
    let other = Machine::new();
    other.knows(&target, "site", Role::Target);
    target.knows(&other, "web-2", Role::Source);
    let site = Site::of(&target);
    let mut others = alive(&connector(&other, &target, site.data()));
    let connector = connector(&source, &target, site.data());
    let mut links = [alive(&connector), alive(&connector)];
    target.trust.revoke(&source.key(), now()).unwrap();
    assert_eq!(site.server.drop_peer(&source.key()), 2);
    for link in &mut links {
        end_of_reader(link);
    }
    let refused = end_of_reader(&mut connector.connect().unwrap());
    assert!(refused.to_string().contains("has revoked"), "{refused}");
    wait_until("they have gone", || site.server.connections() == 1);
    assert_eq!(site.server.drop_peer(&source.key()), 0);
    others.writer.write_all(b"b").unwrap();
    others.reader.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_unix_socket_is_for_its_owner_and_tells_who_comes() {
    let (_source, target) = friends();
    let temp = tempfile::tempdir().unwrap();
    let (directory, path) = (temp.path().join("run"), temp.path().join("run/data"));
    let mut options = Site::options(&target);
    options.unix_data = Some(path.clone());
    let site = Site::start(options);
    assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
    echoes(UnixConnector::new(path, patient()).connect().unwrap(), 8 << 20);
    let caller = format!("user {}, process {}", nix::unistd::getuid(), std::process::id());
    assert_eq!(*site.recorder.callers.lock().unwrap(), [caller]);
}

#[test]
fn of_two_servers_at_one_socket_the_second_is_refused_and_what_is_left_is_replaced() {
    let (_source, target) = friends();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("data");
    let options = || {
        let mut options = Site::options(&target);
        options.unix_data = Some(path.clone());
        options
    };
    let refused = || {
        let started = Server::start(options(), Arc::<Recorder>::default());
        started.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let connector = UnixConnector::new(path.clone(), patient());
    let first = Site::start(options());
    assert!(refused().contains("another failback serves at"), "{}", refused());
    drop(alive(&connector));
    // A server that is killed leaves its socket.
    drop(first);
    drop(UnixListener::bind(&path).unwrap());
    let second = Site::start(options());
    drop(alive(&connector));
    drop(second);
    // One that answers and has no lock is not replaced either.
    let foreign = UnixListener::bind(&path).unwrap();
    assert!(refused().contains("another failback serves at"), "{}", refused());
    // Not even if it takes none of those that wait.
    let waiting: Vec<_> = std::iter::from_fn(|| {
        let hurried = Limits { connect: Duration::from_millis(100), ..patient() };
        UnixConnector::new(path.clone(), hurried).connect().ok()
    })
    .collect();
    assert!(refused().contains("another failback serves at"), "{}", refused());
    drop((foreign, waiting));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "something else").unwrap();
    assert!(refused().contains("is no socket"), "{}", refused());
    assert_eq!(fs::read(&path).unwrap(), b"something else");
    fs::remove_file(&path).unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refused().contains("may be written by others"), "{}", refused());
}

#[test]
fn an_address_that_is_taken_is_named_and_nothing_is_served() {
    let (_source, target) = friends();
    let site = Site::of(&target);
    let temp = tempfile::tempdir().unwrap();
    let mut options = Site::options(&target);
    options.unix_data = Some(temp.path().join("data"));
    options.control = vec![site.control()];
    let error = Server::start(options, Arc::<Recorder>::default()).err().unwrap();
    let expected = format!("cannot listen at {}: another program listens there", site.control());
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert!(!temp.path().join("data").exists());
}
