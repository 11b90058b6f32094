//! Routes: which rule serves a request, by Gateway API's names and precedence.
//!
//! [`RouteTable::compile`] checks routes once and orders them; a compiled table is immutable and is swapped whole. A
//! request's rule is the first that matches in this order (GatewayAPI v1, `HTTPRouteSpec.hostnames` and
//! `HTTPRouteRule.matches`):
//!
//! 1. the longest exact hostname, then the longest wildcard, then routes without hostnames;
//! 2. an exact path, then the longest prefix, by whole elements;
//! 3. with a method, then with more headers, then with more query parameters;
//! 4. the oldest route, then the first by name, then the first rule, then its first match.

mod explain;
mod filter;
mod host;
mod matching;
mod model;
mod table;

pub use explain::{Explanation, Listed, ListedPath, Refusal, Step};
pub use filter::{HeaderModifier, Redirect};
pub use host::{Hostname, RequestHost};
pub use matching::RequestView;
pub(crate) use matching::hex;
pub use model::{
    Action, BackendId, Match, PathMatch, Route, RouteError, Rule, Scheme, Timeouts, WeightedBackend,
};
pub use table::{CompiledRule, Pick, RouteTable};
