//! GUIDs, and what partition types are called.

use std::fmt::Write;

/// A GUID as GPT stores it, in its usual form: the first three groups are little-endian.
pub(crate) fn text(guid: [u8; 16]) -> String {
    /// Which byte comes when, a dash before some.
    const ORDER: [&[usize]; 5] = [&[3, 2, 1, 0], &[5, 4], &[7, 6], &[8, 9], &[10, 11, 12, 13, 14, 15]];
    let mut text = String::with_capacity(36);
    for (group, order) in ORDER.iter().enumerate() {
        if group > 0 {
            text.push('-');
        }
        for at in *order {
            write!(text, "{:02x}", guid[*at]).expect("a string takes what is written to it");
        }
    }
    text
}

/// Types of GPT partitions that are met on virtual machines, from the UEFI specification, the Discoverable Partitions
/// Specification, and what Windows and VMware write.
const GPT_KINDS: [(&str, &str); 17] = [
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "Linux extended boot"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root"),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux home"),
    ("ca7d7ccb-63ed-4c53-861c-1742536059cc", "LUKS"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Microsoft basic data"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"),
    ("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "Windows dynamic disk metadata"),
    ("af9b60a0-1431-4f62-bc68-3311714a69ad", "Windows dynamic disk data"),
    ("aa31e02a-400f-11db-9590-000c2911d1b8", "VMware VMFS"),
    ("9d275380-40ad-11db-bf97-000c2911d1b8", "VMware diagnostic"),
];

/// What a type of GPT partition, in its usual form, is called; `None` for a rare one.
pub(crate) fn gpt_kind(guid: &str) -> Option<&'static str> {
    GPT_KINDS.iter().find(|(known, _)| *known == guid).map(|(_, name)| *name)
}

/// What a type of MBR partition is called; `None` for a rare one.
pub(crate) const fn mbr_kind(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e => "FAT",
        0x05 | 0x0f | 0x85 => "extended",
        0x07 => "NTFS or exFAT",
        0x27 => "Windows recovery",
        0x42 => "Windows dynamic disk",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x8e => "Linux LVM",
        0xee => "GPT",
        0xef => "EFI system",
        0xfb => "VMware VMFS",
        0xfc => "VMware diagnostic",
        0xfd => "Linux RAID",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_bytes() {
        // The EFI system partition's type as it stands on every disk with UEFI.
        let stored = *b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b";
        assert_eq!(text(stored), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        assert_eq!(gpt_kind(&text(stored)), Some("EFI system"));
    }
}
