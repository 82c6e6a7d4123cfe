//! Sources and targets that say whatever they like: the relay goes on, holds what it has, and nothing is applied that was not sent.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Open, Site, disk_of, link_over, noise, store, wait_for};
use failback_relay::Step;
use failback_replication::wire::kind;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

const DISK: usize = 1 << 20;

fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [&len.to_le_bytes()[..], &[kind, 0, 0, 0], payload].concat()
}

fn preface(role: u8) -> Vec<u8> {
    [&b"\x89FBREP\r\n\x01\0\x01\0"[..], &[role, 0, 0, 0], &[0; 16]].concat()
}

fn offer() -> Vec<u8> {
    let mut bytes = (DISK as u64).to_le_bytes().to_vec();
    bytes.extend([4, 1, 3, 0]);
    bytes.extend([0; 72]);
    bytes.extend(b"pair");
    message(kind::OFFER, &bytes)
}

fn question(id: u8, first: u64, count: u32, level: u8) -> Vec<u8> {
    let head = [u32::from(id).to_le_bytes(), 1_u32.to_le_bytes()].concat();
    let run = [&first.to_le_bytes()[..], &count.to_le_bytes(), &[level, 0, 0, 0]].concat();
    message(kind::ASK_VALUES, &[head, run].concat())
}

fn data(at: u64, bytes: &[u8]) -> Vec<u8> {
    message(kind::DATA, &[&at.to_le_bytes()[..], bytes].concat())
}

fn end(len: u64, root: &[u8; 32]) -> Vec<u8> {
    message(kind::END, &[&len.to_le_bytes()[..], root].concat())
}

/// Says something to the relay as a source, and hangs up. What was answered.
fn say(site: &Site, bytes: &[u8]) -> Vec<u8> {
    let (near, far) = UnixStream::pair().unwrap();
    let relay = Arc::clone(&site.relay);
    let serving = thread::spawn(move || relay.serve(link_over(&far, u64::MAX), &Open, &Arc::default()));
    let mut reader = near.try_clone().unwrap();
    let heard = thread::spawn(move || {
        let mut heard = Vec::new();
        let _ = reader.read_to_end(&mut heard);
        heard
    });
    let _ = (&near).write_all(bytes);
    let _ = near.shutdown(Shutdown::Write);
    serving.join().unwrap().unwrap_err();
    heard.join().unwrap()
}

/// Six bytes from a seed.
fn random(seed: u64) -> Vec<u8> {
    noise(seed, 6)
}

#[test]
fn a_source_may_say_anything() {
    let base = noise(1, DISK);
    let (site, _far, target) = Site::with(&base);
    let _running = site.running();
    let delta = {
        // A delta that is none of this base: it starts from what other bytes have.
        let (elsewhere, far, _) = Site::with(&noise(7, DISK));
        let running = elsewhere.running();
        store(&elsewhere, &disk_of(&noise(7, DISK)), 1).unwrap();
        wait_for("it", || elsewhere.status("pair").deltas == 0);
        far.set_up(false);
        store(&elsewhere, &disk_of(&noise(7, DISK)), 1).unwrap();
        drop(running);
        let name = elsewhere.names("pair").into_iter().find(|name| name.strip_suffix(".delta").is_some()).unwrap();
        std::fs::read(elsewhere.pair_path("pair").join(name)).unwrap()
    };
    let len = delta.len() as u64;
    let root: [u8; 32] = failback_hashtree::Root::of(&noise(7, DISK)).0;
    let foreign = [preface(1), offer(), data(0, &delta), end(len, &root)].concat();
    let told = String::from_utf8_lossy(&say(&site, &foreign)).into_owned();
    assert!(told.contains("does not start from the base that was told"), "{told}");
    let cases = [
        [preface(1), offer(), question(1, 0, 4096, 0), question(2, 0, 1, 200)].concat(),
        [preface(1), offer(), question(1, u64::MAX, 1, 0)].concat(),
        [preface(1), offer(), end(0, &[0; 32])].concat(),
        [preface(1), offer(), data(9, b"x")].concat(),
        [preface(1), offer(), data(0, b"no delta at all, and it goes on for a while")].concat(),
        [preface(1), offer(), data(0, &delta[..100])].concat(),
        [preface(1), offer(), offer()].concat(),
        [preface(1), offer(), message(kind::STORED, &[0; 32])].concat(),
        preface(2),
        Vec::new(),
    ];
    for case in cases {
        say(&site, &case);
    }
    for seed in 0..150 {
        let mut says = preface(1);
        for place in 0..=random(seed)[5] % 8 {
            let now = random(seed * 100 + u64::from(place));
            says.extend(match now[0] % 7 {
                0 | 1 => offer(),
                2 => question(now[1], u64::from(now[2]), u32::from(now[3] % 40), now[4] % 6),
                3 => data(0, &delta[..usize::from(now[1])]),
                4 => message(kind::ALIVE, b""),
                5 => message(now[1] % 40, &now[2..]),
                _ => now,
            });
        }
        let started = Instant::now();
        say(&site, &says);
        assert!(started.elapsed() < Duration::from_secs(10), "{seed}");
    }
    assert_eq!(site.status("pair").deltas, 0);
    assert!(target.disk.content() == base && target.applies.load(Ordering::Relaxed) == 0);
    // And after all that it serves.
    store(&site, &disk_of(&noise(3, DISK)), 5).unwrap();
    wait_for("the delta", || target.disk.content() == noise(3, DISK));
}

fn accept(root: &[u8; 32], durable: u64, relayed: u8) -> Vec<u8> {
    let mut bytes = (DISK as u64).to_le_bytes().to_vec();
    bytes.extend([12, 1, relayed, 0, 0, 0, 0, 0]);
    bytes.extend(root);
    bytes.extend([0; 32]);
    bytes.extend(durable.to_le_bytes());
    message(kind::ACCEPT, &bytes)
}

#[test]
fn a_target_may_say_anything() {
    let base = noise(1, DISK);
    let (mut site, far, target) = Site::with(&base);
    let running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    wait_for("the first delta", || site.status("pair").deltas == 0);
    far.set_up(false);
    store(&site, &disk_of(&base), 2).unwrap();
    drop(running);
    site.restart();
    far.set_up(true);
    let root = failback_hashtree::Root::of(&base).0;
    let here = |rest: &[u8]| [preface(2), accept(&root, 0, 0), rest.to_vec()].concat();
    let mut scripts = vec![
        Vec::new(),
        preface(1),
        preface(2),
        here(b""),
        // What it says it has is not what it was sent.
        here(&message(kind::DONE, &[9; 32])),
        [preface(2), message(kind::DONE, &[9; 32])].concat(),
        here(&message(kind::STORED, &root)),
        here(&message(kind::DURABLE, &[255; 8])),
        here(&message(kind::REFUSE, b"the drive is full")),
        [preface(2), accept(&root, 1 << 40, 0)].concat(),
        here(&message(kind::MAP, &[1, 2, 3])),
        here(&message(kind::VALUES, &[0; 40])),
    ];
    for seed in 0..60 {
        let now = random(seed);
        scripts.push([preface(2), message(kind::ACCEPT + now[0] % 8, &now[1..])].concat());
        scripts.push(here(&message(now[1] % 40, &now[2..])));
    }
    for says in scripts {
        *far.impostor.lock().unwrap() = Some(says.clone());
        site.relay.try_now("pair");
        assert_eq!(site.relay.step_of("pair"), Step::Failed, "{says:?}");
        assert_eq!(site.status("pair").deltas, 1, "nothing is forgotten that was not applied: {says:?}");
    }
    assert!(!site.status("pair").last_error.unwrap().is_empty());
    // Values that are none: a source is told, and the next honest answer is believed.
    *far.impostor.lock().unwrap() = None;
    assert_eq!(site.forward("pair"), Step::Nothing);
    assert_eq!(target.applies.load(Ordering::Relaxed), 2);
    let lie =
        [accept(&root, 0, 0), message(kind::VALUES, &[&[0, 0, 0, 0, 16, 0, 0, 0][..], &[7; 512]].concat())].concat();
    *far.impostor.lock().unwrap() = Some([preface(2), lie].concat());
    let _running = site.running();
    let mut result = base.clone();
    result[70_000] ^= 1;
    thread::scope(|scope| {
        let pass = scope.spawn(|| store(&site, &disk_of(&result), 3));
        thread::sleep(Duration::from_millis(500));
        *far.impostor.lock().unwrap() = None;
        // Whether the lie came to be an answer or not: nothing wrong is stored.
        match pass.join().unwrap() {
            Ok(report) => assert_eq!(report.root, failback_hashtree::Root::of(&result)),
            Err(error) => {
                let told = error.to_string();
                assert!(told.contains("does not hold at block"), "{told}");
                store(&site, &disk_of(&result), 4).unwrap();
            }
        }
    });
    wait_for("the delta", || target.disk.content() == result);
}
