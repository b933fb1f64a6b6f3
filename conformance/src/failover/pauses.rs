//! How long everybody waited after each fault.

use super::{
    faults::{Fault, Round},
    load::{Appending, Consuming},
    subscription,
    timeline::Timeline,
};
use anyhow::{Context as _, Result, ensure};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// Design: first successful append after the kill of a node, p99.
pub const DESIGN_APPEND: Duration = Duration::from_secs(1);
/// Design: a subscription moves again after the kill of its owner, p99.
pub const DESIGN_SUBSCRIPTION: Duration = Duration::from_secs(6);
/// What is asserted: generous, as the machine may be busy.
const MOST: Duration = Duration::from_secs(30);

/// Many waits of one kind.
#[derive(Debug, Clone, Default)]
pub struct Row(Vec<Duration>);

impl Row {
    pub(super) fn add(&mut self, wait: Duration) {
        self.0.push(wait);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The shortest that at least this share of all are not longer than.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(place.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// Waits by fault, by what was waited for and by language.
#[derive(Debug, Default)]
pub struct Pauses {
    rows: BTreeMap<(&'static str, &'static str, String), Row>,
}

const APPEND: &str = "first append";
const SUBSCRIPTION: &str = "subscription moves again";
const ALL: &str = "all";

impl Pauses {
    pub(super) fn of(
        rounds: &[Round],
        appending: &[Arc<Appending>],
        consuming: &[Arc<Consuming>],
    ) -> Result<Pauses> {
        let mut pauses = Pauses::default();
        for round in rounds {
            for of in appending {
                let pause = of.first_after(round.at);
                let pause =
                    pause.with_context(|| format!("{} appended nothing after {round}", of.language))?;
                ensure!(pause < MOST, "{} waited {pause:.1?} for an append after {round}", of.language);
                pauses.add(round.fault, APPEND, &of.language, pause);
            }
            for of in consuming.iter().filter(|of| round.owned.contains(&of.language)) {
                let pause = of.first_after(round.at);
                let pause =
                    pause.with_context(|| format!("{} received nothing after {round}", of.language))?;
                ensure!(pause < MOST, "{} waited {pause:.1?} for a record after {round}", of.language);
                pauses.add(round.fault, SUBSCRIPTION, &of.language, pause);
            }
        }
        Ok(pauses)
    }

    /// Tells of every wait for a record that was longer than it should be where it went.
    pub(super) fn explained(
        rounds: &[Round],
        consuming: &[Arc<Consuming>],
        timeline: &Timeline,
    ) -> Vec<String> {
        let mut told = Vec::new();
        for round in rounds {
            for of in consuming.iter().filter(|of| round.owned.contains(&of.language)) {
                let Some(pause) = of.first_after(round.at).filter(|pause| *pause > DESIGN_SUBSCRIPTION)
                else {
                    continue;
                };
                told.push(format!(
                    "{} waited {:.2} s for a record after {round}; {}\n{}",
                    of.language,
                    pause.as_secs_f64(),
                    of.between(round.at, pause),
                    timeline.told(&subscription(&of.language), round.at, round.at + pause),
                ));
            }
        }
        told
    }

    fn add(&mut self, fault: Fault, what: &'static str, language: &str, pause: Duration) {
        for language in [language, ALL] {
            let row = self.rows.entry((fault.name(), what, language.to_owned())).or_default();
            row.0.push(pause);
        }
    }

    /// Waits of all languages for an append after kills.
    pub fn appends_after_kills(&self) -> Option<&Row> {
        self.rows.get(&(Fault::Kill.name(), APPEND, ALL.to_owned()))
    }

    /// Waits of all languages for their subscriptions after kills of the owners.
    pub fn subscriptions_after_kills(&self) -> Option<&Row> {
        self.rows.get(&(Fault::Kill.name(), SUBSCRIPTION, ALL.to_owned()))
    }
}

impl fmt::Display for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| node | what | language | times | p50 | p99 | longest | design |")?;
        write!(f, "| --- | --- | --- | --- | --- | --- | --- | --- |")?;
        for ((fault, what, language), row) in &self.rows {
            let design = match (*fault == Fault::Kill.name(), *what) {
                (true, APPEND) => format!("{DESIGN_APPEND:?}"),
                (true, _) => format!("{DESIGN_SUBSCRIPTION:?}"),
                (false, _) => String::new(),
            };
            let [half, most, all] = [0.5, 0.99, 1.0].map(|share| row.quantile(share).as_secs_f64());
            let count = row.count();
            write!(
                f,
                "\n| {fault} | {what} | {language} | {count} | {half:.2} s | {most:.2} s | {all:.2} s | {design} |"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let row = Row((1..=200).rev().map(Duration::from_millis).collect());
        let millis = [0.0, 0.5, 0.99, 1.0].map(|share| row.quantile(share).as_millis());
        assert_eq!(millis, [1, 100, 198, 200]);
        assert_eq!(Row::default().quantile(0.99), Duration::ZERO);
    }
}
