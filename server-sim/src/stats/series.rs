//! Totals with their past.
//!
//! Counting costs one atomic addition per total. The past is kept as marks: the first count in a tick writes down
//! what the totals were before it. A rate is then a difference of totals over a time. Marks thin out with age, so
//! the memory is bounded whatever is counted, and what counts nothing keeps no marks at all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// The past reaches back this far.
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(600);

/// Length of a tick.
const TICK: Duration = Duration::from_millis(200);

/// A series younger than this is taken to be this old: one count right after the start is no high rate.
const MIN_AGE: Duration = Duration::from_secs(1);

/// What a level keeps.
struct Level {
    /// Ticks between two marks.
    stride: u64,
    marks: usize,
}

/// Youngest first. They reach back 4 s, 60 s and 600 s.
const LEVELS: [Level; 3] =
    [Level { stride: 1, marks: 21 }, Level { stride: 10, marks: 31 }, Level { stride: 100, marks: 31 }];

/// `N` totals that grow together, with the rates at which they grew.
#[derive(Debug)]
pub struct Series<const N: usize> {
    started: Instant,
    totals: [AtomicU64; N],
    /// One more than the tick of the youngest mark; 0 before the first.
    marked: AtomicU64,
    past: Mutex<Past<N>>,
}

impl<const N: usize> Default for Series<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Series<N> {
    /// All totals at 0.
    pub fn new() -> Self {
        Series {
            started: Instant::now(),
            totals: std::array::from_fn(|_| AtomicU64::new(0)),
            marked: AtomicU64::new(0),
            past: Mutex::default(),
        }
    }

    fn past(&self) -> MutexGuard<'_, Past<N>> {
        self.past.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds to every total; 0 leaves one as it is.
    pub fn add(&self, amounts: [u64; N]) {
        self.add_at(Instant::now(), amounts);
    }

    fn add_at(&self, now: Instant, amounts: [u64; N]) {
        let tick = ticks(now.saturating_duration_since(self.started));
        if self.marked.load(Relaxed) <= tick {
            let mut past = self.past();
            // Others may have come first.
            if self.marked.load(Relaxed) <= tick {
                past.push(Mark { tick, totals: self.totals() });
                self.marked.store(tick + 1, Relaxed);
            }
        }
        for (total, amount) in self.totals.iter().zip(amounts) {
            if amount > 0 {
                total.fetch_add(amount, Relaxed);
            }
        }
    }

    /// One of the totals; 0 if there is none of that number.
    pub fn total(&self, which: usize) -> u64 {
        self.totals.get(which).map_or(0, |total| total.load(Relaxed))
    }

    fn totals(&self) -> [u64; N] {
        std::array::from_fn(|which| self.total(which))
    }

    /// How much one total grew per second in each of these intervals up to now. A series younger than an interval
    /// answers for its age, so that its beginning does not look slow. Beyond [`LONGEST_INTERVAL`] the answers are
    /// rough.
    pub fn rates(&self, which: usize, intervals: &[Duration]) -> Vec<f64> {
        self.rates_at(Instant::now(), which, intervals)
    }

    fn rates_at(&self, now: Instant, which: usize, intervals: &[Duration]) -> Vec<f64> {
        let past = self.past();
        let total = self.total(which) as f64;
        let now = now.saturating_duration_since(self.started);
        let age = now.saturating_sub(past.since).max(MIN_AGE);
        let rate = |interval: &Duration| {
            let before = now.checked_sub(*interval).map_or(0.0, |at| past.total_at(at, which, now, total));
            let seconds = age.min(*interval).as_secs_f64();
            if seconds > 0.0 { (total - before).max(0.0) / seconds } else { 0.0 }
        };
        intervals.iter().map(rate).collect()
    }

    /// Memory it takes now, its past included.
    pub fn bytes(&self) -> usize {
        let marks: usize = self.past().levels.iter().map(VecDeque::capacity).sum();
        size_of::<Self>() + marks * size_of::<Mark<N>>()
    }

    /// Everything at 0, as if it began now.
    pub fn reset(&self) {
        let mut past = self.past();
        *past = Past { since: Instant::now().saturating_duration_since(self.started), ..Past::default() };
        self.marked.store(0, Relaxed);
        for total in &self.totals {
            total.store(0, Relaxed);
        }
    }
}

/// Marks of one series, in order of time from the last level's first to the first level's last.
#[derive(Debug)]
struct Past<const N: usize> {
    levels: [VecDeque<Mark<N>>; LEVELS.len()],
    /// When counting began, measured from the start of the series.
    since: Duration,
}

/// What the totals were when a tick began.
#[derive(Debug, Clone, Copy)]
struct Mark<const N: usize> {
    tick: u64,
    totals: [u64; N],
}

impl<const N: usize> Default for Past<N> {
    fn default() -> Self {
        Past { levels: Default::default(), since: Duration::ZERO }
    }
}

impl<const N: usize> Past<N> {
    /// Adds the youngest mark. What becomes too old for a level moves to the next one, unless that has a mark for
    /// the longer span of time already.
    fn push(&mut self, mut mark: Mark<N>) {
        for (level, marks) in LEVELS.iter().zip(&mut self.levels) {
            mark.tick -= mark.tick % level.stride;
            if marks.back().is_some_and(|last| last.tick == mark.tick) {
                return;
            }
            marks.push_back(mark);
            if marks.len() <= level.marks {
                return;
            }
            match marks.pop_front() {
                Some(oldest) => mark = oldest,
                None => return,
            }
        }
    }

    /// What a total was at a time. Between two marks it is taken to have grown evenly.
    fn total_at(&self, at: Duration, which: usize, now: Duration, total: f64) -> f64 {
        let marks = LEVELS.iter().zip(&self.levels).rev();
        let marks = marks.flat_map(|(level, marks)| marks.iter().map(|mark| (level.stride, mark)));
        let mut before: Option<(Duration, Duration, f64)> = None;
        let (mut after, mut grown) = (now, total);
        for (stride, mark) in marks {
            let value = mark.totals.get(which).map_or(0.0, |total| *total as f64);
            let begin = time(mark.tick);
            if begin > at {
                (after, grown) = (begin, value);
                break;
            }
            before = Some((begin, time(stride), value));
        }
        let Some((begin, span, value)) = before else {
            // Nothing was counted before the first mark.
            return grown;
        };
        // Counts come within the span of a mark; without a further mark nothing was counted after it.
        let span = span.min(after.saturating_sub(begin)).as_secs_f64();
        let part = if span > 0.0 { ((at - begin).as_secs_f64() / span).min(1.0) } else { 1.0 };
        value + (grown - value) * part
    }
}

fn ticks(age: Duration) -> u64 {
    u64::try_from(age.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX - 1)
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(TICK.as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTERVALS: [u64; 9] = [500, 1_000, 4_000, 10_000, 60_000, 61_000, 123_456, 300_000, 600_000];

    /// A total between two marks is not known better than this.
    fn resolution(interval_ms: u64) -> u64 {
        match interval_ms {
            0..=4_000 => 200,
            4_001..=60_000 => 2_000,
            _ => 20_000,
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Checks every interval at `now` against all that was ever counted.
    fn check(series: &Series<2>, counted: &[(u64, u64)], now: u64) -> Result<(), TestCaseError> {
        let rates = series.rates_at(series.started + ms(now), 0, &INTERVALS.map(ms));
        for (interval, rate) in INTERVALS.into_iter().zip(rates) {
            let after = |from: i128| -> u64 {
                let late = counted.iter().filter(|(at, _)| i128::from(*at) > from);
                late.map(|(_, amount)| amount).sum()
            };
            let from = i128::from(now) - i128::from(interval);
            let slack = i128::from(resolution(interval));
            let seconds = interval.min(now.max(1_000)) as f64 / 1000.0;
            let (least, most) = (after(from + slack) as f64, after(from - slack) as f64);
            let got = rate * seconds;
            prop_assert!(
                least - 1e-3 <= got && got <= most + 1e-3,
                "{interval} ms at {now}: {got} is not between {least} and {most}"
            );
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn rates_agree_with_a_list_of_everything_counted(
            steps in proptest::collection::vec(
                (prop_oneof![0..50u64, 0..1_000u64, 0..30_000u64, 0..900_000u64], 0..1_000_000u64), 1..400),
            idle in prop_oneof![Just(0u64), 0..1_000u64, 0..700_000u64],
        ) {
            let series = Series::<2>::new();
            let mut now = 0;
            let mut counted = Vec::new();
            for (index, (pause, amount)) in steps.into_iter().enumerate() {
                now += pause;
                series.add_at(series.started + ms(now), [amount, 1]);
                counted.push((now, amount));
                if index % 20 == 0 {
                    check(&series, &counted, now)?;
                }
            }
            check(&series, &counted, now + idle)?;
            prop_assert_eq!(series.total(0), counted.iter().map(|(_, amount)| amount).sum::<u64>());
            prop_assert_eq!(series.total(1), counted.len() as u64);
        }

        #[test]
        fn dense_traffic_agrees_too(gap in 1..400u64, count in 1_000..6_000u64) {
            let series = Series::<2>::new();
            let mut counted = Vec::new();
            for number in 0..count {
                series.add_at(series.started + ms(number * gap), [number, 1]);
                counted.push((number * gap, number));
            }
            check(&series, &counted, count * gap)?;
        }
    }

    #[test]
    fn a_steady_flow_has_one_rate_whatever_the_interval() {
        let series = Series::<1>::new();
        for tick in 0..40_000u64 {
            series.add_at(series.started + ms(tick * 25), [5]);
        }
        let now = series.started + ms(40_000 * 25);
        for rate in series.rates_at(now, 0, &INTERVALS.map(ms)) {
            assert!((199.0..=201.0).contains(&rate), "{rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_that_of_the_runtime() {
        let series = Series::<1>::new();
        let intervals = [ms(4_000), ms(60_000), ms(600_000)];
        series.add([120]);
        assert_eq!(series.rates(0, &intervals), [120.0; 3], "a young series counts as one second old");
        tokio::time::advance(ms(60_000)).await;
        assert_eq!(series.rates(0, &intervals), [0.0, 2.0, 2.0]);
        tokio::time::advance(ms(540_000)).await;
        assert_eq!(series.rates(0, &intervals), [0.0, 0.0, 0.2]);
        tokio::time::advance(ms(20_000)).await;
        assert_eq!(series.rates(0, &intervals), [0.0; 3]);
        assert_eq!(series.total(0), 120);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_reset_it_begins_anew() {
        let series = Series::<1>::new();
        series.add([1_000]);
        tokio::time::advance(ms(100_000)).await;
        series.reset();
        assert_eq!((series.total(0), series.rates(0, &[ms(60_000)])), (0, vec![0.0]));
        tokio::time::advance(ms(10_000)).await;
        series.add([50]);
        assert_eq!((series.total(0), series.rates(0, &[ms(60_000)])), (50, vec![5.0]));
    }

    #[test]
    fn the_memory_of_the_past_is_bounded() {
        let series = Series::<5>::new();
        for tick in 0..100_000u64 {
            series.add_at(series.started + ms(tick * 200), [1; 5]);
        }
        assert!(series.bytes() <= 5 * 1024, "{}", series.bytes());
        assert!(Series::<5>::new().bytes() < 512);
        let past = series.past();
        assert!(past.levels.iter().zip(&LEVELS).all(|(marks, level)| marks.len() == level.marks));
    }

    #[test]
    fn counts_of_many_threads_all_arrive() {
        let series = Series::<2>::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| series.add([2, 1])));
            }
        });
        assert_eq!(series.totals(), [80_000, 40_000]);
    }
}
