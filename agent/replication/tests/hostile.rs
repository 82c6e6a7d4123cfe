//! The other side says whatever it likes: the session ends with a sentence, in bounded time and memory, and nothing is written.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Near, Target, disk_of, link_over, noise, options};
use failback_delta::{DeltaReader, FreeBlocks, Item};
use failback_hashtree::Root;
use failback_orchestrate::{BaseTree, JobError, Silent};
use failback_replication::wire::kind;
use failback_replication::{
    Connector, Link, Meet, Offer, Offered, Order, Replica, Seat, SessionError, Spool, Stage, refuse_session, send_pass,
    serve_session,
};
use proptest::prelude::*;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const DISK: usize = (1 << 20) + 5000;

fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [&len.to_le_bytes()[..], &[kind, 0, 0, 0], payload].concat()
}

fn preface(role: u8) -> Vec<u8> {
    [&b"\x89FBREP\r\n\x01\0\x01\0"[..], &[role, 0, 0, 0], b"0.1.0\0\0\0\0\0\0\0\0\0\0\0"].concat()
}

fn offer(pair: &str) -> Vec<u8> {
    let mut bytes = (DISK as u64).to_le_bytes().to_vec();
    bytes.extend([u8::try_from(pair.len()).unwrap(), 1, 3, 0]);
    bytes.extend([0; 72]);
    bytes.extend(pair.as_bytes());
    message(kind::OFFER, &bytes)
}

fn meet(group: &str, pair: &str) -> Vec<u8> {
    let [group_len, pair_len] = [group, pair].map(|name| u8::try_from(name.len()).unwrap());
    let names = [group.as_bytes(), pair.as_bytes()].concat();
    message(kind::MEET, &[&[group_len, pair_len, 0, 0, 0, 0, 0, 0][..], &[0; 16], &names].concat())
}

fn question(first: u64, count: u32, level: u8) -> Vec<u8> {
    let head = [1_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat();
    let run = [&first.to_le_bytes()[..], &count.to_le_bytes(), &[level, 0, 0, 0]].concat();
    message(kind::ASK_VALUES, &[head, run].concat())
}

fn data(at: u64, bytes: &[u8]) -> Vec<u8> {
    message(kind::DATA, &[&at.to_le_bytes()[..], bytes].concat())
}

/// What a target makes of what a source sends, which then hangs up or waits: the error, and what was answered.
fn target_hears(bytes: &[u8], hangs_up: bool) -> (SessionError, Vec<u8>) {
    let (error, heard, _) = target_hears_and_keeps(bytes, hangs_up);
    (error, heard)
}

/// As [`target_hears`], and how much of a delta it keeps.
fn target_hears_and_keeps(bytes: &[u8], hangs_up: bool) -> (SessionError, Vec<u8>, u64) {
    let base = noise(1, DISK);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let (near, far) = UnixStream::pair().unwrap();
    let (served, heard) = thread::scope(|scope| {
        let target = &target;
        let served = scope.spawn(move || target.serve(link_over(&far, u64::MAX)));
        let mut reader = near.try_clone().unwrap();
        let heard = scope.spawn(move || {
            let mut heard = Vec::new();
            let _ = reader.read_to_end(&mut heard);
            heard
        });
        let _ = (&near).write_all(bytes);
        if hangs_up {
            let _ = near.shutdown(Shutdown::Write);
        }
        (served.join().unwrap(), heard.join().unwrap())
    });
    assert!(target.disk.content() == base, "nothing was written");
    (served.unwrap_err(), heard, target.spooled())
}

#[test]
fn who_is_not_served_is_told_why() {
    let why = "nobody is served here: go elsewhere";
    for first in [offer("pair"), meet("shop", "pair"), [message(kind::ALIVE, b""), offer("pair")].concat()] {
        let (near, far) = UnixStream::pair().unwrap();
        let refusing = thread::spawn(move || {
            refuse_session(link_over(&far, u64::MAX), &Arc::default(), JobError::Refused(why.into()))
        });
        (&near).write_all(&[&preface(1)[..], &first].concat()).unwrap();
        let mut heard = Vec::new();
        (&near).read_to_end(&mut heard).unwrap();
        refusing.join().unwrap().unwrap();
        assert!(heard[32..] == message(kind::REFUSE, why.as_bytes()), "{}", String::from_utf8_lossy(&heard));
    }
    // Who is no source, or leaves, is not waited for.
    for said in [preface(2), preface(1)] {
        let (near, far) = UnixStream::pair().unwrap();
        (&near).write_all(&said).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let refused = refuse_session(link_over(&far, u64::MAX), &Arc::default(), JobError::Refused(why.into()));
        assert!(refused.is_err());
    }
}

/// Has a delta that its target will not take, and a seat in a meeting that fails.
struct Unwilling;

const UNWILLING: &str = "not today: come tomorrow";

fn unwilling<T>() -> Result<T, JobError> {
    Err(JobError::Refused(UNWILLING.into()))
}

impl Replica for Unwilling {
    fn offer(&mut self, _: &Offer) -> Result<Offered, JobError> {
        Ok(Offered::Stored(Root::of(b"")))
    }

    fn base(&self) -> Result<&dyn BaseTree, JobError> {
        unwilling()
    }

    fn spool(&self) -> &Mutex<Spool> {
        unreachable!("nothing arrives")
    }

    fn apply(&mut self, _: Root) -> Result<Root, JobError> {
        unwilling()
    }

    fn applied(&self, _: Root, _: Duration) -> Result<Option<Root>, JobError> {
        unwilling()
    }

    fn meet(&mut self, _: &Meet) -> Result<Box<dyn Seat>, JobError> {
        Ok(Box::new(Self))
    }
}

impl Seat for Unwilling {
    fn reached(&self, _: Stage) -> Result<(), SessionError> {
        Ok(())
    }

    fn left(&self, _: Option<&str>) {}

    fn next(&self, _: Duration) -> Result<Option<Order>, JobError> {
        unwilling()
    }
}

#[test]
fn a_refusal_is_told_once() {
    for first in [offer("pair"), meet("shop", "pair")] {
        let (near, far) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || {
            serve_session(link_over(&far, u64::MAX), &Arc::default(), &mut Unwilling).unwrap_err()
        });
        (&near).write_all(&[&preface(1)[..], &first].concat()).unwrap();
        let mut heard = vec![0; 32];
        (&near).read_exact(&mut heard).unwrap();
        let mut frame = [0; 8];
        let refusal = loop {
            (&near).read_exact(&mut frame).unwrap();
            let mut payload = vec![0; frame[0].into()];
            (&near).read_exact(&mut payload).unwrap();
            if frame[4] == kind::REFUSE {
                break payload;
            }
        };
        assert_eq!(refusal, UNWILLING.as_bytes());
        // It says nothing more, and listens.
        near.shutdown(Shutdown::Write).unwrap();
        heard.clear();
        (&near).read_to_end(&mut heard).unwrap();
        assert!(heard.is_empty(), "{}", String::from_utf8_lossy(&heard));
        assert_eq!(serving.join().unwrap().to_string(), UNWILLING);
    }
}

#[test]
fn a_target_refuses_what_does_not_keep_to_the_protocol() {
    let before = |rest: &[u8]| [&preface(1)[..], &offer("pair"), rest].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        ([&preface(1)[..], &data(0, b"x")].concat(), "no place here"),
        ([&preface(1)[..], &offer("other")].concat(), "there is no pair other"),
        ([&preface(1)[..], &offer("")].concat(), "not as its kind has to be"),
        ([&preface(1)[..], &offer("a\nb")].concat(), "not as its kind has to be"),
        ([&preface(1)[..], &meet("shop", "pair")].concat(), "meets at the master target"),
        ([&preface(1)[..], &meet("", "pair")].concat(), "not as its kind has to be"),
        ([&preface(1)[..], &meet("a\nb", "pair")].concat(), "not as its kind has to be"),
        ([&preface(1)[..], &message(kind::QUIESCED, b"")].concat(), "no place here"),
        (before(&message(kind::MARKED, b"")), "no place here"),
        (before(&meet("shop", "pair")), "no place here"),
        (preface(2), "no source"),
        (before(&data(1, b"x")), "does not follow the last one"),
        (before(&data(u64::MAX, b"x")), "does not follow the last one"),
        (before(&message(kind::DATA, &[0; 8])), "not as its kind has to be"),
        (before(&message(77, b"")), "no such kind"),
        (before(&message(kind::DONE, &[0; 32])), "no place here"),
        (before(&offer("pair")), "no place here"),
        (before(&[0xff, 0xff, 0xff, 0xff, kind::DATA, 0, 0, 0]), "longer than its kind allows"),
        (before(&[1, 0, 0, 0, kind::ALIVE, 0, 0, 0]), "longer than its kind allows"),
        (before(&[0, 0, 0, 0, kind::ALIVE, 0, 1, 0]), "longer than its kind allows"),
        (before(&question(0, 5000, 0)), "not as its kind has to be"),
        (before(&question(0, 0, 0)), "not as its kind has to be"),
        (before(&question(0, 1, 200)), "no nodes of level 200"),
        (before(&question(u64::MAX, 1, 0)), "no nodes of level 0"),
        (before(&message(kind::END, &[0; 40])), "longer or shorter than its end"),
        (before(&data(0, &[1; 300])), "begins as no part of a delta"),
        (before(&data(0, b"\x89FBDLT\r\n\x01\0")), "broke"),
        (
            before(&message(kind::END, &[&300_u64.to_le_bytes()[..], &[0; 32]].concat())),
            "longer or shorter than its end",
        ),
        (before(&message(kind::REFUSE, b"I stop")), "I stop"),
        (before(b""), "broke"),
    ];
    for (bytes, expected) in cases {
        let (error, heard) = target_hears(&bytes, expected == "broke");
        let mut all = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            all = format!("{all}: {error}");
            cause = error.source();
        }
        assert!(all.contains(expected), "{all:?} and not {expected:?}");
        // Of a preface that does not fit the other side knows by itself.
        if !error.is_link() && !matches!(error, SessionError::Refused(_) | SessionError::Mismatch(_)) {
            let told = String::from_utf8_lossy(&heard);
            assert!(told.contains(&error.to_string()), "the source is told why: {told:?}");
        }
    }
}

/// Keeps what an honest source says.
struct Overheard<'a>(&'a Near<fn(u64) -> u64>, Arc<Mutex<Vec<u8>>>);

struct Tee(Box<dyn Write + Send>, Arc<Mutex<Vec<u8>>>);

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.lock().unwrap().extend_from_slice(&bytes[..written]);
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Connector for Overheard<'_> {
    fn connect(&self) -> io::Result<Link> {
        let link = self.0.connect()?;
        Ok(Link { writer: Box::new(Tee(link.writer, Arc::clone(&self.1))), ..link })
    }
}

#[test]
fn a_root_that_the_delta_does_not_lead_to_is_refused_before_it_is_applied() {
    let (base, mut result) = (noise(1, DISK), noise(1, DISK));
    result[300_000..400_000].copy_from_slice(&noise(2, 100_000));
    let near: Near<fn(u64) -> u64> = Near::new(&Target::new(&base, &FreeBlocks::NONE), |_| u64::MAX);
    let said = Arc::<Mutex<Vec<u8>>>::default();
    common::send(&Overheard(&near, Arc::clone(&said)), &disk_of(&result), 1).unwrap();
    let mut said = std::mem::take(&mut *said.lock().unwrap());
    let end = said.len() - 48;
    assert_eq!(said[end..end + 8], message(kind::END, &[0; 40])[..8], "it is said last");
    *said.last_mut().unwrap() ^= 1;
    let (error, heard) = target_hears(&said, false);
    assert!(error.to_string().contains("another root than its end says"), "{error}");
    assert!(String::from_utf8_lossy(&heard).contains("another root"));
}

/// The delta of a disk whose first blocks are others, as an honest source sends it: where its first frame begins and ends, and all of it.
fn honest_delta() -> (usize, usize, Vec<u8>) {
    let (base, mut result) = (noise(1, DISK), noise(1, DISK));
    result[300_000..400_000].copy_from_slice(&noise(2, 100_000));
    let near: Near<fn(u64) -> u64> = Near::new(&Target::new(&base, &FreeBlocks::NONE), |_| u64::MAX);
    let said = Arc::<Mutex<Vec<u8>>>::default();
    common::send(&Overheard(&near, Arc::clone(&said)), &disk_of(&result), 1).unwrap();
    let (said, mut at, mut delta) = (std::mem::take(&mut *said.lock().unwrap()), 32, Vec::new());
    while let Some(head) = said.get(at..at + 8) {
        let len = usize::try_from(u32::from_le_bytes(head[..4].try_into().unwrap())).unwrap();
        if head[4] == kind::DATA {
            delta.extend_from_slice(&said[at + 16..at + 8 + len]);
        }
        at += 8 + len;
    }
    let mut reader = DeltaReader::open(delta.as_slice()).unwrap();
    let start = usize::try_from(reader.position()).unwrap();
    assert!(matches!(reader.next_item().unwrap(), Item::Frame(_)));
    let end = usize::try_from(reader.position()).unwrap();
    (start, end, delta)
}

fn in_pieces(delta: &[u8]) -> Vec<u8> {
    let pieces = delta.chunks(60_000).enumerate();
    pieces.flat_map(|(number, piece)| data(60_000 * number as u64, piece)).collect()
}

#[test]
fn a_source_that_repeats_a_frame_is_refused_at_once_and_leaves_nothing_behind() {
    let (start, end, delta) = honest_delta();
    let begin = [&preface(1)[..], &offer("pair")].concat();
    // What comes in order stays, for when the source comes back.
    let (error, _, kept) = target_hears_and_keeps(&[&begin[..], &in_pieces(&delta[..end])].concat(), true);
    assert!(error.is_link() && kept == end as u64, "{error}: {kept}");
    let frame = &delta[start..end];
    let again = [&delta[..end], frame, frame, frame].concat();
    let (error, heard, kept) = target_hears_and_keeps(&[&begin[..], &in_pieces(&again)].concat(), false);
    assert!(error.to_string().contains("does not follow the frame before it"), "{error}");
    assert!(String::from_utf8_lossy(&heard).contains("does not follow the frame before it"));
    assert_eq!(kept, 0);
}

#[test]
fn a_delta_of_a_disk_of_another_size_than_was_offered_is_refused_by_its_header() {
    let (start, _, delta) = honest_delta();
    let mut other = offer("pair");
    other[8..16].copy_from_slice(&(DISK as u64 + 4096).to_le_bytes());
    let says = [&preface(1)[..], &other, &in_pieces(&delta[..start])].concat();
    let (error, heard, kept) = target_hears_and_keeps(&says, false);
    assert!(error.to_string().contains("of another size than was offered"), "{error}");
    assert!(String::from_utf8_lossy(&heard).contains("of another size than was offered"));
    assert_eq!(kept, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_target_survives_any_order_of_messages(
        kinds in prop::collection::vec((0_u8..40, 0_u8..8, prop::collection::vec(any::<u8>(), 0..80)), 0..12),
    ) {
        let mut bytes = preface(1);
        for (code, which, random) in kinds {
            bytes.extend(match which {
                0 | 1 => offer("pair"),
                2 => question(u64::from(code), u32::from(code), code % 5),
                3 => data(0, b"\x89FBDLT\r\n"),
                4 => message(kind::ALIVE, b""),
                5 => message(kind::ASK_MAP, b""),
                6 => message(code, &random),
                _ => random,
            });
        }
        let started = Instant::now();
        target_hears(&bytes, true);
        prop_assert!(started.elapsed() < Duration::from_secs(20));
    }
}

/// A target that says these bytes, whatever the source says, once for each connection.
struct Script {
    says: Vec<u8>,
    made: Mutex<u32>,
}

impl Connector for Script {
    fn connect(&self) -> io::Result<Link> {
        *self.made.lock().unwrap() += 1;
        let (near, far) = UnixStream::pair()?;
        let says = self.says.clone();
        thread::spawn(move || {
            let mut reader = far.try_clone().unwrap();
            thread::spawn(move || drop(io::copy(&mut reader, &mut io::sink())));
            let _ = (&far).write_all(&says);
            // Long enough for the source to act on what it heard.
            thread::sleep(Duration::from_millis(50));
            let _ = far.shutdown(Shutdown::Both);
        });
        Ok(link_over(&near, u64::MAX))
    }
}

fn accept(size: u64, shift: u8, coverage: u8, durable: u64) -> Vec<u8> {
    let mut bytes = size.to_le_bytes().to_vec();
    bytes.extend([shift, coverage, 0, 0, 0, 0, 0, 0]);
    bytes.extend([7; 64]);
    bytes.extend(durable.to_le_bytes());
    message(kind::ACCEPT, &bytes)
}

/// The answer of somebody who says of itself whether it is a relay.
fn relayed(code: u8) -> Vec<u8> {
    let mut message = accept(DISK as u64, 12, 1, 0);
    message[8 + 10] = code;
    message
}

fn source_hears(says: &[u8]) -> (SessionError, u32) {
    let script = Arc::new(Script { says: [&preface(2)[..], says].concat(), made: Mutex::new(0) });
    let mut how = options(None, 1);
    how.backoff.attempts = 2;
    let error = send_pass(&*script, &disk_of(&noise(1, DISK)), &how, &Silent).unwrap_err();
    let made = *script.made.lock().unwrap();
    (error, made)
}

#[test]
fn a_source_gives_up_a_target_that_does_not_keep_to_the_protocol() {
    let here = accept(DISK as u64, 12, 1, 0);
    let after = |rest: &[u8]| [&here[..], rest].concat();
    let values = |id: u32, count: u32, len: usize| {
        message(kind::VALUES, &[&id.to_le_bytes()[..], &count.to_le_bytes(), &vec![3; len]].concat())
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (message(kind::DONE, &[1; 32]), "done before the delta is complete"),
        (message(kind::STORED, &[1; 32]), "done before the delta is complete"),
        (message(kind::DURABLE, &[0; 8]), "does not answer the offer"),
        (relayed(2), "not as its kind has to be"),
        ([relayed(1), message(kind::STORED, &[1; 32])].concat(), "done before the delta is complete"),
        (after(&message(kind::STORED, &[1; 32])), "done before the delta is complete"),
        (after(&message(kind::STORED, &[1; 31])), "not as its kind has to be"),
        (accept(DISK as u64, 12, 1, 5), "more of the delta than there is"),
        (accept(DISK as u64, 40, 1, 0), "not as its kind has to be"),
        (accept(u64::MAX, 12, 1, 0), "not as its kind has to be"),
        (accept(DISK as u64, 12, 9, 0), "not as its kind has to be"),
        (after(&message(kind::DONE, &[1; 32])), "done before the delta is complete"),
        (after(&message(kind::DURABLE, &[255; 8])), "more of the delta than it was sent"),
        (after(&values(0, 2, 64)), "another number of values"),
        (after(&values(0, 3, 64)), "not as its kind has to be"),
        (after(&message(kind::MAP, &[1, 2, 3])), "a map was sent that nobody asked for"),
        (after(&accept(DISK as u64, 12, 1, 0)), "no place here"),
        (after(&message(kind::REFUSE, b"the drive is full")), "the drive is full"),
        // Whether it was asked for by then or not.
        ([&accept(DISK as u64, 12, 2, 0)[..], &message(kind::MAP, &[1, 2, 3])].concat(), "map"),
    ];
    for (says, expected) in cases {
        let (error, made) = source_hears(&says);
        assert!(error.to_string().contains(expected), "{error} and not {expected:?}");
        // An answer that comes before its question is passed over.
        assert!(made == 1 || expected.contains("another number"), "it is not tried again: {expected}");
    }
    let (error, made) = source_hears(b"");
    assert!(error.is_link() && made == 3, "{error} after {made}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_source_survives_any_order_of_messages(
        kinds in prop::collection::vec((0_u8..40, 0_u8..6, prop::collection::vec(any::<u8>(), 0..80)), 0..10),
    ) {
        let mut says = Vec::new();
        for (code, which, random) in kinds {
            says.extend(match which {
                0 | 1 => accept(DISK as u64, 12, 1, 0),
                2 => message(kind::VALUES, &[&[code % 3, 0, 0, 0, 1, 0, 0, 0][..], &[code; 32]].concat()),
                3 => message(kind::ALIVE, b""),
                4 => message(code, &random),
                _ => random,
            });
        }
        let started = Instant::now();
        source_hears(&says);
        prop_assert!(started.elapsed() < Duration::from_secs(20));
    }
}
