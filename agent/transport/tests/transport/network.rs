//! Sessions over TLS.

use crate::common::{
    SOON, breaks_anywhere, breaks_at_once, echoes, end_of_reader, end_of_writer, held, patient, wait_until,
};
use crate::machine::{Machine, Site, connector, connector_with, friends, kinds, name, now};
use failback_credentials::{NewPeer, Protocol, Role};
use failback_transport::{Address, Connector, End, Kind, Limits, Network, Runtime, TlsConnector};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn bytes_go_both_ways_and_the_end_comes_last() {
    for kind in kinds() {
        let (source, target) = friends();
        let mut options = Site::options(&target);
        options.runtime = Some(kind);
        let site = Site::start(options);
        let connector = connector_with(&source, &target, site.data(), patient(), kind);
        echoes(connector.connect().unwrap(), 8 << 20);
        echoes(connector.connect().unwrap(), 0);
        assert_eq!(*site.recorder.callers.lock().unwrap(), ["web-1 (source)"; 2]);
        wait_until("all have gone", || site.server.connections() == 0);
        assert!(site.recorder.events.lock().unwrap().is_empty());
    }
}

#[test]
fn breaking_ends_a_reader_and_a_writer_that_wait() {
    let (source, target) = friends();
    let site = Site::of(&target);
    site.recorder.mute.store(true, Ordering::SeqCst);
    breaks_at_once(connector(&source, &target, site.data()).connect().unwrap());
    site.recorder.mute.store(false, Ordering::SeqCst);
    site.recorder.tells("session: the connection ");
}

#[test]
fn breaking_anywhere_loses_what_was_not_read_and_nothing_else() {
    for kind in kinds() {
        let (source, target) = friends();
        let mut options = Site::options(&target);
        options.runtime = Some(kind);
        let site = Site::start(options);
        let connector = connector_with(&source, &target, site.data(), patient(), kind);
        breaks_anywhere(60, || connector.connect().unwrap());
        wait_until("all have gone", || site.server.connections() == 0);
    }
}

/// A server that is not ours: does the handshake, as far as that goes, and then what the test wants.
fn raw_server<T: Send + 'static>(
    target: &Machine,
    then: impl Fn(&mut rustls::StreamOwned<rustls::ServerConnection, TcpStream>, io::Result<()>) -> T + Send + 'static,
) -> (SocketAddr, mpsc::Receiver<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let tls = target.tls.clone();
    let (sender, results) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let attempt = tls.server(Protocol::Data, now()).unwrap();
            let connection = rustls::ServerConnection::new(attempt.config()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let shaken = stream.conn.complete_io(&mut stream.sock).map(drop);
            if sender.send(then(&mut stream, shaken)).is_err() {
                return;
            }
        }
    });
    (at, results)
}

#[test]
fn what_was_written_last_arrives_though_the_link_is_gone() {
    const LEN: usize = 16 << 20;
    let (source, target) = friends();
    let (at, results) = raw_server(&target, |stream, shaken| {
        shaken.unwrap();
        // It says something that nobody hears, and reads slowly: all buffers are full when the link goes.
        stream.write_all(&vec![7; 1 << 20]).unwrap();
        let mut all = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(all),
                Ok(len) => all += len,
                Err(error) => return Err((all, error)),
            }
            thread::sleep(Duration::from_millis(2));
        }
    });
    for _ in 0..3 {
        let connector = connector(&source, &target, at);
        let mut link = connector.connect().unwrap();
        link.writer.write_all(&vec![1; LEN]).unwrap();
        drop(link);
        drop(connector);
        assert_eq!(results.recv().unwrap().unwrap(), LEN);
    }
}

#[test]
fn a_refusal_is_heard_though_the_connection_is_reset() {
    let source = Machine::new();
    let target = Machine::new();
    source.knows(&target, "site", Role::Target);
    let (at, _results) = raw_server(&target, |stream, shaken| {
        shaken.unwrap_err();
        // The refusal is said, and what the client has sent is never read.
        drop(stream.conn.write_tls(&mut stream.sock));
    });
    let connector = connector(&source, &target, at);
    for _ in 0..30 {
        let mut link = connector.connect().unwrap();
        let error = end_of_writer(&mut link);
        assert!(matches!(End::of(&error), Some(End::Refused(_))), "{error}");
    }
}

#[test]
fn a_link_that_is_broken_off_is_no_end() {
    let (source, target) = friends();
    let site = Site::of(&target);
    let connector = connector(&source, &target, site.data());
    for round in 1..=20 {
        let mut link = connector.connect().unwrap();
        link.writer.write_all(b"some").unwrap();
        link.reader.read_exact(&mut [0; 4]).unwrap();
        (link.breaker)();
        wait_until("the session has heard", || site.recorder.events.lock().unwrap().len() == round);
    }
    let events = site.recorder.events.lock().unwrap();
    assert!(events.iter().all(|event| event.starts_with("session: the connection was cut")), "{events:?}");
}

#[test]
fn whoever_is_not_trusted_is_told_so_whatever_it_sends_first() {
    let (source, target) = friends();
    let (stranger, revoked, expired) = (Machine::new(), Machine::new(), Machine::new());
    for machine in [&stranger, &revoked, &expired] {
        machine.knows(&target, "site", Role::Target);
    }
    target.knows(&revoked, "web-2", Role::Source);
    target.trust.revoke(&revoked.key(), now()).unwrap();
    let ended = Some(now() - 2 * 86400);
    let new = NewPeer { name: name("web-3"), fingerprint: expired.key(), role: Role::Source, expires: ended };
    target.trust.add(&new, now() - 3 * 86400).unwrap();
    let site = Site::of(&target);
    for (machine, told, written) in [
        (&stranger, "does not know this machine's key", "is not known here"),
        (&revoked, "has revoked this machine's key", "web-2 was revoked here"),
        (&expired, "trust in this machine has ended", "trust in web-3 ended"),
    ] {
        let connector = connector(machine, &target, site.data());
        for round in 0..10 {
            // The handshake is through on this side before the other one has looked at the key.
            let mut link = connector.connect().unwrap();
            if round % 2 == 1 {
                drop(link.writer.write_all(&vec![0; 1 << 20]));
            }
            let error = end_of_reader(&mut link);
            assert!(matches!(End::of(&error), Some(End::Refused(why)) if why.contains(told)), "{error}");
            let error = end_of_writer(&mut link);
            assert!(error.to_string().contains(told), "{error}");
        }
        site.recorder.tells(written);
    }
    assert!(site.recorder.callers.lock().unwrap().is_empty(), "no session has begun");
    echoes(connector(&source, &target, site.data()).connect().unwrap(), 1000);
}

#[test]
fn another_servers_key_is_refused_before_anything_is_sent() {
    let (source, target) = friends();
    let other = Machine::new();
    other.knows(&source, "web-1", Role::Source);
    let site = Site::of(&other);
    let error = connector(&source, &target, site.data()).connect().err().unwrap();
    let sentence = error.to_string();
    assert!(sentence.contains(&format!("the server has the key {}, and {}", other.key(), target.key())), "{sentence}");
    site.recorder.tells("another key");
    // A server whose key is the right one and that is not trusted any more.
    source.trust.revoke(&target.key(), now()).unwrap();
    let site = Site::of(&target);
    let error = connector(&source, &target, site.data()).connect().err().unwrap();
    assert!(error.to_string().contains("site was revoked here"), "{error}");
}

/// A port that is taken and not listened at.
fn held_port() -> (SocketAddr, OwnedFd) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
    let held = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(held.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let at: SockaddrIn = getsockname(held.as_raw_fd()).unwrap();
    (SocketAddr::V4(at.into()), held)
}

#[test]
fn who_does_not_answer_is_named() {
    let (source, target) = friends();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let hurried = Limits { connect: Duration::from_secs(1), ..patient() };
    let sentence = |connector: &TlsConnector| connector.connect().err().unwrap().to_string();
    let silent = sentence(&connector_with(&source, &target, at, hurried, Kind::Tokio));
    assert!(silent.contains("takes connections and says nothing for 1 s"), "{silent}");

    let answers = thread::spawn(move || {
        // The first one was not taken.
        listener.accept().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").unwrap();
        drop(stream.read(&mut [0; 2000]));
    });
    let other = sentence(&connector(&source, &target, at));
    assert!(other.contains(&at.to_string()) || other.contains("cannot be secured"), "{other}");
    answers.join().unwrap();

    // Nobody listens there, and nobody else can.
    let (at, _held) = held_port();
    let refused = sentence(&connector(&source, &target, at));
    assert!(refused.starts_with(&format!("{at} cannot be reached within 20 s ({at}: ")), "{refused}");
    assert!(refused.contains("Connection refused"), "{refused}");
    let runtime = Arc::new(Runtime::start_as(Kind::Tokio).unwrap());
    let nowhere = "nowhere.invalid".parse().unwrap();
    let unknown = TlsConnector::new(nowhere, source.tls.clone(), target.key(), patient(), runtime);
    let began = Instant::now();
    let unknown = sentence(&unknown);
    assert!(unknown.starts_with("no address is known for nowhere.invalid ("), "{unknown}");
    assert!(began.elapsed() < Duration::from_secs(25));
}

#[test]
fn every_address_leads_to_what_connects_to_it() {
    let (source, target) = friends();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("data");
    let mut options = Site::options(&target);
    options.unix_data = Some(path.clone());
    let site = Site::start(options);
    let runtimes = vec![Arc::new(Runtime::start().unwrap())];
    let network = Network { tls: source.tls.clone(), server: target.key(), runtimes, streams: 2 };
    let at = site.data();
    for text in ["exec:cat", &format!("unix:{}", path.display()), &at.to_string(), &format!("tls:{at}")] {
        let address: Address = text.parse().unwrap();
        echoes(address.connector(patient(), Some(network.clone())).unwrap().connect().unwrap(), 100_000);
        let without = address.connector(patient(), None);
        assert_eq!(without.is_err(), matches!(address, Address::Tls(_)), "{text}");
    }
}

#[test]
fn every_address_of_a_name_is_tried() {
    let (source, target) = friends();
    let site = Site::of(&target);
    // It may be ::1 first, where nobody listens.
    let address = format!("localhost:{}", site.data().port()).parse().unwrap();
    let runtime = Arc::new(Runtime::start().unwrap());
    let connector = TlsConnector::new(address, source.tls.clone(), target.key(), patient(), runtime);
    echoes(connector.connect().unwrap(), 1000);
}

#[test]
fn silence_and_stalling_break_a_connection() {
    let (source, target) = friends();
    let site = Site::of(&target);
    site.recorder.mute.store(true, Ordering::SeqCst);
    let limit = Duration::from_millis(300);
    let limits = Limits { silence: limit, stall: limit, ..patient() };
    let connector = connector_with(&source, &target, site.data(), limits, Kind::Tokio);
    let began = Instant::now();
    let error = end_of_reader(&mut connector.connect().unwrap());
    assert_eq!(End::of(&error), Some(&End::Silent(limit)), "{error}");
    assert!(began.elapsed() < SOON);
    let error = end_of_writer(&mut connector.connect().unwrap());
    assert_eq!(End::of(&error), Some(&End::Stalled(limit)), "{error}");
    site.recorder.mute.store(false, Ordering::SeqCst);
}

#[test]
fn nothing_is_left_of_links_and_servers_that_have_gone() {
    for kind in kinds() {
        let (source, target) = friends();
        let before = held();
        for round in 0..3 {
            let mut options = Site::options(&target);
            options.runtime = Some(kind);
            let site = Site::start(options);
            let connector = connector_with(&source, &target, site.data(), patient(), kind);
            for number in 0..10 {
                let mut link = connector.connect().unwrap();
                link.writer.write_all(b"some").unwrap();
                link.reader.read_exact(&mut [0; 4]).unwrap();
                if number % 2 == round % 2 {
                    (link.breaker)();
                }
            }
            site.server.stop(SOON).unwrap();
        }
        wait_until("all threads and descriptors have gone", || held() == before);
    }
}
