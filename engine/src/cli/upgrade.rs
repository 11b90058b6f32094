//! `weft upgrade`: asks for it, and waits for what comes of it.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Common, Exit, failed, print_json, print_text, show, table};
use crate::admin::view::Upgraded;
use crate::admin::{self, Answer, ClientError, Request};
use crate::rundir::RunDir;

/// How long there may be nobody to ask: the new program waits for its clients, so the process has ended, and a service
/// manager starts it again within that time or not at all.
const ABSENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(50);

pub(super) fn upgrade(common: &Common, binary: Option<&Path>) -> Exit {
    let dir = match RunDir::new(&common.place.run_dir) {
        Ok(dir) => dir,
        Err(error) => return failed(&error),
    };
    // The node process has a working directory of its own.
    let binary: Option<PathBuf> = match binary.map(std::path::absolute).transpose() {
        Ok(binary) => binary,
        Err(error) => return failed(&error),
    };
    let socket = dir.socket();
    let upgrading = match admin::ask(&socket, &Request::Upgrade { binary }) {
        Ok(Answer::Upgrading(upgrading)) => upgrading,
        Ok(answer) => return show(&answer, common.json),
        Err(error) => {
            failed(&error);
            return Exit::Unreachable;
        }
    };
    match outcome(&socket, upgrading.id) {
        Ok(Some(upgraded)) => tell(&upgraded, common.json),
        Ok(None) => {
            eprintln!(
                "weft: {} has ended, and the node process was started again since: its log says why",
                upgrading.binary
            );
            Exit::Failed
        }
        Err(error) => {
            failed(&error);
            eprintln!(
                "weft: the node process has ended, or {} does not get ready: its log says why. Unless it was told to end, the maps \
                 are there and flows of the fast path go on; `weft run` takes over",
                upgrading.binary
            );
            Exit::Unreachable
        }
    }
}

/// Asks whoever runs now. `None`: it knows of no such upgrade.
fn outcome(socket: &Path, id: u64) -> Result<Option<Upgraded>, ClientError> {
    let mut since: Option<Instant> = None;
    // Bound: the time that nobody answers, or one long answer.
    loop {
        match admin::ask(
            socket,
            &Request::Status {
                audit: false,
                traffic: false,
            },
        ) {
            Ok(Answer::Status(status)) => {
                return Ok(status.upgrade.filter(|upgrade| upgrade.id == id));
            }
            Ok(_) => {} // Too busy to say: again.
            Err(error) if since.is_some_and(|since| since.elapsed() >= ABSENCE) => {
                return Err(error);
            }
            Err(_) => {}
        }
        since.get_or_insert_with(Instant::now);
        thread::sleep(AGAIN);
    }
}

fn tell(upgraded: &Upgraded, json: bool) -> Exit {
    if json {
        print_json(upgraded);
    } else {
        print_text(&table::upgraded(upgraded));
    }
    match &upgraded.failed {
        None => Exit::Ok,
        Some(reason) => {
            eprintln!("weft: {reason}; the program of before was started again");
            Exit::Failed
        }
    }
}
