//! The client with its published methods.

use super::{
    appender::Appender,
    consumer::ConsumerStream,
    producer::{FlushCallback, Producer},
    reader::ShardReader,
    settings::{ChannelProviderSettings, FlushSettings},
    tls::ClientTlsConfig,
    values::{CompressionType, Consumer, ShardId, Stream, StreamShardOffset, Subscription, SubscriptionId},
};
use crate::{
    admin::DeleteStreamOptions,
    error::{Error, ErrorKind, Result},
    record::Offset,
};
use std::time::Duration;
use tokio::sync::mpsc;

/// A connection to a cluster, with the methods of the published crate. [`inner`](Self::inner) has everything else.
#[derive(Debug, Clone)]
pub struct Client {
    inner: crate::Client,
    tls: Option<ClientTlsConfig>,
}

/// A client built with options that the published crate does not have.
impl From<crate::Client> for Client {
    fn from(inner: crate::Client) -> Self {
        Client { inner, tls: None }
    }
}

impl Client {
    /// Connects to `hstream://host:6570`; several hosts can be given, separated by commas. `hstreams://`, or TLS in the
    /// settings, speaks TLS to all nodes.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`](crate::ClientBuilder::connect).
    pub async fn new<Destination: Into<String>>(
        server_url: Destination,
        channel_provider_settings: ChannelProviderSettings,
    ) -> Result<Self> {
        let mut url = server_url.into();
        let tls = channel_provider_settings.tls;
        let mut builder = crate::Client::builder();
        if let Some(tls) = &tls {
            if let Some((scheme, rest)) = url.split_once("://")
                && scheme.eq_ignore_ascii_case("hstream")
            {
                url = format!("hstreams://{rest}");
            }
            builder = tls.apply(builder)?;
        }
        let inner = builder.url(url).connect().await?;
        Ok(Client { inner, tls })
    }

    /// The client underneath, with all that the published crate does not have.
    pub fn inner(&self) -> &crate::Client {
        &self.inner
    }

    /// Sends a text to a node, which sends it back.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Closed`.
    pub async fn echo(&self, message: impl Into<String>) -> Result<String> {
        self.inner.echo(&message.into()).await
    }

    /// Creates a stream.
    ///
    /// # Errors
    /// As [`create_stream`](crate::Client::create_stream).
    pub async fn create_stream(&self, stream: Stream) -> Result<Stream> {
        let options = stream.options();
        self.inner.create_stream(&stream.stream_name, options).await.map(Stream::from)
    }

    /// Deletes a stream with its records.
    ///
    /// # Errors
    /// As [`delete_stream`](crate::Client::delete_stream).
    pub async fn delete_stream(
        &self,
        stream_name: String,
        ignore_non_exist: bool,
        force: bool,
    ) -> Result<()> {
        let options = DeleteStreamOptions::new().ignore_missing(ignore_non_exist).force(force);
        self.inner.delete_stream(&stream_name, options).await
    }

    /// All streams.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_streams(&self) -> Result<Vec<Stream>> {
        Ok(self.inner.list_streams().await?.into_iter().map(Stream::from).collect())
    }

    /// Describes a stream.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Timeout`, `Closed`.
    pub async fn get_stream<T: Into<String>>(&self, stream_name: T) -> Result<Stream> {
        self.inner.get_stream(&stream_name.into()).await.map(Stream::from)
    }

    /// Creates a subscription.
    ///
    /// # Errors
    /// `InvalidArgument` for a negative number, and as [`create_subscription`](crate::Client::create_subscription).
    pub async fn create_subscription(&self, subscription: Subscription) -> Result<Subscription> {
        let options = subscription.options()?;
        let Subscription { subscription_id, stream_name, .. } = &subscription;
        self.inner.create_subscription(subscription_id, stream_name, options).await.map(Subscription::from)
    }

    /// Deletes a subscription; `force` also when consumers are attached.
    ///
    /// # Errors
    /// As [`delete_subscription`](crate::Client::delete_subscription).
    pub async fn delete_subscription(&self, subscription_id: SubscriptionId, force: bool) -> Result<()> {
        self.inner.delete_subscription(&subscription_id, force).await
    }

    /// All subscriptions.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_subscriptions(&self) -> Result<Vec<Subscription>> {
        Ok(self.inner.list_subscriptions().await?.into_iter().map(Subscription::from).collect())
    }

    /// Describes a subscription.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Timeout`, `Closed`.
    pub async fn get_subscription<T: Into<String>>(&self, subscription_id: T) -> Result<Subscription> {
        Ok(self.inner.get_subscription(&subscription_id.into()).await?.0.into())
    }

    /// The consumers attached to a subscription now.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_consumers<T: Into<String>>(&self, subscription_id: T) -> Result<Vec<Consumer>> {
        let consumers = self.inner.list_consumers(&subscription_id.into()).await?;
        let shape = |consumer: crate::ConsumerInfo| Consumer {
            name: consumer.name,
            uri: consumer.uri,
            user_agent: consumer.user_agent,
        };
        Ok(consumers.into_iter().map(shape).collect())
    }

    /// A producer to a stream: appenders take records, the producer waits for their end. `flow_control_bytes_limit` is what
    /// may wait for its result, 100 MiB when not given; an append beyond it waits.
    ///
    /// # Errors
    /// `NotFound` for an unknown stream, `InvalidArgument` for TLS settings other than the client's, which hold for all its
    /// connections; `Unavailable`, `Timeout`, `Closed`.
    pub async fn new_producer(
        &self,
        stream_name: String,
        compression_type: CompressionType,
        flow_control_bytes_limit: Option<usize>,
        flush_settings: FlushSettings,
        channel_provider_settings: ChannelProviderSettings,
        on_flush: Option<FlushCallback>,
    ) -> Result<(Appender, Producer)> {
        self.check(&channel_provider_settings, "build producer")?;
        let mut builder = self
            .inner
            .producer(&stream_name)
            .compression(compression_type.into())
            .batch_max_records(flush_settings.max_records())
            .batch_max_bytes(flush_settings.max_bytes())
            .batch_max_age(flush_settings.max_age());
        if let Some(bytes) = flow_control_bytes_limit {
            builder = builder.flow_control_bytes(bytes);
        }
        if let Some(on_flush) = on_flush {
            builder =
                builder.on_batch(move |report| on_flush(report.result.is_ok(), report.records, report.bytes));
        }
        let producer = builder.build().await?;
        // Nothing is ever sent over it: it tells when the last appender is gone.
        let (alive, appenders) = mpsc::channel(1);
        Ok((Appender::new(producer.clone(), alive), Producer::new(producer, appenders)))
    }

    /// Attaches to a subscription; what it delivers comes out record by record.
    ///
    /// # Errors
    /// `NotFound` for an unknown subscription, `Unauthenticated`, `InvalidArgument`. Until the subscription's node answers,
    /// it goes on trying in the background.
    pub async fn streaming_fetch(
        &self,
        consumer_name: String,
        subscription_id: SubscriptionId,
    ) -> Result<ConsumerStream> {
        let consumer = self.inner.consumer(&subscription_id).name(consumer_name).start().await?;
        Ok(ConsumerStream::new(consumer))
    }

    /// A polled reader of a shard; a read waits `timeout_ms` for something to come.
    ///
    /// # Errors
    /// `AlreadyExists` for a reader id that is taken, `NotFound` for an unknown shard, `InvalidArgument` also for TLS
    /// settings other than the client's; `Unavailable`, `Timeout`, `Closed`.
    pub async fn create_shard_reader(
        &self,
        reader_id: String,
        stream_name: String,
        shard_id: ShardId,
        shard_offset: StreamShardOffset,
        timeout_ms: u32,
        channel_provider_settings: ChannelProviderSettings,
    ) -> Result<ShardReader> {
        self.check(&channel_provider_settings, "open reader")?;
        let reader = self
            .inner
            .polled_reader(&stream_name, shard_id)
            .reader_id(reader_id)
            .from(Offset::from(shard_offset))
            .timeout(Duration::from_millis(u64::from(timeout_ms)));
        reader.open().await.map(ShardReader::new)
    }

    /// Connections are the client's: other TLS settings than its own would be passed over in silence.
    fn check(&self, settings: &ChannelProviderSettings, operation: &'static str) -> Result<()> {
        if settings.tls.is_none() || settings.tls == self.tls {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidArgument, operation).with_message(
            "connections are shared, so TLS is set where the client is made; leave it out here",
        ))
    }
}
