//! Sessions over TLS.

use crate::common::{
    SOON, breaks_anywhere, breaks_at_once, echoes, end_of_reader, end_of_writer, held, patient, wait_until,
};
use crate::machine::{Machine, Site, connector, connector_with, friends, kinds, name, now};
use failback_credentials::{NewPeer, Role};
use failback_transport::{Connector, End, Kind, Limits, Runtime, TlsConnector};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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

#[test]
fn what_was_written_last_arrives_though_the_link_is_gone() {
    let (source, target) = friends();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let attempt = target.tls.server(failback_credentials::Protocol::Data, now()).unwrap();
    let reads = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(attempt.config()).unwrap();
        let mut tls = rustls::Stream::new(&mut tls, &mut stream);
        // It reads late, and says something that nobody hears any more.
        tls.write_all(b"something").unwrap();
        thread::sleep(Duration::from_millis(300));
        let mut all = Vec::new();
        tls.read_to_end(&mut all).unwrap();
        all.len()
    });
    let connector = connector(&source, &target, at);
    let mut link = connector.connect().unwrap();
    link.writer.write_all(&vec![1; 3_000_000]).unwrap();
    drop((link, connector));
    assert_eq!(reads.join().unwrap(), 3_000_000);
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
