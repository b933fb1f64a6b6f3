//! A batch on the wire without copying it: counting and slicing the records of a `BatchHStreamRecords`
//! whose bytes stay where they are.

use bytes::{Buf as _, Bytes};
use prost::encoding::{WireType, decode_key, decode_varint};

/// Field number of `BatchHStreamRecords.records`.
const RECORDS_FIELD: u32 = 1;

/// The bytes are not a `BatchHStreamRecords`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("batch content is not a list of records: {reason} at byte {position}")]
pub struct MalformedBatch {
    reason: &'static str,
    position: usize,
}

/// Splits the content of a batch (decompressed) into one encoded `HStreamRecord` per record.
///
/// The slices share `content`'s buffer; nothing is copied. Unknown fields are skipped.
///
/// # Errors
/// [`MalformedBatch`] when the bytes end early or are not protobuf.
pub fn split_records(content: &Bytes) -> Result<Vec<Bytes>, MalformedBatch> {
    match split_readable(content) {
        (records, None) => Ok(records),
        (_, Some(malformed)) => Err(malformed),
    }
}

/// As [`split_records`], for readers that take what there is: the records in front of the first byte that cannot
/// be read, and what is wrong with it.
pub fn split_readable(content: &Bytes) -> (Vec<Bytes>, Option<MalformedBatch>) {
    let mut records = Vec::new();
    let mut rest = content.clone();
    while rest.has_remaining() {
        let position = content.len() - rest.remaining();
        match next_record(&mut rest) {
            Ok(record) => records.extend(record),
            Err(reason) => return (records, Some(MalformedBatch { reason, position })),
        }
    }
    (records, None)
}

/// Takes one field off the front; `None` if it is no record.
fn next_record(rest: &mut Bytes) -> Result<Option<Bytes>, &'static str> {
    let (field, wire_type) = decode_key(rest).map_err(|_| "no field key")?;
    match wire_type {
        WireType::LengthDelimited => {
            let length = decode_varint(rest).map_err(|_| "no length")?;
            if length > rest.remaining() as u64 {
                return Err("a record ends beyond the batch");
            }
            let record = rest.split_to(length as usize);
            Ok((field == RECORDS_FIELD).then_some(record))
        }
        WireType::Varint => decode_varint(rest).map(|_| None).map_err(|_| "no varint"),
        WireType::SixtyFourBit | WireType::ThirtyTwoBit => {
            let width = if wire_type == WireType::SixtyFourBit { 8 } else { 4 };
            if rest.remaining() < width {
                return Err("a number ends beyond the batch");
            }
            rest.advance(width);
            Ok(None)
        }
        WireType::StartGroup | WireType::EndGroup => Err("a group"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BatchHStreamRecords, HStreamRecord, HStreamRecordHeader};
    use prost::Message as _;

    fn record(key: &str, payload: &'static [u8]) -> HStreamRecord {
        HStreamRecord {
            header: Some(HStreamRecordHeader { flag: 1, key: key.into(), ..Default::default() }),
            payload: Bytes::from_static(payload),
        }
    }

    #[test]
    fn slices_decode_to_the_records_they_came_from() {
        let records = vec![record("a", b"1"), record("", b""), record("b", b"333")];
        let content = Bytes::from(BatchHStreamRecords { records: records.clone() }.encode_to_vec());
        let slices = split_records(&content).unwrap();
        let decoded: Vec<_> = slices.into_iter().map(|s| HStreamRecord::decode(s).unwrap()).collect();
        assert_eq!(decoded, records);
    }

    #[test]
    fn a_cut_batch_is_malformed_or_shorter_but_never_a_panic() {
        let records = vec![record("a", b"1"), record("b", b"22")];
        let content = Bytes::from(BatchHStreamRecords { records }.encode_to_vec());
        for cut in 0..content.len() {
            let cut = content.slice(..cut);
            match split_records(&cut) {
                Ok(slices) => assert!(slices.len() < 2),
                Err(error) => assert!(error.to_string().contains("at byte")),
            }
            // What lies in front of the cut is still to be had.
            let whole = split_records(&content).unwrap();
            assert!(whole.starts_with(&split_readable(&cut).0));
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = split_records(&Bytes::from(bytes));
        }
    }
}
