//! Machines that are let in by a token, over the network.

use crate::common::{echoes, patient};
use crate::machine::{Machine, Site, connector, friends, host_port, is_closed, name, now};
use failback_credentials::{Fingerprint, Role, Token, Welcome};
use failback_transport::{Bounds, Connector, EnrolError, Kind, Runtime, enrol};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

fn tries(machine: &Machine, at: SocketAddr, token: &Token) -> Result<Welcome, EnrolError> {
    let runtime = Runtime::start_as(Kind::Tokio).unwrap();
    enrol(&host_port(at), &machine.tls, token, patient(), &runtime)
}

#[test]
fn a_token_lets_a_machine_in_once_and_then_it_is_known() {
    let target = Machine::new();
    let site = Site::of(&target);
    let (source, thief) = (Machine::new(), Machine::new());
    let token = target.issue("web-1");
    // At either address.
    let welcome = tries(&source, site.control(), &token).unwrap();
    assert_eq!((welcome.name, welcome.role), (name("web-1"), Role::Source));
    assert_eq!(welcome.server.fingerprint, target.key());
    source.trust.add(&welcome.server, now()).unwrap();
    site.recorder.tells("enrolled: web-1");
    echoes(connector(&source, &target, site.data()).connect().unwrap(), 1000);
    let refused = tries(&thief, site.data(), &token).unwrap_err().to_string();
    assert!(refused.starts_with("the token has been used"), "{refused}");
    site.recorder.tells("refused: the token has been used");
    tries(&source, site.data(), &token).unwrap();
    assert_eq!(target.trust.peers().unwrap().len(), 1);
}

#[test]
fn a_token_goes_to_its_own_server_only() {
    let (target, other, source) = (Machine::new(), Machine::new(), Machine::new());
    let site = Site::of(&other);
    let refused = tries(&source, site.data(), &target.issue("web-1")).unwrap_err().to_string();
    assert!(refused.contains("this is another machine"), "{refused}");
    assert!(other.trust.peers().unwrap().is_empty());
}

#[test]
fn who_tries_too_often_waits() {
    let target = Machine::new();
    let site = Site::of(&target);
    let source = Machine::new();
    let wrong = target.issue("web-1");
    target.trust.withdraw(&name("web-1")).unwrap();
    let refusals: Vec<_> = (0..7).map(|_| tries(&source, site.data(), &wrong).unwrap_err().to_string()).collect();
    assert!(refusals[4].contains("no such token"), "{refusals:?}");
    assert!(refusals[5].contains("too many tries") && refusals[6].contains("wait"), "{refusals:?}");
}

#[test]
fn where_nobody_is_let_in_by_tokens_none_is_answered() {
    let target = Machine::new();
    let mut options = Site::options(&target);
    options.enrolment = None;
    let site = Site::start(options);
    let refused = tries(&Machine::new(), site.data(), &target.issue("web-1")).unwrap_err().to_string();
    assert!(refused.contains("speaks another protocol"), "{refused}");
}

/// Does the handshake of an enrolment, sends something else than its message, and waits for the end.
fn says(source: &Machine, token: &Token, at: SocketAddr, message: &[u8]) -> Vec<u8> {
    let attempt = source.tls.enrolment(token).unwrap();
    let mut tls = rustls::ClientConnection::new(attempt.config(), failback_credentials::server_name()).unwrap();
    let mut stream = TcpStream::connect(at).unwrap();
    let mut answer = Vec::new();
    {
        let mut tls = rustls::Stream::new(&mut tls, &mut stream);
        tls.write_all(message).unwrap();
        drop(tls.read_to_end(&mut answer));
    }
    assert!(is_closed(&stream));
    answer
}

#[test]
fn messages_that_are_none_are_answered_or_given_up() {
    let (_source, target) = friends();
    let mut options = Site::options(&target);
    options.bounds = Bounds { handshake: Duration::from_secs(3), ..Bounds::default() };
    let site = Site::start(options);
    let (source, token) = (Machine::new(), target.issue("web-2"));
    let answer = says(&source, &token, site.data(), &[0x55; 112]);
    assert_eq!((answer.len(), &answer[..8], answer[10]), (168, b"FBENROLA".as_slice(), 9));
    let began = Instant::now();
    assert!(says(&source, &token, site.data(), &[0x55; 111]).is_empty());
    assert!(began.elapsed() < Duration::from_secs(20));
    let more = says(&source, &token, site.data(), &[0x55; 5000]);
    assert_eq!(more.len(), 168, "what follows is not looked at");
    assert_eq!(target.trust.peers().unwrap().len(), 1);
    assert!(target.trust.check(&source.key(), now()).is_err());
    let _: &Fingerprint = &source.key();
}
