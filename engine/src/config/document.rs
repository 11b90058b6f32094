//! One configuration file: its TOML tree, its lines, and what has been found wrong with it.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Location, Reason};
use super::reader::{KeyPath, Table, shown_key};

/// Syntax errors shown for a file: one slip can upset every line after it, and a file that is no
/// TOML at all would fill the screen.
const SYNTAX_ERRORS_MAX: usize = 20;

/// A parsed file.
pub(super) struct Document<'d> {
    file: Arc<Path>,
    tree: Spanned<DeTable<'d>>,
    /// Byte offset of every newline: a value's line is found by binary search.
    newlines: Vec<usize>,
    /// In a cell, because the readers of the tree's values report here.
    errors: RefCell<Vec<ConfigError>>,
    damaged: bool,
}

impl<'d> Document<'d> {
    /// Parses one file. Never fails: syntax errors are reported like all others.
    pub(super) fn parse(file: &Path, text: &'d str) -> Self {
        let (tree, found) = DeTable::parse_recoverable(text);
        let mut document = Self {
            file: Arc::from(file),
            tree,
            newlines: newlines(text),
            errors: RefCell::default(),
            damaged: false,
        };
        document.report_syntax(text, found);
        document
    }

    fn report_syntax(&mut self, text: &str, mut found: Vec<toml::de::Error>) {
        let start = |error: &toml::de::Error| error.span().map_or(text.len(), |span| span.start);
        found.sort_by_key(start);
        let mut last_line = 0;
        let mut shown = 0;
        for error in found {
            let offset = start(&error);
            // A key that stands twice leaves the tree whole; after other errors it is a guess.
            let repeated = error.message() == "duplicate key";
            self.damaged |= !repeated;
            // What follows on the same line is mostly a consequence of its first error.
            let line = self.line(offset);
            if line == last_line || shown == SYNTAX_ERRORS_MAX {
                continue;
            }
            last_line = line;
            shown += 1;
            let key = match error.span().and_then(|span| text.get(span)) {
                Some(key) if repeated => self.path_of_repeated(key, text, offset),
                _ => "syntax".to_owned(),
            };
            self.report(line, key, syntax_reason(error.message()));
        }
    }

    /// The full path of a key that stands twice, the second time at `offset`.
    ///
    /// The parser says no more than the place. A table that stands twice is in the tree with its
    /// second place, a value with its first, which is the last one of that name before `offset`.
    fn path_of_repeated(&self, key: &str, text: &str, offset: usize) -> String {
        let key = key.trim_matches(['"', '\'']);
        let mut search = Search {
            key,
            text,
            offset,
            best: None,
        };
        search.table(KeyPath::Root, self.tree.get_ref(), 0);
        search.best.map_or_else(|| shown_key(key), |(_, path)| path)
    }

    /// The top-level table, unless the text is not TOML.
    pub(super) fn root<'p>(&'p self, keys: &'static [&'static str]) -> Option<Table<'p, 'd>>
    where
        'd: 'p,
    {
        let root = Table::new(self, KeyPath::Root, 0, self.tree.get_ref());
        (!self.damaged).then(|| root.refuse_unknown(keys))
    }

    /// Whether the text is not TOML, so that what it lacks says nothing about the configuration.
    pub(super) fn damaged(&self) -> bool {
        self.damaged
    }

    /// The line of a byte offset, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.newlines.partition_point(|&newline| newline < offset) + 1
    }

    pub(super) fn location(&self, line: usize, key: String) -> Location {
        Location {
            file: self.file.clone(),
            line,
            key,
        }
    }

    pub(super) fn report(&self, line: usize, key: String, reason: Reason) {
        let at = self.location(line, key);
        self.errors.borrow_mut().push(ConfigError { at, reason });
    }

    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        self.errors.into_inner()
    }
}

/// The parser's message, in better words where it has guessed at the type of an unquoted text.
fn syntax_reason(message: &str) -> Reason {
    let guesses = [
        "string values must be quoted",
        "invalid float",
        "invalid boolean",
    ];
    if guesses.iter().any(|guess| message.starts_with(guess)) {
        return Reason::Unquoted;
    }
    let message = message
        .strip_suffix(", expected nothing")
        .unwrap_or(message);
    Reason::Syntax(message.to_owned())
}

/// A search for the place that a repeated key was first given.
struct Search<'s> {
    key: &'s str,
    text: &'s str,
    offset: usize,
    best: Option<(usize, String)>,
}

impl Search<'_> {
    fn table(&mut self, path: KeyPath<'_>, table: &DeTable<'_>, depth: usize) {
        for (key, value) in table {
            let path = KeyPath::Key(&path, key.get_ref());
            let start = key.span().start;
            let nearer = self.best.as_ref().is_none_or(|(best, _)| *best < start);
            if key.get_ref() == self.key && start <= self.offset && nearer {
                self.best = Some((start, path.to_string()));
            }
            self.value(path, value, depth + 1);
        }
    }

    fn value(&mut self, path: KeyPath<'_>, value: &Spanned<DeValue<'_>>, depth: usize) {
        // Deeper than any accepted key, and shallow enough for every stack.
        const DEPTH_MAX: usize = 8;
        let span = value.span();
        let closed = span.end <= self.offset && self.text[span.start..].starts_with('{');
        if depth > DEPTH_MAX || closed {
            return;
        }
        match value.get_ref() {
            DeValue::Table(table) => self.table(path, table, depth),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.value(KeyPath::Index(&path, index), item, depth + 1);
                }
            }
            _ => {}
        }
    }
}

fn newlines(text: &str) -> Vec<usize> {
    let bytes = text.bytes().enumerate();
    bytes
        .filter(|&(_, byte)| byte == b'\n')
        .map(|(offset, _)| offset)
        .collect()
}
