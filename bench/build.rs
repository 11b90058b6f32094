//! Compiles the packet sink's BPF program to an object file that the binary carries in itself.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let source = "bpf/sink.bpf.c";
    println!("cargo:rerun-if-changed={source}");
    let object = PathBuf::from(env::var("OUT_DIR")?).join("sink.bpf.o");
    // Debian keeps <asm/types.h> in a folder of the machine's own.
    let include = format!(
        "-I/usr/include/{}-linux-gnu",
        env::var("CARGO_CFG_TARGET_ARCH")?
    );
    libbpf_cargo::SkeletonBuilder::new()
        .source(source)
        .obj(&object)
        .clang_args([include])
        .build()?;
    Ok(())
}
