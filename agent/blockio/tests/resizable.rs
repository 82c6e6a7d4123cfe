//! Files that grow and shrink, real and simulated.
#![cfg(feature = "sim")]

use failback_blockio::{
    Buffer, Caching, Device, Engine, FileDevice, Operation, Options, Resizable, run,
    sim::{FaultOn, World, is_power_loss},
};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::collections::HashSet;

fn bytes(count: u64) -> ByteCount {
    ByteCount::new(count).unwrap()
}

fn write(device: &dyn Device, at: u64, content: &[u8]) {
    let at = ByteOffset::new(at).unwrap();
    run(device, Operation::Write { at, from: Buffer::copy_of(content) }).unwrap();
}

fn read(device: &dyn Device, at: u64, len: usize) -> Vec<u8> {
    let at = ByteOffset::new(at).unwrap();
    run(device, Operation::Read { at, into: Buffer::zeroed(len) }).unwrap().unwrap().to_vec()
}

/// What every resizable device does alike.
fn conforms(device: &dyn Resizable) {
    device.resize(bytes(10_000)).unwrap();
    assert_eq!(device.size().get(), 10_000);
    write(device, 9_000, &[7; 1000]);
    // An operation reaches to the size and no further.
    let at = ByteOffset::new(9_999).unwrap();
    assert!(run(device, Operation::Read { at, into: Buffer::zeroed(2) }).is_err());
    device.resize(bytes(1 << 20)).unwrap();
    assert_eq!(read(device, 8_999, 1002), [vec![0], vec![7; 1000], vec![0]].concat());
    let mut queue = device.queue(4).unwrap();
    let at = ByteOffset::new((1 << 20) - 65_536).unwrap();
    queue.submit(1, Operation::Write { at, from: Buffer::copy_of(&[9; 65_536]) });
    queue.wait().unwrap().result.unwrap();
    drop(queue);
    let last = device.extent_at(at).unwrap().unwrap();
    assert_eq!((last.hole, last.range.end().get()), (false, 1 << 20));
    // What is cut off does not come back.
    device.resize(bytes(9_500)).unwrap();
    device.resize(bytes(1 << 20)).unwrap();
    assert_eq!(read(device, 9_499, 2), [7, 0]);
    assert!(read(device, 9_500, (1 << 20) - 9_500).iter().all(|byte| *byte == 0));
    assert!(device.extent_at(ByteOffset::new(65_536).unwrap()).unwrap().unwrap().hole);
    run(device, Operation::Flush).unwrap();
}

#[test]
fn files_conform() {
    for engine in [Engine::Auto, Engine::Blocking] {
        for caching in [Caching::Direct, Caching::Cached] {
            let file = tempfile::tempfile_in("/var/tmp").unwrap();
            let device = FileDevice::new(file.into(), "file", Options { engine, caching }).unwrap();
            conforms(&device);
        }
    }
}

#[test]
fn simulated_disks_conform() {
    conforms(&World::new(3).disk("simulated", bytes(0), 512));
}

#[test]
fn a_file_open_for_reading_keeps_its_size() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    let device = FileDevice::new(file.reopen().unwrap().into(), "file", Options::default()).unwrap();
    device.resize(bytes(4096)).unwrap();
    drop(device);
    let reader = std::fs::File::open(file.path()).unwrap();
    let device = FileDevice::new(reader.into(), "file", Options::default()).unwrap();
    let error = device.resize(bytes(8192)).unwrap_err();
    assert!(error.to_string().contains("change the size of file"), "{error}");
    assert_eq!(device.size().get(), 4096);
}

#[test]
fn a_new_size_is_durable_after_a_flush_and_in_doubt_before() {
    let world = World::new(1);
    let disk = world.disk("disk", bytes(4096), 512);
    write(&disk, 0, &[1; 4096]);
    disk.resize(bytes(8192)).unwrap();
    write(&disk, 4096, &[2; 512]);
    let before = world.snapshot();
    let mut seen = HashSet::new();
    for seed in 0..200 {
        world.restore(&before);
        world.reseed(seed);
        world.reboot();
        let content = disk.content();
        seen.insert((content.len(), content.get(4096).copied()));
    }
    assert_eq!(seen, HashSet::from([(4096, None), (8192, Some(0)), (8192, Some(2))]));
    world.restore(&before);
    run(&disk, Operation::Flush).unwrap();
    world.reboot();
    assert_eq!((disk.size().get(), disk.content()[4096]), (8192, 2));
}

#[test]
fn a_new_size_is_a_mutation_that_can_fail() {
    let world = World::new(1);
    let disk = world.disk("disk", bytes(4096), 512);
    disk.fail(ByteRange::whole(bytes(1 << 20)), 28, FaultOn::Writes, 1);
    assert_eq!(disk.resize(bytes(8192)).unwrap_err().source.raw_os_error(), Some(28));
    assert_eq!(disk.size().get(), 4096);
    world.crash_after(1);
    assert!(is_power_loss(&disk.resize(bytes(8192)).unwrap_err()));
    assert!(world.is_down());
    world.reboot();
    assert!(matches!(disk.size().get(), 4096 | 8192));
}
