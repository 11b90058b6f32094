//! Routes as text, for people.

use std::fmt::Write;

use crate::admin::http::{Explained, Routes};

/// `weft routes`.
pub(super) fn routes(routes: &Routes) -> String {
    if routes.services.is_empty() {
        return "no service has stage = \"http\"".into();
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    for service in &routes.services {
        let (name, vip, source) = (&service.service, service.vip, &service.source);
        let _ = writeln!(text, "{name}  {vip}  source {source}");
        if !service.see_client.is_empty() {
            let pods: Vec<String> = service.see_client.iter().map(ToString::to_string).collect();
            let pods = pods.join(", ");
            let _ = writeln!(
                text,
                "  see the client, for the node has no address towards them: {pods}"
            );
        }
        for route in &service.routes {
            let _ = writeln!(text, "  {}", route.text);
        }
        let backends = service.backends.iter().map(|backend| {
            let (name, ready, all) = (&backend.backend, backend.ready, backend.endpoints);
            format!("{name} ({ready} of {all} ready)")
        });
        let backends: Vec<String> = backends.collect();
        let _ = writeln!(text, "  backends: {}", backends.join(", "));
    }
    text
}

/// `weft route explain`.
pub(super) fn explained(explained: &Explained) -> String {
    let mut text = format!("{}  {}\n", explained.service, explained.vip);
    for step in &explained.steps {
        let _ = match &step.refusal {
            Some(refusal) => writeln!(text, "  no   {}: {refusal}", step.route),
            None => writeln!(text, "  wins {}", step.route),
        };
    }
    let _ = writeln!(text, "{}", explained.outcome);
    text
}
