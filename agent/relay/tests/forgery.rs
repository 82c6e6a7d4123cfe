//! What a relay that wants to change something can send, and that the target refuses it before it writes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    Near, PRIVATE, Site, Target, changed, disk_of, link_over, noise, pass, signing_key, target::options, verifying_key,
};
use failback_orchestrate::{FreeMap, SigningKey, Silent};
use failback_relay::Step;
use failback_replication::wire::kind;
use failback_replication::{Finish, PassOptions, send_pass};
use failback_units::{ByteOffset, ByteRange};
use failback_volumes::FreeMapBuilder;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

const DISK: usize = 1 << 20;

/// The parts of a delta.
#[derive(Clone)]
struct Parts {
    header: Vec<u8>,
    pages: Vec<Vec<u8>>,
    frames: Vec<Vec<u8>>,
    trailer: Vec<u8>,
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// See FORMAT.md of the delta.
fn split(delta: &[u8]) -> Parts {
    let mut at = 128 + u32_at(delta, 20);
    let mut parts = Parts { header: delta[..at].into(), pages: Vec::new(), frames: Vec::new(), trailer: Vec::new() };
    let mut take = |len: usize| {
        at += len;
        delta[at - len..at].to_vec()
    };
    let mut rest = &delta[parts.header.len()..];
    loop {
        let len = match &rest[..4] {
            b"FBFM" => 64 + 8 * u32_at(rest, 24),
            b"FBFR" => 80 + 8 * u32_at(rest, 32) + 32 * u32_at(rest, 36) + u32_at(rest, 44),
            _ => rest.len(),
        };
        let part = take(len);
        match &rest[..4] {
            b"FBFM" => parts.pages.push(part),
            b"FBFR" => parts.frames.push(part),
            _ => {
                parts.trailer = part;
                return parts;
            }
        }
        rest = &rest[len..];
    }
}

fn seal(part: &mut [u8], at: usize, key: Option<&[u8; 32]>) {
    part[at..at + 32].fill(0);
    let hash = key.map_or_else(|| blake3::hash(part), |key| blake3::keyed_hash(key, part));
    part[at..at + 32].copy_from_slice(hash.as_bytes());
}

impl Parts {
    /// All hashes made good, as anybody can who knows the format; they show damage, not forgery.
    fn sealed(mut self) -> Vec<u8> {
        seal(&mut self.header, 96, None);
        let key: [u8; 32] = self.header[96..128].try_into().unwrap();
        self.pages.iter_mut().for_each(|page| seal(page, 32, Some(&key)));
        self.frames.iter_mut().for_each(|frame| seal(frame, 48, Some(&key)));
        seal(&mut self.trailer, 184, Some(&key));
        self.joined()
    }

    fn joined(self) -> Vec<u8> {
        [vec![self.header], self.pages, self.frames, vec![self.trailer]].concat().concat()
    }
}

fn free_map() -> FreeMap {
    let mut map = FreeMapBuilder::new();
    for at in [200_u64, 220, 230] {
        let place = |block: u64| ByteOffset::new(block * 4096).unwrap();
        map.push(ByteRange::between(place(at), place(at + 4)).unwrap());
    }
    map.finish()
}

fn signed<'a>(free: &'a FreeMap, key: &'a SigningKey, id: u8) -> PassOptions<'a> {
    let mut how = PassOptions { finish: Finish::Stored, ..options(Some(free), id) };
    how.backoff = common::quick();
    how.diff.signer = Some(key);
    how
}

/// A relay that is stopped and has the delta of a signed pass, and a target that wants it signed. The delta's file.
fn stored(key: &SigningKey) -> (Site, Arc<common::Far>, Arc<Target>, std::path::PathBuf) {
    let base = noise(1, DISK);
    let (mut site, far, target) = Site::with(&base);
    let running = site.running();
    let free = free_map();
    let mut result = changed(&base, 100_000);
    result[40 * 4096..42 * 4096].fill(0);
    // There and back again, so that every value is known here.
    for (id, content) in [(1, &noise(2, DISK)), (2, &base)] {
        let how = PassOptions { finish: Finish::Applied, ..pass("pair", id, Finish::Applied) };
        send_pass(&Near::new(&site), &disk_of(content), &how, &Silent).unwrap();
    }
    common::wait_for("the end", || site.status("pair").deltas == 0);
    drop(running);
    site.restart();
    *target.trusted.lock().unwrap() = Some(verifying_key());
    target.applies.store(0, Ordering::Relaxed);
    far.set_up(false);
    send_pass(&Near::new(&site), &disk_of(&result), &signed(&free, key, 3), &Silent).unwrap();
    site.close();
    let name = site.names("pair").into_iter().find(|name| name.strip_suffix(".delta").is_some()).unwrap();
    let path = site.pair_path("pair").join(name);
    far.set_up(true);
    (site, far, target, path)
}

type Change = fn(&mut Parts);

#[test]
fn a_relay_that_alters_any_part_is_found_out_before_the_disk_is_written() {
    let (mut site, _far, target, path) = stored(&signing_key());
    let good = std::fs::read(&path).unwrap();
    let parts = split(&good);
    assert_eq!((parts.pages.len(), parts.clone().sealed() == good), (1, true), "this test reads the format right");
    assert!(!parts.frames.is_empty() && parts.trailer[4] == 1);
    // Where the payload of the first frame begins.
    let before = target.disk.content();
    let changes: Vec<(&str, Change, &str)> = vec![
        ("time", |parts| parts.header[40] ^= 1, "signature is not good"),
        ("kind", |parts| parts.header[19] = 1, "signature is not good"),
        ("id", |parts| parts.header[48] ^= 1, "signature is not good"),
        ("result size", |parts| parts.header[33] ^= 2, ""),
        ("base coverage", |parts| parts.header[17] = 2, ""),
        ("a free run is shorter", |parts| parts.pages[0][68] -= 1, ""),
        ("a free run lies elsewhere", |parts| parts.pages[0][16] -= 1, ""),
        ("an extent lies elsewhere", |parts| parts.frames[0][80 + 8] += 1, ""),
        ("what becomes zero is left alone", |parts| swap_code(parts, 2, 3), ""),
        ("what is left alone becomes zero", |parts| swap_code(parts, 3, 2), ""),
        ("a value", |parts| flip_behind_extents(parts, 5), ""),
        ("the last value", |parts| parts.trailer[216] ^= 1, ""),
        ("payload", flip_payload, "does not have the values"),
        ("result root", |parts| parts.trailer[56] ^= 1, ""),
        ("public key", |parts| parts.trailer[88] ^= 1, "signature is not good"),
        ("signature", |parts| parts.trailer[130] ^= 1, "signature is not good"),
        ("no signature", |parts| parts.trailer[88..184].fill(0), ""),
        ("no signature, and it says so", unsigned, "is not signed"),
        ("a frame less", |parts| drop(parts.frames.pop()), ""),
        ("a sum", |parts| parts.trailer[24] ^= 1, "sums"),
    ];
    for (what, change, expected) in changes {
        let mut forged = parts.clone();
        change(&mut forged);
        let forged = forged.sealed();
        assert!(forged != good, "{what}");
        let error = deliver(&target, &forged, "pair");
        assert!(error.contains(expected), "{what}: {error}");
        assert!(target.disk.content() == before && target.applies.load(Ordering::Relaxed) == 0, "{what}");
        // The relay itself, should its disk have changed: it sends what it has, and goes on from nothing else.
        std::fs::write(&path, &forged).unwrap();
        site.restart();
        if site.status("pair").deltas == 1 {
            let step = site.forward("pair");
            assert!(matches!(step, Step::Failed | Step::LostBase), "{what}: {step:?}");
        }
        assert!(target.disk.content() == before && target.applies.load(Ordering::Relaxed) == 0, "{what}");
        site.close();
        let aside = path.with_extension("aside");
        if aside.exists() {
            std::fs::remove_file(aside).unwrap();
        }
        std::fs::write(&path, &good).unwrap();
    }
    // And unaltered it is taken.
    site.restart();
    assert_eq!(site.forward("pair"), Step::Nothing);
    assert_eq!(target.applies.load(Ordering::Relaxed), 1);
    assert!(target.disk.content() != before);
}

/// Turns the first block that becomes `from` into one that becomes `to`.
fn swap_code(parts: &mut Parts, from: u8, to: u8) {
    for frame in &mut parts.frames {
        let extents = u32_at(frame, 32);
        for number in 0..extents {
            let place = 80 + 8 * number + 6;
            if frame[place] == from {
                frame[place] = to;
                return;
            }
        }
    }
    panic!("there is no such extent");
}

fn flip_behind_extents(parts: &mut Parts, at: usize) {
    let extents = u32_at(&parts.frames[0], 32);
    parts.frames[0][80 + 8 * extents + at] ^= 1;
}

fn flip_payload(parts: &mut Parts) {
    let frame = &mut parts.frames[0];
    assert_eq!(frame[4], 0, "noise is not compressed");
    let last = frame.len() - 1;
    frame[last] ^= 1;
}

fn unsigned(parts: &mut Parts) {
    parts.trailer[4] = 0;
    parts.trailer[88..184].fill(0);
}

#[test]
fn any_flipped_byte_is_found_out() {
    let (_site, _far, target, path) = stored(&signing_key());
    let good = std::fs::read(&path).unwrap();
    let before = target.disk.content();
    for at in (0..good.len()).step_by(good.len() / 150) {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        deliver(&target, &flipped, "pair");
        assert!(target.disk.content() == before && target.applies.load(Ordering::Relaxed) == 0, "byte {at}");
    }
    assert_eq!(deliver(&target, &good, "pair"), "");
    assert_eq!(target.applies.load(Ordering::Relaxed), 1);
}

#[test]
fn what_another_has_signed_is_not_the_sources() {
    // Another key, in the same form.
    let other = PRIVATE.replace("INTuctv5", "INTuctv6");
    let other = SigningKey::from_pem(&other).unwrap();
    let (mut site, far, target, _) = stored(&other);
    site.restart();
    assert_eq!(site.forward("pair"), Step::Failed);
    let error = site.status("pair").last_error.unwrap();
    assert!(error.contains("signed by another key"), "{error}");
    assert_eq!((target.applies.load(Ordering::Relaxed), site.status("pair").deltas), (0, 1));
    // A relay that knows the source's key says so while the source is there to hear it.
    assert_eq!(site.relay.give_up("pair").unwrap(), 1);
    *far.signer.lock().unwrap() = Some(verifying_key());
    let _running = site.running();
    let (free, source) = (free_map(), disk_of(&changed(&noise(1, DISK), 50_000)));
    let refused = |how: &PassOptions<'_>| send_pass(&Near::new(&site), &source, how, &Silent).unwrap_err().to_string();
    assert!(refused(&signed(&free, &other, 5)).contains("takes only what its source has signed"));
    assert!(refused(&pass("pair", 6, Finish::Stored)).contains("takes only what its source has signed"));
    assert_eq!(site.status("pair").deltas, 0);
    let right = signing_key();
    let how = PassOptions { finish: Finish::Applied, ..signed(&free, &right, 7) };
    send_pass(&Near::new(&site), &source, &how, &Silent).unwrap();
    assert_eq!(target.applies.load(Ordering::Relaxed), 1);
}

fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [&len.to_le_bytes()[..], &[kind, 0, 0, 0], payload].concat()
}

/// Sends these bytes as a delta, with an end that fits them. What the target says against it; nothing if it is done.
fn deliver(target: &Arc<Target>, delta: &[u8], pair: &str) -> String {
    let (near, far) = UnixStream::pair().unwrap();
    let served = Arc::clone(target);
    let serving = thread::spawn(move || served.serve(link_over(&far, u64::MAX)));
    let mut reader = near.try_clone().unwrap();
    let heard = thread::spawn(move || {
        let mut heard = Vec::new();
        let _ = reader.read_to_end(&mut heard);
        heard
    });
    let mut offer = (DISK as u64).to_le_bytes().to_vec();
    offer.extend([u8::try_from(pair.len()).unwrap(), 2, 3, 0]);
    offer.extend([0; 72]);
    offer.extend(pair.as_bytes());
    let mut says = [&b"\x89FBREP\r\n\x01\0\x01\0\x01\0\0\0"[..], &[0; 16], &message(kind::OFFER, &offer)].concat();
    for (number, piece) in delta.chunks(60_000).enumerate() {
        let at = (number * 60_000) as u64;
        says.extend(message(kind::DATA, &[&at.to_le_bytes()[..], piece].concat()));
    }
    let root = split_root(delta);
    says.extend(message(kind::END, &[&(delta.len() as u64).to_le_bytes()[..], &root].concat()));
    let _ = (&near).write_all(&says);
    let _ = near.shutdown(std::net::Shutdown::Write);
    let ended = serving.join().unwrap();
    drop(heard.join().unwrap());
    ended.err().map(|error| error.to_string()).unwrap_or_default()
}

/// The root that a delta says it leads to, wherever its trailer is now.
fn split_root(delta: &[u8]) -> Vec<u8> {
    let at = delta.windows(4).rposition(|window| window == b"FBDE").unwrap_or(0);
    delta.get(at + 56..at + 88).unwrap_or(&[0; 32]).to_vec()
}
