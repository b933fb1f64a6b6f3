//! Compression of a batch's payload, written so that every published client and server can read it.
//!
//! Two writers of the field poison others: zstd frames without a content size decode to nothing in the
//! original server, and gzip members without their trailer are refused by most readers. Writing is therefore
//! one-shot with a content size and complete members; reading accepts both kinds, with a cap on the output.

use crate::api::CompressionType;
use bytes::Bytes;
use std::io::{self, Read as _, Write as _};

/// Level of zstd when none is given.
pub const DEFAULT_ZSTD_LEVEL: i32 = 3;
/// Level of gzip when none is given.
pub const DEFAULT_GZIP_LEVEL: u32 = 6;

/// What went wrong with a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The bytes are not what the batch says they are.
    #[error("payload is not valid {kind}: {reason}")]
    Corrupt {
        /// `gzip` or `zstd`.
        kind: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// The content would be larger than the caller allows; protects against small batches that explode.
    #[error("payload decompresses to more than {limit} bytes")]
    TooLarge {
        /// The caller's limit in bytes.
        limit: usize,
    },
    /// The encoder refused, which means an invalid level.
    #[error("cannot compress with {kind} at level {level}: {reason}")]
    Level {
        /// `gzip` or `zstd`.
        kind: &'static str,
        /// The level asked for.
        level: i32,
        /// The encoder's words.
        reason: String,
    },
}

/// Compresses `content`; `level` is gzip 0..=9 (default 6) or zstd -7..=22 (default 3), ignored for none.
///
/// # Errors
/// [`CompressionError::Level`] when the level is out of range.
pub fn compress(
    kind: CompressionType,
    level: Option<i32>,
    content: Bytes,
) -> Result<Bytes, CompressionError> {
    match kind {
        CompressionType::None => Ok(content),
        CompressionType::Gzip => gzip(level, &content),
        CompressionType::Zstd => {
            let level = level.unwrap_or(DEFAULT_ZSTD_LEVEL);
            let refuse = |reason: String| CompressionError::Level { kind: "zstd", level, reason };
            if !(-7..=22).contains(&level) {
                return Err(refuse("the level must be from -7 to 22".into()));
            }
            // One-shot, so the frame header carries the content size.
            zstd::bulk::compress(&content, level).map(Bytes::from).map_err(|e| refuse(e.to_string()))
        }
    }
}

fn gzip(level: Option<i32>, content: &[u8]) -> Result<Bytes, CompressionError> {
    let level = level.unwrap_or(DEFAULT_GZIP_LEVEL as i32);
    let refuse = |reason: String| CompressionError::Level { kind: "gzip", level, reason };
    if !(0..=9).contains(&level) {
        return Err(refuse("the level must be from 0 to 9".into()));
    }
    let mut encoder = flate2::write::GzEncoder::new(
        Vec::with_capacity(content.len() / 2 + 64),
        flate2::Compression::new(level as u32),
    );
    encoder.write_all(content).map_err(|e| refuse(e.to_string()))?;
    encoder.finish().map(Bytes::from).map_err(|e| refuse(e.to_string()))
}

/// Decompresses a payload, at most `limit` bytes of content. Uncompressed payloads are returned as they are.
///
/// A gzip member that ends before its trailer gives what it holds, and a zstd frame needs no content size.
///
/// # Errors
/// [`CompressionError::Corrupt`] or [`CompressionError::TooLarge`].
pub fn decompress(kind: CompressionType, payload: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
    match kind {
        CompressionType::None if payload.len() > limit => Err(CompressionError::TooLarge { limit }),
        CompressionType::None => Ok(payload.clone()),
        CompressionType::Gzip => {
            read_capped(
                flate2::read::MultiGzDecoder::new(&payload[..]),
                payload.len(),
                limit,
                |error, held| {
                    // A writer that flushed but never closed: everything is there except the trailer.
                    if error.kind() == io::ErrorKind::UnexpectedEof && held > 0 {
                        return Ok(());
                    }
                    Err(CompressionError::Corrupt { kind: "gzip", reason: error.to_string() })
                },
            )
        }
        CompressionType::Zstd => {
            let corrupt =
                |error: io::Error| CompressionError::Corrupt { kind: "zstd", reason: error.to_string() };
            let decoder = zstd::stream::read::Decoder::with_buffer(&payload[..]).map_err(corrupt)?;
            read_capped(decoder, payload.len(), limit, |error, _| Err(corrupt(error)))
        }
    }
}

fn read_capped(
    reader: impl io::Read,
    compressed_len: usize,
    limit: usize,
    on_error: impl FnOnce(io::Error, usize) -> Result<(), CompressionError>,
) -> Result<Bytes, CompressionError> {
    // The first allocation follows what was received, not what a header promises.
    let mut content = Vec::with_capacity(compressed_len.saturating_mul(4).min(limit).max(64));
    // One byte beyond the limit tells "exactly full" from "too large".
    let result = reader.take(limit as u64 + 1).read_to_end(&mut content);
    if content.len() > limit {
        return Err(CompressionError::TooLarge { limit });
    }
    if let Err(error) = result {
        on_error(error, content.len())?;
    }
    Ok(Bytes::from(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [CompressionType; 3] = [CompressionType::None, CompressionType::Gzip, CompressionType::Zstd];

    fn sample() -> Bytes {
        Bytes::from("the quick brown fox ".repeat(500))
    }

    #[test]
    fn every_kind_survives_a_round_trip() {
        for kind in KINDS {
            for content in [Bytes::new(), Bytes::from_static(b"x"), sample()] {
                let packed = compress(kind, None, content.clone()).unwrap();
                assert_eq!(decompress(kind, &packed, 1 << 20).unwrap(), content, "{kind:?}");
            }
        }
    }

    #[test]
    fn zstd_frames_carry_their_content_size() {
        let packed = compress(CompressionType::Zstd, None, sample()).unwrap();
        let size = zstd::zstd_safe::get_frame_content_size(&packed).unwrap();
        assert_eq!(size, Some(sample().len() as u64));
    }

    #[test]
    fn zstd_frames_without_a_content_size_are_read() {
        let packed = zstd::stream::encode_all(&sample()[..], 3).unwrap();
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&packed).unwrap(), None);
        assert_eq!(decompress(CompressionType::Zstd, &packed.into(), 1 << 20).unwrap(), sample());
    }

    #[test]
    fn gzip_members_without_a_trailer_are_read() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&sample()).unwrap();
        encoder.flush().unwrap();
        let unfinished = Bytes::from(encoder.get_ref().clone());
        assert_eq!(decompress(CompressionType::Gzip, &unfinished, 1 << 20).unwrap(), sample());
    }

    #[test]
    fn content_above_the_limit_is_refused() {
        for kind in KINDS {
            let packed = compress(kind, None, sample()).unwrap();
            assert!(decompress(kind, &packed, sample().len()).is_ok());
            assert_eq!(
                decompress(kind, &packed, sample().len() - 1),
                Err(CompressionError::TooLarge { limit: sample().len() - 1 })
            );
        }
    }

    #[test]
    fn garbage_is_an_error() {
        let garbage = Bytes::from_static(b"this is neither");
        for kind in [CompressionType::Gzip, CompressionType::Zstd] {
            assert!(
                matches!(decompress(kind, &garbage, 100), Err(CompressionError::Corrupt { .. })),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn levels_out_of_range_are_refused() {
        for (kind, level) in [(CompressionType::Gzip, 10), (CompressionType::Zstd, 23)] {
            assert!(matches!(compress(kind, Some(level), sample()), Err(CompressionError::Level { .. })));
        }
    }
}
