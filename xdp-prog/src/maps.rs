//! Maps with the types of their keys and values.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::edge::batch::SizedMap;

/// A map operation that failed, or a map that is not what its name says.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The kernel refused an operation.
    #[error("BPF map `{map}`: {operation}")]
    Operation {
        /// The map.
        map: String,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Pinned by something else, or by another version.
    #[error("BPF map `{map}`: {key}+{value} bytes an element, not {expected_key}+{expected_value}")]
    Layout {
        /// The map.
        map: String,
        /// Its key size.
        key: u32,
        /// Its value size.
        value: u32,
        /// The key size that this version uses.
        expected_key: usize,
        /// The value size that this version uses.
        expected_value: usize,
    },
}

/// Bytes that may cross to the kernel and back.
pub(crate) trait Plain: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy> Plain for T {}

/// A hash map or array whose elements have these types.
#[derive(Debug)]
pub(crate) struct TypedMap<K, V> {
    map: MapHandle,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> TypedMap<K, V> {
    /// Takes a map over, if its elements have the right sizes.
    pub(crate) fn new(map: MapHandle) -> Result<Self, MapError> {
        if map.key_size() as usize != size_of::<K>() || map.value_size() as usize != size_of::<V>()
        {
            return Err(MapError::Layout {
                map: map.name().to_string_lossy().into_owned(),
                key: map.key_size(),
                value: map.value_size(),
                expected_key: size_of::<K>(),
                expected_value: size_of::<V>(),
            });
        }
        Ok(Self {
            map,
            types: PhantomData,
        })
    }

    /// Opens a pinned map.
    pub(crate) fn open(path: &Path) -> Result<Self, MapError> {
        let map = MapHandle::from_pinned_path(path).map_err(|error| MapError::Operation {
            map: path.display().to_string(),
            operation: "open",
            source: into_io(&error),
        })?;
        Self::new(map)
    }

    /// Another handle to the same map.
    pub(crate) fn duplicate(&self) -> Result<Self, MapError> {
        let map = MapHandle::try_from(&self.map).map_err(|error| self.error("duplicate", error))?;
        Ok(Self {
            map,
            types: PhantomData,
        })
    }

    pub(crate) fn insert(&self, key: &K, value: &V) -> Result<(), MapError> {
        self.map
            .update(key.as_bytes(), value.as_bytes(), MapFlags::ANY)
            .map_err(|error| self.error("insert", error))
    }

    /// Inserts unless the key is there. True if it was not.
    pub(crate) fn insert_new(&self, key: &K, value: &V) -> Result<bool, MapError> {
        match self
            .map
            .update(key.as_bytes(), value.as_bytes(), MapFlags::NO_EXIST)
        {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == libbpf_rs::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(self.error("insert", error)),
        }
    }

    pub(crate) fn lookup(&self, key: &K) -> Result<Option<V>, MapError> {
        let value = self
            .map
            .lookup(key.as_bytes(), MapFlags::ANY)
            .map_err(|error| self.error("look up", error))?;
        Ok(value.and_then(|bytes| V::read_from_bytes(&bytes).ok()))
    }

    /// Removes a key. False if it was not there.
    pub(crate) fn remove(&self, key: &K) -> Result<bool, MapError> {
        match self.map.delete(key.as_bytes()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.error("remove", error)),
        }
    }

    /// Calls `element` for every element of a hash map.
    pub(crate) fn for_each(&self, element: impl FnMut(K, V)) -> Result<(), MapError> {
        self.sized()
            .scan(element)
            .map_err(|source| MapError::Operation {
                map: self.name(),
                operation: "scan",
                source,
            })
    }

    /// The map for batches.
    pub(crate) fn sized(&self) -> SizedMap<'_> {
        SizedMap::new(self.map.as_fd(), size_of::<K>(), size_of::<V>())
    }

    pub(crate) fn handle(&self) -> &MapHandle {
        &self.map
    }

    pub(crate) fn name(&self) -> String {
        self.map.name().to_string_lossy().into_owned()
    }

    fn error(&self, operation: &'static str, error: libbpf_rs::Error) -> MapError {
        MapError::Operation {
            map: self.name(),
            operation,
            source: into_io(&error),
        }
    }
}

/// The same error as an [`io::Error`]. libbpf-rs keeps the errno to itself; its kind and its text come
/// along.
pub(crate) fn into_io(error: &libbpf_rs::Error) -> io::Error {
    use libbpf_rs::ErrorKind;
    let kind = match error.kind() {
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
        ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
        ErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("{error:#}"))
}
