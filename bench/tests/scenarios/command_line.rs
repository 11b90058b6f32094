//! The command line: refusals, exit codes, reloads that are all or nothing (XDS-04).

use crate::fixture::{Fixture, flawless, progress, web, with_weft};
use anyhow::{Result, ensure};
use std::fs;
use std::time::Duration;
use weft_lab::client::curl_answer;
use weft_lab::lab::Family;
use weft_lab::weft::{exit, offline};

/// Ways to break a good configuration: what to replace by what, and what the message must name.
const BREAKS: [(&str, &str, &str); 7] = [
    (
        "name = \"lab\"",
        "name = \"lab\"\ncolour = \"red\"",
        "colour",
    ),
    ("poll = \"adaptive\"", "poll = 7", "poll"),
    ("poll = \"adaptive\"", "poll = \"sometimes\"", "poll"),
    ("10.96.0.10", "10.096.0.10", "cluster_ips"),
    ("port = 80\n", "port = 65536\n", "port"),
    ("v-client", "v-nobody", "v-nobody"),
    ("v-client", "v-a", "v-a"),
];

#[test]
fn xds04_a_refused_reload_changes_nothing() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let good = fixture.config().to_toml()?;
        let tables = || -> Result<String> {
            let mut tables = weft.json(&["lb", "list"])?;
            forget_flows(&mut tables);
            Ok(tables.to_string())
        };
        let (before, owned) = (tables()?, weft.text(&["owned"])?);
        let loads = fixture.loads(Duration::from_millis(2));
        for (from, to, named) in BREAKS {
            ensure!(
                good.contains(from),
                "{from:?} is not in the configuration:\n{good}"
            );
            let finished = weft.reload_text(&good.replacen(from, to, 1))?;
            let text = format!("{}{}", finished.stderr, finished.stdout);
            ensure!(
                finished.code() == Some(exit::REFUSED),
                "{to}: {:?} {text}",
                finished.code()
            );
            ensure!(
                text.contains("node.toml:") && text.contains(named),
                "{to}: {text}"
            );
            assert_eq!(tables()?, before);
            assert_eq!(weft.text(&["owned"])?, owned);
        }
        progress(&loads, 50)?;
        flawless(loads)?;
        ensure!(
            weft.reload_text(&good)?.success(),
            "the good file is refused"
        );
        weft.audit().map(drop)
    })
}

/// Removes the numbers of live flows, the one part of the tables that traffic changes.
fn forget_flows(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.remove("flows");
            map.remove("packets");
            map.values_mut().for_each(forget_flows);
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(forget_flows),
        _ => {}
    }
}

#[test]
fn check_says_what_run_would_say() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let good = fixture.config().to_toml()?;
        let file = fixture.lab.directory().join("checked.toml");
        let path = file.to_string_lossy().into_owned();
        fs::write(&file, &good)?;
        let finished = offline(&fixture.lab, &["check", &path])?;
        ensure!(finished.success(), "{}", finished.stderr);
        for (from, to, named) in BREAKS {
            fs::write(&file, good.replacen(from, to, 1))?;
            for command in ["check", "run"] {
                let finished = offline(&fixture.lab, &[command, &path])?;
                let text = format!("{}{}", finished.stderr, finished.stdout);
                ensure!(
                    finished.code() == Some(exit::REFUSED),
                    "{command} {to}: {text}"
                );
                ensure!(
                    text.contains("checked.toml:") && text.contains(named),
                    "{to}: {text}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn exit_codes_say_that_nobody_answers_and_that_usage_is_wrong() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        for command in [&["status"][..], &["flows"], &["reload"], &["lb", "list"]] {
            let finished = offline(&fixture.lab, command)?;
            ensure!(
                finished.code() == Some(exit::UNREACHABLE),
                "{command:?}: {finished:?}"
            );
        }
        assert_eq!(offline(&fixture.lab, &["dance"])?.code(), Some(2));
        Ok(())
    })
}

#[test]
fn ter13_lb_list_and_flows_show_the_live_snapshot() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let (vip4, vip6) = (web(Family::V4, 80), web(Family::V6, 80));
        let listed = weft.text(&["lb", "list"])?;
        for text in [vip4.ip().to_string(), vip6.ip().to_string(), "web".into()] {
            ensure!(listed.contains(&text), "{text} is missing:\n{listed}");
        }
        let one = weft.text(&["lb", "list", "--vip", &vip4.ip().to_string()])?;
        ensure!(
            !one.contains(&vip6.ip().to_string()),
            "--vip does not filter:\n{one}"
        );
        let answer = curl_answer(&fixture.client.namespace, vip4)?;
        let backend = fixture.backends.iter().find(|pod| pod.name == answer.name);
        let flows = weft.text(&["flows"])?;
        // Both tuples: client -> VIP and client -> backend.
        for text in [vip4.ip(), answer.client.ip()]
            .into_iter()
            .chain(backend.map(|pod| pod.ip(Family::V4)))
        {
            ensure!(
                flows.contains(&text.to_string()),
                "{text} is missing:\n{flows}"
            );
        }
        ensure!(flows.contains(&answer.client.port().to_string()), "{flows}");
        for command in [&["status"][..], &["flows"], &["lb", "list"], &["owned"]] {
            weft.json(command)?;
        }
        Ok(())
    })
}
