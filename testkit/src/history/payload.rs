//! Payloads that know which record they are.

const NUMBER: usize = size_of::<u64>();

/// A payload of `length` bytes, at least 8, for a record.
pub fn payload(record: u64, length: usize) -> Vec<u8> {
    let mut bytes = record.to_be_bytes().to_vec();
    bytes.extend((NUMBER..length).map(|place| filler(record, place)));
    bytes
}

/// The record a payload is for; `None` when it is not one of [`payload`] or was altered.
pub fn record_of(payload: &[u8]) -> Option<u64> {
    let record = u64::from_be_bytes(payload.get(..NUMBER)?.try_into().ok()?);
    let rest = payload.iter().enumerate().skip(NUMBER);
    rest.into_iter().all(|(place, byte)| *byte == filler(record, place)).then_some(record)
}

/// Compressible, and another byte for every record and place.
fn filler(record: u64, place: usize) -> u8 {
    (record.wrapping_mul(31) as u8) ^ (place as u8 & 0x0f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_tells_its_record_unless_it_was_altered() {
        for length in [0, 8, 9, 500] {
            let mut bytes = payload(77, length);
            assert_eq!(bytes.len(), length.max(8));
            assert_eq!(record_of(&bytes), Some(77));
            if length > 8 {
                bytes[length - 1] ^= 1;
                assert_eq!(record_of(&bytes), None);
            }
        }
        assert_eq!(record_of(b"short"), None);
    }
}
