//! A panic on demand, for the lab that proves it contained. Release builds do not have it.
//!
//! Nothing that a pod can send asks for one: it takes the environment that the process was started with, and a file of the node's.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::{env, fs, io};

use weft_l7::{ConnectRequest, Upstreams};

use super::stream::{HttpStream, Wishes};

/// The environment variable that names the file.
const VARIABLE: &str = "WEFT_TEST_PANIC";

/// What asks the worker for connections to endpoints, and panics instead when the file is there.
pub(super) struct Faulty {
    wishes: Wishes,
    file: Option<PathBuf>,
}

impl Faulty {
    pub(super) fn from_environment(wishes: Wishes) -> Self {
        let file = env::var_os(VARIABLE).map(PathBuf::from);
        Self { wishes, file }
    }

    /// Panics where the file holds this VIP and its port, once: the file goes.
    fn strike(&self, vip: SocketAddr) {
        let Some(file) = &self.file else { return };
        let meant = fs::read_to_string(file).is_ok_and(|text| text.trim() == vip.to_string());
        let struck = meant && fs::remove_file(file).is_ok();
        assert!(!struck, "asked for by {VARIABLE}");
    }
}

impl Upstreams<HttpStream> for Faulty {
    fn connect(&mut self, request: &ConnectRequest) -> io::Result<HttpStream> {
        self.strike(request.client.vip);
        self.wishes.connect(request)
    }
}
