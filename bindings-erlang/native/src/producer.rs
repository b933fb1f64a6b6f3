//! Producers.

use crate::{
    client::ClientResource,
    errors::error_term,
    options::{Given, set_all},
    records::{batch_from, id_term},
    reply::{Reply, ok, start},
};
use hstreamdb::Producer;
use rustler::{Encoder, Env, NifResult, Resource, ResourceArc, Term};
use std::time::Duration;

mod atoms {
    rustler::atoms! { ok, acknowledged, failed, unresolved }
}

/// A producer on the Erlang heap.
pub struct ProducerResource(Producer);

#[rustler::resource_impl]
impl Resource for ProducerResource {}

#[rustler::nif]
fn producer<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    stream: String,
    options: Vec<Given>,
) -> Term<'a> {
    let client = client.0.clone();
    start(
        env,
        async move {
            let builder = client.producer(&stream);
            set_all(builder, options, |builder, name, value| builder.set(name, value))?.build().await
        },
        |env, producer| (atoms::ok(), ResourceArc::new(ProducerResource(producer))).encode(env),
    )
}

/// Hands records over without waiting: `{ok, Reference}`, or `{error, #{kind := overloaded}}` when full.
#[rustler::nif]
fn append<'a>(
    env: Env<'a>,
    producer: ResourceArc<ProducerResource>,
    records: Term<'a>,
) -> NifResult<Term<'a>> {
    let batch = batch_from(records)?;
    let (reply, tag) = Reply::new(env);
    let done = Box::new(move |outcome: hstreamdb::AppendOutcome| {
        reply.answer(|env| match outcome.into_result() {
            Ok(ids) => {
                let ids: Vec<Term<'_>> = ids.iter().map(|id| id_term(env, id)).collect();
                (atoms::ok(), ids).encode(env)
            }
            Err(error) => error_term(env, &error),
        });
    });
    Ok(match producer.0.try_append_many(batch, done) {
        Ok(()) => (atoms::ok(), tag).encode(env),
        Err(refused) => error_term(env, &refused.0),
    })
}

/// Answers `ok` when that many records and bytes may be handed over.
#[rustler::nif]
fn room<'a>(env: Env<'a>, producer: ResourceArc<ProducerResource>, records: usize, bytes: usize) -> Term<'a> {
    let producer = producer.0.clone();
    start(env, async move { producer.room(records, bytes).await }, ok)
}

#[rustler::nif]
fn flush<'a>(env: Env<'a>, producer: ResourceArc<ProducerResource>) -> Term<'a> {
    let producer = producer.0.clone();
    start(env, async move { producer.flush().await }, ok)
}

#[rustler::nif]
fn close_producer<'a>(env: Env<'a>, producer: ResourceArc<ProducerResource>, timeout_ms: u64) -> Term<'a> {
    let producer = producer.0.clone();
    start(env, async move { producer.close(Duration::from_millis(timeout_ms)).await }, |env, report| {
        let pairs = [
            (atoms::acknowledged(), report.acknowledged.encode(env)),
            (atoms::failed(), report.failed.encode(env)),
            (atoms::unresolved(), report.unresolved.encode(env)),
        ];
        let map = pairs
            .into_iter()
            .fold(Term::map_new(env), |map, (key, value)| map.map_put(key, value).unwrap_or(map));
        (atoms::ok(), map).encode(env)
    })
}
