//! Numbers and bytes for the steps of a hostile side, out of the input.

/// Where something ends, changes its sign or is cut.
const INTERESTING: [u64; 16] = [
    0,
    1,
    2,
    3,
    8,
    255,
    4095,
    4096,
    65_536,
    65_537,
    u32::MAX as u64,
    1 << 32,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// An input that is used up from its beginning. Behind its end everything is 0.
pub(super) struct Steps {
    bytes: Vec<u8>,
    at: usize,
}

impl Steps {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0 }
    }

    pub(super) fn is_over(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    /// A number below `limit`, which is at most 256.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// Any number: one where it hurts, a small one, or all of its bytes.
    pub(super) fn number(&mut self) -> u64 {
        match self.byte() {
            which @ 0..64 => INTERESTING[usize::from(which) % INTERESTING.len()],
            64..192 => self.byte().into(),
            _ => {
                let mut bytes = [0; 8];
                bytes.fill_with(|| self.byte());
                u64::from_le_bytes(bytes)
            }
        }
    }

    /// The next bytes, at most 255 and as many as there are.
    pub(super) fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte());
        let start = self.at.min(self.bytes.len());
        let end = (start + len).min(self.bytes.len());
        self.at = end.max(self.at);
        self.bytes[start..end].to_vec()
    }

    /// Sets some bytes of `of` to others, if there is one.
    pub(super) fn alter(&mut self, of: &mut [u8]) {
        for _ in 0..=self.below(3) {
            let (at, value) = (u16::from_le_bytes([self.byte(), self.byte()]), self.byte());
            if !of.is_empty() {
                of[usize::from(at) % of.len()] = value;
            }
        }
    }
}
