//! The run directory: the admin socket, the lock that makes a node process the only one, and the
//! name under which everything is pinned.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

/// Where BPF objects are pinned.
const BPFFS: &str = "/sys/fs/bpf";

/// How long the guard of a dead process may take to see that somebody takes over: it looks every 20 ms.
const GUARD_PATIENCE: Duration = Duration::from_secs(1);

/// Why a run directory cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// The path has no last component to name the pins by.
    #[error("{0}: a run directory needs a name, such as /run/weft")]
    Nameless(PathBuf),
    /// The BPF file system keeps names with dots for itself.
    #[error("{0}: the last component of a run directory names its pins, and must have no dot")]
    Dotted(PathBuf),
    /// Another node process holds it.
    #[error("{path}: a node process runs here{}; stop it, or give another --run-dir", process(.pid))]
    Taken {
        /// The directory.
        path: PathBuf,
        /// The process, as far as it said.
        pid: Option<u32>,
    },
    /// The file system refused.
    #[error("{path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn process(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// The paths of a node process.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
    pins: PathBuf,
}

impl RunDir {
    /// The run directory at `path`, which need not exist.
    ///
    /// # Errors
    /// When the path has no last component, or one with a dot.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::Nameless(path.into()))?;
        if name.as_encoded_bytes().contains(&b'.') {
            return Err(Error::Dotted(path.into()));
        }
        Ok(Self {
            path: path.into(),
            pins: Path::new(BPFFS).join(name),
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.path.join("weft.sock")
    }

    /// The directory of the BPF file system that holds the pinned maps and links.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    fn guard_file(&self) -> PathBuf {
        self.path.join("guard")
    }

    /// The process that has the lock or had it when it died; `None` once it is cleaned up.
    pub fn holder(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.lock_file()).ok()?;
        text.trim().parse().ok()
    }

    /// Says that a guard is there, for as long as the file is held.
    ///
    /// # Errors
    /// When there is another, or the file system refuses.
    pub fn guarded(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true);
        let file = file.open(self.guard_file())?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    /// Waits for the guard of a former process, which ends as soon as it sees that the lock is ours.
    pub fn await_guard(&self) {
        let deadline = Instant::now() + GUARD_PATIENCE;
        while let Ok(file) = File::open(self.guard_file()) {
            let free = flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
            if free || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes the directory (0700) if it is missing and takes its lock, which the kernel drops with
    /// the process.
    ///
    /// # Errors
    /// When another node process holds it, or the file system refuses.
    pub fn lock(&self) -> Result<Lock, Error> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source: io::Error| Error::Io { path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(io(&self.path))?;
        let path = self.lock_file();
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(io(&path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::Taken {
                    path: self.path.clone(),
                    pid: self.holder(),
                });
            }
            Err(error) => return Err(io(&path)(error.into())),
        }
        // A process that was just leaving may have unlinked the file under us. Bound: every other
        // turn takes another process that leaves.
        if !self.is_lock(&file) {
            return self.lock();
        }
        file.set_len(0).map_err(io(&path))?;
        writeln!(file, "{}", std::process::id()).map_err(io(&path))?;
        Ok(Lock {
            file,
            dir: self.clone(),
        })
    }

    /// Goes on with the lock that the program before this one in the same process has left.
    ///
    /// # Errors
    /// When it is not this directory's, and that one cannot be had.
    pub fn keep(&self, file: File) -> Result<Lock, Error> {
        if self.is_lock(&file) {
            return Ok(Lock {
                file,
                dir: self.clone(),
            });
        }
        drop(file);
        self.lock()
    }

    fn is_lock(&self, file: &File) -> bool {
        let there = std::fs::metadata(self.lock_file());
        let [there, file] = [there, file.metadata()].map(|file| file.map(|f| (f.dev(), f.ino())));
        there.is_ok_and(|there| file.is_ok_and(|file| there == file))
    }

    /// The files and directories that are there.
    pub fn existing(&self) -> Vec<PathBuf> {
        [
            self.path.clone(),
            self.socket(),
            self.lock_file(),
            self.guard_file(),
        ]
        .into_iter()
        .filter(|path| path.exists())
        .collect()
    }
}

/// The right to be the node process of a run directory.
#[derive(Debug)]
pub struct Lock {
    file: File,
    dir: RunDir,
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Lock {
    /// Removes what the node process put there, as its last act.
    pub fn remove(self) {
        let _ = std::fs::remove_file(self.dir.socket());
        let _ = std::fs::remove_file(self.dir.guard_file());
        let _ = std::fs::remove_file(self.dir.lock_file());
        let _ = std::fs::remove_dir(&self.dir.path); // Fails when somebody else's file is in it.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_belongs_to_one_process_at_a_time() {
        let base = tempfile::tempdir().unwrap();
        let dir = RunDir::new(&base.path().join("weft")).unwrap();
        let lock = dir.lock().unwrap();
        let refused = dir.lock().unwrap_err();
        let expected = format!("a node process runs here (pid {})", std::process::id());
        assert!(refused.to_string().contains(&expected), "{refused}");
        drop(lock);
        dir.lock().unwrap().remove();
        assert!(!dir.path().exists());
    }

    #[test]
    fn pins_are_named_after_the_directory() {
        let dir = RunDir::new(Path::new("/run/weft-a")).unwrap();
        assert_eq!(dir.pins(), Path::new("/sys/fs/bpf/weft-a"));
        assert!(RunDir::new(Path::new("/")).is_err());
        assert!(RunDir::new(Path::new("/run/weft.a")).is_err());
    }
}
