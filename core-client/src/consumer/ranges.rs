//! A set of record indices of one batch, kept as sorted ranges.

/// Sorted, disjoint, non-touching ranges, both ends inclusive. A batch acked as a whole is one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ranges there are; what memory is proportional to.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How many indices the ranges hold.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|&(start, end)| u64::from(end - start) + 1).sum()
    }

    pub fn contains(&self, index: u32) -> bool {
        let at = self.0.partition_point(|&(_, end)| end < index);
        self.0.get(at).is_some_and(|&(start, _)| start <= index)
    }

    /// Adds `start..=end` and returns how many indices were new.
    pub fn insert(&mut self, start: u32, end: u32) -> u64 {
        debug_assert!(start <= end);
        // Everything that overlaps or touches the new range melts into it.
        let first = self.0.partition_point(|&(_, e)| e.saturating_add(1) < start);
        let last = self.0.partition_point(|&(s, _)| s <= end.saturating_add(1));
        let (mut low, mut high, mut known) = (start, end, 0);
        for &(s, e) in self.0.get(first..last).unwrap_or_default() {
            let (from, to) = (s.max(start), e.min(end));
            if from <= to {
                known += u64::from(to - from) + 1;
            }
            low = low.min(s);
            high = high.max(e);
        }
        self.0.splice(first..last, [(low, high)]);
        u64::from(end - start) + 1 - known
    }

    /// Removes one index; false if it was not there.
    pub fn remove(&mut self, index: u32) -> bool {
        let at = self.0.partition_point(|&(_, end)| end < index);
        let Some(&(start, end)) = self.0.get(at) else { return false };
        if index < start {
            return false;
        }
        let left = (start < index).then(|| (start, index - 1));
        let right = (index < end).then(|| (index + 1, end));
        self.0.splice(at..=at, left.into_iter().chain(right));
        true
    }

    /// Takes up to `limit` of the lowest indices of the first range.
    pub fn take_first(&mut self, limit: u32) -> Option<(u32, u32)> {
        let &(start, end) = self.0.first()?;
        if limit == 0 {
            return None;
        }
        let taken = end.min(start.saturating_add(limit - 1));
        if taken == end {
            self.0.remove(0);
        } else if let Some(first) = self.0.first_mut() {
            first.0 = taken + 1;
        }
        Some((start, taken))
    }

    /// Moves everything of `other` into this set.
    pub fn absorb(&mut self, other: &mut Ranges) {
        if self.0.is_empty() {
            std::mem::swap(&mut self.0, &mut other.0);
            return;
        }
        for (start, end) in other.0.drain(..) {
            self.insert(start, end);
        }
    }

    pub fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn touching_ranges_melt_into_one() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.insert(0, 3), 4);
        assert_eq!(ranges.insert(8, 9), 2);
        assert_eq!(ranges.insert(4, 7), 4);
        assert_eq!(ranges, Ranges(vec![(0, 9)]));
        assert_eq!(ranges.insert(2, 11), 2);
        assert_eq!(ranges.count(), 1);
    }

    #[test]
    fn the_last_index_does_not_overflow() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.insert(u32::MAX, u32::MAX), 1);
        assert_eq!(ranges.insert(0, u32::MAX), u64::from(u32::MAX));
        assert!(ranges.contains(u32::MAX));
        assert!(ranges.remove(u32::MAX));
        assert_eq!(ranges.total(), u64::from(u32::MAX));
    }

    proptest::proptest! {
        #[test]
        fn behaves_like_a_set(steps in proptest::collection::vec((0u8..3, 0u32..40, 0u32..6), 0..80)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (what, index, width) in steps {
                match what {
                    0 => {
                        let new = (index..=index + width).filter(|i| model.insert(*i)).count();
                        assert_eq!(ranges.insert(index, index + width), new as u64);
                    }
                    1 => assert_eq!(ranges.remove(index), model.remove(&index)),
                    _ => {
                        if let Some((start, end)) = ranges.take_first(width) {
                            assert!(end - start < width);
                            for i in start..=end {
                                assert_eq!(model.pop_first(), Some(i));
                            }
                        } else {
                            assert!(width == 0 || model.is_empty());
                        }
                    }
                }
                assert_eq!(ranges.total(), model.len() as u64);
                for i in 0..50 {
                    assert_eq!(ranges.contains(i), model.contains(&i));
                }
                for pair in ranges.0.windows(2) {
                    assert!(pair[0].1 + 1 < pair[1].0, "{ranges:?}");
                }
            }
        }
    }
}
