//! The command line: what a person types, and the exit codes that a script reads.

mod args;
mod offline;
mod routes;
mod table;
mod top;
mod upgrade;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use args::{Command, Common, LbCommand, LogFormat, Place, RouteCommand};
use clap::Parser;

pub use args::Cli;

use crate::admin::view::{Refusal, refusals};
use crate::admin::{self, Answer, Request};
use crate::guard;
use crate::node;
use crate::rundir::RunDir;

/// How a command ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All well.
    Ok = 0,
    /// Something failed at run time.
    Failed = 1,
    /// The configuration or the new program was refused and nothing changed. (2 is clap's: wrong usage.)
    Refused = 3,
    /// No node process answers.
    Unreachable = 4,
    /// The audit found packets that are not accounted for.
    Unbalanced = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    // A reader that leaves early (`weft flows | head`) is no failure of ours.
    match Cli::parse().command {
        Command::Run {
            files,
            log_format,
            place,
        } => run(&files, log_format, &place),
        Command::Check {
            files,
            programs,
            common,
        } => offline::check(&files, programs, common.json),
        Command::Upgrade { binary, common } => upgrade::upgrade(&common, binary.as_deref()),
        Command::Reload { common } => ask(&common, &Request::Reload),
        Command::Status { audit, common } => {
            let traffic = false;
            ask(&common, &Request::Status { audit, traffic })
        }
        Command::Top { options, common } => top::top(&options, &common),
        Command::Lb {
            command: LbCommand::List { vip, common },
        } => ask(&common, &Request::LbList { vip }),
        Command::Flows { common } => ask(&common, &Request::Flows),
        Command::Routes { service, common } => ask(&common, &Request::Routes { service }),
        Command::Route {
            command:
                RouteCommand::Explain {
                    method,
                    url,
                    headers,
                    service,
                    common,
                },
        } => ask(
            &common,
            &Request::Explain {
                method,
                url,
                headers,
                service,
            },
        ),
        Command::Owned { common } => match RunDir::new(&common.place.run_dir) {
            Ok(dir) => offline::owned(&dir, common.json),
            Err(error) => failed(&error),
        },
        Command::Guard {
            parent,
            log_format,
            place,
        } => {
            logs(log_format);
            match RunDir::new(&place.run_dir) {
                Ok(dir) => return guard::watch(&dir, parent),
                Err(error) => failed(&error),
            }
        }
        Command::Cleanup { common } => match RunDir::new(&common.place.run_dir) {
            Ok(dir) => offline::cleanup(&dir, common.json),
            Err(error) => failed(&error),
        },
    }
    .into()
}

/// Says what failed.
fn failed(error: &dyn std::error::Error) -> Exit {
    eprintln!("weft: {}", node::chain(error));
    Exit::Failed
}

fn logs(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => logs.with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

fn run(files: &[PathBuf], format: LogFormat, place: &Place) -> Exit {
    logs(format);
    let dir = match RunDir::new(&place.run_dir) {
        Ok(dir) => dir,
        Err(error) => return failed(&error),
    };
    let name = match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    match node::run(files, &dir, name) {
        Ok(()) => Exit::Ok,
        Err(node::Error::Config(errors)) => refused(&refusals(&errors), false),
        Err(error) => {
            tracing::error!("{}", node::chain(&error));
            Exit::Failed
        }
    }
}

/// Prints configuration errors: lines to standard error, or JSON to standard output.
fn refused(errors: &[Refusal], json: bool) -> Exit {
    if json {
        print_json(&serde_json::json!({ "refused": errors }));
    } else {
        for error in errors {
            eprintln!("{error}");
        }
    }
    Exit::Refused
}

fn print_json(value: &impl serde::Serialize) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // Write errors here mean that the reader has left.
    if serde_json::to_writer_pretty(&mut out, value).is_ok() {
        let _ = writeln!(out);
    }
}

fn print_text(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    for line in text.trim_end().lines() {
        // Tables fill their last column up with spaces.
        if writeln!(out, "{}", line.trim_end()).is_err() {
            return;
        }
    }
}

fn ask(common: &Common, request: &Request) -> Exit {
    let dir = match RunDir::new(&common.place.run_dir) {
        Ok(dir) => dir,
        Err(error) => return failed(&error),
    };
    match admin::ask(&dir.socket(), request) {
        Ok(answer) => show(&answer, common.json),
        Err(error) => {
            failed(&error);
            Exit::Unreachable
        }
    }
}

fn show(answer: &Answer, json: bool) -> Exit {
    let exit = match answer {
        Answer::Refused(errors) => return refused(errors, json),
        Answer::NotUpgraded(refused) if json => {
            print_json(&serde_json::json!({ "not_upgraded": refused }));
            return Exit::Refused;
        }
        Answer::NotUpgraded(refused) => {
            eprintln!("weft: not upgraded: {} {}", refused.binary, refused.reason);
            return Exit::Refused;
        }
        Answer::Failed(reason) => {
            eprintln!("weft: {reason}");
            return Exit::Failed;
        }
        Answer::Status(status) if status.audit.as_ref().is_some_and(|a| !a.balanced) => {
            Exit::Unbalanced
        }
        _ => Exit::Ok,
    };
    match answer {
        Answer::Status(status) if json => print_json(status),
        Answer::Status(status) => print_text(&table::status(status)),
        Answer::LbList(list) if json => print_json(list),
        Answer::LbList(list) => print_text(&table::services(list)),
        Answer::Flows(flows) if json => print_json(flows),
        Answer::Flows(flows) => print_text(&table::flows(flows)),
        Answer::Routes(routes) if json => print_json(routes),
        Answer::Routes(routes) => print_text(&routes::routes(routes)),
        Answer::Explained(explained) if json => print_json(explained),
        Answer::Explained(explained) => print_text(&routes::explained(explained)),
        Answer::Metrics(text) => print_text(text),
        Answer::Owned(owned) if json => print_json(owned),
        Answer::Owned(owned) => print_text(&table::owned(owned)),
        Answer::Reloaded(reloaded) if json => print_json(reloaded),
        Answer::Reloaded(reloaded) => print_text(&table::reloaded(reloaded)),
        Answer::Upgrading(_) | Answer::NotUpgraded(_) | Answer::Refused(_) | Answer::Failed(_) => {}
    }
    exit
}
