//! Routes of the HTTP stage, by real clients and servers.

use crate::fixture::with_weft;
use crate::http_fixture::{Site, to};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weft_lab::http::Connection;
use weft_lab::lab::Family;
use weft_lab::weft::{Weft, exit};

const ROUTES: &str = r#"
[[routes]]
name = "by-host"
hostnames = ["b.example", "*.b.example"]
rules = [{ backends = [{ service = "lab/b" }] }]

[[routes]]
name = "paths"
[[routes.rules]]
matches = [{ path = { exact = "/exact" } }]
backends = [{ service = "lab/a" }]
[[routes.rules]]
matches = [{ path = { prefix = "/deep" } }, { path = { prefix = "/deep/er" }, method = "PUT" }]
backends = [{ service = "lab/b" }]
[[routes.rules]]
matches = [{ path = { prefix = "/deep/er" } }]
backends = [{ service = "lab/c", port = 80 }]
[[routes.rules]]
matches = [{ path = { prefix = "/user" }, headers = { end-user = "jason" } }]
request_headers = { set = { x-added = "yes" } }
backends = [{ service = "lab/c" }]
[[routes.rules]]
matches = [{ path = { prefix = "/user" } }]
backends = [{ service = "lab/a" }]
[[routes.rules]]
matches = [{ path = { prefix = "/split" } }]
backends = [{ service = "lab/a", weight = 3 }, { service = "lab/b" }, { service = "lab/c", weight = 0 }]
[[routes.rules]]
matches = [{ path = { prefix = "/old" } }]
redirect = { hostname = "new.example", port = 8080, status = 301 }
[[routes.rules]]
matches = [{ path = { prefix = "/none" } }]
backends = [{ service = "lab/none" }]
[[routes.rules]]
matches = [{ path = { prefix = "/nowhere" } }]
backends = []
[[routes.rules]]
matches = [{ path = { prefix = "/slow" } }]
timeouts = { backend_request = "300ms" }
backends = [{ service = "lab/a" }]
[[routes.rules]]
matches = [{ path = { prefix = "/outside" } }]
backends = [{ service = "lab/out" }]
"#;

#[test]
fn amb07_rules_by_host_path_method_and_header_choose_the_backend() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let weft = Weft::start(&site.fixture.lab, &site.config(ROUTES)?)?;
        let cases: [(&[&str], &str, u16, &str); 18] = [
            (&["-H", "Host: b.example"], "/exact", 200, "b"),
            (&["-H", "Host: x.y.B.example:80"], "/any", 200, "b"),
            (&[], "/exact", 200, "a"),
            (&[], "/exact/", 404, ""),
            (&[], "/deep", 200, "b"),
            (&[], "/deep/?q=1", 200, "b"),
            (&[], "/deeper", 404, ""),
            (&[], "/deep/er/x", 200, "c"),
            (&["-X", "PUT", "-d", "x"], "/deep/er/x", 200, "b"),
            (&[], "/user", 200, "a"),
            (&["-H", "end-user: jason"], "/user", 200, "c"),
            (&["-H", "end-user: Jason"], "/user", 200, "a"),
            (&[], "/none", 503, ""),
            (&[], "/nowhere", 500, ""),
            (&[], "/slow/2000", 504, ""),
            (&[], "/", 404, ""),
            (&["--path-as-is"], "/deep/../exact", 400, ""),
            (&[], "/outside", 200, "outsider"),
        ];
        for family in Family::BOTH {
            for (words, target, status, server) in cases {
                let answer = site.curl(family, words, target)?;
                let served = if status == 200 {
                    answer.word(0)
                } else {
                    String::new()
                };
                assert_eq!(
                    (answer.status, &*served),
                    (status, server),
                    "{words:?} {target}: {answer:?}"
                );
            }
            let added = site.curl(family, &["-H", "end-user: jason"], "/user")?;
            assert_eq!(added.word(7), "added=yes", "{added:?}");
            let moved = site.curl(family, &[], "/old/page?q")?;
            assert_eq!(moved.status, 301);
            let location = "http://new.example:8080/old/page?q";
            ensure!(
                moved
                    .head
                    .to_lowercase()
                    .contains(&format!("location: {location}")),
                "{moved:?}"
            );
        }
        weft.audit().map(drop)
    })
}

#[test]
fn ing01_requests_are_split_by_weight() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let weft = Weft::start(&site.fixture.lab, &site.config(ROUTES)?)?;
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for family in Family::BOTH {
            let mut connection = Connection::open(&site.fixture.client.namespace, to(family))?;
            for _ in 0..600 {
                *counts.entry(connection.get("/split")?.word(0)).or_default() += 1;
            }
        }
        let [a, b] = ["a", "b"].map(|server| counts.get(server).copied().unwrap_or(0));
        // 900 are expected of 1,200, with a standard deviation of 15.
        ensure!(a + b == 1_200 && a.abs_diff(900) < 60, "{counts:?}");
        weft.audit().map(drop)
    })
}

#[test]
fn routes_change_under_load_without_a_failed_request_and_bad_ones_change_nothing() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let to_only = |server: &str| {
            let backends = format!("backends = [{{ service = \"lab/{server}\" }}]");
            site.config(&format!(
                "[[routes]]\nname = \"r\"\n[[routes.rules]]\n{backends}\n"
            ))
        };
        let weft = Weft::start(&site.fixture.lab, &to_only("a")?)?;
        let done = AtomicBool::new(false);
        let load = |family| {
            let (done, namespace) = (&done, &site.fixture.client.namespace);
            move || -> Result<u64> {
                namespace.enter(|| {
                    let mut asked = 0;
                    while !done.load(Ordering::Relaxed) {
                        // Some requests on a connection, so that there are old and new ones at every change.
                        let mut connection = Connection::open_here(to(family))?;
                        for _ in 0..50 {
                            let answer = connection.get("/")?;
                            ensure!(answer.status == 200, "{answer:?}");
                            asked += 1;
                        }
                    }
                    Ok(asked)
                })?
            }
        };
        std::thread::scope(|scope| -> Result<()> {
            let loads = Family::BOTH.map(|family| scope.spawn(load(family)));
            for server in ["b", "c", "a", "b", "c", "a"] {
                std::thread::sleep(Duration::from_millis(150));
                weft.reload(&to_only(server)?)?;
                // What is asked from now on goes there.
                let answer = site.curl(Family::V4, &[], "/")?;
                assert_eq!(answer.word(0), server);
                let bad = weft.reload_text("[[service]]\nname = 1\n")?;
                assert_eq!(bad.code(), Some(exit::REFUSED));
            }
            done.store(true, Ordering::Relaxed);
            for load in loads {
                let asked = load.join().expect("a load")?;
                ensure!(asked > 100, "only {asked} requests");
            }
            Ok(())
        })?;
        weft.audit().map(drop)
    })
}
