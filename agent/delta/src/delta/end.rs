//! The end of a delta that lies in a file.

use crate::layout::{DELTA_END_MAGIC, RawDeltaEnd, TRAILER_VALUES_MAX};
use crate::seal::Sealed;
use failback_hashtree::Root;
use zerocopy::FromBytes;

/// The root that a delta leads to, from its last bytes: at least [`TRAILER_BYTES_MAX`](crate::TRAILER_BYTES_MAX) of them, or all of it.
/// `key` is the hash of its header. `None` if no intact trailer ends there.
///
/// Nothing of what the trailer says is proven by this but that it was written for this header.
#[must_use]
pub fn trailing_root(end: &[u8], key: &[u8; 32]) -> Option<Root> {
    (0..=TRAILER_VALUES_MAX).find_map(|count| {
        let values = usize::try_from(count).ok()? * 32;
        let trailer = end.get(end.len().checked_sub(size_of::<RawDeltaEnd>() + values)?..)?;
        let (raw, values) = RawDeltaEnd::read_from_prefix(trailer).ok()?;
        let fits = raw.magic == DELTA_END_MAGIC && raw.value_count.get() == count;
        (fits && raw.is_intact(Some(key), &[values])).then_some(Root(raw.result_root))
    })
}
