//! `weft upgrade` that comes to nothing: nothing changes, or as little as can be.

use crate::fixture::{Fixture, REAL_TIME, go_on, progress, talks, with_weft};
use crate::upgrade::{config, copy, unharmed, upgrade};
use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use weft_lab::wait::wait_until;
use weft_lab::weft::{Weft, exit};

/// A program in the lab's directory.
fn program(weft: &Weft, name: &str, text: &str) -> Result<PathBuf> {
    let path = weft.directory().join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn a_refused_upgrade_changes_nothing() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = Weft::start_under(&fixture.lab, &config(&fixture, "off"), &REAL_TIME)?;
        let mut talks = talks(&fixture, 20)?;
        let loads = fixture.loads(Duration::from_millis(2));
        let started = weft.log().matches("ready").count();
        let other = r#"{"accepted":{"pods":1,"services":1},"version":"9.9.9","map_layout":9999}"#;
        let old = r#"{"accepted":{"pods":1,"services":1}}"#;
        let refused = [
            ("missing", None, "cannot be found"),
            ("closed", Some(""), "is not executable"),
            ("odd", Some("\x7fELF"), "cannot be started"),
            (
                "other",
                Some(&*format!("#!/bin/sh\necho '{other}'\n")),
                "map layout 9999",
            ),
            (
                "old",
                Some(&*format!("#!/bin/sh\necho '{old}'\n")),
                "does not say which layout",
            ),
            (
                "failing",
                Some("#!/bin/sh\necho why not >&2\nexit 1\n"),
                "why not",
            ),
        ];
        for (name, text, expected) in refused {
            let path = weft.directory().join(name);
            if let Some(text) = text {
                program(&weft, name, text)?;
            }
            if name == "closed" {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
            }
            let words = ["--binary", &*path.to_string_lossy()];
            let finished = weft.upgrade(&words)?;
            ensure!(
                finished.code() == Some(exit::REFUSED),
                "{name}: {finished:?}"
            );
            let said: serde_json::Value = serde_json::from_str(&finished.stdout)?;
            let reason = said["not_upgraded"]["reason"].as_str().unwrap_or_default();
            ensure!(reason.contains(expected), "{name}: {said}");
            let finished = weft.cli(&["upgrade", words[0], words[1]])?;
            ensure!(finished.stderr.contains(expected), "{name}: {finished:?}");
        }
        // Files that the next start would not take.
        let file = weft.directory().join("node.toml");
        let good = fs::read_to_string(&file)?;
        fs::write(&file, good.replacen("poll = \"adaptive\"", "poll = 7", 1))?;
        let finished = weft.cli(&["upgrade"])?;
        ensure!(finished.code() == Some(exit::REFUSED), "{finished:?}");
        ensure!(
            finished.stderr.contains("node.toml:") && finished.stderr.contains("poll"),
            "{finished:?}"
        );
        fs::write(&file, good)?;
        // Flows in user space are the proof that nobody has stopped.
        go_on(&mut talks)?;
        progress(&loads, 50)?;
        unharmed(loads)?;
        ensure!(
            weft.log().matches("ready").count() == started,
            "{}",
            weft.log()
        );
        ensure!(weft.json(&["status"])?["upgrade"].is_null(), "an upgrade");
        weft.audit().map(drop)
    })
}

/// The program passes its check, and is gone when the workers have stopped.
#[test]
fn a_program_that_cannot_be_executed_leaves_the_old_one_at_work() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = Weft::start(&fixture.lab, &config(&fixture, "full"))?;
        let pid = weft.pid()?;
        let mut talks = talks(&fixture, 20)?;
        let loads = fixture.loads(Duration::from_millis(2));
        progress(&loads, 20)?;
        // What interprets it goes with its check.
        let shell = weft.directory().join("shell");
        fs::copy("/bin/sh", &shell)?;
        let shell = shell.display();
        let text = format!(
            "#!{shell}\nrm {shell}\nexec {} \"$@\"\n",
            weft.program().display()
        );
        let path = program(&weft, "vanishing", &text)?;
        let finished = weft.upgrade(&["--binary", &path.to_string_lossy()])?;
        ensure!(
            finished.code() == Some(exit::FAILED),
            "{finished:?}\n{}",
            weft.log()
        );
        ensure!(
            finished.stderr.contains("cannot be executed"),
            "{finished:?}"
        );
        let said: serde_json::Value = serde_json::from_str(&finished.stdout)?;
        ensure!(
            said["failed"].is_string() && said["flows_kept"].as_u64() >= Some(20),
            "{said}"
        );
        go_on(&mut talks)?;
        progress(&loads, 50)?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm"))?;
        ensure!(weft.pid()? == pid && name.trim() == "weft", "{name}");
        // It still knows where it is from.
        let said = upgrade(&weft, &[])?;
        ensure!(
            said["binary"] == *weft.program().to_string_lossy(),
            "{said}"
        );
        go_on(&mut talks)?;
        unharmed(loads)?;
        weft.audit().map(drop)
    })
}

/// It can be executed, but ends at once: as after a crash, and the next start takes over.
#[test]
fn a_program_that_ends_leaves_flows_to_the_next_start() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let config = config(&fixture, "full");
        let mut weft = Weft::start(&fixture.lab, &config)?;
        let mut talks = talks(&fixture, 20)?;
        let loads = fixture.loads(Duration::from_millis(2));
        let real = weft.program().display().to_string();
        // Without the files, the program itself is refused its start.
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = check ] && exec {real} \"$@\"\nexec {real} run --run-dir \"$3\" /nowhere.toml\n"
        );
        let path = program(&weft, "ending", &text)?;
        let finished = weft.upgrade(&["--binary", &path.to_string_lossy()])?;
        ensure!(finished.code() == Some(exit::UNREACHABLE), "{finished:?}");
        ensure!(finished.stderr.contains("its log says why"), "{finished:?}");
        let ended = weft.wait(Duration::from_secs(5))?;
        ensure!(
            ended.code() == Some(exit::REFUSED),
            "{ended:?}\n{}",
            weft.log()
        );
        progress(&loads, 50)?;
        go_on(&mut talks)?;
        drop(weft);
        let weft = Weft::start(&fixture.lab, &config)?;
        ensure!(weft.log().contains("flows taken over"), "{}", weft.log());
        go_on(&mut talks)?;
        progress(&loads, 50)?;
        unharmed(loads)?;
        weft.audit().map(drop)
    })
}

/// While one is being checked another one and a reload are refused, and its client may leave.
#[test]
fn upgrades_come_one_after_another_and_do_not_need_their_client() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = Weft::start(&fixture.lab, &config(&fixture, "full"))?;
        let pid = weft.pid()?;
        let mut talks = talks(&fixture, 20)?;
        let new = copy(&weft)?;
        // It checks for as long as there is a gate.
        let gate = fixture.lab.directory().join("gate");
        let checks = fixture.lab.directory().join("checks");
        let text = format!(
            "#!/bin/sh\nif [ \"$1\" = check ]; then\n\
             touch {}\nwhile [ -e {} ]; do sleep 0.1; done\nfi\nexec {} \"$@\"\n",
            checks.display(),
            gate.display(),
            new.display()
        );
        let slow = program(&weft, "slow", &text)?;
        let slow = slow.to_string_lossy();
        let start = || -> Result<_> {
            fs::write(&gate, [])?;
            let client = weft.command(&["upgrade", "--binary", &slow]).spawn()?;
            wait_until("the check", Duration::from_secs(10), || {
                fs::remove_file(&checks).is_ok()
            })?;
            Ok(client)
        };
        let mut client = start()?;
        for words in [&["upgrade"][..], &["reload"]] {
            let finished = weft.cli(words)?;
            ensure!(
                finished.code() == Some(exit::FAILED),
                "{words:?}: {finished:?}"
            );
            ensure!(
                finished.stderr.contains("an upgrade is under way"),
                "{finished:?}"
            );
        }
        weft.json(&["status"])?; // That changes nothing.
        kill_process(Pid::from_child(&client), Signal::TERM)?; // Or by Ctrl-C, which tests in the background may ignore.
        ensure!(!client.wait()?.success(), "the client went on");
        fs::remove_file(&gate)?;
        wait_until("the upgrade", Duration::from_secs(30), || {
            let status = weft.json(&["status"]);
            status.is_ok_and(|status| !status["upgrade"].is_null())
        })?;
        ensure!(weft.pid()? == pid, "another process");
        go_on(&mut talks)?;
        // One that is asked to end while it checks does not wait for it.
        let mut client = start()?;
        let mut weft = weft;
        let ended = weft.stop()?;
        ensure!(ended.success() && !client.wait()?.success(), "{ended:?}");
        Ok(())
    })
}
