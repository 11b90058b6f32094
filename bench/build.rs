//! Compiles the BPF programs of measurements to object files that the binary carries in itself.

use std::{env, error::Error, path::PathBuf};

/// What makes packets of many flows at the beginning of a rate measurement, the sink at its end, and the load balancer
/// to measure against.
const PROGRAMS: [&str; 3] = ["spread", "sink", "balancer"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Debian keeps <asm/types.h> in a folder of the machine's own.
    let include = format!(
        "-I/usr/include/{}-linux-gnu",
        env::var("CARGO_CFG_TARGET_ARCH")?
    );
    for program in PROGRAMS {
        libbpf_cargo::SkeletonBuilder::new()
            .source(format!("bpf/{program}.bpf.c"))
            .obj(out.join(format!("{program}.bpf.o")))
            .clang_args(["-Wall", "-Werror", "-mcpu=v3", &include])
            .build()?;
    }
    Ok(())
}
