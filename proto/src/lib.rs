//! The HStreamDB wire protocol: generated message and service types, and the few rules that client and
//! server must agree on to the byte — record ids as text, error bodies, key hashing, batch compression
//! and the metadata keys of our extensions.
//!
//! The `.proto` text lies in `hstream/server/`; no system `protoc` is needed to build it.
#![warn(missing_docs)]

pub mod batch;
pub mod compression;
pub mod error_body;
pub mod metadata;
pub mod partition;
mod record_id;

pub use record_id::ParseRecordIdError;

/// Generated messages, the client stub and the server trait of `hstream.server.HStreamApi`.
#[allow(missing_docs, missing_debug_implementations, clippy::all, rust_2018_idioms)]
pub mod api {
    tonic::include_proto!("hstream.server");
}

/// What nodes of one cluster ask each other: `hstream.internal.Node`.
#[allow(missing_docs, missing_debug_implementations, clippy::all, rust_2018_idioms)]
pub mod internal {
    tonic::include_proto!("hstream.internal");
}

/// Serialized `FileDescriptorSet` of the `.proto` text, for reflection and for comparing with other releases.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Port clients connect to when a URL names none.
pub const DEFAULT_PORT: u16 = 6570;
