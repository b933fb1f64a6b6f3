//! Where a batch is, and the LSN that says so.

use crate::store::{FIRST_LSN, Lsn};

/// Batches of one frame at most.
pub const PLACES: usize = 1 << SHIFT;
const SHIFT: u32 = 10;
/// LSN of the tail of a shard that nothing was ever appended to.
pub const NOTHING: Lsn = FIRST_LSN - 1;

/// LSN of the batch at `index` in the frame with this sequence in its lane.
///
/// Sequences start at 1, so nothing is below [`FIRST_LSN`]; they would have to pass 8 * 10^15 before an LSN needed 64 bits
/// (what is beyond that is cut there, and no stream gets there).
pub fn lsn(seq: u64, index: usize) -> Lsn {
    let seq = seq.min((i64::MAX as u64 - NOTHING) >> SHIFT);
    NOTHING + (seq << SHIFT) + (index as u64).min(PLACES as u64 - 1)
}

/// Sequence of the frame an LSN lies in; 0 below the first one.
pub fn seq(lsn: Lsn) -> u64 {
    lsn.saturating_sub(NOTHING) >> SHIFT
}

/// Place in that frame.
pub fn index(lsn: Lsn) -> usize {
    (lsn.saturating_sub(NOTHING) & (PLACES as u64 - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_names_its_frame_and_grows_with_it() {
        for (at, place) in [(1, 0), (1, 1023), (7, 5), (u64::from(u32::MAX), 9)] {
            let lsn = lsn(at, place);
            assert_eq!((seq(lsn), index(lsn)), (at, place));
            assert_eq!(lsn.to_string().len(), 19);
        }
        assert!(lsn(1, 0) >= FIRST_LSN && lsn(1, 1023) < lsn(2, 0));
        assert_eq!((seq(NOTHING), seq(0)), (0, 0));
    }

    #[test]
    fn no_lsn_has_the_64th_bit_or_a_20th_digit() {
        let last = lsn(u64::MAX, PLACES - 1);
        assert!(last < 1 << 63 && last.to_string().len() == 19);
    }
}
