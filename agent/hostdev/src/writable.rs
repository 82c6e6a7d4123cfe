//! The disks that claims of this process have made writable, so that they do not stay so where the process ends without dropping
//! its claims: by a panic that aborts, or by a signal.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::panic;
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::Duration;

use crate::sys;

/// How often [`protect_claimed_disks`] tries to get at the list: whoever panicked may be the one that has it.
const ATTEMPTS: u32 = 100;
/// How long it waits between two attempts.
const PATIENCE: Duration = Duration::from_millis(1);

static WRITABLE: Mutex<Writable> = Mutex::new(Writable { disks: Vec::new(), ended: false });

struct Writable {
    disks: Vec<Weak<File>>,
    /// Whether the process is ending, so that nothing becomes writable any more.
    ended: bool,
}

/// Takes off the kernel's mark of a disk, which is known as writable from before that on.
pub(crate) fn make_writable(disk: &Arc<File>) -> io::Result<()> {
    let mut known = WRITABLE.lock().unwrap_or_else(PoisonError::into_inner);
    if known.ended {
        return Err(io::Error::other("this program is about to end"));
    }
    known.disks.retain(|it| it.strong_count() > 0);
    known.disks.push(Arc::downgrade(disk));
    sys::set_read_only(disk.as_fd(), false)
}

/// Sets the mark again, and forgets the disk.
pub(crate) fn make_read_only(disk: &Arc<File>) -> io::Result<()> {
    let set = sys::set_read_only(disk.as_fd(), true);
    let mut known = WRITABLE.lock().unwrap_or_else(PoisonError::into_inner);
    known.disks.retain(|it| !std::ptr::eq(it.as_ptr(), Arc::as_ptr(disk)));
    set
}

/// Makes every disk read-only again that a claim of this process has made writable, and lets none become writable any more: for a
/// program that is about to end without dropping its claims.
pub fn protect_claimed_disks() {
    for _ in 0..ATTEMPTS {
        let mut known = match WRITABLE.try_lock() {
            Ok(known) => known,
            Err(TryLockError::Poisoned(known)) => known.into_inner(),
            Err(TryLockError::WouldBlock) => {
                thread::sleep(PATIENCE);
                continue;
            }
        };
        known.ended = true;
        for disk in known.disks.iter().filter_map(Weak::upgrade) {
            // If this fails, nobody who could mend it better can be told here; the next claim does.
            let _ = sys::set_read_only(disk.as_fd(), true);
        }
        return;
    }
}

/// Has every panic of this process call [`protect_claimed_disks`] before anything else: where a panic aborts, no claim is dropped.
pub fn protect_on_panic() {
    let next = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        protect_claimed_disks();
        next(panicked);
    }));
}
