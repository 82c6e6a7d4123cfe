//! Whole passes between a source and a target, over connections that hold and that break.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Near, Notes, Target, disk_of, noise, options, send, until};
use failback_delta::FreeBlocks;
use failback_hashtree::{Root, Shape};
use failback_orchestrate::{BlockSize, ByteCount, FreeMap, free_blocks};
use failback_replication::wire::kind;
use failback_replication::{Connector, Link, PassReport, SessionError, SessionReport, send_pass};
use failback_units::{ByteOffset, ByteRange};
use failback_volumes::FreeMapBuilder;
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

const ALWAYS: fn(u64) -> u64 = |_| u64::MAX;
const DISK: usize = 12 << 20;

/// A disk of which every 70,000th byte, or so, is another.
fn changed(base: &[u8], step: usize) -> Vec<u8> {
    let mut result = base.to_vec();
    result.iter_mut().skip(step / 2).step_by(step).for_each(|byte| *byte ^= 1);
    result
}

#[test]
fn a_pass_brings_the_target_to_the_source() {
    let base = noise(1, DISK);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let result = changed(&base, 70_000);
    let near = Near::new(&target, ALWAYS);
    let report = send(&near, &disk_of(&result), 1).unwrap();
    assert_eq!(report.root, Root::of(&result));
    assert_eq!(target.disk.content(), result);
    assert_eq!((report.connections, report.sent_again), (1, 0));
    assert!(matches!(near.ended()[0], Ok(SessionReport::Applied(root)) if root == report.root));
    let delta = report.difference.delta.delta_bytes;
    assert!(report.sent <= delta + delta / 20 + 4096, "{} for a delta of {delta}", report.sent);
    // The next pass starts from there, with the tree that followed from the delta.
    let again = changed(&result, 1 << 20);
    let report = send(&near, &disk_of(&again), 2).unwrap();
    assert_eq!((report.root, report.difference.delta.changed_blocks), (Root::of(&again), 12));
    assert_eq!(target.disk.content(), again);
}

#[test]
fn an_unchanged_disk_costs_less_than_4_kib_each_way() {
    let base = noise(1, 64 << 20);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let report = send(&Near::new(&target, ALWAYS), &disk_of(&base), 1).unwrap();
    assert_eq!(report.difference.delta.scan.bytes_read, base.len() as u64);
    assert_eq!(report.difference.read_again.bytes_read, 0);
    assert!(report.sent <= 4096 && report.received <= 4096, "{} and {}", report.sent, report.received);
}

fn free_map(ranges: &[(u64, u64)]) -> FreeMap {
    let mut map = FreeMapBuilder::new();
    for (start, end) in ranges {
        let at = |at: u64| ByteOffset::new(at).unwrap();
        map.push(ByteRange::between(at(*start), at(*end)).unwrap());
    }
    map.finish()
}

#[test]
fn free_space_is_not_sent_and_a_map_only_if_it_differs() {
    let base = noise(1, DISK);
    let shape = Shape::new(ByteCount::of_memory(DISK), BlockSize::MIN);
    let random = noise(5, 500);
    let longer = |run: u64, random: u8| u64::from(run > 9 && random > 127) * 4096;
    let before: Vec<_> =
        (0..500).zip(random).map(|(run, random)| (run * 16384, run * 16384 + 8192 + longer(run, random))).collect();
    let mut after = before.clone();
    after[3] = (3 * 16384 + 4096, 3 * 16384 + 8192);
    let target = Target::new(&base, &free_blocks(&free_map(&before), shape));
    let near = Near::new(&target, ALWAYS);
    let mut result = base.clone();
    result[14_000] ^= 1;
    // Free in both: whatever it holds.
    result[16384 * 9 + 5] ^= 1;
    let source = disk_of(&result);
    let same = send_pass(&near, &source, &options(Some(&free_map(&before)), 1), &failback_orchestrate::Silent).unwrap();
    assert_eq!(same.difference.delta.changed_blocks, 1);
    let other = send_pass(&near, &source, &options(Some(&free_map(&after)), 2), &failback_orchestrate::Silent).unwrap();
    assert_eq!(other.difference.delta.changed_blocks, 1, "a block is free no more, and what it holds was not known");
    assert!(other.received > same.received + 100, "the map was sent");
    let now = target.disk.content();
    assert_eq!(now[3 * 16384..3 * 16384 + 4096], result[3 * 16384..3 * 16384 + 4096]);
    assert_eq!(now[16384 * 9..16384 * 9 + 8192], base[16384 * 9..16384 * 9 + 8192], "free space is left alone");
}

#[test]
fn slow_a_pass_goes_on_over_connections_that_break_at_every_place() {
    let base = noise(1, 3 << 20);
    let result = changed(&base, 40_000);
    let source = disk_of(&result);
    let whole = send(&Near::new(&Target::new(&base, &FreeBlocks::NONE), ALWAYS), &source, 1).unwrap();
    let all = whole.sent + whole.received;
    let mut connections = 0;
    // The first connection breaks after so many bytes; the next ones last a little longer each time.
    for first in (0..200).chain((200..all + 200).step_by(usize::try_from(all / 150).unwrap())) {
        let target = Target::new(&base, &FreeBlocks::NONE);
        let near = Near::new(&target, |number| if number == 0 { first } else { first + number * (all / 3) });
        let report = send(&near, &source, 1).unwrap();
        assert_eq!((report.root, target.disk.content() == result), (Root::of(&result), true), "{first}");
        assert_eq!(target.applies.load(Ordering::Relaxed), 1, "applied once");
        connections += report.connections;
    }
    assert!(connections > 400, "{connections}");
}

#[test]
fn what_is_durable_is_not_sent_again() {
    let base = noise(1, 48 << 20);
    let result = noise(2, 48 << 20);
    let target = Target::new(&base, &FreeBlocks::NONE);
    // Each connection lasts for 12 MiB; the target makes every 8 MiB durable.
    let near = Near::new(&target, |_| 12 << 20);
    let report = send(&near, &disk_of(&result), 1).unwrap();
    assert_eq!(target.disk.content(), result);
    assert!(report.connections >= 4, "{}", report.connections);
    // What was under way when a connection broke: half a frame, and what the socket held.
    let bound = (report.connections - 1) * (2 << 20);
    assert!(report.sent_again > 0 && report.sent_again <= bound, "{} of {bound}", report.sent_again);
}

#[test]
fn a_target_that_is_started_again_goes_on_from_its_spool() {
    let base = noise(1, 32 << 20);
    let result = noise(2, 32 << 20);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let again = std::sync::Arc::clone(&target);
    let near = Near::new(&target, move |number| {
        if number > 0 {
            // The machine stopped: behind what was flushed stands anything.
            let mut bytes = fs::read(again.spool_path()).unwrap();
            let from = usize::try_from(again.durable()).unwrap();
            let len = bytes.len() - from;
            assert!(from >= 8 << 20 && len > 0, "{from} and {len}");
            bytes[from..].copy_from_slice(&noise(number, len));
            fs::write(again.spool_path(), bytes).unwrap();
            again.restart();
        }
        21 << 20
    });
    let report = send(&near, &disk_of(&result), 1).unwrap();
    assert_eq!((report.connections, target.disk.content() == result), (2, true));
}

/// Sends until it has to give up, as if it were killed then, and once more; returns what the second run did.
fn stopped_and_sent_again(
    target: &std::sync::Arc<Target>,
    source: [&failback_blockio::sim::SimDisk; 2],
    after: u64,
) -> Result<PassReport, SessionError> {
    let journal = target.directory.path().join("journal");
    let mut how = options(None, 1);
    how.journal = Some(&journal);
    how.backoff.attempts = 0;
    if source[0].content() != source[1].content() {
        (how.diff.kind, how.moment) = (failback_delta::PointKind::Fuzzy, None);
    }
    let near = Near::new(target, move |_| after);
    let first = send_pass(&near, source[0], &how, &failback_orchestrate::Silent);
    near.ended();
    assert!(first.is_err_and(|error| error.is_link()) && journal.exists() == (after > 1000));
    // Another program would draw another id.
    how.diff.id = [2; 16];
    let second = send_pass(&Near::new(target, ALWAYS), source[1], &how, &failback_orchestrate::Silent);
    assert!(!journal.exists(), "a journal is removed when it has served, or cannot");
    second
}

#[test]
fn a_source_that_was_stopped_goes_on_where_the_target_has_it_durable() {
    let base = noise(1, 40 << 20);
    let result = noise(2, 40 << 20);
    for after in [100, 3 << 20, 20 << 20, 39 << 20] {
        let target = Target::new(&base, &FreeBlocks::NONE);
        let source = disk_of(&result);
        let report = stopped_and_sent_again(&target, [&source; 2], after).unwrap();
        assert_eq!((report.root, target.disk.content() == result), (Root::of(&result), true), "{after}");
        // All but the last MiB of what had arrived, which may be half a frame, is neither read nor sent again.
        let known = after.saturating_sub(2 << 20);
        let (read, sent) = (report.difference.delta.scan.bytes_read, report.sent);
        assert!(read + known <= (41 << 20) && sent + known <= (42 << 20), "{after}: {read} read, {sent} sent");
    }
}

#[test]
fn a_source_that_changed_while_it_was_stopped_leads_to_what_was_read() {
    let base = noise(1, 40 << 20);
    let before = noise(2, 40 << 20);
    let mut after = before.clone();
    after.iter_mut().step_by(1 << 20).for_each(|byte| *byte ^= 1);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let report = stopped_and_sent_again(&target, [&disk_of(&before), &disk_of(&after)], 20 << 20).unwrap();
    assert_eq!(Root::of(&target.disk.content()), report.root, "the root is that of what is there");
    let now = target.disk.content();
    let same = now.chunks(4096).zip(before.chunks(4096).zip(after.chunks(4096)));
    assert!(same.clone().all(|(now, (before, after))| now == before || now == after));
    assert!(now != before && now != after);
    // And the next pass brings the rest.
    let next = send(&Near::new(&target, ALWAYS), &disk_of(&after), 3).unwrap();
    assert_eq!((next.root, target.disk.content() == after), (Root::of(&after), true));
}

#[test]
fn a_pass_that_claims_a_moment_does_not_go_on_in_another_one() {
    let base = noise(1, 24 << 20);
    let (before, after) = (noise(2, 24 << 20), noise(3, 24 << 20));
    for later in [None, Some([2; 32])] {
        let target = Target::new(&base, &FreeBlocks::NONE);
        let journal = target.directory.path().join("journal");
        let mut how = options(None, 1);
        how.journal = Some(&journal);
        how.backoff.attempts = 0;
        let near = Near::new(&target, |_| 18 << 20);
        send_pass(&near, &disk_of(&before), &how, &failback_orchestrate::Silent).unwrap_err();
        near.ended();
        assert!(target.durable() >= 8 << 20);
        (how.moment, how.diff.id) = (later, [2; 16]);
        let notes = Notes(Mutex::default());
        let report = send_pass(&Near::new(&target, ALWAYS), &disk_of(&after), &how, &notes).unwrap();
        assert_eq!(
            (report.root, target.disk.content() == after),
            (Root::of(&after), true),
            "all of it is of one moment"
        );
        assert!(notes.0.into_inner().unwrap()[0].contains("another moment of the source"));
    }
}

#[test]
fn a_pass_does_not_go_on_from_another_base() {
    let base = noise(1, 24 << 20);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let other = Target::new(&noise(3, 24 << 20), &FreeBlocks::NONE);
    let journal = target.directory.path().join("journal");
    let source = disk_of(&noise(2, 24 << 20));
    let mut how = options(None, 1);
    how.journal = Some(&journal);
    how.backoff.attempts = 0;
    let silent = &failback_orchestrate::Silent;
    let near = Near::new(&target, |_| 12 << 20);
    send_pass(&near, &source, &how, silent).unwrap_err();
    near.ended();
    let error = send_pass(&Near::new(&other, ALWAYS), &source, &how, silent).unwrap_err();
    assert!(error.to_string().contains("begin it again") && !journal.exists(), "{error}");
    let report = send_pass(&Near::new(&other, ALWAYS), &source, &how, silent).unwrap();
    assert_eq!(report.root, Root::of(&source.content()));
}

#[test]
fn a_journal_counts_up_to_its_first_damage() {
    let base = noise(1, 24 << 20);
    let result = noise(2, 24 << 20);
    let source = disk_of(&result);
    for at in [0, 32, 82, 182, 432, 20_000, 60_000] {
        let target = Target::new(&base, &FreeBlocks::NONE);
        let journal = target.directory.path().join("journal");
        let mut how = options(None, 1);
        how.journal = Some(&journal);
        how.backoff.attempts = 0;
        let silent = &failback_orchestrate::Silent;
        let near = Near::new(&target, |_| 18 << 20);
        send_pass(&near, &source, &how, silent).unwrap_err();
        near.ended();
        assert!(target.durable() >= 16 << 20, "{}", target.durable());
        let mut bytes = fs::read(&journal).unwrap();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1;
        }
        fs::write(&journal, bytes).unwrap();
        let report = send_pass(&Near::new(&target, ALWAYS), &source, &how, silent).unwrap();
        assert_eq!((report.root, target.disk.content() == result), (Root::of(&result), true), "{at}");
    }
}

#[test]
fn a_lost_end_is_not_applied_twice() {
    let base = noise(1, 1 << 20);
    let result = changed(&base, 100_000);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let near = Near::new(&target, |number| if number == 0 { until(kind::DONE) } else { u64::MAX });
    let report = send(&near, &disk_of(&result), 1).unwrap();
    assert_eq!((report.connections, report.root), (1, Root::of(&result)), "the second one only asks what became of it");
    assert_eq!(target.applies.load(Ordering::Relaxed), 1);
    let ended = near.ended();
    assert!(matches!(ended.last(), Some(Ok(SessionReport::AppliedBefore(_)))), "{ended:?}");
}

#[test]
fn a_refusal_reaches_the_administrator_and_changes_nothing() {
    let base = noise(1, 1 << 20);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let near = Near::new(&target, ALWAYS);
    let mut how = options(None, 1);
    how.pair = "another".into();
    let error = send_pass(&near, &disk_of(&noise(2, 1 << 20)), &how, &failback_orchestrate::Silent).unwrap_err();
    assert_eq!(error.to_string(), "the other side says: there is no pair another: add it with pair add");
    assert_eq!((target.disk.content() == base, target.spooled()), (true, 0));
    assert_eq!(near.made.load(Ordering::Relaxed), 1, "a refusal is not tried again");
}

#[test]
fn a_target_that_does_not_come_back_is_given_up() {
    let target = Target::new(&noise(1, 1 << 20), &FreeBlocks::NONE);
    let near = Near::new(&target, |_| 10);
    let notes = Notes(Mutex::default());
    let error = send_pass(&near, &disk_of(&noise(2, 1 << 20)), &options(None, 1), &notes).unwrap_err();
    assert!(error.is_link(), "{error}");
    assert_eq!(near.made.load(Ordering::Relaxed), 6, "one and five more");
    let notes = notes.0.into_inner().unwrap();
    assert!(notes.len() == 5 && notes[0].contains("broke") && notes[0].contains("again in"), "{notes:?}");
}

/// What tells that this machine may not.
struct Forbidden(AtomicU64);

impl Connector for Forbidden {
    fn connect(&self) -> io::Result<Link> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "your key was revoked: ask for another token"))
    }
}

#[test]
fn who_may_not_connect_is_told_why_and_does_not_try_again() {
    let connector = Forbidden(AtomicU64::new(0));
    let error = send(&connector, &disk_of(&noise(2, 1 << 20)), 1).unwrap_err();
    assert_eq!(error.to_string(), "your key was revoked: ask for another token");
    assert!(!error.is_link());
    assert_eq!(connector.0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_target_that_others_wrote_to_is_refused_before_it_is_written() {
    let base = noise(1, 4 << 20);
    let target = Target::new(&base, &FreeBlocks::NONE);
    target.disk.write_durably(ByteOffset::new(1 << 20).unwrap(), &[1; 512]);
    let mut result = base;
    result[(1 << 20) + 9000] ^= 1;
    let error = send(&Near::new(&target, ALWAYS), &disk_of(&result), 1).unwrap_err();
    assert!(error.to_string().contains("something else has written to it"), "{error}");
    assert_eq!(target.applies.load(Ordering::Relaxed), 0);
}

#[test]
fn a_target_that_changed_in_between_is_not_written_to() {
    let base = noise(1, 8 << 20);
    let result = noise(2, 8 << 20);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let other = Target::new(&noise(3, 8 << 20), &FreeBlocks::NONE);
    let (to, from) = (target.directory.path().join("tree"), other.directory.path().join("tree"));
    let near = Near::new(&target, move |number| {
        if number == 1 {
            fs::copy(&from, &to).unwrap();
        }
        2 << 20
    });
    // The second session was accepted with the old tree or with the new one; the third sees the new one.
    let error = send(&near, &disk_of(&result), 1).unwrap_err();
    assert!(matches!(&error, SessionError::Changed(why) if why.contains("begin this pass again")), "{error}");
    assert_eq!(target.disk.content(), base);
}

#[test]
fn what_was_received_can_be_sent_back() {
    let base = noise(1, 4 << 20);
    let there = changed(&base, 300_000);
    let (site, cloud) = (Target::new(&base, &FreeBlocks::NONE), Target::new(&there, &FreeBlocks::NONE));
    send(&Near::new(&site, ALWAYS), &cloud.disk, 1).unwrap();
    assert_eq!(site.disk.content(), there);
    let here = changed(&there, 500_000);
    site.disk.write_durably(ByteOffset::ZERO, &here);
    let report = send(&Near::new(&cloud, ALWAYS), &site.disk, 2).unwrap();
    assert_eq!(report.root, Root::of(&here));
    assert_eq!(cloud.disk.content(), here);
}

#[test]
fn a_source_that_was_stopped_while_its_delta_was_applied_finds_out() {
    let base = noise(1, 4 << 20);
    let result = changed(&base, 100_000);
    let place = tempfile::tempdir().unwrap();
    let journal = place.path().join("journal");
    let mut how = options(None, 1);
    how.journal = Some(&journal);
    how.backoff.attempts = 0;
    // All of the delta arrives, and the answer to it does not. How many bytes that takes differs by some between two passes, as questions
    // go into one message or two.
    let attempt = |_| {
        let _ = std::fs::remove_file(&journal);
        let whole = send(&Near::new(&Target::new(&base, &FreeBlocks::NONE), ALWAYS), &disk_of(&result), 1).unwrap();
        let all = whole.sent + whole.received;
        let target = Target::new(&base, &FreeBlocks::NONE);
        let near = Near::new(&target, move |_| all - 1);
        let ended = send_pass(&near, &disk_of(&result), &how, &failback_orchestrate::Silent);
        near.ended();
        drop(near);
        (ended.is_err() && target.applies.load(Ordering::Relaxed) == 1).then_some(target)
    };
    let target = (0..20).find_map(attempt).unwrap();
    assert!(journal.exists());
    // The source has changed since: the same command makes another pass of it, from there.
    let later = changed(&result, 200_000);
    how.diff.id = [2; 16];
    let notes = Notes(Mutex::default());
    let report = send_pass(&Near::new(&target, ALWAYS), &disk_of(&later), &how, &notes).unwrap();
    assert_eq!((report.root, target.disk.content() == later), (Root::of(&later), true));
    assert_eq!(report.difference.delta.base_root, Root::of(&result));
    assert_eq!((target.applies.load(Ordering::Relaxed), journal.exists()), (2, false));
    assert!(notes.0.into_inner().unwrap()[0].contains("was applied; another one begins"));
}

/// Somebody who wants a pass to stop, after so long.
struct Impatient(std::time::Instant);

impl failback_orchestrate::Progress for Impatient {
    fn phase(&self, _: &'static str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn stop_requested(&self) -> bool {
        std::time::Instant::now() > self.0
    }
}

/// A target that never says a word, and one that cannot be reached.
struct Nobody {
    is_silent: bool,
    far: Mutex<Vec<std::os::unix::net::UnixStream>>,
}

impl failback_replication::Connector for Nobody {
    fn connect(&self) -> std::io::Result<failback_replication::Link> {
        if !self.is_silent {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        self.far.lock().unwrap().push(far);
        Ok(common::link_over(&near, u64::MAX))
    }
}

#[test]
fn a_pass_that_waits_for_a_target_is_stopped_at_once() {
    for is_silent in [false, true] {
        let mut how = options(None, 1);
        how.backoff.attempts = u32::MAX;
        how.backoff.longest = std::time::Duration::from_secs(60);
        how.backoff.first = std::time::Duration::from_secs(60);
        let started = std::time::Instant::now();
        let impatient = Impatient(started + std::time::Duration::from_millis(300));
        let nobody = Nobody { is_silent, far: Mutex::default() };
        let error = send_pass(&nobody, &disk_of(&noise(1, 1 << 20)), &how, &impatient).unwrap_err();
        assert_eq!(error.outcome(), failback_orchestrate::Outcome::Interrupted, "{error}");
        assert!(started.elapsed() < std::time::Duration::from_secs(10));
    }
}

#[test]
fn a_target_that_does_not_come_back_in_time_is_given_up() {
    let mut how = options(None, 1);
    how.backoff.attempts = u32::MAX;
    how.backoff.patience = std::time::Duration::from_millis(400);
    let started = std::time::Instant::now();
    let nobody = Nobody { is_silent: false, far: Mutex::default() };
    let silent = &failback_orchestrate::Silent;
    let error = send_pass(&nobody, &disk_of(&noise(1, 1 << 20)), &how, silent).unwrap_err();
    assert!(error.is_link(), "{error}");
    let took = started.elapsed();
    assert!(took >= how.backoff.patience && took < std::time::Duration::from_secs(20), "{took:?}");
}

#[test]
fn frames_are_compressed_as_the_link_has_it() {
    // Text, which every level makes shorter.
    let text: Vec<u8> = (0..400_000_u32).flat_map(|line| format!("line {line} of a log\n").into_bytes()).collect();
    let base = vec![0; text.len()];
    let clock = std::sync::Arc::new(failback_replication::SystemClock::default());
    let adaptive = failback_replication::Adaptive::new(clock, 2);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let mut how = options(None, 1);
    how.adaptive = Some(&adaptive);
    let near = Near::new(&target, ALWAYS);
    let report = send_pass(&near, &disk_of(&text), &how, &failback_orchestrate::Silent).unwrap();
    assert_eq!(target.disk.content(), text);
    let frames: u64 = report.frames.iter().sum();
    assert_eq!((frames, report.frames[1]), (report.difference.delta.totals.frames, 0), "not the level of the options");
    assert!(report.frames[3] > 0 && report.sending <= report.took, "{report:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_sizes_and_any_breaks(
        lens in (1_usize..1 << 20, 0_usize..1 << 19),
        step in 5_000_usize..200_000,
        lasts in prop::collection::vec(100_u64..400_000, 1..6),
    ) {
        // A target may be larger than what comes home, but not smaller.
        let base = noise(1, lens.0 + lens.1);
        let result = changed(&base[..lens.0], step);
        let target = Target::new(&base, &FreeBlocks::NONE);
        let near = Near::new(&target, |number| {
            usize::try_from(number).ok().and_then(|number| lasts.get(number)).copied().unwrap_or(u64::MAX)
        });
        let report = send(&near, &disk_of(&result), 1).unwrap();
        prop_assert_eq!(report.root, Root::of(&result));
        prop_assert!(target.disk.content()[..result.len()] == result);
        prop_assert!(target.disk.content()[result.len()..] == base[result.len()..]);
    }
}
