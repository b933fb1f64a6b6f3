//! A core future as a JavaScript promise that settles exactly once.

use std::future::Future;

use hstreamdb::CancelToken;
use napi::JsDeferred;
use napi::bindgen_prelude::{Env, Object, Result, ToNapiValue};
use napi_derive::napi;

use crate::errors::to_napi;
use crate::runtime::runtime;

type Resolver<T> = Box<dyn FnOnce(Env) -> Result<T> + Send>;

/// The writing end of a promise.
pub struct Settle<T: ToNapiValue>(JsDeferred<T, Resolver<T>>);

impl<T: ToNapiValue + 'static> Settle<T> {
    /// A pending promise and its writing end. A pending promise keeps the process alive.
    pub fn promise(env: &Env) -> Result<(Self, Object<'_>)> {
        let (deferred, promise) = env.create_deferred::<T, Resolver<T>>()?;
        Ok((Settle(deferred), promise))
    }

    /// Settles; `convert` runs on the thread of JavaScript.
    pub fn settle<V: Send + 'static>(
        self,
        result: hstreamdb::Result<V>,
        convert: impl FnOnce(V) -> Result<T> + Send + 'static,
    ) {
        match result {
            Ok(value) => self.0.resolve(Box::new(move |_| convert(value))),
            Err(error) => self.0.reject(to_napi(&error)),
        }
    }
}

/// Fires at most once; the call it was given to then rejects with the kind `cancelled`.
#[napi]
#[derive(Default)]
pub struct Cancel(pub(crate) CancelToken);

#[napi]
impl Cancel {
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    #[napi]
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// Runs `future` on the core's runtime and answers with a promise of its converted result.
pub fn run<'env, V, T>(
    env: &'env Env,
    cancel: Option<&Cancel>,
    future: impl Future<Output = hstreamdb::Result<V>> + Send + 'static,
    convert: impl FnOnce(V) -> Result<T> + Send + 'static,
) -> Result<Object<'env>>
where
    V: Send + 'static,
    T: ToNapiValue + 'static,
{
    let runtime = runtime()?;
    let token = cancel.map(|cancel| cancel.0.clone()).unwrap_or_default();
    let (settle, promise) = Settle::promise(env)?;
    runtime.spawn(&token, future, move |result| settle.settle(result, convert));
    Ok(promise)
}
