//! The demo's second part: two nodes, and what their pods have of each other.

use super::{HTTP_PORT, REQUESTS, WEB};
use crate::bookinfo::Bookinfo;
use crate::client::curl_answer;
use crate::config::{Config, Overlay, Peer};
use crate::lab::{Family, Pod, UPLINK, pick, vips};
use crate::progress::Progress;
use crate::servers;
use crate::two_nodes::{TwoNodes, Underlay};
use crate::wait::{START_LIMIT, wait_until};
use crate::weft::Weft;
use anyhow::{Result, ensure};
use comfy_table::{Table, presets};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

/// Requests for the bookinfo page.
const PAGES: usize = 30;
/// Lines of `weft flows` that are shown.
const FLOWS_SHOWN: usize = 8;

/// Two nodes: a client on the first one, a server on each, and bookinfo over both.
struct Cluster {
    wefts: Vec<Weft>,
    client: Pod,
    servers: [Pod; 2],
    bookinfo: Bookinfo,
    nodes: TwoNodes,
}

/// Runs it, and says what was to be seen.
pub(super) fn show(progress: &mut Progress) -> Result<String> {
    progress.step("two nodes with gateways of their own, and weft on both");
    let cluster = Cluster::set_up()?;
    progress.step("from pod to pod, to a service on both nodes, bookinfo over both");
    cluster.requests()
}

impl Cluster {
    fn set_up() -> Result<Self> {
        let mut nodes = TwoNodes::new(Underlay::Routed)?;
        let [a, b] = &mut nodes.nodes;
        let client = a.pod("client")?;
        let servers = [a.pod("web-a")?, b.pod("web-b")?];
        for (lab, pod) in [a, b].into_iter().zip(&servers) {
            servers::nginx(lab, &pod.namespace, &pod.name)?;
        }
        let bookinfo = Bookinfo::start(&mut nodes.nodes)?;
        let mut cluster = Self {
            wefts: Vec::new(),
            client,
            servers,
            bookinfo,
            nodes,
        };
        for at in 0..2 {
            let weft = Weft::start(&cluster.nodes.nodes[at], &cluster.config(at)?)?;
            cluster.wefts.push(weft);
        }
        // A first packet may be lost while a neighbour is looked for.
        let far = cluster.servers[1].at(Family::V4, HTTP_PORT);
        wait_until("the way between the nodes", START_LIMIT, || {
            curl_answer(&cluster.client.namespace, far).is_ok()
        })?;
        Ok(cluster)
    }

    fn config(&self, at: usize) -> Result<Config> {
        let other = &self.nodes.nodes[1 - at];
        let mut config = Config::new();
        config.node.name = ["node-a", "node-b"][at].into();
        config.node.address = self.nodes.nodes[at].place().ips().into();
        config.node.uplink = vec![UPLINK.into()];
        config.overlay = Some(Overlay {
            peers: vec![Peer {
                name: ["node-a", "node-b"][1 - at].into(),
                address: self.nodes.address(1 - at, Family::V4),
                pods: other.place().pod_ranges().into(),
                native: false,
            }],
            ..Overlay::default()
        });
        if at == 0 {
            config.enrol(&self.client, "client");
        }
        config.enrol(&self.servers[at], "web");
        config
            .service("web", WEB, &[("tcp", 80, HTTP_PORT)])
            .serve_at(self.servers.iter().flat_map(|pod| pod.ips));
        self.bookinfo.configure(&mut config, at, "")?;
        Ok(config)
    }

    fn requests(&self) -> Result<String> {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        table.set_header(["request from a pod of node a", "web-a", "web-b", "they see"]);
        for family in Family::BOTH {
            let direct = self.servers[1].at(family, HTTP_PORT);
            let service = SocketAddr::new(pick(&vips(WEB), family), 80);
            for (to, count) in [(direct, 1), (service, REQUESTS)] {
                let mut answers = BTreeMap::<String, usize>::new();
                for _ in 0..count {
                    let answer = curl_answer(&self.client.namespace, to)?;
                    let own = self.client.ip(family);
                    ensure!(answer.client.ip() == own, "{to} saw {}", answer.client);
                    *answers.entry(answer.name).or_default() += 1;
                }
                let of = |name: &str| answers.get(name).unwrap_or(&0).to_string();
                table.add_row([
                    format!("curl http://{to}"),
                    of("web-a"),
                    of("web-b"),
                    format!("{}, the pod's own address", self.client.ip(family)),
                ]);
            }
        }
        let pages = self.bookinfo.ask(&self.client, PAGES, &[])?;
        let pages: Vec<String> = pages
            .iter()
            .map(|(version, count)| format!("{version} {count}"))
            .collect();
        let mut text = format!("{table}\n");
        writeln!(
            text,
            "bookinfo, its pods on both nodes: {PAGES} pages, with reviews {}",
            pages.join(", ")
        )?;
        writeln!(text, "\nWhat node b knows (weft flows there):\n")?;
        let flows = self.wefts[1].text(&["flows"])?;
        for line in flows.lines().take(FLOWS_SHOWN) {
            writeln!(text, "{line}")?;
        }
        Ok(text.trim_end().to_owned())
    }
}
