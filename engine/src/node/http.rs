//! What the node process says of its HTTP stages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crossbeam::channel;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use weft_l7::observe::{BUCKETS, Flag, Histogram, ServiceMetrics};
use weft_l7::route::{Action, CompiledRule, Listed, ListedPath, Redirect, RequestView};
use weft_l7::upstream::EndpointState;
use weft_l7::{Reject, ServiceConfig, Source, check_request};

use super::status::ask;
use super::traffic::stage;
use super::{Error, Node};
use crate::admin::Answer;
use crate::admin::http::{
    Backend, Explained, HttpService, Match, NameValue, Routes, ServiceRoutes, Share, Step,
};
use crate::admin::view::{Bucket, Counts};
use crate::layer7;
use crate::worker::Command;

/// How long requests may take to end when the process does, and how often it is looked whether they have.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);
const DRAIN_PAUSE: Duration = Duration::from_millis(20);

/// What all workers together know of a service.
#[derive(Default)]
pub(super) struct Sum {
    pub(super) open: u64,
    pub(super) metrics: ServiceMetrics,
}

/// All services by name, and records of the access log that were lost.
#[derive(Default)]
pub(super) struct HttpSums {
    pub(super) services: BTreeMap<String, Sum>,
    pub(super) records_lost: u64,
}

impl Node {
    /// Lets requests to HTTP stages have their answers, for a while; connections without a request are ended.
    pub(super) async fn drain_http(&self) {
        if self.control.layer7().load().services().is_empty() {
            return;
        }
        for (side, handle) in self.workers.iter().zip(self.control.workers()) {
            let _ = side.commands.try_send(Command::Drain); // One that is stuck is not waited for.
            handle.waker.wake();
        }
        let deadline = Instant::now() + DRAIN_PATIENCE;
        let mut told = false;
        // Bound: the time it may take.
        while Instant::now() < deadline {
            let sums = self.http_sums();
            let open = |sums: HttpSums| sums.services.values().any(|sum| sum.open > 0);
            if !sums.is_ok_and(open) {
                return;
            }
            if !told {
                tracing::info!(
                    patience = ?DRAIN_PATIENCE,
                    "stopping: requests under way may have their answers"
                );
                told = true;
            }
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
    }

    /// The counters of all HTTP stages.
    ///
    /// # Errors
    /// When a worker does not say.
    pub(super) fn http_sums(&self) -> Result<HttpSums, Error> {
        let mut sums = HttpSums::default();
        let workers = self.workers.iter().zip(self.control.workers());
        for (index, (side, handle)) in (0u16..).zip(workers) {
            let (reply, answer) = channel::bounded(1);
            let command = Command::Http { reply };
            let report = ask(&side.commands, &handle.waker, command, &answer);
            let report = report.ok_or(Error::WorkerSilent(index))?;
            sums.records_lost += report.records_lost;
            for service in report.services {
                let sum = sums.services.entry(service.name.to_string()).or_default();
                sum.open += service.open as u64;
                sum.metrics.add(&service.metrics);
            }
        }
        Ok(sums)
    }

    /// HTTP stages in `weft status`.
    pub(super) fn http_services(sums: &HttpSums) -> Vec<HttpService> {
        let services = sums.services.iter();
        services
            .map(|(name, Sum { open, metrics })| {
                let mut requests = Counts::new();
                for (series, count) in &metrics.requests {
                    let class = match series.status / 100 {
                        0 => "none".to_owned(),
                        class => format!("{class}xx"),
                    };
                    *requests.entry(class).or_default() += count;
                }
                let events = [
                    ("connections_refused", metrics.connections_refused),
                    ("connections_lost", metrics.connections_lost),
                    ("stalled", metrics.stalled),
                    ("panics", metrics.panics),
                    ("tunnels", metrics.tunnels),
                    ("retries", metrics.retries),
                    ("upstream_connections", metrics.upstream_connections),
                ];
                HttpService {
                    service: name.clone(),
                    open: *open,
                    connections: metrics.connections,
                    requests,
                    durations: buckets(&metrics.duration),
                    received_bytes: metrics.received,
                    sent_bytes: metrics.sent,
                    flags: named(&Flag::ALL.map(Flag::name), &metrics.flags),
                    rejected: named(&Reject::ALL.map(Reject::name), &metrics.rejected),
                    events: events.map(|(name, count)| (name.to_owned(), count)).into(),
                }
            })
            .collect()
    }

    /// `weft routes`.
    pub(super) fn routes(&self, service: Option<&str>) -> Answer {
        let layer7 = self.control.layer7().load_full();
        let services = layer7.services().values();
        let services = services.filter(|known| is_meant(&known.config, service));
        let services: Vec<_> = services.map(|service| service_routes(service)).collect();
        match service {
            Some(name) if services.is_empty() => Answer::Failed(self.without_routes(name)),
            _ => Answer::Routes(Routes { services }),
        }
    }

    /// Why a service has no routes.
    fn without_routes(&self, name: &str) -> String {
        let config = self.control.config();
        let mut services = config.services.iter();
        let known = services.find(|service| {
            let port = name.strip_prefix(service.name.as_str());
            port.is_some_and(|port| port.is_empty() || port.starts_with(':'))
        });
        let Some(known) = known else {
            return format!("there is no service {name:?}: `weft lb list` has their names");
        };
        let ports = known.ports.iter().map(|port| {
            let stage = stage(port.stage);
            format!(
                "{}/{} at stage = {stage:?}",
                port.port,
                port.protocol.name()
            )
        });
        let (service, ports) = (&known.name, ports.collect::<Vec<_>>().join(", "));
        format!("only ports at stage = \"http\" have routes, and {service} serves {ports}")
    }

    /// `weft route explain`.
    pub(super) fn explain(
        &self,
        method: &str,
        url: &str,
        fields: &[String],
        service: Option<&str>,
    ) -> Answer {
        let layer7 = self.control.layer7().load_full();
        let services: Vec<_> = layer7.services().values().collect();
        match explain(&services, method, url, fields, service) {
            Ok(explained) => Answer::Explained(explained),
            Err(reason) => Answer::Failed(reason),
        }
    }
}

fn buckets(histogram: &Histogram) -> Vec<Bucket> {
    let bounds = BUCKETS.iter().map(|bound| Some(*bound)).chain([None]);
    let buckets = bounds.zip(histogram.counts);
    buckets
        .map(|(le_us, count)| Bucket { le_us, count })
        .collect()
}

/// Counts that are not zero, by name.
fn named<const N: usize>(names: &[&'static str; N], counts: &[u64; N]) -> Counts {
    let all = names.iter().zip(counts).filter(|(_, count)| **count > 0);
    all.map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

/// Whether the name is the service's, with or without its port.
fn is_meant(config: &ServiceConfig, service: Option<&str>) -> bool {
    service.is_none_or(|wanted| {
        let without_port = config.name.rsplit_once(':').map(|(name, _)| name);
        *config.name == *wanted || without_port == Some(wanted)
    })
}

fn service_routes(service: &layer7::HttpService) -> ServiceRoutes {
    let config = &service.config;
    let backends = config.backends.values().map(|backend| {
        let endpoints = backend.endpoints.iter();
        let ready = endpoints.filter(|endpoint| endpoint.state == EndpointState::Ready);
        Backend {
            backend: backend.name.to_string(),
            ready: ready.count(),
            endpoints: backend.endpoints.len(),
        }
    });
    ServiceRoutes {
        service: config.name.to_string(),
        vip: service.vip,
        source: match config.source {
            Source::Client => "client",
            Source::Node => "node",
        }
        .into(),
        see_client: service.addressless.clone(),
        routes: matches(service),
        backends: backends.collect(),
    }
}

/// The routes of a service, in order.
fn matches(service: &layer7::HttpService) -> Vec<Match> {
    let config = &service.config;
    let field = |name: &str, value: &[u8]| NameValue {
        name: name.to_owned(),
        value: String::from_utf8_lossy(value).into_owned(),
    };
    let one = |listed: &Listed<'_>| {
        let (path_type, path) = match &listed.path {
            ListedPath::Exact(path) => ("exact", &**path),
            ListedPath::Prefix(prefix) if prefix.is_empty() => ("prefix", "/"),
            ListedPath::Prefix(prefix) => ("prefix", &**prefix),
        };
        let headers = listed.headers.iter();
        let query = listed.query.iter();
        let (backends, redirect) = match &listed.rule.action {
            Action::Redirect(redirect) => (Vec::new(), Some(redirect)),
            Action::Forward(backends) => {
                let backends = backends.iter().map(|backend| {
                    let known = backend.backend.and_then(|id| config.backends.get(&id));
                    Share {
                        backend: known.map(|known| known.name.to_string()),
                        weight: backend.weight,
                    }
                });
                (backends.collect(), None)
            }
        };
        Match {
            hostname: listed.hostname.clone(),
            path_type: path_type.into(),
            path: path.into(),
            method: listed.method.map(ToString::to_string),
            headers: headers
                .map(|(name, value)| field(name.as_str(), value.as_bytes()))
                .collect(),
            query: query
                .map(|(name, value)| field(name, value.as_bytes()))
                .collect(),
            route: listed.rule.route.to_string(),
            rule: listed.rule.index,
            rule_name: listed.rule.name.as_deref().map(str::to_owned),
            backends,
            redirect: redirect.map(|redirect| redirect.status.as_u16()),
            location: redirect.map(|redirect| location(redirect, "HOST", service.vip, "/PATH")),
            text: listed.to_string(),
        }
    };
    config.routes.listing().iter().map(one).collect()
}

/// Where a redirect leads, of a request to `host` and `target` that came to this VIP.
fn location(redirect: &Redirect, host: &str, vip: SocketAddr, target: &str) -> String {
    let location = redirect.location(host, vip.port(), target);
    let location = location
        .as_ref()
        .and_then(|location| location.to_str().ok());
    location
        .unwrap_or("no URL that a header can say: 400")
        .to_owned()
}

fn explain(
    services: &[&std::sync::Arc<layer7::HttpService>],
    method: &str,
    url: &str,
    fields: &[String],
    wanted: Option<&str>,
) -> Result<Explained, String> {
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| format!("{method:?} is not a method, such as GET"))?;
    let uri: Uri = url
        .parse()
        .map_err(|_| format!("{url:?} is not a URL, such as http://10.96.0.10/path"))?;
    let mut headers = HeaderMap::new();
    for field in fields {
        let parsed = field.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = parsed.ok_or_else(|| {
            format!("{field:?} is not a header field, such as \"end-user: jason\"")
        })?;
        headers.append(name, value);
    }
    let service = choose(services, &uri, wanted)?;
    // As curl does it: a field that is given goes before the URL's host.
    if !headers.contains_key(header::HOST) {
        let named = uri.authority().map(|authority| authority.as_str());
        let host = named.map_or_else(|| service.vip.to_string(), str::to_owned);
        let host = HeaderValue::from_str(&host).map_err(|_| format!("{host:?} is no host"))?;
        headers.insert(header::HOST, host);
    }
    let limits = service.config.limits.head;
    if let Err(reject) = check_request(&head(&method, &uri, &headers), limits) {
        let (reason, status) = (reject.name(), reject.status().as_u16());
        return Ok(Explained {
            service: service.config.name.to_string(),
            vip: service.vip,
            refused: Some(reason.into()),
            steps: Vec::new(),
            outcome: format!("refused before any route is looked at, for {reason}: {status}"),
        });
    }
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let request = RequestView {
        authority: host.unwrap_or_default(),
        method: &method,
        path: uri.path(),
        query: uri.query(),
        headers: &headers,
    };
    let explanation = service.config.routes.explain(&request);
    let outcome = match explanation.winner() {
        Some(rule) => {
            let target = uri.path_and_query().map_or("/", |target| target.as_str());
            outcome(service, rule, (request.authority, target))
        }
        None => "no rule matches: 404".into(),
    };
    let steps = explanation.steps.iter().map(|step| Step {
        route: step.text.clone(),
        refusal: step.refusal.as_ref().map(ToString::to_string),
    });
    Ok(Explained {
        service: service.config.name.to_string(),
        vip: service.vip,
        refused: None,
        steps: steps.collect(),
        outcome,
    })
}

/// The request as a client of HTTP/1.1 sends it.
fn head(method: &Method, uri: &Uri, headers: &HeaderMap) -> Vec<u8> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut head = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    for (name, value) in headers {
        let pieces = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"];
        head.extend_from_slice(&pieces.concat());
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The service that is named, or whose VIP and port the URL has; for a host by name the only one.
fn choose<'s>(
    services: &[&'s std::sync::Arc<layer7::HttpService>],
    uri: &Uri,
    wanted: Option<&str>,
) -> Result<&'s layer7::HttpService, String> {
    if let Some(wanted) = wanted {
        let mut found = services.iter();
        let found = found.find(|known| is_meant(&known.config, Some(wanted)));
        return found
            .map(|found| &***found)
            .ok_or_else(|| format!("no service {wanted:?} has stage = \"http\""));
    }
    let host = uri.host().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse().ok();
    let https = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
    let plain = if https { 443 } else { 80 };
    let vip = address.map(|ip| SocketAddr::new(ip, uri.port_u16().unwrap_or(plain)));
    let by_vip = services.iter().find(|known| Some(known.vip) == vip);
    let names: std::collections::BTreeSet<&str> =
        services.iter().map(|known| &*known.config.name).collect();
    match (by_vip, services) {
        (Some(found), _) => Ok(found),
        (None, [first, ..]) if names.len() == 1 && vip.is_none() => Ok(first),
        (None, _) if https && uri.port().is_none() => Err(format!(
            "{}; https:// without a port means 443",
            nobody(services, vip)
        )),
        (None, _) => Err(nobody(services, vip)),
    }
}

/// Why a URL means no service.
fn nobody(services: &[&std::sync::Arc<layer7::HttpService>], vip: Option<SocketAddr>) -> String {
    let there = services
        .iter()
        .filter(|known| vip.is_some_and(|vip| vip.ip() == known.vip.ip()));
    let ports: Vec<String> = there.map(|known| known.vip.port().to_string()).collect();
    match vip {
        _ if services.is_empty() => "no service has stage = \"http\"".into(),
        Some(vip) if ports.is_empty() => {
            format!("{vip} is no address of a service with stage = \"http\": name one with --service")
        }
        Some(vip) => format!(
            "{} has stage = \"http\" at port {}, not {}",
            vip.ip(),
            ports.join(", "),
            vip.port()
        ),
        None => {
            "several services have stage = \"http\", and the URL has the address of none: name one with --service".into()
        }
    }
}

fn outcome(
    service: &layer7::HttpService,
    rule: &CompiledRule,
    (host, target): (&str, &str),
) -> String {
    let config = &service.config;
    match &rule.action {
        Action::Redirect(redirect) => {
            let status = redirect.status.as_u16();
            let location = location(redirect, host, service.vip, target);
            format!("redirect to {location}: {status}")
        }
        Action::Forward(backends) => {
            let total: u64 = backends
                .iter()
                .map(|backend| u64::from(backend.weight))
                .sum();
            let shares = backends.iter().filter(|backend| backend.weight > 0);
            let shares: Vec<String> = shares
                .map(|backend| {
                    let known = backend.backend.and_then(|id| config.backends.get(&id));
                    let name = known.map_or("nobody: 500", |known| &known.name);
                    let percent = 100.0 * f64::from(backend.weight) / total as f64;
                    let ready = known.map_or(0, |known| {
                        let endpoints = known.endpoints.iter();
                        endpoints
                            .filter(|one| one.state == EndpointState::Ready)
                            .count()
                    });
                    format!("{name} {percent:.0}% ({ready} ready)")
                })
                .collect();
            match shares.is_empty() {
                true => "no backend has a weight above 0: 500".into(),
                false => format!("to {}", shares.join(", ")),
            }
        }
    }
}
