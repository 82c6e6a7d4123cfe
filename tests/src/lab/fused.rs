//! A disk that is served over NBD as a file of this machine.

use super::{Mount, Place, Running};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A served disk as a file, by `nbdfuse`, until this is dropped. It is mounted in the mount namespace of this process.
#[must_use]
pub struct Fused {
    /// The file.
    pub file: PathBuf,
    // In this order: unmounted, and then over.
    mount: Mount,
    running: Running,
}

impl Fused {
    /// What is served at `uri`.
    pub fn new(place: &Place, uri: &str, options: &[&str]) -> Self {
        let at = place.directory("fused");
        let file = at.join("disk");
        let mut command = Command::new("nbdfuse");
        command.args(options).arg(&file).arg(uri);
        let mut running = Running::start(command);
        assert!(running.wait_until(|| file.exists()), "nbdfuse ended");
        Self { file, mount: Mount::taken(&at), running }
    }

    /// Unmounts, and waits until all is given back.
    pub fn end(self) {
        let Self { mount, running, file } = self;
        drop(mount);
        let run = running.finish();
        assert_eq!(run.code, 0, "{}", run.stderr);
        fs::remove_dir(file.parent().unwrap()).unwrap();
    }
}
