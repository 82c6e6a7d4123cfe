//! A link over one end of a pair of sockets, with somebody behind it who may know why it ended.

use crate::{End, Limits};
use failback_replication::Link;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// What stands behind a link: a child, or the bridge to TLS. When the link goes, it is dropped, after the socket is closed.
pub(crate) trait Behind: Send + Sync {
    /// Ends at once. May be called more than once, and never waits.
    fn break_off(&self);

    /// Why the connection ended, if that is known. Asked once the other end of the pair is closed; may wait a moment.
    fn why(&self) -> Option<End>;
}

/// Nobody: the socket leads to the other side itself.
pub(crate) struct Nobody;

impl Behind for Nobody {
    fn break_off(&self) {}

    fn why(&self) -> Option<End> {
        None
    }
}

/// What reader, writer and breaker share. The order of the fields matters: whoever is behind sees the end before it is waited for.
struct Shared {
    stream: UnixStream,
    broken: AtomicBool,
    limits: Limits,
    behind: Box<dyn Behind>,
}

struct Reader(Arc<Shared>);
struct Writer(Arc<Shared>);

/// A link over a socket of its own.
pub(crate) fn link_over(stream: UnixStream, limits: Limits, behind: Box<dyn Behind>) -> io::Result<Link> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(limits.silence))?;
    stream.set_write_timeout(Some(limits.stall))?;
    let shared = Arc::new(Shared { stream, broken: AtomicBool::new(false), limits, behind });
    // Whoever keeps the breaker keeps nothing else: a child or a socket goes with reader and writer.
    let breaker = Arc::downgrade(&shared);
    Ok(Link {
        reader: Box::new(Reader(Arc::clone(&shared))),
        writer: Box::new(Writer(shared)),
        breaker: Arc::new(move || {
            Weak::upgrade(&breaker).inspect(|shared| shared.break_off());
        }),
    })
}

impl Shared {
    fn break_off(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.behind.break_off();
        // Fails only where the other end is gone already.
        drop(self.stream.shutdown(Shutdown::Both));
    }

    /// The best that is known of the end of the connection.
    fn why(&self) -> Option<End> {
        if self.broken.load(Ordering::SeqCst) { Some(End::BrokenOff) } else { self.behind.why() }
    }

    /// What a failed call means: `late` if it was the socket's time limit.
    fn failed(&self, error: io::Error, late: End) -> io::Error {
        match error.kind() {
            io::ErrorKind::WouldBlock => {
                let why = self.why_late(late);
                self.break_off();
                why.error()
            }
            io::ErrorKind::Interrupted => error,
            _ => self.why().map_or(error, End::error),
        }
    }

    fn why_late(&self, late: End) -> End {
        if self.broken.load(Ordering::SeqCst) { End::BrokenOff } else { late }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (&self.0.stream).read(buffer) {
            Ok(0) if !buffer.is_empty() => self.0.why().map_or(Ok(0), |why| Err(why.error())),
            Ok(len) => Ok(len),
            Err(error) => Err(self.0.failed(error, End::Silent(self.0.limits.silence))),
        }
    }
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = (&self.0.stream).write(buffer);
        written.map_err(|error| self.0.failed(error, End::Stalled(self.0.limits.stall)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The other side learns that nothing more comes, and may still say something.
        drop(self.0.stream.shutdown(Shutdown::Write));
    }
}
