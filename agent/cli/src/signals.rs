//! Signals that ask a verb to stop.

use failback_orchestrate::protect_claimed_disks;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::{fs, io, mem, thread};

/// Begins to listen to SIGINT and SIGTERM: the first sets the flag, the second ends the program, as SIGQUIT does. SIGHUP sets the flag.
pub(crate) fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let signals = Signals::new([SIGINT, SIGTERM, SIGQUIT])?;
    for signal in [SIGINT, SIGTERM] {
        // By a handler, at once: what comes of a signal elsewhere, such as the end of a pipe, must not be seen before it.
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    thread::Builder::new().name("failback-signals".to_owned()).spawn(move || listen(signals))?;
    // A connection that breaks is no reason to end anywhere. Shell and kernel may both tell of it, so a second one means nothing; and
    // `nohup` stays what it is.
    if !is_ignored(SIGHUP) {
        signal_hook::flag::register(SIGHUP, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Waits for the signals that end the program. This is a thread and no handler, since what is claimed is made read-only before.
fn listen(mut signals: Signals) {
    // Not the flag, which a connection that broke has set as well: who then asks this to stop asks for the first time.
    let mut asked = false;
    for signal in signals.forever() {
        if signal == SIGQUIT {
            protect_claimed_disks();
            // Ends the program, with what is usual for this signal.
            let _ = signal_hook::low_level::emulate_default_handler(SIGQUIT);
        }
        if mem::replace(&mut asked, true) {
            protect_claimed_disks();
            // Also for SIGTERM, for which shells have 143: one code says that somebody wanted it, however soon it ended.
            signal_hook::low_level::exit(130);
        }
    }
}

/// Whether whoever started this wants a signal to be ignored; `SigIgn` of `proc_pid_status(5)`.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
