//! `[node]` and `[workers]`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::FastPath;
use super::error::{Location, Reason};
use super::model::{AccessLog, Node, Poll, Workers};
use super::overlay::read_uplinks;
use super::pod::read_address_list;
use super::reader::{Kind, Table, Value, quoted};
use super::registry::{Registry, Use, taken};
use super::scalar::{DurationRange, NAME};

pub(super) const NODE_KEYS: &[&str] = &[
    "name",
    "address",
    "uplink",
    "drain",
    "enrolment_grace",
    "hairpin_ips",
    "vip_echo",
    "access_log",
    "metrics",
];
pub(super) const WORKERS_KEYS: &[&str] = &[
    "cores",
    "poll",
    "fast_path",
    "max_flows",
    "frames",
    "heartbeat",
    "punt_rate",
];

const DRAIN: DurationRange = DurationRange {
    min: "0s",
    max: "1h",
};
const ENROLMENT_GRACE: DurationRange = DurationRange {
    min: "0s",
    max: "24h",
};
const HEARTBEAT: DurationRange = DurationRange {
    min: "10ms",
    max: "10s",
};

/// What a pod that reaches itself through a service sees as its client, unless configured: the IPv4 dummy
/// address (RFC 7600 section 4.8), which nobody has and no router announces, and a unique local one (RFC 4193).
const HAIRPIN_IPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
    IpAddr::V6(Ipv6Addr::new(0xfd77, 0x6566, 0x74, 0, 0, 0, 0, 1)),
];

/// One AF_XDP socket and one heartbeat a worker: as many as the BPF maps have places.
const WORKERS_MAX: u64 = 64;

impl Workers {
    /// What holds when `[workers]` does not stand. `cores_at` is where it could.
    pub(super) fn unconfigured(cores_at: Location) -> Self {
        Self {
            cores: vec![0],
            cores_at,
            poll: Poll::default(),
            fast_path: FastPath::default(),
            max_flows: 262_144,
            frames: 8_192,
            heartbeat: Duration::from_millis(100),
            punt_rate: 400_000,
        }
    }
}

pub(super) fn read_node(value: &Value<'_, '_>, registry: &mut Registry) -> Option<Node> {
    let table = value.table(NODE_KEYS)?;
    let name = table.require("name").and_then(|value| value.name(&NAME));
    let addresses = table.optional("address", Vec::new(), |value| {
        let mut claim =
            |value: &Value<'_, '_>, address| registry.address(value, address, Use::Node);
        if let Kind::Other = value.kind() {
            return read_address_list(value, claim);
        }
        let address = value.address()?;
        claim(value, address);
        Some(vec![address])
    });
    let uplinks = table.optional("uplink", Vec::new(), |value| read_uplinks(value, registry));
    let drain = table.optional("drain", Duration::from_secs(30), |v| v.duration(&DRAIN));
    let enrolment_grace = table.optional("enrolment_grace", Duration::from_mins(10), |v| {
        v.duration(&ENROLMENT_GRACE)
    });
    let hairpin_ips = match table.get("hairpin_ips") {
        Some(list) => read_address_list(&list, |value, address| {
            registry.address(value, address, Use::Hairpin);
        }),
        None => {
            for address in HAIRPIN_IPS {
                registry.address(value, address, Use::Hairpin);
            }
            Some(HAIRPIN_IPS.to_vec())
        }
    };
    let vip_echo = table.optional("vip_echo", true, |value| value.boolean());
    let access_log = table.optional("access_log", AccessLog::Off, |value| {
        match value.string("\"off\", \"stdout\" or the path of a file")? {
            "" => value.reject(Reason::Empty),
            "off" => Some(AccessLog::Off),
            "stdout" => Some(AccessLog::Stdout),
            path => Some(AccessLog::File(path.into())),
        }
    });
    let metrics = table.optional("metrics", None, |value| {
        let text = value.string("an address and port as a string")?;
        let address = text.parse().ok();
        let address = address.or_else(|| {
            value.reject(Reason::BadName {
                value: quoted(text),
                rule: "an address and port, such as 127.0.0.1:9464",
            })
        })?;
        Some(Some(address))
    });
    Some(Node {
        name: name?,
        addresses: addresses?,
        uplinks: uplinks?,
        drain: drain?,
        enrolment_grace: enrolment_grace?,
        hairpin_ips: hairpin_ips?,
        vip_echo: vip_echo?,
        access_log: access_log?,
        metrics: metrics?,
    })
}

pub(super) fn read_workers(value: &Value<'_, '_>) -> Option<Workers> {
    let table = value.table(WORKERS_KEYS)?;
    let cores_at = match table.get("cores") {
        Some(value) => value.location(),
        None => Location {
            key: "workers.cores".to_owned(),
            ..table.location()
        },
    };
    let default = Workers::unconfigured(cores_at);
    let cores = table.optional("cores", default.cores, read_cores);
    let poll = table.optional("poll", default.poll, |value| {
        let words = [
            ("adaptive", Poll::Adaptive),
            ("spin", Poll::Spin),
            ("sleep", Poll::Sleep),
        ];
        value.word(&words, &[])
    });
    let fast_path = table.optional("fast_path", default.fast_path, |value| {
        value.word(
            &[
                ("off", FastPath::Off),
                ("flows", FastPath::Flows),
                ("full", FastPath::Full),
            ],
            &[],
        )
    });
    let max_flows = table.optional("max_flows", default.max_flows, |value| {
        value.integer(16..=16_777_216)?.try_into().ok()
    });
    let frames = table.optional("frames", default.frames, |value| {
        value.integer(64..=16_384)?.try_into().ok()
    });
    let heartbeat = table.optional("heartbeat", default.heartbeat, |v| v.duration(&HEARTBEAT));
    let punt_rate = read_punt_rate(&table, default.punt_rate);
    Some(Workers {
        cores: cores?,
        cores_at: default.cores_at,
        poll: poll?,
        fast_path: fast_path?,
        max_flows: max_flows?,
        frames: frames?,
        heartbeat: heartbeat?,
        punt_rate: punt_rate?,
    })
}

/// Packets a second that a pod may punt, of `[workers]` or of a `[[pod]]`.
pub(super) fn read_punt_rate<T: From<u64>>(table: &Table<'_, '_>, default: T) -> Option<T> {
    table.optional("punt_rate", default, |value| {
        value.integer(0..=1_000_000_000).map(T::from)
    })
}

fn read_cores(value: &Value<'_, '_>) -> Option<Vec<usize>> {
    let items = value.items("an array of core numbers")?;
    let count = items.len();
    if count == 0 {
        return value.reject(Reason::Empty);
    }
    if count as u64 > WORKERS_MAX {
        return value.reject(Reason::TooMany {
            count,
            max: WORKERS_MAX,
        });
    }
    let mut first = HashMap::new();
    let mut cores = Vec::new();
    for item in items {
        let Some(core) = item.integer(0..=u64::from(u16::MAX)) else {
            continue;
        };
        if let Some(by) = first.get(&core) {
            taken(&item, format!("core {core}"), by);
            continue;
        }
        first.insert(core, item.location());
        cores.extend(usize::try_from(core));
    }
    (cores.len() == count).then_some(cores)
}
