//! A small Debian for guests that need a real udev and systemd.

use super::kernel::{Cache, fetch};
use crate::lab::skipped;
use std::path::PathBuf;

/// What makes it: another recipe makes another image.
const RECIPE: &str = include_str!("../../../../scripts/lib/guest-root");

/// The image of a disk with Debian on it, from `target/guest` if it was made before; `None`, with the reason printed, where this
/// machine cannot make one.
///
/// GPT: the root file system, another (label `guest-home`, mounted at /home) and swap space. A guest starts it when the test's script
/// mounts the first partition, and ends with `switch_root`.
pub fn debian() -> Option<PathBuf> {
    let cache = Cache::locked();
    let key = blake3::hash(RECIPE.as_bytes()).to_hex();
    let image = cache.path(&format!("root-{}.img", &key[..16]));
    if image.is_file() {
        return Some(image);
    }
    fetch("guest-root", &image).map_err(|reason| skipped(&reason)).ok()?;
    Some(image)
}
