//! Reading: from what was appended or read here a moment ago, else from whatever server has time, and from the leader before
//! anything is called missing.

use super::Engine;
use super::chunk::{Added, Chunk, Part};
use super::front::{Frame, Front};
use super::known::Known;
use super::place;
use super::shard::Shard;
use super::wire::Stored;
use crate::store::{FIRST_LSN, GapKind, Lsn, ReadChunk, ReadLimits, Result};

/// Most bytes that are asked for at once, and frames.
const MOST_BYTES: usize = 4 << 20;
const MOST_FRAMES: usize = 256;
/// Times that a server's copy is asked for before the leader's counts. Which server answers is chance.
const LOOKS: usize = 3;

/// A message that was asked for.
#[derive(Debug, Clone)]
enum Found {
    Part(Part),
    /// No data.
    Nothing(u64),
    /// It cannot be read.
    Damaged(u64),
}

impl Found {
    fn seq(&self) -> u64 {
        match self {
            Found::Part(part) => part.seq,
            Found::Nothing(seq) | Found::Damaged(seq) => *seq,
        }
    }

    fn is_sound(&self) -> bool {
        match self {
            Found::Part(part) => part.is_whole(),
            Found::Nothing(_) => true,
            Found::Damaged(_) => false,
        }
    }

    fn of(shard: &Shard, stored: Stored) -> Found {
        let seq = stored.seq;
        match stored.front.as_deref().and_then(|front| Front::decode(front, shard.spec.shard)) {
            Some(Front::Frame(frame)) => match Part::cut(seq, frame, &stored.payload) {
                Some(part) => Found::Part(part),
                None => Found::Damaged(seq),
            },
            Some(Front::Mark(_) | Front::Trim(_)) => Found::Nothing(seq),
            None => Found::Damaged(seq),
        }
    }
}

impl Engine {
    pub async fn read(&self, shard: &Shard, from: Lsn, limits: ReadLimits) -> Result<ReadChunk> {
        let mut chunk = Chunk::new(from, limits);
        // True once everything that others did has been heard of.
        let mut sure = false;
        loop {
            let known = shard.known()?;
            if chunk.next() > known.tail || chunk.is_full() {
                return Ok(chunk.finish());
            }
            if !chunk.miss(GapKind::Trimmed, known.trimmed) || chunk.next() > known.tail {
                return Ok(chunk.finish());
            }
            if self.read_cached(shard, &known, &mut chunk) {
                return Ok(chunk.finish());
            }
            let found = self.fetch(shard, chunk.next(), limits).await?;
            if self.fill(shard, &known, found, &mut chunk, &mut sure).await? {
                return Ok(chunk.finish());
            }
        }
    }

    /// Adds what is here; true if the chunk has something to say then.
    fn read_cached(&self, shard: &Shard, known: &Known, chunk: &mut Chunk) -> bool {
        let mut added = false;
        while let Some(part) = self.cache.next(shard.spec.shard, place::seq(chunk.next())) {
            if !part.follows(chunk.next()) || chunk.next() > known.tail {
                break;
            }
            added = true;
            if chunk.add(&part, known.tail) != Added::More {
                break;
            }
        }
        added && !chunk.is_empty()
    }

    /// Adds what was found; true if the chunk has something to say then. False: look again.
    async fn fill(
        &self,
        shard: &Shard,
        known: &Known,
        found: Vec<Found>,
        chunk: &mut Chunk,
        sure: &mut bool,
    ) -> Result<bool> {
        let before = chunk.next();
        for found in found {
            match found {
                Found::Nothing(seq) if place::lsn(seq, 0) > known.tail => break,
                Found::Nothing(_) => continue,
                Found::Part(part) => match chunk.add(&part, known.tail) {
                    Added::More => {}
                    Added::Full => return Ok(true),
                    // Behind what was read already: the next read finds out.
                    Added::Missing(_) if !chunk.is_empty() && chunk.next() > before => return Ok(true),
                    Added::Missing(to) => {
                        return self.missing(shard, to.min(known.tail), Some(&part.frame), chunk, sure).await;
                    }
                },
                Found::Damaged(seq) => {
                    if !chunk.is_empty() && chunk.next() > before {
                        return Ok(true);
                    }
                    let to = self.end_of_damaged(shard, seq, known).await?;
                    tracing::error!(
                        shard = shard.spec.shard,
                        seq,
                        "a stored frame is lost: it does not match its checksum"
                    );
                    chunk.miss(GapKind::DataLoss, to);
                    return Ok(true);
                }
            }
        }
        if chunk.next() > before || chunk.next() > known.tail {
            return Ok(!chunk.is_empty() || chunk.next() > known.tail);
        }
        self.missing(shard, known.tail, None, chunk, sure).await
    }

    /// Batches up to `to` are nowhere, also not at the leader: says why, once nothing can be unknown any more.
    async fn missing(
        &self,
        shard: &Shard,
        to: Lsn,
        next: Option<&Frame>,
        chunk: &mut Chunk,
        sure: &mut bool,
    ) -> Result<bool> {
        if !*sure {
            // Another node may have trimmed, the copies may lag.
            shard.lane.catch_up().await?;
            *sure = true;
            return Ok(false);
        }
        let known = shard.known()?;
        if known.trimmed >= to {
            return Ok(false);
        }
        // The youngest of them went by age, and so did all before it.
        let time_ms = next.map_or(known.time_ms, |next| next.prev_ms);
        let kind = if next.is_some_and(|next| next.first) || self.is_expired(shard, time_ms) {
            shard.found_trimmed(to);
            GapKind::Trimmed
        } else {
            let from = chunk.next();
            tracing::error!(
                shard = shard.spec.shard,
                from,
                to,
                "stored batches are lost: no server has them"
            );
            GapKind::DataLoss
        };
        chunk.miss(kind, to);
        Ok(chunk.is_full() || kind == GapKind::DataLoss || chunk.next() > known.tail)
    }

    /// Whether what was appended then may have gone by age.
    pub fn is_expired(&self, shard: &Shard, time_ms: u64) -> bool {
        let retention_ms = u64::from(shard.spec.retention_secs) * 1000;
        retention_ms > 0 && time_ms.saturating_add(retention_ms) <= (self.settings.clock)()
    }

    /// LSN of the last batch of a frame that cannot be read: the frame behind it says so.
    async fn end_of_damaged(&self, shard: &Shard, seq: u64, known: &Known) -> Result<Lsn> {
        let mut at = seq + 1;
        while let Some(found) = self.next(shard, at).await? {
            match found {
                Found::Part(part) => return Ok(part.frame.prev),
                other => at = other.seq() + 1,
            }
        }
        Ok(known.tail)
    }

    /// What follows `from`: frames in order, the first one as the leader has it if it matters.
    async fn fetch(&self, shard: &Shard, from: Lsn, limits: ReadLimits) -> Result<Vec<Found>> {
        let (stream, subject) = (&shard.lane.stream, shard.subject());
        let (frames, bytes) =
            (limits.max_batches.clamp(1, MOST_FRAMES), limits.max_bytes.clamp(1, MOST_BYTES));
        let seq = place::seq(from);
        let mut best: Vec<Found> = Vec::new();
        for _ in 0..LOOKS {
            let stored = shard.lane.wire.batch(stream, &subject, seq, frames, bytes).await?;
            let found: Vec<Found> = stored.into_iter().map(|stored| Found::of(shard, stored)).collect();
            for found in &found {
                if let Found::Part(part) = found
                    && part.is_whole()
                {
                    self.cache.put(shard.spec.shard, part.clone());
                }
            }
            let settled = match found.first() {
                Some(Found::Part(part)) => part.is_whole() && part.follows(from),
                Some(Found::Nothing(_)) => found.len() > 1,
                Some(Found::Damaged(_)) | None => false,
            };
            if settled {
                return Ok(found);
            }
            if found.first().is_some_and(|first| best.first().is_none_or(|best| better(first, best))) {
                best = found;
            }
            // A lone mark, or nothing: another copy has hardly more.
            if best.is_empty() {
                break;
            }
        }
        let leader = self.next_at_leader(shard, seq).await?;
        if let Some(leader) = leader
            && best.first().is_none_or(|best| better(&leader, best))
        {
            return Ok(vec![leader]);
        }
        Ok(best)
    }

    async fn next_at_leader(&self, shard: &Shard, seq: u64) -> Result<Option<Found>> {
        let stored = shard.lane.wire.next_at_leader(&shard.lane.stream, &shard.subject(), seq).await?;
        Ok(stored.map(|stored| Found::of(shard, stored)))
    }

    /// The first message at or after a sequence.
    async fn next(&self, shard: &Shard, seq: u64) -> Result<Option<Found>> {
        let stored = shard.lane.wire.batch(&shard.lane.stream, &shard.subject(), seq, 1, 1).await?;
        match stored.into_iter().next().map(|stored| Found::of(shard, stored)) {
            Some(found) if found.is_sound() => Ok(Some(found)),
            _ => self.next_at_leader(shard, seq).await,
        }
    }

    /// All frames from `from` on up to the tail, in order, as far as they can be read.
    pub async fn frames(&self, shard: &Shard, from: Lsn, mut each: impl FnMut(&Part)) -> Result<()> {
        let limits = ReadLimits { max_batches: MOST_FRAMES, max_bytes: MOST_BYTES };
        let tail = shard.known()?.tail;
        let mut at = from.max(FIRST_LSN);
        while at <= tail {
            let found = self.fetch(shard, at, limits).await?;
            let Some(last) = found.last().map(Found::seq) else { return Ok(()) };
            for found in &found {
                if let Found::Part(part) = found
                    && part.seq >= place::seq(at)
                {
                    each(part);
                }
            }
            at = place::lsn(last + 1, 0);
        }
        Ok(())
    }

    /// The first batch that can be read whose time is at least `time_ms`.
    ///
    /// Servers know when they took a frame, which is about when it was appended; from there it goes on by halves, because
    /// every frame names the time of the one before it.
    pub async fn find_time(&self, shard: &Shard, time_ms: u64) -> Result<Lsn> {
        let known = shard.known()?;
        let none = known.tail + 1;
        if known.marked || !known.is_heard() || known.time_ms < time_ms {
            return Ok(none);
        }
        // All frames below `low` are older or trimmed, all from `high` on are not.
        let (mut low, mut high, mut answer) = (place::seq(known.trimmed), known.last + 1, None);
        let hint = time_ms.saturating_sub(self.settings.clock_skew_ms);
        let since = shard.lane.wire.first_since(&shard.lane.stream, &shard.subject(), hint).await?;
        let mut probe = since.map_or(low, |stored| stored.seq).min(known.last).max(low);
        while low < high {
            match self.next(shard, probe).await? {
                Some(found) if found.seq() < high => match found {
                    Found::Part(part)
                        if part.frame.time_ms >= time_ms && part.frame.last(part.seq) > known.trimmed =>
                    {
                        answer = Some(part.seq);
                        high = probe;
                        if part.frame.prev_ms < time_ms || part.frame.prev <= known.trimmed {
                            break;
                        }
                    }
                    other => low = other.seq() + 1,
                },
                _ => high = probe,
            }
            probe = low + (high.saturating_sub(low)) / 2;
        }
        Ok(answer.map_or(none, |seq| place::lsn(seq, 0).max(known.trimmed + 1)))
    }
}

/// Whether a message tells more than another one: it lies before it, or it can be read.
fn better(one: &Found, other: &Found) -> bool {
    (one.seq(), !one.is_sound()) < (other.seq(), !other.is_sound())
}
