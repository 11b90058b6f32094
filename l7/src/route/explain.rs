//! Why a request goes where it goes, for people to read.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;

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
        hostname: &str,
        path: &Path,
        candidate: &Candidate,
        rule: &Arc<CompiledRule>,
        request: &RequestView<'_>,
    ) -> Self {
        let refusal = match path.matches(request.path) {
            true => candidate.conditions.refusal(request),
            false => Some(Refusal::Path),
        };
        Self {
            text: line(hostname, path, candidate, rule),
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

pub(super) fn line(
    hostname: &str,
    path: &Path,
    candidate: &Candidate,
    rule: &CompiledRule,
) -> String {
    use std::fmt::Write;
    let mut text = match path {
        Path::Exact(path) => format!("{hostname}, path = {path}"),
        Path::Prefix(prefix) if prefix.is_empty() => format!("{hostname}, any path"),
        Path::Prefix(prefix) => format!("{hostname}, path under {prefix}"),
    };
    // Writing to a string cannot fail.
    let conditions = &candidate.conditions;
    if let Some(method) = &conditions.method {
        let _ = write!(text, ", method {method}");
    }
    for (name, value) in &conditions.headers {
        let _ = write!(text, ", header {name} = {value:?}");
    }
    for (name, value) in &conditions.query {
        let _ = write!(text, ", query {name} = {value:?}");
    }
    let _ = write!(text, " -> {} rule {}", rule.route, rule.index);
    if let Some(name) = &rule.name {
        let _ = write!(text, " ({name})");
    }
    text
}
