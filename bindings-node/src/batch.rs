//! Records in columns: how a batch crosses between the core and JavaScript, in one call and with one copy.

use hstreamdb::{PayloadKind, ReceivedBatch, RecordId};
use napi::bindgen_prelude::{BigInt, BigUint64Array, Buffer, Result, Uint32Array};
use napi_derive::napi;

use crate::errors::{invalid_argument, to_json};

/// A received batch while it is still free of JavaScript values.
pub struct Columns {
    ids: Vec<u64>,
    shard_id: u64,
    publish_time_ms: f64,
    payload: Vec<u8>,
    ends: Vec<u32>,
    keys: Vec<String>,
    attributes: Option<String>,
    json: Option<Vec<Option<String>>>,
    error: Option<String>,
}

/// The same batch as an object of JavaScript.
#[napi(object, object_from_js = false)]
pub struct BatchColumns {
    /// Shard id, batch id and index of every record, one after the other.
    pub ids: BigUint64Array,
    pub shard_id: BigInt,
    pub publish_time_ms: f64,
    /// All payloads, one after the other.
    pub payload: Buffer,
    /// Where each payload ends in `payload`.
    pub ends: Uint32Array,
    pub keys: Vec<String>,
    /// JSON: for every record a list of `[name, value]`; absent when no record has any.
    pub attributes: Option<String>,
    /// For every record its JSON text or nothing; absent when the batch has raw records only.
    pub json: Option<Vec<Option<String>>>,
    /// Why the batch cannot be decoded, as JSON; it has ids only then.
    pub error: Option<String>,
}

impl Columns {
    /// Decodes; runs on a runtime thread so that JavaScript does not wait for decompression. A batch that cannot be
    /// decoded keeps its ids, so that it can be acknowledged.
    pub fn decode(batch: &ReceivedBatch) -> Columns {
        let mut columns = Columns {
            ids: flatten(batch.ids()),
            shard_id: batch.shard_id(),
            publish_time_ms: batch.publish_time_ms() as f64,
            payload: Vec::new(),
            ends: Vec::new(),
            keys: Vec::new(),
            attributes: None,
            json: None,
            error: None,
        };
        if let Err(error) = columns.fill(batch) {
            columns.error = Some(to_json(&error));
        }
        columns
    }

    fn fill(&mut self, batch: &ReceivedBatch) -> hstreamdb::Result<()> {
        let columns = self;
        let records = batch.decoded()?;
        columns.payload.reserve(records.iter().map(|record| record.payload.len()).sum());
        columns.ends.reserve(records.len());
        columns.keys.reserve(records.len());
        for record in records {
            columns.payload.extend_from_slice(&record.payload);
            // The client's receive limit is far below 4 GiB; a saturated end can only shorten a payload that
            // cannot exist.
            columns.ends.push(u32::try_from(columns.payload.len()).unwrap_or(u32::MAX));
            columns.keys.push(record.key.clone());
        }
        if records.iter().any(|record| !record.attributes.is_empty()) {
            let all: Vec<_> = records.iter().map(|record| &record.attributes).collect();
            columns.attributes = serde_json::to_string(&all).ok();
        }
        if records.iter().any(|record| record.kind == PayloadKind::HRecord) {
            let texts = records
                .iter()
                .map(|record| match record.kind {
                    PayloadKind::HRecord => record.to_json().map(Some),
                    _ => Ok(None),
                })
                .collect::<hstreamdb::Result<Vec<_>>>()?;
            columns.json = Some(texts);
        }
        Ok(())
    }

    pub fn into_js(self) -> BatchColumns {
        BatchColumns {
            ids: BigUint64Array::new(self.ids),
            shard_id: BigInt::from(self.shard_id),
            publish_time_ms: self.publish_time_ms,
            payload: Buffer::from(self.payload),
            ends: Uint32Array::new(self.ends),
            keys: self.keys,
            attributes: self.attributes,
            json: self.json,
            error: self.error,
        }
    }
}

/// Three numbers per id.
pub fn flatten(ids: &[RecordId]) -> Vec<u64> {
    ids.iter().flat_map(|id| [id.shard_id, id.batch_id, u64::from(id.batch_index)]).collect()
}

/// Ids from three numbers each.
pub fn unflatten(numbers: &[u64]) -> Result<Vec<RecordId>> {
    let (ids, rest) = numbers.as_chunks::<3>();
    if !rest.is_empty() {
        return Err(invalid_argument("ids come as three numbers each"));
    }
    ids.iter()
        .map(|&[shard_id, batch_id, index]| {
            let batch_index =
                u32::try_from(index).map_err(|_| invalid_argument("a batch index has 32 bits"))?;
            Ok(RecordId { shard_id, batch_id, batch_index })
        })
        .collect()
}
