//! Settings of a consumer.

use super::event::EventListener;
use crate::error::Result;
use crate::options::{OptionScope, OptionValue, Setting};
use std::time::Duration;

/// Validated settings of a consumer.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub name: Option<String>,
    /// A name that stays taken before the first session is an error, and not a reason for a suffix.
    pub name_must_be_free: bool,
    pub ack_max_records: u64,
    pub ack_max_age: Duration,
    pub prefetch_bytes: usize,
    pub prefetch_batches: usize,
    /// Sessions in a row that may fail; 0 is without limit.
    pub reconnect_max_attempts: u32,
    /// How long there may be no working session; zero is without limit.
    pub reconnect_timeout: Duration,
    /// Silence after which the owner is asked; zero never asks.
    pub probe_interval: Duration,
    pub listener: Option<EventListener>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            name: None,
            name_must_be_free: false,
            ack_max_records: 100,
            ack_max_age: Duration::from_millis(100),
            prefetch_bytes: 16 << 20,
            prefetch_batches: 100,
            reconnect_max_attempts: 0,
            reconnect_timeout: Duration::ZERO,
            probe_interval: Duration::from_secs(15),
            listener: None,
        }
    }
}

impl Settings {
    /// Sets an option of the table.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, with the known ones, and for a value out of range.
    pub fn set(&mut self, name: &str, value: OptionValue) -> Result<()> {
        let setting = Setting::new(OptionScope::Consumer, name, value)?;
        match setting.name() {
            "name" => {
                let name = setting.text()?;
                self.name = (!name.is_empty()).then_some(name);
            }
            "name_taken" => self.name_must_be_free = setting.text()? == "fail",
            "ack_max_records" => self.ack_max_records = setting.integer()?,
            "ack_max_age_ms" => self.ack_max_age = setting.millis()?,
            "prefetch_bytes" => self.prefetch_bytes = setting.integer()?,
            "prefetch_batches" => self.prefetch_batches = setting.integer()?,
            "reconnect_max_attempts" => self.reconnect_max_attempts = setting.integer()?,
            "reconnect_timeout_ms" => self.reconnect_timeout = setting.millis()?,
            "probe_interval_ms" => self.probe_interval = setting.millis()?,
            _ => return Err(setting.refuse("this version does not use the option")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{OptionKind, option_table};

    #[test]
    fn every_consumer_option_of_the_table_does_something_and_defaults_agree() {
        let plain = format!("{:?}", Settings::default());
        let mut from_table = Settings::default();
        for row in option_table().iter().filter(|row| row.scope == OptionScope::Consumer) {
            let other = match row.kind {
                OptionKind::Integer { max, .. } => OptionValue::Integer(max),
                OptionKind::Choice(words) => OptionValue::from(*words.last().unwrap()),
                _ => OptionValue::from("x"),
            };
            let mut changed = Settings::default();
            changed.set(row.name, other).unwrap();
            assert_ne!(format!("{changed:?}"), plain, "{} does nothing", row.name);
            from_table.set(row.name, row.default.into()).unwrap();
        }
        assert_eq!(format!("{from_table:?}"), plain);
    }
}
