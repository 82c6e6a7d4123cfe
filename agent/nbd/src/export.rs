//! What is served: a device under a name.

use crate::error::ExportNameError;
use crate::overlay::Overlay;
use crate::wire;
use failback_blockio::Device;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// A disk to be served.
///
/// A client finds it under its name, and under the empty name, which is the default export of a server.
pub struct Export<'device> {
    name: String,
    device: &'device dyn Device,
    writable: bool,
    counters: AtomicCounters,
    /// How often the disk was changed through this.
    changes: AtomicU64,
}

/// What was done for clients, on all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that got as far as transmission.
    pub connections: u64,
    /// Requests, also those that were refused or failed.
    pub requests: u64,
    /// Requests that were refused or failed.
    pub failed: u64,
    /// Bytes sent for reads, holes included.
    pub bytes_read: u64,
    /// Bytes of successful writes.
    pub bytes_written: u64,
}

#[derive(Debug, Default)]
pub(crate) struct AtomicCounters {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
}

impl<'device> Export<'device> {
    /// A device that can be read. It must not change while it is served: what was found out about its holes is remembered.
    ///
    /// # Errors
    ///
    /// When `name` is longer than 4096 bytes, or has a NUL.
    pub fn read_only(name: &str, device: &'device dyn Device) -> Result<Self, ExportNameError> {
        Self::new(name, device, false)
    }

    /// A disk that can be written, since what is written goes into the overlay and never further.
    ///
    /// # Errors
    ///
    /// As for [`read_only`](Export::read_only).
    pub fn throw_away<D: Device>(name: &str, overlay: &'device Overlay<D>) -> Result<Self, ExportNameError> {
        Self::new(name, overlay, true)
    }

    fn new(name: &str, device: &'device dyn Device, writable: bool) -> Result<Self, ExportNameError> {
        if name.len() > wire::MAX_STRING || name.contains('\0') {
            return Err(ExportNameError);
        }
        let (counters, changes) = (AtomicCounters::default(), AtomicU64::new(0));
        Ok(Self { name: name.to_owned(), device, writable, counters, changes })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was done since the export was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            connections: self.counters.connections.load(Relaxed),
            requests: self.counters.requests.load(Relaxed),
            failed: self.counters.failed.load(Relaxed),
            bytes_read: self.counters.bytes_read.load(Relaxed),
            bytes_written: self.counters.bytes_written.load(Relaxed),
        }
    }

    pub(crate) fn counting(&self) -> &AtomicCounters {
        &self.counters
    }

    pub(crate) fn device(&self) -> &'device dyn Device {
        self.device
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Takes note of a change that is done.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Release);
    }

    /// A number that is another one after every change.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// Whether a client that asks for `name` means this.
    pub(crate) fn answers_to(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }

    /// The transmission flags.
    pub(crate) fn flags(&self, structured: bool) -> u16 {
        let always = wire::EXPORT_HAS_FLAGS | wire::EXPORT_SEND_FLUSH | wire::EXPORT_SEND_FUA | wire::EXPORT_SEND_CACHE;
        let by_use = if self.writable {
            wire::EXPORT_SEND_TRIM | wire::EXPORT_SEND_WRITE_ZEROES
        } else {
            wire::EXPORT_READ_ONLY | wire::EXPORT_CAN_MULTI_CONN
        };
        always | by_use | if structured { wire::EXPORT_SEND_DF } else { 0 }
    }
}

impl fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.writable { "throw-away" } else { "read-only" };
        write!(f, "Export({:?}, {}, {how})", self.name, self.device.name())
    }
}
