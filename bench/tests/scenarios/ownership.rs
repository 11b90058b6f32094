//! What Weft makes is listed and goes (AMB-03), and depends on nobody's rules (AMB-09).

use crate::fixture::{Fixture, flawless, progress, web, with_weft};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use weft_lab::binaries;
use weft_lab::client::{Talk, ask_tcp};
use weft_lab::command::{finish, run};
use weft_lab::lab::{Family, Lab};
use weft_lab::servers::PEER_PORT;
use weft_lab::snapshot::Snapshot;
use weft_lab::wait::wait_until;
use weft_lab::weft::{exit, offline};

/// Objects that `weft owned --json` lists without a node process running.
fn owned_offline(lab: &Lab) -> Result<usize> {
    let finished = offline(lab, &["owned", "--json"])?;
    ensure!(finished.success(), "weft owned: {}", finished.stderr);
    Ok(finished.stdout.matches("\"kind\"").count())
}

fn assert_nothing_owned(lab: &Lab, before: &Snapshot) -> Result<()> {
    assert_eq!(owned_offline(lab)?, 0);
    let difference = before.difference(&Snapshot::take(lab)?);
    ensure!(
        difference.is_empty(),
        "the node has changed:\n{}",
        difference.join("\n")
    );
    Ok(())
}

#[test]
fn amb03_a_clean_exit_leaves_the_node_as_it_was() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let before = Snapshot::take(&fixture.lab)?;
        let mut weft = fixture.weft()?;
        ask_tcp(&fixture.client.namespace, web(Family::V4, PEER_PORT))?;
        let owned = weft.json(&["owned"])?.to_string();
        for name in ["weft0", fixture.client.interface.as_str()] {
            ensure!(owned.contains(name), "{name} is not listed: {owned}");
        }
        let changes = before.difference(&Snapshot::take(&fixture.lab)?);
        ensure!(
            changes.iter().any(|line| line.contains("weft0")),
            "{changes:?}"
        );
        let status = weft.stop()?;
        ensure!(status.success(), "{status}: {}", weft.log());
        assert_nothing_owned(&fixture.lab, &before)
    })
}

#[test]
fn amb03_cleanup_after_sigkill_leaves_the_node_as_it_was() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let before = Snapshot::take(&fixture.lab)?;
        let mut weft = fixture.weft()?;
        ask_tcp(&fixture.client.namespace, web(Family::V4, PEER_PORT))?;
        weft.kill()?;
        ensure!(
            owned_offline(&fixture.lab)? > 0,
            "pins should have survived"
        );
        let cleanup = offline(&fixture.lab, &["cleanup"])?;
        ensure!(cleanup.success(), "{}", cleanup.stderr);
        assert_nothing_owned(&fixture.lab, &before)?;
        // Twice is as good as once.
        ensure!(
            offline(&fixture.lab, &["cleanup"])?.success(),
            "a second cleanup fails"
        );
        // And a start after that is as good as the first.
        let again = fixture.weft()?;
        ask_tcp(&fixture.client.namespace, web(Family::V6, PEER_PORT))?;
        again.audit().map(drop)
    })
}

#[test]
fn another_run_directory_neither_takes_nor_removes_the_pair() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let loads = fixture.loads(Duration::from_millis(1));
        let config = fixture.lab.directory().join("node.toml");
        let config = config.to_string_lossy();
        let stranger = fixture.lab.directory().join("stranger");
        let other = |words: &[&str]| {
            let program = binaries::weft().context("the node process is not built")?;
            let mut command = fixture.lab.node.command(program);
            command.args(words).arg("--run-dir").arg(&stranger);
            finish(&mut command, Duration::from_secs(10))
        };
        let refused = other(&["run", &config])?;
        ensure!(refused.code() == Some(exit::FAILED), "{refused:?}");
        ensure!(refused.stderr.contains("--run-dir"), "{}", refused.stderr);
        assert_eq!(other(&["owned", "--json"])?.stdout.trim(), "[]");
        ensure!(other(&["cleanup"])?.success(), "cleanup fails");
        progress(&loads, 50)?;
        flawless(loads)?;
        weft.audit().map(drop)
    })
}

#[test]
fn amb02_nothing_in_a_pod_changes_while_weft_runs() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let inside = |program: &str, words: &[&str]| {
            run(fixture.client.namespace.command(program).args(words))
        };
        let state = || -> Result<[String; 4]> {
            Ok([
                inside("ip", &["-d", "addr"])?,
                inside("ip", &["route", "show", "table", "all"])?,
                inside("ethtool", &["-k", "eth0"])?,
                inside("sysctl", &["-a", "-r", "^net\\.ipv[46]\\.conf"])?,
            ])
        };
        // The kernel takes a second or two to find that nobody else has the link-local address.
        wait_until("the pod's addresses", Duration::from_secs(5), || {
            inside("ip", &["addr"]).is_ok_and(|addresses| !addresses.contains("tentative"))
        })?;
        let before = state()?;
        let weft = fixture.weft()?;
        assert_eq!(state()?, before);
        weft.audit().map(drop)
    })
}

#[test]
fn amb09_flushing_every_rule_mid_run_loses_nothing() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        run(fixture
            .lab
            .node
            .command("nft")
            .args(["add", "table", "inet", "somebody"]))?;
        let mut talks = Family::BOTH
            .into_iter()
            .map(|family| Talk::open(&fixture.client.namespace, web(family, PEER_PORT)))
            .collect::<Result<Vec<_>>>()?;
        let loads = fixture.loads(Duration::from_millis(1));
        for _ in 0..5 {
            run(fixture.lab.node.command("nft").args(["flush", "ruleset"]))?;
            progress(&loads, 20)?;
            for talk in &mut talks {
                assert_eq!(talk.ask()?.client, talk.local);
            }
        }
        flawless(loads)?;
        weft.audit().map(drop)
    })
}

#[test]
fn the_control_socket_is_only_roots() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let mode = |path| Ok::<_, std::io::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
        assert_eq!(mode(fixture.lab.run_dir())?, 0o700);
        assert_eq!(mode(fixture.lab.run_dir().join("weft.sock"))?, 0o600);
        // The same command as nobody.
        let command = weft.command(&["status"]);
        let words: Vec<_> = command.get_args().collect();
        let mut nobody = std::process::Command::new("nsenter");
        nobody.args(&words[..2]).args([
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]);
        let finished = finish(nobody.args(&words[2..]), Duration::from_secs(10))?;
        ensure!(
            finished.code() != Some(0),
            "nobody may ask: {}",
            finished.stdout
        );
        ensure!(weft.cli(&["status"])?.success(), "root may not ask");
        Ok(())
    })
}

#[test]
fn silent_clients_of_the_control_socket_keep_nobody_waiting_for_long() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let socket = fixture.lab.run_dir().join("weft.sock");
        let silent = (0..24)
            .map(|_| UnixStream::connect(&socket))
            .collect::<std::io::Result<Vec<_>>>()?;
        let asked = Instant::now();
        weft.json(&["status"])?;
        let took = asked.elapsed();
        ensure!(took < Duration::from_secs(4), "an answer took {took:?}");
        drop(silent);
        Ok(())
    })
}
