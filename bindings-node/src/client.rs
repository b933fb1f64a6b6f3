//! The client: connecting, streams, subscriptions, and the handles made from it.

use std::sync::Arc;
use std::time::Duration;

use hstreamdb::{
    Client, ConsumerInfo, DeleteStreamOptions, Offset, ReaderBuilder, RecordId, ShardInfo, StreamInfo,
    StreamOptions, SubscriptionInfo, SubscriptionOptions,
};
use napi::bindgen_prelude::{BigInt, BigUint64Array, Env, Object, Result};
use napi_derive::napi;

use crate::batch::{flatten, unflatten};
use crate::consumer::NativeConsumer;
use crate::errors::to_napi;
use crate::options::{OptionEntry, apply, unsigned};
use crate::producer::NativeProducer;
use crate::promise::{Cancel, run};
use crate::reader::NativeReader;

#[napi]
pub struct NativeClient {
    inner: Client,
}

/// A stream as it stands.
#[napi(object, object_from_js = false)]
pub struct StreamRow {
    pub name: String,
    pub replication_factor: u32,
    pub backlog_duration_secs: u32,
    pub shard_count: u32,
    pub created_ms: Option<f64>,
}

/// A shard with its part of the key space.
#[napi(object, object_from_js = false)]
pub struct ShardRow {
    pub id: BigInt,
    pub start: BigInt,
    pub end: BigInt,
    pub epoch: BigInt,
}

/// A subscription as it stands.
#[napi(object, object_from_js = false)]
pub struct SubscriptionRow {
    pub id: String,
    pub stream: String,
    pub ack_timeout_secs: i32,
    pub max_unacked_records: i32,
    pub offset: &'static str,
    pub created_ms: Option<f64>,
}

/// A subscription with shard id and batch id of every committed checkpoint, one after the other.
#[napi(object, object_from_js = false)]
pub struct SubscriptionDetails {
    pub info: SubscriptionRow,
    pub checkpoints: BigUint64Array,
}

/// A consumer that is attached.
#[napi(object, object_from_js = false)]
pub struct ConsumerRow {
    pub name: String,
    pub uri: String,
    pub user_agent: String,
}

fn stream_row(info: StreamInfo) -> StreamRow {
    StreamRow {
        name: info.name,
        replication_factor: info.replication_factor,
        backlog_duration_secs: info.backlog_duration_secs,
        shard_count: info.shard_count,
        created_ms: info.created_ms.map(|ms| ms as f64),
    }
}

fn shard_row(info: ShardInfo) -> ShardRow {
    ShardRow { id: info.id.into(), start: info.start.into(), end: info.end.into(), epoch: info.epoch.into() }
}

fn subscription_row(info: SubscriptionInfo) -> SubscriptionRow {
    SubscriptionRow {
        id: info.id,
        stream: info.stream,
        ack_timeout_secs: info.ack_timeout_secs,
        max_unacked_records: info.max_unacked_records,
        offset: info.offset.name(),
        created_ms: info.created_ms.map(|ms| ms as f64),
    }
}

fn consumer_row(info: ConsumerInfo) -> ConsumerRow {
    ConsumerRow { name: info.name, uri: info.uri, user_agent: info.user_agent }
}

fn offset(text: &str) -> Result<Offset> {
    text.parse().map_err(|error| to_napi(&error))
}

/// Connects and answers with a `NativeClient`.
#[napi]
pub fn connect<'env>(
    env: &'env Env,
    url: String,
    options: Vec<OptionEntry>,
    cancel: Option<&Cancel>,
) -> Result<Object<'env>> {
    let builder =
        Client::builder().url(url).set("user_agent_lang", "node").map_err(|error| to_napi(&error))?;
    let builder = apply(builder, options, |builder, name, value| builder.set(name, value))?;
    run(env, cancel, async move { builder.connect().await }, |inner| Ok(NativeClient { inner }))
}

#[napi]
impl NativeClient {
    #[napi]
    pub fn echo<'env>(&self, env: &'env Env, message: String) -> Result<Object<'env>> {
        let client = self.inner.clone();
        run(env, None, async move { client.echo(&message).await }, Ok)
    }

    /// Counters and gauges as `[name, value]`.
    #[napi]
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let snapshot = self.inner.metrics();
        let counters = snapshot.counters.into_iter().map(|(name, value)| (name.to_owned(), value as f64));
        let gauges = snapshot.gauges.into_iter().map(|(name, value)| (name.to_owned(), value as f64));
        counters.chain(gauges).collect()
    }

    #[napi]
    pub fn create_stream<'env>(
        &self,
        env: &'env Env,
        name: String,
        options: Vec<OptionEntry>,
    ) -> Result<Object<'env>> {
        let options = apply(StreamOptions::default(), options, |o, name, value| o.set(name, value))?;
        let client = self.inner.clone();
        run(env, None, async move { client.create_stream(&name, options).await }, |info| Ok(stream_row(info)))
    }

    #[napi]
    pub fn delete_stream<'env>(
        &self,
        env: &'env Env,
        name: String,
        force: bool,
        ignore_missing: bool,
    ) -> Result<Object<'env>> {
        let options = DeleteStreamOptions { force, ignore_missing };
        let client = self.inner.clone();
        run(env, None, async move { client.delete_stream(&name, options).await }, Ok)
    }

    #[napi]
    pub fn get_stream<'env>(&self, env: &'env Env, name: String) -> Result<Object<'env>> {
        let client = self.inner.clone();
        run(env, None, async move { client.get_stream(&name).await }, |info| Ok(stream_row(info)))
    }

    #[napi]
    pub fn stream_exists<'env>(&self, env: &'env Env, name: String) -> Result<Object<'env>> {
        let client = self.inner.clone();
        run(env, None, async move { client.stream_exists(&name).await }, Ok)
    }

    #[napi]
    pub fn list_streams<'env>(&self, env: &'env Env, prefix: Option<String>) -> Result<Object<'env>> {
        let client = self.inner.clone();
        let list = async move {
            match prefix {
                Some(prefix) => client.list_streams_with_prefix(&prefix).await,
                None => client.list_streams().await,
            }
        };
        run(env, None, list, |all| Ok(all.into_iter().map(stream_row).collect::<Vec<_>>()))
    }

    #[napi]
    pub fn list_shards<'env>(&self, env: &'env Env, stream: String) -> Result<Object<'env>> {
        let client = self.inner.clone();
        let list = async move { client.list_shards(&stream).await };
        run(env, None, list, |all| Ok(all.into_iter().map(shard_row).collect::<Vec<_>>()))
    }

    /// Answers with the three numbers of the id.
    #[napi]
    pub fn tail_record_id<'env>(
        &self,
        env: &'env Env,
        stream: String,
        shard: BigInt,
    ) -> Result<Object<'env>> {
        let shard = unsigned(&shard, "shard id")?;
        let client = self.inner.clone();
        let tail = async move { client.tail_record_id(&stream, shard).await };
        run(env, None, tail, |id| Ok(BigUint64Array::new(flatten(&[id]))))
    }

    #[napi]
    pub fn trim_stream<'env>(&self, env: &'env Env, stream: String, before: String) -> Result<Object<'env>> {
        let before = offset(&before)?;
        let client = self.inner.clone();
        run(env, None, async move { client.trim_stream(&stream, before).await }, Ok)
    }

    #[napi]
    pub fn trim_shard<'env>(
        &self,
        env: &'env Env,
        stream: String,
        shard: BigInt,
        before: String,
    ) -> Result<Object<'env>> {
        let (shard, before) = (unsigned(&shard, "shard id")?, offset(&before)?);
        let client = self.inner.clone();
        run(env, None, async move { client.trim_shard(&stream, shard, before).await }, Ok)
    }

    /// Answers with the three numbers of each id at which a shard was trimmed.
    #[napi]
    pub fn trim_shards<'env>(
        &self,
        env: &'env Env,
        stream: String,
        ids: BigUint64Array,
    ) -> Result<Object<'env>> {
        let ids = unflatten(&ids)?;
        let client = self.inner.clone();
        run(env, None, async move { client.trim_shards(&stream, &ids).await }, |points| {
            let ids: Vec<RecordId> = points.into_iter().map(|(_, id)| id).collect();
            Ok(BigUint64Array::new(flatten(&ids)))
        })
    }

    #[napi]
    pub fn create_subscription<'env>(
        &self,
        env: &'env Env,
        id: String,
        stream: String,
        options: Vec<OptionEntry>,
    ) -> Result<Object<'env>> {
        let options = apply(SubscriptionOptions::default(), options, |o, name, value| o.set(name, value))?;
        let client = self.inner.clone();
        let create = async move { client.create_subscription(&id, &stream, options).await };
        run(env, None, create, |info| Ok(subscription_row(info)))
    }

    #[napi]
    pub fn delete_subscription<'env>(&self, env: &'env Env, id: String, force: bool) -> Result<Object<'env>> {
        let client = self.inner.clone();
        run(env, None, async move { client.delete_subscription(&id, force).await }, Ok)
    }

    #[napi]
    pub fn get_subscription<'env>(&self, env: &'env Env, id: String) -> Result<Object<'env>> {
        let client = self.inner.clone();
        run(env, None, async move { client.get_subscription(&id).await }, |(info, checkpoints)| {
            let numbers = checkpoints.into_iter().flat_map(|(shard, batch)| [shard, batch]).collect();
            let checkpoints = BigUint64Array::new(numbers);
            Ok(SubscriptionDetails { info: subscription_row(info), checkpoints })
        })
    }

    #[napi]
    pub fn list_consumers<'env>(&self, env: &'env Env, subscription: String) -> Result<Object<'env>> {
        let client = self.inner.clone();
        let list = async move { client.list_consumers(&subscription).await };
        run(env, None, list, |all| Ok(all.into_iter().map(consumer_row).collect::<Vec<_>>()))
    }

    #[napi]
    pub fn subscription_exists<'env>(&self, env: &'env Env, id: String) -> Result<Object<'env>> {
        let client = self.inner.clone();
        run(env, None, async move { client.subscription_exists(&id).await }, Ok)
    }

    #[napi]
    pub fn list_subscriptions<'env>(&self, env: &'env Env, prefix: Option<String>) -> Result<Object<'env>> {
        let client = self.inner.clone();
        let list = async move {
            match prefix {
                Some(prefix) => client.list_subscriptions_with_prefix(&prefix).await,
                None => client.list_subscriptions().await,
            }
        };
        run(env, None, list, |all| Ok(all.into_iter().map(subscription_row).collect::<Vec<_>>()))
    }

    #[napi]
    pub fn producer<'env>(
        &self,
        env: &'env Env,
        stream: String,
        options: Vec<OptionEntry>,
    ) -> Result<Object<'env>> {
        let builder = apply(self.inner.producer(&stream), options, |b, name, value| b.set(name, value))?;
        run(env, None, async move { builder.build().await }, |inner| Ok(NativeProducer { inner }))
    }

    #[napi]
    pub fn consumer<'env>(
        &self,
        env: &'env Env,
        subscription: String,
        options: Vec<OptionEntry>,
    ) -> Result<Object<'env>> {
        let builder =
            apply(self.inner.consumer(&subscription), options, |b, name, value| b.set(name, value))?;
        run(env, None, async move { builder.start().await }, |inner| Ok(NativeConsumer { inner }))
    }

    #[napi]
    pub fn shard_reader<'env>(
        &self,
        env: &'env Env,
        stream: String,
        shard: BigInt,
        options: Vec<OptionEntry>,
    ) -> Result<Object<'env>> {
        let shard = unsigned(&shard, "shard id")?;
        open(env, self.inner.shard_reader(&stream, shard), options)
    }

    #[napi]
    pub fn stream_reader<'env>(
        &self,
        env: &'env Env,
        stream: String,
        options: Vec<OptionEntry>,
    ) -> Result<Object<'env>> {
        open(env, self.inner.stream_reader(&stream), options)
    }

    #[napi]
    pub fn single_shard_reader<'env>(
        &self,
        env: &'env Env,
        stream: String,
        options: Vec<OptionEntry>,
    ) -> Result<Object<'env>> {
        open(env, self.inner.single_shard_reader(&stream), options)
    }

    #[napi]
    pub fn key_reader<'env>(
        &self,
        env: &'env Env,
        stream: String,
        key: String,
        options: Vec<OptionEntry>,
    ) -> Result<Object<'env>> {
        open(env, self.inner.key_reader(&stream, &key), options)
    }

    /// Idempotent; closes what was made from this client.
    #[napi]
    pub fn close<'env>(&self, env: &'env Env, timeout_ms: u32) -> Result<Object<'env>> {
        let client = self.inner.clone();
        run(env, None, async move { client.close(Duration::from_millis(u64::from(timeout_ms))).await }, Ok)
    }
}

fn open<'env>(env: &'env Env, builder: ReaderBuilder, options: Vec<OptionEntry>) -> Result<Object<'env>> {
    let builder = apply(builder, options, |b, name, value| b.set(name, value))?;
    run(env, None, async move { builder.open().await }, |inner| Ok(NativeReader { inner: Arc::new(inner) }))
}
