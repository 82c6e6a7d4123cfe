//! Writes to an overlay, on one connection and on several.

use super::client::{
    Client, EINVAL, ENOSPC, FLUSH, FUA, READ, REQ_ONE, Reply, TRIM, WRITE, WRITE_ZEROES, disk, pattern, talk, well,
};
use failback_blockio::sim::SimDisk;
use failback_nbd::{Export, Overlay, SessionError, serve_stream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

const SIZE: u64 = (40 << 20) + 1000;
/// `NBD_CMD_FLAG_NO_HOLE`.
const NO_HOLE: u16 = 2;

fn overlay() -> (SimDisk, Overlay<SimDisk>) {
    let disk = disk(SIZE, &[(0, 5000), (4 << 20, 33 << 20)]);
    let overlay = Overlay::new(disk.clone(), Path::new("/dev/shm")).unwrap();
    (disk, overlay)
}

#[test]
fn what_is_written_is_read_and_goes_no_further() {
    let (disk, overlay) = overlay();
    let before = disk.content();
    let mut wanted = before.clone();
    let export = Export::throw_away("", &overlay).unwrap();
    for structured in [true, false] {
        well(&export, |client| {
            client.go(structured);
            let writes =
                [(1_u64, 1_usize), (4096, 4096), (10_000, 3), (SIZE - 10, 10), (5_000_000, 33_554_432), (0, 0)];
            for (at, count) in writes {
                let bytes = pattern(at + 7, count);
                assert_eq!(client.write(at, &bytes), 0);
                let start = usize::try_from(at).unwrap();
                wanted[start..start + count].copy_from_slice(&bytes);
            }
            for (flags, command, at, length) in [
                (FUA, WRITE_ZEROES, 4_000_000, 100_000),
                (NO_HOLE, WRITE_ZEROES, 20_000_001, 3_000_000),
                (0, TRIM, 30_000_000, 5000),
            ] {
                assert_eq!(client.ask(flags, command, at, length), 0);
                let start = usize::try_from(at).unwrap();
                wanted[start..start + usize::try_from(length).unwrap()].fill(0);
            }
            assert_eq!(client.ask(FUA, FLUSH, 0, 0), 0);
            for (at, count) in [(0, 32 << 20), (SIZE - (20 << 20), 20 << 20)] {
                let range = usize::try_from(at).unwrap()..usize::try_from(at + u64::from(count)).unwrap();
                let read =
                    if structured { client.read(0, at, count).whole() } else { client.read_simply(at, count).unwrap() };
                assert!(read == wanted[range]);
            }
            client.leave();
        });
    }
    assert!(disk.content() == before);
    assert_eq!(disk.world().mutations(), 0);
    assert_eq!(export.counters().bytes_written, 2 * (1 + 4096 + 3 + 10 + 33_554_432));
}

#[test]
fn writes_beyond_the_end() {
    let (_, overlay) = overlay();
    well(&Export::throw_away("", &overlay).unwrap(), |client| {
        client.go(true);
        assert_eq!(client.write(SIZE - 1, &[1, 2]), ENOSPC);
        assert_eq!(client.write(u64::MAX, &[1; 10_000]), ENOSPC);
        assert_eq!(client.ask(0, WRITE_ZEROES, SIZE, 1), ENOSPC);
        assert_eq!(client.ask(0, TRIM, SIZE, 1), EINVAL);
        assert_eq!(client.ask(REQ_ONE, WRITE_ZEROES, 0, 1), EINVAL);
        // Fast zeroing was not offered.
        assert_eq!(client.ask(16, WRITE_ZEROES, 0, 1), EINVAL);
        assert_eq!(client.write(SIZE - 1, &[1]), 0);
        client.leave();
    });
}

#[test]
fn the_map_follows_the_writes() {
    let (_, overlay) = overlay();
    well(&Export::throw_away("", &overlay).unwrap(), |client| {
        client.go(true);
        let hole = 37 << 20;
        assert_eq!(client.status(0, hole, 2 << 20), [(2 << 20, 3)]);
        assert_eq!(client.read(0, hole, 1 << 20).holes(), 1 << 20);
        assert_eq!(client.write(hole + 10_000, &[1]), 0);
        assert_eq!(client.status(0, hole, 20_000), [(8192, 3), (4096, 0), (7712, 3)]);
        assert_eq!(client.read(0, hole, 1 << 20).whole()[10_000], 1);
        assert_eq!(client.ask(0, WRITE_ZEROES, 4 << 20, 1 << 20), 0);
        assert_eq!(client.status(REQ_ONE, 4 << 20, 33 << 20), [(1 << 20, 3)]);
        assert_eq!(client.read(0, 4 << 20, 1 << 20).holes(), 1 << 20);
        client.leave();
    });
}

#[test]
fn many_writes_at_a_time() {
    let (_, overlay) = overlay();
    well(&Export::throw_away("", &overlay).unwrap(), |client| {
        client.go(true);
        let mut cookies = Vec::new();
        for number in 0..100_u8 {
            cookies.push(client.request(0, WRITE, u64::from(number) * 1000, 1000));
            client.send(&[number; 1000]);
            cookies.push(client.request(FUA, WRITE_ZEROES, 1_000_000 + u64::from(number) * 1000, 500));
        }
        let mut ended: Vec<_> = (0..200)
            .map(|_| match client.reply() {
                Reply::Simple { error: 0, cookie } => cookie,
                other => panic!("{other:?}"),
            })
            .collect();
        ended.sort_unstable();
        assert_eq!(ended, cookies);
        let read = client.read(0, 0, 100_000).whole();
        assert!(read.chunks(1000).zip(0..).all(|(stretch, number)| stretch.iter().all(|byte| *byte == number)));
        client.leave();
    });
}

/// A client that does not take a reply before it has said all.
#[test]
fn replies_may_wait() {
    let (_, overlay) = overlay();
    well(&Export::throw_away("", &overlay).unwrap(), |client| {
        client.go(true);
        let mut writer = Client::new(client.stream.try_clone().unwrap());
        let reading = thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..2000_u64 {
                    writer.request(0, READ, number * 4096, 4096);
                }
            });
            // The socket's buffers fill in both directions meanwhile.
            thread::sleep(std::time::Duration::from_millis(200));
            (0..2000).map(|_| client.reply()).filter(|reply| matches!(reply, Reply::Chunk { done: true, .. })).count()
        });
        assert_eq!(reading, 2000);
        client.leave();
    });
}

#[test]
fn all_connections_see_one_disk() {
    let (_, overlay) = overlay();
    let export = Export::throw_away("", &overlay).unwrap();
    let pairs: Vec<_> = (0..4).map(|_| UnixStream::pair().unwrap()).collect();
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for (ours, theirs) in pairs {
            let export = &export;
            scope.spawn(move || serve_stream(&theirs, export, &failback_nbd::Limits::default()).unwrap());
            clients.push(Client::new(ours));
        }
        for client in &mut clients {
            client.go(true);
        }
        for turn in 0..16_u8 {
            let (writer, reader) = (usize::from(turn % 4), usize::from((turn / 4 + turn + 1) % 4));
            let at = u64::from(turn) * 333;
            let before = clients[reader].status(0, 2 << 20, 1 << 20);
            assert_eq!(clients[writer].write((2 << 20) + at, &[turn + 1; 333]), 0);
            assert_eq!(clients[reader].read(0, (2 << 20) + at, 333).whole(), [turn + 1; 333]);
            let after = clients[reader].status(0, 2 << 20, 1 << 20);
            assert!(turn > 0 || before != after, "a hole was remembered");
        }
        for client in &mut clients {
            client.leave();
        }
    });
    assert_eq!(export.counters().connections, 4);
}

/// Neighbours in one block, each written by a client of its own, at the same time.
#[test]
fn neighbours_do_not_harm_each_other() {
    const SECTORS: u64 = 512;
    let (disk, overlay) = overlay();
    let export = Export::throw_away("", &overlay).unwrap();
    let pairs: Vec<_> = (0..8_u8).map(|number| (number, UnixStream::pair().unwrap())).collect();
    thread::scope(|scope| {
        for (number, (ours, theirs)) in pairs {
            let export = &export;
            scope.spawn(move || serve_stream(&theirs, export, &failback_nbd::Limits::default()).unwrap());
            scope.spawn(move || {
                let mut client = Client::new(ours);
                client.go(true);
                for sector in (u64::from(number)..SECTORS).step_by(8) {
                    // Most of the sector: its ends are below's.
                    assert_eq!(client.write((4 << 20) + sector * 512 + 5, &[number; 500]), 0);
                }
                client.leave();
            });
        }
    });
    let mut wanted = disk.content();
    for sector in 0..usize::try_from(SECTORS).unwrap() {
        let start = (4 << 20) + sector * 512 + 5;
        wanted[start..start + 500].fill(u8::try_from(sector % 8).unwrap());
    }
    well(&export, |client| {
        client.go(true);
        let read = client.read(0, 4 << 20, 512 * 512).whole();
        assert!(read == wanted[4 << 20..(4 << 20) + 512 * 512]);
        client.leave();
    });
}

#[test]
fn a_write_that_is_cut_off_changes_only_what_came() {
    let (_, overlay) = overlay();
    let export = Export::throw_away("", &overlay).unwrap();
    let ((), ended) = talk(&export, |client| {
        client.go(true);
        client.request(0, WRITE, 0, 1000);
        client.send(&[9; 999]);
    });
    assert!(matches!(ended, Err(SessionError::Gone)), "{ended:?}");
    well(&export, |client| {
        client.go(true);
        assert_eq!(client.read(0, 0, 1000).whole(), pattern(0, 1000));
        client.leave();
    });
}
