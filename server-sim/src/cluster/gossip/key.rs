//! The key that the nodes of a cluster share.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Fewer bytes can be guessed.
const LEAST_BYTES: usize = 16;
/// More do not make it stronger, and a file that is larger is none with a key.
const MOST_BYTES: usize = 1024;
/// Text of that many bytes in either notation, and room for line ends.
const MOST_TEXT: u64 = 4096;

/// Base64 as people paste it: with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Keys at a time: an old one, a new one, and room for a mistake.
const MOST_KEYS: usize = 4;

/// What authenticates gossip: 16 to 1,024 bytes that all nodes of a cluster share. It never shows in logs.
///
/// While it is being changed there may be several: all of them are believed, and the first is the one to prove with.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct GossipKey(Arc<[Box<[u8]>]>);

/// Why something is no key. It never shows what was read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It is in neither notation.
    #[error("the gossip key is neither hexadecimal nor base64; make one with `openssl rand -hex 32`")]
    Notation,
    /// It has too few or too many bytes.
    #[error(
        "the gossip key has {0} bytes; it needs {LEAST_BYTES} to {MOST_BYTES}, make one with `openssl rand -hex 32`"
    )]
    Length(usize),
    /// There are too many keys.
    #[error("there are {0} gossip keys; an old and a new one are enough, {MOST_KEYS} are the most")]
    Many(usize),
    /// The file cannot be read.
    #[error("cannot read the gossip key from {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file does not hold a key.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with what is in it.
        reason: Box<KeyError>,
    },
}

impl GossipKey {
    /// One key of these bytes.
    ///
    /// # Errors
    /// [`KeyError::Length`].
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        Ok(GossipKey([checked(bytes.to_vec())?].into()))
    }

    /// Reads a file with a key in hexadecimal or base64, or with several on a line each.
    ///
    /// # Errors
    /// [`KeyError`], with the path.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        use std::io::Read as _;
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MOST_TEXT).read_to_string(&mut text))
            .map_err(|source| KeyError::File { path: path.to_owned(), source })?;
        text.parse().map_err(|reason| KeyError::Content { path: path.to_owned(), reason: Box::new(reason) })
    }

    /// The one to prove with, then the others.
    pub(crate) fn each(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|key| &**key)
    }
}

/// Reads hexadecimal, or else base64; several keys stand with commas or white space between them.
impl FromStr for GossipKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let texts = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|text| !text.is_empty());
        let keys = texts.map(|text| match from_hex(text) {
            Some(bytes) => checked(bytes),
            None => checked(BASE64.decode(text).map_err(|_| KeyError::Notation)?),
        });
        let keys = keys.collect::<Result<Arc<[_]>, _>>()?;
        match keys.len() {
            0 => Err(KeyError::Length(0)),
            1..=MOST_KEYS => Ok(GossipKey(keys)),
            many => Err(KeyError::Many(many)),
        }
    }
}

fn checked(bytes: Vec<u8>) -> Result<Box<[u8]>, KeyError> {
    if !(LEAST_BYTES..=MOST_BYTES).contains(&bytes.len()) {
        return Err(KeyError::Length(bytes.len()));
    }
    Ok(bytes.into())
}

impl TryFrom<String> for GossipKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl fmt::Debug for GossipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GossipKey(..)")
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
    let digits = digits.collect::<Option<Vec<u8>>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0B0C0D0E0Ff0";
    const BYTES: [u8; 17] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0xf0];

    fn read(text: &str) -> Vec<Vec<u8>> {
        text.parse::<GossipKey>().unwrap().each().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn several_keys_are_read_in_their_order() {
        let other = "ff".repeat(16);
        for between in [",", "\n", " , \n"] {
            assert_eq!(read(&format!("{HEX}{between}{other}\n")), [BYTES.to_vec(), vec![0xff; 16]]);
        }
        let error = [HEX; 5].join(",").parse::<GossipKey>().unwrap_err().to_string();
        assert!(error.contains("5 gossip keys"), "{error}");
        assert!(format!("{HEX},short").parse::<GossipKey>().is_err());
    }

    #[test]
    fn a_key_is_read_in_both_notations_and_from_a_file() {
        for text in [HEX, "AAECAwQFBgcICQoLDA0OD/A=", "AAECAwQFBgcICQoLDA0OD/A", &format!(" {HEX}\n")] {
            assert_eq!(read(text), [BYTES], "{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, format!("{HEX}\n")).unwrap();
        assert_eq!(GossipKey::from_file(&path).unwrap().each().collect::<Vec<_>>(), [BYTES]);
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_to_do_and_without_showing_it() {
        let long = "ab".repeat(MOST_BYTES + 1);
        for (text, reason) in [
            ("", "has 0 bytes"),
            ("c0ffee", "has 3 bytes"),
            ("not-a-key!", "neither hexadecimal nor base64"),
            (long.as_str(), "has 1025 bytes"),
        ] {
            let error = text.parse::<GossipKey>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("openssl rand"), "{text}: {error}");
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let error = GossipKey::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("key"), "{error}");
        std::fs::write(&path, "short").unwrap();
        let error = GossipKey::from_file(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("openssl"), "{error}");
    }

    #[test]
    fn a_key_does_not_show() {
        let key: GossipKey = HEX.parse().unwrap();
        assert_eq!(format!("{key:?}"), "GossipKey(..)");
    }
}
