//! Connecting and closing.

use crate::{
    options::{Given, set_all},
    reply::{ok, start},
};
use hstreamdb::Client;
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
