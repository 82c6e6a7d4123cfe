//! `inspect`: what a signature or a delta says, and whether it is true of itself.

use crate::{JobError, Progress};
use failback_delta::{
    DeltaHeader, DeltaReader, FileKind, Item, Proof, SignatureHeader, SignatureReader, Trailer, identify,
};
use failback_hashtree::{LeafHasher, Root};
use failback_units::BlockCount;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// What was found in a file. All of it was checked: hashes, limits, order, payloads, and that the roots follow from the values.
#[derive(Clone, Debug)]
pub enum Facts {
    /// It is a signature.
    Signature(SignatureFacts),
    /// It is a delta.
    Delta(Box<DeltaFacts>),
}

/// What a signature says.
#[derive(Clone, Debug)]
pub struct SignatureFacts {
    /// Its header.
    pub header: SignatureHeader,
    /// The root, recomputed from its values.
    pub root: Root,
    /// The length of the file in bytes.
    pub file_bytes: u64,
}

/// What a delta says.
#[derive(Clone, Debug)]
pub struct DeltaFacts {
    /// Its header.
    pub header: DeltaHeader,
    /// Its trailer; both roots were recomputed from its values.
    pub trailer: Trailer,
    /// Bytes of free space of the result.
    pub bytes_free: u64,
    /// The length of the file in bytes.
    pub file_bytes: u64,
}

/// Reads a signature or a delta to its end and checks everything in it that can be checked without a disk.
///
/// # Errors
///
/// When it is neither, or damaged, or cannot be read.
pub fn inspect<R: Read + Seek>(mut file: R, path: &Path, progress: &dyn Progress) -> Result<Facts, JobError> {
    let failed = |source| JobError::File { action: "read", path: path.to_owned(), source };
    let file_bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let mut start = Vec::new();
    file.by_ref().take(8).read_to_end(&mut start).map_err(failed)?;
    file.rewind().map_err(failed)?;
    progress.phase("inspecting", Some(file_bytes));
    match identify(&start) {
        Some(FileKind::Signature) => {
            let mut reader = SignatureReader::open(file)?;
            while reader.next_run(BlockCount::new(u64::MAX))?.is_some() {
                stop_if_asked(progress)?;
            }
            let facts = SignatureFacts { header: reader.header().clone(), root: reader.root(), file_bytes };
            Ok(Facts::Signature(facts))
        }
        Some(FileKind::Delta) => inspect_delta(file, file_bytes, progress).map(Box::new).map(Facts::Delta),
        None => Err(JobError::Refused(format!(
            "{} is neither a signature nor a delta of failback: check the file name",
            path.display()
        ))),
    }
}

fn inspect_delta<R: Read>(file: R, file_bytes: u64, progress: &dyn Progress) -> Result<DeltaFacts, JobError> {
    let mut reader = DeltaReader::open(file)?;
    let header = reader.header().clone();
    let mut proof = Proof::new(&header.shapes);
    let (mut hasher, mut data, mut position) = (LeafHasher::new(), Vec::new(), 0);
    loop {
        match reader.next_item()? {
            Item::Frame(frame) => {
                proof.absorb(&frame.table);
                data.resize(frame.table.data_len(), 0);
                frame.open(&header.shapes, &mut hasher, &mut data)?;
            }
            Item::Trailer(trailer) => {
                proof.finish(&header, &trailer)?;
                let bytes_free = reader.free().bytes(header.shapes.result).get();
                return Ok(DeltaFacts { header, trailer, bytes_free, file_bytes });
            }
        }
        progress.advance(reader.position() - position);
        position = reader.position();
        stop_if_asked(progress)?;
    }
}

fn stop_if_asked(progress: &dyn Progress) -> Result<(), JobError> {
    if progress.stop_requested() { Err(JobError::Interrupted("nothing was written".into())) } else { Ok(()) }
}
