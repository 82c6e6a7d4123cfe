//! What a connection takes of memory does not depend on what its client says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_blockio::sim::World;
use failback_nbd::{Export, Limits, Overlay, serve_stream};
use failback_units::ByteCount;
use peak_alloc::PeakAlloc;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

// It does not count the pool of a connection, which is mapped: 8 MiB, by its construction.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The longest read that has to be answered at once, and half as much for everything else.
const MEMORY_MAX: usize = 48 << 20;

fn option(number: u32, length: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
    let magic = 0x2560_9513_u32.to_be_bytes();
    let (offset, length) = (offset.to_be_bytes(), length.to_be_bytes());
    [&magic[..], &[0; 2], &command.to_be_bytes(), &[0; 8], &offset, &length].concat()
}

/// Says all of it and throws away what comes.
fn shout(export: &Export<'_>, bytes: &[&[u8]]) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut mouth = ours.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = serve_stream(&theirs, export, &Limits::default());
        });
        scope.spawn(move || {
            let _ = bytes.iter().try_for_each(|bytes| mouth.write_all(bytes));
            let _ = mouth.shutdown(Shutdown::Write);
        });
        let mut sink = [0; 4096];
        while ours.read(&mut sink).is_ok_and(|count| count > 0) {}
    });
}

#[test]
fn memory_is_bounded() {
    let disk = World::new(1).disk("large", ByteCount::new(1 << 40).unwrap(), 512);
    let overlay = Overlay::new(disk, Path::new("/dev/shm")).unwrap();
    let export = Export::throw_away("", &overlay).unwrap();
    let (flags, go) = (3_u32.to_be_bytes(), option(7, 6, &[0; 6]));
    let structured = [&flags[..], &option(8, 0, &[]), &go].concat();
    let simple = [&flags[..], &go].concat();
    let long_reads: Vec<u8> = (0..8_u64).flat_map(|number| request(0, number << 33, 32 << 20)).collect();
    let pieces = vec![7; 1 << 20];
    let long_write = request(1, 5, 32 << 20);
    let zeroes: Vec<u8> = (0..256_u64).flat_map(|number| request(6, number << 32, u32::MAX)).collect();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    shout(&export, &[&flags, &option(10, u32::MAX, &[0; 5000])]);
    shout(&export, &[&flags, &option(9, 1 << 16, &vec![0; 1 << 16]), &option(6, 1 << 16, &vec![0xff; 1 << 16])]);
    shout(&export, &[&structured, &long_reads]);
    shout(&export, &[&simple, &long_reads]);
    shout(&export, &[&[&structured[..], &long_write], &[&pieces[..]; 32][..]].concat());
    shout(&export, &[&simple, &request(1, u64::MAX, 32 << 20), &pieces, &pieces]);
    // The whole disk becomes zero, and some of it is written again.
    shout(&export, &[&structured, &zeroes, &request(1, 1 << 39, 1), &[1]]);
    let peak = MEMORY.peak_usage() - before;
    assert!(peak < MEMORY_MAX, "{peak} bytes");
    // Something was done.
    let counters = export.counters();
    assert_eq!((counters.bytes_read, counters.bytes_written), (2 * (256 << 20), (32 << 20) + 1));
}
