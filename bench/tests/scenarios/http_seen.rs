//! What is to be seen of an HTTP stage: routes and why they win, the access log, metrics, counts.

use crate::fixture::with_weft;
use crate::http_fixture::{Site, to};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use weft_lab::http::{Connection, curl};
use weft_lab::lab::Family;
use weft_lab::wait::wait_for;
use weft_lab::weft::{Weft, exit};

const ROUTES: &str = r#"
[[routes]]
name = "reviews"
[[routes.rules]]
matches = [{ path = { prefix = "/user" }, headers = { end-user = "jason" } }]
backends = [{ service = "lab/c" }]
[[routes.rules]]
matches = [{ path = { prefix = "/user" } }]
backends = [{ service = "lab/a", weight = 3 }, { service = "lab/none" }]
[[routes.rules]]
matches = [{ path = { exact = "/none" } }]
backends = [{ service = "lab/none" }]
"#;

#[test]
fn ing03_routes_are_listed_in_order_and_a_requests_rule_is_explained() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let weft = Weft::start(&site.fixture.lab, &site.config(ROUTES)?)?;
        let routes = weft.json(&["routes"])?;
        let services = routes["services"].as_array().context("no services")?;
        assert_eq!(services.len(), 2, "one for each family: {routes}");
        for service in services {
            let routes = service["routes"].as_array().context("no routes")?;
            let rules: Vec<_> = routes
                .iter()
                .map(|one| (&one["route"], &one["rule"], &one["path_type"], &one["path"]))
                .collect();
            let route = &Value::from("reviews");
            let (exact, prefix, user) = ("exact".into(), "prefix".into(), "/user".into());
            assert_eq!(
                rules,
                [
                    (route, &2.into(), &exact, &"/none".into()),
                    (route, &0.into(), &prefix, &user),
                    (route, &1.into(), &prefix, &user),
                ]
            );
            let jason = json!([{ "name": "end-user", "value": "jason" }]);
            assert_eq!(routes[1]["headers"], jason);
            let shares = json!([{ "backend": "lab/a:80", "weight": 3 }, { "backend": "lab/none:80", "weight": 1 }]);
            assert_eq!(routes[2]["backends"], shares);
            let text = "any host, path under /user -> reviews rule 1";
            assert_eq!(routes[2]["text"], text);
        }
        let none = weft.cli(&["routes", "lab/a"])?;
        assert_eq!(none.code(), Some(exit::FAILED));
        let reason =
            "only ports at stage = \"http\" have routes, and lab/a serves 80/tcp at stage = \"l4\"";
        ensure!(none.stderr.contains(reason), "{none:?}");
        ensure!(
            weft.cli(&["routes", "lab/nobody"])?
                .stderr
                .contains("there is no service")
        );
        let url = format!("http://{}/user/1", to(Family::V4));
        let explained = weft.text(&["route", "explain", "GET", &url])?;
        ensure!(
            explained.contains("no   ") && explained.contains("end-user differs or is missing"),
            "{explained}"
        );
        ensure!(
            explained.contains("to lab/a:80 75% (1 ready), lab/none:80 25% (0 ready)"),
            "{explained}"
        );
        let explained = weft.text(&["route", "explain", "GET", &url, "-H", "end-user: jason"])?;
        ensure!(explained.contains("to lab/c:80 100%"), "{explained}");
        let explained = weft.json(&["route", "explain", "GET", "http://any.example/else"])?;
        assert_eq!(explained["outcome"], "no rule matches: 404");
        for (words, reason) in [
            (
                vec!["GET", "http://any.example/a/%2e%2e/b"],
                "dot_segment, 400",
            ),
            (
                vec!["GET", &url, "-H", "Host: a", "-H", "Host: b"],
                "host_repeated, 400",
            ),
            (vec!["GET", &url, "-H", "Host: a b"], "host_invalid, 400"),
            (vec!["CONNECT", &url], "connect, 501"),
        ] {
            let words: Vec<&str> = ["route", "explain"].into_iter().chain(words).collect();
            let refused = weft.json(&words)?;
            let (name, status) = reason.split_once(", ").context("no status")?;
            assert_eq!(refused["refused"], name, "{refused}");
            assert_eq!(
                refused["outcome"],
                format!("refused before any route is looked at, for {name}: {status}")
            );
        }
        let bad = weft.cli(&["route", "explain", "G T", &url])?;
        assert_eq!(bad.code(), Some(exit::FAILED));
        Ok(())
    })
}

#[test]
fn obs06_requests_are_logged_with_times_and_reasons() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let path = site.fixture.lab.directory().join("access.json");
        let mut config = site.config(ROUTES)?;
        config.node.access_log = Some(path.display().to_string());
        let mut weft = Weft::start(&site.fixture.lab, &config)?;
        let answer = site.curl(
            Family::V4,
            &["-H", "end-user: jason", "-d", "12345"],
            "/user?q=1",
        )?;
        assert_eq!(answer.word(0), "c");
        assert_eq!(site.curl(Family::V6, &[], "/none")?.status, 503);
        assert_eq!(site.curl(Family::V6, &[], "/else")?.status, 404);
        let mut connection = Connection::open(&site.fixture.client.namespace, to(Family::V4))?;
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")?;
        assert_eq!(connection.answer()?.status, 400);
        let lines: Vec<Value> = wait_for("four lines", Duration::from_secs(2), || {
            let text = fs::read_to_string(&path).ok()?;
            let lines = text
                .lines()
                .map(serde_json::from_str)
                .collect::<Result<Vec<Value>, _>>()
                .ok()?;
            (lines.len() == 4).then_some(lines)
        })?;
        let of = |key: &str| -> Vec<Value> { lines.iter().map(|line| line[key].clone()).collect() };
        assert_eq!(of("status"), [200, 503, 404, 400]);
        assert_eq!(
            of("flag"),
            [
                Value::Null,
                "no_endpoint".into(),
                "no_route".into(),
                "client_protocol".into()
            ]
        );
        assert_eq!(of("code")[1..], ["UH", "NR", "DPE"]);
        let refused = ["detail", "method", "path", "authority"].map(|key| &lines[3][key]);
        assert_eq!(refused, ["host_repeated", "GET", "/", ""]);
        let first = &lines[0];
        for (key, value) in [
            ("method", "POST"),
            ("path", "/user?q=1"),
            ("service", "lab/web:80"),
            ("backend", "lab/c:80"),
            ("route", "reviews"),
        ] {
            assert_eq!(first[key], value, "{first}");
        }
        let client = first["client"].as_str().unwrap_or_default();
        ensure!(
            client.starts_with(&site.fixture.client.ip(Family::V4).to_string()),
            "{first}"
        );
        assert_eq!(
            (&first["received_bytes"], &first["rule"]),
            (&5.into(), &0.into())
        );
        ensure!(
            first["total_us"].as_u64() >= first["backend_us"].as_u64(),
            "{first}"
        );
        ensure!(weft.stop()?.success(), "{}", weft.log());
        Ok(())
    })
}

#[test]
fn obs07_a_trace_is_passed_on_and_made_on_request() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let weft = Weft::start(&site.fixture.lab, &site.config("")?)?;
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let field = format!("traceparent: {given}");
        let traced =
            |words: &[&str]| -> Result<String> { Ok(site.curl(Family::V4, words, "/")?.word(9)) };
        assert_eq!(traced(&["-H", &field])?, format!("trace={given}"));
        assert_eq!(traced(&[])?, "trace=-");
        weft.reload(&site.config("[http]\ncreate_trace = true\n")?)?;
        let (first, second) = (traced(&[])?, traced(&[])?);
        ensure!(
            first.starts_with("trace=00-") && first.len() == 61,
            "{first}"
        );
        ensure!(first != second, "{first} twice");
        assert_eq!(traced(&["-H", &field])?, format!("trace={given}"));
        Ok(())
    })
}

#[test]
fn obs01_metrics_and_status_count_requests() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let mut config = site.config(ROUTES)?;
        config.node.metrics = Some("127.0.0.1:9464".into());
        let weft = Weft::start(&site.fixture.lab, &config)?;
        for family in Family::BOTH {
            for _ in 0..5 {
                assert_eq!(
                    site.curl(family, &["-H", "end-user: jason"], "/user")?
                        .status,
                    200
                );
            }
            assert_eq!(site.curl(family, &[], "/none")?.status, 503);
        }
        let node = &site.fixture.lab.node;
        let metrics = curl(node, &[], "http://127.0.0.1:9464/metrics")?.text();
        let wanted = [
            "istio_requests_total{destination_service=\"lab/web:80\",route=\"reviews\",rule=\"0\",backend=\"lab/c:80\",response_code=\"200\"} 10",
            "weft_http_flags_total{destination_service=\"lab/web:80\",flag=\"no_endpoint\"} 2",
            "istio_request_duration_milliseconds_count{destination_service=\"lab/web:80\"} 12",
            "istio_request_duration_milliseconds_bucket{le=\"+Inf\",destination_service=\"lab/web:80\"} 12",
            "hubble_drop_total{reason=\"src_spoof\"} 0",
        ];
        for line in wanted {
            ensure!(metrics.contains(line), "{line}\nis not in\n{metrics}");
        }
        ensure!(metrics.ends_with("# EOF\n"), "{metrics}");
        assert_eq!(curl(node, &[], "http://127.0.0.1:9464/")?.status, 404);
        let status = weft.json(&["status"])?;
        let service = &status["http"][0];
        assert_eq!(
            (&service["requests"]["2xx"], &service["requests"]["5xx"]),
            (&10.into(), &2.into()),
            "{service}"
        );
        assert_eq!(service["flags"]["no_endpoint"], 2);
        ensure!(weft.text(&["status"])?.contains("2xx=10 5xx=2"), "{status}");
        weft.audit().map(drop)
    })
}
