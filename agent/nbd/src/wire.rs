//! What goes over the wire: the part of the NBD protocol that is served.
//!
//! Source of the facts: `doc/proto.md` of `NetworkBlockDevice/nbd`. All numbers are big-endian.
//!
//! ```text
//! server: greeting                                client: flags
//! client: option header, its data                 server: option replies, the last of them ACK or an error
//! … until an option enters transmission …
//! client: request, the payload of a write         server: simple reply, or chunks of a structured one
//! ```

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What the server says first.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Greeting {
    /// [`NBD_MAGIC`].
    pub magic: U64,
    /// [`OPTION_MAGIC`], which tells newstyle from oldstyle.
    pub style: U64,
    /// [`FLAG_FIXED_NEWSTYLE`] and [`FLAG_NO_ZEROES`].
    pub flags: U16,
}

/// What precedes an option's data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OptionHeader {
    /// [`OPTION_MAGIC`].
    pub magic: U64,
    /// One of the options below, or any other number.
    pub option: U32,
    /// Bytes of data that follow.
    pub length: U32,
}

/// What precedes the data of a reply to an option.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OptionReply {
    /// [`REPLY_MAGIC`].
    pub magic: U64,
    /// The option that is answered.
    pub option: U32,
    /// One of the kinds below; bit 31 marks an error.
    pub kind: U32,
    /// Bytes of data that follow.
    pub length: U32,
}

/// The whole answer to [`OPT_EXPORT_NAME`], but for 124 zeroes that follow unless the client has waived them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExportReply {
    /// The disk's size in bytes.
    pub size: U64,
    /// The transmission flags below.
    pub flags: U16,
}

/// The data of a [`REP_INFO`] about the export itself.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExportInfo {
    /// [`INFO_EXPORT`].
    pub info: U16,
    /// The disk's size in bytes.
    pub size: U64,
    /// The transmission flags below.
    pub flags: U16,
}

/// The data of a [`REP_INFO`] about the sizes of requests.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockSizeInfo {
    /// [`INFO_BLOCK_SIZE`].
    pub info: U16,
    /// What offsets and lengths are multiples of.
    pub minimum: U32,
    /// What they are best multiples of.
    pub preferred: U32,
    /// The longest read or write.
    pub maximum: U32,
}

/// What a client asks for. The payload of a write follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Request {
    /// [`REQUEST_MAGIC`].
    pub magic: U32,
    /// The command flags below.
    pub flags: U16,
    /// One of the commands below, or any other number.
    pub command: U16,
    /// Comes back with the reply, and means nothing here.
    pub cookie: [u8; 8],
    /// The first byte that it is about.
    pub offset: U64,
    /// How many bytes it is about.
    pub length: U32,
}

/// A reply to one request; the data of a successful read follows if no structured replies were agreed on.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SimpleReply {
    /// [`SIMPLE_MAGIC`].
    pub magic: U32,
    /// 0, or one of the errors below.
    pub error: U32,
    /// That of the request.
    pub cookie: [u8; 8],
}

/// A part of a structured reply.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Chunk {
    /// [`CHUNK_MAGIC`].
    pub magic: U32,
    /// [`CHUNK_DONE`] in the last chunk of a reply.
    pub flags: U16,
    /// One of the kinds below; bit 15 marks an error.
    pub kind: U16,
    /// That of the request.
    pub cookie: [u8; 8],
    /// Bytes that follow.
    pub length: U32,
}

/// A chunk with content; its bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DataChunk {
    /// Of kind [`CHUNK_DATA`].
    pub chunk: Chunk,
    /// Where on the disk its first byte lies.
    pub offset: U64,
}

/// A chunk that says where zeroes are.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HoleChunk {
    /// Of kind [`CHUNK_HOLE`].
    pub chunk: Chunk,
    /// Where on the disk they begin.
    pub offset: U64,
    /// How many there are, at least one.
    pub count: U32,
}

/// A chunk that says what went wrong; a sentence follows, and after it, in one of kind [`CHUNK_ERROR_AT`], an offset.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorChunk {
    /// Of kind [`CHUNK_ERROR`] or [`CHUNK_ERROR_AT`].
    pub chunk: Chunk,
    /// One of the errors below.
    pub error: U32,
    /// Bytes of the sentence.
    pub length: U16,
}

/// The start of a chunk that tells holes from data; [`Descriptor`]s follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StatusChunk {
    /// Of kind [`CHUNK_STATUS`].
    pub chunk: Chunk,
    /// [`CONTEXT_ID`].
    pub context: U32,
}

/// A stretch of the disk, right behind the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Descriptor {
    /// Its bytes, at least one.
    pub length: U32,
    /// [`STATE_HOLE`] and [`STATE_ZERO`], or 0 for data.
    pub state: U32,
}

const _: () = assert!(size_of::<Greeting>() == 18);
const _: () = assert!(size_of::<OptionHeader>() == 16);
const _: () = assert!(size_of::<OptionReply>() == 20);
const _: () = assert!(size_of::<ExportReply>() == 10);
const _: () = assert!(size_of::<ExportInfo>() == 12);
const _: () = assert!(size_of::<BlockSizeInfo>() == 14);
const _: () = assert!(size_of::<Request>() == 28);
const _: () = assert!(size_of::<SimpleReply>() == 16);
const _: () = assert!(size_of::<Chunk>() == 20);
const _: () = assert!(size_of::<DataChunk>() == 28);
const _: () = assert!(size_of::<HoleChunk>() == 32);
const _: () = assert!(size_of::<ErrorChunk>() == 26);
const _: () = assert!(size_of::<StatusChunk>() == 24);
const _: () = assert!(size_of::<Descriptor>() == 8);

/// `NBDMAGIC`.
pub const NBD_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// `IHAVEOPT`, in the greeting and before every option.
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Before every reply to an option.
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Before every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before every simple reply.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// Before every chunk.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Greeting: replies to options have a form, so that an unknown option ends nothing.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Greeting: the zeroes behind [`ExportReply`] can be waived.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;
/// The client's flags: it knows of [`FLAG_FIXED_NEWSTYLE`].
pub const CLIENT_FIXED_NEWSTYLE: u32 = 1;
/// The client's flags: it waives the zeroes.
pub const CLIENT_NO_ZEROES: u32 = 1 << 1;
/// The zeroes behind [`ExportReply`].
pub const ZEROES: usize = 124;

/// Option: the export's name; transmission begins, or the connection ends.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: the client leaves.
pub const OPT_ABORT: u32 = 2;
/// Option: which exports there are.
pub const OPT_LIST: u32 = 3;
/// Option: what there is to know of an export.
pub const OPT_INFO: u32 = 6;
/// Option: the same, and transmission begins.
pub const OPT_GO: u32 = 7;
/// Option: replies are to be structured.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: which metadata contexts there are.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: which of them [`CMD_BLOCK_STATUS`] is to be about.
pub const OPT_SET_META_CONTEXT: u32 = 10;

/// Reply to an option: all is said, and done.
pub const REP_ACK: u32 = 1;
/// Reply to an option: the name of an export.
pub const REP_SERVER: u32 = 2;
/// Reply to an option: a fact about the export.
pub const REP_INFO: u32 = 3;
/// Reply to an option: a metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// Error reply: no such option here.
pub const REP_ERR_UNSUP: u32 = (1 << 31) + 1;
/// Error reply: the option's data is not what it should be.
pub const REP_ERR_INVALID: u32 = (1 << 31) + 3;
/// Error reply: no export of that name.
pub const REP_ERR_UNKNOWN: u32 = (1 << 31) + 6;

/// The fact in [`ExportInfo`].
pub const INFO_EXPORT: u16 = 0;
/// A fact that may be asked for: the export's name.
pub const INFO_NAME: u16 = 1;
/// A fact that may be asked for: [`BlockSizeInfo`].
pub const INFO_BLOCK_SIZE: u16 = 3;

/// The one metadata context, and the namespace that is a wildcard in [`OPT_LIST_META_CONTEXT`].
pub const CONTEXT: &[u8] = b"base:allocation";
/// See [`CONTEXT`].
pub const CONTEXT_NAMESPACE: &[u8] = b"base:";
/// The number that the context has in replies, once it is set; any would do.
pub const CONTEXT_ID: u32 = 1;

/// Transmission flag: there are flags. Always set.
pub const EXPORT_HAS_FLAGS: u16 = 1;
/// Transmission flag: nothing can be written.
pub const EXPORT_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: there is [`CMD_FLUSH`].
pub const EXPORT_SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: there is [`CMD_FLAG_FUA`].
pub const EXPORT_SEND_FUA: u16 = 1 << 3;
/// Transmission flag: there is [`CMD_TRIM`].
pub const EXPORT_SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: there is [`CMD_WRITE_ZEROES`].
pub const EXPORT_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: there is [`CMD_FLAG_DF`]; only with structured replies.
pub const EXPORT_SEND_DF: u16 = 1 << 7;
/// Transmission flag: several connections see one disk.
pub const EXPORT_CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: there is [`CMD_CACHE`].
pub const EXPORT_SEND_CACHE: u16 = 1 << 10;

/// Command: read.
pub const CMD_READ: u16 = 0;
/// Command: write the payload.
pub const CMD_WRITE: u16 = 1;
/// Command: finish what is under way, and close. No reply.
pub const CMD_DISC: u16 = 2;
/// Command: make durable what was answered.
pub const CMD_FLUSH: u16 = 3;
/// Command: the content is not needed any more.
pub const CMD_TRIM: u16 = 4;
/// Command: the range will be read soon.
pub const CMD_CACHE: u16 = 5;
/// Command: make zero.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Command: tell holes from data.
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Command flag, for any command: reply when it is durable.
pub const CMD_FLAG_FUA: u16 = 1;
/// Command flag of [`CMD_WRITE_ZEROES`]: reserve the space.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag of [`CMD_READ`]: one chunk of content at most.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag of [`CMD_BLOCK_STATUS`]: one descriptor.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;

/// Chunk flag: the last of a reply.
pub const CHUNK_DONE: u16 = 1;
/// Chunk: nothing more; only as the last.
pub const CHUNK_NONE: u16 = 0;
/// Chunk: content.
pub const CHUNK_DATA: u16 = 1;
/// Chunk: zeroes.
pub const CHUNK_HOLE: u16 = 2;
/// Chunk: holes and data.
pub const CHUNK_STATUS: u16 = 5;
/// Chunk: the request failed.
pub const CHUNK_ERROR: u16 = (1 << 15) + 1;
/// Chunk: the request failed at an offset.
pub const CHUNK_ERROR_AT: u16 = (1 << 15) + 2;

/// Descriptor: not allocated.
pub const STATE_HOLE: u32 = 1;
/// Descriptor: reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;

/// Error: not permitted, which is what a write to a read-only export gets.
pub const EPERM: u32 = 1;
/// Error: the disk failed.
pub const EIO: u32 = 5;
/// Error: no memory.
pub const ENOMEM: u32 = 12;
/// Error: the request makes no sense.
pub const EINVAL: u32 = 22;
/// Error: no space, or a write beyond the end.
pub const ENOSPC: u32 = 28;
/// Error: too long for one chunk.
pub const EOVERFLOW: u32 = 75;

/// The longest string, as the protocol says.
pub const MAX_STRING: usize = 4096;
/// The longest read or write: what the protocol asks every server to take.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// The most data of an option. The longest that makes sense here are two strings and a few numbers; more is an attack.
pub const MAX_OPTION: u32 = 64 << 10;
/// Any offset and length is served.
pub const MINIMUM_BLOCK: u32 = 1;
/// The unit of overlays, of pages and of most file systems.
pub const PREFERRED_BLOCK: u32 = 4096;
/// The most descriptors in one reply: 8 KiB of them.
pub const MAX_DESCRIPTORS: usize = 1024;
