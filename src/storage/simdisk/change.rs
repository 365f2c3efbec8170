//! What one write does to the bytes of a file, and what a power cut leaves of it.

/// Bytes that reach the platter together.
const SECTOR: usize = 512;

/// One change of a file.
#[derive(Clone)]
pub(super) enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// The next number of a seeded row.
pub(in super::super) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Change {
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Write(offset, data) => put(bytes, *offset, data),
        }
    }

    /// What a cut leaves of it.
    pub(super) fn land(&self, bytes: &mut Vec<u8>, chance: &mut u64) {
        match (splitmix(chance) % 4, self) {
            (0, _) => {}
            (1, Self::Write(offset, data)) => {
                // Torn: some sectors of it, in no order.
                let mut at = 0;
                while at < data.len() {
                    let end = ((offset + at) / SECTOR * SECTOR + SECTOR - offset).min(data.len());
                    if splitmix(chance).is_multiple_of(2) {
                        put(bytes, offset + at, &data[at..end]);
                    }
                    at = end;
                }
            }
            _ => self.apply(bytes),
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}
