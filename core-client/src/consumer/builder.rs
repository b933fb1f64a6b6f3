//! Settings of a consumer.

use super::event::{ConsumerEvent, ConsumerSink, EventListener};
use super::settings::Settings;
use super::{Consumer, MAX_WAIT, start};
use crate::client::Client;
use crate::error::Result;
use crate::options::OptionValue;
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
        ConsumerBuilder { client, subscription: subscription.to_owned(), settings: Settings::default() }
    }

    /// Sets an option by its name in the table of options (scope `Consumer`).
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, with the known ones, and for a value out of range.
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self> {
        self.settings.set(name, value.into())?;
        Ok(self)
    }

    /// Name of the consumer, unique among those of the subscription: 1 to 255 characters without control characters,
    /// checked when it starts. Default, and for the empty name: `consumer-` and 16 random hexadecimal digits.
    ///
    /// A name that is taken three times in a row gets a suffix, a dash and 8 such digits; see [`Consumer::name`].
    pub fn name(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.settings.name = (!name.is_empty()).then_some(name);
        self
    }

    /// Ends with `AlreadyExists` when another consumer keeps the name, instead of going on with a suffix. Only until it is
    /// attached for the first time: later the name is held by its own last session.
    pub fn name_must_be_free(mut self, must: bool) -> Self {
        self.settings.name_must_be_free = must;
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

    /// Bytes of batches received ahead of the application; at least 1, default 16 MiB.
    ///
    /// What a consumer holds that is not taken yet is at most this, one more batch, and what HTTP/2 lets the server send
    /// ahead: as much again, but no less than 64 KiB and no more than 2 MiB.
    pub fn prefetch_bytes(mut self, bytes: usize) -> Self {
        self.settings.prefetch_bytes = bytes.max(1);
        self
    }

    /// Batches received ahead of the application; at least 1, default 100.
    pub fn prefetch_batches(mut self, batches: usize) -> Self {
        self.settings.prefetch_batches = batches.max(1);
        self
    }

    /// Sessions in a row that may be lost, or not be attached, before the consumer ends with the last error; default 0,
    /// without limit.
    pub fn reconnect_max_attempts(mut self, attempts: u32) -> Self {
        self.settings.reconnect_max_attempts = attempts;
        self
    }

    /// How long there may be no working session before the consumer ends with the last error, as seen after each failed
    /// try; default zero, without limit.
    pub fn reconnect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.reconnect_timeout = timeout.min(MAX_WAIT);
        self
    }

    /// How long the server may say nothing before it is asked whether the session is still one; default 15 s, zero never
    /// asks. Two questions without an answer within the request timeout end the session, and another one is opened.
    ///
    /// It costs a quiet consumer one small call per interval (`GetSubscription`, every fourth time `ListConsumers`); one
    /// that receives batches asks nothing.
    pub fn probe_interval(mut self, interval: Duration) -> Self {
        self.settings.probe_interval = interval.min(MAX_WAIT);
        self
    }

    /// Calls `listener` for every event. It is called from the client's tasks and must not block; a panic in it is
    /// contained.
    pub fn on_event(mut self, listener: impl Fn(&ConsumerEvent) + Send + Sync + 'static) -> Self {
        self.settings.listener = Some(EventListener::new(listener));
        self
    }

    /// Starts the consumer, to be read with [`Consumer::next_batch`].
    ///
    /// Returns when it is attached, or after the request timeout if no answer has come by then; it goes on trying in the
    /// background, without an end unless that was limited.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is none; what trying again cannot cure: `NotFound` for an unknown subscription,
    /// `Unauthenticated`, `InvalidArgument`.
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
