//! Writing a signature while a disk is read.

use super::{SignatureHeader, Uniform};
use crate::layout::{PAGE_MAGIC, PAGE_VALUES_MAX, RawPage, RawSignatureEnd, SIGNATURE_END_MAGIC, page_kind};
use crate::seal::Sealed;
use crate::{Coverage, FileKind, FormatError};
use failback_hashtree::{ChainingValue, Frontier, LeafHasher, Node, Root, RootBuilder};
use failback_units::{BlockCount, BlockIndex};
use std::io::{self, Write};
use zerocopy::IntoBytes;

const PAGE_VALUES: usize = PAGE_VALUES_MAX as usize;

/// Writes a signature from left to right and computes the root on the way.
#[derive(Debug)]
pub struct SignatureWriter<W> {
    out: W,
    key: [u8; 32],
    coverage: Coverage,
    written: u64,
    pages: u64,
    root: RootBuilder,
    hasher: LeafHasher,
    pending: Pending,
    /// The first block that `pending` describes.
    first: BlockIndex,
}

/// The page that is being filled.
#[derive(Debug)]
enum Pending {
    Values(Vec<ChainingValue>),
    Uniform(Uniform, Frontier),
}

impl<W: Write> SignatureWriter<W> {
    /// Begins a signature by writing its header.
    ///
    /// # Errors
    ///
    /// What the output said.
    pub fn new(mut out: W, header: &SignatureHeader) -> Result<Self, FormatError> {
        let (raw, identity) = header.to_bytes();
        out.write_all(raw.as_bytes()).and_then(|()| out.write_all(&identity)).map_err(failed)?;
        Ok(Self {
            out,
            key: raw.hash,
            coverage: header.coverage,
            written: (size_of_val(&raw) + identity.len()) as u64,
            pages: 0,
            root: RootBuilder::new(header.shape),
            hasher: LeafHasher::new(),
            pending: Pending::Values(Vec::new()),
            first: BlockIndex::ZERO,
        })
    }

    /// Adds the values of the next blocks; `above` is the one node that covers just these, if its value is known already.
    ///
    /// # Errors
    ///
    /// What the output said.
    pub fn blocks(
        &mut self,
        mut values: &[ChainingValue],
        above: Option<(Node, ChainingValue)>,
    ) -> Result<(), FormatError> {
        match above {
            Some((node, value)) => self.root.push(node, value),
            None => self.root.push_leaves(&mut self.hasher, values),
        }
        if matches!(self.pending, Pending::Uniform(..)) {
            self.end_page()?;
        }
        while let Pending::Values(pending) = &mut self.pending
            && !values.is_empty()
        {
            let (now, rest) = values.split_at(values.len().min(PAGE_VALUES - pending.len()));
            pending.extend_from_slice(now);
            values = rest;
            if pending.len() == PAGE_VALUES {
                self.end_page()?;
            }
        }
        Ok(())
    }

    /// Adds a node below which all is zero, or free and counted as zero.
    ///
    /// # Errors
    ///
    /// What the output said.
    ///
    /// # Panics
    ///
    /// When blocks are called free though the whole of the disk counts: every reader would refuse that.
    pub fn uniform(&mut self, content: Uniform, node: Node, value: ChainingValue) -> Result<(), FormatError> {
        assert!(content == Uniform::Zero || self.coverage == Coverage::Used, "no block is free where all count");
        self.root.push(node, value);
        if !matches!(&self.pending, Pending::Uniform(pending, _) if *pending == content) {
            self.end_page()?;
            self.pending = Pending::Uniform(content, Frontier::new(self.root.shape().top_level()));
        }
        if let Pending::Uniform(_, nodes) = &mut self.pending {
            nodes.push(node, value);
        }
        Ok(())
    }

    /// Writes the trailer, flushes the output and hands it back with the root and the length in bytes.
    ///
    /// # Errors
    ///
    /// What the output said.
    ///
    /// # Panics
    ///
    /// When blocks are missing: the caller did not read the whole disk.
    pub fn finish(mut self) -> Result<(W, Root, u64), FormatError> {
        self.end_page()?;
        let root = self.root.finish().expect("every block of the disk was added");
        let mut end = RawSignatureEnd {
            magic: SIGNATURE_END_MAGIC,
            reserved: [0; 4],
            pages: self.pages.into(),
            root: root.0,
            hash: [0; 32],
        };
        end.seal(Some(&self.key), &[]);
        self.out.write_all(end.as_bytes()).and_then(|()| self.out.flush()).map_err(failed)?;
        Ok((self.out, root, self.written + size_of_val(&end) as u64))
    }

    /// Writes what is pending as a page; nothing if nothing is.
    fn end_page(&mut self) -> Result<(), FormatError> {
        let pending = std::mem::replace(&mut self.pending, Pending::Values(Vec::new()));
        let (kind, blocks, values) = match pending {
            Pending::Values(values) => (page_kind::VALUES, values.len() as u64, values),
            Pending::Uniform(content, mut nodes) => {
                let blocks = nodes.nodes().iter().map(|(node, _)| node.count().get()).sum();
                (content.code(), blocks, nodes.take().map(|(_, value)| value).collect())
            }
        };
        if blocks == 0 {
            return Ok(());
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.0).collect();
        let mut page = RawPage {
            magic: PAGE_MAGIC,
            kind,
            reserved: [0; 3],
            first: self.first.get().into(),
            blocks: blocks.into(),
            value_count: u32::try_from(values.len()).expect("a page is small").into(),
            reserved2: [0; 4],
            hash: [0; 32],
        };
        page.seal(Some(&self.key), &[&bytes]);
        self.out.write_all(page.as_bytes()).and_then(|()| self.out.write_all(&bytes)).map_err(failed)?;
        self.written += (size_of_val(&page) + bytes.len()) as u64;
        self.pages += 1;
        self.first = self.first.checked_add(BlockCount::new(blocks)).expect("blocks of a disk have numbers");
        Ok(())
    }
}

fn failed(error: io::Error) -> FormatError {
    FormatError::Write(FileKind::Signature, error)
}
