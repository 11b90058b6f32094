//! Commands that work without a node process.

use std::fs;
use std::path::PathBuf;

use super::{Exit, failed, print_json, print_text, refused, table};
use crate::admin::view::refusals;
use crate::admin::{self, Answer, ClientError, Request};
use crate::control::checked;
use crate::node;
use crate::rundir::RunDir;
use crate::upgrade::{Accepted, Checked};

/// Runs a future to its end on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future))
}

/// `weft check`.
pub(super) fn check(files: &[PathBuf], programs: bool, json: bool) -> Exit {
    let interfaces = match block_on(node::interfaces()) {
        Ok(Ok(interfaces)) => interfaces,
        Ok(Err(error)) => return failed(&error),
        Err(error) => return failed(&error),
    };
    let config = match checked(files, None, &interfaces) {
        Ok(config) => config,
        Err(errors) => return refused(&refusals(&errors), json),
    };
    if programs {
        let _ = weft_xdp::give_way(); // A node process that asks before an upgrade may be at real-time priority.
        if let Err(error) = weft_xdp::try_programs() {
            return failed(&error);
        }
    }
    let (pods, services) = (config.pods.len(), config.services.len());
    if json {
        print_json(&Checked {
            accepted: Accepted { pods, services },
            version: env!("CARGO_PKG_VERSION").into(),
            map_layout: Some(weft_xdp::MAP_LAYOUT),
        });
    } else {
        let (pods, services) = (count(pods, "pod"), count(services, "service"));
        print_text(&format!("accepted: {pods}, {services}"));
    }
    Exit::Ok
}

/// How many of what.
fn count(number: usize, what: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {what}{ending}")
}

/// `weft owned`.
pub(super) fn owned(dir: &RunDir, json: bool) -> Exit {
    // Pins are seen from everywhere, and number interfaces of the node's network namespace: who is in another one cannot name them.
    let elsewhere = dir.holder().filter(|pid| is_elsewhere(*pid));
    let told = elsewhere.map(|pid| (pid, admin::ask(&dir.socket(), &Request::Owned)));
    let owned = match told {
        Some((_, Ok(Answer::Owned(owned)))) => owned,
        Some((pid, Ok(_) | Err(ClientError::Broken { .. }))) => {
            eprintln!(
                "weft: the node process is in another network namespace and does not answer: try nsenter --net=/proc/{pid}/ns/net weft owned"
            );
            return Exit::Failed;
        }
        // Nobody is there: a process that has the number by now, perhaps.
        Some((_, Err(ClientError::Unreachable { .. }))) | None => match node::owned(dir) {
            Ok(owned) => owned,
            Err(error) => return failed(&error),
        },
    };
    if json {
        print_json(&owned);
    } else {
        print_text(&table::owned(&owned));
    }
    Exit::Ok
}

/// Whether the process is in another network namespace than this one.
fn is_elsewhere(pid: u32) -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let there = namespace(&pid.to_string());
    there.is_some() && there != namespace("self")
}

/// `weft cleanup`.
pub(super) fn cleanup(dir: &RunDir, json: bool) -> Exit {
    let before = match node::owned(dir) {
        Ok(before) => before,
        Err(error) => return failed(&error),
    };
    let lock = match dir.lock_to_clean() {
        Ok(lock) => lock,
        Err(error) => return failed(&error),
    };
    dir.await_guard();
    // While the hooks are still there to tell the peers.
    let reset = weft_xdp::reset_orphans(dir.pins(), || true);
    let cleaned = weft_xdp::cleanup(dir.pins());
    lock.remove();
    if let Err(error) = cleaned {
        return failed(&error);
    }
    if let Err(error) = reset {
        return failed(&error); // All is gone, but somebody may still wait.
    }
    if json {
        print_json(&serde_json::json!({ "removed": before }));
    } else if before.is_empty() {
        print_text("nothing to remove");
    } else {
        print_text(&format!("removed:\n{}", table::owned(&before)));
    }
    Exit::Ok
}
