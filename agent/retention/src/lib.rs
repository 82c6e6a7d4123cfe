//! The recovery points of one disk on the retention drive: which there are, what leads from one to the next, which may go.
//!
//! - [`Catalogue`] says what there is: a value, and functions that make the next one of it.
//! - [`Store`] puts one catalogue in the place of another, and nothing else decides what is so. `FORMAT.md` beside this
//!   crate describes the directory and the catalogue field by field.
//! - A link is a delta in a file: [`LinkWriter`] writes one, [`LinkReader`] reads its frames in any order.
//! - [`PointDevice`] is a point that can be read while the disk is at another; [`between()`] makes the delta between two.
//! - [`plan_prune`] says which points a [`Policy`] no longer keeps, [`Forecast`] how long the space lasts.
//! - [`Directory`] is where they are kept: [`FsDirectory`] is a real one, `sim::SimDirectory` (behind the feature of
//!   that name) one that loses power.
#![forbid(unsafe_code)]

mod between;
mod catalogue;
mod directory;
mod fs;
mod link;
mod policy;
#[cfg(feature = "sim")]
pub mod sim;
mod store;
mod view;

pub use between::{BetweenError, Leg, Uncounted, between, reach_of, shapes_over};
pub use catalogue::{
    Apply, Catalogue, CatalogueError, Copies, DeltaSource, Direction, Disk, FileId, Inconsistency, Link, MoveError,
    Pending, Point, PointId, Proof,
};
pub use directory::{Appender, Directory, Reader, Space, StoredFile};
pub use fs::{FsDirectory, Lock, LockError};
pub use link::{Index, IndexExtent, IndexFrame, LinkError, LinkFile, LinkReader, LinkWriter};
pub use policy::{Forecast, Plan, Policy, Prune, PruneStep, Reason, Remark, plan_free, plan_prune};
pub use store::{Gap, Missing, Store, StoreError, StoredTree, is_full};
pub use view::PointDevice;
