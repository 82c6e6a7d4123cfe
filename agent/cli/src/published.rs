//! How far a job is, for others on this machine: a small file of its own, for as long as it runs.
//!
//! It is written only where the directory for such files is there, and what cannot be written is not: a job does not depend on who looks.

use failback_machine::JOBS_DIRECTORY;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two writes.
const EVERY: Duration = Duration::from_secs(1);

/// The file of this process.
pub(crate) struct Published {
    path: PathBuf,
    /// When it was written last, and what the job does since then.
    last: Mutex<(Instant, &'static str, Option<u64>)>,
}

impl Published {
    /// Nothing, where nobody wants to know.
    pub(crate) fn here() -> Option<Self> {
        Self::in_directory(Path::new(JOBS_DIRECTORY))
    }

    fn in_directory(directory: &Path) -> Option<Self> {
        let path = directory.join(std::process::id().to_string());
        directory.is_dir().then(|| Self { path, last: Mutex::new((Instant::now(), "", None)) })
    }

    /// Something else is done from now on.
    pub(crate) fn phase(&self, what: &'static str, total: Option<u64>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), what, total);
        self.write(what, 0, total);
    }

    /// So many bytes of it are done. Written now and then only; threads do not wait for each other here.
    pub(crate) fn advance(&self, done: u64) {
        if let Ok(mut last) = self.last.try_lock()
            && last.0.elapsed() >= EVERY
        {
            last.0 = Instant::now();
            self.write(last.1, done, last.2);
        }
    }

    /// By way of another name, so that nobody reads half of it.
    fn write(&self, what: &str, done: u64, total: Option<u64>) {
        let total = total.map_or("-".into(), |total| total.to_string());
        let new = self.path.with_extension("new");
        let _ = fs::write(&new, format!("{done} {total} {what}\n")).and_then(|()| fs::rename(&new, &self.path));
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_far_it_is_and_is_gone_with_the_job() {
        let directory = tempfile::tempdir().unwrap();
        let published = Published::in_directory(directory.path()).unwrap();
        let said = || fs::read_to_string(directory.path().join(std::process::id().to_string())).unwrap();
        published.phase("reading", Some(100));
        assert_eq!(said(), "0 100 reading\n");
        published.advance(50);
        assert_eq!(said(), "0 100 reading\n", "not every time");
        published.last.lock().unwrap().0 = Instant::now().checked_sub(EVERY).unwrap();
        published.advance(70);
        assert_eq!(said(), "70 100 reading\n");
        published.phase("writing", None);
        assert_eq!(said(), "0 - writing\n");
        drop(published);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(Published::in_directory(&directory.path().join("none")).is_none());
    }
}
