//! Files of a new disk, which get their names only when all of them are complete and durable.

use super::files::not_opened;
use crate::JobError;
use crate::output::sync_directory_of;
use failback_blockio::{Caching, Engine, FileDevice, IoError, Options, Resizable};
use failback_image::create::NewFile;
use failback_image::{Access, Files};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// New files under temporary names. Dropping them removes them.
#[derive(Debug)]
pub(super) struct NewFiles {
    engine: Engine,
    /// The name that each will have, and the one that it has; the descriptor's comes first.
    files: Vec<(PathBuf, PathBuf)>,
}

impl NewFiles {
    /// Makes files beside `path`, which is the first one's own path. Nothing that is there is touched.
    pub(super) fn make(path: &Path, files: Vec<NewFile>, engine: Engine) -> Result<Self, JobError> {
        let mut made = Self { engine, files: Vec::with_capacity(files.len()) };
        for file in files {
            let name = path.with_file_name(&file.name);
            refuse_existing(&name)?;
            let temporary = path.with_file_name(format!(".{}.{}.partial", file.name, std::process::id()));
            let new = OpenOptions::new().write(true).create_new(true).open(&temporary);
            let new = new.map_err(failed("create", &temporary))?;
            made.files.push((name, temporary.clone()));
            fill(&new, &file).map_err(failed("write", &temporary))?;
        }
        Ok(made)
    }

    /// The first file, for writing from front to back.
    pub(super) fn first(&self) -> Result<File, JobError> {
        let temporary = self.temporary(0)?;
        OpenOptions::new().read(true).write(true).open(temporary).map_err(failed("open", temporary))
    }

    fn temporary(&self, index: usize) -> Result<&Path, JobError> {
        let missing = || JobError::Refused("a disk without files cannot be made".into());
        self.files.get(index).map(|(_, temporary)| temporary.as_path()).ok_or_else(missing)
    }

    /// The first file as a device.
    pub(super) fn first_device(&self) -> Result<FileDevice, JobError> {
        Ok(self.device(self.first()?, self.temporary(0)?)?)
    }

    fn device(&self, file: File, name: &Path) -> Result<FileDevice, IoError> {
        let options = Options { engine: self.engine, caching: Caching::Direct };
        FileDevice::new(file.into(), &name.to_string_lossy(), options)
    }

    /// Makes everything durable and gives the files their names, the descriptor's last: before that, there is no disk.
    pub(super) fn publish(mut self) -> Result<Vec<PathBuf>, JobError> {
        for (_, temporary) in &self.files {
            File::open(temporary).and_then(|file| file.sync_all()).map_err(failed("write", temporary))?;
        }
        let mut named: Vec<PathBuf> = Vec::new();
        for (name, temporary) in self.files.iter().rev() {
            if let Err(source) = give_name(temporary, name) {
                // What has its name already is an extent without a disk.
                for name in &named {
                    let _ = fs::remove_file(name);
                }
                return Err(failed("name", name)(source));
            }
            named.push(name.clone());
        }
        self.files.clear();
        if let Some(name) = named.last() {
            sync_directory_of(name).map_err(failed("write", name))?;
        }
        named.reverse();
        Ok(named)
    }
}

/// Renames without ever replacing: a second name, and then the first one goes.
fn give_name(temporary: &Path, name: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, name) {
        Ok(()) => fs::remove_file(temporary),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // A file system without second names.
        Err(_) => {
            if fs::symlink_metadata(name).is_ok() {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            fs::rename(temporary, name)
        }
    }
}

fn fill(file: &File, new: &NewFile) -> io::Result<()> {
    file.set_len(new.length.get())?;
    new.content.iter().try_for_each(|(at, bytes)| file.write_all_at(bytes, *at))
}

fn refuse_existing(path: &Path) -> Result<(), JobError> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let path = path.display();
    Err(JobError::Refused(format!("{path} is there already, and nothing is overwritten: name a new disk")))
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        for (_, temporary) in &self.files {
            let _ = fs::remove_file(temporary);
        }
    }
}

impl Files for NewFiles {
    fn open(&self, path: &Path, _: Access) -> Result<Box<dyn Resizable>, IoError> {
        let error = |source: io::Error| not_opened(path, source);
        let found = self.files.iter().find(|(name, _)| name == path);
        let (_, temporary) = found.ok_or_else(|| error(io::Error::from(io::ErrorKind::NotFound)))?;
        let file = OpenOptions::new().read(true).write(true).open(temporary).map_err(error)?;
        Ok(Box::new(self.device(file, path)?))
    }

    fn names_in(&self, _: &Path) -> Result<Vec<OsString>, IoError> {
        // A new disk has no children.
        Ok(Vec::new())
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JobError {
    let path = path.to_owned();
    move |source| JobError::File { action, path, source }
}
