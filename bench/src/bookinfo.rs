//! The bookinfo application in labs: six pods on one node or two, their services, and an ingress in front of the page.

use crate::binaries;
use crate::config::{Config, Service};
use crate::http::curl;
use crate::lab::{Family, Lab, Pod, pick, vips};
use crate::servers::listening;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Where the servers listen, and their services.
const PORT: u16 = 9080;
/// The ingress's VIP number: 10.96.0.60, port 80. The services' follow.
const INGRESS: u8 = 60;
const PRODUCTPAGE: u8 = 61;
const DETAILS: u8 = 62;
const REVIEWS: u8 = 63;
const RATINGS: u8 = 64;

/// The servers: role, version, the services that they ask, and the node where there are two.
const SERVERS: [(&str, &str, &[u8], usize); 6] = [
    ("productpage", "v1", &[DETAILS, REVIEWS], 0),
    ("details", "v1", &[], 1),
    ("reviews", "v1", &[], 0),
    ("reviews", "v2", &[RATINGS], 1),
    ("reviews", "v3", &[RATINGS], 1),
    ("ratings", "v1", &[], 0),
];

/// The application's pods, with their servers running.
#[derive(Debug)]
pub struct Bookinfo {
    /// Each with its node.
    pods: Vec<(usize, Pod)>,
    nodes: usize,
}

/// How often each version of the reviews was on the page.
pub type Versions = BTreeMap<String, usize>;

impl Bookinfo {
    /// Starts the servers in pods of their own, on one node or two.
    pub fn start(nodes: &mut [Lab]) -> Result<Self> {
        let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
        let mut pods = Vec::new();
        for (role, version, asks, node) in SERVERS {
            let node = node % nodes.len();
            let lab = &mut nodes[node];
            // An interface is named after its pod, within 15 characters.
            let name = match role {
                "reviews" => format!("{role}-{version}"),
                role => role.to_owned(),
            };
            let pod = lab.pod(&name)?;
            let mut command = pod.namespace.command(&program);
            command.args(["serve", "bookinfo", "--role", role, "--version", version]);
            command.args(["--port", &PORT.to_string()]);
            for number in asks {
                command.args(["--asks", &service(*number, PORT).to_string()]);
            }
            lab.spawn(&name, &mut command)?;
            listening(&pod.namespace, PORT, role)?;
            pods.push((node, pod));
        }
        let nodes = nodes.len();
        Ok(Self { pods, nodes })
    }

    /// Enrols the pods of that node and adds the services. `first` are rules for the reviews in front of the one that splits
    /// them, as TOML.
    pub fn configure(&self, config: &mut Config, node: usize, first: &str) -> Result<()> {
        for (_, pod) in self.pods.iter().filter(|(at, _)| *at == node) {
            config.enrol(pod, &pod.name);
        }
        let serve = |service: &mut Service, name: &str| {
            let found = self.pods.iter().find(|(_, pod)| pod.name == name);
            match found {
                // A selector finds pods of its own node.
                Some((_, pod)) if self.nodes > 1 => _ = service.serve_at(pod.ips),
                _ => _ = service.select(name),
            }
        };
        let mut add = |name: &str, number: u8, port: u16| -> usize {
            config.service(name, number, &[("tcp", port, PORT)]);
            config.services.len() - 1
        };
        let simple = [
            ("productpage", PRODUCTPAGE),
            ("details", DETAILS),
            ("ratings", RATINGS),
        ];
        let simple = simple.map(|(name, number)| (name, add(name, number, PORT)));
        let versions = ["v1", "v2", "v3"].map(|version| format!("reviews-{version}"));
        let versions = [0, 1, 2].map(|at| {
            (
                versions[at].clone(),
                add(&versions[at], RATINGS + 1 + at as u8, PORT),
            )
        });
        let (reviews, ingress) = (add("reviews", REVIEWS, PORT), add("ingress", INGRESS, 80));
        let services = &mut config.services;
        for (name, at) in simple {
            serve(&mut services[at], name);
        }
        for (name, at) in &versions {
            serve(&mut services[*at], name);
        }
        services[reviews].http(&format!(
            "[[routes]]\nname = \"reviews\"\n{first}[[routes.rules]]\nbackends = [\n  {{ service = \"lab/reviews-v1\" }},\n  {{ service = \"lab/reviews-v2\" }},\n  {{ service = \"lab/reviews-v3\" }},\n]\n"
        ))?;
        at_layer_7(&mut services[ingress])
    }

    /// Asks for the page as often, each time on a connection of its own, with more words for curl.
    pub fn ask(&self, client: &Pod, count: usize, words: &[&str]) -> Result<Versions> {
        let mut versions = Versions::new();
        let url = format!("http://{}/productpage", service(INGRESS, 80));
        for _ in 0..count {
            let page = curl(&client.namespace, words, &url)?;
            let text = page.text();
            ensure!(page.status == 200, "{} {text}", page.status);
            let reviews = text.lines().find_map(|line| line.strip_prefix("reviews "));
            let (version, _) = reviews
                .and_then(|line| line.split_once(':'))
                .context(text.clone())?;
            let rated = text.contains("\nratings v1: 5 stars");
            ensure!(
                text.contains("\ndetails v1: ") && rated == (version != "v1"),
                "{text}"
            );
            *versions.entry(version.to_owned()).or_default() += 1;
        }
        Ok(versions)
    }
}

/// A rule that sends one user to the third version.
pub const JASON: &str = "[[routes.rules]]\nmatches = [{ headers = { end-user = \"jason\" } }]\nbackends = [{ service = \"lab/reviews-v3\" }]\n";

fn at_layer_7(ingress: &mut Service) -> Result<()> {
    ingress.http(
        "[[routes]]\nname = \"bookinfo\"\n[[routes.rules]]\nmatches = [{ path = { prefix = \"/productpage\" } }]\nbackends = [{ service = \"lab/productpage\" }]\n",
    )?;
    Ok(())
}

fn service(number: u8, port: u16) -> SocketAddr {
    SocketAddr::new(pick(&vips(number), Family::V4), port)
}
