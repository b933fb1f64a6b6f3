//! Frames that were appended or read a moment ago, so that who reads along does not ask for them.

use super::chunk::Part;
use crate::store::ShardId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// What a frame costs besides its bytes.
const ENTRY: usize = 256;

/// The newest frames, as many as fit.
#[derive(Debug)]
pub struct Cache {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    parts: BTreeMap<(ShardId, u64), Part>,
    /// In the order in which they came.
    order: VecDeque<(ShardId, u64)>,
}

impl Cache {
    /// One that holds about so many bytes.
    pub fn new(most: usize) -> Self {
        Cache { most, held: Mutex::default() }
    }

    /// Keeps a frame until newer ones need its room.
    pub fn put(&self, shard: ShardId, part: Part) {
        let cost = part.body_len() + ENTRY;
        if cost > self.most {
            return;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = &mut *held;
        let key = (shard, part.seq);
        if held.parts.insert(key, part).is_some() {
            return;
        }
        held.order.push_back(key);
        held.bytes += cost;
        while held.bytes > self.most {
            let Some(oldest) = held.order.pop_front() else { break };
            if let Some(part) = held.parts.remove(&oldest) {
                held.bytes -= part.body_len() + ENTRY;
            }
        }
    }

    /// The first frame of a shard at or after this sequence, of those that are here.
    pub fn next(&self, shard: ShardId, seq: u64) -> Option<Part> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.parts.range((shard, seq)..=(shard, u64::MAX)).next().map(|(_, part)| part.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::tests::part;
    use super::*;

    #[test]
    fn the_newest_stay_and_the_room_is_kept_to() {
        let cache = Cache::new(10 * (ENTRY + 100));
        for seq in 1..=50 {
            cache.put(seq % 2, part(seq, 0, 1, 100));
            cache.put(seq % 2, part(seq, 0, 1, 100));
        }
        assert!(cache.held.lock().unwrap().bytes <= cache.most);
        assert_eq!(cache.held.lock().unwrap().parts.len(), 10);
        assert_eq!(cache.next(0, 0).map(|part| part.seq), Some(42));
        assert_eq!(cache.next(1, 44).map(|part| part.seq), Some(45));
        assert_eq!(cache.next(1, 50).map(|part| part.seq), None);
        cache.put(1, part(60, 0, 1, 100_000));
        assert_eq!(cache.next(1, 50).map(|part| part.seq), None, "what does not fit is not kept");
    }
}
