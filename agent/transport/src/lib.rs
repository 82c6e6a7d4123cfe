//! From an address to a connection: what carries the replication protocol and the API.
//!
//! Sessions of the protocol are blocking threads over any two streams, a [`Link`]. Here are the ways to one:
//!
//! - An [`Address`] says where the other side is and how it is reached: over ssh, through a command, at a Unix socket, over TLS.
//!   [`CommandConnector`] and [`UnixConnector`] connect to it.
//! - [`stdio_link`] is the other end of a command: this process's own standard input and output.
//!
//! Every link keeps to [`Limits`]: a reader that hears nothing for too long fails, and so does a writer that nobody reads from. Its
//! breaker ends both at once. Where a connection ends for a reason that somebody knows (ssh's last words, a refusal of TLS), the
//! reader's and the writer's error is that sentence.
#![forbid(unsafe_code)]

mod address;
mod child;
mod end;
mod limits;
mod link;
mod stdio;
mod unix;

pub use address::{Address, AddressError, DEFAULT_PORT, HostPort, SshAddress};
pub use child::CommandConnector;
pub use end::End;
pub use failback_replication::{Connector, Link};
pub use limits::Limits;
pub use stdio::{StdioError, stdio_link};
pub use unix::UnixConnector;
