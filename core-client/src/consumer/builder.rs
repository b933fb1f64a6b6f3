//! Settings of a consumer.

use super::event::ConsumerSink;
use super::shared::Settings;
use super::{Consumer, start};
use crate::client::Client;
use crate::error::Result;
use crate::options::{OptionScope, OptionValue, Setting};
use std::sync::Arc;
use std::time::Duration;

/// Builds a [`Consumer`]; made by [`Client::consumer`](crate::Client::consumer).
#[derive(Debug, Clone)]
#[must_use = "a consumer does nothing before it is started"]
pub struct ConsumerBuilder {
    client: Client,
    subscription: String,
    settings: Settings,
}

impl Client {
    /// A consumer of a subscription.
    pub fn consumer(&self, subscription: &str) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), subscription)
    }
}

impl ConsumerBuilder {
    fn new(client: Client, subscription: &str) -> Self {
        ConsumerBuilder {
            client,
            subscription: subscription.to_owned(),
            settings: Settings {
                name: None,
                ack_max_records: 100,
                ack_max_age: Duration::from_millis(100),
                prefetch_bytes: 16 << 20,
                prefetch_batches: 100,
            },
        }
    }

    /// Sets an option by its name in the table of options (scope `Consumer`).
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, with the known ones, and for a value out of range.
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self> {
        let setting = Setting::new(OptionScope::Consumer, name, value)?;
        match setting.name() {
            "name" => {
                let name = setting.text()?;
                self.settings.name = (!name.is_empty()).then_some(name);
            }
            "ack_max_records" => self.settings.ack_max_records = setting.integer()?,
            "ack_max_age_ms" => self.settings.ack_max_age = setting.millis()?,
            "prefetch_bytes" => self.settings.prefetch_bytes = setting.integer()?,
            "prefetch_batches" => self.settings.prefetch_batches = setting.integer()?,
            _ => return Err(setting.refuse("this version does not use the option")),
        }
        Ok(self)
    }

    /// Name of the consumer, unique among those of the subscription. Default: generated.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.settings.name = (!name.is_empty()).then_some(name);
        self
    }

    /// Acknowledgements are sent when this many wait; at least 1, default 100.
    pub fn ack_max_records(mut self, records: u32) -> Self {
        self.settings.ack_max_records = u64::from(records.max(1));
        self
    }

    /// Acknowledgements are sent when the first has waited this long; default 100 ms.
    pub fn ack_max_age(mut self, age: Duration) -> Self {
        self.settings.ack_max_age = age.min(Duration::from_secs(86_400));
        self
    }

    /// Bytes of batches received ahead of the application; at least 1, default 16 MiB. One batch may exceed it.
    pub fn prefetch_bytes(mut self, bytes: usize) -> Self {
        self.settings.prefetch_bytes = bytes.max(1);
        self
    }

    /// Batches received ahead of the application; at least 1, default 100.
    pub fn prefetch_batches(mut self, batches: usize) -> Self {
        self.settings.prefetch_batches = batches.max(1);
        self
    }

    /// Starts the consumer, to be read with [`Consumer::next_batch`].
    ///
    /// Returns when it is attached, or after the request timeout if no answer has come by then; it goes on trying
    /// without an end in the background.
    ///
    /// # Errors
    /// What trying again cannot cure: `NotFound` for an unknown subscription, `Unauthenticated`, `InvalidArgument`.
    pub async fn start(self) -> Result<Consumer> {
        start(&self.client, self.subscription, self.settings, None).await
    }

    /// Starts the consumer; batches go to `sink`, as many as are granted with [`Consumer::grant`].
    ///
    /// # Errors
    /// Those of [`start`](Self::start); the sink's `closed` is not called then.
    pub async fn start_with_sink(self, sink: Arc<dyn ConsumerSink>) -> Result<Consumer> {
        start(&self.client, self.subscription, self.settings, Some(sink)).await
    }
}
