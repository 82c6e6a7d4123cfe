//! Which disk it is by what is on it: its partition table and its file systems.
//!
//! A source in the cloud and the original disk at home have no SCSI UUID in common, but they have the same partition table
//! and the same file systems, because one was once copied from the other.

use crate::{JobError, hex};
use failback_blockio::Device;
use failback_delta::Identity;
use failback_volumes::{DiskLayout, FreeMap, LayoutIdentity, scan};
use std::sync::Arc;

/// What is on a disk, as far as it tells the disk from others.
///
/// # Errors
///
/// When the disk failed to give what was asked for: then nobody can tell which one it is.
pub(crate) fn content_of(device: &dyn Device) -> Result<Identity, JobError> {
    let mut content = scan(&[device]).swap_remove(0);
    match content.failure.take().and_then(Arc::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(of(&content)),
    }
}

/// The free space of a disk that nobody else writes to.
///
/// # Errors
///
/// When the disk failed to give what was asked for.
pub(crate) fn free_of(device: &dyn Device) -> Result<FreeMap, JobError> {
    let mut content = scan(&[device]).swap_remove(0);
    match content.failure.take().and_then(Arc::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(content.free),
    }
}

/// The same from what was found already.
pub(crate) fn of(content: &DiskLayout) -> Identity {
    let LayoutIdentity { partition_table, file_systems } = content.identity();
    Identity {
        partition_table: partition_table.as_deref().map(sixteen_bytes),
        file_systems: file_systems.iter().map(|uuid| sixteen_bytes(uuid)).collect(),
        ..Identity::default()
    }
}

/// A UUID as its digits are printed; a shorter number with zeroes behind it; of anything else, such as the UUID of an LVM
/// physical volume, the first half of its BLAKE3.
fn sixteen_bytes(text: &str) -> [u8; 16] {
    let digits: Option<Vec<_>> =
        text.bytes().filter(|byte| *byte != b'-').map(|byte| char::from(byte).to_digit(16)).collect();
    let mut bytes = [0; 16];
    match digits {
        Some(digits) if digits.len() <= 32 && digits.len().is_multiple_of(2) => {
            for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
                *byte = u8::try_from(pair[0] * 16 + pair[1]).expect("two hexadecimal digits");
            }
        }
        _ => bytes.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]),
    }
    bytes
}

/// In which respect two disks are not the same, as a clause; `None` where nothing speaks against it.
///
/// Partition tables must be the same. Machines that were cloned from one template have the same table, so of the file
/// systems, where both have any, at least one must be the same too.
pub(crate) fn difference(source: &Identity, target: &Identity) -> Option<String> {
    match (&source.partition_table, &target.partition_table) {
        (Some(one), Some(other)) if one != other => {
            return Some(format!("its partition table is {} and not {}", uuid(other), uuid(one)));
        }
        (Some(one), None) => return Some(format!("it has no partition table, and the source has {}", uuid(one))),
        (None, Some(other)) => {
            return Some(format!("it has a partition table, {}, and the source has none", uuid(other)));
        }
        _ => {}
    }
    let both_have = !source.file_systems.is_empty() && !target.file_systems.is_empty();
    let common = source.file_systems.iter().any(|one| target.file_systems.contains(one));
    let tables = source.partition_table.is_some();
    match (source.file_systems.first(), target.file_systems.first()) {
        (Some(one), Some(other)) if both_have && !common => {
            Some(format!("no file system is on both: it has {}, and the source has {}", uuid(other), uuid(one)))
        }
        (Some(one), None) if !tables => Some(format!("it has no file system, and the source has {}", uuid(one))),
        (None, Some(other)) if !tables => {
            Some(format!("it has a file system, {}, and the source has none that is known", uuid(other)))
        }
        _ => None,
    }
}

/// A UUID in the usual form, or the four bytes of an MBR's disk signature.
fn uuid(bytes: &[u8; 16]) -> String {
    if bytes[4..].iter().all(|byte| *byte == 0) {
        return hex(&bytes[..4]);
    }
    [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]].map(hex).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(table: Option<u8>, file_systems: &[u8]) -> Identity {
        Identity {
            partition_table: table.map(|byte| [byte; 16]),
            file_systems: file_systems.iter().map(|byte| [*byte; 16]).collect(),
            ..Identity::default()
        }
    }

    #[test]
    fn names_become_bytes() {
        assert_eq!(
            sixteen_bytes("01234567-89ab-cdef-0123-456789abcdef")[..9],
            [1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 1]
        );
        assert_eq!(
            uuid(&sixteen_bytes("01234567-89ab-cdef-0123-456789abcdef")),
            "01234567-89ab-cdef-0123-456789abcdef"
        );
        assert_eq!(uuid(&sixteen_bytes("deadbeef")), "deadbeef");
        let (one, other) = ("gJ0hXk-aaaa-bbbb-cccc-dddd-eeee-ffffff", "gJ0hXk-aaaa-bbbb-cccc-dddd-eeee-fffffg");
        assert_ne!(sixteen_bytes(one), sixteen_bytes(other));
    }

    #[test]
    fn strangers_are_told_apart() {
        let same = |source: &Identity, target: &Identity| difference(source, target).is_none();
        let (nothing, original) = (disk(None, &[]), disk(Some(1), &[2, 3]));
        assert!(same(&nothing, &nothing) && same(&original, &original));
        // One file system was made anew, or its superblock is damaged.
        assert!(same(&original, &disk(Some(1), &[9, 3])) && same(&original, &disk(Some(1), &[])));
        // A clone of the template has the table and other file systems.
        assert!(!same(&original, &disk(Some(1), &[8, 9])));
        assert!(!same(&original, &disk(Some(7), &[2, 3])));
        assert!(!same(&original, &nothing) && !same(&nothing, &original));
        let unpartitioned = disk(None, &[5]);
        assert!(same(&unpartitioned, &disk(None, &[5, 6])) && !same(&unpartitioned, &disk(None, &[6])));
        assert!(!same(&unpartitioned, &nothing) && !same(&nothing, &unpartitioned));
        assert!(!same(&unpartitioned, &original));
        let text = difference(&original, &nothing).unwrap();
        assert_eq!(text, "it has no partition table, and the source has 01010101-0101-0101-0101-010101010101");
    }
}
