//! What can be told of a disk without reading its content.

use crate::descriptor::{ExtentAccess, ExtentKind};
use failback_units::ByteCount;
use std::path::PathBuf;

/// What a descriptor and the extents say of a disk.
#[derive(Clone, Debug)]
pub struct DiskFacts {
    /// Such as `monolithicSparse`.
    pub create_type: String,
    /// The size of the disk.
    pub capacity: ByteCount,
    /// The content ID when the disk was opened.
    pub cid: u32,
    /// The parent's content ID, if there is a parent.
    pub parent_cid: Option<u32>,
    /// `ddb.uuid`
    pub uuid: Option<[u8; 16]>,
    /// `ddb.adapterType`
    pub adapter: Option<String>,
    /// `ddb.virtualHWVersion`
    pub hardware_version: Option<u32>,
    /// The file of ESXi's changed block tracking. What is written here is not tracked there: reset CBT before relying on it.
    pub change_track: Option<String>,
    /// The extents of the disk itself.
    pub extents: Vec<ExtentFacts>,
    /// The descriptors of the disk and of its parents, in this order.
    pub chain: Vec<PathBuf>,
    /// Whether an extent was not closed cleanly.
    pub unclean: bool,
}

/// What is known of an extent.
#[derive(Clone, Debug)]
pub struct ExtentFacts {
    /// The name of its file; none for zeroes.
    pub file: Option<String>,
    /// How it is stored.
    pub kind: ExtentKind,
    /// What it may be used for.
    pub access: ExtentAccess,
    /// How much of the disk it holds.
    pub size: ByteCount,
    /// Bytes in a grain, where it consists of grains.
    pub grain: Option<u32>,
}
