//! Serves an image file to one source over standard input and output: a target without recovery points, for tests of sources.
//!
//! `serve-image IMAGE DIRECTORY [BYTES]`: tree, spool and what was applied last are kept in the directory; the image becomes the result. With BYTES
//! it ends after it has read so many, and removes the file `break` in the directory, without which BYTES mean nothing.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's other side fails by panicking")]

use failback_hashtree::{Root, Shape};
use failback_orchestrate::{
    ApplyOptions, BaseTree, BlockSize, ClaimedTarget, DeltaInput, Engine, FreeBlocks, JobError, LocalBase, Silent,
    StoredTree, TargetDisk, advance_tree, apply, binding_of, build_tree, intents_of, look_at_target,
};
use failback_replication::{Link, Offer, Offered, Replica, Spool, serve_session};
use failback_transport::{Limits, stdio_link};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

struct Served<'a> {
    disk: &'a TargetDisk,
    directory: &'a Path,
    base: LocalBase<'a>,
    spool: Mutex<Spool>,
}

impl Served<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Replica for Served<'_> {
    fn offer(&mut self, offer: &Offer) -> Result<Offered, JobError> {
        fs::write(self.path("offer"), format!("{} {}\n", offer.kind.name(), offer.source)).unwrap();
        if offer.pair != "pair" {
            return Err(JobError::Refused(format!("there is no pair {}: add it with pair add", offer.pair)));
        }
        let applied = fs::read(self.path("applied")).unwrap_or_default();
        match (offer.resumed, applied.split_at_checked(32)) {
            (Some(resumed), Some((key, root))) if resumed.delta == key => {
                Ok(Offered::Applied(Root(root.try_into().unwrap())))
            }
            _ => Ok(Offered::Ready),
        }
    }

    fn base(&self) -> Result<&dyn BaseTree, JobError> {
        Ok(&self.base)
    }

    fn spool(&self) -> &Mutex<Spool> {
        &self.spool
    }

    fn apply(&mut self, expected: Root) -> Result<Root, JobError> {
        let (spool, next) = (self.path("spool"), self.path("next"));
        let options = ApplyOptions { disk: binding_of(self.disk.identity()), ..ApplyOptions::default() };
        let mut intents = intents_of(self.disk.identity(), Some(self.directory));
        let mut delta = File::open(&spool).unwrap();
        let report = apply(self.disk.device(), DeltaInput::File(&mut delta), &mut intents, &options, &Silent)?;
        assert_eq!(report.result_root, expected);
        advance_tree(self.base.tree, File::open(&spool).unwrap(), &next)?;
        fs::rename(next, self.path("tree")).unwrap();
        let mut spool = self.spool.lock().unwrap();
        fs::write(self.path("applied"), [spool.key().unwrap(), expected.0].concat()).unwrap();
        spool.cut(0).unwrap();
        Ok(report.result_root)
    }
}

/// Ends the process after so many bytes.
struct Fuse {
    reader: Box<dyn Read + Send>,
    left: u64,
    file: PathBuf,
}

impl Read for Fuse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        if self.left == 0 && fs::remove_file(&self.file).is_ok() {
            return Err(io::Error::other("the fuse has blown"));
        }
        Ok(read)
    }
}

/// Claims the image; a server that was here before may still be on its way out.
fn claim(image: &Path) -> TargetDisk {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = look_at_target(image).unwrap();
        match ClaimedTarget::claim(image, Engine::Auto, &seen.identity, None) {
            Ok(claimed) => return claimed.make_writable().unwrap(),
            Err(error) if Instant::now() > end => panic!("{error}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn serve(mut link: Link, image: &Path, directory: &Path, bytes: Option<u64>) -> String {
    let disk = claim(image);
    let tree_path = directory.join("tree");
    if !tree_path.exists() {
        let shape = Shape::new(disk.device().size(), BlockSize::MIN);
        build_tree(disk.device(), shape, &FreeBlocks::NONE, &tree_path, 1, &Silent).unwrap();
    }
    let tree = StoredTree::open(&tree_path).unwrap();
    let spool = Mutex::new(Spool::open(&directory.join("spool")).unwrap());
    if let Some(left) = bytes {
        link.reader = Box::new(Fuse { reader: link.reader, left, file: directory.join("break") });
    }
    let base = LocalBase { tree: &tree, device: disk.device() };
    let mut replica = Served { disk: &disk, directory, base, spool };
    match serve_session(link, &Arc::default(), &mut replica) {
        Ok(report) => format!("{report:?}"),
        Err(error) => error.to_string(),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [image, directory, rest @ ..] = arguments.as_slice() else { return ExitCode::from(2) };
    let link = stdio_link(Limits::default()).unwrap();
    let bytes = rest.first().map(|bytes| bytes.parse().unwrap());
    let ended = serve(link, Path::new(image), Path::new(directory), bytes);
    eprintln!("{ended}");
    ExitCode::SUCCESS
}
