//! Tests of the configuration.

mod cases;
mod documentation;
mod errors;
mod files;
pub(crate) mod generate;
mod limits;
mod machine;
mod properties;
mod resolve;
mod valid;

use super::{Config, Errors, Source, parse};

/// A configuration of one file, `node.toml`; `[node]` comes from another unless it
/// stands or the text is empty.
fn parse_one(text: &str) -> Result<Config, Errors> {
    let mut sources = vec![source("node.toml", text)];
    let has_node = |line: &str| line.starts_with("[node") || line.starts_with("node");
    let plain = text.trim_start_matches('\u{feff}');
    if !plain.is_empty() && !plain.lines().any(has_node) {
        sources.push(source("z.toml", "[node]\nname = \"node-a\"\n"));
    }
    parse(&sources)
}

fn source(path: &str, text: &str) -> Source {
    Source {
        path: path.into(),
        text: text.to_owned(),
    }
}

/// The configuration of `text`, which must be valid.
fn valid(text: &str) -> Config {
    parse_one(text).unwrap_or_else(|errors| panic!("{errors}\nin\n{text}"))
}
