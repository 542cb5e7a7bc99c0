//! Compiles `/proto` with protox, so that no protoc has to be installed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = ["snapferry/v1/common.proto", "snapferry/v1/lease.proto", "snapferry/v1/media.proto"];
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(files, [&root])?;
    tonic_prost_build::configure().bytes(".snapferry.v1").build_transport(true).compile_fds(descriptors)?;
    Ok(())
}
