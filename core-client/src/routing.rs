//! Key to shard: the shards' hash ranges, parsed once and searched by halves.

use crate::error::{Error, ErrorKind, Result};
use hstreamdb_proto::{api, partition::key_hash};
use std::ops::RangeInclusive;

/// A shard and the hashes that belong to it, both ends inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardRange {
    pub start: u128,
    pub end: u128,
    pub id: u64,
}

/// Most bits of a hash that are looked up instead of searched for: 256 KiB of table.
const MAX_BUCKET_BITS: u32 = 16;

/// Which shard of a stream takes which key: a value, as of the moment it was fetched. Producers have their own and
/// keep it up to date.
///
/// ```
/// # fn main() -> hstreamdb::Result<()> {
/// let map = hstreamdb::ShardMap::new([(7, 0..=u128::MAX / 2), (8, u128::MAX / 2 + 1..=u128::MAX)])?;
/// assert_eq!(map.shard_for_key("key1"), Some(8));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMap {
    /// Ascending by range. Servers list them by name, which is another order.
    ranges: Vec<ShardRange>,
    /// For every value of a hash's top bits the range that its lowest hash is in or comes after; one more at the end.
    /// Streams split the hashes evenly, so there are one or two ranges between neighbours here.
    buckets: Vec<u32>,
    /// How far a hash is shifted to its bucket.
    shift: u32,
    complete: bool,
}

impl ShardMap {
    /// A map of these shards: id and hashes, both ends inclusive, in any order.
    ///
    /// # Errors
    /// `NotFound` when there is no shard.
    pub fn new(shards: impl IntoIterator<Item = (u64, RangeInclusive<u128>)>) -> Result<Self> {
        let range = |(id, hashes): (u64, RangeInclusive<u128>)| ShardRange {
            start: *hashes.start(),
            end: *hashes.end(),
            id,
        };
        ShardMap::of(shards.into_iter().map(range).collect())
    }

    /// The map of a `ListShards` answer.
    ///
    /// # Errors
    /// `Codec` when a range is not a pair of decimal numbers, `NotFound` when there is no shard.
    pub(crate) fn from_wire(stream: &str, shards: &[api::Shard]) -> Result<Self> {
        let ranges = shards
            .iter()
            .map(|shard| {
                let parse = |text: &str| {
                    text.parse::<u128>().map_err(|error| {
                        Error::new(ErrorKind::Codec, "list shards")
                            .with_resource(format!("stream {stream:?} shard {}", shard.shard_id))
                            .with_message(format!("the range end {text:?} is not a number: {error}"))
                    })
                };
                Ok(ShardRange {
                    start: parse(&shard.start_hash_range_key)?,
                    end: parse(&shard.end_hash_range_key)?,
                    id: shard.shard_id,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        ShardMap::of(ranges).map_err(|error| error.with_resource(stream))
    }

    fn of(mut ranges: Vec<ShardRange>) -> Result<Self> {
        ranges.sort_unstable_by_key(|range| range.start);
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
            return Err(
                Error::new(ErrorKind::NotFound, "list shards").with_message("the stream has no shards")
            );
        };
        let complete = first.start == 0
            && last.end == u128::MAX
            && ranges
                .iter()
                .zip(ranges.iter().skip(1))
                .all(|(one, next)| one.end.checked_add(1) == Some(next.start));
        let bits = ranges.len().next_power_of_two().trailing_zeros().clamp(1, MAX_BUCKET_BITS);
        let shift = u128::BITS - bits;
        let before =
            |hash: u128| ranges.partition_point(|range| range.start <= hash).saturating_sub(1) as u32;
        let buckets =
            (0..1u128 << bits).map(|bucket| before(bucket << shift)).chain([before(u128::MAX)]).collect();
        Ok(ShardMap { ranges, buckets, shift, complete })
    }

    /// The shard that takes a key; `None` when none does, which healthy streams never have.
    pub fn shard_for_key(&self, key: &str) -> Option<u64> {
        self.index_for_key(key).and_then(|index| self.ranges.get(index)).map(|range| range.id)
    }

    /// The shards' ids, ascending by the hashes they take.
    pub fn shard_ids(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.ranges.iter().map(|range| range.id)
    }

    /// The shards, ascending by range.
    pub(crate) fn ranges(&self) -> &[ShardRange] {
        &self.ranges
    }

    /// Whether there is a shard of this id.
    pub(crate) fn has_shard(&self, id: u64) -> bool {
        self.ranges.iter().any(|range| range.id == id)
    }

    /// Whether every key has a shard.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Index into [`ranges`](Self::ranges) of the shard of a key; `None` when no range holds its hash.
    pub(crate) fn index_for_key(&self, key: &str) -> Option<usize> {
        if let [only] = self.ranges.as_slice()
            && (only.start, only.end) == (0, u128::MAX)
        {
            return Some(0);
        }
        self.index_for_hash(key_hash(key))
    }

    fn index_for_hash(&self, hash: u128) -> Option<usize> {
        let bucket = (hash >> self.shift) as usize;
        let first = *self.buckets.get(bucket)? as usize;
        let last = *self.buckets.get(bucket + 1)? as usize;
        let between = self.ranges.get(first..=last)?;
        let index = first + between.partition_point(|range| range.start <= hash).checked_sub(1)?;
        (hash <= self.ranges.get(index)?.end).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hstreamdb_proto::partition::even_range;
    use proptest::prelude::*;

    fn shard(id: u64, start: impl ToString, end: impl ToString) -> api::Shard {
        api::Shard {
            stream_name: "s".into(),
            shard_id: id,
            start_hash_range_key: start.to_string(),
            end_hash_range_key: end.to_string(),
            epoch: 0,
            is_active: true,
        }
    }

    fn even(count: u32) -> ShardMap {
        let mut shards: Vec<_> = (0..count)
            .map(|index| {
                let (start, end) = even_range(index, count);
                shard(100 + u64::from(index), start, end)
            })
            .collect();
        // By name, as servers list them.
        shards.sort_by_key(|shard| format!("{}-{}", shard.start_hash_range_key, shard.end_hash_range_key));
        ShardMap::from_wire("s", &shards).unwrap()
    }

    #[test]
    fn published_examples_route_to_the_published_shards() {
        let examples: [(&str, [usize; 4]); 6] = [
            ("", [0, 1, 2, 13]),
            ("a", [0, 0, 0, 0]),
            ("key1", [0, 1, 2, 12]),
            ("hello", [0, 0, 1, 5]),
            ("demo-key", [0, 1, 1, 8]),
            ("中文", [0, 1, 1, 10]),
        ];
        for (column, count) in [1, 2, 3, 16].into_iter().enumerate() {
            let map = even(count);
            for (key, expected) in examples {
                let index = map.index_for_key(key).unwrap();
                assert_eq!(index, expected[column], "{key:?} over {count} shards");
                assert_eq!(map.ranges()[index].id, 100 + index as u64);
            }
        }
    }

    #[test]
    fn both_ends_of_a_range_belong_to_it() {
        let map = even(16);
        for (index, range) in map.ranges().iter().enumerate() {
            assert_eq!(map.index_for_hash(range.start), Some(index));
            assert_eq!(map.index_for_hash(range.end), Some(index));
        }
    }

    proptest! {
        #[test]
        fn any_map_finds_what_a_search_from_end_to_end_finds(
            mut cuts in prop::collection::vec(any::<u128>(), 0..40),
            narrow in 0..120u32,
            holes in any::<u64>(),
            hashes in prop::collection::vec(any::<u128>(), 1..50),
        ) {
            // Far apart, or all in one bucket.
            cuts.iter_mut().for_each(|cut| *cut >>= narrow);
            cuts.extend([0, u128::MAX]);
            cuts.sort_unstable();
            cuts.dedup();
            let ranges = cuts.windows(2).enumerate().filter(|(at, _)| holes >> (at % 64) & 1 == 0);
            let shards: Vec<_> = ranges.map(|(at, cut)| (at as u64, cut[0]..=cut[1] - 1)).collect();
            prop_assume!(!shards.is_empty());
            let map = ShardMap::new(shards.clone()).unwrap();
            let edges = cuts.iter().flat_map(|cut| [cut.saturating_sub(1), *cut]);
            for hash in hashes.into_iter().flat_map(|hash| [hash, hash >> narrow]).chain(edges) {
                let expected = shards.iter().position(|(_, range)| range.contains(&hash));
                prop_assert_eq!(map.index_for_hash(hash), expected, "{}", hash);
            }
        }
    }

    #[test]
    fn a_hash_in_no_range_has_no_shard() {
        let map = ShardMap::from_wire("s", &[shard(1, 10, 20), shard(2, 30, 40)]).unwrap();
        for hash in [0, 9, 21, 29, 41, u128::MAX] {
            assert_eq!(map.index_for_hash(hash), None, "{hash}");
        }
        assert_eq!(ShardMap::from_wire("s", &[shard(1, 10, 20)]).unwrap().index_for_key("a"), None);
    }

    #[test]
    fn a_map_knows_whether_it_has_holes() {
        assert!((1..20).all(|count| even(count).is_complete()));
        let whole = [(1, 0..=10), (3, 21..=u128::MAX), (2, 11..=20)];
        assert!(ShardMap::new(whole.clone()).unwrap().is_complete());
        for missing in 0..3 {
            let part =
                whole.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, shard)| shard.clone());
            assert!(!ShardMap::new(part).unwrap().is_complete());
        }
        assert_eq!(ShardMap::new(whole).unwrap().shard_ids().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn ranges_that_are_no_numbers_and_empty_lists_are_errors() {
        for (start, end) in
            [("", "1"), ("0", "x"), ("-1", "1"), ("0", "340282366920938463463374607431768211456")]
        {
            let error = ShardMap::from_wire("s", &[shard(1, start, end)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Codec);
        }
        assert_eq!(ShardMap::from_wire("s", &[]).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
