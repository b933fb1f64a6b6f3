//! Which records of one delivered batch are not acknowledged yet.
//!
//! Ranges while they are few, one bit per record once that is smaller: acknowledging every second record of a
//! large batch costs an eighth of a byte per record, leaving one open costs eight bytes.

use std::ops::Range;

/// Bytes of a range, in records' worth of bits: the point where bits take less room than ranges.
const RECORDS_PER_RANGE: u32 = 64;

/// The open records of a batch of which some are acknowledged. The batch's size is the owner's to remember.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OpenRecords {
    /// Sorted, neither empty, overlapping nor touching; ends are exclusive.
    Ranges(Vec<(u32, u32)>),
    /// Bit `i % 64` of word `i / 64` is set while record `i` is open.
    Bits(Box<[u64]>),
}

impl OpenRecords {
    /// All records of a batch.
    pub(super) fn all(records: u32) -> Self {
        OpenRecords::Ranges(vec![(0, records)])
    }

    /// Closes one record of a batch of `records`, of which `open` are open now; false if it was closed.
    pub(super) fn close(&mut self, index: u32, records: u32, open: u32) -> bool {
        let closed = match self {
            OpenRecords::Ranges(ranges) => close_in_ranges(ranges, index),
            OpenRecords::Bits(words) => close_in_bits(words, index),
        };
        if closed {
            self.shrink(records, open.saturating_sub(1));
        }
        closed
    }

    /// The open records in order.
    pub(super) fn ranges(&self) -> Vec<Range<u32>> {
        match self {
            OpenRecords::Ranges(ranges) => ranges.iter().map(|&(start, end)| start..end).collect(),
            OpenRecords::Bits(words) => ranges_of(words).into_iter().map(|(start, end)| start..end).collect(),
        }
    }

    /// Takes whichever form is smaller, with a distance between the two thresholds.
    fn shrink(&mut self, records: u32, open: u32) {
        match self {
            OpenRecords::Ranges(ranges)
                if ranges.len() as u64 > u64::from(records / RECORDS_PER_RANGE) + 4 =>
            {
                let mut words = vec![0; (records as usize).div_ceil(64)];
                for &(start, end) in ranges.iter() {
                    for index in start..end {
                        if let Some(word) = words.get_mut(index as usize / 64) {
                            *word |= 1 << (index % 64);
                        }
                    }
                }
                *self = OpenRecords::Bits(words.into_boxed_slice());
            }
            // There cannot be more ranges than open records.
            OpenRecords::Bits(words) if open < records / (2 * RECORDS_PER_RANGE) => {
                *self = OpenRecords::Ranges(ranges_of(words));
            }
            _ => {}
        }
    }
}

fn close_in_ranges(ranges: &mut Vec<(u32, u32)>, index: u32) -> bool {
    let at = ranges.partition_point(|&(_, end)| end <= index);
    let Some(&(start, end)) = ranges.get(at).filter(|(start, _)| *start <= index) else { return false };
    let (before, behind) = ((start, index), (index + 1, end));
    let is_open = |range: &(u32, u32)| range.0 < range.1;
    ranges.splice(at..=at, [before, behind].into_iter().filter(is_open));
    true
}

fn close_in_bits(words: &mut [u64], index: u32) -> bool {
    let bit = 1 << (index % 64);
    let Some(word) = words.get_mut(index as usize / 64) else { return false };
    let open = *word & bit != 0;
    *word &= !bit;
    open
}

fn ranges_of(words: &[u64]) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for (at, &word) in words.iter().enumerate() {
        let mut left = word;
        while left != 0 {
            let start = at as u32 * 64 + left.trailing_zeros();
            let length = (left >> left.trailing_zeros()).trailing_ones();
            left &= left.checked_add(1 << left.trailing_zeros()).unwrap_or(0);
            match ranges.last_mut() {
                Some(last) if last.1 == start => last.1 = start + length,
                _ => ranges.push((start, start + length)),
            }
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_second_record_takes_bits_and_a_few_take_ranges() {
        let records = 100_000;
        let mut open = OpenRecords::all(records);
        let mut left = records;
        for index in (0..records).step_by(2) {
            assert!(open.close(index, records, left));
            left -= 1;
        }
        assert!(matches!(&open, OpenRecords::Bits(words) if words.len() * 8 <= records as usize / 8 + 8));
        for index in (1..records).step_by(2).skip(10) {
            assert!(open.close(index, records, left));
            left -= 1;
        }
        assert!(matches!(&open, OpenRecords::Ranges(ranges) if ranges.len() == 10));
        assert_eq!(open.ranges().first(), Some(&(1..2)));
    }

    proptest::proptest! {
        #[test]
        fn behaves_like_a_set(
            records in 1u32..2000,
            closes in proptest::collection::vec(0u32..2100, 0..2500),
            run in 0u32..2000,
        ) {
            let mut open = OpenRecords::all(records);
            let mut model: BTreeSet<u32> = (0..records).collect();
            // A run in order, as consumers acknowledge, then chance.
            for index in (0..run).chain(closes) {
                let left = model.len() as u32;
                proptest::prop_assert_eq!(open.close(index, records, left), model.remove(&index));
                let ranges = open.ranges();
                proptest::prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
                if left.is_multiple_of(16) {
                    proptest::prop_assert!(ranges.into_iter().flatten().eq(model.iter().copied()));
                }
            }
            proptest::prop_assert!(open.ranges().into_iter().flatten().eq(model));
        }
    }
}
