//! Swap space of Linux: only its first page is ever needed again.
//!
//! What was swapped out belonged to a machine that ran; it starts anew. Unless it hibernated: then the signature is
//! another one, and everything in the swap space is what it wakes up from.

mod layout;

use crate::volume::bytes;
use crate::{FileSystem, FreeMap, FreeMapBuilder, Kind, ReadError, State, Unclear, Volume, text};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use layout::{HEADER_AT, OTHERS, PAGE_SIZES, RawSwapHeader, SIGNATURE_LEN, SWAP};
use zerocopy::FromBytes;

/// What swap space says of itself, or `None` where the volume has no signature of it.
pub(crate) fn inspect(volume: &dyn Volume) -> Option<FileSystem> {
    for page_size in PAGE_SIZES {
        let at = u64::from(page_size) - SIGNATURE_LEN as u64;
        let signature = match bytes(volume, at, SIGNATURE_LEN) {
            Ok(signature) => signature,
            Err(ReadError::Beyond) => return None,
            Err(error) => return Some(unclear(page_size, error.into())),
        };
        if signature == SWAP {
            return Some(read(volume, page_size));
        }
        if let Some((_, reason)) = OTHERS.iter().find(|(other, _)| signature.starts_with(other)) {
            return Some(unclear(page_size, Unclear::because(*reason)));
        }
    }
    None
}

fn unclear(page_size: u32, reason: Unclear) -> FileSystem {
    FileSystem {
        kind: Kind::Swap,
        version: None,
        label: None,
        uuid: None,
        size: None,
        block_size: Some(page_size),
        state: State::Unknown,
        checked: false,
        map: Err(reason),
        remarks: Vec::new(),
    }
}

fn read(volume: &dyn Volume, page_size: u32) -> FileSystem {
    let mut swap = unclear(page_size, Unclear::because("its header cannot be read"));
    let page = usize::try_from(page_size).unwrap_or(usize::MAX);
    let page = match bytes(volume, 0, page) {
        Ok(page) => page,
        Err(error) => return FileSystem { map: Err(error.into()), ..swap },
    };
    let Ok((header, bad_pages)) = RawSwapHeader::read_from_prefix(&page[HEADER_AT..page.len() - SIGNATURE_LEN]) else {
        return swap;
    };
    swap.label = text::label(&header.label);
    swap.uuid = text::uuid(&header.uuid);
    let pages = u64::from(header.last_page.get()) + 1;
    swap.size = ByteCount::new(pages * u64::from(page_size));
    let bad = header.bad_pages.get();
    if bad > 0 {
        swap.remarks.push(format!("{bad} of its pages are marked as bad and count as used"));
    }
    swap.map = map(volume, &header, bad_pages, page_size);
    if swap.map.is_ok() {
        swap.state = State::Clean;
    }
    swap
}

/// All pages but the first and the bad ones.
fn map(volume: &dyn Volume, header: &RawSwapHeader, bad_pages: &[u8], page_size: u32) -> Result<FreeMap, Unclear> {
    if header.version.get() != 1 {
        return Err(Unclear::because("its version is unknown, or it was made on a machine of other byte order"));
    }
    let last = header.last_page.get();
    let size = (u64::from(last) + 1) * u64::from(page_size);
    if last == 0 || size > volume.size().get() {
        return Err(Unclear::because(format!("it says that it has {size} bytes, and there are {}", volume.size())));
    }
    let (entries, _) = bad_pages.as_chunks::<4>();
    let count = usize::try_from(header.bad_pages.get()).unwrap_or(usize::MAX);
    let listed = entries.get(..count).ok_or_else(|| Unclear::because("it has more bad pages than it can list"))?;
    let mut bad: Vec<u32> = listed.iter().map(|entry| u32::from_le_bytes(*entry)).collect();
    bad.sort_unstable();
    bad.dedup();
    if bad.iter().any(|page| *page == 0 || *page > last) {
        return Err(Unclear::because("its list of bad pages is damaged"));
    }
    let mut free = FreeMapBuilder::new();
    let mut from = 1_u64;
    for page in bad.into_iter().map(u64::from).chain([u64::from(last) + 1]) {
        free.push(pages(from, page, page_size).ok_or_else(|| Unclear::because("it ends where no disk reaches"))?);
        from = page + 1;
    }
    Ok(free.finish())
}

/// The bytes of the pages from `from` up to, not including, `to`.
fn pages(from: u64, to: u64, page_size: u32) -> Option<ByteRange> {
    let at = |page: u64| ByteOffset::new(page.checked_mul(u64::from(page_size))?);
    ByteRange::between(at(from)?, at(to)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::MemoryVolume;
    use zerocopy::IntoBytes;

    const PAGES: u32 = 16;

    fn swap(page_size: u32, last_page: u32, bad: &[u32]) -> MemoryVolume {
        let mut bytes = vec![0xaa; usize::try_from(page_size * PAGES).unwrap()];
        let header = RawSwapHeader {
            version: 1.into(),
            last_page: last_page.into(),
            bad_pages: u32::try_from(bad.len()).unwrap().into(),
            uuid: [7; 16],
            label: *b"swap\0\0\0\0\0\0\0\0\0\0\0\0",
            padding: [0.into(); 117],
        };
        bytes[HEADER_AT..][..512].copy_from_slice(header.as_bytes());
        for (at, page) in bad.iter().enumerate() {
            bytes[HEADER_AT + 512 + at * 4..][..4].copy_from_slice(&page.to_le_bytes());
        }
        sign(&mut bytes, page_size, &SWAP);
        MemoryVolume { bytes, sector_size: 512 }
    }

    fn sign(bytes: &mut [u8], page_size: u32, signature: &[u8]) {
        bytes[usize::try_from(page_size).unwrap() - SIGNATURE_LEN..][..signature.len()].copy_from_slice(signature);
    }

    fn free(volume: &MemoryVolume) -> Vec<(u64, u64)> {
        let map = inspect(volume).unwrap().map.unwrap();
        map.extents().iter().map(|extent| (extent.start().get(), extent.end().get())).collect()
    }

    #[test]
    fn only_the_header_and_bad_pages_are_used() {
        for page_size in PAGE_SIZES {
            let page = u64::from(page_size);
            assert_eq!(free(&swap(page_size, 15, &[])), [(page, 16 * page)]);
            assert_eq!(free(&swap(page_size, 11, &[])), [(page, 12 * page)], "what lies behind is used");
            let wanted = [(page, 3 * page), (5 * page, 15 * page)];
            assert_eq!(free(&swap(page_size, 15, &[4, 3, 15, 4])), wanted);
        }
    }

    #[test]
    fn what_does_not_fit_is_in_use() {
        for (volume, words) in [
            (swap(4096, 16, &[]), "says that it has 69632 bytes, and there are 65536"),
            (swap(4096, 0, &[]), "says that it has 4096 bytes"),
            (swap(4096, u32::MAX, &[]), "says that it has 17592186044416 bytes"),
            (swap(4096, 15, &[0]), "bad pages is damaged"),
            (swap(4096, 15, &[16]), "bad pages is damaged"),
        ] {
            let reason = inspect(&volume).unwrap().map.unwrap_err().to_string();
            assert!(reason.contains(words), "{reason}");
        }
        let mut many = swap(4096, 15, &[]);
        many.bytes[HEADER_AT + 8..][..4].copy_from_slice(&638_u32.to_le_bytes());
        assert!(inspect(&many).unwrap().map.unwrap_err().to_string().contains("more bad pages"));
        let mut foreign = swap(4096, 15, &[]);
        foreign.bytes[HEADER_AT..][..4].copy_from_slice(&[0, 0, 0, 1]);
        assert!(inspect(&foreign).unwrap().map.unwrap_err().to_string().contains("byte order"));
    }

    #[test]
    fn a_hibernated_machine_is_in_use() {
        for (signature, reason) in OTHERS {
            let mut volume = swap(4096, 15, &[]);
            sign(&mut volume.bytes, 4096, signature);
            assert_eq!(inspect(&volume).unwrap().map.unwrap_err().to_string(), reason);
        }
        let mut nothing = swap(4096, 15, &[]);
        sign(&mut nothing.bytes, 4096, b"SWAPSPACE3");
        assert!(inspect(&nothing).is_none());
    }
}
