//! What can be set on a producer.

use super::observer::{BatchReport, Observer};
use crate::{
    error::{Error, ErrorKind, Result},
    options::{OptionScope, OptionValue, Setting},
    record::codec::MAX_BATCH_BYTES,
    retry::RetryPolicy,
};
use hstreamdb_proto::api::CompressionType;
use std::{fmt, sync::Arc, time::Duration};

/// Largest record that is compressed in the hope that a server then accepts it, in bytes.
const MAX_COMPRESSIBLE_BYTES: usize = 16 << 20;

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, level 0 to 9, 6 by default.
    Gzip,
    /// zstd, level -7 to 22, 3 by default.
    Zstd,
}

impl Compression {
    /// The compression of that word of the table of options.
    pub(super) fn from_name(name: &str) -> Self {
        match name {
            "gzip" => Compression::Gzip,
            "zstd" => Compression::Zstd,
            _ => Compression::None,
        }
    }

    pub(super) fn to_wire(self) -> CompressionType {
        match self {
            Compression::None => CompressionType::None,
            Compression::Gzip => CompressionType::Gzip,
            Compression::Zstd => CompressionType::Zstd,
        }
    }
}

/// What `append` does when flow control has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WhenFull {
    /// Waits for room, first come first served.
    #[default]
    Wait,
    /// Waits for room at most this long, then fails with `Overloaded`.
    WaitTimeout(Duration),
    /// Fails with `Overloaded` at once.
    Fail,
}

/// What the application wants to be told about every batch.
#[derive(Clone)]
pub(super) struct OnBatch(pub Arc<dyn Fn(&BatchReport<'_>) + Send + Sync>);

impl fmt::Debug for OnBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnBatch")
    }
}

/// All settings of a producer. What is `None` is as the client has it.
#[derive(Debug, Clone)]
pub(super) struct ProducerSettings {
    pub batch_max_records: u32,
    pub batch_max_bytes: usize,
    pub batch_max_age: Duration,
    pub compression: Compression,
    pub compression_level: Option<i32>,
    pub flow_control_bytes: usize,
    pub flow_control_records: usize,
    pub when_full: WhenFull,
    pub max_inflight_per_shard: usize,
    pub delivery_timeout: Duration,
    pub allow_duplicates: bool,
    pub request_timeout: Option<Duration>,
    pub retry_max_attempts: Option<u32>,
    pub retry_base: Option<Duration>,
    pub retry_max: Option<Duration>,
    pub on_batch: Option<OnBatch>,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        ProducerSettings {
            batch_max_records: 100,
            batch_max_bytes: 512 * 1024,
            batch_max_age: Duration::from_millis(100),
            compression: Compression::None,
            compression_level: None,
            flow_control_bytes: 100 << 20,
            flow_control_records: 1_000_000,
            when_full: WhenFull::Wait,
            max_inflight_per_shard: 5,
            delivery_timeout: Duration::from_secs(120),
            allow_duplicates: false,
            request_timeout: None,
            retry_max_attempts: None,
            retry_base: None,
            retry_max: None,
            on_batch: None,
        }
    }
}

impl ProducerSettings {
    /// Sets one option of the table.
    pub fn set(&mut self, name: &str, value: OptionValue) -> Result<()> {
        let setting = Setting::new(OptionScope::Producer, name, value)?;
        match setting.name() {
            "batch_max_records" => self.batch_max_records = setting.integer()?,
            "batch_max_bytes" => self.batch_max_bytes = setting.integer()?,
            "batch_max_age_ms" => self.batch_max_age = setting.millis()?,
            "compression" => self.compression = Compression::from_name(&setting.text()?),
            "compression_level" => self.compression_level = Some(setting.integer()?),
            "flow_control_bytes" => self.flow_control_bytes = setting.integer()?,
            "flow_control_records" => self.flow_control_records = setting.integer()?,
            "when_full" => {
                self.when_full = match (setting.text()?.as_str(), self.when_full) {
                    ("fail", _) => WhenFull::Fail,
                    (_, WhenFull::Fail) => WhenFull::Wait,
                    (_, waiting) => waiting,
                }
            }
            "when_full_timeout_ms" => {
                let timeout = setting.millis()?;
                match self.when_full {
                    WhenFull::Fail => {}
                    _ if timeout.is_zero() => self.when_full = WhenFull::Wait,
                    _ => self.when_full = WhenFull::WaitTimeout(timeout),
                }
            }
            "max_inflight_per_shard" => self.max_inflight_per_shard = setting.integer()?,
            "delivery_timeout_ms" => self.delivery_timeout = setting.millis()?,
            "allow_duplicates" => self.allow_duplicates = setting.bool()?,
            "request_timeout_ms" => self.request_timeout = Some(setting.millis()?),
            "retry_max_attempts" => self.retry_max_attempts = Some(setting.integer()?),
            "retry_base_ms" => self.retry_base = Some(setting.millis()?),
            "retry_max_ms" => self.retry_max = Some(setting.millis()?),
            _ => return Err(setting.refuse("this option is not known to the producer")),
        }
        Ok(())
    }

    /// Checks what single options cannot say, whatever way they were set.
    pub fn validate(&self) -> Result<()> {
        let refuse = |name: &str, reason: String| {
            Err(Error::new(ErrorKind::InvalidArgument, "set producer option")
                .with_resource(name)
                .with_message(reason))
        };
        let at_least_one = [
            ("batch_max_records", self.batch_max_records == 0),
            ("batch_max_bytes", self.batch_max_bytes == 0),
            ("flow_control_bytes", self.flow_control_bytes == 0),
            ("flow_control_records", self.flow_control_records == 0),
            ("delivery_timeout_ms", self.delivery_timeout.is_zero()),
            ("request_timeout_ms", self.request_timeout.is_some_and(|timeout| timeout.is_zero())),
            ("retry_max_attempts", self.retry_max_attempts == Some(0)),
        ];
        if let Some((name, _)) = at_least_one.into_iter().find(|(_, zero)| *zero) {
            return refuse(name, "it must be at least 1".into());
        }
        let window = hstreamdb_proto::metadata::PRODUCER_WINDOW as usize;
        if !(1..=window).contains(&self.max_inflight_per_shard) {
            return refuse("max_inflight_per_shard", format!("it must be from 1 to {window}"));
        }
        let levels = match self.compression {
            Compression::None => return Ok(()),
            Compression::Gzip => 0..=9,
            Compression::Zstd => -7..=22,
        };
        match self.compression_level {
            Some(level) if !levels.contains(&level) => refuse(
                "compression_level",
                format!("{level} is outside {} to {} of this compression", levels.start(), levels.end()),
            ),
            _ => Ok(()),
        }
    }

    /// The client's retry policy with what is set here.
    pub fn retry(&self, client: RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.retry_max_attempts.unwrap_or(client.max_attempts),
            base: self.retry_base.unwrap_or(client.base),
            max: self.retry_max.unwrap_or(client.max),
        }
    }

    /// Who is told about every batch.
    pub fn observer(&self, stream: &str) -> Option<Observer> {
        self.on_batch.as_ref().map(|on_batch| Observer::new(stream, on_batch.0.clone()))
    }

    /// Largest encoded size of one record alone in its batch. Servers measure what arrives: how much of a record is left
    /// after compression they can tell best.
    pub fn record_limit(&self) -> usize {
        let limit = match self.compression {
            Compression::None => MAX_BATCH_BYTES,
            Compression::Gzip | Compression::Zstd => MAX_COMPRESSIBLE_BYTES,
        };
        limit.max(self.batch_max_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::option_table;

    #[test]
    fn every_option_of_the_table_can_be_set_to_its_default_without_a_change() {
        let mut settings = ProducerSettings::default();
        for row in option_table().iter().filter(|row| row.scope == OptionScope::Producer) {
            if !row.default.is_empty() {
                settings.set(row.name, OptionValue::from(row.default)).unwrap();
            }
        }
        assert_eq!(format!("{settings:?}"), format!("{:?}", ProducerSettings::default()));
        settings.set("compression_level", OptionValue::from(3)).unwrap();
        assert_eq!(settings.compression_level, Some(3));
    }

    #[test]
    fn waiting_is_one_choice_in_whatever_order_it_is_set() {
        let set = |options: &[(&str, &str)]| {
            let mut settings = ProducerSettings::default();
            for (name, value) in options {
                settings.set(name, OptionValue::from(*value)).unwrap();
            }
            settings.when_full
        };
        let timeout = WhenFull::WaitTimeout(Duration::from_millis(5));
        assert_eq!(set(&[("when_full", "wait"), ("when_full_timeout_ms", "5")]), timeout);
        assert_eq!(set(&[("when_full_timeout_ms", "5"), ("when_full", "wait")]), timeout);
        assert_eq!(set(&[("when_full_timeout_ms", "5"), ("when_full", "fail")]), WhenFull::Fail);
        assert_eq!(set(&[("when_full", "fail"), ("when_full_timeout_ms", "5")]), WhenFull::Fail);
    }

    #[test]
    fn what_is_not_set_is_as_the_client_has_it() {
        let client = RetryPolicy { max_attempts: 9, ..RetryPolicy::default() };
        let mut settings = ProducerSettings::default();
        assert_eq!(settings.retry(client), client);
        for (name, value) in [("retry_max_attempts", 2), ("retry_base_ms", 3), ("retry_max_ms", 4)] {
            settings.set(name, OptionValue::from(value)).unwrap();
        }
        let (base, max) = (Duration::from_millis(3), Duration::from_millis(4));
        assert_eq!(settings.retry(client), RetryPolicy { max_attempts: 2, base, max });
    }

    #[test]
    fn levels_belong_to_their_compression() {
        let settings = ProducerSettings {
            compression: Compression::Gzip,
            compression_level: Some(12),
            ..ProducerSettings::default()
        };
        let error = settings.validate().unwrap_err();
        assert!(error.to_string().contains("compression_level"), "{error}");
        assert!(ProducerSettings { compression: Compression::Zstd, ..settings }.validate().is_ok());
    }
}
