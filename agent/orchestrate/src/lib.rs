//! The jobs of failback: scan, sign, diff, inspect, plan, apply, verify.
//!
//! Each job is a function that takes devices, streams and options, tells its [`Progress`] and returns a report. How a
//! device is found and claimed, what is printed and when the user is asked, is the caller's business; what is true of
//! the disk afterwards is ours.
#![forbid(unsafe_code)]

mod apply;
mod chunks;
mod diff;
mod error;
mod free;
mod hex;
mod inspect;
mod likeness;
mod look;
mod naming;
mod open;
mod ordered;
mod output;
mod points;
mod progress;
mod scan;
mod sign;
mod tree;
mod verify;
mod vmdk;

pub use apply::{
    ApplyOptions, ApplyReport, DeltaInput, DiskBinding, Examined, FileIntents, Intent, IntentError, IntentStore, Pace,
    PlanReport, Proven, ReadSeek, apply, plan,
};
pub use diff::{
    BaseTree, Compression, CompressionError, DiffOptions, DiffReport, Effort, NodeRun, Packed, TreeDiffReport, diff,
    diff_tree, tree_header,
};
pub use error::{JobError, Outcome, with_causes};
pub use free::free_blocks;
pub use hex::hex;
pub use inspect::{DeltaFacts, Facts, SignatureFacts, inspect};
pub use look::{SeenDisk, look_at};
pub use naming::{binding_of, describe, intents_of, refuse_unrecorded};
pub use open::{ClaimedTarget, SeenTarget, SourceDisk, SourceOptions, TargetDisk, check_uuid, look_at_target};
pub use output::Output;
pub use points::{
    DeltaFile, FoundDisk, KeepingPlan, MoveOptions, OpenPoint, Opened, PointCheck, PointReport, PruneReport,
    TravelReport, all_points, apply_recorded, export_delta, export_image, is_unknown, keep_to_limits, look_at_points,
    name_of_points, nothing_to_resume, nothing_to_undo, open_point, open_spool, plan_keeping, points_for_changes,
    points_for_reading, points_made_for_changes, prune, refuse_fuzzy, resume, rollback, spool, undo, unknown_point,
    verify_point,
};
pub use progress::{Progress, Silent};
pub use scan::ScanReport;
pub use sign::{SignOptions, SignReport, sign};
pub use tree::{
    LocalBase, StoredTree, TreeError, advance_tree, advance_tree_seen, build_tree, build_tree_of_disk, store_tree,
};
pub use verify::{Against, Difference, ExpectedRoot, VerifyReport, free_blocks_of, verify};
pub use vmdk::{ConvertReport, NewImage, VmdkDisk, VmdkFiles, check_vmdk, convert, create as create_vmdk, names_vmdk};

// What the formats and the layers below call things, for callers that print them.
pub use failback_blockio::{Caching, Device, Engine, Options as EngineOptions, io_uring_refusal};
pub use failback_delta::{
    Coverage, FileKind, FormatError, FreeBlocks, Identity, PointKind, SignatureReader, SigningKey, VerifyingKey,
};
pub use failback_hashtree::{ChainingValue, Root, Shape};
pub use failback_hostdev::{
    AttachedDisk, DiskIdentity, Medium, ScsiAddress, ScsiUuid, ScsiUuidError, Transport, Use, UuidProblem,
    disks_with_uuid, inventory, look, protect_claimed_disks, protect_on_panic,
};
pub use failback_image::create::{NewDisk, Subformat};
pub use failback_image::descriptor::{ExtentAccess, ExtentKind};
pub use failback_image::{Access, CheckReport, Disk, DiskFacts, ExtentFacts, Severity};
pub use failback_retention::{
    Catalogue, Copies, DeltaSource, Direction, Directory, Disk as StoredDisk, FileId, Forecast, FsDirectory, Gap, Link,
    Lock, LockError, Pending, Plan, Point, PointId, Policy, Prune, PruneStep, Reader, Space, Store, StoreError,
    plan_free, plan_prune,
};
pub use failback_units::{BlockSize, ByteCount, ByteRange, HumanBytes};
pub use failback_volumes::{
    Content, DiskLayout, FileSystemFacts, FreeMap, Group, LayoutIdentity, LogicalVolume, Partition, PartitionTable,
    PhysicalVolume, Segment, State, TableKind,
};
