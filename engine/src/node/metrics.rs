//! Metrics in Prometheus' format: the counters of `weft status`, under names that people know where there are some.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request as HttpRequest, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use weft_l7::Reject;
use weft_l7::observe::{BUCKETS, Flag, Histogram};
use weft_l7::route::BackendId;

use super::audit::Reading;
use super::http::{HttpSums, Sum};
use super::{Error, Node};
use crate::admin::{Answer, Call, Request};

/// Clients at once. More wait in the socket's backlog.
const CLIENTS_MAX: usize = 8;
/// How long a client may take for its question and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where metrics are served.
pub(super) struct Server(TcpListener);

impl Server {
    pub(super) async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        // The port may be the kernel's choice.
        tracing::info!(address = %listener.local_addr()?, "metrics at /metrics");
        Ok(Self(listener))
    }

    /// Serves until the process ends; control knows the answers.
    pub(super) async fn serve(self, calls: mpsc::Sender<Call>) {
        let slots = Arc::new(Semaphore::new(CLIENTS_MAX));
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            match self.0.accept().await {
                Ok((stream, _)) => {
                    let calls = calls.clone();
                    tokio::task::spawn_local(async move {
                        let _slot = slot;
                        let _ = tokio::time::timeout(PATIENCE, converse(stream, calls)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client of the metrics");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn converse(stream: TcpStream, calls: mpsc::Sender<Call>) {
    let answer = service_fn(|request| answer(request, calls.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a client of the metrics left early");
    }
}

async fn answer(
    request: HttpRequest<Incoming>,
    calls: mpsc::Sender<Call>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status: StatusCode, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    if request.method() != Method::GET || request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "GET /metrics\n".into()));
    }
    let (reply, metrics) = oneshot::channel();
    let request = Request::Metrics;
    let asked = calls.send(Call { request, reply }).await;
    let answer = match asked {
        Ok(()) => metrics.await.ok(),
        Err(_) => None,
    };
    Ok(match answer {
        Some(Answer::Metrics(text)) => {
            let mut response = plain(StatusCode::OK, text);
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            let kind = header::HeaderValue::from_static(kind);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Some(Answer::Failed(reason)) => plain(StatusCode::INTERNAL_SERVER_ERROR, reason),
        _ => plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into()),
    })
}

impl Node {
    /// All metrics.
    ///
    /// # Errors
    /// When a worker does not say.
    pub(super) async fn metrics(&self) -> Result<String, Error> {
        let packets = self.reading().await?;
        let workers = self.control.workers().iter();
        let flows = workers.map(|worker| worker.shared.read().flows).sum();
        let http = self.http_sums()?;
        let layer7 = self.control.layer7().load_full();
        let stages = layer7.services().values();
        let backends = stages.flat_map(|stage| &stage.config.backends);
        let mut backends: BTreeMap<BackendId, String> = backends
            .map(|(id, backend)| (*id, backend.name.to_string()))
            .collect();
        // Those that no rule names any more have the name of their service.
        let series = http.services.values();
        let series = series.flat_map(|sum| sum.metrics.requests.keys());
        for id in series.filter_map(|series| series.backend) {
            let service = self.control.names().service(id.0).0;
            backends.entry(id).or_insert_with(|| service.to_owned());
        }
        let metrics = Metrics {
            backends,
            http,
            packets: Box::new(packets),
            flows,
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut text, &registry);
        Ok(text)
    }
}

/// What is exported, at one moment.
struct Metrics {
    http: HttpSums,
    /// Their names.
    backends: BTreeMap<BackendId, String>,
    packets: Box<Reading>,
    flows: u64,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// A label and its value.
type Label<'l> = (&'static str, &'l str);

/// Counters of a service that are one number each.
type Plain = (&'static str, &'static str, fn(&Sum) -> u64);

const COUNTERS: [Plain; 8] = [
    (
        "istio_tcp_connections_opened",
        "Clients' connections to HTTP stages",
        |sum| sum.metrics.connections,
    ),
    (
        "weft_http_connections_refused",
        "Clients' connections that were more than may be",
        |sum| sum.metrics.connections_refused,
    ),
    (
        "weft_http_connections_lost",
        "Clients' connections that a contained panic has reset, or the removal of their service",
        |sum| sum.metrics.connections_lost,
    ),
    (
        "weft_http_connections_stalled",
        "Clients' connections that were reset because nothing moved",
        |sum| sum.metrics.stalled,
    ),
    (
        "weft_http_panics",
        "Panics that were contained in a service's stage",
        |sum| sum.metrics.panics,
    ),
    (
        "weft_http_tunnels",
        "Connections that were passed on as they are",
        |sum| sum.metrics.tunnels,
    ),
    (
        "weft_http_retries",
        "Requests that were sent again",
        |sum| sum.metrics.retries,
    ),
    (
        "weft_http_upstream_connections",
        "Connections that were opened to endpoints",
        |sum| sum.metrics.upstream_connections,
    ),
];

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let services: Vec<(Label<'_>, &Sum)> = self
            .http
            .services
            .iter()
            .map(|(name, sum)| (("destination_service", name.as_str()), sum))
            .collect();
        self.requests(&mut encoder, &services)?;
        for (name, help, count) in COUNTERS {
            let values = services
                .iter()
                .map(|(label, sum)| ([*label].to_vec(), count(sum)));
            counters(&mut encoder, (name, help), values)?;
        }
        let open = services
            .iter()
            .map(|(label, sum)| ([*label].to_vec(), sum.open));
        gauges(
            &mut encoder,
            (
                "weft_http_connections",
                "Clients' connections to HTTP stages there are",
            ),
            open,
        )?;
        let flags = services.iter().flat_map(|(label, sum)| {
            let flags = Flag::ALL.iter().zip(sum.metrics.flags);
            flags.map(|(flag, count)| ([*label, ("flag", flag.name())].to_vec(), count))
        });
        counters(
            &mut encoder,
            (
                "weft_http_flags",
                "Requests that the node answered itself, or cut short, by reason",
            ),
            flags,
        )?;
        let rejected = services.iter().flat_map(|(label, sum)| {
            let rejected = Reject::ALL.iter().zip(sum.metrics.rejected);
            rejected.map(|(why, count)| ([*label, ("reason", why.name())].to_vec(), count))
        });
        counters(
            &mut encoder,
            (
                "weft_http_rejected",
                "Requests that were refused for their form, by reason",
            ),
            rejected,
        )?;
        durations(
            &mut encoder,
            (
                "istio_request_duration_milliseconds",
                "From a request's header to the end of the response",
            ),
            services
                .iter()
                .map(|(label, sum)| (*label, &sum.metrics.duration)),
        )?;
        durations(
            &mut encoder,
            (
                "weft_http_backend_duration_milliseconds",
                "From sending a request to the response's header",
            ),
            services
                .iter()
                .map(|(label, sum)| (*label, &sum.metrics.backend_duration)),
        )?;
        let lost = [(Vec::new(), self.http.records_lost)];
        counters(
            &mut encoder,
            (
                "weft_access_log_lost",
                "Records of the access log that were lost",
            ),
            lost.into_iter(),
        )?;
        let drops = weft_datapath::DropReason::ALL.iter();
        let drops = drops.map(|reason| {
            let count = self.packets.engine.fates.dropped[*reason as usize];
            ([("reason", reason.name())].to_vec(), count)
        });
        counters(
            &mut encoder,
            ("hubble_drop", "Packets that the engine dropped, by reason"),
            drops,
        )?;
        let received = [(Vec::new(), self.packets.engine.received)];
        counters(
            &mut encoder,
            ("weft_packets_received", "Packets that workers received"),
            received.into_iter(),
        )?;
        let hooks = weft_xdp::Counter::ALL.iter().map(|&counter| {
            let count = self.packets.hooks[counter];
            ([("counter", counter.name())].to_vec(), count)
        });
        counters(
            &mut encoder,
            ("weft_hook_packets", "What the BPF programs counted"),
            hooks,
        )?;
        let lost = self.packets.lost().into_iter();
        let lost = lost.map(|(reason, count)| ([("reason", reason)].to_vec(), count));
        counters(
            &mut encoder,
            (
                "weft_path_lost",
                "Packets lost between the hooks and the workers' sockets, by reason",
            ),
            lost,
        )?;
        let flows = [(Vec::new(), self.flows)];
        gauges(
            &mut encoder,
            ("weft_flows", "Flows in the workers' tables"),
            flows.into_iter(),
        )
    }
}

impl Metrics {
    fn requests(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        services: &[(Label<'_>, &Sum)],
    ) -> Result<(), fmt::Error> {
        let mut all = Vec::new();
        for (service, sum) in services {
            for (series, count) in &sum.metrics.requests {
                let (route, rule) = match &series.rule {
                    Some((route, rule)) => (&**route, rule.to_string()),
                    None => ("", String::new()),
                };
                let backend = series.backend.and_then(|id| self.backends.get(&id));
                let backend = backend.map_or("", String::as_str);
                let status = series.status.to_string();
                all.push((*service, route, rule, backend, status, *count));
            }
        }
        let values = all
            .iter()
            .map(|(service, route, rule, backend, status, count)| {
                let labels = [
                    *service,
                    ("route", *route),
                    ("rule", rule.as_str()),
                    ("backend", *backend),
                    ("response_code", status.as_str()),
                ];
                (labels.to_vec(), *count)
            });
        counters(
            encoder,
            ("istio_requests", "Requests that have ended"),
            values,
        )
    }
}

fn counters<'l>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    values: impl Iterator<Item = (Vec<Label<'l>>, u64)>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in values {
        let mut one = metric.encode_family(&labels)?;
        one.encode_counter::<[(&str, &str); 0], u64, u64>(&count, None)?;
    }
    Ok(())
}

fn gauges<'l>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    values: impl Iterator<Item = (Vec<Label<'l>>, u64)>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, count) in values {
        metric.encode_family(&labels)?.encode_gauge(&count)?;
    }
    Ok(())
}

fn durations<'l>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    values: impl Iterator<Item = (Label<'l>, &'l Histogram)>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (label, histogram) in values {
        let bounds = BUCKETS.iter().map(|bound| *bound as f64 / 1_000.0);
        let buckets: Vec<(f64, u64)> = bounds
            .chain([f64::INFINITY])
            .zip(histogram.counts)
            .collect();
        let labels = [label];
        let mut one = metric.encode_family(&labels)?;
        let sum = histogram.sum as f64 / 1_000.0;
        one.encode_histogram::<[(&str, &str); 0]>(sum, histogram.count(), &buckets, None)?;
    }
    Ok(())
}
