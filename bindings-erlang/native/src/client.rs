//! Connecting, streams and subscriptions.

use crate::{
    options::{Given, set_all},
    reply::{ok, start},
};
use hstreamdb::{Client, DeleteStreamOptions, StreamOptions, SubscriptionOptions};
use rustler::{Encoder, Env, Resource, ResourceArc, Term};
use std::time::Duration;

mod atoms {
    rustler::atoms! { ok }
}

/// A client on the Erlang heap.
pub struct ClientResource(pub Client);

#[rustler::resource_impl]
impl Resource for ClientResource {}

#[rustler::nif]
fn connect<'a>(env: Env<'a>, url: String, options: Vec<Given>) -> Term<'a> {
    start(
        env,
        async move {
            let builder = Client::builder().url(url).set("user_agent_lang", "erlang")?;
            set_all(builder, options, |builder, name, value| builder.set(name, value))?.connect().await
        },
        |env, client| (atoms::ok(), ResourceArc::new(ClientResource(client))).encode(env),
    )
}

#[rustler::nif]
fn close<'a>(env: Env<'a>, client: ResourceArc<ClientResource>, timeout_ms: u64) -> Term<'a> {
    let client = client.0.clone();
    start(env, async move { client.close(Duration::from_millis(timeout_ms)).await }, ok)
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
fn list_streams<'a>(env: Env<'a>, client: ResourceArc<ClientResource>) -> Term<'a> {
    let client = client.0.clone();
    start(env, async move { client.list_streams().await }, |env, streams| {
        let names: Vec<String> = streams.into_iter().map(|stream| stream.name).collect();
        (atoms::ok(), names).encode(env)
    })
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
