//! Keys of the metadata as keys of a bucket, which take fewer letters.
//!
//! Letters, digits, `/`, `-` and `_` stand for themselves, so that tools show what one expects; every other byte is `=` and two
//! hexadecimal digits. A key has no dot and thus is one token of a subject.

use std::fmt::Write as _;

/// Longest encoded key in bytes: a subject has to fit into the line that announces a message.
const MAX_LEN: usize = 2048;

/// The key of the bucket; `None` for one that is empty or too long.
pub(super) fn encode(key: &str) -> Option<String> {
    let mut encoded = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "={byte:02X}");
        }
    }
    (!encoded.is_empty() && encoded.len() <= MAX_LEN).then_some(encoded)
}

/// The key that was encoded; `None` for what [`encode`] does not make.
pub(super) fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'=' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(rest.next()?)? * 16 + digit(rest.next()?)?).ok()?
            }
            other => other,
        });
    }
    let key = String::from_utf8(bytes).ok()?;
    (encode(&key).as_deref() == Some(encoded)).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn usual_keys_look_the_same_and_others_are_one_token() {
        assert_eq!(encode("owner/subscription/a-b_1").as_deref(), Some("owner/subscription/a-b_1"));
        assert_eq!(encode("s/a.b=*> ü").as_deref(), Some("s/a=2Eb=3D=2A=3E=20=C3=BC"));
        assert_eq!(encode(""), None);
        assert_eq!(encode(&"x".repeat(MAX_LEN + 1)), None);
    }

    #[test]
    fn what_was_not_encoded_is_no_key() {
        for text in ["", "=", "=2", "=2e", "=41", "a.b", "=barrier.x", "=FF", "a b"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back(key in "\\PC{1,40}") {
            let encoded = encode(&key).unwrap();
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_=".contains(&b)));
            prop_assert_eq!(decode(&encoded), Some(key));
        }
    }
}
