//! The progress bar: rows appended and rows received, of all languages together.

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::{fmt::Write, time::Duration};

/// A bar on a terminal, nothing elsewhere.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar over `rows` steps.
    pub fn new(rows: u64) -> Self {
        let bar = ProgressBar::new(rows);
        if let Ok(style) =
            ProgressStyle::with_template("{msg:<34} {bar:32} {percent:>3} %  {pos}/{len}  {rate}  eta {eta}")
        {
            let rate = |state: &ProgressState, out: &mut dyn Write| {
                // What cannot be written is not shown.
                let _ = write!(out, "{:.0} rows/s", state.per_sec());
            };
            bar.set_style(style.with_key("rate", rate));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress { bar }
    }

    /// Names the step under way; a line of its own where there is no terminal.
    pub fn step(&self, what: &str) {
        if self.bar.is_hidden() {
            eprintln!("{what}");
        }
        self.bar.set_message(what.to_owned());
    }

    /// Counts rows.
    pub fn advance(&self, rows: u64) {
        self.bar.inc(rows);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
