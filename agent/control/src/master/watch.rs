//! Looking at a job from outside.

use super::{LiveJob, MasterTarget};
use failback_replication::Spool;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often it is looked how far a job is.
const LOOKED_EVERY: Duration = Duration::from_millis(500);

/// Looks now and then how far a job is.
pub(super) struct Watch {
    looking: Option<(Sender<()>, JoinHandle<()>)>,
    receiving: Arc<AtomicBool>,
}

impl Watch {
    pub(super) fn begin(master: Arc<MasterTarget>, job: Arc<LiveJob>, spool: Arc<Mutex<Spool>>) -> Self {
        let receiving = Arc::new(AtomicBool::new(true));
        let (stop, stopped) = channel();
        let arriving = Arc::clone(&receiving);
        let thread = thread::spawn(move || {
            while stopped.recv_timeout(LOOKED_EVERY) == Err(RecvTimeoutError::Timeout) {
                if arriving.load(Ordering::Acquire) {
                    job.is_at(spool.lock().unwrap_or_else(PoisonError::into_inner).durable());
                }
                job.report_to(&master);
            }
        });
        Self { looking: Some((stop, thread)), receiving }
    }

    /// All has arrived: what follows tells itself how far it is.
    pub(super) fn received(&self) {
        self.receiving.store(false, Ordering::Release);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.looking.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}
