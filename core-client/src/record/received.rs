//! Batches as they arrive: decoded on demand, once, without copying payloads.

use super::{HRecord, PayloadKind, RecordId, codec};
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use hstreamdb_proto::api;
use serde::de::DeserializeOwned;
use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
};

/// A batch of records as delivered by a consumer or a reader. Cheap to clone; clones share the decoded form.
#[derive(Clone)]
pub struct ReceivedBatch(Arc<Inner>);

struct Inner {
    ids: Vec<RecordId>,
    shard_id: u64,
    publish_time_ms: i64,
    encoded: api::BatchedRecord,
    encoded_bytes: usize,
    limit: usize,
    redelivered: bool,
    watch: Option<Weak<dyn DecodeWatch>>,
    decoded: OnceLock<Result<Vec<ReceivedRecord>>>,
}

/// Told when a batch turns out to be undecodable.
pub(crate) trait DecodeWatch: Send + Sync {
    /// At most once per batch.
    fn unreadable(&self, ids: &[RecordId], error: &Error);
}

/// One received record. Its payload is a slice of the batch's buffer: keep it, and the batch's memory stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRecord {
    /// Identity and position; what is acknowledged.
    pub id: RecordId,
    /// Partition key, possibly empty.
    pub key: String,
    /// Text pairs, ordered by name.
    pub attributes: Vec<(String, String)>,
    /// Time of the append in milliseconds since 1970, set by the server.
    pub publish_time_ms: i64,
    /// What `payload` is.
    pub kind: PayloadKind,
    /// The content.
    pub payload: Bytes,
}

impl ReceivedRecord {
    /// The payload of an HRecord as the text of a JSON object, members in alphabetical order.
    ///
    /// # Errors
    /// Those of [`to_hrecord`](Self::to_hrecord).
    pub fn to_json(&self) -> Result<String> {
        self.to_hrecord().map(|hrecord| hrecord.to_json())
    }

    /// The payload of an HRecord.
    ///
    /// # Errors
    /// `InvalidArgument` for a raw record; `Codec` when the payload is not a protobuf Struct or holds a
    /// number that JSON cannot say.
    pub fn to_hrecord(&self) -> Result<HRecord> {
        let result = match self.kind {
            PayloadKind::HRecord => HRecord::decode(&self.payload),
            PayloadKind::Raw => Err(Error::new(ErrorKind::InvalidArgument, "decode hrecord")
                .with_message("the record is raw bytes; read its payload instead")),
        };
        result.map_err(|error| error.with_resource(format!("record {}", self.id)))
    }

    /// The payload of an HRecord as a value of a type of the application.
    ///
    /// # Errors
    /// Those of [`to_hrecord`](Self::to_hrecord); `Codec` when the object is not one of that type.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T> {
        self.to_hrecord()?.deserialize().map_err(|error| error.with_resource(format!("record {}", self.id)))
    }

    /// An attribute's value.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl ReceivedBatch {
    /// A batch off the wire; `limit` is the most bytes its records may take decompressed.
    ///
    /// # Errors
    /// `Codec` when the message holds no batch.
    pub(crate) fn from_wire(received: api::ReceivedRecord, limit: usize) -> Result<Self> {
        let Some(encoded) = received.record else {
            return Err(Error::new(ErrorKind::Codec, "receive batch")
                .with_message("the server sent record ids without a batch"));
        };
        let ids: Vec<RecordId> = received.record_ids.into_iter().map(RecordId::from).collect();
        let publish_time_ms = encoded.publish_time.as_ref().map_or(0, |time| {
            time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000)
        });
        Ok(ReceivedBatch(Arc::new(Inner {
            shard_id: ids.first().map_or(0, |id| id.shard_id),
            ids,
            publish_time_ms,
            encoded_bytes: encoded.payload.len(),
            encoded,
            limit,
            redelivered: false,
            watch: None,
            decoded: OnceLock::new(),
        })))
    }

    /// A batch that came without its content: it can only be acknowledged. It tells no watch.
    pub(crate) fn without_content(ids: Vec<api::RecordId>) -> Self {
        let ids: Vec<RecordId> = ids.into_iter().map(RecordId::from).collect();
        let error = Error::new(ErrorKind::Codec, "receive batch")
            .with_message("the server sent record ids without a batch");
        let batch = ReceivedBatch(Arc::new(Inner {
            shard_id: ids.first().map_or(0, |id| id.shard_id),
            ids,
            publish_time_ms: 0,
            encoded_bytes: 0,
            encoded: api::BatchedRecord::default(),
            limit: 0,
            redelivered: false,
            watch: None,
            decoded: OnceLock::new(),
        }));
        let _ = batch.0.decoded.set(Err(error.with_resource(batch.describe())));
        batch
    }

    /// As delivered to a consumer. For a batch that nobody else has yet.
    pub(crate) fn delivered(mut self, redelivered: bool, watch: Weak<dyn DecodeWatch>) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.redelivered = redelivered;
            inner.watch = Some(watch);
        }
        self
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.0.ids.len()
    }

    /// Whether there is no record in it.
    pub fn is_empty(&self) -> bool {
        self.0.ids.is_empty()
    }

    /// One id per record, in order. Known without decoding.
    pub fn ids(&self) -> &[RecordId] {
        &self.0.ids
    }

    /// Whether a consumer got it, or a part of it, before: its acknowledgement did not come in time or was lost. Best
    /// effort: what only other consumers got, or this one before it was started, is not known.
    pub fn is_redelivered(&self) -> bool {
        self.0.redelivered
    }

    /// The shard all records are from.
    pub fn shard_id(&self) -> u64 {
        self.0.shard_id
    }

    /// Time of the append in milliseconds since 1970, set by the server.
    pub fn publish_time_ms(&self) -> i64 {
        self.0.publish_time_ms
    }

    /// Bytes of the batch as received, possibly compressed.
    pub fn encoded_bytes(&self) -> usize {
        self.0.encoded_bytes
    }

    /// The records, decoded at the first call and kept.
    ///
    /// # Errors
    /// `Codec` when the content cannot be decompressed or is not a list of records, or would be larger than
    /// the limit. The batch can still be acknowledged through [`ids`](Self::ids).
    pub fn decoded(&self) -> Result<&[ReceivedRecord]> {
        let decoded = self.0.decoded.get_or_init(|| {
            codec::decode_batch(&self.0.encoded, &self.0.ids, self.0.publish_time_ms, self.0.limit).map_err(
                |error| {
                    let error = error.with_resource(self.describe());
                    if let Some(watch) = self.0.watch.as_ref().and_then(Weak::upgrade) {
                        watch.unreadable(&self.0.ids, &error);
                    }
                    error
                },
            )
        });
        match decoded {
            Ok(records) => Ok(records),
            Err(error) => Err(error.clone()),
        }
    }

    /// Whether somebody has looked and found that the batch cannot be decoded.
    pub(crate) fn is_known_unreadable(&self) -> bool {
        matches!(self.0.decoded.get(), Some(Err(_)))
    }

    /// The records as values of their own; the payloads still share one buffer.
    ///
    /// # Errors
    /// Those of [`decoded`](Self::decoded).
    pub fn records(&self) -> Result<Vec<ReceivedRecord>> {
        self.decoded().map(<[ReceivedRecord]>::to_vec)
    }

    fn describe(&self) -> String {
        match self.0.ids.first() {
            Some(id) => format!("batch {}-{}", id.shard_id, id.batch_id),
            None => "batch without ids".into(),
        }
    }
}

impl fmt::Debug for ReceivedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Contents are the user's: they do not belong into logs.
        f.debug_struct("ReceivedBatch")
            .field("first_id", &self.0.ids.first())
            .field("records", &self.len())
            .field("encoded_bytes", &self.encoded_bytes())
            .finish_non_exhaustive()
    }
}
