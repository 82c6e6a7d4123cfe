//! The bytes of the protocol: see `PROTOCOL.md`. Constants and structures only.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What each side sends first, before it has heard anything. It is the same in all versions.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawPreface {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The oldest version that this side speaks.
    pub oldest: U16,
    /// The newest version that this side speaks.
    pub newest: U16,
    /// What this side is: see [`role`].
    pub role: u8,
    /// 0; passed over by the reader, for versions to come.
    pub reserved: [u8; 3],
    /// The version of the program, ASCII, filled up with zeroes: for the sentence that tells of a mismatch.
    pub program: [u8; 16],
}

/// How a preface begins.
pub const MAGIC: [u8; 8] = *b"\x89FBREP\r\n";
/// The version that this program speaks.
pub const VERSION: u16 = 1;

/// What a side is.
pub mod role {
    /// It reads a disk.
    pub const SOURCE: u8 = 1;
    /// It writes a disk.
    pub const TARGET: u8 = 2;
}

/// What stands before each message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawHead {
    /// The length of the message behind this, at most the limit of its kind.
    pub len: U32,
    /// See [`kind`].
    pub kind: u8,
    /// 0.
    pub reserved: [u8; 3],
}

/// Kinds of messages. Those below 16 are sent by the source, those below 32 by the target, the others by both.
pub mod kind {
    /// A pass is to begin, or to go on.
    pub const OFFER: u8 = 1;
    /// The base's map is wanted.
    pub const ASK_MAP: u8 = 2;
    /// Values of the base's tree are wanted.
    pub const ASK_VALUES: u8 = 3;
    /// A piece of the delta.
    pub const DATA: u8 = 4;
    /// The delta is complete.
    pub const END: u8 = 5;
    /// How far the source is.
    pub const PROGRESS: u8 = 6;
    /// The source wants to take part in the common mark of a group.
    pub const MEET: u8 = 7;
    /// The source is at rest.
    pub const QUIESCED: u8 = 8;
    /// The source has its mark.
    pub const MARKED: u8 = 9;
    /// The offer is taken.
    pub const ACCEPT: u8 = 16;
    /// A piece of the base's map.
    pub const MAP: u8 = 17;
    /// Values that were asked for.
    pub const VALUES: u8 = 18;
    /// The delta is durable up to somewhere.
    pub const DURABLE: u8 = 19;
    /// The delta was applied.
    pub const DONE: u8 = 20;
    /// A relay has the delta, proven and durable. The disk does not have it yet.
    pub const STORED: u8 = 21;
    /// All of the group are here: come to rest.
    pub const QUIESCE: u8 = 22;
    /// All of the group are at rest: take the mark.
    pub const MARK: u8 = 23;
    /// All of the group have their marks: go on.
    pub const RELEASE: u8 = 24;
    /// What the group waits for.
    pub const WAITS: u8 = 25;
    /// This side is still there.
    pub const ALIVE: u8 = 32;
    /// This side will not go on, and why.
    pub const REFUSE: u8 = 33;
}

/// The source's offer. The name of the pair and that of the source follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawOffer {
    /// The source's size in bytes.
    pub size: U64,
    /// The length of the pair's name.
    pub pair_len: u8,
    /// Which bytes of the source count, as in a delta.
    pub coverage: u8,
    /// What moment it is from, as in a delta.
    pub kind: u8,
    /// The length of the source's name.
    pub source_len: u8,
    /// The SCSI UUID of the source, or zeroes.
    pub scsi_uuid: [u8; 16],
    /// The header hash of the delta that is to go on, or zeroes.
    pub delta: [u8; 32],
    /// The source can go on from the end of any part of it up to here.
    pub until: U64,
    /// The mark of a group that is sent, or zeroes.
    pub mark: [u8; 16],
}

/// Who wants to take part in the mark of a group. The names of the group, of the pair and of the source follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawMeet {
    /// The length of the group's name.
    pub group_len: u8,
    /// The length of the pair's name.
    pub pair_len: u8,
    /// The length of the source's name.
    pub source_len: u8,
    /// 0.
    pub reserved: [u8; 5],
    /// The SCSI UUID of the source, or zeroes.
    pub scsi_uuid: [u8; 16],
}

/// The mark of a group.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawRelease {
    /// Its id, which the offers of its passes bear.
    pub mark: [u8; 16],
    /// When it was taken, in seconds since 1970 by the target's clock.
    pub time: I64,
}

/// The target's answer to an offer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawAccept {
    /// The base's size in bytes.
    pub size: U64,
    /// The base-2 logarithm of the block size of its tree.
    pub block_shift: u8,
    /// Which bytes of the base count.
    pub coverage: u8,
    /// 1 if this side is a relay: the base is what the disk will be once all is applied that waits here. 0 if it has the disk.
    pub relayed: u8,
    /// 0.
    pub reserved: [u8; 5],
    /// The root of the base.
    pub root: [u8; 32],
    /// BLAKE3 of the base's map as it stands in MAP messages, unpacked; zeroes with coverage `whole`.
    pub map: [u8; 32],
    /// How many bytes of the offered delta are durable here: 0 where the offer was for a new one.
    pub durable: U64,
}

/// What stands before the runs of a question and the values of an answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawQuestion {
    /// The number of the question, which the answer bears.
    pub id: U32,
    /// How many runs, or values, follow.
    pub count: U32,
}

/// Neighbouring nodes of one level.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawRun {
    /// The first block below the first node.
    pub first: U64,
    /// How many nodes, 1 or more.
    pub count: U32,
    /// Their level.
    pub level: u8,
    /// 0.
    pub reserved: [u8; 3],
}

/// How much of the source has been compared.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawProgress {
    /// Bytes of it that have been.
    pub compared: U64,
    /// Bytes that will be.
    pub total: U64,
}

/// The delta's length, and its root.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawEnd {
    /// The length of the delta in bytes.
    pub len: U64,
    /// The root that it leads to.
    pub root: [u8; 32],
}

const _: () = assert!(size_of::<RawPreface>() == 32);
const _: () = assert!(size_of::<RawHead>() == 8);
const _: () = assert!(size_of::<RawOffer>() == 84);
const _: () = assert!(size_of::<RawMeet>() == 24);
const _: () = assert!(size_of::<RawRelease>() == 24);
const _: () = assert!(size_of::<RawAccept>() == 88);
const _: () = assert!(size_of::<RawQuestion>() == 8);
const _: () = assert!(size_of::<RawRun>() == 16);
const _: () = assert!(size_of::<RawProgress>() == 16);
const _: () = assert!(size_of::<RawEnd>() == 40);

/// Values in an answer, and so in a question: 128 KiB; below the nodes that are stored, 16 MiB are read for them.
pub const VALUES_MAX: u32 = 4096;
/// Runs in a question: no more than values.
pub const RUNS_MAX: u32 = 4096;
/// Bytes of a delta in a message: small enough that answers do not wait long behind it on a slow link.
pub const DATA_MAX: usize = 64 << 10;
/// Bytes of a packed map in a message.
pub const MAP_MAX: usize = 64 << 10;
/// A sentence for people.
pub const SENTENCE_MAX: usize = 2048;
/// The name of a pair.
pub const PAIR_MAX: usize = 64;
/// The name of a group.
pub const GROUP_MAX: usize = 64;
/// The name that a source has where it is.
pub const SOURCE_MAX: usize = 255;
/// The longest message of all: that of VALUES.
pub const MESSAGE_MAX: usize = 8 + 32 * VALUES_MAX as usize;
