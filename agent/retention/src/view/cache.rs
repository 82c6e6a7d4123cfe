//! Content of links that was read lately.

use crate::{LinkError, LinkReader};
use failback_delta::Pieces;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Pieces that are held: 32 MiB of content.
const PIECES_HELD: usize = 512;

/// Frames of which it is remembered that they are whole, and how they are cut: at most 8 MiB.
const FRAMES_KNOWN: usize = 32 << 10;

/// A piece of a frame of a link.
type Place = (u32, u32, usize);

/// Pieces of links, unpacked, and how the frames are cut that were found to be whole.
#[derive(Default)]
pub(super) struct Cache {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Frames are checked once: then their pieces are read alone.
    checked: HashMap<(u32, u32), Arc<Pieces>>,
    pieces: HashMap<Place, (Arc<[u8]>, u64)>,
    /// Counts the uses, to tell which piece was used longest ago.
    clock: u64,
}

impl Cache {
    /// Copies content of a frame from byte `at` on.
    pub(super) fn copy(
        &self,
        links: &[LinkReader],
        (link, frame): (u32, u32),
        mut at: usize,
        mut into: &mut [u8],
    ) -> Result<(), LinkError> {
        let reader = &links[link as usize];
        let pieces = self.checked(reader, link, frame)?;
        while !into.is_empty() {
            let number = pieces.holding(at);
            if number >= pieces.count() {
                return Err(reader.does_not_fit_its_index());
            }
            let content = self.piece(reader, (link, frame, number), &pieces)?;
            let from = at - pieces.content(number).start;
            if from >= content.len() {
                return Err(reader.does_not_fit_its_index());
            }
            let count = into.len().min(content.len() - from);
            let (now, later) = into.split_at_mut(count);
            now.copy_from_slice(&content[from..from + count]);
            (at, into) = (at + count, later);
        }
        Ok(())
    }

    fn checked(&self, reader: &LinkReader, link: u32, frame: u32) -> Result<Arc<Pieces>, LinkError> {
        if let Some(pieces) = self.lock().checked.get(&(link, frame)) {
            return Ok(Arc::clone(pieces));
        }
        let pieces = Arc::new(reader.check_frame(frame)?);
        let mut state = self.lock();
        if state.checked.len() >= FRAMES_KNOWN {
            // They are checked again when they are next used.
            state.checked.clear();
        }
        state.checked.insert((link, frame), Arc::clone(&pieces));
        Ok(pieces)
    }

    fn piece(&self, reader: &LinkReader, place: Place, pieces: &Pieces) -> Result<Arc<[u8]>, LinkError> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        if let Some((content, used)) = state.pieces.get_mut(&place) {
            *used = now;
            return Ok(Arc::clone(content));
        }
        // Others may read meanwhile.
        drop(state);
        let (_, frame, number) = place;
        let content = reader.piece(frame, pieces, number)?;
        let mut state = self.lock();
        if state.pieces.len() >= PIECES_HELD
            && let Some(oldest) = state.pieces.iter().min_by_key(|(_, (_, used))| *used).map(|(place, _)| *place)
        {
            state.pieces.remove(&oldest);
        }
        state.pieces.insert(place, (Arc::clone(&content), now));
        Ok(content)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
