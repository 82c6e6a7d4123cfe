//! The checksums of ext4 and jbd2.

/// crc32c as the kernel computes it: started from `seed` and not inverted at the end.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// The start of a crc32c over nothing.
pub(super) const CRC32C_START: u32 = !0;

/// crc16 as descriptors had it before `metadata_csum`: polynomial 0x8005, bits reversed.
pub(super) fn crc16(start: u16, bytes: &[u8]) -> u16 {
    const REVERSED: u16 = 0xA001;
    bytes.iter().fold(start, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ REVERSED } else { crc >> 1 })
    })
}

/// The start of a crc16 over nothing.
pub(super) const CRC16_START: u16 = !0;

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the catalogue of parametrised CRC algorithms: CRC-32/ISCSI inverted, and CRC-16/MODBUS.
    #[test]
    fn check_values() {
        assert_eq!(crc32c(CRC32C_START, b"123456789"), !0xE306_9283);
        assert_eq!(crc32c(crc32c(CRC32C_START, b"1234"), b"56789"), !0xE306_9283);
        assert_eq!(crc16(CRC16_START, b"123456789"), 0x4B37);
    }
}
