//! Streams and subscriptions.

use crate::{
    client::ClientResource,
    errors::optional,
    options::{Given, set_all},
    records::{id_term, ids_from},
    reply::{ok, start},
};
use hstreamdb::{DeleteStreamOptions, ShardInfo, StartFrom, StreamOptions, SubscriptionOptions};
use rustler::{Atom, Encoder, Env, NifResult, ResourceArc, Term};

mod atoms {
    rustler::atoms! {
        ok, name, shard_count, replication_factor, backlog_duration_secs, created_ms, id, start, end, epoch, stream,
        ack_timeout_secs, max_unacked_records, offset, earliest, latest, checkpoints, uri, user_agent
    }
}

#[rustler::nif]
fn create_stream<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    name: String,
    options: Vec<Given>,
) -> Term<'a> {
    let client = client.0.clone();
    start(
        env,
        async move {
            let options = set_all(StreamOptions::default(), options, |to, name, value| to.set(name, value))?;
            client.create_stream(&name, options).await.map(drop)
        },
        ok,
    )
}

#[rustler::nif]
fn delete_stream<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    name: String,
    force: bool,
    ignore_missing: bool,
) -> Term<'a> {
    let client = client.0.clone();
    start(
        env,
        async move { client.delete_stream(&name, DeleteStreamOptions { force, ignore_missing }).await },
        ok,
    )
}

#[rustler::nif]
fn list_streams<'a>(env: Env<'a>, client: ResourceArc<ClientResource>, prefix: Option<String>) -> Term<'a> {
    let client = client.0.clone();
    let list = async move {
        match prefix {
            Some(prefix) => client.list_streams_with_prefix(&prefix).await,
            None => client.list_streams().await,
        }
    };
    start(env, list, |env, streams| {
        let names: Vec<String> = streams.into_iter().map(|stream| stream.name).collect();
        (atoms::ok(), names).encode(env)
    })
}

#[rustler::nif]
fn get_stream<'a>(env: Env<'a>, client: ResourceArc<ClientResource>, name: String) -> Term<'a> {
    let client = client.0.clone();
    start(env, async move { client.get_stream(&name).await }, |env, stream| {
        let pairs = [
            (atoms::name(), stream.name.encode(env)),
            (atoms::shard_count(), stream.shard_count.encode(env)),
            (atoms::replication_factor(), stream.replication_factor.encode(env)),
            (atoms::backlog_duration_secs(), stream.backlog_duration_secs.encode(env)),
            (atoms::created_ms(), optional(env, stream.created_ms)),
        ];
        (atoms::ok(), map(env, pairs)).encode(env)
    })
}

#[rustler::nif]
fn list_shards<'a>(env: Env<'a>, client: ResourceArc<ClientResource>, stream: String) -> Term<'a> {
    let client = client.0.clone();
    start(env, async move { client.list_shards(&stream).await }, |env, shards| {
        let shards: Vec<Term<'_>> = shards.into_iter().map(|shard| shard_term(env, shard)).collect();
        (atoms::ok(), shards).encode(env)
    })
}

fn shard_term<'a>(env: Env<'a>, shard: ShardInfo) -> Term<'a> {
    // Bounds have 128 bits: as text, the Erlang side makes integers of them.
    let pairs = [
        (atoms::id(), shard.id.encode(env)),
        (atoms::start(), shard.start.to_string().encode(env)),
        (atoms::end(), shard.end.to_string().encode(env)),
        (atoms::epoch(), shard.epoch.encode(env)),
    ];
    map(env, pairs)
}

#[rustler::nif]
fn tail_record_id<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    stream: String,
    shard_id: u64,
) -> Term<'a> {
    let client = client.0.clone();
    start(env, async move { client.tail_record_id(&stream, shard_id).await }, |env, id| {
        (atoms::ok(), id_term(env, &id)).encode(env)
    })
}

#[rustler::nif]
fn trim_stream<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    stream: String,
    before: String,
) -> Term<'a> {
    let client = client.0.clone();
    start(env, async move { client.trim_stream(&stream, before.parse()?).await }, ok)
}

#[rustler::nif]
fn trim_shard<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    stream: String,
    shard_id: u64,
    before: String,
) -> Term<'a> {
    let client = client.0.clone();
    start(env, async move { client.trim_shard(&stream, shard_id, before.parse()?).await }, ok)
}

#[rustler::nif]
fn trim_shards<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    stream: String,
    ids: Term<'a>,
) -> NifResult<Term<'a>> {
    let ids = ids_from(ids)?;
    let client = client.0.clone();
    let trim = async move { client.trim_shards(&stream, &ids).await };
    Ok(start(env, trim, |env, points| {
        let ids: Vec<Term<'_>> = points.iter().map(|(_, id)| id_term(env, id)).collect();
        (atoms::ok(), ids).encode(env)
    }))
}

#[rustler::nif]
fn create_subscription<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    id: String,
    stream: String,
    options: Vec<Given>,
) -> Term<'a> {
    let client = client.0.clone();
    start(
        env,
        async move {
            let options =
                set_all(SubscriptionOptions::default(), options, |to, name, value| to.set(name, value))?;
            client.create_subscription(&id, &stream, options).await.map(drop)
        },
        ok,
    )
}

#[rustler::nif]
fn delete_subscription<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    id: String,
    force: bool,
) -> Term<'a> {
    let client = client.0.clone();
    start(env, async move { client.delete_subscription(&id, force).await }, ok)
}

#[rustler::nif]
fn get_subscription<'a>(env: Env<'a>, client: ResourceArc<ClientResource>, id: String) -> Term<'a> {
    let client = client.0.clone();
    start(env, async move { client.get_subscription(&id).await }, |env, (subscription, checkpoints)| {
        let offset = match subscription.offset {
            StartFrom::Earliest => atoms::earliest(),
            StartFrom::Latest => atoms::latest(),
        };
        let pairs = [
            (atoms::id(), subscription.id.encode(env)),
            (atoms::stream(), subscription.stream.encode(env)),
            (atoms::ack_timeout_secs(), subscription.ack_timeout_secs.encode(env)),
            (atoms::max_unacked_records(), subscription.max_unacked_records.encode(env)),
            (atoms::offset(), offset.encode(env)),
            (atoms::created_ms(), optional(env, subscription.created_ms)),
            (atoms::checkpoints(), checkpoints.encode(env)),
        ];
        (atoms::ok(), map(env, pairs)).encode(env)
    })
}

#[rustler::nif]
fn list_subscriptions<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    prefix: Option<String>,
) -> Term<'a> {
    let client = client.0.clone();
    let list = async move {
        match prefix {
            Some(prefix) => client.list_subscriptions_with_prefix(&prefix).await,
            None => client.list_subscriptions().await,
        }
    };
    start(env, list, |env, subscriptions| {
        let ids: Vec<String> = subscriptions.into_iter().map(|subscription| subscription.id).collect();
        (atoms::ok(), ids).encode(env)
    })
}

#[rustler::nif]
fn list_consumers<'a>(env: Env<'a>, client: ResourceArc<ClientResource>, subscription: String) -> Term<'a> {
    let client = client.0.clone();
    start(env, async move { client.list_consumers(&subscription).await }, |env, consumers| {
        let consumers: Vec<Term<'_>> = consumers
            .into_iter()
            .map(|consumer| {
                let pairs = [
                    (atoms::name(), consumer.name.encode(env)),
                    (atoms::uri(), consumer.uri.encode(env)),
                    (atoms::user_agent(), consumer.user_agent.encode(env)),
                ];
                map(env, pairs)
            })
            .collect();
        (atoms::ok(), consumers).encode(env)
    })
}

fn map<'a, const N: usize>(env: Env<'a>, pairs: [(Atom, Term<'a>); N]) -> Term<'a> {
    pairs.into_iter().fold(Term::map_new(env), |map, (key, value)| map.map_put(key, value).unwrap_or(map))
}
