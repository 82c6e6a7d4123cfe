//! What kind of system runs here.

use failback_hostdev::Host;

/// Whether it runs from memory, off the live ISO, whose start says so.
#[must_use]
pub fn is_live(host: &Host) -> bool {
    host.path("/run/failback/live").exists()
}

/// Whether systemd is its init, as `sd_booted(3)` finds out.
#[must_use]
pub fn has_systemd(host: &Host) -> bool {
    host.path("/run/systemd/system").is_dir()
}
