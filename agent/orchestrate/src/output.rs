//! Files that appear whole or not at all.

use crate::JobError;
use failback_delta::{FileKind, identify};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

const BUFFER: usize = 1 << 20;

/// Where a signature or a delta goes: standard output, or a file that gets its name only once it is complete and durable.
#[derive(Debug)]
pub struct Output {
    writer: Writer,
}

#[derive(Debug)]
enum Writer {
    Stdout(io::Stdout),
    File { file: BufWriter<File>, temporary: PathBuf, path: PathBuf },
}

impl Output {
    /// Standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self { writer: Writer::Stdout(io::stdout()) }
    }

    /// A file at `path`. One that is there already is replaced only if it is of the same kind.
    ///
    /// # Errors
    ///
    /// When something else stands at `path`, or the directory cannot be written.
    pub fn file(path: &Path, kind: FileKind) -> Result<Self, JobError> {
        refuse_to_replace(path, kind)?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.partial", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.map_err(|source| failed("create", &temporary, source))?;
        let file = BufWriter::with_capacity(BUFFER, file);
        Ok(Self { writer: Writer::File { file, temporary, path: path.to_owned() } })
    }

    /// Makes what was written durable and gives it its name.
    ///
    /// # Errors
    ///
    /// When the file system cannot. Unless only the directory could not be made durable, there is no file then.
    pub fn commit(mut self) -> Result<(), JobError> {
        match &mut self.writer {
            Writer::Stdout(stdout) => stdout.flush().map_err(|source| failed("write", Path::new("stdout"), source)),
            Writer::File { file, temporary, path } => {
                let renamed = file
                    .flush()
                    .and_then(|()| file.get_ref().sync_all())
                    .and_then(|()| fs::rename(&*temporary, &*path))
                    .and_then(|()| sync_directory_of(path));
                renamed.map_err(|source| failed("write", path, source))?;
                // The name is taken: nothing is left to be removed.
                *temporary = PathBuf::new();
                Ok(())
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.writer {
            Writer::Stdout(stdout) => stdout.write(bytes),
            Writer::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Writer::Stdout(stdout) => stdout.flush(),
            Writer::File { file, .. } => file.flush(),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Writer::File { temporary, .. } = &self.writer
            && !temporary.as_os_str().is_empty()
        {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Makes a new name in a directory durable.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> JobError {
    JobError::File { action, path: path.to_owned(), source }
}

/// An output that is a disk, or somebody's disk image, would be lost by a slip of the keyboard.
fn refuse_to_replace(path: &Path, kind: FileKind) -> Result<(), JobError> {
    let Ok(there) = fs::metadata(path) else { return Ok(()) };
    let refused = |what: &str| {
        let path = path.display();
        Err(JobError::Refused(format!("{path} is {what}: name a new file for the {kind} with -o")))
    };
    let file_type = there.file_type();
    if file_type.is_block_device() || file_type.is_char_device() {
        return refused("a device");
    }
    if !file_type.is_file() {
        return refused("no regular file");
    }
    let mut start = [0; 8];
    let is_same_kind = File::open(path)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok_and(|()| identify(&start) == Some(kind));
    if is_same_kind || there.len() == 0 { Ok(()) } else { refused(&format!("there already and is no {kind}")) }
}
