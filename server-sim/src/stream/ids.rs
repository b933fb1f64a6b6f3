//! Identities of streams and shards.

use super::index::{decode, encode};
use crate::error::{Result, ServerError};
use crate::store::{Expect, MetaStore, StoreError};
use std::sync::Arc;
use tonic::Code;

/// Below this number every identity may have been given away, whatever became of its owner.
const IDS_BELOW: &str = "stream-ids-below";
/// Identities that one write sets aside: those of a minute, so that creating rarely waits for a second sync.
const IDS_SET_ASIDE: u64 = 60_000 << 20;

/// Hands out identities that were never handed out before, by whatever node.
///
/// A node sets a range aside by compare-and-set on the one number below which all may be taken, and hands out of that;
/// what it does not use is never used.
#[derive(Debug)]
pub(super) struct Ids {
    meta: Arc<dyn MetaStore>,
    /// Milliseconds since 1970.
    clock: fn() -> u64,
    range: tokio::sync::Mutex<Range>,
}

#[derive(Debug)]
struct Range {
    /// The next one of this node's; above all that existed when the node started, for stores that are older than
    /// the number.
    next: u64,
    /// First one that is not this node's.
    end: u64,
}

impl Ids {
    /// Identities from `next` on.
    pub(super) fn above(meta: Arc<dyn MetaStore>, clock: fn() -> u64, next: u64) -> Self {
        Ids { meta, clock, range: tokio::sync::Mutex::new(Range { next, end: 0 }) }
    }

    /// Hands out `count` in a row: milliseconds since 1970 times 2^20 plus chance, above all that may have been, so a
    /// deleted stream's ids stay retired even if the clock steps back across a restart. Below 2^63 until the year 2248.
    pub(super) async fn take(&self, count: u64) -> Result<u64> {
        let by_clock = ((self.clock)() << 20) | u64::from(rand::random::<u32>() & 0xf_ffff);
        let mut range = self.range.lock().await;
        let first = by_clock.max(range.next);
        let end = end_of(first, count)?;
        if end <= range.end {
            range.next = end;
            return Ok(first);
        }
        loop {
            let (below, expect) = match self.meta.get(IDS_BELOW).await? {
                Some(found) => (decode(IDS_BELOW, &found.value)?, Expect::Version(found.version)),
                None => (0, Expect::Absent),
            };
            let first = first.max(below);
            let end = end_of(first, count)?;
            let set_aside = end.saturating_add(IDS_SET_ASIDE);
            match self.meta.put(IDS_BELOW, encode(&set_aside)?, expect).await {
                Ok(_) => {
                    *range = Range { next: end, end: set_aside };
                    return Ok(first);
                }
                // Another node has set some aside; there are enough.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn end_of(first: u64, count: u64) -> Result<u64> {
    first.checked_add(count).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(|| {
        ServerError::plain(Code::Internal, "no identities are left for new streams; is the clock right?")
    })
}
