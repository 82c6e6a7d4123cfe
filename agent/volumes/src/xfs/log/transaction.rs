//! Transactions: regions of bytes, spread over records and mixed with those of others, that count when they are committed.
//!
//! A transaction is a header and items; an item is a description and as many further regions as the description says. Only
//! buffers matter here, and of those only the ones that free space may be kept in. All others are followed, since regions
//! must be counted, and forgotten.

use super::patches::Patches;
use super::record::Record;
use crate::Unclear;
use crate::xfs::layout::{
    BITMAP_WORDS_MAX, CHUNK, REGIONS_MAX, RawBuffer, RawOperation, TRANSACTION_HEADER, TRANSACTION_MAGIC, buffer,
    client, item, operation,
};
use crate::xfs::superblock::Superblock;
use std::collections::HashMap;
use zerocopy::FromBytes;

/// Transactions that may be under way at a time. A kernel has a handful; those of before 2011 had one for each thread.
const OPEN_MAX: usize = 1024;

/// The longest description of a buffer, in bytes.
const DESCRIPTION_MAX: usize = size_of::<RawBuffer>() + BITMAP_WORDS_MAX * 4;

/// Transactions under way, and what the committed ones wrote.
pub(super) struct Transactions {
    open: HashMap<u32, Open>,
    patches: Patches,
    committed: u64,
    /// Bytes that are kept for transactions under way.
    pending: usize,
}

/// A transaction under way.
struct Open {
    /// The record in which it began.
    lsn: u64,
    header: Vec<u8>,
    item: Option<Item>,
    buffers: Vec<Logged>,
    /// Bytes kept for it.
    kept: usize,
}

/// An item of which regions are still expected or may be continued.
struct Item {
    is_buffer: bool,
    /// How many regions it has, and how many began.
    total: u16,
    begun: u16,
    description: Vec<u8>,
    /// Whether its bytes are wanted, once the description is whole.
    wanted: Option<bool>,
    /// The regions after the description, if they are wanted.
    regions: Vec<Vec<u8>>,
}

/// A buffer as a transaction wrote it.
pub(super) struct Logged {
    /// In basic blocks.
    pub(super) address: u64,
    /// Whether everything before this must be forgotten.
    pub(super) cancels: bool,
    /// The number of each chunk in the buffer, with its bytes.
    pub(super) chunks: Vec<(u16, [u8; CHUNK])>,
}

fn damaged(what: &str) -> Unclear {
    Unclear::because(format!("it was not unmounted, and its log is damaged: {what}"))
}

impl Transactions {
    /// Before the first record.
    pub(super) fn new(superblock: &Superblock) -> Self {
        Self { open: HashMap::new(), patches: Patches::new(superblock), committed: 0, pending: 0 }
    }

    /// How many were committed.
    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    /// What the committed ones wrote. What was not committed never happened.
    pub(super) fn finish(self) -> Patches {
        self.patches
    }

    /// Goes on with a record.
    pub(super) fn add(&mut self, record: &Record) -> Result<(), Unclear> {
        let mut rest = &record.body[..];
        for _ in 0..record.operations {
            if rest.is_empty() {
                break;
            }
            let Ok((raw, after)) = RawOperation::ref_from_prefix(rest) else {
                return Err(damaged("an operation is cut off"));
            };
            if raw.client != client::TRANSACTION && raw.client != client::LOG {
                return Err(damaged("an operation is nobody's"));
            }
            let len = usize::try_from(raw.len.get()).ok();
            let Some((bytes, after)) = len.and_then(|len| after.split_at_checked(len)) else {
                return Err(damaged("an operation is cut off"));
            };
            rest = after;
            self.operation(raw, bytes, record.lsn)?;
        }
        Ok(())
    }

    fn operation(&mut self, raw: &RawOperation, bytes: &[u8], lsn: u64) -> Result<(), Unclear> {
        let number = raw.transaction.get();
        let Some(open) = self.open.get_mut(&number) else {
            // Others began before the first record that is needed: they are on the disk.
            if raw.flags & operation::START != 0 {
                if self.open.len() >= OPEN_MAX {
                    return Err(damaged("more transactions are under way than there can be"));
                }
                self.open.insert(number, Open::new(lsn));
            }
            return Ok(());
        };
        // The end of a continued region is a continued one, and one that goes on does not say so again.
        let mut flags = raw.flags & !operation::END;
        if flags & operation::CONTINUED != 0 {
            flags &= !operation::CONTINUES;
        }
        let more = match flags {
            0 | operation::CONTINUES => open.begin_region(bytes, &self.patches)?,
            operation::CONTINUED => open.continue_region(bytes)?,
            operation::COMMIT => {
                let Some(open) = self.open.remove(&number) else { return Ok(()) };
                self.pending -= open.kept;
                self.committed += 1;
                return self.patches.commit(open.lsn, open.into_buffers(&self.patches)?);
            }
            _ => return Err(damaged("an operation is of no known kind")),
        };
        open.kept += more;
        self.pending += more;
        self.patches.check_memory(self.pending)
    }
}

impl Open {
    fn new(lsn: u64) -> Self {
        Self { lsn, header: Vec::new(), item: None, buffers: Vec::new(), kept: 0 }
    }

    /// Takes a new region; returns how many bytes are kept for it.
    fn begin_region(&mut self, bytes: &[u8], patches: &Patches) -> Result<usize, Unclear> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.header.len() < TRANSACTION_HEADER {
            // The header comes first, whole or split in two, and begins with its mark.
            let magic = bytes.first_chunk().map(|magic| u32::from_le_bytes(*magic));
            if !self.header.is_empty() || magic != Some(TRANSACTION_MAGIC) || bytes.len() > TRANSACTION_HEADER {
                return Err(damaged("a transaction has no header"));
            }
            self.header.extend_from_slice(bytes);
            return Ok(0);
        }
        if self.item.as_ref().is_some_and(|item| item.begun == item.total) {
            self.finish_item(patches)?;
        }
        match &mut self.item {
            None => {
                self.item = Some(Item::new(bytes)?);
                Ok(size_of::<Logged>())
            }
            Some(item) => item.begin_region(bytes, patches),
        }
    }

    /// Goes on with the last region; returns how many bytes are kept of it.
    fn continue_region(&mut self, bytes: &[u8]) -> Result<usize, Unclear> {
        if self.header.len() < TRANSACTION_HEADER {
            self.header.extend_from_slice(bytes);
            let is_whole = self.header.len() == TRANSACTION_HEADER;
            return if is_whole { Ok(0) } else { Err(damaged("a transaction has no header")) };
        }
        match &mut self.item {
            Some(item) => item.continue_region(bytes),
            None => Err(damaged("a region goes on that never began")),
        }
    }

    fn finish_item(&mut self, patches: &Patches) -> Result<(), Unclear> {
        if let Some(item) = self.item.take() {
            if item.begun != item.total {
                return Err(damaged("an item is cut off"));
            }
            self.buffers.extend(item.finish(patches)?);
        }
        Ok(())
    }

    fn into_buffers(mut self, patches: &Patches) -> Result<Vec<Logged>, Unclear> {
        self.finish_item(patches)?;
        Ok(self.buffers)
    }
}

impl Item {
    /// An item that begins with these bytes: its kind, and how many regions it has.
    fn new(bytes: &[u8]) -> Result<Self, Unclear> {
        let [a, b, c, d, ..] = bytes else { return Err(damaged("an item has no description")) };
        let (kind, total) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
        if !item::KNOWN.contains(&kind) {
            return Err(Unclear::because(format!(
                "it was not unmounted, and its log has an item that is not understood ({kind:#x})"
            )));
        }
        if total == 0 || total > REGIONS_MAX {
            return Err(damaged("an item has too many regions"));
        }
        let mut new = Self {
            is_buffer: kind == item::BUFFER,
            total,
            begun: 1,
            description: Vec::new(),
            wanted: None,
            regions: Vec::new(),
        };
        new.describe(bytes)?;
        Ok(new)
    }

    /// Goes on with the description.
    fn describe(&mut self, bytes: &[u8]) -> Result<(), Unclear> {
        if !self.is_buffer {
            return Ok(());
        }
        if self.description.len() + bytes.len() > DESCRIPTION_MAX {
            return Err(damaged("a buffer's description is too long"));
        }
        self.description.extend_from_slice(bytes);
        Ok(())
    }

    /// Whether its bytes are wanted: the description is whole when the next region begins.
    fn is_wanted(&mut self, patches: &Patches) -> Result<bool, Unclear> {
        if let Some(wanted) = self.wanted {
            return Ok(wanted);
        }
        let wanted = self.is_buffer && patches.wants(self.raw()?.0);
        self.wanted = Some(wanted);
        Ok(wanted)
    }

    fn raw(&self) -> Result<(&RawBuffer, &[u8]), Unclear> {
        RawBuffer::ref_from_prefix(&self.description).map_err(|_| damaged("a buffer's description is cut off"))
    }

    fn begin_region(&mut self, bytes: &[u8], patches: &Patches) -> Result<usize, Unclear> {
        self.begun += 1;
        if !self.is_wanted(patches)? {
            return Ok(0);
        }
        self.regions.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn continue_region(&mut self, bytes: &[u8]) -> Result<usize, Unclear> {
        if self.begun == 1 {
            self.describe(bytes)?;
            return Ok(0);
        }
        let Some(region) = self.regions.last_mut() else { return Ok(0) };
        region.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// The buffer, if it is one that is wanted.
    fn finish(mut self, patches: &Patches) -> Result<Option<Logged>, Unclear> {
        if !self.is_wanted(patches)? {
            return Ok(None);
        }
        let (raw, bitmap) = self.raw()?;
        let (address, len) = (raw.address.get(), raw.len.get());
        let cancels = raw.flags.get() & buffer::CANCEL != 0;
        let words = usize::try_from(raw.words.get()).ok().filter(|words| *words <= BITMAP_WORDS_MAX);
        let Some(bitmap) = words.and_then(|words| bitmap.get(..words * 4)) else {
            return Err(damaged("a buffer's description is cut off"));
        };
        let mut chunks = Vec::new();
        if !cancels {
            let bits = (0..u16::try_from(bitmap.len() * 8).unwrap_or(0))
                .filter(|bit| bitmap[usize::from(bit / 8)] >> (bit % 8) & 1 == 1);
            let pieces = self.regions.iter().flat_map(|region| region.chunks(CHUNK));
            let mut pieces = pieces.map(<[u8; CHUNK]>::try_from);
            for bit in bits {
                let Some(Ok(bytes)) = pieces.next() else { return Err(damaged("a buffer's bytes are cut off")) };
                if (usize::from(bit) + 1) * CHUNK > usize::from(len) * super::ring::BLOCK_LEN {
                    return Err(damaged("a buffer's bytes lie behind its end"));
                }
                chunks.push((bit, bytes));
            }
            if pieces.next().is_some() {
                return Err(damaged("a buffer has more bytes than it says"));
            }
        }
        Ok(Some(Logged { address, cancels, chunks }))
    }
}
