//! The compiled table.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::explain::{Explanation, Listed, Step};
use super::matching::{Conditions, Path};
use super::{
    Action, BackendId, HeaderModifier, Match, PathMatch, RequestHost, RequestView, Route,
    RouteError, Timeouts, WeightedBackend,
};

/// Rules of one table.
const RULES_MAX: usize = 1 << 20;

/// A rule, ready to be used.
#[derive(Clone, PartialEq, Debug)]
pub struct CompiledRule {
    /// Its route.
    pub route: Arc<str>,
    /// Its place in the route, from 0.
    pub index: usize,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What is changed of the request's header.
    pub request_headers: HeaderModifier,
    /// Where the request goes.
    pub action: Action,
    /// How long it may take.
    pub timeouts: Timeouts,
}

/// The choice among a rule's backends.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Pick {
    /// This one.
    Backend(BackendId),
    /// One that does not exist, or there is none: 500.
    Invalid,
}

impl CompiledRule {
    /// Chooses by a random number, evenly distributed over all 64 bits.
    pub fn pick(&self, random: u64) -> Pick {
        let Action::Forward(backends) = &self.action else {
            return Pick::Invalid;
        };
        let weight = |backend: &WeightedBackend| u128::from(backend.weight);
        let total: u128 = backends.iter().map(weight).sum();
        let mut point = (total * u128::from(random)) >> 64;
        for backend in backends {
            match point.checked_sub(weight(backend)) {
                Some(rest) => point = rest,
                None => return backend.backend.map_or(Pick::Invalid, Pick::Backend),
            }
        }
        Pick::Invalid // All weights are 0.
    }
}

/// One match of a rule, without its path.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Candidate {
    pub(super) rule: usize,
    pub(super) conditions: Conditions,
    /// What ties are decided by once host and path are equal; the least wins.
    order: Order,
}

/// Fewer of what is wanted more comes last, so counts are subtracted from the most there can be. Then age and name of the
/// route, the rule's place and the match's.
type Order = (bool, usize, usize, u64, Arc<str>, usize, usize);

/// The routes of one hostname.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Bucket {
    exact: HashMap<Box<str>, Vec<Candidate>>,
    prefix: HashMap<Box<str>, Vec<Candidate>>,
    /// Lengths of prefixes, the longest first.
    lengths: Vec<usize>,
}

/// Routes, compiled: immutable, and shared as a whole.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Bucket>,
    /// By what follows the asterisk.
    wildcard: HashMap<Box<str>, Bucket>,
    any: Bucket,
    rules: Vec<Arc<CompiledRule>>,
}

impl RouteTable {
    /// Checks and orders routes.
    pub fn compile(routes: &[Route]) -> Result<Self, RouteError> {
        let mut table = Self::default();
        for route in routes {
            table.add(route)?;
        }
        let named = table.exact.values_mut().chain(table.wildcard.values_mut());
        named.chain([&mut table.any]).for_each(Bucket::sort);
        Ok(table)
    }

    fn add(&mut self, route: &Route) -> Result<(), RouteError> {
        let name: Arc<str> = route.name.as_str().into();
        for (index, rule) in route.rules.iter().enumerate() {
            if self.rules.len() >= RULES_MAX {
                return Err(RouteError::TooMany(RULES_MAX));
            }
            if let Some(header) = rule.request_headers.reserved() {
                return Err(RouteError::Reserved {
                    route: route.name.clone(),
                    rule: index,
                    header: header.clone(),
                });
            }
            if let Action::Redirect(redirect) = &rule.action
                && !redirect.has_status()
            {
                return Err(RouteError::RedirectStatus {
                    route: route.name.clone(),
                    rule: index,
                    status: redirect.status.as_u16(),
                });
            }
            let number = self.rules.len();
            self.rules.push(Arc::new(CompiledRule {
                route: Arc::clone(&name),
                index,
                name: rule.name.clone(),
                request_headers: rule.request_headers.clone(),
                action: rule.action.clone(),
                timeouts: rule.timeouts,
            }));
            let everything = [Match::default()];
            let matches = match rule.matches.as_slice() {
                [] => everything.as_slice(),
                some => some,
            };
            for (place, wanted) in matches.iter().enumerate() {
                let path = Path::new(&wanted.path).ok_or_else(|| {
                    let (PathMatch::Exact(path) | PathMatch::Prefix(path)) = &wanted.path;
                    RouteError::Path {
                        route: route.name.clone(),
                        rule: index,
                        path: path.clone(),
                    }
                })?;
                let conditions = Conditions::new(wanted);
                let order = (
                    conditions.method.is_none(),
                    usize::MAX - conditions.headers.len(),
                    usize::MAX - conditions.query.len(),
                    route.created,
                    Arc::clone(&name),
                    index,
                    place,
                );
                let candidate = Candidate {
                    rule: number,
                    conditions,
                    order,
                };
                self.insert(route, &path, &candidate);
            }
        }
        Ok(())
    }

    fn insert(&mut self, route: &Route, path: &Path, candidate: &Candidate) {
        if route.hostnames.is_empty() {
            self.any.insert(path, candidate);
        }
        for hostname in &route.hostnames {
            let bucket = match (hostname.exact(), hostname.suffix()) {
                (Some(name), _) => self.exact.entry(name.into()).or_default(),
                (None, suffix) => self
                    .wildcard
                    .entry(suffix.unwrap_or_default().into())
                    .or_default(),
            };
            bucket.insert(path, candidate);
        }
    }

    /// The rule that serves a request; `None` is answered with 404.
    pub fn route(&self, request: &RequestView<'_>) -> Option<&Arc<CompiledRule>> {
        let host = RequestHost::new(request.authority);
        let found = self.buckets(&host).find_map(|bucket| bucket.find(request));
        self.rules.get(found?.rule)
    }

    /// The buckets whose hostname a host has, the most specific first.
    fn buckets<'t>(&'t self, host: &'t RequestHost) -> impl Iterator<Item = &'t Bucket> {
        let suffixes = host.suffixes();
        let wildcards = suffixes.filter_map(|suffix| self.wildcard.get(suffix));
        let wildcards = wildcards.take_while(|_| !self.wildcard.is_empty());
        let exact = self.exact.get(host.as_str());
        exact.into_iter().chain(wildcards).chain([&self.any])
    }

    /// Which rule serves a request, and why none before it does.
    pub fn explain(&self, request: &RequestView<'_>) -> Explanation {
        let host = RequestHost::new(request.authority);
        let mut steps = Vec::new();
        for (hostname, bucket) in self.named_buckets(&host) {
            for (path, candidate) in bucket.in_order() {
                let Some(rule) = self.rules.get(candidate.rule) else {
                    continue;
                };
                let step = Step::new(hostname.clone(), path, candidate, rule, request);
                let wins = step.refusal.is_none();
                steps.push(step);
                if wins {
                    return Explanation { steps };
                }
            }
        }
        Explanation { steps }
    }

    fn named_buckets<'t>(&'t self, host: &'t RequestHost) -> Vec<(Option<String>, &'t Bucket)> {
        let exact = self.exact.get(host.as_str());
        let mut found: Vec<(Option<String>, &Bucket)> = Vec::new();
        found.extend(exact.map(|bucket| (Some(host.as_str().into()), bucket)));
        for suffix in host.suffixes() {
            let bucket = self.wildcard.get(suffix);
            found.extend(bucket.map(|bucket| (Some(format!("*{suffix}")), bucket)));
        }
        found.push((None, &self.any));
        found
    }

    /// All rules, routes in the order they came in.
    pub fn rules(&self) -> &[Arc<CompiledRule>] {
        &self.rules
    }

    /// Every match, and where it leads, in the order in which they are tried.
    pub fn listing(&self) -> Vec<Listed<'_>> {
        let exact: BTreeMap<_, _> = self.exact.iter().collect();
        let mut wildcard: Vec<_> = self.wildcard.iter().collect();
        wildcard.sort_by_key(|(suffix, _)| (usize::MAX - suffix.len(), (*suffix).clone()));
        let exact = exact
            .into_iter()
            .map(|(name, bucket)| (Some(name.to_string()), bucket));
        let wildcard = wildcard
            .into_iter()
            .map(|(suffix, bucket)| (Some(format!("*{suffix}")), bucket));
        let any = [(None, &self.any)];
        let mut lines = Vec::new();
        for (hostname, bucket) in exact.chain(wildcard).chain(any) {
            for (path, candidate) in bucket.in_order() {
                if let Some(rule) = self.rules.get(candidate.rule) {
                    lines.push(Listed::new(hostname.clone(), path, candidate, rule));
                }
            }
        }
        lines
    }
}

impl Bucket {
    fn insert(&mut self, path: &Path, candidate: &Candidate) {
        let place = match path {
            Path::Exact(exact) => self.exact.entry(exact.clone()),
            Path::Prefix(prefix) => self.prefix.entry(prefix.clone()),
        };
        place.or_default().push(candidate.clone());
    }

    fn sort(&mut self) {
        for candidates in self.exact.values_mut().chain(self.prefix.values_mut()) {
            candidates.sort_by(|a, b| a.order.cmp(&b.order));
        }
        self.lengths = self.prefix.keys().map(|prefix| prefix.len()).collect();
        self.lengths.sort_unstable_by(|a, b| b.cmp(a));
        self.lengths.dedup();
    }

    fn find(&self, request: &RequestView<'_>) -> Option<&Candidate> {
        let path = request.path;
        let meets = |candidate: &&Candidate| candidate.conditions.refusal(request).is_none();
        let exact = self.exact.get(path).into_iter().flatten().find(meets);
        exact.or_else(|| {
            // Bound: one look for each length that a prefix of the configuration has, however many slashes a path has.
            let ends = self.lengths.iter().filter(|length| {
                let end = path.as_bytes().get(**length);
                end == Some(&b'/') || **length == path.len()
            });
            let prefixes = ends.filter_map(|length| self.prefix.get(path.get(..*length)?));
            prefixes.flatten().find(meets)
        })
    }

    /// All candidates, in order.
    fn in_order(&self) -> impl Iterator<Item = (Path, &Candidate)> {
        let exact: BTreeMap<_, _> = self.exact.iter().collect();
        let mut prefix: Vec<_> = self.prefix.iter().collect();
        prefix.sort_by_key(|(prefix, _)| (usize::MAX - prefix.len(), (*prefix).clone()));
        let exact = exact
            .into_iter()
            .map(|(path, found)| (Path::Exact(path.clone()), found));
        let prefix = prefix
            .into_iter()
            .map(|(path, found)| (Path::Prefix(path.clone()), found));
        exact
            .chain(prefix)
            .flat_map(|(path, found)| found.iter().map(move |candidate| (path.clone(), candidate)))
    }
}
