//! A producer: many records per call, one promise per call.

use std::time::Duration;

use hstreamdb::{AppendOutcome, CancelToken, Producer, Record, RecordBatch};
use napi::bindgen_prelude::{BigUint64Array, Buffer, Env, Object, Result, Uint32Array};
use napi_derive::napi;

use crate::errors::{invalid_argument, to_json};
use crate::options::pair;
use crate::promise::{Settle, run};
use crate::runtime::runtime;

#[napi]
pub struct NativeProducer {
    pub(crate) inner: Producer,
}

/// What a record has beside raw bytes and a key.
#[napi(object)]
pub struct RecordExtra {
    pub index: u32,
    /// The payload is JSON text of an object.
    pub hrecord: bool,
    pub attributes: Vec<Vec<String>>,
}

/// An error of the records `start..end` of a call.
#[napi(object, object_from_js = false)]
pub struct RangeError {
    pub start: u32,
    pub end: u32,
    /// JSON as in `errors.rs`.
    pub error: String,
}

/// How every record of a call ended.
#[napi(object, object_from_js = false)]
pub struct AppendResult {
    /// Three numbers per record; zeros where an error covers the record.
    pub ids: BigUint64Array,
    pub errors: Vec<RangeError>,
}

/// A call that was handed in.
#[napi(object, object_from_js = false)]
pub struct Handed<'env> {
    /// How every record ended.
    pub outcome: Object<'env>,
    /// Settles when the records have room; absent when they had it at once. Calls that must keep their order wait
    /// for it.
    pub admitted: Option<Object<'env>>,
}

/// What a closed producer leaves behind.
#[napi(object, object_from_js = false)]
pub struct CloseResult {
    pub acknowledged: f64,
    pub failed: f64,
    pub unresolved: f64,
}

#[napi]
impl NativeProducer {
    /// Appends records given in columns (all payloads and all keys one after the other, and where each ends).
    #[napi]
    pub fn append_many<'env>(
        &self,
        env: &'env Env,
        payloads: Buffer,
        payload_ends: Uint32Array,
        keys: Buffer,
        key_ends: Uint32Array,
        extras: Vec<RecordExtra>,
    ) -> Result<Handed<'env>> {
        let runtime = runtime()?;
        let batch = columns(&payloads, &payload_ends, &keys, &key_ends, extras)?;
        let (settle, outcome) = Settle::<AppendResult>::promise(env)?;
        let done = Box::new(move |outcome: AppendOutcome| settle.settle(Ok(outcome), |o| Ok(result(o))));
        let Err((error, batch, done)) = self.inner.try_append_many(batch, done) else {
            return Ok(Handed { outcome, admitted: None });
        };
        let records = batch.len();
        if error.kind() != hstreamdb::ErrorKind::Overloaded {
            done(refused(records, error));
            return Ok(Handed { outcome, admitted: None });
        }
        // No room right now: the core waits or fails, as the option `when_full` says.
        let (admit, admitted) = Settle::<()>::promise(env)?;
        let producer = self.inner.clone();
        let after = runtime.clone();
        let token = CancelToken::new();
        runtime.spawn(&token, async move { producer.append_many(batch).await }, move |receipt| {
            admit.settle(Ok(()), Ok);
            match receipt {
                Err(error) => done(refused(records, error)),
                Ok(receipt) => {
                    after.spawn(&CancelToken::new(), async move { Ok(receipt.await) }, move |outcome| {
                        done(outcome.unwrap_or_else(|error| refused(records, error)));
                    });
                }
            }
        });
        Ok(Handed { outcome, admitted: Some(admitted) })
    }

    #[napi]
    pub fn flush<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let producer = self.inner.clone();
        run(env, None, async move { producer.flush().await }, Ok)
    }

    #[napi]
    pub fn close<'env>(&self, env: &'env Env, timeout_ms: u32) -> Result<Object<'env>> {
        let producer = self.inner.clone();
        let close = async move { producer.close(Duration::from_millis(u64::from(timeout_ms))).await };
        run(env, None, close, |report| {
            Ok(CloseResult {
                acknowledged: report.acknowledged as f64,
                failed: report.failed as f64,
                unresolved: report.unresolved as f64,
            })
        })
    }

    /// Records and bytes that are not resolved yet.
    #[napi]
    pub fn pending(&self) -> Vec<f64> {
        let pending = self.inner.pending();
        vec![pending.records as f64, pending.bytes as f64]
    }
}

fn refused(records: usize, error: hstreamdb::Error) -> AppendOutcome {
    AppendOutcome { ids: vec![None; records], errors: vec![(0..records, error)] }
}

fn result(outcome: AppendOutcome) -> AppendResult {
    let mut ids = Vec::with_capacity(outcome.ids.len() * 3);
    for id in &outcome.ids {
        match id {
            Some(id) => ids.extend([id.shard_id, id.batch_id, u64::from(id.batch_index)]),
            None => ids.extend([0; 3]),
        }
    }
    let errors = outcome
        .errors
        .iter()
        .map(|(range, error)| RangeError {
            start: u32::try_from(range.start).unwrap_or(u32::MAX),
            end: u32::try_from(range.end).unwrap_or(u32::MAX),
            error: to_json(error),
        })
        .collect();
    AppendResult { ids: BigUint64Array::new(ids), errors }
}

fn columns(
    payloads: &[u8],
    payload_ends: &[u32],
    keys: &[u8],
    key_ends: &[u32],
    extras: Vec<RecordExtra>,
) -> Result<RecordBatch> {
    if payload_ends.len() != key_ends.len() {
        return Err(invalid_argument("as many keys as payloads are needed"));
    }
    let mut batch = RecordBatch::with_capacity(payload_ends.len(), payloads.len());
    let mut extras = extras.into_iter().peekable();
    let (mut payload_start, mut key_start) = (0, 0);
    for (index, (&payload_end, &key_end)) in payload_ends.iter().zip(key_ends).enumerate() {
        let payload = payloads
            .get(payload_start..payload_end as usize)
            .ok_or_else(|| invalid_argument("the ends of the payloads do not ascend inside their buffer"))?;
        let key = keys
            .get(key_start..key_end as usize)
            .ok_or_else(|| invalid_argument("the ends of the keys do not ascend inside their buffer"))?;
        let key = std::str::from_utf8(key).map_err(|_| invalid_argument("a key is not UTF-8"))?;
        match extras.next_if(|extra| extra.index as usize == index) {
            None => batch.push(key, payload),
            Some(extra) => batch.push_record(&record(key, payload, extra)?),
        }
        (payload_start, key_start) = (payload_end as usize, key_end as usize);
    }
    if extras.peek().is_some() {
        return Err(invalid_argument("attributes belong to no record"));
    }
    Ok(batch)
}

fn record(key: &str, payload: &[u8], extra: RecordExtra) -> Result<Record> {
    let record = if extra.hrecord {
        let text = std::str::from_utf8(payload).map_err(|_| invalid_argument("an HRecord is JSON text"))?;
        Record::hrecord_json(text).map_err(|error| crate::errors::to_napi(&error))?
    } else {
        Record::raw(bytes::Bytes::copy_from_slice(payload))
    };
    extra.attributes.into_iter().try_fold(record.with_key(key), |record, attribute| {
        let (name, value) = pair(attribute)?;
        Ok(record.with_attribute(name, value))
    })
}
