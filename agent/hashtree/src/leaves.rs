//! From content to the values of blocks.

use crate::{ChainingValue, Node, Root, Shape};
use blake3::hazmat::HasherExt;
use blake3::{IncrementCounter, platform::Platform};
use failback_units::{BlockIndex, BlockRange, ByteCount};

/// BLAKE3's chunk, in bytes.
const CHUNK: usize = 1024;
/// What is compressed for an inner node: the values of its two children.
const PARENT_BLOCK: usize = 64;

// Constants of BLAKE3, section 2.2 of its specification (tables 1 and 3).
const IV: [u32; 8] =
    [0x6A09_E667, 0xBB67_AE85, 0x3C6E_F372, 0xA54F_F53A, 0x510E_527F, 0x9B05_688C, 0x1F83_D9AB, 0x5BE0_CD19];
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const PARENT: u8 = 4;

/// Hashes blocks many side by side.
///
/// Hashing each 4 KiB block with a call of its own leaves most lanes of a vector unit empty. Here all chunks of a piece
/// of disk are compressed side by side, then all nodes of the level above, up to the blocks and, where asked for, above.
#[derive(Debug)]
pub struct LeafHasher {
    platform: Platform,
    /// Values of one level, 32 bytes each; and those of the level above.
    level: Vec<u8>,
    above: Vec<u8>,
    zeroes: Vec<u8>,
}

impl Default for LeafHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl LeafHasher {
    /// A hasher for the machine's vector unit.
    #[must_use]
    pub fn new() -> Self {
        Self { platform: Platform::detect(), level: Vec::new(), above: Vec::new(), zeroes: Vec::new() }
    }

    /// Appends the values of the blocks from `first` on, whose bytes are `content`, to `values`.
    ///
    /// # Panics
    ///
    /// When `content` is not some whole number of blocks of the disk (the last one as short as it is).
    pub fn hash(&mut self, shape: Shape, first: BlockIndex, content: &[u8], values: &mut Vec<ChainingValue>) {
        let start = shape.start_of(first);
        let count = ByteCount::of_memory(content.len());
        let to_end = start.checked_add(count) == Some(shape.size().as_end());
        let ragged = content.len() % shape.block_size().in_memory();
        assert!(ragged == 0 || to_end, "content is cut between blocks");
        if shape.is_single() {
            values.push(ChainingValue(Root::of(content).0));
            return;
        }
        let (full, last) = content.split_at(content.len() - ragged);
        self.hash_full(start.get() / CHUNK as u64, full);
        let chunks_in_block = shape.block_size().in_memory() / CHUNK;
        self.raise(chunks_in_block.ilog2());
        values.extend(self.level.as_chunks().0.iter().map(|bytes| ChainingValue(*bytes)));
        if !last.is_empty() {
            let offset = start.get() + full.len() as u64;
            let value = blake3::Hasher::new().set_input_offset(offset).update(last).finalize_non_root();
            values.push(ChainingValue(value));
        }
    }

    /// The value of the node above a full, aligned group of 2^k neighbouring nodes of one level.
    ///
    /// # Panics
    ///
    /// When their number is no power of two.
    pub fn join(&mut self, values: &[ChainingValue]) -> ChainingValue {
        assert!(values.len().is_power_of_two(), "a node has 2^k blocks");
        if let [single] = values {
            return *single;
        }
        self.level.clear();
        for value in values {
            self.level.extend_from_slice(&value.0);
        }
        self.raise(values.len().ilog2());
        ChainingValue(*self.level.first_chunk().expect("at least one value"))
    }

    /// The value of a node of this tree if all below it is zero.
    pub fn zero_node(&mut self, shape: Shape, node: Node) -> ChainingValue {
        let bytes = shape.bytes_of(BlockRange::new(node.first, node.count()).unwrap_or_default());
        let piece = usize::try_from(bytes.count().get()).unwrap_or(usize::MAX).min(1 << 20);
        if self.zeroes.len() < piece {
            self.zeroes.resize(piece, 0);
        }
        let mut hasher = blake3::Hasher::new();
        if !shape.is_single() {
            hasher.set_input_offset(bytes.start().get());
        }
        let mut left = bytes.count().get();
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(piece);
            hasher.update(&self.zeroes[..now]);
            left -= now as u64;
        }
        if shape.is_single() {
            return ChainingValue(hasher.finalize().into());
        }
        ChainingValue(hasher.finalize_non_root())
    }

    /// The values of all chunks of `content`, which begins with chunk number `counter`, into `self.level`.
    fn hash_full(&mut self, counter: u64, content: &[u8]) {
        let (chunks, rest) = content.as_chunks::<CHUNK>();
        debug_assert!(rest.is_empty(), "blocks are whole chunks");
        let inputs: Vec<&[u8; CHUNK]> = chunks.iter().collect();
        self.level.resize(chunks.len() * 32, 0);
        self.platform.hash_many(
            &inputs,
            &IV,
            counter,
            IncrementCounter::Yes,
            0,
            CHUNK_START,
            CHUNK_END,
            &mut self.level,
        );
    }

    /// Replaces the values in `self.level` by those `levels` higher. Their number is a multiple of 2^`levels`.
    fn raise(&mut self, levels: u32) {
        for _ in 0..levels {
            let (pairs, rest) = self.level.as_chunks::<PARENT_BLOCK>();
            debug_assert!(rest.is_empty(), "every node has two children");
            let inputs: Vec<&[u8; PARENT_BLOCK]> = pairs.iter().collect();
            self.above.resize(pairs.len() * 32, 0);
            self.platform.hash_many(&inputs, &IV, 0, IncrementCounter::No, PARENT, 0, 0, &mut self.above);
            std::mem::swap(&mut self.level, &mut self.above);
        }
    }
}

/// Whether every byte of `content` is zero. Stops early at the first part that is not.
#[must_use]
pub fn is_zero(content: &[u8]) -> bool {
    // Parts are large enough for wide vectors and small enough to stop early.
    content.chunks(512).all(|part| {
        let (words, rest) = part.as_chunks::<8>();
        words.iter().fold(0, |bits, word| bits | u64::from_ne_bytes(*word)) == 0 && rest.iter().all(|byte| *byte == 0)
    })
}
