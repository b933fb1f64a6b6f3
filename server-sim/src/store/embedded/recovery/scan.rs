//! One pass over the bytes of a segment.
//!
//! Damage is judged by one question: were these bytes durable once? They were if a later write to the log is
//! intact, because writes do not overlap. Then the damage is a loss: it stays where it is and the LSNs in it
//! read as a gap. Otherwise it is a write that a crash cut short, nobody was told that it succeeded, and the
//! log ends before it.

use super::super::frame::{HEADER_LEN, Header, Kind, find_header};
use super::super::segment_index::ShardEntries;
use super::super::segments::Segment;
use super::super::shard::Entry;
use super::super::snapshot::{ShardSnapshot, decode_snapshot};
use super::state::State;
use std::collections::BTreeMap;

/// A segment in memory.
pub struct Scan<'a> {
    pub segment: &'a Segment,
    pub bytes: &'a [u8],
    /// Only the last segment can hold a write that was cut short.
    pub last: bool,
}

/// How a scan ended.
pub struct End {
    /// Bytes to keep.
    pub len: usize,
    /// Start of the last write, or `len` if that is known to be durable.
    pub rewrite_from: usize,
    /// Durable bytes at the end cannot be read.
    pub damaged_end: bool,
}

enum Step {
    /// Frame and where the next one starts.
    Frame(Header, usize),
    /// The header is intact, the body is not.
    BadBody(Header, usize),
    BadHeader,
}

impl Scan<'_> {
    /// Takes all frames into `state`.
    pub fn run(&self, state: &mut State) -> End {
        let name = self.segment.id.name();
        // Older segments gone, this one is where shards come from.
        let start_len = state.start_len();
        let mut end = End { len: 0, rewrite_from: 0, damaged_end: false };
        let mut proof = None;
        let mut at = 0;
        while at < self.bytes.len() {
            let step = self.step(at);
            if let Step::Frame(header, next) = step {
                state.frames += 1;
                let body = self.bytes.get(at + HEADER_LEN..next);
                state.apply(&header, body, self.segment.place(at as u32), self.segment.slot);
                let closing = header.kind.is_snapshot() && header.group_start > 0;
                end = End {
                    len: next,
                    rewrite_from: if closing { next } else { header.group_start as usize },
                    damaged_end: false,
                };
                at = next;
                continue;
            }
            let next = self.next_header(at, &step);
            let first_write = next.is_some_and(|(_, header)| header.group_start == 0);
            let proven = !self.last
                || first_write
                || *proof.get_or_insert_with(|| self.newest_write(at)) > at
                || (at as u64) < start_len && self.bytes.len() as u64 > start_len;
            if !proven {
                tracing::warn!(
                    segment = name,
                    offset = at,
                    bytes = self.bytes.len() - at,
                    "an unfinished write at the end of the log is removed"
                );
                break;
            }
            let until = next.map_or(self.bytes.len(), |(offset, _)| offset as usize);
            tracing::error!(
                segment = name,
                offset = at,
                bytes = until - at,
                "the log is damaged here; what was stored there is lost"
            );
            state.add_damage(self.segment.slot, || {
                format!(
                    "{name} is damaged at byte {at}: {} bytes that were once durable cannot be read",
                    until - at
                )
            });
            match step {
                Step::BadBody(header, _) => {
                    state.apply(&header, None, self.segment.place(at as u32), self.segment.slot);
                }
                // Nothing but shard state stands before the end of the first write.
                _ if first_write => {}
                _ => state.add_hole(((until - at) / HEADER_LEN).max(1) as u64),
            }
            at = until;
            end = End { len: until, rewrite_from: until, damaged_end: next.is_none() };
        }
        end
    }

    /// The state of all shards that the segment begins with; `None` if its first frame is not intact.
    pub fn start(&self) -> Option<Vec<ShardSnapshot>> {
        match self.step(0) {
            Step::Frame(header, next) if header.kind.is_snapshot() => {
                decode_snapshot(header.kind, self.bytes.get(HEADER_LEN..next)?)
            }
            _ => None,
        }
    }

    /// The batches in the segment; `None` if anything in it is damaged.
    pub fn batches(&self) -> Option<Vec<ShardEntries>> {
        let mut shards: BTreeMap<_, Vec<Entry>> = BTreeMap::new();
        let mut at = 0;
        while at < self.bytes.len() {
            let Step::Frame(header, next) = self.step(at) else { return None };
            if header.kind == Kind::Batch {
                shards.entry(header.shard).or_default().push(Entry {
                    lsn: header.lsn,
                    time_ms: header.time_ms,
                    segment: self.segment.slot,
                    offset: u32::try_from(at).ok()?,
                    body_len: header.body_len,
                    records: header.records,
                });
            }
            at = next;
        }
        Some(shards.into_iter().collect())
    }

    fn step(&self, at: usize) -> Step {
        let place = self.segment.place(at as u32);
        let Some(header) = self.bytes.get(at..).and_then(|rest| Header::decode(rest, place)) else {
            return Step::BadHeader;
        };
        let next = at + HEADER_LEN + header.body_len as usize;
        match self.bytes.get(at + HEADER_LEN..next) {
            Some(body) if header.body_is_intact(body) => Step::Frame(header, next),
            _ => Step::BadBody(header, next),
        }
    }

    /// The frame after a damaged one.
    fn next_header(&self, at: usize, damaged: &Step) -> Option<(u32, Header)> {
        if let Step::BadBody(_, next) = damaged
            && let Ok(offset) = u32::try_from(*next)
            && let Some(header) =
                self.bytes.get(*next..).and_then(|rest| Header::decode(rest, self.segment.place(offset)))
        {
            return Some((offset, header));
        }
        find_header(self.bytes, at + 1, self.segment.place(0))
    }

    /// Start of the newest write of which a header behind `at` is intact.
    fn newest_write(&self, at: usize) -> usize {
        let mut newest = 0;
        let mut from = at + 1;
        while let Some((offset, header)) = find_header(self.bytes, from, self.segment.place(0)) {
            newest = newest.max(header.group_start as usize);
            let next = offset as usize + HEADER_LEN + header.body_len as usize;
            from = if next <= self.bytes.len() { next } else { offset as usize + 1 };
        }
        newest
    }
}
