//! Batches to bytes and back: records are written straight into the buffer that is sent.

use super::{PayloadKind, ReceivedRecord, RecordId, RecordView};
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use hstreamdb_proto::{api, batch, compression};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

/// Largest encoded batch that servers accept, in bytes.
pub(crate) const MAX_BATCH_BYTES: usize = 1_048_576;

// Field numbers of record.proto.
const BATCH_RECORDS: u32 = 1;
const RECORD_HEADER: u32 = 1;
const RECORD_PAYLOAD: u32 = 2;
const HEADER_FLAG: u32 = 1;
const HEADER_ATTRIBUTES: u32 = 2;
const HEADER_KEY: u32 = 3;
const ENTRY_KEY: u32 = 1;
const ENTRY_VALUE: u32 = 2;

/// Flag `RAW`; `JSON` is 0, the default, which proto3 does not write.
const FLAG_RAW: u64 = 1;

/// Lengths of one record's parts, so that each is computed once for accounting and writing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordLayout {
    header: usize,
    record: usize,
}

impl RecordLayout {
    /// Measures a record.
    pub fn of(view: &RecordView<'_>) -> Self {
        let mut header = field_len(HEADER_KEY, view.key.len());
        if view.kind == PayloadKind::Raw {
            header += key_len(HEADER_FLAG) + 1;
        }
        for (name, value) in view.attributes {
            header += nested_len(HEADER_ATTRIBUTES, entry_len(name, value));
        }
        let record = nested_len(RECORD_HEADER, header) + field_len(RECORD_PAYLOAD, view.payload.len());
        RecordLayout { header, record }
    }

    /// Bytes the record adds to a batch's content.
    pub fn len_in_batch(&self) -> usize {
        nested_len(BATCH_RECORDS, self.record)
    }
}

/// Length of a non-empty string or bytes field; empty ones are not written.
fn field_len(number: u32, length: usize) -> usize {
    if length == 0 { 0 } else { nested_len(number, length) }
}

fn nested_len(number: u32, length: usize) -> usize {
    key_len(number) + encoded_len_varint(length as u64) + length
}

fn entry_len(name: &str, value: &str) -> usize {
    field_len(ENTRY_KEY, name.len()) + field_len(ENTRY_VALUE, value.len())
}

/// Content of a batch under construction: an encoded `BatchHStreamRecords` that grows.
#[derive(Debug, Default)]
pub(crate) struct BatchEncoder {
    content: Vec<u8>,
    records: u32,
}

impl BatchEncoder {
    /// An empty batch with room for so much content.
    pub fn with_capacity(bytes: usize) -> Self {
        BatchEncoder { content: Vec::with_capacity(bytes), records: 0 }
    }

    /// Records in it so far.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Length of the content so far.
    pub fn content_len(&self) -> usize {
        self.content.len()
    }

    /// Exact length of the encoded, uncompressed `BatchedRecord` if a record of this layout were added.
    pub fn encoded_len_with(&self, layout: RecordLayout) -> usize {
        batched_record_len(self.records + 1, self.content.len() + layout.len_in_batch())
    }

    /// Exact length of the encoded, uncompressed `BatchedRecord`.
    pub fn encoded_len(&self) -> usize {
        batched_record_len(self.records, self.content.len())
    }

    /// Appends a record; `layout` must be the one measured from `view`.
    pub fn push(&mut self, view: &RecordView<'_>, layout: RecordLayout) {
        let out = &mut self.content;
        out.reserve(layout.len_in_batch());
        put_length(out, BATCH_RECORDS, layout.record);
        put_length(out, RECORD_HEADER, layout.header);
        if view.kind == PayloadKind::Raw {
            encode_key(HEADER_FLAG, WireType::Varint, out);
            encode_varint(FLAG_RAW, out);
        }
        for (name, value) in view.attributes {
            put_length(out, HEADER_ATTRIBUTES, entry_len(name, value));
            put_field(out, ENTRY_KEY, name.as_bytes());
            put_field(out, ENTRY_VALUE, value.as_bytes());
        }
        put_field(out, HEADER_KEY, view.key.as_bytes());
        put_field(out, RECORD_PAYLOAD, view.payload);
        self.records += 1;
    }

    /// The finished batch. Content that does not shrink is sent uncompressed, so a batch never grows beyond
    /// what [`encoded_len`](Self::encoded_len) said.
    ///
    /// # Errors
    /// `InvalidArgument` when the compression level is out of range.
    pub fn finish(self, kind: api::CompressionType, level: Option<i32>) -> Result<api::BatchedRecord> {
        let content = Bytes::from(self.content);
        let packed = compression::compress(kind, level, content.clone()).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, "compress batch").with_message(error.to_string())
        })?;
        // The type's own field costs two bytes.
        let (kind, payload) = if packed.len() + 2 <= content.len() {
            (kind, packed)
        } else {
            (api::CompressionType::None, content)
        };
        Ok(api::BatchedRecord {
            compression_type: kind as i32,
            publish_time: None,
            batch_size: self.records,
            payload,
        })
    }
}

fn batched_record_len(records: u32, content: usize) -> usize {
    let mut length = nested_len(4, content);
    if records > 0 {
        length += key_len(3) + encoded_len_varint(u64::from(records));
    }
    length
}

fn put_length(out: &mut Vec<u8>, number: u32, length: usize) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn put_field(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    if !value.is_empty() {
        put_length(out, number, value.len());
        out.extend_from_slice(value);
    }
}

/// Decodes a batch; payloads are slices of the decompressed content. There is one record per id: where fewer
/// ids than records are given, the ids' indexes say which.
pub(crate) fn decode_batch(
    encoded: &api::BatchedRecord,
    ids: &[RecordId],
    publish_time_ms: i64,
    limit: usize,
) -> Result<Vec<ReceivedRecord>> {
    let broken = |message: String| Error::new(ErrorKind::Codec, "decode batch").with_message(message);
    let kind = api::CompressionType::try_from(encoded.compression_type)
        .map_err(|_| broken(format!("unknown compression type {}", encoded.compression_type)))?;
    let content =
        compression::decompress(kind, &encoded.payload, limit).map_err(|error| broken(error.to_string()))?;
    let slices = batch::split_records(&content).map_err(|error| broken(error.to_string()))?;
    let select = slices.len() != ids.len();
    ids.iter()
        .enumerate()
        .map(|(position, id)| {
            let index = if select { id.batch_index as usize } else { position };
            let slice = slices.get(index).ok_or_else(|| {
                broken(format!("{} ids for {} records, none at index {index}", ids.len(), slices.len()))
            })?;
            decode_record(slice.clone(), *id, publish_time_ms)
                .map_err(|error| broken(format!("record {index}: {error}")))
        })
        .collect()
}

fn decode_record(
    slice: Bytes,
    id: RecordId,
    publish_time_ms: i64,
) -> Result<ReceivedRecord, prost::DecodeError> {
    let record = api::HStreamRecord::decode(slice)?;
    let header = record.header.unwrap_or_default();
    let kind = if header.flag == FLAG_RAW as i32 { PayloadKind::Raw } else { PayloadKind::HRecord };
    let mut attributes: Vec<_> = header.attributes.into_iter().collect();
    attributes.sort_unstable();
    Ok(ReceivedRecord { id, key: header.key, attributes, publish_time_ms, kind, payload: record.payload })
}

#[cfg(test)]
mod tests;
