//! Keys that tokens let in, and those that they do not.

use crate::machine::{DAY, HOUR, Machine, NOW, Session, name};
use failback_credentials::{
    ANSWER_LEN, AnswerError, EnrolFailure, EnrolRefusal, Enroller, NewToken, PeerName, Protocol, REQUEST_LEN,
    RateLimit, Refusal, Reply, Role, Token, TrustError, Use, read_answer, request,
};
use proptest::prelude::*;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

struct Site {
    machine: Machine,
    limit: Mutex<RateLimit>,
    name: PeerName,
}

impl Site {
    fn new() -> Self {
        Self { machine: Machine::new(), limit: Mutex::default(), name: name("site") }
    }

    fn answer(&self, session: &Session, message: &[u8; REQUEST_LEN], now: i64) -> Reply {
        self.answer_from(FROM, session, message, now)
    }

    fn answer_from(&self, from: IpAddr, session: &Session, message: &[u8; REQUEST_LEN], now: i64) -> Reply {
        let (trust, limit) = (&*self.machine.trust, &self.limit);
        let enroller = Enroller { trust, limit, name: &self.name, role: Role::Target };
        enroller.answer(&session.server, &session.met.server, from, message, Duration::from_secs(1000), now)
    }

    /// A whole enrolment. Both sides must say the same.
    fn enrol(&self, client: &Machine, token: &Token, now: i64) -> Result<(), EnrolRefusal> {
        let session = Session::enrolment(client, &self.machine, token);
        let message = request(token, &session.client, &session.met.client).unwrap();
        // Each time from elsewhere, so that nobody has to wait.
        let from =
            Ipv4Addr::from(client.key().bytes().first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes)));
        let reply = self.answer_from(from.into(), &session, &message, now);
        match (reply.outcome, read_answer(token, &reply.message)) {
            (Ok(peer), Ok(welcome)) => {
                assert_eq!((peer.name, peer.role, peer.expires), (welcome.name, welcome.role, welcome.expires));
                Ok(())
            }
            (Err(failure), Err(AnswerError::Refused(told))) => {
                assert_eq!(failure.told(), told);
                Err(told)
            }
            (at_server, at_client) => panic!("{at_server:?} and {at_client:?}"),
        }
    }
}

#[test]
fn a_token_makes_a_stranger_a_peer() {
    let (site, client) = (Site::new(), Machine::new());
    let new =
        NewToken { name: name("web-1"), role: Role::Relay, expires: NOW + HOUR, peer_expires: Some(NOW + 90 * DAY) };
    let typed = site.machine.trust.issue(&site.machine.key(), &new, NOW).unwrap().reveal().to_lowercase();
    let token = Token::parse(&typed).unwrap();
    let session = Session::enrolment(&client, &site.machine, &token);
    let message = request(&token, &session.client, &session.met.client).unwrap();
    let reply = site.answer(&session, &message, NOW + 60);
    let peer = reply.outcome.unwrap();
    assert_eq!((peer.fingerprint, &peer.name, peer.role), (client.key(), &new.name, Role::Relay));
    assert_eq!((peer.added, peer.expires), (NOW + 60, new.peer_expires));
    assert_eq!(site.machine.trust.peers().unwrap(), [peer]);
    assert_eq!(site.machine.trust.tokens().unwrap()[0].used, Some(Use { by: client.key(), at: NOW + 60 }));

    let welcome = read_answer(&token, &reply.message).unwrap();
    assert_eq!((&welcome.name, welcome.role, welcome.expires), (&new.name, Role::Relay, new.peer_expires));
    assert_eq!(welcome.server_time, NOW + 60);
    assert_eq!(welcome.server.fingerprint, site.machine.key());
    client.trust.add(&welcome.server, NOW).unwrap();
    let session = Session::data(&client, &site.machine, NOW + 120);
    assert_eq!(session.server.peer(&session.met.server, NOW + 120).unwrap().name, new.name);
    let found = session.client.peer(&session.met.client, NOW + 120).unwrap();
    assert_eq!((found.name, found.role), (name("site"), Role::Target));
}

#[test]
fn a_token_lets_one_key_in_and_that_one_asks_again_if_the_answer_got_lost() {
    let (site, client, other) = (Site::new(), Machine::new(), Machine::new());
    let token = site.machine.issue("web-1");
    site.enrol(&client, &token, NOW).unwrap();
    let before = fs::read(site.machine.keys().join("trust.json")).unwrap();
    assert_eq!(site.enrol(&other, &token, NOW), Err(EnrolRefusal::Used));
    site.enrol(&client, &token, NOW + 2 * HOUR).unwrap();
    assert_eq!(fs::read(site.machine.keys().join("trust.json")).unwrap(), before, "nothing has changed");
    site.machine.trust.revoke(&client.key(), NOW).unwrap();
    assert_eq!(site.enrol(&client, &token, NOW), Err(EnrolRefusal::Revoked));
    assert_eq!(site.enrol(&other, &token, NOW), Err(EnrolRefusal::Used));
}

#[test]
fn of_many_keys_at_once_a_token_lets_one_in() {
    let site = Site::new();
    let token = site.machine.issue("web-1");
    let clients: Vec<_> = (0..8).map(|_| Machine::new()).collect();
    let results: Vec<_> = std::thread::scope(|scope| {
        let tries: Vec<_> = clients.iter().map(|client| scope.spawn(|| site.enrol(client, &token, NOW))).collect();
        tries.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(results.iter().filter(|result| **result == Err(EnrolRefusal::Used)).count(), 7);
    assert_eq!(site.machine.trust.peers().unwrap().len(), 1);
}

#[test]
fn a_wrong_token_is_told_nothing_else() {
    let (site, client) = (Site::new(), Machine::new());
    let elsewhere = Machine::new();
    // For this server, and never given out by it.
    let new = NewToken { name: name("web-1"), role: Role::Source, expires: NOW + HOUR, peer_expires: None };
    let token = elsewhere.trust.issue(&site.machine.key(), &new, NOW).unwrap();
    assert_eq!(site.enrol(&client, &token, NOW), Err(EnrolRefusal::Wrong));
    let withdrawn = site.machine.issue("web-1");
    site.machine.trust.withdraw(&name("web-1")).unwrap();
    assert_eq!(site.enrol(&client, &withdrawn, NOW), Err(EnrolRefusal::Wrong));
    let old = site.machine.issue("web-1");
    let newer = site.machine.issue("web-1");
    assert_eq!(
        site.enrol(&client, &old, NOW),
        Err(EnrolRefusal::Wrong),
        "a newer one for the same name takes its place"
    );
    site.enrol(&client, &newer, NOW).unwrap();
}

#[test]
fn the_clock_decides_about_a_token_and_says_so() {
    let (site, client) = (Site::new(), Machine::new());
    let token = site.machine.issue("web-1");
    let expired = site.enrol(&client, &token, NOW + HOUR).unwrap_err();
    assert_eq!(
        expired.to_string(),
        "the token has expired by the server's clock: have a new one made, and set the clock if \
        it is wrong"
    );
    assert_eq!(site.enrol(&client, &token, NOW - DAY - 1), Err(EnrolRefusal::ClockBehind));
    assert_eq!(site.enrol(&client, &token, i64::MIN), Err(EnrolRefusal::ClockBehind));
    assert_eq!(site.enrol(&client, &token, i64::MAX), Err(EnrolRefusal::Expired));
    site.enrol(&client, &token, NOW + HOUR - 1).unwrap();
}

#[test]
fn a_revoked_key_and_a_name_that_is_taken_use_no_token_up() {
    let (site, client, other) = (Site::new(), Machine::new(), Machine::new());
    site.machine.knows(&client, "web-1", Role::Source, None);
    site.machine.trust.revoke(&client.key(), NOW).unwrap();
    let token = site.machine.issue("web-2");
    assert_eq!(site.enrol(&client, &token, NOW), Err(EnrolRefusal::Revoked));
    site.machine.knows(&other, "web-2", Role::Source, None);
    let third = Machine::new();
    assert_eq!(site.enrol(&third, &token, NOW), Err(EnrolRefusal::NameTaken));
    site.machine.trust.revoke(&other.key(), NOW).unwrap();
    site.enrol(&third, &token, NOW).unwrap();
}

#[test]
fn a_peer_whose_time_is_over_is_enrolled_again_with_the_same_key() {
    let (site, client) = (Site::new(), Machine::new());
    site.machine.knows(&client, "web-1", Role::Source, Some(NOW + HOUR));
    let later = NOW + 10 * DAY;
    let new = NewToken { name: name("web-1"), role: Role::Source, expires: later + HOUR, peer_expires: None };
    let too_early = site.machine.trust.issue(&site.machine.key(), &new, NOW).unwrap_err();
    assert!(matches!(too_early, TrustError::NameTaken { .. }), "{too_early}");
    let token = site.machine.trust.issue(&site.machine.key(), &new, later).unwrap();
    site.enrol(&client, &token, later).unwrap();
    let peers = site.machine.trust.peers().unwrap();
    assert_eq!((peers.len(), peers[0].added, peers[0].expires), (1, later, None));
}

#[test]
fn who_tries_too_often_waits_and_uses_no_token_up() {
    let (site, client) = (Site::new(), Machine::new());
    let token = site.machine.issue("web-1");
    let session = Session::enrolment(&client, &site.machine, &token);
    let message = request(&token, &session.client, &session.met.client).unwrap();
    for _ in 0..5 {
        assert!(site.answer(&session, &[0; REQUEST_LEN], NOW).outcome.is_err());
    }
    let reply = site.answer(&session, &message, NOW);
    let told = read_answer(&token, &reply.message).unwrap_err();
    assert_eq!(told, AnswerError::Refused(EnrolRefusal::TooOften { wait: 10 }));
    assert_eq!(told.to_string(), "there were too many tries to enrol: wait 10 seconds and use the same token again");
    assert_eq!(reply.message.len(), ANSWER_LEN);
    assert!(site.machine.trust.peers().unwrap().is_empty());
    site.enrol(&client, &token, NOW).unwrap();
}

#[test]
fn a_message_is_worth_nothing_on_another_connection() {
    let (site, client, thief) = (Site::new(), Machine::new(), Machine::new());
    let token = site.machine.issue("web-1");
    let first = Session::enrolment(&client, &site.machine, &token);
    let message = request(&token, &first.client, &first.met.client).unwrap();
    // Of the same key, of another one, and to another server that happens to know the token.
    let again = Session::enrolment(&client, &site.machine, &token);
    let stolen = Session::enrolment(&thief, &site.machine, &token);
    for session in [&again, &stolen] {
        let reply = site.answer(session, &message, NOW);
        assert!(matches!(reply.outcome, Err(EnrolFailure::Refused(EnrolRefusal::Wrong))));
    }
    assert!(site.machine.trust.peers().unwrap().is_empty());
    assert!(site.answer(&first, &message, NOW).outcome.is_ok());
}

#[test]
fn a_client_tells_nothing_to_another_server_or_on_a_connection_for_data() {
    let (site, client, stranger) = (Site::new(), Machine::new(), Machine::new());
    let token = site.machine.issue("web-1");
    let server = stranger.tls.server(Protocol::Enrolment, NOW).unwrap();
    let session = Session::of(client.tls.enrolment(&token).unwrap(), server);
    let refusal = session.client.explain(session.met.at_client.as_ref().unwrap_err());
    assert!(matches!(refusal, Refusal::OtherKey { expected, found }
        if expected == site.machine.key() && found == stranger.key()));
    assert!(request(&token, &session.client, &session.met.client).is_err());
    // A token for another server than the one that was met.
    let other = stranger.issue("web-1");
    let session = Session::enrolment(&client, &site.machine, &token);
    assert!(matches!(request(&other, &session.client, &session.met.client), Err(Refusal::OtherKey { .. })));
    // A connection for data.
    client.knows(&site.machine, "site", Role::Target, None);
    site.machine.knows(&client, "web-1", Role::Source, None);
    let session = Session::data(&client, &site.machine, NOW);
    let refusal = request(&token, &session.client, &session.met.client).unwrap_err();
    assert!(matches!(refusal, Refusal::OtherProtocol));
    let reply = site.answer(&session, &[0; REQUEST_LEN], NOW);
    assert!(matches!(reply.outcome, Err(EnrolFailure::Connection(Refusal::OtherProtocol))));
    assert_eq!(read_answer(&token, &reply.message), Err(AnswerError::Refused(EnrolRefusal::NotUnderstood)));
}

#[test]
fn what_cannot_be_made_durable_lets_nobody_in_and_uses_no_token_up() {
    let (site, client) = (Site::new(), Machine::new());
    let token = site.machine.issue("web-1");
    let obstacle = site.machine.keys().join("trust.json.new");
    fs::create_dir(&obstacle).unwrap();
    assert_eq!(site.enrol(&client, &token, NOW), Err(EnrolRefusal::Failed));
    assert!(site.machine.trust.peers().unwrap().is_empty());
    fs::remove_dir(&obstacle).unwrap();
    site.enrol(&client, &token, NOW).unwrap();
}

#[test]
fn every_bit_of_a_message_counts() {
    let (site, client) = (Site::new(), Machine::new());
    let token = site.machine.issue("web-1");
    let session = Session::enrolment(&client, &site.machine, &token);
    let message = request(&token, &session.client, &session.met.client).unwrap();
    for bit in 0..REQUEST_LEN * 8 {
        let mut altered = message;
        altered[bit / 8] ^= 1 << (bit % 8);
        let from = Ipv4Addr::from(u32::try_from(bit).unwrap());
        let clock = Duration::from_secs(u64::try_from(bit).unwrap());
        let enroller =
            Enroller { trust: &site.machine.trust, limit: &site.limit, name: &site.name, role: Role::Target };
        let reply = enroller.answer(&session.server, &session.met.server, from.into(), &altered, clock, NOW);
        let told = reply.outcome.unwrap_err().told();
        let expected = if bit < 16 * 8 { EnrolRefusal::NotUnderstood } else { EnrolRefusal::Wrong };
        assert_eq!(told, expected, "bit {bit}");
    }
}

#[test]
fn every_refusal_has_a_sentence_that_says_what_to_do() {
    let refusals = [
        EnrolRefusal::Wrong,
        EnrolRefusal::Used,
        EnrolRefusal::Expired,
        EnrolRefusal::Revoked,
        EnrolRefusal::NameTaken,
        EnrolRefusal::TooOften { wait: 3 },
        EnrolRefusal::ClockBehind,
        EnrolRefusal::Failed,
        EnrolRefusal::NotUnderstood,
    ];
    for refusal in refusals {
        let sentence = refusal.to_string();
        assert!(sentence.contains(": ") && !sentence.contains('\n') && !sentence.ends_with('.'), "{sentence}");
    }
}

proptest! {
    #[test]
    fn no_answer_makes_a_client_panic(bytes in any::<[u8; 32]>(), at in 0_usize..ANSWER_LEN, verdict: u8) {
        static TOKEN: LazyLock<Token> = LazyLock::new(|| Machine::new().issue("web-1"));
        let mut answer = [0; ANSWER_LEN];
        answer[..10].copy_from_slice(b"FBENROLA\x01\x00");
        answer[10] = verdict;
        for (byte, random) in answer[at.max(10)..].iter_mut().zip(bytes) {
            *byte = random;
        }
        if let Ok(welcome) = read_answer(&TOKEN, &answer) {
            prop_assert!(PeerName::new(welcome.name.as_str()).is_ok());
        }
    }
}
