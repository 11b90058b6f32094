//! Routes as text, for people.

use std::fmt::Write;

use crate::admin::http::{Explained, Match, Routes};

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
            let _ = writeln!(text, "  {}: {}", route.text, destination(route));
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

/// Where the requests of a match go.
fn destination(route: &Match) -> String {
    if let Some(status) = route.redirect {
        let location = route.location.as_deref().unwrap_or("another URL");
        return format!("redirect {status} to {location}");
    }
    let shares = route.backends.iter().map(|share| {
        let name = share.backend.as_deref().unwrap_or("nobody (500)");
        match route.backends.as_slice() {
            [one] if one.weight > 0 => name.to_owned(),
            _ => format!("{name} weight {}", share.weight),
        }
    });
    let shares: Vec<String> = shares.collect();
    match shares.is_empty() {
        true => "to nobody (500)".into(),
        false => format!("to {}", shares.join(", ")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::http::{ServiceRoutes, Share};

    fn to(route: &str, backends: &[(Option<&str>, u32)], redirect: Option<u16>) -> Match {
        let backends = backends.iter().map(|(backend, weight)| Share {
            backend: backend.map(str::to_owned),
            weight: *weight,
        });
        Match {
            hostname: None,
            path_type: "prefix".into(),
            path: "/".into(),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            route: route.into(),
            rule: 0,
            rule_name: None,
            backends: backends.collect(),
            redirect,
            location: redirect.map(|_| "https://HOST/PATH".into()),
            text: format!("any host, any path -> {route} rule 0"),
        }
    }

    #[test]
    fn routes_say_where_they_lead_and_who_sees_the_client() {
        let service = ServiceRoutes {
            service: "default/web:80".into(),
            vip: "10.96.0.80:80".parse().unwrap(),
            source: "node".into(),
            see_client: vec!["10.1.0.7:8080".parse().unwrap()],
            routes: vec![
                to("a", &[(Some("default/v1:80"), 3)], None),
                to("b", &[(Some("default/v1:80"), 9), (None, 1)], None),
                to("c", &[(Some("default/v1:80"), 0)], None),
                to("d", &[], None),
                to("e", &[], Some(301)),
            ],
            backends: Vec::new(),
        };
        let services = vec![service];
        let expected = "\
default/web:80  10.96.0.80:80  source node
  see the client, for the node has no address towards them: 10.1.0.7:8080
  any host, any path -> a rule 0: to default/v1:80
  any host, any path -> b rule 0: to default/v1:80 weight 9, nobody (500) weight 1
  any host, any path -> c rule 0: to default/v1:80 weight 0
  any host, any path -> d rule 0: to nobody (500)
  any host, any path -> e rule 0: redirect 301 to https://HOST/PATH
  backends: 
";
        assert_eq!(routes(&Routes { services }), expected);
    }
}
