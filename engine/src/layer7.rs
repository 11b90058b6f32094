//! HTTP stages as the workers read them: compiled from configuration and tables, immutable, and swapped with the tables.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_datapath::{Address, BackendPath, BackendState, MaglevTable, Protocol, TUNNELS, Tables};
use weft_l7::route::{Action, BackendId, Route, RouteTable, Rule, Timeouts, WeightedBackend};
use weft_l7::upstream::{Algorithm, BackendConfig, EndpointConfig, EndpointState, Picker};
use weft_l7::{ServiceConfig, ServiceId, Source};

use crate::config::http::{self, Back, BackendRef, Balance, Http};
use crate::config::{AccessLog, Config, Service, ServicePort, Stage, UpstreamSource};
use crate::control::Names;

/// The port of a VIP.
type Front = (Address, u16);

/// All HTTP stages of a node.
#[derive(Clone, Debug, Default)]
pub struct Layer7 {
    services: BTreeMap<ServiceId, Arc<HttpService>>,
}

/// A port of a VIP that is served at layer 7.
#[derive(Debug)]
pub struct HttpService {
    /// The caller's number of the service port, as flows carry it.
    pub number: u32,
    /// Where clients connect to.
    pub vip: SocketAddr,
    /// What the stage does.
    pub config: Arc<ServiceConfig>,
    /// Whether a client's connections go to one endpoint, by its address.
    pub by_client: bool,
    /// Endpoints that see the client in spite of `source = "node"`: pods towards which the node has no address.
    pub addressless: Vec<SocketAddr>,
    /// The port of a VIP by which a backend's endpoints are found in the tables; a backend that has none of the client's family is
    /// not here.
    backends: BTreeMap<BackendId, Front>,
    service: Arc<Service>,
    sources: Vec<Referred>,
}

/// A backend as it was when a stage was compiled. The same memory is the same configuration.
#[derive(Clone, Debug)]
struct Referred {
    id: BackendId,
    service: Arc<Service>,
    /// The number of its port.
    number: u16,
    port: Option<Arc<weft_datapath::ServicePort>>,
    endpoints: Vec<EndpointConfig>,
    /// Those that are pods towards which the node has no address.
    addressless: Vec<SocketAddr>,
}

impl Referred {
    fn same(&self, other: &Self) -> bool {
        let same_port = match (&self.port, &other.port) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let same = Arc::ptr_eq(&self.service, &other.service) && same_port;
        same && self.id == other.id && self.endpoints == other.endpoints
    }
}

impl HttpService {
    /// The port of a VIP that the endpoints of a backend are those of.
    pub fn backend(&self, id: BackendId) -> Option<Front> {
        self.backends.get(&id).copied()
    }
}

/// The stage's number of the port of a VIP: a service port may have one of each family, and each has endpoints of its own.
pub fn service_id(number: u32, v4: bool) -> ServiceId {
    ServiceId(2 * number + u32::from(!v4))
}

impl Layer7 {
    /// All of them, by number.
    pub fn services(&self) -> &BTreeMap<ServiceId, Arc<HttpService>> {
        &self.services
    }

    /// The stages after a change. One that is as it was stays the same memory.
    #[must_use]
    pub fn next(&self, config: &Config, tables: &Tables, names: &mut Names) -> Self {
        let mut next = Self::default();
        if !config.services.iter().any(|service| service.is_http()) {
            return next;
        }
        let named = config.services.iter();
        let named: HashMap<&str, &Arc<Service>> = named
            .map(|service| (service.name.as_str(), service))
            .collect();
        for service in config.services.iter().filter(|service| service.is_http()) {
            for port in &service.ports {
                let Stage::Http(source) = port.stage else {
                    continue;
                };
                let mut compiler = Compiler {
                    tables,
                    names,
                    named: &named,
                    service,
                    source,
                    logged: config.node.access_log != AccessLog::Off,
                };
                for vip in &service.cluster_ips {
                    let (id, sources) = compiler.gather(port, vip);
                    let known = self.services.get(&id).filter(|known| {
                        let same = known.sources.iter().zip(&sources);
                        Arc::ptr_eq(&known.service, service)
                            && known.sources.len() == sources.len()
                            && same.into_iter().all(|(a, b)| a.same(b))
                    });
                    let compiled = match known {
                        Some(known) => Arc::clone(known),
                        None => Arc::new(compiler.compile(port, vip, sources)),
                    };
                    next.services.insert(id, compiled);
                }
            }
        }
        next.warn_of_addressless(self, config);
        next
    }

    /// Says which pods see the client since this change, though their service is to have them see the node.
    fn warn_of_addressless(&self, before: &Self, config: &Config) {
        let all = |stages: &Self| -> BTreeSet<IpAddr> {
            let services = stages.services.values();
            let all = services.flat_map(|service| service.addressless.iter().map(SocketAddr::ip));
            all.collect()
        };
        for address in all(self).difference(&all(before)) {
            let mut pods = config.pods.iter();
            let pod = pods.find(|pod| pod.addresses.contains(address));
            tracing::warn!(
                pod = pod.map(|pod| pod.name.as_str()),
                %address,
                "source = \"node\": this pod sees the client all the same, because the node has no address towards it"
            );
        }
    }
}

/// What one service's stage is compiled from.
struct Compiler<'c> {
    tables: &'c Tables,
    names: &'c mut Names,
    named: &'c HashMap<&'c str, &'c Arc<Service>>,
    service: &'c Arc<Service>,
    source: UpstreamSource,
    /// Whether requests are logged anywhere.
    logged: bool,
}

impl Compiler<'_> {
    fn number(&mut self, service: &Service, port: &ServicePort) -> u32 {
        let port = port.name.as_deref().unwrap_or_default();
        self.names.number(&service.name, port)
    }

    /// The service's own endpoints, and those of every other service that a rule names, each once.
    fn gather(&mut self, port: &ServicePort, vip: &IpAddr) -> (ServiceId, Vec<Referred>) {
        let service = self.service;
        let own = self.refer(service, port, vip);
        let id = service_id(own.id.0, vip.is_ipv4());
        let mut found = vec![own];
        for backend in refs(service) {
            let Some((named, port)) = resolve(self.named, backend) else {
                continue; // Never: the configuration was checked.
            };
            let number = self.number(named, port);
            if found.iter().all(|known| known.id.0 != number) {
                found.push(self.refer(named, port, vip));
            }
        }
        (id, found)
    }

    fn refer(&mut self, service: &Arc<Service>, port: &ServicePort, vip: &IpAddr) -> Referred {
        let number = self.number(service, port);
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == vip.is_ipv4();
        let front = service.cluster_ips.iter().find(same_family);
        let found = front.and_then(|front| {
            let front = Address::from(*front);
            self.tables.shared_service(&front, port.port, Protocol::Tcp)
        });
        Referred {
            id: BackendId(number),
            service: Arc::clone(service),
            number: port.port,
            port: found.map(Arc::clone),
            endpoints: found.map_or_else(Vec::new, |found| self.endpoints(found)),
            addressless: found.map_or_else(Vec::new, |found| self.addressless(found)),
        }
    }

    /// The endpoints in the order of the service port's backends, by which its Maglev table names them.
    fn endpoints(&self, port: &weft_datapath::ServicePort) -> Vec<EndpointConfig> {
        let backends = port.backends().iter();
        backends
            .map(|backend| EndpointConfig {
                address: SocketAddr::new(backend.address.into(), backend.port),
                state: match backend.state {
                    BackendState::Ready if backend.weight > 0 => EndpointState::Ready,
                    BackendState::Terminating => EndpointState::Draining,
                    BackendState::Ready | BackendState::Unready => EndpointState::Unready,
                },
                sees_client: match backend.path {
                    BackendPath::Kernel => true,
                    BackendPath::Pod { ifindex } if ifindex >= TUNNELS => true, // As datapath's choice has it.
                    BackendPath::Pod { .. } => self.is_addressless(backend),
                },
            })
            .collect()
    }

    /// Pods that would be to see the node, which has no address that they could see.
    fn addressless(&self, port: &weft_datapath::ServicePort) -> Vec<SocketAddr> {
        if self.source != UpstreamSource::Node {
            return Vec::new();
        }
        let backends = port.backends().iter();
        let addressless = backends.filter(|backend| self.is_addressless(backend));
        addressless
            .map(|backend| SocketAddr::new(backend.address.into(), backend.port))
            .collect()
    }

    fn is_addressless(&self, backend: &weft_datapath::Backend) -> bool {
        let BackendPath::Pod { ifindex } = backend.path else {
            return false;
        };
        let family = backend.address.family();
        ifindex < TUNNELS && self.tables.node_address(ifindex, family).is_none()
    }

    fn compile(&mut self, port: &ServicePort, vip: &IpAddr, sources: Vec<Referred>) -> HttpService {
        let service = self.service;
        let plain = Http::default();
        let http = service.http.as_deref().unwrap_or(&plain);
        let by_client = service.session_affinity.is_some();
        let own = sources[0].id;
        let front = &http.front;
        let backends = sources.iter().map(|source| {
            let config = backend_config(source, by_client);
            (source.id, Arc::new(config))
        });
        let config = ServiceConfig {
            name: full_name(service, port.port).into(),
            routes: Arc::new(self.routes(http, own)),
            backends: backends.collect(),
            source: match self.source {
                UpstreamSource::Client => Source::Client,
                UpstreamSource::Node => Source::Node,
            },
            tcp: front.tcp.then_some(own),
            limits: front.limits,
            timeouts: front.timeouts,
            create_trace: front.create_trace,
            access_log: front.access_log && self.logged,
        };
        let addressless = sources.iter().flat_map(|source| &source.addressless);
        let addressless = addressless.copied().collect();
        let fronts = sources.iter().filter_map(|source| {
            let port = source.port.as_ref()?;
            Some((source.id, (port.address(), port.port())))
        });
        HttpService {
            number: own.0,
            vip: SocketAddr::new(*vip, port.port),
            config: Arc::new(config),
            by_client,
            addressless,
            backends: fronts.collect(),
            service: Arc::clone(service),
            sources,
        }
    }

    fn routes(&mut self, http: &Http, own: BackendId) -> RouteTable {
        let mut routes: Vec<Route> = Vec::new();
        for (route, created) in http.routes.iter().zip(0..) {
            routes.push(Route {
                name: route.name.clone(),
                created, // In the order of the file.
                hostnames: route.hostnames.clone(),
                rules: route.rules.iter().map(|rule| self.rule(rule)).collect(),
            });
        }
        if routes.is_empty() {
            routes.push(to_itself(&self.service.name, own));
        }
        // The configuration was checked, piece by piece, and is within the bounds of a table.
        RouteTable::compile(&routes).unwrap_or_default()
    }

    fn rule(&mut self, rule: &http::Rule) -> Rule {
        let action = match &rule.action {
            http::Action::Redirect(redirect) => Action::Redirect(redirect.clone()),
            http::Action::Forward(backends) => {
                let backends = backends.iter().map(|backend| {
                    let found = resolve(self.named, backend);
                    WeightedBackend {
                        backend: found.map(|(service, port)| BackendId(self.number(service, port))),
                        weight: backend.weight,
                    }
                });
                Action::Forward(backends.collect())
            }
        };
        Rule {
            name: rule.name.clone(),
            matches: rule.matches.clone(),
            request_headers: rule.request_headers.clone(),
            action,
            timeouts: rule.timeouts,
        }
    }
}

/// The backends that a service's rules name.
fn refs(service: &Service) -> impl Iterator<Item = &BackendRef> {
    let routes = service.http.iter().flat_map(|http| &http.routes);
    let rules = routes.flat_map(|route| &route.rules);
    rules
        .filter_map(|rule| match &rule.action {
            http::Action::Forward(backends) => Some(backends),
            http::Action::Redirect(_) => None,
        })
        .flatten()
}

fn resolve<'c>(
    named: &HashMap<&str, &'c Arc<Service>>,
    backend: &BackendRef,
) -> Option<(&'c Arc<Service>, &'c ServicePort)> {
    let service = *named.get(backend.service.as_str())?;
    Some((service, service.backend_port(backend.port.as_ref())?))
}

/// The route of a service without routes: everything goes to its own endpoints.
fn to_itself(name: &str, own: BackendId) -> Route {
    let own = WeightedBackend {
        backend: Some(own),
        weight: 1,
    };
    Route {
        name: name.to_owned(),
        rules: vec![Rule {
            name: None,
            matches: Vec::new(),
            request_headers: Default::default(),
            action: Action::Forward(vec![own]),
            timeouts: Timeouts::default(),
        }],
        ..Route::default()
    }
}

/// What a service port is called wherever it is named as one: by its number, which each has.
fn full_name(service: &Service, port: u16) -> String {
    format!("{}:{port}", service.name)
}

fn backend_config(source: &Referred, by_client: bool) -> BackendConfig {
    let plain = Back::default();
    let back = source
        .service
        .http
        .as_ref()
        .map_or(&plain, |http| &http.back);
    let algorithm = match back.balance {
        _ if by_client => hashed(source),
        Balance::LeastRequest => Algorithm::LeastRequest,
        Balance::RoundRobin => Algorithm::RoundRobin,
        Balance::Maglev => hashed(source),
    };
    BackendConfig {
        name: full_name(&source.service, source.number).into(),
        endpoints: source.endpoints.clone(),
        algorithm,
        protocol: back.protocol,
        limits: back.limits,
        connect_timeout: back.connect_timeout,
        response_timeout: back.response_timeout,
        idle_timeout: back.idle_timeout,
    }
}

fn hashed(source: &Referred) -> Algorithm {
    let Some(port) = source.port.as_deref() else {
        return Algorithm::LeastRequest; // There is nothing to choose from.
    };
    let table = port.maglev().cloned().unwrap_or_else(|| {
        let backends = port.backends().iter();
        let backends: Vec<_> = backends.map(|one| (one.address, one.weight)).collect();
        MaglevTable::build(&backends, MaglevTable::default_size(backends.len()))
    });
    Algorithm::Hash(Arc::new(ByTable(table)))
}

/// Chooses as layer 4 does.
struct ByTable(MaglevTable);

impl Picker for ByTable {
    fn pick(&self, hash: u64) -> usize {
        self.0.lookup(hash).unwrap_or(0)
    }
}

impl fmt::Debug for ByTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "maglev of {}", self.0.size())
    }
}

#[cfg(test)]
mod tests;
