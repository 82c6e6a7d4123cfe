//! From an address to a connection, and from a listener to one: what carries the replication protocol and the API.
//!
//! Sessions of the protocol are blocking threads over any two streams, a [`Link`]. Here are the ways to one:
//!
//! - An [`Address`] says where the other side is and how it is reached: over ssh or another command ([`CommandConnector`]), at a Unix
//!   socket ([`UnixConnector`]), over TLS in the network ([`TlsConnector`]). [`Address::connector`] chooses.
//! - [`stdio_link`] is the other end of a command: this process's own standard input and output.
//! - A [`Server`] listens in the network and at Unix sockets. It knows who is at the other end before a [`Handler`] gets the link; it
//!   answers tokens itself, and hands on the requests to the API, which [`ApiClient`] makes. [`enrol`] shows a token.
//!
//! Every link keeps to [`Limits`]: a reader that hears nothing for too long fails, and so does a writer that nobody reads from. Its
//! breaker ends both at once. Where a connection ends for a reason that somebody knows (ssh's last words, a refusal of TLS), the
//! reader's and the writer's error is that sentence, an [`End`].
//!
//! What the network runs on is a [`Runtime`], one thread with tokio. TLS ends there, and a pair of sockets leads to the link.
#![forbid(unsafe_code)]

mod address;
mod api;
mod bridge;
mod child;
mod connect;
mod dial;
mod end;
mod enrol;
mod limits;
mod link;
mod runtime;
mod secured;
mod server;
mod stdio;
mod streams;
mod unix;

pub use address::{API_PORT, Address, AddressError, DEFAULT_PORT, HostPort, SshAddress};
pub use api::{Answer, ApiClient};
pub use child::CommandConnector;
pub use connect::Network;
pub use dial::TlsConnector;
pub use end::End;
pub use enrol::{EnrolError, enrol};
pub use failback_replication::{Connector, Link};
pub use limits::Limits;
pub use runtime::{Kind, RUNTIME_VARIABLE, Runtime};
pub use server::{Bounds, Caller, Enrolment, Event, Full, Handler, Server, ServerError, ServerOptions, StillBusy};
pub use stdio::{StdioError, stdio_link};
pub use unix::UnixConnector;

/// What requests and answers of the API are made of.
pub mod http {
    pub use hyper::body::Bytes;
    pub use hyper::header::HeaderValue;
    pub use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
}
