//! The base's free blocks on their way to the source.

use failback_delta::{FormatError, FreeBlocks, read_map, write_map};
use failback_units::BlockCount;
use std::io::{self, Read};

/// Pages of a map have hashes with a key; here they have to show nothing that the map's own hash does not.
const KEY: [u8; 32] = [0; 32];
/// zstd's level: maps are some megabytes at most, and shrink well.
const LEVEL: i32 = 3;

/// The hash by which two sides see that they have the same map.
pub(crate) fn map_hash(free: &FreeBlocks) -> [u8; 32] {
    if free.is_empty() {
        return [0; 32];
    }
    let mut hasher = blake3::Hasher::new();
    write_map(free, &KEY, &mut hasher).expect("hashing does not fail");
    hasher.finalize().into()
}

/// The map, packed.
pub(crate) fn pack(free: &FreeBlocks) -> io::Result<Vec<u8>> {
    let mut packer = zstd::Encoder::new(Vec::new(), LEVEL)?;
    write_map(free, &KEY, &mut packer)?;
    packer.finish()
}

/// A map that was packed, of a disk with `blocks` blocks. Memory is bounded by what a map can have, whatever `packed` claims.
pub(crate) fn unpack(packed: &[u8], blocks: BlockCount) -> Result<FreeBlocks, FormatError> {
    let mut unpacker =
        zstd::Decoder::new(packed).map_err(|error| FormatError::Read(failback_delta::FileKind::Delta, error))?;
    let free = read_map(&mut unpacker, &KEY, blocks)?;
    let mut rest = [0; 1];
    match unpacker.read(&mut rest) {
        Ok(0) => Ok(free),
        _ => Err(FormatError::Damaged {
            kind: failback_delta::FileKind::Delta,
            part: "the map of its free space".into(),
            why: "something follows it",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failback_units::{BlockIndex, BlockRange};
    use std::io::Write;

    #[test]
    fn a_map_arrives() {
        let mut free = FreeBlocks::NONE;
        for at in 0..20_000 {
            free.push(BlockRange::new(BlockIndex::new(at * 9), BlockCount::new(1 + at % 5)).unwrap());
        }
        let packed = pack(&free).unwrap();
        assert!(packed.len() < 20_000, "{}", packed.len());
        assert_eq!(unpack(&packed, BlockCount::new(180_000)).unwrap(), free);
        assert!(unpack(&packed, BlockCount::new(100_000)).is_err(), "a run behind the end");
        assert!(unpack(&packed[..packed.len() / 2], BlockCount::new(180_000)).is_err());
        assert_ne!(map_hash(&free), map_hash(&FreeBlocks::NONE));
        let mut more = zstd::Encoder::new(Vec::new(), 3).unwrap();
        write_map(&free, &KEY, &mut more).unwrap();
        more.write_all(&[0]).unwrap();
        assert!(unpack(&more.finish().unwrap(), BlockCount::new(180_000)).is_err());
    }
}
