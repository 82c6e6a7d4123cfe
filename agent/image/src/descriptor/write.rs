//! Descriptors of new disks, in the form that ESXi and qemu expect.

use super::{ExtentKind, NO_PARENT};
use crate::layout::SECTOR;
use failback_units::ByteCount;
use std::fmt::Write;

/// What a new descriptor says.
#[derive(Clone, Debug)]
pub struct NewDescriptor<'a> {
    /// Such as `monolithicSparse`.
    pub create_type: &'a str,
    /// Any number but 0 and the two greatest.
    pub cid: u32,
    /// The size of the disk, a multiple of 512.
    pub capacity: ByteCount,
    /// Its extents, all read-write.
    pub extents: &'a [NewExtent],
    /// `lsilogic` and so on.
    pub adapter: &'a str,
    /// Such as 14 for ESXi 6.7.
    pub hardware_version: u32,
    /// What the guest is to see as the NAA identifier.
    pub uuid: Option<[u8; 16]>,
}

/// An extent of a new disk.
#[derive(Clone, Debug)]
pub struct NewExtent {
    /// How it is stored.
    pub kind: ExtentKind,
    /// Whether a flat one lies on VMFS, and is called so.
    pub vmfs: bool,
    /// Its size, a multiple of 512.
    pub size: ByteCount,
    /// The name of its file.
    pub file: String,
}

impl NewExtent {
    fn line(&self) -> String {
        let sectors = self.size.get() / SECTOR;
        let name = &self.file;
        match self.kind {
            ExtentKind::Flat if self.vmfs => format!("RW {sectors} VMFS \"{name}\""),
            ExtentKind::Flat => format!("RW {sectors} FLAT \"{name}\" 0"),
            ExtentKind::Sparse => format!("RW {sectors} SPARSE \"{name}\""),
            ExtentKind::Cowd => format!("RW {sectors} VMFSSPARSE \"{name}\""),
            ExtentKind::SeSparse => format!("RW {sectors} SESPARSE \"{name}\""),
            ExtentKind::Zero => format!("RW {sectors} ZERO"),
        }
    }
}

/// Heads and sectors of a track, as VMware chooses them for a SCSI disk of this size; IDE has 16 and 63.
fn geometry(adapter: &str, capacity: ByteCount) -> (u64, u64) {
    const GIB: u64 = 1 << 30;
    match capacity.get() {
        _ if adapter == "ide" => (16, 63),
        ..GIB => (64, 32),
        GIB..0x8000_0000 => (128, 32),
        _ => (255, 63),
    }
}

/// The text of a descriptor.
#[must_use]
pub fn describe(new: &NewDescriptor<'_>) -> String {
    let (heads, track) = geometry(new.adapter, new.capacity);
    let cylinders = new.capacity.get() / SECTOR / (heads * track);
    // The BIOS of an IDE disk counts no further.
    let cylinders = if new.adapter == "ide" { cylinders.min(16_383) } else { cylinders };
    let mut text = format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={:08x}\nparentCID={NO_PARENT:08x}\ncreateType=\"{}\"\n\n\
         # Extent description\n",
        new.cid, new.create_type
    );
    for extent in new.extents {
        text.push_str(&extent.line());
        text.push('\n');
    }
    text.push_str("\n# The Disk Data Base\n#DDB\n\n");
    let mut entry = |name: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "ddb.{name} = \"{value}\"").unwrap_or_else(|_| unreachable!("a string takes everything"));
    };
    entry("adapterType", &new.adapter);
    entry("geometry.cylinders", &cylinders);
    entry("geometry.heads", &heads);
    entry("geometry.sectors", &track);
    if let Some(uuid) = new.uuid {
        entry("uuid", &spelled(uuid));
    }
    entry("virtualHWVersion", &new.hardware_version);
    text
}

/// A UUID as VMware spells it: `60 00 c2 99 91 76 dd 77-6e 01 02 03 04 05 06 ff`.
fn spelled(uuid: [u8; 16]) -> String {
    let half = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    format!("{}-{}", half(&uuid[..8]), half(&uuid[8..]))
}

#[cfg(test)]
mod tests {
    use super::super::Descriptor;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let size = ByteCount::new(3 << 30).unwrap();
        let file = "a disk-flat.vmdk".to_owned();
        let extents = [NewExtent { kind: ExtentKind::Flat, vmfs: true, size, file }];
        let uuid = Some([0x60, 0, 0xc2, 0x99, 0x91, 0x76, 0xdd, 0x77, 0x6e, 1, 2, 3, 4, 5, 6, 0xff]);
        let new = NewDescriptor {
            create_type: "vmfs",
            cid: 7,
            capacity: size,
            extents: &extents,
            adapter: "lsilogic",
            hardware_version: 14,
            uuid,
        };
        let text = describe(&new);
        assert!(text.contains("ddb.uuid = \"60 00 c2 99 91 76 dd 77-6e 01 02 03 04 05 06 ff\"\n"), "{text}");
        assert!(text.contains("ddb.geometry.cylinders = \"391\""), "{text}");
        let read = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!((read.cid, read.capacity, read.uuid, read.hardware_version), (7, size, uuid, Some(14)));
        assert_eq!(read.extents[0].file.as_deref(), Some("a disk-flat.vmdk"));
    }
}
