//! Reading a signature from left to right, in memory for one page.

use super::{SignatureHeader, Uniform};
use crate::layout::{PAGE_MAGIC, PAGE_VALUES_MAX, RawPage, RawSignatureEnd, SIGNATURE_END_MAGIC, page_kind};
use crate::seal::{Input, Sealed, reserved_is_zero};
use crate::{Coverage, FileKind, FormatError};
use failback_hashtree::{ChainingValue, Cover, LeafHasher, Root, RootBuilder};
use failback_units::{BlockCount, BlockIndex, BlockRange};
use std::io::{Read, Seek, SeekFrom};

const KIND: FileKind = FileKind::Signature;

/// Reads a signature. Every page is checked against its hash before anything of it is handed out, and the root against
/// all values once they have passed.
#[derive(Debug)]
pub struct SignatureReader<R> {
    input: Input<R>,
    header: SignatureHeader,
    key: [u8; 32],
    end: RawSignatureEnd,
    pages: u64,
    root: RootBuilder,
    hasher: LeafHasher,
    /// The blocks of the page at hand that were not yet handed out.
    rest: BlockRange,
    content: PageContent,
}

#[derive(Debug)]
enum PageContent {
    Values { values: Vec<ChainingValue>, used: usize },
    Uniform(Uniform),
}

/// Neighbouring blocks of the same sort.
#[derive(Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// Which blocks.
    pub blocks: BlockRange,
    /// What is known of them.
    pub content: RunContent<'a>,
}

/// What a signature knows of a run of blocks.
#[derive(Debug, PartialEq, Eq)]
pub enum RunContent<'a> {
    /// The value of each.
    Values(&'a [ChainingValue]),
    /// That they are all of one sort.
    Uniform(Uniform),
}

impl<R: Read + Seek> SignatureReader<R> {
    /// Reads the header and the trailer.
    ///
    /// # Errors
    ///
    /// When the file is no signature, of another version, cut off, or damaged in one of the two.
    pub fn open(inner: R) -> Result<Self, FormatError> {
        let mut input = Input::new(inner, KIND);
        let (header, key) = SignatureHeader::read(&mut input)?;
        let seek = |input: &mut Input<R>, to| input.inner.seek(to).map_err(|error| FormatError::Read(KIND, error));
        let behind_header = seek(&mut input, SeekFrom::Current(0))?;
        let end_len = size_of::<RawSignatureEnd>() as u64;
        let file_len = seek(&mut input, SeekFrom::End(0))?;
        if file_len < behind_header + end_len {
            return Err(FormatError::Truncated(KIND, "the trailer"));
        }
        seek(&mut input, SeekFrom::Start(file_len - end_len))?;
        let end: RawSignatureEnd = input.structure("the trailer")?;
        if end.magic != SIGNATURE_END_MAGIC {
            return Err(FormatError::Truncated(KIND, "the values"));
        }
        if !end.is_intact(Some(&key), &[]) {
            return Err(FormatError::damaged(KIND, "trailer", "its hash does not fit"));
        }
        reserved_is_zero(KIND, "trailer", &[&end.reserved])?;
        seek(&mut input, SeekFrom::Start(behind_header))?;
        input.position = behind_header;
        let root = RootBuilder::new(header.shape);
        Ok(Self {
            input,
            header,
            key,
            end,
            pages: 0,
            root,
            hasher: LeafHasher::new(),
            rest: BlockRange::default(),
            content: PageContent::Uniform(Uniform::Zero),
        })
    }
}

impl<R: Read> SignatureReader<R> {
    /// What the signature says of the disk.
    #[must_use]
    pub const fn header(&self) -> &SignatureHeader {
        &self.header
    }

    /// The root that the trailer states. It is proven only once [`next_run`](Self::next_run) has returned `None`.
    #[must_use]
    pub const fn root(&self) -> Root {
        Root(self.end.root)
    }

    /// The next blocks, at most `limit` (1 or more) of them; `None` at the end, when the root has been recomputed
    /// from the values and found to be the stated one.
    ///
    /// # Errors
    ///
    /// When the file is cut off or damaged.
    pub fn next_run(&mut self, limit: BlockCount) -> Result<Option<Run<'_>>, FormatError> {
        if self.rest.is_empty() {
            if self.root.next() == self.header.shape.blocks().as_end() {
                return self.finish().map(|()| None);
            }
            self.next_page()?;
        }
        let count = limit.min(self.rest.count());
        let blocks = BlockRange::new(self.rest.start(), count).unwrap_or_default();
        self.rest = BlockRange::between(blocks.end(), self.rest.end()).unwrap_or_default();
        let content = match &mut self.content {
            PageContent::Uniform(content) => RunContent::Uniform(*content),
            PageContent::Values { values, used } => {
                let start = *used;
                *used += usize::try_from(count.get()).expect("a page fits in memory");
                RunContent::Values(&values[start..*used])
            }
        };
        Ok(Some(Run { blocks, content }))
    }

    fn next_page(&mut self) -> Result<(), FormatError> {
        let part = format!("page {}", self.pages);
        let damaged = |why| FormatError::damaged(KIND, part.as_str(), why);
        let page: RawPage = self.input.structure("a page")?;
        if page.magic != PAGE_MAGIC {
            return Err(damaged("it does not begin as a page does"));
        }
        let shape = self.header.shape;
        let (first, count) = (BlockIndex::new(page.first.get()), BlockCount::new(page.blocks.get()));
        let blocks = BlockRange::new(first, count).filter(|blocks| blocks.end() <= shape.blocks().as_end());
        let Some(blocks) = blocks.filter(|blocks| blocks.start() == self.root.next() && !blocks.is_empty()) else {
            return Err(damaged("its blocks do not follow those before it"));
        };
        let cover = Cover::new(blocks, shape.top_level());
        let uniform = match page.kind {
            page_kind::VALUES => None,
            page_kind::ZERO => Some(Uniform::Zero),
            page_kind::FREE if self.header.coverage == Coverage::Used => Some(Uniform::Free),
            page_kind::FREE => return Err(damaged("blocks are called free where all of the disk counts")),
            value => {
                return Err(FormatError::UnknownFeature { kind: KIND, what: "page kind", value: u64::from(value) });
            }
        };
        let expected = if uniform.is_some() { cover.len() } else { count.get() };
        if u64::from(page.value_count.get()) != expected || page.value_count.get() > PAGE_VALUES_MAX {
            return Err(damaged("the number of its values is not that of its blocks"));
        }
        let bytes = self.input.bytes(32 * page.value_count.get() as usize, "a page")?;
        if !page.is_intact(Some(&self.key), &[&bytes]) {
            return Err(damaged("its hash does not fit"));
        }
        reserved_is_zero(KIND, &part, &[&page.reserved, &page.reserved2])?;
        let values: Vec<_> = bytes.as_chunks().0.iter().map(|value| ChainingValue(*value)).collect();
        self.content = if let Some(uniform) = uniform {
            for (node, value) in cover.zip(values) {
                self.root.push(node, value);
            }
            PageContent::Uniform(uniform)
        } else {
            self.root.push_leaves(&mut self.hasher, &values);
            PageContent::Values { values, used: 0 }
        };
        self.rest = blocks;
        self.pages += 1;
        Ok(())
    }

    /// Checks what can be checked only at the end.
    fn finish(&mut self) -> Result<(), FormatError> {
        let end: RawSignatureEnd = self.input.structure("the trailer")?;
        let damaged = |why| FormatError::damaged(KIND, "trailer", why);
        if end.hash != self.end.hash || end.pages.get() != self.pages {
            return Err(damaged("it does not follow the last page"));
        }
        if self.root.finish() != Some(self.root()) {
            return Err(damaged("the root does not follow from the values"));
        }
        self.input.end()
    }
}
