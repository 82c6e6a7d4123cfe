//! The API's connections.

use crate::common::{SOON, end_of_reader, patient, wait_until};
use crate::machine::{Machine, Site, connector, friends, host_port, kinds, now};
use failback_credentials::Role;
use failback_transport::http::{Method, StatusCode};
use failback_transport::{ApiClient, Bounds, Connector, End, Kind, Runtime};
use rustls::{ClientConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn over_tls(from: &Machine, to: &Machine, at: SocketAddr, kind: Kind) -> ApiClient {
    let runtime = Arc::new(Runtime::start_as(kind).unwrap());
    ApiClient::tls(host_port(at), from.tls.clone(), to.key(), patient(), runtime)
}

fn local(path: &Path) -> ApiClient {
    ApiClient::unix(path.to_owned(), patient(), Arc::new(Runtime::start_as(Kind::Tokio).unwrap()))
}

/// A site with a socket for the API.
fn site(target: &Machine, bounds: Bounds) -> (tempfile::TempDir, PathBuf, Site) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("api");
    let mut options = Site::options(target);
    options.unix_control = Some(path.clone());
    options.bounds = bounds;
    (temp, path, Site::start(options))
}

#[test]
fn requests_are_answered_with_who_asks() {
    for kind in kinds() {
        let (source, target) = friends();
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("api");
        let mut options = Site::options(&target);
        options.unix_control = Some(path.clone());
        options.runtime = Some(kind);
        let site = Site::start(options);
        let client = over_tls(&source, &target, site.control(), kind);
        for _ in 0..3 {
            let answer = client.call(Method::GET, "/v1/jobs?all=1", "", SOON).unwrap();
            assert_eq!(answer.status, StatusCode::CREATED);
            assert_eq!(answer.body, "GET /v1/jobs?all=1 of 0 bytes for web-1 (source)");
        }
        let body = vec![b' '; 1 << 20];
        let answer = client.call(Method::POST, "/v1/pairs", body, SOON).unwrap();
        assert_eq!(answer.body, "POST /v1/pairs of 1048576 bytes for web-1 (source)");
        let answer = local(&path).call(Method::DELETE, "/v1/pairs/a", "", SOON).unwrap();
        let caller = format!("user {}, process {}", nix::unistd::getuid(), std::process::id());
        assert_eq!(answer.body, format!("DELETE /v1/pairs/a of 0 bytes for {caller}"));
        *site.recorder.answer.lock().unwrap() = Some(10 << 20);
        assert_eq!(client.call(Method::GET, "/", "", SOON).unwrap().body.len(), 10 << 20);
        *site.recorder.answer.lock().unwrap() = Some(17 << 20);
        assert!(client.call(Method::GET, "/", "", SOON).is_err(), "an answer is bounded too");
        wait_until("all have gone", || site.server.connections() == 0);
    }
}

#[test]
fn a_body_that_is_too_long_is_refused_and_not_kept() {
    let (source, target) = friends();
    let (_temp, path, site) = site(&target, Bounds::default());
    let body = vec![b' '; (1 << 20) + 1];
    for client in [over_tls(&source, &target, site.control(), Kind::Tokio), local(&path)] {
        let answer = client.call(Method::POST, "/", body.clone(), SOON);
        // Whoever is told while it still sends may not hear it.
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == StatusCode::PAYLOAD_TOO_LARGE));
    }
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    // Its length is not told.
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"10000\r\n".as_slice(), &vec![b' '; 0x10000], b"\r\n"].concat();
    for _ in 0..17 {
        drop(stream.write_all(&chunk));
    }
    let mut said = Vec::new();
    drop(stream.read_to_end(&mut said));
    assert!(said.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&said));
    assert!(site.recorder.callers.lock().unwrap().is_empty(), "none was handed on");
}

/// Sends pieces of a request with pauses, until it is answered or closed; what was said, and when it was closed.
fn drips(path: &Path, first: &[u8], piece: &[u8]) -> (String, Duration) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    stream.write_all(first).unwrap();
    let began = Instant::now();
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while began.elapsed() < SOON {
        drop(stream.write_all(piece));
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => said.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    (String::from_utf8(said).unwrap(), began.elapsed())
}

#[test]
fn who_is_slow_is_given_up_at_every_stage() {
    let (_source, target) = friends();
    let limit = Duration::from_millis(400);
    let (_temp, path, site) = site(&target, Bounds { head: limit, body: limit, answer: limit, ..Bounds::default() });
    for (begin, piece, status) in [
        (&b""[..], &b""[..], ""),
        (b"GET / HTTP/1.1\r\n", b"", ""),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n", ""),
        (b"POST / HTTP/1.1\r\nContent-Length: 900000\r\n\r\n", b"", "HTTP/1.1 408"),
        (b"POST / HTTP/1.1\r\nContent-Length: 900000\r\n\r\n", b"x", "HTTP/1.1 408"),
    ] {
        let (said, after) = drips(&path, begin, piece);
        let what = String::from_utf8_lossy(begin);
        assert!(said.starts_with(status), "{what}: {said}");
        assert!((limit / 2..limit * 8).contains(&after), "{what}: {after:?}");
    }
    assert!(site.recorder.callers.lock().unwrap().is_empty());
    // Who does not take the answer.
    *site.recorder.answer.lock().unwrap() = Some(8 << 20);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    wait_until("it was asked", || !site.recorder.callers.lock().unwrap().is_empty());
    wait_until("it was given up", || site.server.connections() == 0);
    let mut said = Vec::new();
    drop(stream.read_to_end(&mut said));
    assert!(said.len() < 8 << 20);
}

#[test]
fn a_connection_is_for_one_request() {
    let (_source, target) = friends();
    let (_temp, path, site) = site(&target, Bounds::default());
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("connection: close") && said.contains("GET /a") && !said.contains("/b"), "{said}");
    assert_eq!(site.recorder.callers.lock().unwrap().len(), 1);
}

#[test]
fn hostile_heads_are_refused() {
    let (_source, target) = friends();
    let (_temp, path, site) = site(&target, Bounds::default());
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    let smuggled = "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd";
    for head in [many.as_str(), &long, smuggled, "\0\0\0\0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = UnixStream::connect(&path).unwrap();
        drop(stream.write_all(head.as_bytes()));
        let mut said = Vec::new();
        drop(stream.read_to_end(&mut said));
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    assert!(site.recorder.callers.lock().unwrap().is_empty());
}

#[test]
fn who_is_not_trusted_hears_why_and_each_port_is_for_its_own() {
    let (source, target) = friends();
    let site = Site::of(&target);
    let stranger = Machine::new();
    stranger.knows(&target, "site", Role::Target);
    for _ in 0..5 {
        let refused = over_tls(&stranger, &target, site.control(), Kind::Tokio).call(Method::GET, "/", "", SOON);
        let Err(End::Refused(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("does not know this machine's key"), "{why}");
    }
    let refused = over_tls(&source, &target, site.data(), Kind::Tokio).call(Method::GET, "/", "", SOON);
    assert!(refused.unwrap_err().to_string().contains("speaks another protocol"));
    let refused = connector(&source, &target, site.control()).connect();
    let refused = refused.map(|mut link| end_of_reader(&mut link));
    let refused = refused.map_or_else(|error| error.to_string(), |error| error.to_string());
    assert!(refused.contains("speaks another protocol"), "{refused}");
    target.trust.revoke(&source.key(), now()).unwrap();
    let refused = over_tls(&source, &target, site.control(), Kind::Tokio).call(Method::GET, "/", "", SOON);
    assert!(refused.unwrap_err().to_string().contains("has revoked"));
    assert!(site.recorder.callers.lock().unwrap().is_empty());
}

/// What the control port says to a client that offers these protocols and then asks; or why it says nothing.
fn said_to(from: &Machine, to: &Machine, at: SocketAddr, offered: &[&str], request: &str) -> std::io::Result<String> {
    let mut config = (*from.tls.api(&to.key(), now()).unwrap().config()).clone();
    config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
    let client = ClientConnection::new(Arc::new(config), failback_credentials::server_name()).unwrap();
    let stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut stream = StreamOwned::new(client, stream);
    stream.write_all(request.as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn programs_that_know_nothing_of_failback_may_ask_with_a_known_key() {
    let (source, target) = friends();
    let site = Site::of(&target);
    let ask = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    for offered in [&["h2", "http/1.1"][..], &["http/1.1"], &[], &["http/1.1", "failback-api/1"]] {
        let said = said_to(&source, &target, site.control(), offered, ask).unwrap();
        assert!(said.starts_with("HTTP/1.1 201") && said.contains("connection: close"), "{offered:?}: {said}");
        assert!(said.ends_with("GET /metrics of 0 bytes for web-1 (source)"), "{offered:?}: {said}");
    }
    for offered in [&["h2"][..], &["failback/1"], &["failback/1", "failback-streams/1"]] {
        let refused = said_to(&source, &target, site.control(), offered, ask).unwrap_err();
        assert!(refused.to_string().contains("NoApplicationProtocol"), "{offered:?}: {refused}");
    }
    // Where sources connect there is no HTTP, and no client that does not say what it wants.
    let asked = site.recorder.callers.lock().unwrap().len();
    for offered in [&["http/1.1"][..], &[]] {
        let said = said_to(&source, &target, site.data(), offered, ask);
        assert!(said.as_ref().map_or(true, String::is_empty), "{offered:?}: {said:?}");
    }
    // A page cannot ask with the key of a browser.
    let page = "POST /v1/jobs/1/cancel HTTP/1.1\r\nHost: a\r\nOrigin: https://elsewhere\r\nContent-Length: 0\r\n\r\n";
    let said = said_to(&source, &target, site.control(), &["http/1.1"], page).unwrap();
    assert!(said.starts_with("HTTP/1.1 403") && said.contains("a page in a browser"), "{said}");
    // A key that is not known, or no longer.
    let stranger = Machine::new();
    stranger.knows(&target, "site", Role::Target);
    for offered in [&["http/1.1"][..], &[]] {
        let refused = said_to(&stranger, &target, site.control(), offered, ask).unwrap_err();
        assert!(refused.to_string().contains("UnknownCA"), "{offered:?}: {refused}");
    }
    target.trust.revoke(&source.key(), now()).unwrap();
    let refused = said_to(&source, &target, site.control(), &[], ask).unwrap_err();
    assert!(refused.to_string().contains("CertificateRevoked"), "{refused}");
    assert_eq!(site.recorder.callers.lock().unwrap().len(), asked, "none of these was handed on");
}

#[test]
fn a_request_that_takes_long_ends_for_its_client_and_keeps_its_place() {
    let (source, target) = friends();
    let site = Site::of(&target);
    site.recorder.slow.store(true, Ordering::SeqCst);
    let client = over_tls(&source, &target, site.control(), Kind::Tokio);
    let limit = Duration::from_secs(2);
    assert_eq!(client.call(Method::GET, "/", "", limit), Err(End::Silent(limit)));
    wait_until("it is worked on", || !site.recorder.callers.lock().unwrap().is_empty());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(site.server.connections(), 1, "as long as it is worked on");
    assert_eq!(site.server.drop_peer(&source.key()), 1);
    site.recorder.slow.store(false, Ordering::SeqCst);
    wait_until("it has gone", || site.server.connections() == 0);
    client.call(Method::GET, "/", "", SOON).unwrap();
    site.server.stop(SOON).unwrap();
}

#[test]
fn a_daemon_that_is_not_there_is_named() {
    let nobody = local(Path::new("/nowhere/api")).call(Method::GET, "/", "", SOON);
    assert!(nobody.unwrap_err().to_string().starts_with("nobody listens at /nowhere/api"));
    let nothing = local(Path::new("/nowhere/api")).call(Method::GET, "v1/jobs", "", SOON);
    assert!(nothing.unwrap_err().to_string().contains("begins with a slash"));
}
