//! What stands where in a sealed segment, in a small file beside it, so that opening need not read the segment.
//!
//! ```text
//!  0 magic      4 crc        8 version     12 segment    16 first     20 generation
//! 24 salt      32 length of the segment   40 shards ...
//! each shard: id, batches, then for each batch: lsn, time and offset (as steps from the one before),
//! length of the body, records
//! ```
//!
//! Fixed fields are little-endian, the others varints. The crc covers everything behind it. The file is a
//! cache: it holds no more than the segment does, is never synced, and one that is missing, cut, altered or of
//! another segment is not believed; the segment is read instead and the file written again.

use super::frame::HEADER_LEN;
use super::segment_id::SegmentId;
use super::shard::Entry;
use crate::store::disk::Disk;
use crate::store::varint;
use crate::store::{Lsn, ShardId};
use std::io;

const MAGIC: [u8; 4] = *b"hsix";
const VERSION: u32 = 1;
const FIXED_LEN: usize = 40;

/// Batches of one shard in a segment, by LSN.
pub type ShardEntries = (ShardId, Vec<Entry>);

/// The file beside `segment`.
pub fn encode(segment: &SegmentId, segment_len: u64, shards: &[ShardEntries]) -> Vec<u8> {
    let mut out = Vec::with_capacity(
        FIXED_LEN + shards.iter().map(|(_, batches)| 12 + 12 * batches.len()).sum::<usize>(),
    );
    out.extend(MAGIC);
    out.extend([0; 4]);
    out.extend(VERSION.to_le_bytes());
    out.extend(segment.number.to_le_bytes());
    out.extend(segment.first.to_le_bytes());
    out.extend(segment.generation.to_le_bytes());
    out.extend(segment.salt.to_le_bytes());
    out.extend(segment_len.to_le_bytes());
    for (shard, batches) in shards {
        varint::put(&mut out, *shard);
        varint::put(&mut out, batches.len() as u64);
        let (mut lsn, mut time_ms, mut offset) = (0, 0, 0);
        for entry in batches {
            varint::put(&mut out, entry.lsn.wrapping_sub(lsn));
            varint::put(&mut out, entry.time_ms.wrapping_sub(time_ms));
            varint::put(&mut out, u64::from(entry.offset.wrapping_sub(offset)));
            varint::put(&mut out, u64::from(entry.body_len));
            varint::put(&mut out, u64::from(entry.records));
            (lsn, time_ms, offset) = (entry.lsn, entry.time_ms, entry.offset);
        }
    }
    let crc = crc32c::crc32c(&out[8..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The batches of `segment`, which is `segment_len` bytes long, as entries in `slot`; `None` if `bytes` is not
/// the whole, unaltered file beside exactly this segment.
pub fn decode(bytes: &[u8], segment: &SegmentId, segment_len: u64, slot: u32) -> Option<Vec<ShardEntries>> {
    let mut input = bytes;
    let magic: [u8; 4] = take(&mut input)?;
    let crc = u32::from_le_bytes(take(&mut input)?);
    if magic != MAGIC || crc != crc32c::crc32c(input) || u32::from_le_bytes(take(&mut input)?) != VERSION {
        return None;
    }
    let of = SegmentId {
        number: u32::from_le_bytes(take(&mut input)?),
        first: u32::from_le_bytes(take(&mut input)?),
        generation: u32::from_le_bytes(take(&mut input)?),
        salt: u64::from_le_bytes(take(&mut input)?),
    };
    if of != *segment || u64::from_le_bytes(take(&mut input)?) != segment_len {
        return None;
    }
    let mut shards = Vec::new();
    while !input.is_empty() {
        let shard = varint::take(&mut input)?;
        let count = usize::try_from(varint::take(&mut input)?).ok()?;
        // Five bytes are the least a batch takes.
        let mut batches = Vec::with_capacity(count.min(input.len() / 5));
        let (mut lsn, mut time_ms, mut offset): (Lsn, u64, u32) = (0, 0, 0);
        for _ in 0..count {
            let step = varint::take(&mut input)?;
            lsn = lsn.checked_add(step).filter(|_| step > 0)?;
            time_ms = time_ms.wrapping_add(varint::take(&mut input)?);
            offset = offset.checked_add(varint::take_u32(&mut input)?)?;
            let body_len = varint::take_u32(&mut input)?;
            let records = varint::take_u32(&mut input)?;
            if u64::from(offset) + HEADER_LEN as u64 + u64::from(body_len) > segment_len {
                return None;
            }
            batches.push(Entry { lsn, time_ms, segment: slot, offset, body_len, records });
        }
        shards.push((shard, batches));
    }
    Some(shards)
}

/// Reads the file beside a segment; `None` if there is none that can be believed.
pub fn read(disk: &dyn Disk, segment: &SegmentId, segment_len: u64, slot: u32) -> Option<Vec<ShardEntries>> {
    let file = disk.open(&segment.index_name()).ok()?;
    let len = usize::try_from(file.len().ok()?).ok()?;
    // More than this no segment can need: a header takes longer than what is said here of a batch.
    if len as u64 > FIXED_LEN as u64 + segment_len {
        return None;
    }
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes).ok()?;
    decode(&bytes, segment, segment_len, slot)
}

/// Writes the file beside a segment, replacing what is there.
pub fn write(
    disk: &dyn Disk,
    segment: &SegmentId,
    segment_len: u64,
    shards: &[ShardEntries],
) -> io::Result<()> {
    let name = segment.index_name();
    remove(disk, segment)?;
    let file = disk.create(&name)?;
    file.write_at(0, &encode(segment, segment_len, shards)).inspect_err(|_| {
        let _ = disk.remove(&name);
    })
}

/// Removes the file beside a segment, if there is one.
pub fn remove(disk: &dyn Disk, segment: &SegmentId) -> io::Result<()> {
    match disk.remove(&segment.index_name()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FIRST_LSN;

    const SEGMENT: SegmentId = SegmentId { number: 9, first: 7, generation: 2, salt: 0xfeed };
    const LEN: u64 = 10_000;

    fn shards() -> Vec<ShardEntries> {
        let entry =
            |lsn, time_ms, offset| Entry { lsn, time_ms, segment: 5, offset, body_len: 70, records: 3 };
        vec![
            (
                4,
                vec![
                    entry(FIRST_LSN, 1_700_000_000_000, 100),
                    entry(FIRST_LSN + 9, 1_700_000_000_000, 9_000),
                ],
            ),
            (u64::MAX >> 1, vec![entry(FIRST_LSN + 1, 5, 300)]),
        ]
    }

    #[test]
    fn an_index_survives_encoding_and_no_cut_or_flipped_bit_does() {
        let bytes = encode(&SEGMENT, LEN, &shards());
        assert_eq!(decode(&bytes, &SEGMENT, LEN, 5), Some(shards()));
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len], &SEGMENT, LEN, 5), None, "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped, &SEGMENT, LEN, 5), None, "bit {bit}");
        }
    }

    #[test]
    fn an_index_is_believed_beside_its_own_segment_only() {
        let bytes = encode(&SEGMENT, LEN, &shards());
        let others = [
            SegmentId { number: 10, ..SEGMENT },
            SegmentId { first: 8, ..SEGMENT },
            SegmentId { generation: 1, ..SEGMENT },
            SegmentId { salt: 0xfeee, ..SEGMENT },
        ];
        for other in others {
            assert_eq!(decode(&bytes, &other, LEN, 5), None);
        }
        for len in [LEN - 1, LEN + 1] {
            assert_eq!(decode(&bytes, &SEGMENT, len, 5), None);
        }
    }

    #[test]
    fn entries_that_reach_beyond_the_segment_are_not_believed() {
        let bytes = encode(&SEGMENT, 9_100, &shards());
        assert_eq!(decode(&bytes, &SEGMENT, 9_100, 5), None);
    }
}
