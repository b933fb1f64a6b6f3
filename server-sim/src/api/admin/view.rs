//! Views, of which this server has none.

use super::answer::Answer;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum View {
    /// All views
    List,
}

impl View {
    pub(super) fn run(self) -> Answer {
        match self {
            View::List => Answer::table(["View ID", "Status", "CreatedTime"], []),
        }
    }
}
