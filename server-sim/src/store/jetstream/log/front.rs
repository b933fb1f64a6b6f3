//! What stands before the batches of a message: everything about them but their bytes.
//!
//! It travels in a header, in base64, so that whoever follows a lane for tails, times and stamps need not receive the data.
//! After the version comes a kind, then numbers as `varint` writes them, then a CRC32C over the shard and all of it: a front
//! is valid in its own shard only, and a flipped bit makes it none.

use super::place::{self, NOTHING, PLACES};
use crate::store::{Lsn, ProducerStamp, ShardId, varint};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

/// Name of the header.
pub const HEADER: &str = "Hs";
const VERSION: u8 = 1;

/// What a message of a lane is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Front {
    /// Batches.
    Frame(Frame),
    /// No data: everything before it is gone. It is the only message of its shard and goes when a frame comes.
    Mark(Mark),
    /// Everything up to and including this LSN was trimmed; on a subject of its own.
    Trim(Lsn),
}

/// Batches that were appended together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Identity, made by chance: whoever lost the answer finds it again by this.
    pub id: u128,
    /// A mark was before it, and went with it: all before it is gone. Who did not see the mark learns it from here.
    pub first: bool,
    /// LSN of the batch before it in the shard, whether that is still there or not.
    pub prev: Lsn,
    /// Append time of that batch.
    pub prev_ms: u64,
    /// Append time of all its batches, in milliseconds.
    pub time_ms: u64,
    /// Sequence of the last frame before it that holds stamps; 0 if there is none.
    pub stamped: u64,
    /// At least one.
    pub batches: Vec<Batch>,
}

/// One batch of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Bytes.
    pub len: u32,
    /// CRC32C of them.
    pub crc: u32,
    /// Records in it.
    pub records: u32,
    /// Its producer's stamp.
    pub stamp: Option<ProducerStamp>,
}

/// What is left of a shard whose data is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Identity, made by chance.
    pub id: u128,
    /// LSN of the last batch; `None` if that is not known any more, and the mark's own place stands for it.
    pub tail: Option<Lsn>,
    /// Append time of that batch.
    pub time_ms: u64,
    /// Sequence of the last frame that held stamps.
    pub stamped: u64,
}

impl Frame {
    /// LSN of its last batch.
    pub fn last(&self, seq: u64) -> Lsn {
        place::lsn(seq, self.batches.len().saturating_sub(1))
    }

    /// Whether any of its batches has a stamp.
    pub fn is_stamped(&self) -> bool {
        self.batches.iter().any(|batch| batch.stamp.is_some())
    }

    /// Bytes of its batches.
    pub fn body_len(&self) -> usize {
        self.batches.iter().map(|batch| batch.len as usize).sum()
    }
}

impl Front {
    /// The header's value.
    pub fn encode(&self, shard: ShardId) -> String {
        let mut out = vec![VERSION];
        match self {
            Front::Frame(frame) => {
                out.push(if frame.first { 4 } else { 0 });
                encode_frame(frame, &mut out);
            }
            Front::Mark(mark) => {
                out.push(if mark.tail.is_some() { 1 } else { 2 });
                out.extend(mark.id.to_le_bytes());
                put_lsn(&mut out, mark.tail.unwrap_or(NOTHING));
                varint::put(&mut out, mark.time_ms);
                varint::put(&mut out, mark.stamped);
            }
            Front::Trim(up_to) => {
                out.push(3);
                put_lsn(&mut out, *up_to);
            }
        }
        let crc = crc(&out, shard);
        out.extend(crc.to_le_bytes());
        BASE64.encode(out)
    }

    /// Reads a header's value; `None` if it is damaged, of another shard or of a later version.
    pub fn decode(value: &str, shard: ShardId) -> Option<Front> {
        let bytes = BASE64.decode(value).ok()?;
        let (mut input, stored) = bytes.split_last_chunk::<4>()?;
        if u32::from_le_bytes(*stored) != crc(input, shard) {
            return None;
        }
        let [VERSION, kind] = take::<2>(&mut input)? else { return None };
        let front = match kind {
            0 | 4 => Front::Frame(decode_frame(&mut input, kind == 4)?),
            1 | 2 => {
                let id = u128::from_le_bytes(take(&mut input)?);
                let tail = Some(take_lsn(&mut input)?).filter(|_| kind == 1);
                let (time_ms, stamped) = (varint::take(&mut input)?, varint::take(&mut input)?);
                Front::Mark(Mark { id, tail, time_ms, stamped })
            }
            3 => Front::Trim(take_lsn(&mut input)?),
            _ => return None,
        };
        input.is_empty().then_some(front)
    }
}

fn encode_frame(frame: &Frame, out: &mut Vec<u8>) {
    out.extend(frame.id.to_le_bytes());
    put_lsn(out, frame.prev);
    varint::put(out, frame.time_ms);
    varint::put(out, frame.time_ms.saturating_sub(frame.prev_ms));
    varint::put(out, frame.stamped);
    varint::put(out, frame.batches.len() as u64);
    // A producer is named once; its further batches say which one it was.
    let mut producers: Vec<(u128, u32)> = Vec::new();
    for batch in &frame.batches {
        varint::put(out, u64::from(batch.len));
        out.extend(batch.crc.to_le_bytes());
        varint::put(out, u64::from(batch.records));
        let Some(stamp) = batch.stamp else {
            varint::put(out, 0);
            continue;
        };
        let producer = (stamp.id, stamp.epoch);
        match producers.iter().rposition(|known| *known == producer) {
            Some(at) => varint::put(out, at as u64 + 2),
            None => {
                varint::put(out, 1);
                out.extend(stamp.id.to_le_bytes());
                varint::put(out, u64::from(stamp.epoch));
                producers.push(producer);
            }
        }
        varint::put(out, stamp.sequence);
    }
}

fn decode_frame(input: &mut &[u8], first: bool) -> Option<Frame> {
    let id = u128::from_le_bytes(take(input)?);
    let prev = take_lsn(input)?;
    let time_ms = varint::take(input)?;
    let prev_ms = time_ms.checked_sub(varint::take(input)?)?;
    let stamped = varint::take(input)?;
    let count = usize::try_from(varint::take(input)?).ok().filter(|count| (1..=PLACES).contains(count))?;
    let mut batches = Vec::with_capacity(count);
    let mut producers: Vec<(u128, u32)> = Vec::new();
    for _ in 0..count {
        let len = varint::take_u32(input)?;
        let crc = u32::from_le_bytes(take(input)?);
        let records = varint::take_u32(input)?;
        let stamp = match varint::take(input)? {
            0 => None,
            reference => {
                if reference == 1 {
                    producers.push((u128::from_le_bytes(take(input)?), varint::take_u32(input)?));
                }
                let at = usize::try_from(reference).ok()?.checked_sub(2);
                let (id, epoch) = *at.map_or(producers.last(), |at| producers.get(at))?;
                Some(ProducerStamp { id, epoch, sequence: varint::take(input)? })
            }
        };
        batches.push(Batch { len, crc, records, stamp });
    }
    Some(Frame { id, first, prev, prev_ms, time_ms, stamped, batches })
}

fn put_lsn(out: &mut Vec<u8>, lsn: Lsn) {
    varint::put(out, lsn.saturating_sub(NOTHING));
}

fn take_lsn(input: &mut &[u8]) -> Option<Lsn> {
    NOTHING.checked_add(varint::take(input)?)
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

fn crc(bytes: &[u8], shard: ShardId) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&shard.to_le_bytes()), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FIRST_LSN;

    fn frame() -> Front {
        let stamp = |id, sequence| Some(ProducerStamp { id, epoch: 3, sequence });
        let batch = |records, stamp| Batch { len: 1000, crc: 0xdead_beef, records, stamp };
        Front::Frame(Frame {
            id: 1 << 100,
            first: false,
            prev: FIRST_LSN + 5,
            prev_ms: 1_700_000_000_000,
            time_ms: 1_700_000_000_009,
            stamped: 7,
            batches: vec![
                batch(1, stamp(u128::MAX, 4)),
                batch(2, None),
                batch(3, stamp(9, 0)),
                batch(4, stamp(u128::MAX, 5)),
            ],
        })
    }

    fn all() -> Vec<Front> {
        let Front::Frame(first) = frame() else { unreachable!() };
        vec![
            frame(),
            Front::Frame(Frame { first: true, ..first }),
            Front::Mark(Mark { id: 5, tail: Some(FIRST_LSN + 77), time_ms: 8, stamped: 0 }),
            Front::Mark(Mark { id: 6, tail: None, time_ms: 0, stamped: 3 }),
            Front::Trim(FIRST_LSN + 3),
        ]
    }

    #[test]
    fn fronts_survive_and_no_flipped_bit_or_cut_does() {
        for front in all() {
            let text = front.encode(4);
            assert_eq!(Front::decode(&text, 4), Some(front.clone()));
            assert_eq!(Front::decode(&text, 5), None, "of another shard");
            let bytes = BASE64.decode(&text).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Front::decode(&BASE64.encode(flipped), 4), None, "bit {bit}");
            }
            for len in 0..bytes.len() {
                assert_eq!(Front::decode(&BASE64.encode(&bytes[..len]), 4), None);
            }
        }
    }

    #[test]
    fn a_producer_is_written_once_in_a_frame() {
        let Front::Frame(mut front) = frame() else { unreachable!() };
        let before = Front::Frame(front.clone()).encode(1).len();
        let batch = *front.batches.last().unwrap();
        front.batches.push(batch);
        assert!(Front::Frame(front).encode(1).len() - before < 16);
    }

    #[test]
    fn what_claims_more_batches_than_a_frame_holds_is_refused() {
        let Front::Frame(front) = frame() else { unreachable!() };
        let batches = vec![front.batches[1]; PLACES + 1];
        assert_eq!(Front::decode(&Front::Frame(Frame { batches, ..front }).encode(1), 1), None);
    }
}
