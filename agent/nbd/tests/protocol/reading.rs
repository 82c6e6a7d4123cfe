//! Reads, holes and the commands without effect.

use super::client::{
    BLOCK_STATUS, CACHE, Client, DF, DISC, EINVAL, EOVERFLOW, EPERM, FLUSH, FUA, READ, REQ_ONE, Reply, TRIM, WRITE,
    WRITE_ZEROES, disk, pattern, request, talk, well,
};
use failback_blockio::sim::SimDisk;
use failback_blockio::{Completion, Device, Extent, IoError, Operation, Queue};
use failback_nbd::{Breach, Export, SessionError};
use failback_units::{ByteCount, ByteOffset};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

const SIZE: u64 = (40 << 20) + 1000;
const MIB: usize = 1 << 20;

/// Data at the start, from 4 MiB to 37 MiB, and in the last bytes.
fn patterned() -> SimDisk {
    disk(SIZE, &[(0, 5000), (4 << 20, 33 * MIB), (SIZE - 100, 100)])
}

fn content(disk: &SimDisk, at: u64, count: u32) -> Vec<u8> {
    let at = usize::try_from(at).unwrap();
    disk.content()[at..at + usize::try_from(count).unwrap()].to_vec()
}

/// Places and lengths that are not round, at both ends, over the borders of pieces, and as long as may be.
const READS: [(u64, u32); 12] = [
    (0, 0),
    (0, 1),
    (1, 4096),
    (4096, 4096),
    (4999, 2),
    (SIZE - 1, 1),
    (SIZE - 1000, 1000),
    ((4 << 20) - 7, 524_289),
    (0, 6 << 20),
    (5 << 20, 524_288),
    (4 << 20, 32 << 20),
    (SIZE - (32 << 20), 32 << 20),
];

#[test]
fn structured_reads() {
    let disk = patterned();
    let export = Export::read_only("", &disk).unwrap();
    well(&export, |client| {
        client.go(true);
        for (at, count) in READS {
            assert!(client.read(0, at, count).whole() == content(&disk, at, count), "{count} at {at}");
        }
        client.leave();
    });
    let counters = export.counters();
    assert_eq!((counters.connections, counters.requests, counters.failed), (1, 12, 0));
    assert_eq!(counters.bytes_read, READS.iter().map(|(_, count)| u64::from(*count)).sum());
}

#[test]
fn simple_reads() {
    let disk = patterned();
    let export = Export::read_only("", &disk).unwrap();
    well(&export, |client| {
        client.go(false);
        for (at, count) in READS {
            assert!(client.read_simply(at, count).unwrap() == content(&disk, at, count), "{count} at {at}");
        }
        assert_eq!(client.ask(DF, READ, 0, 512), EINVAL);
        assert_eq!(client.ask(0, BLOCK_STATUS, 0, 512), EINVAL);
        client.leave();
    });
    assert_eq!(export.counters().bytes_read, READS.iter().map(|(_, count)| u64::from(*count)).sum());
}

#[test]
fn long_holes_are_not_sent() {
    let disk = patterned();
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        let all_hole = client.read(0, 1 << 20, 2 << 20);
        assert_eq!((all_hole.holes(), all_hole.content_chunks), (2 * MIB, 1));
        let mixed = client.read(0, 0, 5 << 20);
        assert!(mixed.holes() > 3 * MIB && mixed.holes() < 4 * MIB, "{}", mixed.holes());
        // A small read is not looked at.
        assert_eq!(client.read(0, 1 << 20, 4096).holes(), 0);
        client.leave();
    });
}

/// Several operations for one request, and nothing else under way.
#[test]
fn data_on_both_sides_of_a_hole() {
    let disk = disk(1 << 20, &[(0, 4096), (200_704, 4096), (400_000, 1)]);
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        for _ in 0..10 {
            let read = client.read(0, 0, 512 << 10);
            assert!(read.content_chunks >= 5 && read.holes() > 300_000);
            assert!(read.whole() == content(&disk, 0, 512 << 10));
        }
        client.leave();
    });
}

#[test]
fn short_holes_are_sent() {
    let data: Vec<_> = (0..128).map(|number| (number * 8192, 4096)).collect();
    let disk = disk(1 << 20, &data);
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        let read = client.read(0, 0, 1 << 20);
        assert_eq!((read.holes(), read.content_chunks), (0, 2));
        assert!(read.whole() == disk.content());
        client.leave();
    });
}

#[test]
fn unfragmented_reads_have_one_chunk() {
    let disk = patterned();
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        for (at, count) in [(0, 65_536), (1 << 20, 65_536), ((4 << 20) - 100_000, 524_288)] {
            let read = client.read(DF, at, count);
            assert_eq!(read.content_chunks, 1);
            assert!(read.whole() == content(&disk, at, count));
        }
        assert_eq!(client.read(DF, 0, 0).content_chunks, 0);
        assert_eq!(client.ask(DF, READ, 0, 524_289), EOVERFLOW);
        client.leave();
    });
}

#[test]
fn many_requests_at_a_time() {
    let disk = patterned();
    for structured in [true, false] {
        well(&Export::read_only("", &disk).unwrap(), |client| {
            client.go(structured);
            let at = |number: u64| (4 << 20) + number * 4096;
            let cookies: Vec<_> = (0..200).map(|number| client.request(0, READ, at(number), 4096)).collect();
            let mut open: Vec<_> = cookies.clone();
            for _ in 0..200 {
                let (cookie, bytes) = match client.reply() {
                    Reply::Simple { error: 0, cookie } => (cookie, client.receive(4096)),
                    Reply::Chunk { done: true, kind: 1, cookie, payload } => (cookie, payload[8..].to_vec()),
                    other => panic!("{other:?}"),
                };
                let number = cookies.iter().position(|other| *other == cookie).unwrap();
                assert_eq!(bytes, pattern(at(number.try_into().unwrap()), 4096));
                open.retain(|other| *other != cookie);
            }
            assert_eq!(open, []);
            client.leave();
        });
    }
}

#[test]
fn requests_of_all_kinds_at_a_time() {
    let disk = patterned();
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        let long = client.request(0, READ, 4 << 20, 32 << 20);
        let rest: Vec<_> = (0..50)
            .flat_map(|_| [(READ, 4096), (CACHE, 4096), (FLUSH, 0), (BLOCK_STATUS, 4096), (WRITE_ZEROES, 1)])
            .map(|(command, length)| client.request(0, command, 4 << 20, length))
            .collect();
        // The last request: what is under way is finished all the same.
        client.request(0, DISC, 0, 0);
        let (mut read, mut ended) = (super::client::Assembly::new(4 << 20, 32 << 20), Vec::new());
        while ended.len() < rest.len() + 1 {
            match client.reply() {
                Reply::Chunk { done, kind, cookie, payload } => {
                    if cookie == long {
                        read.add(kind, &payload);
                    }
                    ended.extend(done.then_some(cookie));
                }
                Reply::Simple { cookie, .. } => ended.push(cookie),
            }
        }
        assert!(client.is_closed());
        ended.sort_unstable();
        assert_eq!(ended, [&[long], &rest[..]].concat());
        assert!(read.whole() == content(&disk, 4 << 20, 32 << 20));
    });
}

#[test]
fn holes_and_data() {
    let disk = patterned();
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        let all = client.status(0, 0, u32::try_from(SIZE).unwrap());
        assert_eq!(all.iter().map(|(length, _)| u64::from(*length)).sum::<u64>(), SIZE);
        assert_eq!(all.iter().map(|(_, state)| *state).collect::<Vec<_>>(), [0, 3, 0, 3, 0]);
        assert_eq!(all[2].0, 33 << 20);
        assert_eq!(client.status(REQ_ONE | FUA, 1 << 20, 30 << 20), [(3 << 20, 3)]);
        assert_eq!(client.status(REQ_ONE, 5 << 20, 10), [(10, 0)]);
        assert_eq!(client.status(0, (4 << 20) - 1, 2), [(1, 3), (1, 0)]);
        assert_eq!(client.ask(0, BLOCK_STATUS, 0, 0), EINVAL);
        assert_eq!(client.ask(0, BLOCK_STATUS, SIZE - 1, 2), EINVAL);
        client.leave();
    });
}

#[test]
fn descriptors_are_bounded() {
    let data: Vec<_> = (0..2000).map(|number| (number * 8192, 4096)).collect();
    let disk = disk(16 << 20, &data);
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        let (mut at, mut told) = (0, Vec::new());
        while at < 16 << 20 {
            let some = client.status(0, at, (16 << 20) - u32::try_from(at).unwrap());
            assert!((1..=1024).contains(&some.len()));
            at += some.iter().map(|(length, _)| u64::from(*length)).sum::<u64>();
            told.extend(some);
        }
        assert_eq!((at, told.len()), (16 << 20, 4000));
        client.leave();
    });
}

#[test]
fn nothing_can_be_written() {
    let disk = patterned();
    let before = disk.content();
    let export = Export::read_only("", &disk).unwrap();
    for structured in [true, false] {
        well(&export, |client| {
            client.go(structured);
            assert_eq!(client.write(0, &vec![9; 100_000]), EPERM);
            assert_eq!(client.ask(0, TRIM, 0, 4096), EPERM);
            assert_eq!(client.ask(0, WRITE_ZEROES, 0, 4096), EPERM);
            assert_eq!(client.ask(FUA, FLUSH, 0, 0), 0);
            assert_eq!(client.ask(0, CACHE, 4 << 20, 1 << 20), 0);
            assert_eq!(client.ask(0, CACHE, SIZE, 1), EINVAL);
            assert_eq!(client.ask(0, 99, 0, 0), EINVAL);
            assert_eq!(client.ask(0x8000, CACHE, 0, 0), EINVAL);
            assert_eq!(client.ask(0, READ, SIZE, 1), EINVAL);
            assert_eq!(client.ask(0, READ, u64::MAX, 2), EINVAL);
            assert_eq!(client.ask(0, READ, 0, (32 << 20) + 1), EINVAL);
            client.leave();
        });
    }
    assert!(disk.content() == before);
    assert_eq!(disk.world().mutations(), 0);
    assert_eq!((export.counters().requests, export.counters().failed), (22, 18));
}

#[test]
fn breaches_end_the_connection() {
    let disk = patterned();
    let export = Export::read_only("", &disk).unwrap();
    let ((), ended) = talk(&export, |client| {
        client.go(true);
        client.send(&[0x25; 28]);
        assert!(client.is_closed());
    });
    assert!(matches!(ended, Err(SessionError::Breach(Breach::NotARequest(0x2525_2525)))), "{ended:?}");
    let ((), ended) = talk(&export, |client| {
        client.go(true);
        client.request(0, WRITE, 0, (32 << 20) + 1);
        assert!(client.is_closed());
    });
    assert!(matches!(ended, Err(SessionError::Breach(Breach::PayloadTooLong(33_554_433)))), "{ended:?}");
}

#[test]
fn a_disk_of_no_bytes() {
    let disk = disk(0, &[]);
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        assert_eq!(client.read(0, 0, 0).whole(), []);
        assert_eq!(client.ask(0, READ, 0, 1), EINVAL);
        assert_eq!(client.ask(0, BLOCK_STATUS, 0, 1), EINVAL);
        client.leave();
    });
}

/// A device that tells every stretch in crumbs, some of which lead nowhere.
struct Crumbs(SimDisk);

impl Device for Crumbs {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn size(&self) -> ByteCount {
        self.0.size()
    }

    fn logical_block(&self) -> u32 {
        512
    }

    fn engine(&self) -> &'static str {
        "crumbs"
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        self.0.queue(depth)
    }

    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        let Some(extent) = self.0.extent_at(from)? else { return Ok(None) };
        let count = ByteCount::new(from.get() % 4).unwrap().min(extent.range.count());
        let range = failback_units::ByteRange::new(from, count).unwrap();
        Ok(Some(Extent { range, hole: extent.hole }))
    }
}

#[test]
fn a_device_that_tells_little_is_asked_a_bounded_number_of_times() {
    let disk = Crumbs(patterned());
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        assert!(client.read(0, 1, 8 << 20).whole() == content(&disk.0, 1, 8 << 20));
        for at in [1, 2, 3, 4, 5] {
            let told = client.status(0, at, 1 << 20);
            assert!(!told.is_empty() && told.iter().all(|(length, _)| *length > 0), "{told:?}");
        }
        client.leave();
    });
}

/// A device that remembers how many operations were under way at a time.
struct Watched {
    disk: SimDisk,
    most: AtomicUsize,
}

struct WatchedQueue<'disk> {
    queue: Box<dyn Queue + 'disk>,
    most: &'disk AtomicUsize,
}

impl Device for Watched {
    fn name(&self) -> &str {
        self.disk.name()
    }

    fn size(&self) -> ByteCount {
        self.disk.size()
    }

    fn logical_block(&self) -> u32 {
        512
    }

    fn engine(&self) -> &'static str {
        "watched"
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        Ok(Box::new(WatchedQueue { queue: self.disk.queue(depth)?, most: &self.most }))
    }

    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        self.disk.extent_at(from)
    }
}

impl Queue for WatchedQueue<'_> {
    fn depth(&self) -> usize {
        self.queue.depth()
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        self.queue.submit(token, operation);
        self.most.fetch_max(self.queue.in_flight(), SeqCst);
    }

    fn wait(&mut self) -> Option<Completion> {
        self.queue.wait()
    }
}

#[test]
fn the_disk_has_enough_to_do() {
    let disk = Watched { disk: patterned(), most: AtomicUsize::new(0) };
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        let ask = |client: &mut Client, count: u64| {
            disk.most.store(0, SeqCst);
            // Sent as one, so that all of it is there when the first is looked at.
            let requests = (0..count).flat_map(|number| request(0, READ, number, (4 << 20) + number * 4096, 4096));
            client.send(&requests.collect::<Vec<_>>());
            for _ in 0..count {
                client.reply();
            }
            disk.most.load(SeqCst)
        };
        assert_eq!(ask(client, 1), 1);
        assert!(ask(client, 100) >= 15);
        disk.most.store(0, SeqCst);
        client.read(0, 4 << 20, 32 << 20);
        assert_eq!(disk.most.load(SeqCst), 16);
        client.leave();
    });
}

/// A device without queues, or with queues but without a map.
struct Half {
    disk: SimDisk,
    queues: bool,
}

impl Device for Half {
    fn name(&self) -> &str {
        self.disk.name()
    }

    fn size(&self) -> ByteCount {
        self.disk.size()
    }

    fn logical_block(&self) -> u32 {
        512
    }

    fn engine(&self) -> &'static str {
        "half"
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        if self.queues { self.disk.queue(depth) } else { Err(self.refused()) }
    }

    fn extent_at(&self, _: ByteOffset) -> Result<Option<Extent>, IoError> {
        Err(self.refused())
    }
}

impl Half {
    fn refused(&self) -> IoError {
        let operation = Operation::Zero { range: super::client::range(1, 0x7fff_ffff_ffff_ffff) };
        let mut queue = self.disk.queue(1).unwrap();
        queue.submit(0, operation);
        let Some(Completion { result, .. }) = queue.wait() else { panic!("nothing was under way") };
        result.unwrap_err()
    }
}

#[test]
fn a_device_without_a_map_is_read() {
    let disk = Half { disk: patterned(), queues: true };
    well(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        let read = client.read(0, 0, 6 << 20);
        assert_eq!(read.holes(), 0);
        assert!(read.whole() == content(&disk.disk, 0, 6 << 20));
        assert_eq!(client.ask(0, BLOCK_STATUS, 0, 512), super::client::EIO);
        client.leave();
    });
}

#[test]
fn a_device_without_queues_is_not_served() {
    let disk = Half { disk: patterned(), queues: false };
    let ((), ended) = talk(&Export::read_only("", &disk).unwrap(), |client| {
        client.go(true);
        assert!(client.is_closed());
    });
    assert!(matches!(ended, Err(SessionError::Device(_))), "{ended:?}");
}
