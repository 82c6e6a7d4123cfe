//! Links over several connections.

use crate::common::{SOON, breaks_anywhere, breaks_at_once, echoes, end_of_reader, held, noise, patient, wait_until};
use crate::machine::{Machine, Site, connector_with, friends, kinds, now};
use failback_credentials::{Role, server_name};
use failback_transport::{Bounds, Connector, End, Kind, Limits, Runtime, TlsConnector};
use rustls::{ClientConnection, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn many(from: &Machine, to: &Machine, at: SocketAddr, streams: u8, kind: Kind) -> TlsConnector {
    let more = vec![Arc::new(Runtime::start_as(kind).unwrap())];
    connector_with(from, to, at, patient(), kind).streams(streams, more)
}

#[test]
fn bytes_come_in_order_over_any_number_of_streams() {
    for kind in kinds() {
        let (source, target) = friends();
        let mut options = Site::options(&target);
        options.runtime = Some(kind);
        let site = Site::start(options);
        for streams in [2, 3, 16] {
            let connector = many(&source, &target, site.data(), streams, kind);
            echoes(connector.connect().unwrap(), 16 << 20);
            echoes(connector.connect().unwrap(), 1);
            echoes(connector.connect().unwrap(), 0);
        }
        wait_until("all have gone", || site.server.connections() == 0);
        assert_eq!(*site.recorder.callers.lock().unwrap(), vec!["web-1 (source)"; 9]);
        assert!(site.recorder.events.lock().unwrap().is_empty(), "{:?}", site.recorder.events);
    }
}

#[test]
fn breaking_ends_all_streams() {
    let (source, target) = friends();
    let site = Site::of(&target);
    site.recorder.mute.store(true, Ordering::SeqCst);
    breaks_at_once(many(&source, &target, site.data(), 4, Kind::Tokio).connect().unwrap());
    site.recorder.mute.store(false, Ordering::SeqCst);
    site.recorder.tells("session: the connection ");
    wait_until("all have gone", || site.server.connections() == 0);
}

#[test]
fn breaking_anywhere_loses_what_was_not_read_and_nothing_else() {
    let (source, target) = friends();
    let site = Site::of(&target);
    let connector = many(&source, &target, site.data(), 4, Kind::Tokio);
    breaks_anywhere(50, || connector.connect().unwrap());
    wait_until("all have gone", || site.server.connections() == 0);
}

#[test]
fn refusals_are_told_and_nothing_is_left_of_links_that_have_gone() {
    let (source, target) = friends();
    let stranger = Machine::new();
    stranger.knows(&target, "site", Role::Target);
    let before = held();
    {
        let site = Site::of(&target);
        let error = many(&stranger, &target, site.data(), 4, Kind::Tokio).connect().err().unwrap();
        assert!(matches!(End::of(&error), Some(End::Refused(why)) if why.contains("does not know")), "{error}");
        let connector = many(&source, &target, site.data(), 4, Kind::Tokio);
        for round in 0..6 {
            let mut link = connector.connect().unwrap();
            link.writer.write_all(b"some").unwrap();
            link.reader.read_exact(&mut [0; 4]).unwrap();
            if round % 2 == 0 {
                (link.breaker)();
            }
        }
        let mut link = connector.connect().unwrap();
        link.writer.write_all(b"some").unwrap();
        link.reader.read_exact(&mut [0; 4]).unwrap();
        target.trust.revoke(&source.key(), now()).unwrap();
        assert!(site.server.drop_peer(&source.key()) >= 4);
        end_of_reader(&mut link);
        site.server.stop(SOON).unwrap();
    }
    wait_until("all threads and descriptors have gone", || held() == before);
}

#[test]
fn a_link_of_several_streams_knows_silence() {
    let (source, target) = friends();
    let site = Site::of(&target);
    site.recorder.mute.store(true, Ordering::SeqCst);
    let limits = Limits { silence: Duration::from_millis(300), ..patient() };
    let connector = connector_with(&source, &target, site.data(), limits, Kind::Tokio).streams(3, Vec::new());
    let error = end_of_reader(&mut connector.connect().unwrap());
    assert_eq!(End::of(&error), Some(&End::Silent(Duration::from_millis(300))), "{error}");
    site.recorder.mute.store(false, Ordering::SeqCst);
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A stream of a peer that says what it likes.
fn raw(source: &Machine, target: &Machine, at: SocketAddr) -> Stream {
    let attempt = source.tls.stream(&target.key(), now()).unwrap();
    let tls = ClientConnection::new(attempt.config(), server_name()).unwrap();
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    StreamOwned::new(tls, stream)
}

fn preface(count: u8, index: u8, group: u8) -> [u8; 32] {
    let mut preface = [0; 32];
    preface[..8].copy_from_slice(b"FBSTREAM");
    preface[8] = 1;
    (preface[10], preface[11]) = (count, index);
    preface[16..].fill(group);
    preface
}

/// What the server says of a stream.
fn verdict(stream: &mut Stream) -> u8 {
    let mut answer = [0; 32];
    stream.read_exact(&mut answer).unwrap();
    answer[12]
}

/// Whether the other side ends a stream, whatever it says before.
fn ends(stream: &mut Stream) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::WouldBlock, "it does not end");
                return;
            }
        }
    }
}

#[test]
fn prefaces_that_are_none_or_contradict_each_other_are_refused() {
    let (source, target) = friends();
    let site = Site::of(&target);
    let open = || raw(&source, &target, site.data());
    let wrong = |change: &dyn Fn(&mut [u8; 32])| {
        let mut preface = preface(2, 0, 7);
        change(&mut preface);
        preface
    };
    for (what, preface) in [
        ("magic", wrong(&|preface| preface[0] = b'f')),
        ("version", wrong(&|preface| preface[8] = 2)),
        ("no streams", wrong(&|preface| preface[10] = 0)),
        ("too many", wrong(&|preface| preface[10] = 17)),
        ("index", wrong(&|preface| preface[11] = 2)),
    ] {
        let mut stream = open();
        stream.write_all(&preface).unwrap();
        assert_eq!(verdict(&mut stream), 1, "{what}");
        ends(&mut stream);
    }
    for second in [preface(2, 0, 9), preface(3, 1, 9)] {
        let mut streams = [open(), open()];
        streams[0].write_all(&preface(2, 0, 9)).unwrap();
        streams[0].flush().unwrap();
        // The order in which they come is the order in which they are sent.
        std::thread::sleep(Duration::from_millis(200));
        streams[1].write_all(&second).unwrap();
        for stream in &mut streams {
            assert_eq!(verdict(stream), 1);
            ends(stream);
        }
    }
    site.recorder.tells("refused: streams of one link contradict each other");
    assert!(site.recorder.callers.lock().unwrap().is_empty());
    wait_until("all have gone", || site.server.connections() == 0);
}

#[test]
fn a_group_that_does_not_become_whole_is_given_up() {
    let (source, target) = friends();
    let mut options = Site::options(&target);
    options.bounds = Bounds { handshake: Duration::from_secs(3), ..Bounds::default() };
    let site = Site::start(options);
    let began = Instant::now();
    let mut streams = [raw(&source, &target, site.data()), raw(&source, &target, site.data())];
    for (index, stream) in (0..).zip(&mut streams) {
        stream.write_all(&preface(3, index, 1)).unwrap();
    }
    for stream in &mut streams {
        assert_eq!(verdict(stream), 2);
        ends(stream);
    }
    assert!(began.elapsed() < Duration::from_secs(20));
    site.recorder.tells("refused: 2 of 3 streams of a link came in time");
    wait_until("all have gone", || site.server.connections() == 0);
    // The same key of another peer is another group.
    let other = Machine::new();
    other.knows(&target, "site", Role::Target);
    target.knows(&other, "web-2", Role::Source);
    let mut streams = [raw(&source, &target, site.data()), raw(&other, &target, site.data())];
    for (index, stream) in (0..).zip(&mut streams) {
        stream.write_all(&preface(2, index, 1)).unwrap();
    }
    for stream in &mut streams {
        assert_eq!(verdict(stream), 2);
    }
    assert!(site.recorder.callers.lock().unwrap().is_empty());
}

fn chunk(number: u64, len: u32, bytes: &[u8]) -> Vec<u8> {
    [&number.to_le_bytes()[..], &len.to_le_bytes(), &[0; 4], bytes].concat()
}

/// Two streams of a link whose session echoes.
fn pair(source: &Machine, target: &Machine, at: SocketAddr, group: u8) -> [Stream; 2] {
    let mut streams = [raw(source, target, at), raw(source, target, at)];
    for (index, stream) in (0..).zip(&mut streams) {
        stream.write_all(&preface(2, index, group)).unwrap();
    }
    for stream in &mut streams {
        assert_eq!(verdict(stream), 0);
    }
    streams
}

#[test]
fn chunks_that_break_the_rules_break_the_link() {
    let (source, target) = friends();
    let site = Site::of(&target);
    let cases: [(&str, Vec<u8>, Vec<u8>); 6] = [
        ("too long", chunk(0, 65_537, &[]), vec![]),
        ("reserved", [&[0; 8][..], &1_u32.to_le_bytes(), &[0, 0, 0, 1], b"x"].concat(), vec![]),
        ("twice", chunk(0, 1, b"a"), chunk(0, 1, b"b")),
        ("backwards", [chunk(0, 1, b"a"), chunk(0, 1, b"b")].concat(), vec![]),
        ("behind the end", [chunk(0, 0, b""), chunk(u64::MAX, 1, b"b")].concat(), vec![]),
        ("after the end", chunk(0, 0, b""), chunk(1, 1, b"b")),
    ];
    for (round, (what, first, second)) in (0..).zip(cases) {
        let mut streams = pair(&source, &target, site.data(), round);
        streams[0].write_all(&first).unwrap();
        drop(streams[1].write_all(&second));
        for stream in &mut streams {
            ends(stream);
        }
        wait_until(what, || site.server.connections() == 0);
    }
    site.recorder.tells("does not keep to the protocol of several streams: a chunk is longer than it may be");
}

#[test]
fn of_two_streams_with_one_chunk_one_is_believed_and_the_link_breaks() {
    let (source, target) = friends();
    let site = Site::of(&target);
    for round in 0..40 {
        let mut streams = pair(&source, &target, site.data(), round);
        for stream in &mut streams {
            stream.write_all(&chunk(0, 1, b"a")).unwrap();
        }
        for stream in &mut streams {
            ends(stream);
        }
    }
    site.recorder.tells("a chunk comes twice");
}

#[test]
fn a_stream_that_ends_in_the_middle_breaks_the_link() {
    let (source, target) = friends();
    let site = Site::of(&target);
    // Within a chunk, between two of them without a word, and all of them with one but without the end of the direction.
    for (round, how) in (0..).zip(["within", "cut", "no end"]) {
        let [mut one, mut two] = pair(&source, &target, site.data(), round);
        one.write_all(&chunk(0, 5, b"hello")).unwrap();
        wait_until("the session has begun", || site.recorder.callers.lock().unwrap().len() > usize::from(round));
        match how {
            "within" => two.write_all(&chunk(1, 5, b"he")).unwrap(),
            "cut" => {}
            _ => {
                for stream in [&mut one, &mut two] {
                    stream.conn.send_close_notify();
                    stream.flush().unwrap();
                }
                two.sock.set_read_timeout(Some(SOON)).unwrap();
                ends(&mut one);
            }
        }
        drop(two);
        ends(&mut one);
        wait_until(how, || site.server.connections() == 0);
    }
    let events = site.recorder.events.lock().unwrap();
    let cut = events.iter().filter(|event| event.contains("session: the connection ")).count();
    assert_eq!(cut, 3, "{events:?}");
}

#[test]
fn chunks_that_are_not_due_are_not_kept() {
    let (source, target) = friends();
    let site = Site::of(&target);
    let [mut early, mut late] = pair(&source, &target, site.data(), 1);
    // A stream may run ahead as far as sockets hold; what is due comes at last.
    early.sock.set_nonblocking(true).unwrap();
    let bytes = noise(1, 65_536);
    let mut sent = 0_u64;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        if early.write_all(&chunk(sent + 1, 65_536, &bytes)).is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 400, "{sent} chunks were taken ahead of their turn");
    assert_eq!(site.server.connections(), 2, "and the link waits");
    late.write_all(&chunk(0, 65_537, &[])).unwrap();
    ends(&mut late);
    wait_until("all have gone", || site.server.connections() == 0);
}
