//! A configuration that is read again while the node process runs.

use std::sync::Arc;
use std::time::Instant;

use super::{Node, chain, interfaces, start};
use crate::admin::{Answer, micros, view};
use crate::{config, worker};

impl Node {
    /// All of it, or nothing.
    pub(super) async fn reload(&mut self) -> Answer {
        let began = Instant::now();
        let interfaces = match interfaces().await {
            Ok(interfaces) => interfaces,
            Err(error) => return Answer::Failed(chain(&error)),
        };
        let earlier = Arc::clone(self.control.config());
        let (interfaces, config) = match start::read(&self.files, Some(earlier), interfaces).await {
            Ok(read) => read,
            Err(error) => return Answer::Failed(chain(&error)),
        };
        let config = match config {
            Ok(config) => config,
            Err(errors) => {
                self.last_refusal = errors.iter().map(ToString::to_string).collect();
                for error in &errors {
                    tracing::error!("reload refused: {error}");
                }
                return Answer::Refused(view::refusals(&errors));
            }
        };
        let restart: Vec<String> = config::restart_keys(&self.launched, &config)
            .into_iter()
            .map(Into::into)
            .collect();
        let parse = began.elapsed();
        let accepted = Instant::now();
        match self.control.apply(config, &interfaces, worker::now()) {
            Ok(change) => {
                let switch = accepted.elapsed();
                self.reloads.parse.record(parse);
                self.reloads.switch.record(switch);
                self.control.collect_retired(); // Now that it is live.
                self.restart_needed = restart.clone();
                self.last_refusal.clear();
                let generation = self.control.tables().load().generation;
                tracing::info!(
                    generation,
                    ?parse,
                    ?switch,
                    enrolled = ?change.enrolled,
                    draining = ?change.draining,
                    waiting_for_restart = ?restart,
                    "reloaded"
                );
                Answer::Reloaded(view::Reloaded {
                    generation,
                    parse_us: micros(parse),
                    switch_us: micros(switch),
                    enrolled: change.enrolled,
                    draining: change.draining,
                    restart_needed: restart,
                })
            }
            Err(error) => {
                let reason = format!(
                    "reload failed, the old configuration stays: {}",
                    chain(&error)
                );
                self.last_refusal = vec![reason.clone()];
                Answer::Failed(reason)
            }
        }
    }
}
