//! `weft top`: rates for scripts, and the live view in a terminal.

use crate::fixture::{WEB, with_weft};
use crate::http_fixture::{Site, to};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use weft_lab::http::Connection;
use weft_lab::lab::{Family, Lab};
use weft_lab::servers::WEB_PORT;
use weft_lab::wait::wait_for;
use weft_lab::weft::{Weft, exit, offline};

/// Between two requests of the load.
const PACE: Duration = Duration::from_millis(5);
/// What every screen begins and ends with: the terminal's other screen.
const ENTERS: &str = "\u{1b}[?1049h";
const LEAVES: &str = "\u{1b}[?1049l";

#[test]
fn top_says_what_http_and_layer_4_services_do() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let weft = Weft::start(&site.fixture.lab, &site.config("")?)?;
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let (snapshots, seconds) = thread::scope(|scope| -> Result<_> {
            let load = scope.spawn(|| -> Result<()> {
                let namespace = &site.fixture.client.namespace;
                let mut connection = Connection::open(namespace, to(Family::V4))?;
                while !stop.load(Ordering::Relaxed) {
                    ensure!(connection.get("/")?.status == 200);
                    done.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PACE);
                }
                Ok(())
            });
            wait_for("the first requests", Duration::from_secs(5), || {
                (done.load(Ordering::Relaxed) > 10).then_some(())
            })?;
            let (before, began) = (done.load(Ordering::Relaxed), Instant::now());
            let text = weft.text(&["top", "--iterations", "2", "--json"]);
            let seconds = began.elapsed().as_secs_f64();
            let rate = (done.load(Ordering::Relaxed) - before) as f64 / seconds;
            stop.store(true, Ordering::Relaxed);
            load.join()
                .map_err(|_| anyhow::anyhow!("the load panicked"))??;
            let lines = text?;
            let lines = lines.lines().map(serde_json::from_str);
            Ok((lines.collect::<Result<Vec<Value>, _>>()?, rate))
        })?;
        ensure!(snapshots.len() == 2, "{snapshots:?}");
        for snapshot in &snapshots {
            let services = snapshot["services"].as_array().context("no services")?;
            let named = |name: &str| {
                let mut found = services.iter();
                found.find(|service| service["service"] == name)
            };
            let web = named("lab/web:80").context("no lab/web:80")?;
            let seen = web["requests_per_s"].as_f64().context("no rate")?;
            ensure!(
                (0.5 * seconds..2.0 * seconds).contains(&seen),
                "{seen} requests/s are shown of {seconds}: {web}"
            );
            ensure!(web["stage"] == "http" && web["flows"] == 1, "{web}");
            ensure!(web["error_share"] == 0.0, "{web}");
            let (p50, p99) = (web["p50_ms"].as_f64(), web["p99_ms"].as_f64());
            ensure!(p50 > Some(0.0) && p50 <= p99, "{web}");
            ensure!(named("lab/a:80").context("no lab/a:80")?["stage"] == "l4");
            let worker = &snapshot["workers"][0];
            ensure!(worker["received_per_s"].as_f64() > Some(seen), "{worker}");
            let busy = worker["busy"].as_f64().context("no busy share")?;
            ensure!(busy > 0.0 && busy <= 1.0, "{worker}");
        }
        let text = weft.text(&["top", "--once", "--interval", "200ms"])?;
        ensure!(
            text.contains("REQUESTS/S") && text.contains("lab/web:80"),
            "{text}"
        );
        let bad = weft.cli(&["top", "--interval", "1"])?;
        ensure!(
            bad.code() == Some(2) && bad.stderr.contains("unit"),
            "{bad:?}"
        );
        let piped = weft.cli(&["top"])?;
        ensure!(piped.code() == Some(exit::FAILED), "{piped:?}");
        ensure!(piped.stderr.contains("no terminal"), "{piped:?}");
        weft.audit().map(drop)
    })
}

/// `weft top` in a terminal of 100 by 24.
struct Screen {
    script: Child,
    seen: Arc<Mutex<String>>,
}

impl Screen {
    /// `under`: what it runs under, such as `timeout`.
    fn open(lab: &Lab, weft: &Weft, under: &str) -> Result<Self> {
        let (program, dir) = (weft.program().display(), lab.run_dir());
        let run = format!(
            "stty rows 24 cols 100; exec {under} {program} top --interval 200ms --run-dir {}",
            dir.display()
        );
        let mut script = lab
            .node
            .command("script")
            .args(["-qec", &run, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = script.stdout.take().context("no output")?;
        let seen = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = out.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                if let Ok(mut seen) = shared.lock() {
                    seen.push_str(&text);
                }
            }
        });
        Ok(Self { script, seen })
    }

    fn text(&self) -> String {
        self.seen
            .lock()
            .map(|seen| seen.clone())
            .unwrap_or_default()
    }

    fn shows(&self, wanted: &str) -> Result<()> {
        wait_for(wanted, Duration::from_secs(10), || {
            self.text().contains(wanted).then_some(())
        })
        .with_context(|| format!("{:?}", self.text()))
    }

    fn press(&mut self, key: &str) -> Result<()> {
        let keys = self.script.stdin.as_mut().context("no input")?;
        keys.write_all(key.as_bytes())?;
        Ok(keys.flush()?)
    }

    /// Waits for the end. The terminal has to be as it was.
    fn ends(mut self) -> Result<Option<i32>> {
        let code = wait_for("the end of weft top", Duration::from_secs(10), || {
            self.script.try_wait().ok().flatten()
        });
        if code.is_err() {
            self.script.kill()?;
        }
        self.shows(LEAVES)?;
        Ok(code?.code())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.script.kill(); // It has ended, unless the test has failed.
        let _ = self.script.wait();
    }
}

#[test]
fn top_draws_on_a_terminal_and_gives_it_back() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let lab = &site.fixture.lab;
        let mut weft = Weft::start(lab, &site.config("")?)?;
        let mut screen = Screen::open(lab, &weft, "")?;
        for text in [ENTERS, "SERVICE", "lab/web:80", "WORKER"] {
            screen.shows(text)?;
        }
        screen.press("?")?;
        screen.shows("PgUp,")?; // A word: blanks that are there already are not drawn.
        screen.press("?")?;
        ensure!(weft.stop()?.success());
        screen.shows("no node process answers")?;
        let mut later = site.config("")?;
        later.service("zzz", WEB + 6, &[("tcp", 80, WEB_PORT)]);
        let mut weft = Weft::start(lab, &later)?;
        screen.shows("lab/zzz:80")?;
        ensure!(weft.stop()?.success());
        screen.press("q")?;
        assert_eq!(screen.ends()?, Some(0));
        assert_eq!(
            offline(lab, &["top", "--once"])?.code(),
            Some(exit::UNREACHABLE)
        );

        let weft = Weft::start(lab, &site.config("")?)?;
        let ended = Screen::open(lab, &weft, "timeout --foreground 2")?;
        ended.shows("SERVICE")?;
        assert_eq!(ended.ends()?, Some(124), "SIGTERM by timeout(1)");
        Ok(())
    })
}
