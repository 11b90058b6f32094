//! What scenarios of the HTTP stage start from: three servers that say what they are asked, and a service in front of them.

use crate::fixture::{Fixture, WEB, web};
use anyhow::{Context, Result};
use std::fs;
use std::net::SocketAddr;
use weft_lab::config::Config;
use weft_lab::http::{Response, curl};
use weft_lab::lab::Family;
use weft_lab::servers::{self, WEB_PORT};

/// A lab with web servers in the backends' pods.
pub struct Site {
    pub fixture: Fixture,
}

impl Site {
    pub fn new() -> Result<Self> {
        let mut fixture = Fixture::new()?;
        for pod in fixture.backends.iter().chain([&fixture.outsider]) {
            servers::web(&mut fixture.lab, &pod.namespace, &pod.name)?;
        }
        Ok(Self { fixture })
    }

    /// The service `lab/web` at the HTTP stage, with more of it as TOML, and behind it for its rules to name `lab/a`, `lab/b` and `lab/c`, of
    /// one pod each, `lab/none` without any, and `lab/out` of the pod that is not enrolled.
    pub fn config(&self, more: &str) -> Result<Config> {
        let mut config = self.fixture.config();
        config.services.clear();
        let ports = [("tcp", 80, WEB_PORT)];
        config
            .service("web", WEB, &ports)
            .select("web")
            .http(more)?;
        for (pod, number) in self.fixture.backends.iter().zip(WEB + 1..) {
            config.service(&pod.name, number, &ports).serve_at(pod.ips);
        }
        config.service("none", WEB + 4, &ports);
        let outside = self.fixture.outsider.ips;
        config.service("out", WEB + 5, &ports).serve_at(outside);
        Ok(config)
    }

    /// curl from the client's pod to the service, with more words.
    pub fn curl(&self, family: Family, words: &[&str], target: &str) -> Result<Response> {
        let url = format!("http://{}{target}", to(family));
        curl(&self.fixture.client.namespace, words, &url)
    }

    /// The requests that servers have seen, in no order.
    pub fn seen(&self) -> Result<String> {
        let mut seen = String::new();
        for pod in &self.fixture.backends {
            let name = format!("{}.log", servers::web_name(&pod.name));
            let log = self.fixture.lab.directory().join(name);
            seen += &fs::read_to_string(log).context("a server's log")?;
        }
        Ok(seen)
    }
}

/// Where the service is.
pub fn to(family: Family) -> SocketAddr {
    web(family, 80)
}
