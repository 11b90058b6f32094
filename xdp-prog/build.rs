//! Compiles the BPF programs and turns `bpf/weft.h` into the Rust side of the shared layout.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-changed=build.rs");

    let header = fs::read_to_string("bpf/weft.h").expect("bpf/weft.h is part of this crate");
    fs::write(out.join("weft_h.rs"), rust_side(&header)).expect("OUT_DIR is writable");

    let mut arguments = vec![
        "-Wall".to_owned(),
        "-Wextra".to_owned(),
        "-Werror".to_owned(),
        "-mcpu=v3".to_owned(), // Atomic compare-and-exchange, 32-bit jumps.
    ];
    arguments.extend(multiarch_include().map(|folder| format!("-I{}", folder.display())));
    if let Err(error) = SkeletonBuilder::new()
        .source("bpf/weft.bpf.c")
        .obj(out.join("weft.bpf.o"))
        .clang_args(&arguments)
        .build_and_generate(out.join("weft.skel.rs"))
    {
        eprintln!("bpf/weft.bpf.c: {error:?}");
        eprintln!(
            "needed: clang and the kernel's user-space headers (Debian: clang linux-libc-dev)"
        );
        std::process::exit(1);
    }
}

/// Where Debian and its kin keep `asm/types.h`, which clang's BPF target does not look for.
///
/// The build machine's compiler knows best; distributions without multiarch need no folder.
fn multiarch_include() -> Option<PathBuf> {
    let asked = [
        ("cc", vec!["-print-multiarch"]),
        ("dpkg-architecture", vec!["-qDEB_HOST_MULTIARCH"]),
    ]
    .into_iter()
    .filter_map(|(program, arguments)| {
        let output = Command::new(program).args(arguments).output().ok()?;
        let triple = String::from_utf8(output.stdout).ok()?;
        (output.status.success() && !triple.trim().is_empty()).then(|| triple.trim().to_owned())
    });
    let guessed = format!("{}-linux-gnu", env::consts::ARCH);
    asked
        .chain([guessed])
        .map(|triple| Path::new("/usr/include").join(triple))
        .find(|folder| folder.join("asm/types.h").exists())
}

/// Everything that `weft.h` says in macros: constants, counters, and the layout as assertions.
fn rust_side(header: &str) -> String {
    let mut rust = String::new();
    let mut counters = Vec::new();
    for line in header.lines() {
        let Some((name, arguments)) = line
            .strip_suffix(')')
            .and_then(|line| line.split_once('('))
            .filter(|(name, _)| name.starts_with("WEFT_"))
        else {
            continue;
        };
        let arguments: Vec<&str> = arguments.splitn(3, ',').map(str::trim).collect();
        match (name, arguments.as_slice()) {
            ("WEFT_CONST", [name, value]) => {
                let _ = writeln!(rust, "pub(crate) const {name}: u32 = {value};");
            }
            ("WEFT_SIZE", [kind, size]) => {
                let kind = camel_case(kind);
                let _ = writeln!(
                    rust,
                    "const _: () = assert!(size_of::<{kind}>() == {size});"
                );
            }
            ("WEFT_OFFSET", [kind, field, offset]) => {
                let kind = camel_case(kind);
                let _ = writeln!(
                    rust,
                    "const _: () = assert!(core::mem::offset_of!({kind}, {field}) == {offset});"
                );
            }
            ("WEFT_COUNTER", [name, ..]) => {
                // The text may hold commas, so it is cut at the quotes instead.
                let text = line.split('"').nth(1).unwrap_or_default();
                counters.push((name.to_ascii_lowercase(), text));
            }
            _ => panic!("bpf/weft.h: cannot read {line:?}"),
        }
    }
    assert!(!counters.is_empty(), "bpf/weft.h lists no counters");
    rust.push_str(&counter_enum(&counters));
    rust
}

fn counter_enum(counters: &[(String, &str)]) -> String {
    let mut rust = String::from(
        "/// What the BPF programs count (`enum weft_counter` in `bpf/weft.h`).\n\
         #[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]\n\
         pub enum Counter {\n",
    );
    for (name, text) in counters {
        let _ = writeln!(rust, "    /// {text}\n    {},", camel_case(name));
    }
    let _ = writeln!(rust, "}}\n\nimpl Counter {{");
    let _ = writeln!(
        rust,
        "    /// Every counter, in the order of the map.\n    pub const ALL: [Self; {}] = [",
        counters.len()
    );
    for (name, _) in counters {
        let _ = writeln!(rust, "        Self::{},", camel_case(name));
    }
    let _ = writeln!(
        rust,
        "    ];\n\n    /// Its name as written in logs and in JSON.\n    \
         pub const fn name(self) -> &'static str {{\n        match self {{"
    );
    for (name, _) in counters {
        let _ = writeln!(
            rust,
            "            Self::{} => \"{name}\",",
            camel_case(name)
        );
    }
    let _ = writeln!(rust, "        }}\n    }}");
    let _ = writeln!(rust, "}}");
    rust
}

/// `flow_key` becomes `FlowKey`.
fn camel_case(snake: &str) -> String {
    snake
        .split('_')
        .map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            first.to_ascii_uppercase() + rest
        })
        .collect()
}
