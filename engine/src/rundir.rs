//! The run directory: the admin socket, the locks that make a node process the only one, and the
//! name under which everything is pinned.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock, major, minor};
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
    /// The process of another run directory that has the same last component, in whichever network namespace, has the pins.
    #[error(
        "{path}: its pins {pins} are in use by the process of another run directory{}: stop it, or give a --run-dir with another last \
         component",
        command(.holder)
    )]
    PinsTaken {
        /// The directory.
        path: PathBuf,
        /// Its pins.
        pins: PathBuf,
        /// The process that holds them, if it can be seen from here.
        holder: Option<u32>,
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

/// The same, and what it was started as: that says which run directory it has.
fn command(pid: &Option<u32>) -> String {
    let Some(pid) = pid else {
        return String::new();
    };
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    format!(" (pid {pid}: {})", words.trim_end())
}

/// The process that has a lock on the file, as far as the kernel says.
fn locker(file: &File) -> Option<u32> {
    let file = file.metadata().ok()?;
    let [major, minor] = [major(file.dev()), minor(file.dev())];
    let inode = format!("{major:02x}:{minor:02x}:{}", file.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // As in `1: FLOCK ADVISORY WRITE 4711 00:27:73702030 0 EOF`.
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(4);
        let pid = words.next()?.parse().ok();
        pid.filter(|_| words.next() == Some(&inode))
    })
}

/// Whether the file is what has the path now.
fn is_at(file: &File, path: &Path) -> bool {
    let there = std::fs::metadata(path);
    let [there, file] = [there, file.metadata()].map(|file| file.map(|f| (f.dev(), f.ino())));
    there.is_ok_and(|there| file.is_ok_and(|file| there == file))
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { path, source }
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

    /// Makes the directory (0700) and that of the pins if they are missing and takes their locks, which the kernel drops with
    /// the process. The BPF file system has to be there.
    ///
    /// # Errors
    /// When another node process holds one, or the file system refuses.
    pub fn lock(&self) -> Result<Lock, Error> {
        self.lock_with(Pins::Made)
    }

    /// As [`Self::lock`], for who takes all of it away: pins that are not there stay so.
    ///
    /// # Errors
    /// As with [`Self::lock`].
    pub fn lock_to_clean(&self) -> Result<Lock, Error> {
        self.lock_with(Pins::AsTheyAre)
    }

    fn lock_with(&self, pins: Pins) -> Result<Lock, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(io(&self.path))?;
        let path = self.lock_file();
        let file = OpenOptions::new()
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
        if !is_at(&file, &path) {
            return self.lock_with(pins);
        }
        let mut lock = Lock {
            file,
            pins: None,
            dir: self.clone(),
        };
        match self.lock_pins(pins) {
            Ok(pins) => lock.pins = pins,
            Err(error) => {
                lock.remove();
                return Err(error);
            }
        }
        lock.file.set_len(0).map_err(io(&path))?;
        writeln!(lock.file, "{}", std::process::id()).map_err(io(&path))?;
        Ok(lock)
    }

    /// Takes the lock of the pins' directory, which those share that see the same pins: another run directory's processes, too.
    fn lock_pins(&self, pins: Pins) -> Result<Option<File>, Error> {
        let path = self.pins();
        // Bound: every other turn takes another process that leaves.
        loop {
            let made = match pins {
                Pins::Made => std::fs::create_dir(path),
                Pins::AsTheyAre => Ok(()),
            };
            made.or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(io(path)(error)),
            })?;
            let directory = match File::open(path) {
                Ok(directory) => directory,
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io(path)(error));
                }
                Err(_) if pins == Pins::AsTheyAre => return Ok(None),
                Err(_) => continue,
            };
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&directory, path) => return Ok(Some(directory)),
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Error::PinsTaken {
                        path: self.path.clone(),
                        pins: path.into(),
                        holder: locker(&directory),
                    });
                }
                Err(error) => return Err(io(path)(error.into())),
            }
        }
    }

    /// Goes on with the locks that the program before this one in the same process has left.
    ///
    /// # Errors
    /// When one is not this directory's, and that one cannot be had.
    pub fn keep(&self, file: File, pins: Option<File>) -> Result<Lock, Error> {
        if !is_at(&file, &self.lock_file()) {
            drop((file, pins));
            return self.lock();
        }
        let pins = match pins.filter(|pins| is_at(pins, self.pins())) {
            Some(pins) => Some(pins),
            None => match self.lock_pins(Pins::Made) {
                // By a descriptor that a program between, which knew of no such lock, has left open.
                Err(Error::PinsTaken { holder, .. }) if holder == Some(std::process::id()) => None,
                locked => locked?,
            },
        };
        let dir = self.clone();
        Ok(Lock { file, pins, dir })
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

/// What becomes of a directory of pins that is missing.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Pins {
    Made,
    AsTheyAre,
}

/// The right to be the node process of a run directory, and of the pins that it names.
#[derive(Debug)]
pub struct Lock {
    file: File,
    pins: Option<File>,
    dir: RunDir,
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Lock {
    /// What holds the pins.
    pub fn pins(&self) -> Option<BorrowedFd<'_>> {
        self.pins.as_ref().map(AsFd::as_fd)
    }

    /// Removes what the node process put there, as its last act.
    pub fn remove(self) {
        if self.pins.is_some() {
            let _ = std::fs::remove_dir(self.dir.pins()); // Fails when something is pinned.
        }
        let _ = std::fs::remove_file(self.dir.socket());
        let _ = std::fs::remove_file(self.dir.guard_file());
        let _ = std::fs::remove_file(self.dir.lock_file());
        let _ = std::fs::remove_dir(&self.dir.path); // Fails when somebody else's file is in it.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run directories whose pins are in another place than the BPF file system.
    fn named(base: &Path, path: &str, pins: &str) -> RunDir {
        RunDir {
            path: base.join(path),
            pins: base.join(pins),
        }
    }

    #[test]
    fn a_run_directory_belongs_to_one_process_at_a_time() {
        let base = tempfile::tempdir().unwrap();
        let dir = named(base.path(), "weft", "pins");
        let lock = dir.lock().unwrap();
        let refused = dir.lock().unwrap_err();
        let expected = format!("a node process runs here (pid {})", std::process::id());
        assert!(refused.to_string().contains(&expected), "{refused}");
        drop(lock);
        dir.lock().unwrap().remove();
        assert!(!dir.path().exists() && !dir.pins().exists());
    }

    #[test]
    fn pins_belong_to_one_run_directory_at_a_time() {
        let base = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|path| named(base.path(), path, "pins"));
        let lock = a.lock().unwrap();
        for refused in [b.lock(), b.lock_to_clean()] {
            let refused = refused.unwrap_err().to_string();
            let program = std::env::args().next().unwrap();
            let expected = format!("(pid {}: {program}", std::process::id());
            assert!(refused.contains(&expected), "{refused}");
            assert!(!b.path().exists() && a.pins().exists());
        }
        drop(lock);
        std::fs::write(a.pins().join("config"), "").unwrap();
        b.lock().unwrap().remove();
        assert!(a.pins().exists(), "what is pinned was not ours to remove");
    }

    #[test]
    fn who_cleans_up_makes_no_pins() {
        let base = tempfile::tempdir().unwrap();
        let dir = named(base.path(), "weft", "pins");
        let lock = dir.lock_to_clean().unwrap();
        assert!(lock.pins().is_none() && !dir.pins().exists());
        lock.remove();
    }

    #[test]
    fn locks_are_kept_by_the_next_program() {
        let base = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|path| named(base.path(), path, "pins"));
        let Lock { file, pins, .. } = a.lock().unwrap();
        let kept = a.keep(file, pins).unwrap();
        assert!(matches!(b.lock(), Err(Error::PinsTaken { .. })));
        // The program before knew of no lock of the pins.
        let Lock { file, pins, .. } = kept;
        drop(pins);
        let kept = a.keep(file, None).unwrap();
        assert!(matches!(b.lock(), Err(Error::PinsTaken { .. })));
        // And the one before that did: its descriptor is open.
        let Lock { file, pins, .. } = kept;
        let kept = a.keep(file, None).unwrap();
        assert!(kept.pins().is_none() && pins.is_some());
        kept.remove();
    }

    #[test]
    fn pins_are_named_after_the_directory() {
        let dir = RunDir::new(Path::new("/run/weft-a")).unwrap();
        assert_eq!(dir.pins(), Path::new("/sys/fs/bpf/weft-a"));
        assert!(RunDir::new(Path::new("/")).is_err());
        assert!(RunDir::new(Path::new("/run/weft.a")).is_err());
    }
}
