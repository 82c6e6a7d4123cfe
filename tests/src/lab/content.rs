//! Bytes that look like those of disks.

/// Bytes that nothing compresses, the same for the same seed (`SplitMix64`).
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)).to_le_bytes()
    });
    let mut bytes: Vec<u8> = words.take(len.div_ceil(8)).flatten().collect();
    bytes.truncate(len);
    bytes
}

/// A disk of `len` bytes that has much in common with `base`: every third stretch of 10,000 bytes differs, by other bytes
/// or by zeroes.
pub fn changed(base: &[u8], len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = noise(len, seed);
    for (number, stretch) in bytes.chunks_mut(10_000).enumerate() {
        let start = number * 10_000;
        match number % 6 {
            2 => {}
            5 => stretch.fill(0),
            _ => {
                let common = base.len().saturating_sub(start).min(stretch.len());
                if common > 0 {
                    stretch[..common].copy_from_slice(&base[start..start + common]);
                }
            }
        }
    }
    bytes
}

/// BLAKE3 in hexadecimal digits, by a program of others.
pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
