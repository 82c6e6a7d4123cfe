//! What must hold of any bytes that claim to be an extent that is only read.
//!
//! Called by the fuzzer and by a test on the stable toolchain, as in [`crate::fuzz`].

use failback_blockio::Device;
use failback_blockio::sim::World;
use failback_image::cowd::CowdExtent;
use failback_image::extent::{Extent, ExtentError, Place};
use failback_image::sesparse::SeSparseExtent;
use failback_image::stream::StreamExtent;
use failback_units::{ByteCount, ByteOffset};

/// Grains that are looked at of each extent: from its beginning, and a few at its end.
const LOOKED_AT: u64 = 600;
const AT_THE_END: u64 = 3;

/// A stream-optimized extent. Returns whether all of it that was looked at could be read.
#[must_use]
pub fn stream(bytes: &[u8]) -> bool {
    one(bytes, StreamExtent::open)
}

/// A host sparse extent.
#[must_use]
pub fn cowd(bytes: &[u8]) -> bool {
    one(bytes, CowdExtent::open)
}

/// A space-efficient sparse extent.
#[must_use]
pub fn sesparse(bytes: &[u8]) -> bool {
    one(bytes, SeSparseExtent::open)
}

/// A file in memory.
#[must_use]
pub fn in_memory(bytes: &[u8]) -> Box<dyn Device> {
    let disk = World::new(1).disk("x.vmdk", ByteCount::of_memory(bytes.len()), 512);
    disk.write_durably(ByteOffset::ZERO, bytes);
    Box::new(disk)
}

fn one<E: Extent>(bytes: &[u8], open: impl Fn(Box<dyn Device>) -> Result<E, ExtentError>) -> bool {
    let extent = match open(in_memory(bytes)) {
        Ok(extent) => extent,
        Err(error) => return refusal(&error),
    };
    let (capacity, size) = (extent.capacity().get(), u64::from(extent.grain_size()));
    assert!(size.is_power_of_two() && (512..=1 << 20).contains(&size) && capacity > 0);
    let grains = capacity.div_ceil(size);
    let ends = grains.saturating_sub(AT_THE_END).max(LOOKED_AT.min(grains))..grains;
    let (mut sound, mut grain) = (true, vec![0; extent.grain_size() as usize]);
    for index in (0..grains.min(LOOKED_AT)).chain(ends) {
        let len = usize::try_from(size.min(capacity - index * size)).expect("a grain fits");
        grain[..len].fill(0xA5);
        match (extent.place(index), extent.read_grain(index, &mut grain[..len])) {
            (Ok(Place::Absent | Place::Zero), read) => {
                read.expect("what is nowhere is read");
                assert!(grain[..len].iter().all(|byte| *byte == 0));
            }
            (Ok(Place::At(at)), read) => {
                read.expect("what lies in the file is read");
                let at = usize::try_from(at.get()).expect("it lies in the file");
                assert!(at > 0 && grain[..len] == bytes[at..at + len]);
            }
            (Ok(Place::Compressed(at)), read) => {
                assert!(at.get() > 0 && at.get() < bytes.len() as u64);
                sound &= read.map_or_else(|error| refusal(&error), |()| true);
            }
            (Err(error), read) => {
                sound &= refusal(&error);
                assert!(read.is_err(), "what has no place is not read");
            }
        }
    }
    assert!(extent.place(grains).is_err() && extent.place(u64::MAX).is_err(), "behind the end is nothing");
    assert!(extent.read_grain(grains, &mut grain).is_err());
    sound
}

/// A file in memory is always there: whatever is refused is refused with a sentence that says what to do. Returns `false`.
fn refusal(error: &ExtentError) -> bool {
    let ExtentError::Damaged(what) = error else { panic!("the file in memory failed: {error}") };
    assert!(what.starts_with("x.vmdk: ") && what[8..].contains(": "), "{what}");
    false
}
