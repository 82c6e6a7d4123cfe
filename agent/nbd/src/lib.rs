//! One disk over the NBD protocol: so that any program that knows the protocol can read, copy, mount or boot a disk
//! state that exists nowhere as a whole.
//!
//! An [`Export`] is a [`failback_blockio::Device`] under a name, for reading only, or with an [`Overlay`] that takes what
//! is written and is thrown away in the end. A [`Server`] listens at a Unix socket and serves it on one thread for each
//! connection; [`serve_stream`] serves one that is there already.
//!
//! Served is the fixed newstyle of the protocol with structured replies and block status, and without TLS: who may reach
//! the socket is decided by the file system.
//!
//! Everything that a client says may be hostile: whatever it is, memory stays within what [`Limits`] says, and all that
//! ends is the client's own connection.
#![forbid(unsafe_code)]

mod error;
mod export;
mod extents;
mod handshake;
mod link;
mod options;
mod overlay;
mod reply;
mod request;
mod server;
mod session;
pub mod wire;

pub use error::{BindError, Breach, ExportNameError, ListenError, OverlayError, SessionError};
pub use export::{Counters, Export};
pub use overlay::Overlay;
pub use server::{Limits, Server};
pub use session::serve_stream;
