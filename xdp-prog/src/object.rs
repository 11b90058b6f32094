//! Other BPF object files, attached the way Weft attaches its own: for benchmarks and labs.

use std::path::Path;
use std::{fs, io};

use libbpf_rs::{Link, MapCore, MapFlags, Object, ObjectBuilder, Program};

use crate::edge::link::{attach_tcx, attach_xdp_native};
use crate::maps::into_io;

/// Why an object file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The file.
    #[error("cannot read the BPF object")]
    Read(#[source] io::Error),
    /// The kernel refused it.
    #[error("cannot load the BPF object")]
    Load(#[source] libbpf_rs::Error),
    /// No such program or map in it.
    #[error("the BPF object has no {kind} `{name}`")]
    Missing {
        /// "program" or "map".
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The attach.
    #[error("cannot attach `{program}` to interface {ifindex}")]
    Attach {
        /// The program.
        program: String,
        /// The interface.
        ifindex: u32,
        /// Why not.
        source: io::Error,
    },
    /// A map of it.
    #[error("cannot read map `{name}`")]
    Map {
        /// The map.
        name: String,
        /// Why not.
        source: io::Error,
    },
}

/// A loaded object. What it attached is detached when it is dropped.
#[derive(Debug)]
pub struct ProgramObject {
    links: Vec<Link>,
    object: Object,
}

impl ProgramObject {
    /// Loads an object file.
    pub fn open(path: &Path) -> Result<Self, ObjectError> {
        Self::load(&fs::read(path).map_err(ObjectError::Read)?)
    }

    /// Loads an object from memory.
    pub fn load(bytes: &[u8]) -> Result<Self, ObjectError> {
        let object = ObjectBuilder::default()
            .open_memory(bytes)
            .and_then(|open| open.load())
            .map_err(ObjectError::Load)?;
        Ok(Self {
            links: Vec::new(),
            object,
        })
    }

    /// Attaches a program to a tcx hook; its section must name the same one (`tcx/ingress`, `tcx/egress`).
    pub fn attach_tcx(&mut self, program: &str, ifindex: u32) -> Result<(), ObjectError> {
        let error = |source| ObjectError::Attach {
            program: program.to_owned(),
            ifindex,
            source,
        };
        let link = attach_tcx(&self.program(program)?, ifindex).map_err(error)?;
        self.links.push(link);
        Ok(())
    }

    /// Attaches a program as native XDP. The link is pinned at `pin`, and stays until that file is gone.
    pub fn attach_xdp(&self, program: &str, ifindex: u32, pin: &Path) -> Result<(), ObjectError> {
        let error = |source| ObjectError::Attach {
            program: program.to_owned(),
            ifindex,
            source,
        };
        attach_xdp_native(&self.program(program)?, ifindex, pin).map_err(error)?;
        Ok(())
    }

    /// The `u64` at `index` of an array, summed over CPUs if it is a per-CPU one.
    pub fn counter(&self, map: &str, index: u32) -> Result<u64, ObjectError> {
        let missing = || ObjectError::Missing {
            kind: "map",
            name: map.to_owned(),
        };
        let found = self
            .object
            .maps()
            .find(|found| found.name() == map)
            .ok_or_else(missing)?;
        let word = |value: &Vec<u8>| Some(u64::from_ne_bytes(*value.first_chunk()?));
        let key = index.to_ne_bytes();
        let value = if found.map_type().is_percpu() {
            found
                .lookup_percpu(&key, MapFlags::ANY)
                .map(|cpus| cpus.map(|cpus| cpus.iter().filter_map(word).sum()))
        } else {
            found
                .lookup(&key, MapFlags::ANY)
                .map(|value| value.as_ref().and_then(word))
        };
        value
            .map_err(|error| ObjectError::Map {
                name: map.to_owned(),
                source: into_io(&error),
            })?
            .ok_or_else(missing)
    }

    /// The loaded object, for anything else.
    pub fn object(&self) -> &Object {
        &self.object
    }

    fn program(&self, name: &str) -> Result<Program<'_>, ObjectError> {
        self.object
            .progs()
            .find(|program| program.name() == name)
            .ok_or_else(|| ObjectError::Missing {
                kind: "program",
                name: name.to_owned(),
            })
    }
}
