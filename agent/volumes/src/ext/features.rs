//! What a file system may have besides the basics: accepted by name, so that what comes later is refused.

use super::layout::Superblock;
use crate::{Kind, Unclear};

/// Does not keep anybody from writing who does not know it.
pub(super) mod compatible {
    pub(in crate::ext) const HAS_JOURNAL: u32 = 0x4;
    pub(in crate::ext) const SPARSE_SUPER2: u32 = 0x200;
    pub(in crate::ext) const FAST_COMMIT: u32 = 0x400;
}

/// Who does not know it must not even read.
pub(super) mod incompatible {
    pub(in crate::ext) const FILE_TYPE: u32 = 0x2;
    /// `needs_recovery`.
    pub(in crate::ext) const RECOVER: u32 = 0x4;
    pub(in crate::ext) const JOURNAL_DEVICE: u32 = 0x8;
    pub(in crate::ext) const META_GROUPS: u32 = 0x10;
    pub(in crate::ext) const EXTENTS: u32 = 0x40;
    pub(in crate::ext) const SIXTY_FOUR_BIT: u32 = 0x80;
    pub(in crate::ext) const MULTI_MOUNT: u32 = 0x100;
    pub(in crate::ext) const FLEXIBLE_GROUPS: u32 = 0x200;
    pub(in crate::ext) const LARGE_ATTRIBUTES: u32 = 0x400;
    pub(in crate::ext) const CHECKSUM_SEED: u32 = 0x2000;
    pub(in crate::ext) const LARGE_DIRECTORIES: u32 = 0x4000;
    pub(in crate::ext) const INLINE_DATA: u32 = 0x8000;
    pub(in crate::ext) const ENCRYPTION: u32 = 0x1_0000;
    pub(in crate::ext) const CASE_FOLDING: u32 = 0x2_0000;
}

/// Who does not know it must not write.
pub(super) mod read_only_compatible {
    pub(in crate::ext) const SPARSE_SUPER: u32 = 0x1;
    pub(in crate::ext) const LARGE_FILES: u32 = 0x2;
    pub(in crate::ext) const TREE_DIRECTORIES: u32 = 0x4;
    pub(in crate::ext) const HUGE_FILES: u32 = 0x8;
    pub(in crate::ext) const DESCRIPTOR_CHECKSUMS: u32 = 0x10;
    pub(in crate::ext) const MANY_LINKS: u32 = 0x20;
    pub(in crate::ext) const EXTRA_INODE_SIZE: u32 = 0x40;
    pub(in crate::ext) const QUOTA: u32 = 0x100;
    pub(in crate::ext) const CLUSTERS: u32 = 0x200;
    pub(in crate::ext) const METADATA_CHECKSUMS: u32 = 0x400;
    pub(in crate::ext) const READ_ONLY: u32 = 0x1000;
    pub(in crate::ext) const PROJECTS: u32 = 0x2000;
    pub(in crate::ext) const SHARED_BLOCKS: u32 = 0x4000;
    pub(in crate::ext) const VERITY: u32 = 0x8000;
    pub(in crate::ext) const ORPHANS_PRESENT: u32 = 0x1_0000;
}

/// What this module understands, or what does not change where blocks are.
const INCOMPATIBLE: u32 = {
    use incompatible::{
        CASE_FOLDING, CHECKSUM_SEED, ENCRYPTION, EXTENTS, FILE_TYPE, FLEXIBLE_GROUPS, INLINE_DATA, LARGE_ATTRIBUTES,
        LARGE_DIRECTORIES, META_GROUPS, MULTI_MOUNT, RECOVER, SIXTY_FOUR_BIT,
    };
    let places = RECOVER | META_GROUPS | EXTENTS | SIXTY_FOUR_BIT | MULTI_MOUNT | FLEXIBLE_GROUPS | CHECKSUM_SEED;
    let content = FILE_TYPE | LARGE_ATTRIBUTES | LARGE_DIRECTORIES | INLINE_DATA | ENCRYPTION | CASE_FOLDING;
    places | content
};

/// The same.
const READ_ONLY_COMPATIBLE: u32 = {
    use read_only_compatible::{
        CLUSTERS, DESCRIPTOR_CHECKSUMS, EXTRA_INODE_SIZE, HUGE_FILES, LARGE_FILES, MANY_LINKS, METADATA_CHECKSUMS,
        ORPHANS_PRESENT, PROJECTS, QUOTA, READ_ONLY, SPARSE_SUPER, TREE_DIRECTORIES, VERITY,
    };
    let places = SPARSE_SUPER | DESCRIPTOR_CHECKSUMS | CLUSTERS | METADATA_CHECKSUMS;
    let content = LARGE_FILES | TREE_DIRECTORIES | HUGE_FILES | MANY_LINKS | EXTRA_INODE_SIZE | QUOTA;
    places | content | READ_ONLY | PROJECTS | VERITY | ORPHANS_PRESENT
};

/// The features of one file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    compatible: u32,
    incompatible: u32,
    read_only_compatible: u32,
}

impl Features {
    pub(super) fn of(superblock: &Superblock) -> Self {
        Self {
            compatible: superblock.compatible.get(),
            incompatible: superblock.incompatible.get(),
            read_only_compatible: superblock.read_only_compatible.get(),
        }
    }

    pub(super) fn has(self, compatible: u32) -> bool {
        self.compatible & compatible != 0
    }

    pub(super) fn needs(self, incompatible: u32) -> bool {
        self.incompatible & incompatible != 0
    }

    pub(super) fn writes(self, read_only_compatible: u32) -> bool {
        self.read_only_compatible & read_only_compatible != 0
    }

    /// Whether there is none at all, as revision 0 must have it.
    pub(super) fn are_none(self) -> bool {
        (self.compatible, self.incompatible, self.read_only_compatible) == (0, 0, 0)
    }

    /// Refuses what is not on the lists.
    pub(super) fn accept(self) -> Result<(), Unclear> {
        if self.writes(read_only_compatible::SHARED_BLOCKS) {
            return Err(Unclear::because("its files share blocks (shared_blocks)"));
        }
        let unknown = [
            ("incompatible", self.incompatible & !INCOMPATIBLE),
            ("read-only compatible", self.read_only_compatible & !READ_ONLY_COMPATIBLE),
        ];
        match unknown.into_iter().find(|(_, bits)| *bits != 0) {
            Some((list, bits)) => Err(Unclear::because(format!("its {list} feature {bits:#x} is not known"))),
            None => Ok(()),
        }
    }

    /// Which of the three it is, as blkid tells them apart.
    pub(super) fn kind(self) -> Kind {
        use incompatible::{FILE_TYPE, META_GROUPS, RECOVER};
        use read_only_compatible::{LARGE_FILES, SPARSE_SUPER, TREE_DIRECTORIES};
        let new = self.incompatible & !(FILE_TYPE | RECOVER | META_GROUPS) != 0
            || self.read_only_compatible & !(SPARSE_SUPER | LARGE_FILES | TREE_DIRECTORIES) != 0;
        match (new, self.has(compatible::HAS_JOURNAL)) {
            (true, _) => Kind::Ext4,
            (false, true) => Kind::Ext3,
            (false, false) => Kind::Ext2,
        }
    }
}
