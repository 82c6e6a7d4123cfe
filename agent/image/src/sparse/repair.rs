//! Opening for writing: what a crash left behind is put right, and anything worse is refused.

use super::entries::{ENTRIES, Location, SparseExtent};
use super::write::Pieces;
use crate::extent::ExtentError;
use crate::findings::{Findings, Severity};
use crate::layout::{SECTOR, TABLE_BYTES, TABLE_ENTRIES};

impl SparseExtent {
    /// Makes an extent ready to be written: looks at all tables, and makes both alike where the extent was not closed cleanly.
    pub(crate) fn prepare(&self) -> Result<(), ExtentError> {
        let mut findings = Findings::default();
        self.check(&mut findings)?;
        if let Some(worst) = findings.first(Severity::Error) {
            return Err(ExtentError::Damaged(format!(
                "{}; it is not written to: `failback vmdk check` tells more, and a copy of the file is needed",
                worst.sentence
            )));
        }
        if self.is_unclean() {
            self.make_alike()?;
        }
        Ok(())
    }

    /// An entry that only one of the two tables has leads to a grain that was durable before: it is taken. The mark of the
    /// header stays until the extent is closed.
    fn make_alike(&self) -> Result<(), ExtentError> {
        *self.marked.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = true;
        self.make_directories_alike()?;
        let mut table = 0;
        while table < self.shape.tables {
            let tables = self.tables_from(table)?;
            let count = (tables.primary.len() / ENTRIES) as u64;
            if !tables.redundant.is_empty() && tables.primary != tables.redundant {
                let merged: Vec<u32> = tables
                    .primary
                    .iter()
                    .zip(&tables.redundant)
                    .zip(tables.first * u64::from(TABLE_ENTRIES)..)
                    .map(|((one, other), grain)| if *one == 0 && self.can_be(grain, *other) { *other } else { *one })
                    .collect();
                self.write_both(table, &merged)?;
            }
            table += count;
        }
        self.lock().forget_tables();
        Ok(())
    }

    fn can_be(&self, grain: u64, entry: u32) -> bool {
        grain < self.shape.grains && self.checked(grain, entry).is_ok_and(|location| location != Location::Absent)
    }

    /// Writes tables that lie behind each other in both places, first the redundant ones.
    fn write_both(&self, first: u64, entries: &[u32]) -> Result<(), ExtentError> {
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        let (primary, redundant) = {
            let state = self.lock();
            let index = usize::try_from(first).unwrap_or(usize::MAX);
            (state.sector_of(first), state.redundant.get(index).copied().unwrap_or(0))
        };
        for sector in [redundant, primary] {
            if sector != 0 {
                let mut pieces = Pieces::default();
                pieces.add(u64::from(sector) * SECTOR, &bytes);
                self.device.write_all(pieces)?;
                self.device.flush()?;
            }
        }
        Ok(())
    }

    /// A table that only one directory knows is new and empty, or the power went off before both knew it. If it is the
    /// redundant one, it becomes unknown again; if it is the other, that cannot be, since it comes last.
    fn make_directories_alike(&self) -> Result<(), ExtentError> {
        let Some(directory) = self.shape.redundant else { return Ok(()) };
        let mut pieces = Pieces::default();
        {
            let mut state = self.lock();
            let state = &mut *state;
            for (index, (one, other)) in (0_u64..).zip(state.directory.iter().zip(state.redundant.iter_mut())) {
                if *one == 0 && *other != 0 {
                    *other = 0;
                    pieces.add(directory + index * 4, &[0; 4]);
                } else if *one != 0 && *other == 0 {
                    let what = format!("grain table {index} has no redundant twin");
                    return Err(self.damaged(&what));
                }
            }
        }
        if !pieces.is_empty() {
            self.device.write_all(pieces)?;
            self.device.flush()?;
        }
        Ok(())
    }
}

const _: () = assert!(TABLE_BYTES == 4 * ENTRIES as u64);
