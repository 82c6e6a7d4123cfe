//! The file of peers and tokens.

use crate::machine::{DAY, HOUR, Machine, NOW, name};
use failback_credentials::{
    Fingerprint, NewPeer, NewToken, PEERS_MAX, PeerName, Role, StoreError, TOKEN_LIFE_MAX, TOKENS_MAX, TrustError,
    TrustStore,
};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn key(number: usize) -> Fingerprint {
    let mut bytes = [0xEE; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Fingerprint::from_bytes(bytes)
}

fn peer(called: &str, number: usize) -> NewPeer {
    NewPeer { name: name(called), fingerprint: key(number), role: Role::Source, expires: None }
}

fn put(machine: &Machine, text: &[u8]) {
    let path = machine.keys().join("trust.json");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn peers_are_added_listed_and_revoked() {
    let machine = Machine::new();
    let store = &machine.trust;
    assert!(store.peers().unwrap().is_empty());
    let added = store.add(&peer("web-1", 1), NOW).unwrap();
    assert_eq!(store.add(&peer("web-1", 1), NOW + 9).unwrap(), added, "it is there already");
    store.add(&peer("web-2", 2), NOW + 1).unwrap();
    let again = TrustStore::clone(store).peers().unwrap();
    assert_eq!(again.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["web-1", "web-2"]);
    assert_eq!(store.check(&key(1), NOW).unwrap(), added);
    let revoked = store.revoke(&key(1), NOW + 5).unwrap();
    assert_eq!(revoked.revoked, Some(NOW + 5));
    assert_eq!(store.revoke(&key(1), NOW + 7).unwrap(), revoked, "it was revoked already");
    assert_eq!(store.peers().unwrap().len(), 2, "what was revoked is remembered");
    assert!(store.check(&key(1), NOW).is_err());
    store.add(&peer("web-1", 3), NOW).unwrap();
}

#[test]
fn names_and_keys_are_not_mixed_up() {
    let machine = Machine::new();
    let store = &machine.trust;
    store.add(&peer("web-1", 1), NOW).unwrap();
    let error = store.add(&peer("web-1", 2), NOW).unwrap_err();
    assert!(matches!(&error, TrustError::NameTaken { fingerprint, .. } if *fingerprint == key(1)), "{error}");
    assert!(matches!(store.add(&peer("web-2", 1), NOW), Err(TrustError::KeyKnown { .. })));
    let admin = NewPeer { role: Role::Admin, ..peer("web-1", 1) };
    assert!(matches!(store.add(&admin, NOW), Err(TrustError::KeyKnown { .. })), "nobody becomes more than it was");
    assert!(matches!(store.revoke(&key(9), NOW), Err(TrustError::Unknown(unknown)) if unknown == key(9)));
    store.revoke(&key(1), NOW).unwrap();
    let error = store.add(&peer("web-1", 1), NOW).unwrap_err();
    assert!(error.to_string().contains("revoked on 2026-11-25 22:00:01 UTC"), "{error}");
}

#[test]
fn an_end_lies_in_the_future_and_a_tokens_within_a_month() {
    let machine = Machine::new();
    for expires in [NOW, NOW - 1, i64::MIN] {
        let ended = NewPeer { expires: Some(expires), ..peer("web-1", 1) };
        assert!(matches!(machine.trust.add(&ended, NOW), Err(TrustError::End { .. })));
    }
    let token = |expires, peer_expires| NewToken { name: name("web-1"), role: Role::Source, expires, peer_expires };
    for (expires, peer_expires) in [(NOW, None), (NOW + TOKEN_LIFE_MAX + 1, None), (NOW + HOUR, Some(NOW - 1))] {
        let error = machine.trust.issue(&machine.key(), &token(expires, peer_expires), NOW).unwrap_err();
        assert!(error.to_string().contains("the clock says 2026-11-25 22:00:01 UTC"), "{error}");
    }
    machine.trust.issue(&machine.key(), &token(NOW + TOKEN_LIFE_MAX, Some(i64::MAX)), NOW).unwrap();
}

#[test]
fn tokens_are_withdrawn_and_old_ones_forgotten() {
    let machine = Machine::new();
    machine.issue("web-1");
    machine.issue("web-2");
    machine.trust.withdraw(&name("web-1")).unwrap();
    assert!(matches!(machine.trust.withdraw(&name("web-1")), Err(TrustError::NoToken(_))));
    let names =
        |machine: &Machine| machine.trust.tokens().unwrap().into_iter().map(|token| token.name).collect::<Vec<_>>();
    assert_eq!(names(&machine), [name("web-2")]);
    let later = NOW + 31 * DAY;
    let new = NewToken { name: name("web-3"), role: Role::Source, expires: later + HOUR, peer_expires: None };
    machine.trust.issue(&machine.key(), &new, later).unwrap();
    assert_eq!(names(&machine), [name("web-3")]);
}

#[test]
fn hostile_files_are_refused_in_a_sentence_and_not_touched() {
    let machine = Machine::new();
    machine.trust.add(&peer("web-1", 1), NOW).unwrap();
    machine.issue("web-2");
    let good = fs::read_to_string(machine.keys().join("trust.json")).unwrap();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let entry = good.split_once("\"peers\": [").unwrap().1.split_once(']').unwrap().0.trim();
    let twice = good.replacen(entry, &format!("{entry}, {entry}"), 1);
    let one_name = good.replacen(entry, &format!("{entry}, {}", entry.replacen("0100", "0200", 1)), 1);
    let hostile = [
        ("", "line 1, column 0"),
        ("null", "line 1"),
        (&deep, "line 1"),
        (&good[..good.len() - 3], "is not what belongs there"),
        (&good.replace("\"version\": 1", "\"version\": 2"), "version 2, and this failback knows version 1"),
        (&good.replace("\"version\": 1", "\"version\": 1, \"\u{1b}[2J\": 1"), "is not what belongs there"),
        (&good.replace("\"source\"", "\"owner\""), "is not what belongs there"),
        (&good.replace("web-1", "web\\u001b[2J"), "is not what belongs there"),
        (&good.replace("web-1", &"w".repeat(65)), "is not what belongs there"),
        (&good.replace("\"added\": 1", "\"added\": 1e300"), "is not what belongs there"),
        (&good.replace("\"added\"", "\"role\": \"admin\", \"added\""), "is not what belongs there"),
        (&twice, "a key stands in it twice"),
        (&one_name, "two peers have one name"),
    ];
    for (text, why) in hostile {
        assert_ne!(text, good);
        put(&machine, text.as_bytes());
        for error in [
            machine.trust.peers().unwrap_err().to_string(),
            machine.trust.add(&peer("web-3", 3), NOW).unwrap_err().to_string(),
            machine.trust.revoke(&key(1), NOW).unwrap_err().to_string(),
        ] {
            assert!(error.contains(why) && error.contains("restore it from a backup"), "{error}");
            assert!(!error.contains('\u{1b}'));
        }
        assert_eq!(fs::read(machine.keys().join("trust.json")).unwrap(), text.as_bytes());
    }
    put(&machine, &vec![b' '; (2 << 20) + 1]);
    assert!(matches!(machine.trust.peers(), Err(StoreError::TooLarge { .. })));
}

#[test]
fn a_full_store_is_read_and_forgets_what_ended_first() {
    let machine = Machine::new();
    let long = |number: usize| format!("{number:x<64}");
    let peers: Vec<_> = (0..PEERS_MAX)
        .map(|number| {
            let revoked = if number < 2 { format!(", \"revoked\": {}", 2000 - number) } else { String::new() };
            let (called, key, added, expires) = (long(number), key(number), i64::MIN, i64::MAX);
            format!(
                "{{\"name\": \"{called}\", \"fingerprint\": \"{key}\", \"role\": \"source\", \"added\": {added}, \
                 \"expires\": {expires}{revoked}}}"
            )
        })
        .collect();
    let tokens: Vec<_> = (1..TOKENS_MAX)
        .map(|number| {
            let (called, proof, expires) = (long(10_000 + number), key(number), i64::MAX);
            let used = format!("{{\"by\": \"{}\", \"at\": {}}}", key(number), NOW - 5);
            let used = if number < 2 { format!(", \"used\": {used}") } else { String::new() };
            format!(
                "{{\"name\": \"{called}\", \"role\": \"source\", \"proof\": \"{proof}\", \"created\": {NOW}, \
                 \"expires\": {expires}{used}}}"
            )
        })
        .collect();
    let (peers, tokens) = (peers.join(","), tokens.join(","));
    put(&machine, format!("{{\"version\": 1, \"peers\": [{peers}], \"tokens\": [{tokens}]}}").as_bytes());
    machine.issue("last-but-one");
    machine.issue("last");
    assert!(machine.trust.tokens().unwrap().iter().all(|token| token.used.is_none()), "a used one made room");
    let new = NewToken { name: name("one-more"), role: Role::Source, expires: NOW + HOUR, peer_expires: None };
    let error = machine.trust.issue(&machine.key(), &new, NOW).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there are 256 tokens already, and no more are kept: withdraw those that are not needed"
    );
    assert_eq!(machine.trust.tokens().unwrap().len(), TOKENS_MAX, "all of it is still read");

    machine.trust.add(&peer("new-1", 9001), NOW).unwrap();
    let peers = machine.trust.peers().unwrap();
    assert_eq!(peers.len(), PEERS_MAX);
    assert!(peers.iter().all(|peer| peer.fingerprint != key(1)), "it was revoked before the other");
    machine.trust.add(&peer("new-2", 9002), NOW).unwrap();
    let error = machine.trust.add(&peer("new-3", 9003), NOW).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there are 4096 peers already, and no more are kept: revoke those that are not needed"
    );
}

#[test]
fn changes_at_once_are_all_made() {
    let machine = Machine::new();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let store = TrustStore::clone(&machine.trust);
            scope.spawn(move || store.add(&peer(&format!("web-{number}"), number), NOW).unwrap());
        }
    });
    assert_eq!(machine.trust.peers().unwrap().len(), 16);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_file_makes_it_panic(text in "[\\[\\]{}\":,0-9a-z \\\\]{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let machine = Machine::new();
        for text in [text.as_bytes(), &bytes] {
            put(&machine, text);
            let _ = machine.trust.peers();
        }
    }

    #[test]
    fn names_are_those_that_are_documented(text in "\\PC{0,70}|[A-Za-z0-9._-]{0,70}") {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && text.as_bytes()[0].is_ascii_alphanumeric();
        prop_assert_eq!(PeerName::new(&text).is_ok(), fits);
    }
}
