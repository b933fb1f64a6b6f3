//! Batches as the published clients write them, put together byte by byte from the formats' rules.

use hstreamdb_proto::api::{BatchedRecord, CompressionType};

/// A client and a batch of its making.
pub struct Written {
    pub by: &'static str,
    pub batch: BatchedRecord,
    /// Key, payload, and whether it is under the flag of HRecords.
    pub records: Vec<(&'static str, &'static [u8], bool)>,
}

/// One batch or more of every published client.
pub fn all() -> Vec<Written> {
    // {"a": 1.5, "b": null} as a Struct.
    const STRUCT: &[u8] =
        b"\x0a\x0e\x0a\x01a\x12\x09\x11\x00\x00\x00\x00\x00\x00\xf8\x3f\x0a\x07\x0a\x01b\x12\x02\x08\x00";
    let raw = || {
        vec![
            ("key1", &b"one"[..], false),
            ("", &b""[..], false),
            ("\u{4e2d}\u{6587}", &b"\xff\x00"[..], false),
        ]
    };
    let mixed = || vec![("k", STRUCT, true), ("k", &b"raw"[..], false)];
    let written =
        |by, kind, pack: fn(&[u8]) -> Vec<u8>, records: Vec<(&'static str, &'static [u8], bool)>| {
            let batch = BatchedRecord {
                compression_type: kind as i32,
                batch_size: records.len() as u32,
                payload: pack(&content(&records)).into(),
                ..BatchedRecord::default()
            };
            Written { by, batch, records }
        };
    use CompressionType::{Gzip, None, Zstd};
    vec![
        written("Java, none", None, <[u8]>::to_vec, mixed()),
        written("Java, gzip", Gzip, |content| gzip(content, 0, true), mixed()),
        written("Java, zstd", Zstd, |content| zstd(content, true), raw()),
        written("Go, none", None, <[u8]>::to_vec, raw()),
        // Flushed and never closed: no final block, no checksum, no length.
        written("Go, gzip", Gzip, |content| gzip(content, 0, false), raw()),
        written("Go, zstd", Zstd, |content| zstd(content, true), raw()),
        written("Python, none", None, <[u8]>::to_vec, mixed()),
        // It writes the time into the header.
        written("Python, gzip", Gzip, |content| gzip(content, 1_700_000_000, true), mixed()),
        // The caller's text under the flag of HRecords, which is no Struct.
        written("Erlang, none", None, <[u8]>::to_vec, vec![("k", b"{\"a\":1}", true)]),
        written("Erlang, gzip", Gzip, |content| gzip(content, 0, true), raw()),
        written("Rust, gzip", Gzip, |content| gzip(content, 0, true), mixed()),
        // A streaming encoder leaves the content size out.
        written("Rust, zstd", Zstd, |content| zstd(content, false), mixed()),
    ]
}

/// A `BatchHStreamRecords`: field 1 is a record, of which field 1 is the header (1 the flag, 3 the key) and 2 the
/// payload; what is empty or zero is left out.
fn content(records: &[(&str, &[u8], bool)]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, payload, is_hrecord) in records {
        let mut header = Vec::new();
        if !is_hrecord {
            header.extend([0x08, 1]);
        }
        field(&mut header, 0x1a, key.as_bytes());
        let mut record = vec![0x0a, u8::try_from(header.len()).unwrap()];
        record.extend(header);
        field(&mut record, 0x12, payload);
        field(&mut content, 0x0a, &record);
    }
    content
}

/// Lengths below 128 take one byte.
fn field(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    assert!(value.len() < 128);
    if !value.is_empty() {
        out.extend([tag, value.len() as u8]);
        out.extend(value);
    }
}

/// A gzip member with the content in one stored block; without its end it stops after an empty block, as a flush
/// writes it.
fn gzip(content: &[u8], time: u32, complete: bool) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let mut out = vec![0x1f, 0x8b, 8, 0];
    out.extend(time.to_le_bytes());
    out.extend([0, 255]);
    out.push(u8::from(complete));
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(content);
    if complete {
        out.extend(crc32(content).to_le_bytes());
        out.extend(u32::from(length).to_le_bytes());
    } else {
        out.extend([0, 0, 0, 0xff, 0xff]);
    }
    out
}

/// A zstd frame with the content in one raw block.
fn zstd(content: &[u8], with_size: bool) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd];
    match with_size {
        // One segment, and one byte that says how long it is.
        true => out.extend([0x20, u8::try_from(content.len()).unwrap()]),
        // A window of 2 MiB instead.
        false => out.extend([0x00, 0x58]),
    }
    let last_raw_block = (content.len() as u32) << 3 | 1;
    out.extend(&last_raw_block.to_le_bytes()[..3]);
    out.extend(content);
    out
}

/// The checksum of gzip, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 },
        )
    })
}
