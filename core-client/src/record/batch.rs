//! Many records in a few buffers, the form in which bindings hand them over.

use super::{PayloadKind, Record};
use std::ops::Range;

/// A record seen in place, whatever holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordView<'a> {
    pub key: &'a str,
    pub payload: &'a [u8],
    pub kind: PayloadKind,
    pub attributes: &'a [(String, String)],
}

impl RecordView<'_> {
    /// What the record counts for in flow control: everything the caller put into it.
    pub fn flow_bytes(&self) -> usize {
        self.key.len()
            + self.payload.len()
            + self.attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}

/// Records to append together, in columns: one buffer of payloads, one of keys, and where each ends.
///
/// Pushing a record copies its bytes and allocates nothing beyond the buffers' growth.
#[derive(Debug, Clone, Default)]
pub struct RecordBatch {
    payloads: Vec<u8>,
    keys: String,
    ends: Vec<Ends>,
    /// Only records that have attributes are listed, ascending by index.
    attributes: Vec<(usize, Vec<(String, String)>)>,
    attribute_bytes: usize,
    tag: u64,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    payload: usize,
    key: usize,
    kind: PayloadKind,
}

impl RecordBatch {
    /// An empty batch with room for so many records and payload bytes.
    pub fn with_capacity(records: usize, bytes: usize) -> Self {
        RecordBatch {
            payloads: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(records),
            ..RecordBatch::default()
        }
    }

    /// A number by which the application knows these records again when
    /// [`on_batch`](crate::ProducerBuilder::on_batch) tells of them; 0 by default. It is not sent.
    pub fn with_tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// The number given with [`with_tag`](Self::with_tag).
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Adds a record of opaque bytes; the key may be empty.
    pub fn push(&mut self, key: &str, payload: &[u8]) {
        self.push_view(RecordView { key, payload, kind: PayloadKind::Raw, attributes: &[] });
    }

    /// Adds a record with all it has.
    pub fn push_record(&mut self, record: &Record) {
        self.push_view(record.view());
    }

    fn push_view(&mut self, view: RecordView<'_>) {
        if !view.attributes.is_empty() {
            self.attribute_bytes += view.attributes.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>();
            self.attributes.push((self.ends.len(), view.attributes.to_vec()));
        }
        self.payloads.extend_from_slice(view.payload);
        self.keys.push_str(view.key);
        self.ends.push(Ends { payload: self.payloads.len(), key: self.keys.len(), kind: view.kind });
    }

    /// The records at these positions, which ascend.
    pub(crate) fn select(&self, positions: &[usize]) -> RecordBatch {
        let mut selected = RecordBatch::default();
        let mut wanted = positions.iter().peekable();
        for (position, view) in self.views().enumerate() {
            if wanted.next_if_eq(&&position).is_some() {
                selected.push_view(view);
            }
        }
        selected
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no record in it.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Sum of the payloads' lengths in bytes.
    pub fn payload_bytes(&self) -> usize {
        self.payloads.len()
    }

    /// What the batch counts for in flow control, in bytes: payloads, keys and attributes.
    pub fn flow_bytes(&self) -> usize {
        self.payloads.len() + self.keys.len() + self.attribute_bytes
    }

    /// All records in order.
    pub(crate) fn views(&self) -> impl Iterator<Item = RecordView<'_>> {
        let mut attributes = self.attributes.iter().peekable();
        let mut payload_start = 0;
        let mut key_start = 0;
        self.ends.iter().enumerate().map(move |(index, ends)| {
            let payload = slice(&self.payloads, payload_start..ends.payload);
            let key = self.keys.get(key_start..ends.key).unwrap_or_default();
            (payload_start, key_start) = (ends.payload, ends.key);
            let attributes = match attributes.peek() {
                Some((at, pairs)) if *at == index => {
                    attributes.next();
                    pairs.as_slice()
                }
                _ => &[],
            };
            RecordView { key, payload, kind: ends.kind, attributes }
        })
    }
}

fn slice(bytes: &[u8], range: Range<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}

impl<'a> FromIterator<&'a Record> for RecordBatch {
    fn from_iter<I: IntoIterator<Item = &'a Record>>(records: I) -> Self {
        let mut batch = RecordBatch::default();
        for record in records {
            batch.push_record(record);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_as_they_went_in() {
        let records = [
            Record::raw("one").with_key("ключ"),
            Record::raw(""),
            Record::raw("three").with_attribute("a", "b").with_attribute("c", ""),
            Record::hrecord_json(r#"{"x":1}"#).unwrap().with_key("k").with_attribute("d", "e"),
            Record::raw("last"),
        ];
        let batch: RecordBatch = records.iter().collect();
        assert_eq!(batch.len(), records.len());
        let back: Vec<Record> = batch
            .views()
            .map(|view| Record {
                key: view.key.to_owned(),
                payload: view.payload.to_vec().into(),
                kind: view.kind,
                attributes: view.attributes.to_vec(),
            })
            .collect();
        assert_eq!(back, records);
        assert_eq!(batch.flow_bytes(), batch.views().map(|view| view.flow_bytes()).sum::<usize>());
        let expected: RecordBatch = [&records[1], &records[2], &records[4]].into_iter().collect();
        let selected = batch.select(&[1, 2, 4]);
        assert_eq!(format!("{selected:?}"), format!("{expected:?}"));
        assert_eq!(batch.payload_bytes(), records.iter().map(|r| r.payload.len()).sum::<usize>());
    }
}
