//! Clients that are none.

use crate::common::{Random, echoes, noise, wait_until};
use crate::machine::{Site, connector, friends, is_closed};
use failback_transport::{Bounds, Connector};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn bounds() -> Bounds {
    Bounds { handshake: Duration::from_secs(3), ..Bounds::default() }
}

#[test]
fn bytes_that_are_no_tls_end_their_own_connection_only() {
    let (source, target) = friends();
    let mut options = Site::options(&target);
    options.bounds = bounds();
    let site = Site::start(options);
    for at in [site.data(), site.control()] {
        for seed in 0..20 {
            let mut stream = TcpStream::connect(at).unwrap();
            let mut bytes = noise(seed, 20_000);
            match seed % 4 {
                0 => bytes = b"GET / HTTP/1.1\r\nHost: site\r\n\r\n".to_vec(),
                // A record of TLS that says it holds the first message of a handshake.
                1 => bytes[..9].copy_from_slice(&[22, 3, 1, 0x40, 0, 1, 0, 0x3F, 0xFC]),
                2 => bytes[..5].copy_from_slice(&[22, 3, 3, 0, 0]),
                _ => {}
            }
            drop(stream.write_all(&bytes));
            assert!(is_closed(&stream), "{seed}");
        }
    }
    site.recorder.tells("refused: this is no client of failback");
    assert!(site.recorder.callers.lock().unwrap().is_empty());
    wait_until("all have gone", || site.server.connections() == 0);
    echoes(connector(&source, &target, site.data()).connect().unwrap(), 1000);
}

#[test]
fn a_handshake_that_stops_anywhere_is_given_up() {
    let (source, target) = friends();
    let mut options = Site::options(&target);
    options.bounds = bounds();
    let site = Site::start(options);
    let attempt = source.tls.client(&target.key(), crate::machine::now()).unwrap();
    let mut tls = rustls::ClientConnection::new(attempt.config(), failback_credentials::server_name()).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    let mut random = Random(5);
    let began = Instant::now();
    let streams: Vec<_> = (0..12)
        .map(|number| {
            let mut stream = TcpStream::connect(site.data()).unwrap();
            let len = if number == 0 { 0 } else { usize::try_from(random.next()).unwrap() % (hello.len() + 1) };
            stream.write_all(&hello[..len]).unwrap();
            stream
        })
        .collect();
    for stream in &streams {
        assert!(is_closed(stream));
    }
    assert!(began.elapsed() < Duration::from_secs(20));
    site.recorder.tells("nothing that fits was said");
    wait_until("all have gone", || site.server.connections() == 0);
}

/// Takes every server.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// What a client of another program hears.
fn heard(at: std::net::SocketAddr, version: &'static rustls::SupportedProtocolVersion) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"failback/1".to_vec()];
    let mut tls = rustls::ClientConnection::new(Arc::new(config), failback_credentials::server_name()).unwrap();
    let mut stream = TcpStream::connect(at).unwrap();
    let mut tls = rustls::Stream::new(&mut tls, &mut stream);
    let error = tls.write_all(b"hello").and_then(|()| tls.read_exact(&mut [0]));
    error.unwrap_err().to_string()
}

#[test]
fn who_has_no_key_or_an_old_version_is_refused() {
    let (_source, target) = friends();
    let site = Site::of(&target);
    let told = heard(site.data(), &rustls::version::TLS12);
    assert!(told.contains("ProtocolVersion"), "{told}");
    site.recorder.tells("offers no TLS 1.3");
    let told = heard(site.data(), &rustls::version::TLS13);
    assert!(told.contains("CertificateRequired"), "{told}");
    site.recorder.tells("shows no Ed25519 key");
}

#[test]
fn who_is_refused_hears_it_and_then_the_end_and_no_reset() {
    let (source, target) = friends();
    let site = Site::of(&target);
    target.trust.revoke(&source.key(), crate::machine::now()).unwrap();
    let attempt = source.tls.client(&target.key(), crate::machine::now()).unwrap();
    let mut tls = rustls::ClientConnection::new(attempt.config(), failback_credentials::server_name()).unwrap();
    let mut stream = TcpStream::connect(site.data()).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).unwrap();
    }
    // More than the server reads of one that it refuses, and long before anything is read.
    tls.writer().write_all(&vec![1; 30_000]).unwrap();
    while tls.wants_write() {
        tls.write_tls(&mut stream).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert!(!said.is_empty());
}

#[test]
fn strangers_have_few_places_and_never_those_of_peers() {
    let (source, target) = friends();
    let mut options = Site::options(&target);
    options.bounds = Bounds { strangers: 6, strangers_of_one: 4, handshake: Duration::from_secs(60), ..bounds() };
    let site = Site::start(options);
    let mut working = connector(&source, &target, site.data()).connect().unwrap();
    working.writer.write_all(b"a").unwrap();
    working.reader.read_exact(&mut [0]).unwrap();
    let strangers: Vec<_> = (0..4).map(|_| TcpStream::connect(site.data()).unwrap()).collect();
    wait_until("they are there", || site.server.connections() == 5);
    for _ in 0..50 {
        assert!(is_closed(&TcpStream::connect(site.data()).unwrap()));
    }
    site.recorder.tells("full: 4 connections at once from this address have not yet shown a key");
    let told = site.recorder.events.lock().unwrap().len();
    assert_eq!(told, 1, "many refusals are told once");
    // Another address of this machine has places of its own, and all together have six.
    let from_another = || {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
        use std::os::fd::AsRawFd;
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 9, 0)).unwrap();
        connect(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, site.data().port())).unwrap();
        TcpStream::from(fd)
    };
    let others = [from_another(), from_another()];
    wait_until("they are there", || site.server.connections() == 7);
    assert!(is_closed(&from_another()));
    working.writer.write_all(b"b").unwrap();
    working.reader.read_exact(&mut [0]).unwrap();
    drop((strangers, others));
    wait_until("they have gone", || site.server.connections() == 1);
    echoes(connector(&source, &target, site.data()).connect().unwrap(), 1000);
}

#[test]
fn a_peer_has_so_many_places_and_no_more() {
    let (source, target) = friends();
    let mut options = Site::options(&target);
    options.bounds = Bounds { connections_of_one: 2, ..Bounds::default() };
    let site = Site::start(options);
    let connector = connector(&source, &target, site.data());
    let mut links = [connector.connect().unwrap(), connector.connect().unwrap()];
    for link in &mut links {
        link.writer.write_all(b"a").unwrap();
        link.reader.read_exact(&mut [0]).unwrap();
    }
    let mut third = connector.connect().unwrap();
    assert!(third.reader.read_exact(&mut [0]).is_err());
    site.recorder.tells("full: 2 connections of this peer");
    drop(links);
    wait_until("they have gone", || site.server.connections() == 0);
    echoes(connector.connect().unwrap(), 1000);
}
