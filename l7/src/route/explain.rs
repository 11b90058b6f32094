//! Why a request goes where it goes, for people to read.

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use super::matching::Path;
use super::table::Candidate;
use super::{CompiledRule, RequestView};

/// Why a match was not met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Another path.
    Path,
    /// Another method.
    Method,
    /// No field line of this name has the value.
    Header(HeaderName),
    /// The first parameter of this name has another value, or there is none.
    Query(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("the path differs"),
            Self::Method => f.write_str("the method differs"),
            Self::Header(name) => write!(f, "header {name} differs or is missing"),
            Self::Query(name) => write!(f, "query parameter {name} differs or is missing"),
        }
    }
}

/// One match that was looked at.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// The match, and its route and rule, as text.
    pub text: String,
    /// Its rule.
    pub rule: Arc<CompiledRule>,
    /// Why it was not met; `None` for the one that wins.
    pub refusal: Option<Refusal>,
}

impl Step {
    pub(super) fn new(
        hostname: Option<String>,
        path: Path,
        candidate: &Candidate,
        rule: &Arc<CompiledRule>,
        request: &RequestView<'_>,
    ) -> Self {
        let refusal = match path.matches(request.path) {
            true => candidate.conditions.refusal(request),
            false => Some(Refusal::Path),
        };
        Self {
            text: Listed::new(hostname, path, candidate, rule).to_string(),
            rule: Arc::clone(rule),
            refusal,
        }
    }
}

/// How a request was matched: every match whose hostname the request has, in order, up to the one that wins.
#[derive(Clone, PartialEq, Debug)]
pub struct Explanation {
    /// What was looked at.
    pub steps: Vec<Step>,
}

impl Explanation {
    /// The rule that wins; `None` is answered with 404.
    pub fn winner(&self) -> Option<&Arc<CompiledRule>> {
        let last = self.steps.last()?;
        last.refusal.is_none().then_some(&last.rule)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match &step.refusal {
                Some(refusal) => writeln!(f, "  no   {}: {refusal}", step.text)?,
                None => writeln!(f, "  wins {}", step.text)?,
            }
        }
        if self.winner().is_none() {
            writeln!(f, "  no rule is left: 404")?;
        }
        Ok(())
    }
}

/// A match and where it leads, for people and programs.
#[derive(Clone, PartialEq, Debug)]
pub struct Listed<'t> {
    /// `*` in front stands for one or more labels; `None` for any host.
    pub hostname: Option<String>,
    /// The path, or the path under which it has to be: empty for any.
    pub path: ListedPath,
    /// The method, if it matters.
    pub method: Option<&'t Method>,
    /// Header fields that have to be there.
    pub headers: &'t [(HeaderName, HeaderValue)],
    /// Query parameters that have to be there.
    pub query: &'t [(String, String)],
    /// Where it leads.
    pub rule: &'t CompiledRule,
}

/// The path of a [`Listed`] match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListedPath {
    /// This one.
    Exact(Box<str>),
    /// All under it.
    Prefix(Box<str>),
}

impl<'t> Listed<'t> {
    pub(super) fn new(
        hostname: Option<String>,
        path: Path,
        candidate: &'t Candidate,
        rule: &'t CompiledRule,
    ) -> Self {
        let conditions = &candidate.conditions;
        Self {
            hostname,
            path: match path {
                Path::Exact(path) => ListedPath::Exact(path),
                Path::Prefix(prefix) => ListedPath::Prefix(prefix),
            },
            method: conditions.method.as_ref(),
            headers: &conditions.headers,
            query: &conditions.query,
            rule,
        }
    }
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hostname.as_deref().unwrap_or("any host"))?;
        match &self.path {
            ListedPath::Exact(path) => write!(f, ", path = {path}")?,
            ListedPath::Prefix(prefix) if prefix.is_empty() => write!(f, ", any path")?,
            ListedPath::Prefix(prefix) => write!(f, ", path under {prefix}")?,
        }
        if let Some(method) = self.method {
            write!(f, ", method {method}")?;
        }
        for (name, value) in self.headers {
            write!(f, ", header {name} = {value:?}")?;
        }
        for (name, value) in self.query {
            write!(f, ", query {name} = {value:?}")?;
        }
        let rule = self.rule;
        write!(f, " -> {} rule {}", rule.route, rule.index)?;
        match &rule.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}
