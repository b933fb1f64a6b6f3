//! A consumer of a subscription: pull of batches, acks into the core's ledger.

use std::time::Duration;

use hstreamdb::Consumer;
use napi::bindgen_prelude::{BigUint64Array, Env, Object, Result};
use napi_derive::napi;

use crate::batch::{Columns, unflatten};
use crate::errors::to_napi;
use crate::promise::run;

#[napi]
pub struct NativeConsumer {
    pub(crate) inner: Consumer,
}

/// What was left when a consumer stopped.
#[napi(object, object_from_js = false)]
pub struct StopResult {
    pub unsent_acks: f64,
    pub clean: bool,
}

#[napi]
impl NativeConsumer {
    #[napi(getter)]
    pub fn name(&self) -> String {
        self.inner.name()
    }

    /// The next batch; nothing once the consumer is stopped.
    #[napi]
    pub fn next_batch<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let consumer = self.inner.clone();
        let next = async move { Ok(consumer.next_batch().await?.map(|batch| Columns::decode(&batch))) };
        run(env, None, next, |columns| Ok(columns.map(Columns::into_js)))
    }

    /// Into the ledger; never waits.
    #[napi]
    pub fn ack(&self, ids: BigUint64Array) -> Result<()> {
        self.inner.ack(&unflatten(&ids)?).map_err(|error| to_napi(&error))
    }

    #[napi]
    pub fn flush_acks<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let consumer = self.inner.clone();
        run(env, None, async move { consumer.flush_acks().await }, Ok)
    }

    #[napi]
    pub fn stop<'env>(&self, env: &'env Env, timeout_ms: u32) -> Result<Object<'env>> {
        let consumer = self.inner.clone();
        let stop = async move { consumer.stop(Duration::from_millis(u64::from(timeout_ms))).await };
        run(env, None, stop, |report| {
            Ok(StopResult { unsent_acks: report.unsent_acks as f64, clean: report.clean })
        })
    }
}
