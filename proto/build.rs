//! Compiles the `.proto` text without a system `protoc`.

use prost::Message as _;
use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=hstream");
    let descriptors = protox::compile(["hstream/server/api.proto"], ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Payloads stay slices of the received buffer instead of being copied into vectors.
        .bytes(".")
        .compile_fds(descriptors)?;
    // Apart, so that the published descriptors hold nothing of ours.
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".hstream.server", "crate::api")
        .compile_fds(protox::compile(["hstream/internal/node.proto"], ["."])?)?;
    Ok(())
}
