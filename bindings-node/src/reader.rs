//! Readers of a shard, a stream or a key: pull of batches.

use std::sync::Arc;

use hstreamdb::Reader;
use napi::bindgen_prelude::{Env, Object, Result};
use napi_derive::napi;

use crate::batch::Columns;
use crate::promise::run;

#[napi]
pub struct NativeReader {
    pub(crate) inner: Arc<Reader>,
}

#[napi]
impl NativeReader {
    /// The next batch; nothing at the end.
    #[napi]
    pub fn next_batch<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let reader = self.inner.clone();
        let next = async move { Ok(reader.next_batch().await?.map(|batch| Columns::decode(&batch))) };
        run(env, None, next, |columns| Ok(columns.map(Columns::into_js)))
    }

    /// Idempotent; a pending `next_batch` ends.
    #[napi]
    pub fn close(&self) {
        self.inner.close();
    }
}
