//! What goes into a stream and what comes out: records, their ids, positions, and whole batches of them.

mod batch;
pub(crate) mod codec;
mod hrecord;
mod id;
mod received;

pub use batch::RecordBatch;
pub(crate) use batch::RecordView;
pub use hrecord::HRecord;
pub use id::{Offset, RecordId};
pub(crate) use received::DecodeWatch;
pub use received::{ReceivedBatch, ReceivedRecord};

use crate::error::Result;
use bytes::Bytes;

/// What a record's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PayloadKind {
    /// Opaque bytes.
    #[default]
    Raw,
    /// A serialised `google.protobuf.Struct`, shown as a JSON object.
    HRecord,
}

impl PayloadKind {
    /// `raw` or `hrecord`.
    pub fn name(self) -> &'static str {
        match self {
            PayloadKind::Raw => "raw",
            PayloadKind::HRecord => "hrecord",
        }
    }
}

/// One record to append.
///
/// ```
/// use hstreamdb::Record;
/// let record = Record::raw("42 degrees").with_key("sensor-7").with_attribute("unit", "celsius");
/// assert_eq!(record.key, "sensor-7");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Partition key: records of one key go to one shard, in order. The empty key is a key like any other.
    pub key: String,
    /// The content: opaque bytes, or an encoded Struct for [`PayloadKind::HRecord`].
    pub payload: Bytes,
    /// What `payload` is.
    pub kind: PayloadKind,
    /// Free text pairs that travel with the record. Of equal names the last one wins.
    pub attributes: Vec<(String, String)>,
}

impl Record {
    /// A record of opaque bytes, without a key.
    pub fn raw(payload: impl Into<Bytes>) -> Self {
        Record { payload: payload.into(), ..Record::default() }
    }

    /// A record from the text of a JSON object.
    ///
    /// Numbers become IEEE doubles: integers beyond 2^53 lose digits, send those as text.
    ///
    /// # Errors
    /// `InvalidArgument` when the text is not JSON, not an object, or nested deeper than 30 levels.
    pub fn hrecord_json(json: &str) -> Result<Self> {
        HRecord::from_json(json).map(|hrecord| Record::hrecord(&hrecord))
    }

    /// A record of an [`HRecord`], without a key.
    pub fn hrecord(hrecord: &HRecord) -> Self {
        Record { payload: hrecord.encode(), kind: PayloadKind::HRecord, ..Record::default() }
    }

    /// With a partition key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// With one more attribute.
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    pub(crate) fn view(&self) -> RecordView<'_> {
        RecordView { key: &self.key, payload: &self.payload, kind: self.kind, attributes: &self.attributes }
    }
}
