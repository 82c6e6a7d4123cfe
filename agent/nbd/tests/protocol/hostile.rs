//! Clients that mean harm, or are broken: the server ends or goes on, soon and in little memory.

use super::client::{Client, contexts, disk, info, request, talk, talk_within};
use failback_blockio::sim::SimDisk;
use failback_nbd::{Breach, Export, Limits, Overlay, SessionError};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const SIZE: u64 = (2 << 20) + 5;
/// For those that stop in the middle.
const LIMITS: Limits = Limits { connections: 1, patience: Duration::from_millis(200) };
/// More than anything here may take; a conversation has a few MiB at most.
const DEADLINE: Duration = Duration::from_secs(30);

fn overlay() -> Overlay<SimDisk> {
    Overlay::new(disk(SIZE, &[(0, 1 << 20)]), Path::new("/dev/shm")).unwrap()
}

/// Says all of it, whatever the answers are, closes its side, and takes what comes until the server is done.
fn shout(export: &Export<'_>, bytes: &[u8]) -> Result<(), SessionError> {
    let start = Instant::now();
    let ((), ended) = talk(export, |client| {
        let mut mouth = client.stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                // The server may hang up before all is said.
                let _ = mouth.write_all(bytes);
                let _ = mouth.shutdown(Shutdown::Write);
            });
            let _ = client.stream.read_to_end(&mut Vec::new());
            // A server that hangs up no longer listens.
            let _ = client.stream.shutdown(Shutdown::Both);
        });
    });
    assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
    ended
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

/// A conversation with everything in it, as its messages.
fn conversation() -> Vec<Vec<u8>> {
    let write = [request(0, 1, 7, 5000, 3000), vec![1; 3000]].concat();
    vec![
        3_u32.to_be_bytes().to_vec(),
        option(8, &[]),
        option(3, &[]),
        option(9, &contexts(b"", &[b"base:"])),
        option(10, &contexts(b"", &[b"base:allocation", b"x-y:z"])),
        option(5, &[]),
        option(6, &info(b"", &[0, 1, 2, 3])),
        option(7, &info(b"", &[3])),
        request(0, 0, 1, 0, 4096),
        request(4, 0, 2, 1 << 20, 65_536),
        request(0, 0, 3, 5, 2 << 20),
        write,
        request(0, 6, 4, 9000, 100_000),
        request(0, 4, 5, 0, 8192),
        request(8, 7, 6, 0, 2 << 20),
        request(0, 7, 8, 0, 2 << 20),
        request(0, 5, 9, 0, 4096),
        request(1, 3, 10, 0, 0),
        request(0, 2, 11, 0, 0),
    ]
}

#[test]
fn the_conversation_is_a_good_one() {
    let overlay = overlay();
    let export = Export::throw_away("", &overlay).unwrap();
    shout(&export, &conversation().concat()).unwrap();
    let counters = export.counters();
    assert_eq!((counters.connections, counters.requests, counters.failed), (1, 10, 0));
}

#[test]
fn cut_off_anywhere() {
    let overlay = overlay();
    let export = Export::throw_away("", &overlay).unwrap();
    let messages = conversation();
    let (mut borders, mut border) = (vec![0], 0);
    for message in &messages {
        border += message.len();
        borders.push(border);
    }
    let all = messages.concat();
    for cut in (0..all.len()).filter(|cut| cut % 97 == 0 || borders.iter().any(|border| cut.abs_diff(*border) < 3)) {
        match shout(&export, &all[..cut]) {
            Ok(()) => assert!(borders.contains(&cut), "{cut}"),
            Err(SessionError::Gone) => assert!(!borders.contains(&cut), "{cut}"),
            other => panic!("{cut}: {other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..3000), phase in 0..3_usize) {
        let overlay = overlay();
        let export = Export::throw_away("", &overlay).unwrap();
        let messages = conversation();
        let before = [0, 1, 8][phase];
        let _ = shout(&export, &[messages[..before].concat(), bytes].concat());
    }

    #[test]
    fn messages_in_any_order(order in proptest::collection::vec(0..19_usize, 0..40), greets: bool) {
        let overlay = overlay();
        let export = Export::throw_away("", &overlay).unwrap();
        let messages = conversation();
        let first = if greets { messages[0].clone() } else { Vec::new() };
        let rest: Vec<u8> = order.iter().flat_map(|number| messages[*number].clone()).collect();
        let _ = shout(&export, &[first, rest].concat());
    }

    #[test]
    fn mutations(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..5_u8), 1..4),
    ) {
        let overlay = overlay();
        let export = Export::throw_away("", &overlay).unwrap();
        let mut messages = conversation();
        for (place, value, how) in changes {
            let number = usize::from(value) % messages.len();
            let message = &mut messages[number];
            // One that an earlier change cut off before its first byte has no place left to change.
            if message.is_empty() {
                continue;
            }
            // Most of a write is payload, which may be anything.
            let at = place.index(message.len().min(40));
            match how {
                0 => message[at] = value,
                1 => message[at] ^= 1 << (value % 8),
                2 => message.truncate(at),
                3 => message.extend_from_slice(&vec![value; at]),
                _ => {
                    let end = message.len().min(at + 4);
                    message[at..end].fill(if value < 128 { 0xff } else { 0 });
                }
            }
        }
        let _ = shout(&export, &messages.concat());
    }
}

/// Lengths and offsets at the limits of their types, in every field that has one.
#[test]
fn lengths_at_the_limits() {
    let overlay = overlay();
    let export = Export::throw_away("", &overlay).unwrap();
    let start = conversation()[..8].concat();
    for command in 0..10 {
        for offset in [0, SIZE - 1, SIZE, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX] {
            for length in [0, 1, 1 << 25, (1 << 25) + 1, 1 << 31, u32::MAX] {
                if command == 1 && length <= 1 << 25 {
                    continue;
                }
                let _ = shout(&export, &[&start[..], &request(0, command, 1, offset, length)].concat());
            }
        }
    }
    for number in 0..14_u32 {
        for length in [1 << 16, (1 << 16) + 1, 1 << 31, u32::MAX] {
            let header = [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes()].concat();
            let ended = shout(&export, &[&[0, 0, 0, 3], &header[..]].concat());
            if length > 1 << 16 {
                assert!(matches!(ended, Err(SessionError::Breach(Breach::OptionTooLong { .. }))), "{ended:?}");
            } else {
                assert!(matches!(ended, Err(SessionError::Gone)), "{ended:?}");
            }
        }
    }
}

/// A message is begun and not gone on with.
#[test]
fn a_client_that_stops_in_the_middle_is_dropped() {
    let overlay = overlay();
    let export = Export::throw_away("", &overlay).unwrap();
    let messages = conversation();
    let header = messages[..8].concat();
    for part in [
        vec![0, 0],
        messages[..1].concat().into_iter().chain(*b"IHAVE").collect(),
        messages[..1].concat().into_iter().chain(option(6, &[1; 50])[..40].to_vec()).collect(),
        [&header[..], &request(0, 0, 1, 0, 512)[..27]].concat(),
        [&header[..], &request(0, 1, 1, 0, 1 << 20), &[1; 1000]].concat(),
        // A payload that is to be thrown away.
        [&header[..], &request(0, 1, 1, SIZE, 1 << 20), &[1; 1000]].concat(),
    ] {
        let start = Instant::now();
        let ((), ended) = talk_within(&export, &LIMITS, |client| {
            client.send(&part);
            client.stream.read_to_end(&mut Vec::new()).unwrap();
        });
        assert!(matches!(ended, Err(SessionError::Stalled(_))), "{ended:?}");
        assert!(start.elapsed() >= LIMITS.patience && start.elapsed() < DEADLINE);
    }
}

#[test]
fn a_client_that_is_idle_is_not() {
    let overlay = overlay();
    let export = Export::throw_away("", &overlay).unwrap();
    let limits = Limits { patience: Duration::from_secs(1), ..LIMITS };
    let ((), ended) = talk_within(&export, &limits, |client| {
        client.greet(3);
        thread::sleep(limits.patience * 3 / 2);
        assert_eq!(client.option(7, &info(b"", &[])).len(), 2);
        thread::sleep(limits.patience * 3 / 2);
        assert_eq!(client.read_simply(0, 1).unwrap().len(), 1);
        // One byte after the other, each within its time, all of them not.
        for byte in request(0, 0, 1, 0, 1) {
            client.send(&[byte]);
            thread::sleep(limits.patience / 20);
        }
        client.receive(17);
        client.leave();
    });
    ended.unwrap();
}

/// A client that asks for much and takes nothing is waited for, until it goes.
#[test]
fn a_client_that_does_not_read() {
    let overlay = overlay();
    let export = Export::throw_away("", &overlay).unwrap();
    let start = Instant::now();
    let ((), ended) = talk_within(&export, &LIMITS, |client| {
        client.go(true);
        for _ in 0..100 {
            client.request(0, 0, 0, 2 << 20);
        }
        thread::sleep(2 * LIMITS.patience);
        assert!(export.counters().bytes_read < 100 << 20);
    });
    assert!(matches!(ended, Err(SessionError::Gone)), "{ended:?}");
    assert!(start.elapsed() < DEADLINE);
}

/// Another client is served meanwhile and afterwards.
#[test]
fn other_connections_do_not_notice() {
    let overlay = overlay();
    let export = Export::throw_away("", &overlay).unwrap();
    let ((), ended) = talk_within(&export, &LIMITS, |client: &mut Client| {
        client.go(true);
        for number in 0..50_u64 {
            let mut bytes = conversation().concat();
            let at = usize::try_from(number * 37).unwrap() % bytes.len();
            bytes[at] ^= 0x55;
            let _ = shout(&export, &bytes);
            assert_eq!(client.read(0, 20_000 + number, 10).whole().len(), 10);
        }
        client.leave();
    });
    ended.unwrap();
}
