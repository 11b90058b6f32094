//! Typed access to a TOML tree, in which every value knows its key path and its line.
//!
//! A method that wants a value of some kind returns `None` when it is of another, and has then
//! reported why. So a section reads all of its keys before it gives up, and every error shows.

use std::fmt;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::error::{Location, Reason};

/// The way to a value, kept on the stack of those who read it and rendered only for errors.
#[derive(Clone, Copy)]
pub(super) enum KeyPath<'p> {
    Root,
    Key(&'p KeyPath<'p>, &'p str),
    Index(&'p KeyPath<'p>, usize),
}

impl fmt::Display for KeyPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(&shown_key(key)),
            Self::Key(parent, key) => write!(f, "{parent}.{}", shown_key(key)),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A table, its keys known to be accepted ones.
pub(super) struct Table<'p, 'd> {
    document: &'p Document<'d>,
    path: KeyPath<'p>,
    offset: usize,
    entries: &'p DeTable<'d>,
}

impl<'p, 'd> Table<'p, 'd> {
    pub(super) fn new(
        document: &'p Document<'d>,
        path: KeyPath<'p>,
        offset: usize,
        entries: &'p DeTable<'d>,
    ) -> Self {
        Self {
            document,
            path,
            offset,
            entries,
        }
    }

    /// Reports every key that is not one of `keys`.
    pub(super) fn refuse_unknown(self, keys: &'static [&'static str]) -> Self {
        for key in self.entries.keys() {
            let name = key.get_ref().as_ref();
            if !keys.contains(&name) {
                self.document.report(
                    self.document.line(key.span().start),
                    KeyPath::Key(&self.path, name).to_string(),
                    Reason::UnknownKey {
                        suggestion: nearest(name, keys),
                    },
                );
            }
        }
        self
    }

    /// The value of `key`, if it stands.
    pub(super) fn get<'v>(&'v self, key: &'static str) -> Option<Value<'v, 'd>> {
        let value = self.entries.get(key)?;
        Some(Value::new(
            self.document,
            KeyPath::Key(&self.path, key),
            value,
        ))
    }

    /// The value of `key`, which must stand.
    pub(super) fn require<'v>(&'v self, key: &'static str) -> Option<Value<'v, 'd>> {
        let value = self.get(key);
        if value.is_none() {
            self.report_at(key, Reason::Missing);
        }
        value
    }

    /// What `read` makes of `key`; `default` when it does not stand; `None` after an error.
    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Value<'_, 'd>) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(value) => read(&value),
            None => Some(default),
        }
    }

    /// Every entry of a table whose keys are the user's own.
    pub(super) fn entries<'v>(&'v self) -> impl Iterator<Item = (&'v str, Value<'v, 'd>)> {
        self.entries.iter().map(|(key, value)| {
            let key = key.get_ref().as_ref();
            let path = KeyPath::Key(&self.path, key);
            (key, Value::new(self.document, path, value))
        })
    }

    /// Reports an error of `key`, which does not stand.
    pub(super) fn report_at(&self, key: &'static str, reason: Reason) {
        let path = KeyPath::Key(&self.path, key).to_string();
        self.document
            .report(self.document.line(self.offset), path, reason);
    }

    /// Reports an error of the table as a whole.
    pub(super) fn report(&self, reason: Reason) {
        let Location { line, key, .. } = self.location();
        self.document.report(line, key, reason);
    }

    pub(super) fn location(&self) -> Location {
        let line = self.document.line(self.offset);
        self.document.location(line, self.path.to_string())
    }
}

/// What a value that may be of several types is.
pub(super) enum Kind {
    String,
    Integer,
    Other,
}

/// A value of any type.
pub(super) struct Value<'p, 'd> {
    document: &'p Document<'d>,
    path: KeyPath<'p>,
    value: &'p Spanned<DeValue<'d>>,
}

impl<'p, 'd> Value<'p, 'd> {
    fn new(document: &'p Document<'d>, path: KeyPath<'p>, value: &'p Spanned<DeValue<'d>>) -> Self {
        Self {
            document,
            path,
            value,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.value.get_ref() {
            DeValue::String(_) => Kind::String,
            DeValue::Integer(_) => Kind::Integer,
            _ => Kind::Other,
        }
    }

    pub(super) fn string(&self, expected: &'static str) -> Option<&'p str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => self.wrong_type(expected),
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_type("true or false"),
        }
    }

    /// A whole number within `range`.
    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(digits) = self.value.get_ref() else {
            return self.wrong_type("a whole number");
        };
        u64::from_str_radix(digits.as_str(), digits.radix())
            .ok()
            .filter(|number| range.contains(number))
            .or_else(|| {
                self.reject(Reason::OutOfRange {
                    value: cut(&digits.to_string()),
                    min: *range.start(),
                    max: *range.end(),
                })
            })
    }

    /// The elements of an array.
    pub(super) fn items<'v>(
        &'v self,
        expected: &'static str,
    ) -> Option<impl ExactSizeIterator<Item = Value<'v, 'd>>> {
        let DeValue::Array(items) = self.value.get_ref() else {
            return self.wrong_type(expected);
        };
        Some(items.iter().enumerate().map(|(index, item)| {
            Value::new(self.document, KeyPath::Index(&self.path, index), item)
        }))
    }

    /// A table that takes `keys` and no others.
    pub(super) fn table(&self, keys: &'static [&'static str]) -> Option<Table<'p, 'd>> {
        Some(self.any_table("a table")?.refuse_unknown(keys))
    }

    /// A table whose keys are the user's own.
    pub(super) fn any_table(&self, expected: &'static str) -> Option<Table<'p, 'd>> {
        let DeValue::Table(entries) = self.value.get_ref() else {
            return self.wrong_type(expected);
        };
        let offset = self.value.span().start;
        Some(Table::new(self.document, self.path, offset, entries))
    }

    pub(super) fn wrong_type<T>(&self, expected: &'static str) -> Option<T> {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.reject(Reason::WrongType { expected, found })
    }

    /// Reports an error of this value. Always `None`, for the caller to return.
    pub(super) fn reject<T>(&self, reason: Reason) -> Option<T> {
        let Location { line, key, .. } = self.location();
        self.document.report(line, key, reason);
        None
    }

    pub(super) fn location(&self) -> Location {
        let line = self.document.line(self.value.span().start);
        self.document.location(line, self.path.to_string())
    }
}

/// A key as TOML writes it, cut to a readable length.
pub(super) fn shown_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(bare) {
        cut(key)
    } else {
        quoted(key)
    }
}

/// A text of a file in quotes, on one line and cut to a readable length.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", cut(text))
}

fn cut(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The key that was probably meant: at most two slips away, and fewer for short ones; or one without its end, as `match` is.
fn nearest(key: &str, keys: &'static [&'static str]) -> Option<&'static str> {
    const LONGEST: usize = 32; // Bounds the work on a key of any length.
    if key.len() > LONGEST {
        return None;
    }
    let allowed = (key.len() / 3).min(2);
    let slip = keys
        .iter()
        .map(|known| (distance(key.as_bytes(), known.as_bytes()), *known))
        .filter(|&(slips, _)| slips <= allowed)
        .min()
        .map(|(_, known)| known);
    let mut longer = keys.iter().filter(|known| known.starts_with(key));
    slip.or_else(|| longer.next().filter(|_| key.len() >= 4).copied())
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &to) in b.iter().enumerate() {
            let mut slips = (last[j] + usize::from(from != to))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && from == b[j - 1] && a[i - 1] == to {
                slips = slips.min(before[j - 1] + 1);
            }
            row.push(slips);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
