//! Readers of a shard, a stream or a key: a batch per call.

use crate::{
    client::ClientResource,
    errors::error_term,
    options::{Given, set_all},
    records::received_term,
    reply::{ok, start},
};
use hstreamdb::{Error, ErrorKind, Reader, ReaderBuilder};
use rustler::{Encoder, Env, Resource, ResourceArc, Term};
use std::time::Duration;

mod atoms {
    rustler::atoms! { ok, eof }
}

/// A reader on the Erlang heap; it ends with its last reference.
pub struct ReaderResource(Reader);

#[rustler::resource_impl]
impl Resource for ReaderResource {}

fn open<'a>(env: Env<'a>, builder: ReaderBuilder, options: Vec<Given>) -> Term<'a> {
    let open = async move {
        set_all(builder, options, |builder, name, value| builder.set(name, value))?.open().await
    };
    start(env, open, |env, reader| (atoms::ok(), ResourceArc::new(ReaderResource(reader))).encode(env))
}

#[rustler::nif]
fn shard_reader<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    stream: String,
    shard_id: u64,
    options: Vec<Given>,
) -> Term<'a> {
    open(env, client.0.shard_reader(&stream, shard_id), options)
}

#[rustler::nif]
fn stream_reader<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    stream: String,
    options: Vec<Given>,
) -> Term<'a> {
    open(env, client.0.stream_reader(&stream), options)
}

#[rustler::nif]
fn single_shard_reader<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    stream: String,
    options: Vec<Given>,
) -> Term<'a> {
    open(env, client.0.single_shard_reader(&stream), options)
}

#[rustler::nif]
fn key_reader<'a>(
    env: Env<'a>,
    client: ResourceArc<ClientResource>,
    stream: String,
    key: String,
    options: Vec<Given>,
) -> Term<'a> {
    open(env, client.0.key_reader(&stream, &key), options)
}

#[rustler::nif]
fn read<'a>(env: Env<'a>, reader: ResourceArc<ReaderResource>, timeout_ms: u64) -> Term<'a> {
    let reader = reader.0.clone();
    let next = async move {
        // A call given up loses nothing: the batch goes to the next one.
        match tokio::time::timeout(Duration::from_millis(timeout_ms), reader.next_batch()).await {
            Ok(batch) => batch,
            Err(_) => {
                let message = format!("no batch within {timeout_ms} ms");
                Err(Error::new(ErrorKind::Timeout, "read").with_message(message))
            }
        }
    };
    start(env, next, |env, batch| {
        let Some(batch) = batch else { return atoms::eof().encode(env) };
        match batch.decoded() {
            Ok(records) => {
                let records: Vec<Term<'_>> =
                    records.iter().map(|record| received_term(env, record)).collect();
                (atoms::ok(), records).encode(env)
            }
            Err(error) => error_term(env, &error),
        }
    })
}

#[rustler::nif]
fn close_reader<'a>(env: Env<'a>, reader: ResourceArc<ReaderResource>) -> Term<'a> {
    let reader = reader.0.clone();
    start(
        env,
        async move {
            reader.close();
            Ok(())
        },
        ok,
    )
}
