//! Handshakes of machines that know each other.

use crate::machine::{DAY, HOUR, Machine, NOW, Session, friends, meet, name};
use failback_credentials::{Protocol, Refusal, Role, protocol_of};
use rustls::server::Acceptor;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use std::io::{Read, Write};
use std::sync::Arc;

#[test]
fn peers_that_know_each_other_meet() {
    let (source, target) = friends();
    let mut session = Session::data(&source, &target, NOW);
    let site = session.client.peer(&session.met.client, NOW).unwrap();
    let web = session.server.peer(&session.met.server, NOW).unwrap();
    assert_eq!((site.name, site.role, site.fingerprint), (name("site"), Role::Target, target.key()));
    assert_eq!((web.name, web.role, web.fingerprint), (name("web-1"), Role::Source, source.key()));
    assert_eq!(session.met.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.met.server.alpn_protocol(), Some(&b"failback/1"[..]));
    session.met.client.writer().write_all(b"good morning").unwrap();
    session.met.speak();
    let mut heard = [0; 12];
    session.met.server.reader().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"good morning");
}

#[test]
fn what_a_client_wants_shows_in_its_first_message() {
    let (source, target) = friends();
    let token = target.issue("web-2");
    let configs = [source.tls.client(&target.key(), NOW).unwrap(), source.tls.enrolment(&token).unwrap()];
    let told = configs.map(|attempt| {
        let server = failback_credentials::server_name();
        let mut client = rustls::ClientConnection::new(attempt.config(), server).unwrap();
        let (mut hello, mut acceptor) = (Vec::new(), Acceptor::default());
        client.write_tls(&mut hello).unwrap();
        acceptor.read_tls(&mut hello.as_slice()).unwrap();
        protocol_of(&acceptor.accept().unwrap().unwrap().client_hello())
    });
    assert_eq!(told, [Protocol::Data, Protocol::Enrolment]);
}

/// As clients of other programs are: they keep tickets, and come back with them.
fn with_resumption(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = rustls::client::Resumption::in_memory_sessions(16);
    config.enable_early_data = true;
    Arc::new(config)
}

#[test]
fn every_handshake_is_a_whole_one_and_so_meets_a_revocation() {
    let (source, target) = friends();
    let client = source.tls.client(&target.key(), NOW).unwrap();
    let config = with_resumption(&client.config());
    for _ in 0..2 {
        let server = target.tls.server(Protocol::Data, NOW).unwrap();
        let met = meet(Arc::clone(&config), server.config());
        assert_eq!(met.server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(met.client.tls13_tickets_received(), 0);
        server.peer(&met.server, NOW).unwrap();
    }
    target.trust.revoke(&source.key(), NOW).unwrap();
    let server = target.tls.server(Protocol::Data, NOW).unwrap();
    let met = meet(config, server.config());
    assert!(matches!(server.explain(&met.at_server.unwrap_err()), Refusal::Revoked { .. }));
}

#[test]
fn one_configuration_for_two_connections_lets_no_revoked_peer_in() {
    let (source, target) = friends();
    let server = target.tls.server(Protocol::Data, NOW).unwrap();
    for revoked in [false, true] {
        if revoked {
            target.trust.revoke(&source.key(), NOW).unwrap();
        }
        let met = meet(source.tls.client(&target.key(), NOW).unwrap().config(), server.config());
        assert_eq!(server.peer(&met.server, NOW).is_ok(), !revoked);
    }
}

#[test]
fn who_is_revoked_after_the_handshake_is_found_when_asked_for() {
    let (source, target) = friends();
    let session = Session::data(&source, &target, NOW);
    session.server.peer(&session.met.server, NOW).unwrap();
    target.trust.revoke(&source.key(), NOW).unwrap();
    assert!(matches!(session.server.peer(&session.met.server, NOW), Err(Refusal::Revoked { .. })));
}

#[test]
fn a_clock_that_is_hours_off_locks_nobody_out() {
    let (source, target) = (Machine::new(), Machine::new());
    source.knows(&target, "site", Role::Target, None);
    target.knows(&source, "web-1", Role::Source, Some(NOW + HOUR));
    // On the server; the client's clock is asked for nothing but ends of its own.
    for off in [-DAY, -5 * HOUR, HOUR, 13 * HOUR, HOUR + DAY] {
        let session = Session::data(&source, &target, NOW + off);
        session.server.peer(&session.met.server, NOW + off).unwrap();
    }
    for off in [-30 * 365 * DAY, 30 * 365 * DAY] {
        let client = source.tls.client(&target.key(), NOW + off).unwrap();
        let session = Session::of(client, target.tls.server(Protocol::Data, NOW).unwrap());
        session.client.peer(&session.met.client, NOW + off).unwrap();
        session.server.peer(&session.met.server, NOW).unwrap();
    }
}

#[test]
fn without_an_end_no_clock_locks_anybody_out() {
    let (source, target) = friends();
    for now in [0, NOW + 100 * 365 * DAY, i64::MIN, i64::MAX] {
        let session = Session::data(&source, &target, now);
        session.server.peer(&session.met.server, now).unwrap();
    }
}
