//! Why a request ended as it did, where not by an answer of the backend's.

use http::StatusCode;

use crate::list::list;

list! {
    /// Why a response is the node's own, or is cut short. `flag as usize` indexes the counters.
    Flag {
        /// No rule matches: 404.
        NoRoute = "no_route",
        /// The rule's backend does not exist, or all its weights are 0: 500.
        InvalidBackend = "invalid_backend",
        /// The backend has no endpoint that takes requests: 503.
        NoEndpoint = "no_endpoint",
        /// As many connections, requests or waiting requests as may be: 503.
        Overflow = "overflow",
        /// No connection to the endpoint could be opened: 503.
        ConnectFailed = "connect_failed",
        /// The endpoint did not answer the connection in time: 504.
        ConnectTimeout = "connect_timeout",
        /// The endpoint ended or reset the connection before its response's header: 502.
        UpstreamClosed = "upstream_closed",
        /// The endpoint's answer is no sound HTTP: 502.
        UpstreamProtocol = "upstream_protocol",
        /// The endpoint took longer than `backend_request`: 504.
        BackendTimeout = "backend_timeout",
        /// The request took longer than `request`: 504, or a response cut short.
        RequestTimeout = "request_timeout",
        /// The endpoint's response broke off within its body: the client's connection or stream is reset.
        UpstreamCut = "upstream_cut",
        /// The client was gone before the response was complete.
        ClientGone = "client_gone",
        /// The client's request was refused for its form: a status of [`crate::Reject`].
        ClientProtocol = "client_protocol",
        /// The client took too long over its request: 408; or, in HTTP/2, over the response, whose stream is reset.
        ClientTimeout = "client_timeout",
        /// The stage ended first: the connection is reset.
        Stopped = "stopped",
    }
}

impl Flag {
    /// What the client is answered, if it still can be.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::InvalidBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoEndpoint | Self::Overflow | Self::ConnectFailed | Self::Stopped => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::UpstreamClosed | Self::UpstreamProtocol | Self::UpstreamCut => {
                StatusCode::BAD_GATEWAY
            }
            Self::ConnectTimeout | Self::BackendTimeout | Self::RequestTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::ClientGone | Self::ClientProtocol => StatusCode::BAD_REQUEST,
            Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// What Envoy's access log calls it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoRoute => "NR",
            Self::InvalidBackend => "NC",
            Self::NoEndpoint => "UH",
            Self::Overflow => "UO",
            Self::ConnectFailed | Self::ConnectTimeout => "UF",
            Self::UpstreamClosed | Self::UpstreamCut => "UC",
            Self::UpstreamProtocol => "UPE",
            Self::BackendTimeout | Self::RequestTimeout => "UT",
            Self::ClientGone | Self::ClientTimeout => "DC",
            Self::ClientProtocol => "DPE",
            Self::Stopped => "LR",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reject;

    #[test]
    fn every_name_is_documented() {
        let text = include_str!("../../../docs/l7.md");
        let names = Flag::ALL.map(Flag::name);
        for name in names.iter().chain(&Reject::ALL.map(Reject::name)) {
            assert!(
                text.contains(&format!("`{name}`")),
                "docs/l7.md lacks {name}"
            );
        }
    }
}
