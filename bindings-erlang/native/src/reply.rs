//! The runtime and replies from its threads to processes.

use crate::errors::error_term;
use hstreamdb::{CancelToken, Error, Result, Runtime, RuntimeOptions};
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term, env::SavedTerm};
use std::{
    future::Future,
    sync::{Arc, OnceLock},
};

mod atoms {
    rustler::atoms! { ok, hstreamdb }
}

/// The runtime of this VM, started by the first call.
///
/// # Errors
/// When the operating system gives no threads.
pub fn runtime() -> Result<Arc<Runtime>> {
    static RUNTIME: OnceLock<Result<Arc<Runtime>>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| Runtime::start(RuntimeOptions { name: "hstreamdb-nif".into(), ..Default::default() }))
        .clone()
}

/// Where a reply goes: the calling process, tagged with a fresh reference.
pub struct Reply {
    pid: LocalPid,
    env: OwnedEnv,
    tag: SavedTerm,
}

impl Reply {
    /// A reply slot for the calling process and the reference to return to it.
    pub fn new(env: Env<'_>) -> (Reply, Term<'_>) {
        let tag = env.make_ref().encode(env);
        let own = OwnedEnv::new();
        let saved = own.save(tag);
        (Reply { pid: env.pid(), env: own, tag: saved }, tag)
    }

    /// A second slot with the same tag and process.
    pub fn again(&self, env: Env<'_>, tag: Term<'_>) -> Reply {
        let own = OwnedEnv::new();
        let saved = own.save(tag);
        Reply { pid: env.pid(), env: own, tag: saved }
    }

    /// Sends `build(tag)`; false when the process is gone. Must run outside the VM's scheduler threads.
    pub fn send(&self, build: impl for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>) -> bool {
        // Sending clears an environment together with what was saved in it, so each message gets its own.
        let mut message = OwnedEnv::new();
        let tag = self.env.run(|env| message.save(self.tag.load(env)));
        message.send_and_clear(&self.pid, |env| build(env, tag.load(env))).is_ok()
    }

    /// Sends `{hstreamdb, Tag, Term}`.
    pub fn answer(&self, build: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) -> bool {
        self.send(|env, tag| (atoms::hstreamdb(), tag, build(env)).encode(env))
    }
}

/// Runs `future` and answers the calling process with `encode(value)` or `{error, Map}`; returns the reference.
pub fn start<'a, T: Send + 'static>(
    env: Env<'a>,
    future: impl Future<Output = Result<T>> + Send + 'static,
    encode: impl for<'b> FnOnce(Env<'b>, T) -> Term<'b> + Send + 'static,
) -> Term<'a> {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return error_term(env, &error),
    };
    let (reply, tag) = Reply::new(env);
    runtime.spawn(&CancelToken::new(), future, move |result: Result<T, Error>| {
        reply.answer(|env| match result {
            Ok(value) => encode(env, value),
            Err(error) => error_term(env, &error),
        });
    });
    tag
}

/// Answer `ok`.
pub fn ok(env: Env<'_>, (): ()) -> Term<'_> {
    atoms::ok().encode(env)
}
