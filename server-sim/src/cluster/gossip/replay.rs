//! What was heard before is not heard again.

use super::refusal::Refusal;
use crate::cluster::NodeId;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Blocks of 64 counters that are remembered of a sender; one of them is being filled.
const BLOCKS: usize = 32;
/// Counters that far below the highest one are told apart; older ones count as heard. A node sends some tens of
/// packets a second, so a packet may be a minute late.
const WIDTH: u64 = 64 * (BLOCKS as u64 - 1);
/// Senders that are remembered. Only holders of the key get in here, if there is a key.
const MOST_SENDERS: usize = 1024;
/// A sender that was silent for so long makes room for another one when the table is full.
const SILENCE: Duration = Duration::from_secs(3600);

/// Which packets were heard, per node and for its latest run only.
#[derive(Debug, Default)]
pub struct Heard {
    senders: HashMap<NodeId, Sender>,
}

#[derive(Debug)]
struct Sender {
    generation: u64,
    window: Window,
    last: Instant,
}

impl Heard {
    /// Notes a packet whose origin is proven.
    ///
    /// # Errors
    /// [`Refusal::Replayed`], [`Refusal::OldRun`] when a later run of that node was heard, [`Refusal::Crowded`].
    pub fn note(&mut self, id: NodeId, generation: u64, counter: u64, now: Instant) -> Result<(), Refusal> {
        if !self.senders.contains_key(&id) && self.senders.len() >= MOST_SENDERS {
            self.make_room(now)?;
        }
        let fresh = || Sender { generation, window: Window::default(), last: now };
        let sender = self.senders.entry(id).or_insert_with(fresh);
        if generation < sender.generation {
            return Err(Refusal::OldRun);
        }
        if generation > sender.generation {
            *sender = fresh();
        }
        if !sender.window.note(counter) {
            return Err(Refusal::Replayed);
        }
        sender.last = now;
        Ok(())
    }

    fn make_room(&mut self, now: Instant) -> Result<(), Refusal> {
        let (id, sender) =
            self.senders.iter().min_by_key(|(_, sender)| sender.last).ok_or(Refusal::Crowded)?;
        if now.saturating_duration_since(sender.last) < SILENCE {
            return Err(Refusal::Crowded);
        }
        let id = *id;
        self.senders.remove(&id);
        Ok(())
    }
}

/// The counters of one run that were heard: a ring of bits below the highest one.
#[derive(Debug, Default)]
struct Window {
    highest: u64,
    heard: [u64; BLOCKS],
}

impl Window {
    /// Whether this counter is heard for the first time.
    fn note(&mut self, counter: u64) -> bool {
        // Counters begin at 1.
        if counter == 0 || self.highest.saturating_sub(counter) >= WIDTH {
            return false;
        }
        let (block, top) = (counter / 64, self.highest / 64);
        if counter > self.highest {
            // Blocks on the way to the new one hold bits of counters that are now out of the window.
            for passed in 1..=(block - top).min(BLOCKS as u64) {
                *self.of(top + passed) = 0;
            }
            self.highest = counter;
        }
        let bit = 1 << (counter % 64);
        let bits = self.of(block);
        let first = *bits & bit == 0;
        *bits |= bit;
        first
    }

    #[allow(clippy::indexing_slicing, reason = "a remainder is below its divisor")]
    fn of(&mut self, block: u64) -> &mut u64 {
        &mut self.heard[(block % BLOCKS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    use std::collections::HashSet;

    #[test]
    fn every_counter_is_heard_once_in_any_order() {
        let mut rng = StdRng::seed_from_u64(7);
        for jump in [1_u64, 40, 64, 500, 5_000] {
            let (mut window, mut heard, mut highest) = (Window::default(), HashSet::new(), 0_u64);
            for _ in 0..20_000 {
                let counter =
                    (highest + rng.random_range(0..=jump)).saturating_sub(rng.random_range(0..2_200));
                let in_time = counter > 0 && counter + WIDTH > highest;
                let expected = in_time && !heard.contains(&counter);
                assert_eq!(window.note(counter), expected, "{counter} after {highest}, jumps of {jump}");
                if in_time {
                    heard.insert(counter);
                }
                highest = highest.max(counter * u64::from(in_time));
            }
        }
    }

    #[test]
    fn the_window_is_at_least_1024_wide_and_has_an_end() {
        let mut window = Window::default();
        assert!(window.note(1_000_000));
        assert!(window.note(1_000_000 - 1_024));
        assert!(window.note(1_000_000 - WIDTH + 1));
        assert!(!window.note(1_000_000 - WIDTH));
        assert!(!window.note(0));
        assert!(window.note(u64::MAX));
        assert!(!window.note(u64::MAX));
        assert!(!window.note(1_000_001));
        assert!(window.note(u64::MAX - 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_run_begins_anew_and_ends_the_earlier_ones() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        assert_eq!(heard.note(NodeId(1), 5, 1, now), Ok(()));
        assert_eq!(heard.note(NodeId(1), 5, 1, now), Err(Refusal::Replayed));
        assert_eq!(heard.note(NodeId(2), 4, 1, now), Ok(()));
        assert_eq!(heard.note(NodeId(1), 6, 1, now), Ok(()));
        assert_eq!(heard.note(NodeId(1), 5, 2, now), Err(Refusal::OldRun));
        assert_eq!(heard.note(NodeId(1), 6, 2, now), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_table_keeps_whom_it_knows_and_forgets_only_the_long_silent() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        for id in 0..1024 {
            assert_eq!(heard.note(NodeId(id), 1, 1, now), Ok(()));
        }
        assert_eq!(heard.note(NodeId(2000), 1, 1, now), Err(Refusal::Crowded));
        assert_eq!(heard.note(NodeId(5), 1, 2, now + SILENCE), Ok(()));
        for id in 0..1023 {
            assert_eq!(heard.note(NodeId(2000 + id), 1, 1, now + SILENCE), Ok(()));
        }
        assert_eq!(heard.note(NodeId(5), 1, 2, now + SILENCE), Err(Refusal::Replayed));
        assert_eq!(heard.note(NodeId(4000), 1, 1, now + SILENCE), Err(Refusal::Crowded));
        assert_eq!(heard.senders.len(), 1024);
    }
}
