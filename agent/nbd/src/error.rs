//! How a connection, a server or an overlay can fail.

use failback_blockio::IoError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a connection ended otherwise than by the client's wish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The client said something that the protocol does not allow, after which nobody knows where its next message begins.
    #[error("the client does not speak the NBD protocol: {0}")]
    Breach(#[from] Breach),
    /// The client began a message and did not go on with it.
    #[error("the client stopped in the middle of a message for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// The client closed the connection in the middle of a message, or while replies were on their way.
    #[error("the client went away in the middle of a message")]
    Gone,
    /// The socket failed.
    #[error("the connection failed")]
    Socket(#[source] io::Error),
    /// There is not so much memory.
    #[error("there is no memory for another connection")]
    Memory(#[source] io::Error),
    /// The device could not be used at all. Failures of single requests are told to the client only.
    #[error("the disk cannot be served")]
    Device(#[source] IoError),
}

/// What a client did that the protocol does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Breach {
    /// Its flags have bits that mean nothing.
    #[error("it sent the unknown flags {0:#x}")]
    UnknownFlags(u32),
    /// Something else came where an option should begin.
    #[error("no option begins with {0:#018x}")]
    NotAnOption(u64),
    /// An option with more data than any has.
    #[error("option {option} has {length} bytes of data")]
    OptionTooLong {
        /// Its number.
        option: u32,
        /// How much data it announced.
        length: u32,
    },
    /// It asked, in the way that knows no error replies, for an export that is not there.
    #[error("it asked for an export of another name")]
    UnknownExport,
    /// Something else came where a request should begin.
    #[error("no request begins with {0:#010x}")]
    NotARequest(u32),
    /// A write of more than the limit that was told.
    #[error("it announced a write of {0} bytes")]
    PayloadTooLong(u32),
}

/// Why a name is no name for an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of an export has at most 4096 bytes and no NUL among them: choose another")]
pub struct ExportNameError;

/// Why no server can listen at a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another server is there.
    #[error("another program answers at {}: end it, or choose another path for the socket", path.display())]
    InUse {
        /// The path of the socket.
        path: PathBuf,
    },
    /// Something that is no socket is there.
    #[error("{} exists and is no socket: choose another path for the socket", path.display())]
    NotASocket {
        /// The path of the socket.
        path: PathBuf,
    },
    /// Linux knows no longer ones.
    #[error("{} is too long for the path of a socket, which has at most 107 bytes: choose a shorter one", path.display())]
    TooLong {
        /// The path of the socket.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot make a socket at {}", path.display())]
    Io {
        /// The path of the socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Connections can no longer be accepted.
#[derive(Debug, thiserror::Error)]
#[error("cannot accept connections at {}", path.display())]
pub struct ListenError {
    /// The path of the socket.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

/// Why there can be no overlay.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot make a temporary file of {size} bytes in {}: choose a directory for it that exists, can be written and \
     is on a file system with files so large", directory.display()
)]
pub struct OverlayError {
    /// Where the file was to be.
    pub directory: PathBuf,
    /// How long: as long as the disk, though with holes only.
    pub size: failback_units::ByteCount,
    /// What the kernel said.
    pub source: io::Error,
}
