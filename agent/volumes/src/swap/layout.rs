//! The bytes of swap space: `union swap_header` in `include/linux/swap.h`, written by mkswap in its own byte order.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the header begins; before it is room for a boot block.
pub(crate) const HEADER_AT: usize = 1024;

/// The sizes of a page on machines that Linux runs on.
pub(crate) const PAGE_SIZES: [u32; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];

/// The signature takes the last bytes of the first page.
pub(crate) const SIGNATURE_LEN: usize = 10;

/// Swap space as it is made since Linux 2.1.117.
pub(crate) const SWAP: [u8; SIGNATURE_LEN] = *b"SWAPSPACE2";

/// What stands in its place when there is something that a machine wakes up from: the kernel's own hibernation, uswsusp,
/// TuxOnIce, a helper for hibernation; and the first format of swap space.
pub(crate) const OTHERS: [(&[u8], &str); 6] = [
    (b"S1SUSPEND", "a hibernated machine wakes up from it"),
    (b"S2SUSPEND", "a hibernated machine wakes up from it"),
    (b"ULSUSPEND", "a hibernated machine wakes up from it"),
    (b"LINHIB0001", "a hibernated machine wakes up from it"),
    (b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c", "a hibernated machine wakes up from it"),
    (b"SWAP-SPACE", "it has the format of before 1998"),
];

/// The header. The numbers of bad pages follow, four bytes each, up to the signature.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawSwapHeader {
    /// 1.
    pub(crate) version: U32,
    /// The number of the last page; the first, with this header, is 0.
    pub(crate) last_page: U32,
    pub(crate) bad_pages: U32,
    pub(crate) uuid: [u8; 16],
    pub(crate) label: [u8; 16],
    /// Not used.
    pub(crate) padding: [U32; 117],
}
const _: () = assert!(size_of::<RawSwapHeader>() == 512);
