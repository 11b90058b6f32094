//! Filters of a rule: what is changed of a header, and redirects.

use http::header::{self, HeaderMap};
use http::{HeaderName, HeaderValue, StatusCode};

use super::{Scheme, host::strip_port};

/// Changes of a header, in this order: set, add, remove (GatewayAPI `HTTPHeaderFilter`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HeaderModifier {
    /// Fields that get this value, in place of any they had.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Field lines that are added to those there are.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Fields that go.
    pub remove: Vec<HeaderName>,
}

impl HeaderModifier {
    /// Applies it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// The first field that no filter may touch: it would change how the message is framed, or to whom it was sent.
    pub fn reserved(&self) -> Option<&HeaderName> {
        let set = self.set.iter().chain(&self.add).map(|(name, _)| name);
        set.chain(&self.remove).find(|name| {
            [
                header::CONNECTION,
                header::CONTENT_LENGTH,
                header::HOST,
                header::TE,
                header::TRAILER,
                header::TRANSFER_ENCODING,
                header::UPGRADE,
            ]
            .contains(name)
        })
    }
}

/// A redirect (GatewayAPI `HTTPRequestRedirectFilter`); path and query stay as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// To this scheme; else the one of the request.
    pub scheme: Option<Scheme>,
    /// To this host; else the one of the request.
    pub hostname: Option<String>,
    /// To this port; else that of the scheme if that is given, else the one that the request came to.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

impl Redirect {
    /// Where to: the value of `Location` for a plaintext request to `authority`, which came to `port`. `None` if that cannot
    /// be said in a header.
    pub fn location(
        &self,
        authority: &str,
        port: u16,
        path_and_query: &str,
    ) -> Option<HeaderValue> {
        let scheme = self.scheme.unwrap_or(Scheme::Http);
        let host = self.hostname.as_deref().unwrap_or(strip_port(authority));
        let port = self.port.unwrap_or_else(|| match self.scheme {
            Some(scheme) => scheme.port(),
            None => port,
        });
        let name = scheme.name();
        let url = if port == scheme.port() {
            format!("{name}://{host}{path_and_query}")
        } else {
            format!("{name}://{host}:{port}{path_and_query}")
        };
        HeaderValue::try_from(url).ok()
    }

    pub(super) fn has_status(&self) -> bool {
        matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308)
    }
}
