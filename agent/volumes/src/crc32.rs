//! CRC-32 with the polynomial of Ethernet, bits reflected, as GPT and LVM use it, each with its own way to begin and end.

/// The polynomial 0x04C11DB7, its bits reflected.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// What a byte does to the remainder.
const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    // A `for` loop is not available in a constant.
    let (mut index, mut byte) = (0, 0_u32);
    while index < table.len() {
        let (mut remainder, mut bit) = (byte, 0);
        while bit < 8 {
            remainder = if remainder & 1 == 0 { remainder >> 1 } else { (remainder >> 1) ^ POLYNOMIAL };
            bit += 1;
        }
        table[index] = remainder;
        index += 1;
        byte += 1;
    }
    table
}

/// The remainder of `bytes`, begun with `initial`, and not inverted at the end.
pub(crate) fn remainder(initial: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(initial, |remainder, byte| {
        let [low, ..] = remainder.to_le_bytes();
        TABLE[usize::from(low ^ byte)] ^ (remainder >> 8)
    })
}

/// The CRC-32 of zlib, of Ethernet and of GPT.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !remainder(u32::MAX, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_check_value() {
        // The check value that is published for this CRC.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
