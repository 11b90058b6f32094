//! The HTTP stage of a worker: whose connections it gets, when it has its turn, and how its own are opened.

#[cfg(debug_assertions)]
mod fault;
mod stream;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam::channel::Sender;
use weft_datapath::{
    DropReason, FlowKey, Now, PIN_OPS_PER_FRAME, PacketIo, Protocol, Tables, Tuple, UpstreamSource,
    UpstreamSpec, client_hash, flow_hash,
};
use weft_l7::observe::{AccessRecord, ServiceMetrics};
use weft_l7::{Budget, ConnectRequest, ConnectionMeta, ServiceConfig, ServiceId, Source, Stage};
use weft_stack::Accepted;

use super::tcp::key_of;
use super::{PinSink, Worker};
use crate::layer7::{HttpService, Layer7, service_id};
use stream::{HttpStream, Wishes};

/// What is done in one step. A poll of a task takes some microseconds, so that a step stays within a millisecond or two.
const BUDGET: Budget = Budget {
    polls: 256,
    share: 32,
};

/// Turns of a step: those that follow are for the connections which the one before has asked for.
const TURNS: usize = 3;

/// What a worker says of its HTTP stages.
#[derive(Clone, Debug, Default)]
pub struct HttpReport {
    /// Each port of a VIP.
    pub services: Vec<HttpCounts>,
    /// Records of the access log that were lost.
    pub records_lost: u64,
}

/// What a worker says of one of them.
#[derive(Clone, Debug)]
pub struct HttpCounts {
    /// `namespace/name:port`.
    pub name: Arc<str>,
    /// Clients' connections there are.
    pub open: usize,
    /// What has happened.
    pub metrics: ServiceMetrics,
}

/// The HTTP stage.
pub(super) struct Http {
    published: Arc<ArcSwap<Layer7>>,
    /// Where records of requests go, and how many were lost because whoever writes them is too slow.
    access_log: Option<Sender<AccessRecord>>,
    records_lost: u64,
    stage: Stage<HttpStream>,
    wishes: Wishes,
    /// What the stage has been told, by number.
    services: BTreeMap<ServiceId, Arc<HttpService>>,
    /// Services that are served differently by now, whose connections go on as they began.
    leaving: Vec<ServiceId>,
    /// When the stage is to have its turn, though no stream wakes it.
    due: Option<Now>,
}

impl Http {
    pub(super) fn new(
        published: Arc<ArcSwap<Layer7>>,
        access_log: Option<Sender<AccessRecord>>,
        seed: u64,
    ) -> Self {
        let wishes = Wishes::default();
        let upstreams = wishes.clone();
        #[cfg(debug_assertions)]
        let upstreams = fault::Faulty::from_environment(upstreams);
        Self {
            published,
            access_log,
            records_lost: 0,
            stage: Stage::new(upstreams, seed, BUDGET),
            wishes,
            services: BTreeMap::new(),
            leaving: Vec::new(),
            due: None,
        }
    }

    /// The tables are others: takes what goes with them.
    pub(super) fn tables_changed(&mut self) {
        let published = self.published.load();
        let wanted = published.services();
        for (id, service) in wanted {
            let known = self.services.get(id);
            if known.is_some_and(|known| Arc::ptr_eq(known, service)) {
                continue;
            }
            self.stage.configure(*id, Arc::clone(&service.config));
            self.services.insert(*id, Arc::clone(service));
        }
        self.leaving.retain(|id| !wanted.contains_key(id));
        for id in self.services.keys() {
            if !wanted.contains_key(id) && !self.leaving.contains(id) {
                self.leaving.push(*id);
            }
        }
    }

    /// Forgets services that are gone, once their last connection is.
    pub(super) fn forget_services(&mut self) {
        let Self {
            stage,
            services,
            leaving,
            ..
        } = self;
        leaving.retain(|id| {
            if stage.connections(*id) > 0 {
                return true;
            }
            // Without backends, what is idle is closed in order.
            stage.configure(*id, Arc::new(ServiceConfig::default()));
            if stage.tasks(*id) > 0 {
                return true;
            }
            stage.remove(*id);
            services.remove(id);
            false
        });
    }

    /// Passes on what is to be logged. Bound: as many requests as a turn can end.
    fn log(&mut self) {
        while let Some(record) = self.stage.record() {
            let log = self.access_log.as_ref();
            let lost = log.is_some_and(|log| log.try_send(record).is_err());
            self.records_lost += u64::from(lost);
        }
    }

    /// Lets connections end.
    pub(super) fn drain(&self) {
        self.stage.drain();
    }

    /// Ends all connections, and logs what was cut by it.
    pub(super) fn stop(&mut self) {
        self.stage.stop();
        self.log();
    }

    /// What the stage has done, for control.
    pub(super) fn report(&self) -> HttpReport {
        let services = self.services.iter().filter_map(|(id, service)| {
            Some(HttpCounts {
                name: Arc::clone(&service.config.name),
                open: self.stage.connections(*id),
                metrics: self.stage.metrics(*id)?,
            })
        });
        HttpReport {
            services: services.collect(),
            records_lost: self.records_lost + self.stage.records_lost(),
        }
    }

    /// Whether there is something to do at once.
    pub(super) fn has_work(&self) -> bool {
        self.stage.is_woken()
    }

    /// When there is something to do though nothing comes.
    pub(super) fn next(&self) -> Option<Now> {
        self.due
    }
}

impl<IO: PacketIo, P: PinSink> Worker<IO, P> {
    /// Gives the stage a client's connection.
    pub(super) fn admit(&mut self, accepted: Accepted, now: Now, tables: &Tables) {
        let (key, tuple) = (key_of(&accepted), accepted.tuple);
        if let Err(reason) = self.state.admit(key, now, tables) {
            self.tcp.refuse(reason);
            return accepted.stream.abort();
        }
        let service = tables.service(&tuple.dst, tuple.dport, Protocol::Tcp);
        let number = service.map_or(0, weft_datapath::ServicePort::id);
        let id = service_id(number, tuple.dst.is_v4());
        let by_client = (self.http.services.get(&id)).is_some_and(|service| service.by_client);
        let meta = ConnectionMeta {
            client: SocketAddr::new(tuple.src.into(), tuple.sport),
            vip: SocketAddr::new(tuple.dst.into(), tuple.dport),
            hash: match by_client {
                true => client_hash(&tuple),
                false => flow_hash(&tuple),
            },
        };
        accepted.stream.look_after();
        accepted
            .stream
            .set_segmentation(self.in_bulk(accepted.route.tag));
        let stream = HttpStream::open(accepted.stream);
        self.http.stage.accept(id, stream, meta);
    }

    /// The stage's turn, and what it asks for.
    pub(super) fn serve_http(&mut self, now: Now, tables: &Tables) {
        self.take_turns(now, tables);
        self.http.log();
    }

    fn take_turns(&mut self, now: Now, tables: &Tables) {
        for _ in 0..TURNS {
            let due = self
                .http
                .stage
                .turn(weft_l7::Now::from_nanos(now.as_nanos()));
            self.http.due = due.map(|due| Now::from_nanos(due.as_nanos()));
            let mut opened = false;
            // Bound: as many as the stage's backends may have.
            while let Some(wanted) = self.http.wishes.next() {
                if wanted.is_given_up() {
                    continue;
                }
                if self.state.pin_ops.room() < PIN_OPS_PER_FRAME {
                    self.write_pins();
                }
                self.sever();
                let stream = self.connect(&wanted.request, now, tables);
                wanted.settle(stream);
                opened = true;
            }
            if !opened {
                return;
            }
        }
    }

    /// Begins to open a connection to an endpoint.
    fn connect(
        &mut self,
        request: &ConnectRequest,
        now: Now,
        tables: &Tables,
    ) -> Result<weft_stack::Stream, ErrorKind> {
        let (client, vip) = (request.client.client, request.client.vip);
        let service = self.http.services.get(&request.service);
        let service = service.ok_or(ErrorKind::NotFound)?;
        let through = service
            .backend(request.backend)
            .and_then(|front| tables.service(&front.0, front.1, Protocol::Tcp))
            .ok_or(ErrorKind::NotFound)?;
        let pod = tables.pod_by_address(&client.ip().into());
        let front = tables.service(&vip.ip().into(), vip.port(), Protocol::Tcp);
        let key = FlowKey {
            tuple: Tuple {
                src: client.ip().into(),
                dst: vip.ip().into(),
                sport: client.port(),
                dport: vip.port(),
                proto: Protocol::Tcp,
            },
            ifindex: pod.map_or(0, |pod| pod.ifindex),
        };
        let wanted = UpstreamSpec {
            service: (
                service.number,
                front.and_then(|front| front.options().max_flows),
            ),
            client: key,
            through,
            backend: (request.endpoint.ip().into(), request.endpoint.port()),
            source: match request.source {
                Source::Client => UpstreamSource::Client,
                Source::Node => UpstreamSource::Node,
            },
        };
        let number = weft_stack::ServiceId(service.number as u16);
        let opened = self.state.connect(&wanted, now, tables).and_then(|id| {
            let payer = super::tcp::tag_of(&key, weft_datapath::Inject::Peer);
            self.open(id, number, payer, now, tables)
        });
        match opened {
            Ok(stream) => {
                stream.look_after();
                Ok(stream)
            }
            Err(reason) => {
                self.tcp.refuse(reason);
                Err(match reason {
                    DropReason::UnknownFlow => ErrorKind::NotFound,
                    DropReason::TupleClash => ErrorKind::AddrInUse,
                    _ => ErrorKind::OutOfMemory,
                })
            }
        }
    }
}
