//! The unit of the log: a header with its own checksum, then a body with another one.
//!
//! ```text
//!  0 magic      4 header crc   8 body crc   12 body length   16 segment   20 offset   24 group start
//! 28 records   32 kind        33 flags      34 zero (2)      36 epoch     40 shard    48 lsn
//! 56 time      64 producer id (16)          80 sequence      88 body ...
//! ```
//!
//! Numbers are little-endian. The header crc covers the segment's salt and everything behind it, so that bytes
//! a user stored can never pass for a frame, and a frame is valid only where it was written. `group start` is
//! the offset of the first frame of the same write: all bytes before it were durable when this frame was
//! written, which tells decay from a write that a crash cut short.

use crate::store::{Lsn, ProducerStamp, ShardId};
use std::ops::Range;

/// Bytes before the body.
pub const HEADER_LEN: usize = 88;
const MAGIC: [u8; 4] = *b"hsfr";
const FLAG_PRODUCER: u8 = 1;

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A batch; body: as received.
    Batch,
    /// New shards; body: id and retention of each.
    Create,
    /// Removed shards; body: their ids.
    Delete,
    /// Everything of `shard` up to and including `lsn` is removed.
    Trim,
    /// The state of all shards as format 1 wrote it; read, never written.
    SnapshotV1,
    /// The state of all shards; see `snapshot`.
    Snapshot,
    /// Many trims at once; body: id and last removed LSN of each.
    Trims,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Batch => 1,
            Kind::Create => 2,
            Kind::Delete => 3,
            Kind::Trim => 4,
            Kind::SnapshotV1 => 5,
            Kind::Snapshot => 6,
            Kind::Trims => 7,
        }
    }

    fn from_code(code: u8) -> Option<Kind> {
        use Kind::{Batch, Create, Delete, Snapshot, SnapshotV1, Trim, Trims};
        [Batch, Create, Delete, Trim, SnapshotV1, Snapshot, Trims]
            .into_iter()
            .find(|kind| kind.code() == code)
    }

    /// True for the state of all shards, in whatever encoding.
    pub fn is_snapshot(self) -> bool {
        matches!(self, Kind::Snapshot | Kind::SnapshotV1)
    }
}

/// Where in the log a frame is, and what its checksum is salted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Segment number.
    pub segment: u32,
    /// Salt of the segment.
    pub salt: u64,
    /// Offset in the segment.
    pub offset: u32,
}

/// The decoded header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is about.
    pub kind: Kind,
    /// Offset of the first frame of the same write.
    pub group_start: u32,
    /// Length of the body.
    pub body_len: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
    /// Records in the batch, else 0.
    pub records: u32,
    /// The shard, if it is about one.
    pub shard: ShardId,
    /// The LSN, if there is one.
    pub lsn: Lsn,
    /// Append time in milliseconds.
    pub time_ms: u64,
    /// Stamp of the producer, if the batch had one.
    pub producer: Option<ProducerStamp>,
}

impl Header {
    /// The header of a frame about no shard in particular.
    pub fn control(kind: Kind, group_start: u32, body: &[u8]) -> Header {
        Header {
            kind,
            group_start,
            body_len: body.len() as u32,
            body_crc: crc32c::crc32c(body),
            records: 0,
            shard: 0,
            lsn: 0,
            time_ms: 0,
            producer: None,
        }
    }

    /// The bytes of the header as they stand at `place`.
    pub fn encode(&self, place: Place) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut put = |range: Range<usize>, value: &[u8]| bytes[range].copy_from_slice(value);
        put(0..4, &MAGIC);
        put(8..12, &self.body_crc.to_le_bytes());
        put(12..16, &self.body_len.to_le_bytes());
        put(16..20, &place.segment.to_le_bytes());
        put(20..24, &place.offset.to_le_bytes());
        put(24..28, &self.group_start.to_le_bytes());
        put(28..32, &self.records.to_le_bytes());
        put(32..33, &[self.kind.code()]);
        put(40..48, &self.shard.to_le_bytes());
        put(48..56, &self.lsn.to_le_bytes());
        put(56..64, &self.time_ms.to_le_bytes());
        if let Some(producer) = &self.producer {
            put(33..34, &[FLAG_PRODUCER]);
            put(36..40, &producer.epoch.to_le_bytes());
            put(64..80, &producer.id.to_le_bytes());
            put(80..88, &producer.sequence.to_le_bytes());
        }
        let crc = header_crc(&bytes, place.salt);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header that is supposed to stand at `place`; `None` if it is not one or not from there.
    pub fn decode(bytes: &[u8], place: Place) -> Option<Header> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        if bytes[0..4] != MAGIC || u32_at(bytes, 4) != header_crc(bytes, place.salt) {
            return None;
        }
        if u32_at(bytes, 16) != place.segment || u32_at(bytes, 20) != place.offset {
            return None;
        }
        let producer = (bytes[33] & FLAG_PRODUCER != 0).then(|| ProducerStamp {
            id: u128::from(u64_at(bytes, 64)) | u128::from(u64_at(bytes, 72)) << 64,
            epoch: u32_at(bytes, 36),
            sequence: u64_at(bytes, 80),
        });
        Some(Header {
            kind: Kind::from_code(bytes[32])?,
            group_start: u32_at(bytes, 24),
            body_len: u32_at(bytes, 12),
            body_crc: u32_at(bytes, 8),
            records: u32_at(bytes, 28),
            shard: u64_at(bytes, 40),
            lsn: u64_at(bytes, 48),
            time_ms: u64_at(bytes, 56),
            producer,
        })
    }

    /// The header of a whole frame at `place`, if that is the intact batch it is supposed to be.
    pub fn of_batch(frame: &[u8], place: Place, shard: ShardId, lsn: Lsn) -> Option<Header> {
        let header = Header::decode(frame, place)?;
        let wanted = header.kind == Kind::Batch && header.shard == shard && header.lsn == lsn;
        (wanted && header.body_is_intact(frame.get(HEADER_LEN..)?)).then_some(header)
    }

    /// True if `body` is what was written.
    pub fn body_is_intact(&self, body: &[u8]) -> bool {
        body.len() == self.body_len as usize && crc32c::crc32c(body) == self.body_crc
    }
}

fn header_crc(bytes: &[u8; HEADER_LEN], salt: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &bytes[8..])
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

/// The next offset at or after `from` where a valid header stands.
pub fn find_header(segment: &[u8], from: usize, place: Place) -> Option<(u32, Header)> {
    let mut at = from;
    while let Some(rest) = segment.get(at..) {
        let skip = rest.windows(MAGIC.len()).position(|window| window == MAGIC)?;
        at += skip;
        let offset = u32::try_from(at).ok()?;
        if let Some(header) =
            segment.get(at..).and_then(|rest| Header::decode(rest, Place { offset, ..place }))
        {
            return Some((offset, header));
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { segment: 3, salt: 99, offset: 4096 };

    fn header() -> Header {
        Header {
            kind: Kind::Batch,
            group_start: 4000,
            body_len: 3,
            body_crc: crc32c::crc32c(b"abc"),
            records: 2,
            shard: 7,
            lsn: 1_000_000_000_000_000_001,
            time_ms: 1_700_000_000_000,
            producer: Some(ProducerStamp { id: u128::MAX - 5, epoch: 4, sequence: 9 }),
        }
    }

    #[test]
    fn a_header_survives_encoding_and_no_flipped_bit_does() {
        let bytes = header().encode(PLACE);
        assert_eq!(Header::decode(&bytes, PLACE), Some(header()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped, PLACE), None, "bit {bit}");
        }
    }

    #[test]
    fn a_header_is_valid_only_where_it_was_written() {
        let bytes = header().encode(PLACE);
        for place in
            [Place { segment: 4, ..PLACE }, Place { salt: 98, ..PLACE }, Place { offset: 4097, ..PLACE }]
        {
            assert_eq!(Header::decode(&bytes, place), None);
        }
    }

    #[test]
    fn the_next_header_is_found_behind_rubbish() {
        let mut segment = b"hsfr rubbish hsf".to_vec();
        let offset = segment.len() as u32;
        segment.extend(header().encode(Place { offset, ..PLACE }));
        assert_eq!(find_header(&segment, 0, PLACE), Some((offset, header())));
        assert_eq!(find_header(&segment, offset as usize + 1, PLACE), None);
    }

    #[test]
    fn bodies_are_checked() {
        assert!(header().body_is_intact(b"abc"));
        assert!(!header().body_is_intact(b"abd") && !header().body_is_intact(b"ab"));
    }
}
