//! Many TCP connections at once, on one thread with epoll: what a proxy is asked for.
//!
//! A connection is that of [`super::crr`]: a request of 64 bytes, as many back, and the server closes.

mod client;
mod server;

pub use client::connections;
pub use server::serve;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

    #[test]
    fn every_connection_of_a_crowd_is_served_and_counted_once() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener));
        let found = connections(to, 32, 400, Duration::from_secs(10)).unwrap();
        assert_eq!((found.count, found.failed), (400, 0));
    }

    #[test]
    fn a_server_that_says_nothing_is_a_failure_and_not_a_hang() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let to = listener.local_addr().unwrap();
        let error = connections(to, 2, 2, Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("does not serve"), "{error:#}");
    }
}
