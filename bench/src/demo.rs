//! The demo: real servers and clients in a lab, their traffic through Weft, and what came of it.

mod cluster;

use crate::bookinfo::{Bookinfo, JASON, Versions};
use crate::client::{ask_udp, curl_answer};
use crate::command::{describe, finish};
use crate::config::Config;
use crate::kubeproxy::{self, Rule};
use crate::lab::{Family, Lab, Pod, pick, vips};
use crate::namespace::Packets;
use crate::progress::Progress;
use crate::servers::{self, HTTP_PORT, IPERF_PORT, PEER_PORT};
use crate::wait::{START_LIMIT, wait_until};
use crate::weft::Weft;
use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// The web service's VIP number: 10.96.0.80 and fd00:96::50.
const WEB: u8 = 80;
/// The iperf3 service's VIP number.
const IPERF: u8 = 52;
/// Requests per service, protocol and family.
const REQUESTS: usize = 30;
/// Requests for the bookinfo page, and for it as one user.
const PAGES: [usize; 2] = [90, 15];
/// Lines of `weft flows` that are shown.
const FLOWS_SHOWN: usize = 16;

/// How to run the demo.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Leave the lab up afterwards.
    pub keep: bool,
    /// Take the kernel's path instead of Weft's, to compare.
    pub kernel: bool,
}

/// How often each backend answered, by kind of request.
type Answers = BTreeMap<String, BTreeMap<String, usize>>;

/// The lab of the demo.
struct Demo {
    weft: Option<Weft>,
    client: Pod,
    backends: Vec<Pod>,
    legacy: Pod,
    bookinfo: Bookinfo,
    lab: Lab,
}

/// Runs it.
pub fn run(options: Options) -> Result<()> {
    let mut progress = Progress::new(if options.kernel { 8 } else { 10 });
    let demo = Demo::set_up(&mut progress, options)?;
    progress.step("curl over TCP and a UDP client, IPv4 and IPv6");
    let answers = demo.requests(&demo.client)?;
    progress.step("iperf3 to a ClusterIP, IPv4 and IPv6");
    let iperf = demo.iperf()?;
    progress.step("bookinfo: an ingress, routes at layer 7, a live change of them");
    let pages = demo.pages()?;
    progress.step("the pod that is not enrolled");
    let before = demo.punted_at_rest()?;
    let untouched = demo.requests(&demo.legacy)?;
    let after = demo.punted()?;
    let cluster = match options.kernel {
        true => None,
        false => Some(cluster::show(&mut progress)?),
    };
    drop(progress);

    heading("Which backend answered how often");
    println!("{}", demo.table(&answers));
    for line in iperf {
        println!("{line}");
    }
    if let Some(pages) = pages {
        heading("Bookinfo, by the version of the reviews on the page");
        println!("{pages}");
    }
    if let Some(weft) = &demo.weft {
        heading("Flows: what the client sees, and what the backend sees (weft flows)");
        let flows = weft.text(&["flows"])?;
        flows
            .lines()
            .take(FLOWS_SHOWN)
            .for_each(|line| println!("{line}"));
        let more = flows.lines().count().saturating_sub(FLOWS_SHOWN);
        if more > 0 {
            println!("... and {more} lines more");
        }
        heading("Where every packet went (weft status)");
        println!("{}", weft.text(&["status"])?.trim_end());
    }
    heading("The pod that is not enrolled");
    let total: usize = untouched.values().flat_map(BTreeMap::values).sum();
    println!(
        "{}: {total} requests to the same ClusterIP, answered by the kernel's own rules.",
        demo.legacy.name
    );
    if let (Some(before), Some(after)) = (before, after) {
        if before != after {
            bail!("weft0 counted packets of the pod that is not enrolled: {before:?}, {after:?}");
        }
        println!("Packets through weft0 meanwhile: 0.");
    }
    if let Some(cluster) = cluster {
        heading("Two nodes, joined by GENEVE");
        println!("{cluster}");
    }
    if options.keep { demo.keep() } else { Ok(()) }
}

impl Demo {
    fn set_up(progress: &mut Progress, options: Options) -> Result<Self> {
        progress.step("laying out a node and eleven pods");
        let mut lab = Lab::new()?;
        let client = lab.pod("client")?;
        let backends = ["web-a", "web-b", "web-c"]
            .iter()
            .map(|name| lab.pod(name))
            .collect::<Result<Vec<_>>>()?;
        let legacy = lab.pod("legacy")?;
        progress.step("starting nginx, iperf3 and a UDP server");
        for pod in &backends {
            servers::nginx(&mut lab, &pod.namespace, &pod.name)?;
            servers::peer(&mut lab, &pod.namespace, &pod.name)?;
        }
        servers::iperf3(&mut lab, &backends[0])?;
        let bookinfo = Bookinfo::start(std::slice::from_mut(&mut lab))?;
        progress.step("kube-proxy's rules, for the pod that is not enrolled");
        let mut demo = Self {
            weft: None,
            client,
            backends,
            legacy,
            bookinfo,
            lab,
        };
        kubeproxy::install(&demo.lab.node, &demo.rules())?;
        progress.step(if options.kernel {
            "no weft: the kernel's path"
        } else {
            "starting weft"
        });
        if !options.kernel {
            demo.weft = Some(Weft::start(&demo.lab, &demo.config("")?)?);
        }
        Ok(demo)
    }

    /// `first`: rules for the reviews in front of the one that splits them.
    fn config(&self, first: &str) -> Result<Config> {
        let mut config = Config::new();
        config.enrol(&self.client, "client");
        for pod in &self.backends {
            config.enrol(pod, "web");
        }
        let ports = [("tcp", 80, HTTP_PORT), ("udp", PEER_PORT, PEER_PORT)];
        config.service("web", WEB, &ports).select("web");
        let ports = [
            ("tcp", IPERF_PORT, IPERF_PORT),
            ("udp", IPERF_PORT, IPERF_PORT),
        ];
        config
            .service("iperf", IPERF, &ports)
            .serve_at(self.backends[0].ips);
        self.bookinfo.configure(&mut config, 0, first)?;
        Ok(config)
    }

    fn rules(&self) -> Vec<Rule> {
        let rule = |number, family, protocol, port, target, backends: &[Pod]| Rule {
            vip: (pick(&vips(number), family), port).into(),
            protocol,
            endpoints: backends.iter().map(|pod| pod.at(family, target)).collect(),
        };
        let all = &self.backends;
        Family::BOTH
            .into_iter()
            .flat_map(|family| {
                [
                    rule(WEB, family, "tcp", 80, HTTP_PORT, all),
                    rule(WEB, family, "udp", PEER_PORT, PEER_PORT, all),
                    rule(IPERF, family, "tcp", IPERF_PORT, IPERF_PORT, &all[..1]),
                    rule(IPERF, family, "udp", IPERF_PORT, IPERF_PORT, &all[..1]),
                ]
            })
            .collect()
    }

    /// Real requests to the web service from `pod`; each has to be answered.
    fn requests(&self, pod: &Pod) -> Result<Answers> {
        let mut answers = Answers::new();
        for family in Family::BOTH {
            let vip = pick(&vips(WEB), family);
            for _ in 0..REQUESTS {
                let to = SocketAddr::new(vip, 80);
                let answer = curl_answer(&pod.namespace, to)?;
                *answers
                    .entry(format!("curl http://{to}"))
                    .or_default()
                    .entry(answer.name)
                    .or_default() += 1;
                let to = SocketAddr::new(vip, PEER_PORT);
                let answer = ask_udp(&pod.namespace, to)?;
                *answers
                    .entry(format!("udp {to}"))
                    .or_default()
                    .entry(answer.name)
                    .or_default() += 1;
            }
        }
        Ok(answers)
    }

    /// The bookinfo page, before and after a rule for one user has come; needs Weft.
    fn pages(&self) -> Result<Option<Table>> {
        let Some(weft) = &self.weft else {
            return Ok(None);
        };
        let jason = ["-H", "end-user: jason"];
        let ask = |count, words: &[&str]| self.bookinfo.ask(&self.client, count, words);
        let before = [ask(PAGES[0], &[])?, ask(PAGES[1], &jason)?];
        weft.reload(&self.config(JASON)?)?;
        let after = [ask(PAGES[0], &[])?, ask(PAGES[1], &jason)?];
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        table.set_header(["curl http://10.96.0.60/productpage", "v1", "v2", "v3"]);
        let mut row = |what: &str, versions: &Versions| {
            let of = |version: &str| versions.get(version).unwrap_or(&0).to_string();
            table.add_row([what.to_owned(), of("v1"), of("v2"), of("v3")]);
        };
        row("anybody", &before[0]);
        row("with end-user: jason", &before[1]);
        row("anybody, after weft reload", &after[0]);
        row("with end-user: jason, after weft reload", &after[1]);
        Ok(Some(table))
    }

    fn iperf(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for family in Family::BOTH {
            let vip = pick(&vips(IPERF), family).to_string();
            for (protocol, extra) in [
                ("tcp", &[][..]),
                ("udp", &["-u", "-b", "100M", "-l", "1200"]),
            ] {
                let mut command = self.client.namespace.command("iperf3");
                command.args(["-J", "-t", "1", "-c", &vip]).args(extra);
                let finished = finish(&mut command, Duration::from_secs(15))?;
                let report: serde_json::Value = serde_json::from_str(&finished.stdout)
                    .with_context(|| format!("iperf3 to {vip} said {:?}", finished.stdout))?;
                if let Some(error) = report["error"].as_str() {
                    bail!("iperf3 {protocol} to {vip}: {error}");
                }
                let end = &report["end"];
                let sum = if protocol == "tcp" {
                    &end["sum_received"]
                } else {
                    &end["sum"]
                };
                let gigabits = sum["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9;
                let lost = end["sum"]["lost_percent"].as_f64();
                let lost = lost.map_or_else(String::new, |lost| format!(", {lost:.2} % lost"));
                lines.push(format!(
                    "iperf3 {protocol} {vip}: {gigabits:.2} Gbit/s{lost}"
                ));
            }
        }
        Ok(lines)
    }

    fn table(&self, answers: &Answers) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        let names = self.backends.iter().map(|pod| pod.name.clone());
        table.set_header([String::from("request")].into_iter().chain(names));
        for (request, counts) in answers {
            let cells = self
                .backends
                .iter()
                .map(|pod| counts.get(&pod.name).unwrap_or(&0).to_string());
            table.add_row([request.clone()].into_iter().chain(cells));
        }
        table
    }

    /// Packets on the punt pair, when there is one.
    /// The same once nothing moves any more: what the last client closed may still be under way.
    fn punted_at_rest(&self) -> Result<Option<Packets>> {
        let mut last = self.punted()?;
        wait_until("the punt pair to be at rest", START_LIMIT, || {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.punted().ok().flatten();
            std::mem::replace(&mut last, now) == now
        })?;
        Ok(last)
    }

    fn punted(&self) -> Result<Option<Packets>> {
        self.weft
            .as_ref()
            .map(|_| self.lab.node.packets("weft0"))
            .transpose()
    }

    fn keep(self) -> Result<()> {
        heading("The lab stays up");
        let enter =
            |what: &str, name: &str| println!("{what:10} nsenter --net=/run/netns/{name} bash");
        enter("node", self.lab.node.name());
        for pod in self.lab.pods() {
            enter(&pod.name, pod.namespace.name());
        }
        let [v4, v6] = vips(WEB);
        println!("\nIn client: curl http://{v4}/    curl http://[{v6}]/");
        if let Some(weft) = &self.weft {
            println!("Weft:      {}", describe(&weft.command(&["status"])));
            println!("Logs:      {}", weft.directory().display());
        }
        let program = std::env::current_exe()?;
        println!("Remove it: {} clean {}", program.display(), self.lab.id());
        if let Some(weft) = self.weft {
            weft.leave();
        }
        self.lab.keep()
    }
}

fn heading(text: &str) {
    println!("\n{text}\n");
}
