//! Key to shard: MD5 over the key's UTF-8 bytes, read as one big-endian unsigned 128-bit integer, and the
//! even split of that key space that a fresh stream gets.

use md5::{Digest as _, Md5};

/// The point of a partition key in the 128-bit key space. The empty key is a key like any other.
pub fn key_hash(key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(key.as_bytes()).into())
}

/// The range of shard `index` of `count`, both ends inclusive.
///
/// The width is floor((2^128 − 1) / count), not 2^128 / count, and the last shard takes the remainder; the
/// boundary of two shards is therefore 2^127 − 1.
///
/// # Panics
/// If `index >= count`.
pub fn even_range(index: u32, count: u32) -> (u128, u128) {
    assert!(index < count, "shard {index} of {count}");
    let width = u128::MAX / u128::from(count);
    let start = u128::from(index) * width;
    let end = if index + 1 == count { u128::MAX } else { start + width - 1 };
    (start, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_published_ones() {
        assert_eq!(key_hash(""), 281_949_768_489_412_648_962_353_822_266_799_178_366);
        assert_eq!(key_hash("a"), 16_955_237_001_963_240_173_058_271_559_858_726_497);
        assert_eq!(key_hash("中文"), 222_950_780_121_674_131_202_544_964_908_810_521_095);
    }

    #[test]
    fn ranges_cover_the_key_space_without_overlap() {
        for count in [1, 2, 3, 4, 7, 16, 1000] {
            let mut next = 0;
            for index in 0..count {
                let (start, end) = even_range(index, count);
                assert_eq!(start, next);
                assert!(end >= start);
                next = end.wrapping_add(1);
            }
            assert_eq!(next, 0, "the last of {count} ends at 2^128 - 1");
        }
    }

    #[test]
    fn boundary_of_two_is_one_below_the_middle() {
        assert_eq!(even_range(1, 2).0, (1 << 127) - 1);
    }
}
