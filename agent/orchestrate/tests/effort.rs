//! How hard frames are compressed is asked anew for each of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{diff_options, noise, signature_of};
use failback_blockio::sim::World;
use failback_orchestrate::{ByteCount, Compression, Effort, Packed, Root, SignatureReader, Silent, diff};
use failback_units::ByteOffset;
use std::io::Cursor;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// Another level for each frame, and what came of it.
#[derive(Default)]
struct Counted {
    next: AtomicU8,
    packed: Mutex<Vec<Packed>>,
}

impl Effort for Counted {
    fn next(&self) -> Compression {
        Compression::of_level(self.next.fetch_add(1, Ordering::Relaxed) % 3).unwrap()
    }
    fn packed(&self, frame: &Packed) {
        self.packed.lock().unwrap().push(*frame);
    }
}

#[test]
fn every_frame_has_a_level_of_its_own() {
    let base = noise(1, 6 << 20);
    // Half of it is text, the other half noise, which no level makes shorter.
    let text: Vec<u8> = b"a line of a log, and another one\n".iter().copied().cycle().take(3 << 20).collect();
    let result = [text, noise(2, 3 << 20)].concat();
    let device = World::new(0).disk("source", ByteCount::of_memory(result.len()), 512);
    device.write_durably(ByteOffset::ZERO, &result);
    let counted = Counted::default();
    let mut options = diff_options(None, &result);
    options.compression = &counted;
    let mut delta = Vec::new();
    let signature = SignatureReader::open(Cursor::new(signature_of(&base))).unwrap();
    let report = diff(signature, &device, &mut delta, &options, &Silent).unwrap();
    assert_eq!(report.result_root, Root::of(&result));
    let packed = counted.packed.into_inner().unwrap();
    assert_eq!(packed.iter().map(|frame| frame.content).sum::<u64>(), 6 << 20);
    assert_eq!(packed.iter().map(|frame| frame.stored).sum::<u64>(), report.totals.stored_bytes);
    for level in 0..3 {
        let compression = Compression::of_level(level).unwrap();
        let of_level: Vec<_> = packed.iter().filter(|frame| frame.compression == compression).collect();
        assert!(of_level.len() >= 2, "{packed:?}");
        let is_shorter = of_level.iter().any(|frame| frame.stored < frame.content / 10);
        assert_eq!(is_shorter, level > 0, "{level}: {of_level:?}");
        assert!(level == 0 || of_level.iter().all(|frame| frame.took > Duration::ZERO));
    }
    assert!(packed.iter().any(|frame| frame.compression > Compression::OFF && frame.stored == frame.content));
}
