//! Consumers: batches become messages to the owner, as many as it asked for.

use crate::{
    client::ClientResource,
    errors::{error_map, error_term},
    options::{Given, set_all},
    records::{ids_from, received_term},
    reply::{Reply, runtime, start},
};
use hstreamdb::{CancelToken, Consumer, ConsumerEvent, ConsumerSink, Error, ReceivedBatch, Result};
use rustler::{Encoder, Env, LocalPid, Monitor, NifResult, Resource, ResourceArc, Term};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

mod atoms {
    rustler::atoms! {
        ok, error, normal, hstreamdb_records, hstreamdb_closed, consumer, handle, records, clean, unsent_acks
    }
}

/// How long a consumer whose owner died may take to leave cleanly.
const ORPHAN_STOP: Duration = Duration::from_secs(5);

/// A consumer on the Erlang heap; empty until it has started.
pub struct ConsumerResource(OnceLock<Consumer>);

#[rustler::resource_impl]
impl Resource for ConsumerResource {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _: Env<'a>, _: LocalPid, _: Monitor) {
        stop_in_background(self);
    }

    fn destructor(self, _: Env<'_>) {
        stop_in_background(&self);
    }
}

fn stop_in_background(resource: &ConsumerResource) {
    if let (Some(consumer), Ok(runtime)) = (resource.0.get().cloned(), runtime()) {
        let stop = async move { consumer.stop(ORPHAN_STOP).await };
        // Nobody is left to be told.
        runtime.spawn(&CancelToken::new(), stop, |_: Result<_>| ());
    }
}

/// A received batch, kept so that it can be acknowledged as a whole.
pub struct BatchResource(ReceivedBatch);

#[rustler::resource_impl]
impl Resource for BatchResource {}

struct Owner {
    reply: Reply,
    resource: ResourceArc<ConsumerResource>,
}

/// Sends to the owning process.
struct OwnerSink(std::sync::Mutex<Option<Owner>>);

impl OwnerSink {
    fn send(&self, build: impl for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>) -> bool {
        // The lock orders the messages of one consumer; nothing waits while it is held.
        match self.0.lock() {
            Ok(owner) => owner.as_ref().is_some_and(|owner| {
                owner.reply.send(|env, tag| build(env, (owner.resource.clone(), tag).encode(env)))
            }),
            Err(_) => false,
        }
    }
}

impl ConsumerSink for OwnerSink {
    fn batch(&self, batch: ReceivedBatch) {
        let records = batch.records();
        self.send(|env, consumer| {
            let records = match &records {
                Ok(records) => {
                    let terms: Vec<Term<'_>> =
                        records.iter().map(|record| received_term(env, record)).collect();
                    terms.encode(env)
                }
                // A batch that cannot be decoded is shown as what it is; it can still be acknowledged.
                Err(error) => error_term(env, error),
            };
            let pairs = [
                (atoms::consumer(), consumer),
                (atoms::handle(), ResourceArc::new(BatchResource(batch)).encode(env)),
                (atoms::records(), records),
            ];
            let map = pairs
                .into_iter()
                .fold(Term::map_new(env), |map, (key, value)| map.map_put(key, value).unwrap_or(map));
            (atoms::hstreamdb_records(), consumer, map).encode(env)
        });
    }

    fn event(&self, _: ConsumerEvent) {}

    fn closed(&self, reason: Option<Error>) {
        self.send(|env, consumer| {
            let reason = match &reason {
                None => atoms::normal().encode(env),
                Some(error) => error_map(env, error),
            };
            (atoms::hstreamdb_closed(), consumer, reason).encode(env)
        });
        // Lets go of the consumer: the resource holds it and this sink holds the resource.
        if let Ok(mut owner) = self.0.lock() {
            *owner = None;
        }
    }
}

#[rustler::nif]
fn subscribe<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    subscription: String,
    options: Vec<Given>,
) -> Term<'a> {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return error_term(env, &error),
    };
    let client = client.0.clone();
    let resource = ResourceArc::new(ConsumerResource(OnceLock::new()));
    // The owner's death stops the consumer, also while it is still starting.
    let _ = resource.monitor(Some(env), &env.pid());
    let (started, tag) = Reply::new(env);
    let batches = started.again(env, tag);
    let sink = Arc::new(OwnerSink(std::sync::Mutex::new(Some(Owner {
        reply: batches,
        resource: resource.clone(),
    }))));
    let start = async move {
        let builder = client.consumer(&subscription);
        let builder = set_all(builder, options, |builder, name, value| builder.set(name, value))?;
        builder.start_with_sink(sink).await
    };
    runtime.spawn(&CancelToken::new(), start, move |result| match result {
        Ok(consumer) => {
            let _ = resource.0.set(consumer);
            let delivered = started.answer(|env| (atoms::ok(), resource.clone()).encode(env));
            if !delivered {
                stop_in_background(&resource);
            }
        }
        Err(error) => {
            started.answer(|env| error_term(env, &error));
        }
    });
    tag
}

fn with_consumer<'a>(
    env: Env<'a>,
    resource: &ConsumerResource,
    work: impl FnOnce(&Consumer) -> Result<()>,
) -> Term<'a> {
    match resource.0.get().map(work) {
        Some(Err(error)) => error_term(env, &error),
        _ => atoms::ok().encode(env),
    }
}

#[rustler::nif]
fn grant<'a>(env: Env<'a>, consumer: ResourceArc<ConsumerResource>, batches: u32) -> Term<'a> {
    with_consumer(env, &consumer, |consumer| {
        consumer.grant(batches);
        Ok(())
    })
}

#[rustler::nif]
fn ack<'a>(env: Env<'a>, consumer: ResourceArc<ConsumerResource>, ids: Term<'a>) -> NifResult<Term<'a>> {
    let ids = ids_from(ids)?;
    Ok(with_consumer(env, &consumer, |consumer| consumer.ack(&ids)))
}

#[rustler::nif]
fn ack_batch<'a>(
    env: Env<'a>,
    consumer: ResourceArc<ConsumerResource>,
    batch: ResourceArc<BatchResource>,
) -> Term<'a> {
    with_consumer(env, &consumer, |consumer| consumer.ack_batch(&batch.0))
}

#[rustler::nif]
fn unsubscribe<'a>(env: Env<'a>, consumer: ResourceArc<ConsumerResource>, timeout_ms: u64) -> Term<'a> {
    let stop = async move {
        match consumer.0.get().cloned() {
            Some(consumer) => consumer.stop(Duration::from_millis(timeout_ms)).await.map(Some),
            None => Ok(None),
        }
    };
    start(env, stop, |env, report| {
        let (clean, unsent) = report.map_or((true, 0), |report| (report.clean, report.unsent_acks));
        let map = Term::map_new(env);
        let map = map.map_put(atoms::clean(), clean).unwrap_or(map);
        let map = map.map_put(atoms::unsent_acks(), unsent).unwrap_or(map);
        (atoms::ok(), map).encode(env)
    })
}
