//! A directory of this machine.

use super::{Disk, DiskFile};
use crate::store::{Result, StoreError};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Names the layout of the directory. Whoever changes the layout so that an older version would misread it raises
/// the number. 1: segments only, all read at start. 2: compacted segments, indexes, snapshots in varints, many
/// trims in one frame.
const FORMAT_FILE: &str = "format";
const FORMAT_TEMPORARY: &str = "format.tmp";
const FORMAT_PREFIX: &str = "hstream-server store format ";
const FORMAT_NUMBER: u32 = 2;
/// Older formats are read; the directory has the current one as soon as something is changed in it.
const OLDEST_FORMAT: u32 = 1;
const LOCK_FILE: &str = "lock";

/// A directory used by this process alone.
#[derive(Debug)]
pub struct LocalDisk {
    path: PathBuf,
    lock: Mutex<Option<File>>,
    /// The format file names an older format than what is written from now on.
    outdated: AtomicBool,
}

impl LocalDisk {
    /// Opens the directory, creating it if it is missing, and locks it until [`Disk::close`] or drop.
    ///
    /// # Errors
    /// [`StoreError::Io`] with one sentence that says what to do: the directory is in use by another process,
    /// cannot be written, was written by a newer version, or holds files that are not ours. Nothing in it is
    /// changed then.
    pub fn open(path: impl AsRef<Path>) -> Result<LocalDisk> {
        let path = path.as_ref().to_path_buf();
        let shown = path.display();
        let refused = |what: &str, error: io::Error| {
            StoreError::Io(format!("store directory {shown}: cannot {what}: {error}"))
        };
        fs::create_dir_all(&path).map_err(|error| refused("create it", error))?;
        let names = names_in(&path).map_err(|error| refused("read it", error))?;
        let has_format = names.iter().any(|name| name == FORMAT_FILE);
        let foreign =
            names.iter().find(|name| ![LOCK_FILE, FORMAT_TEMPORARY, "lost+found"].contains(&name.as_str()));
        if let (false, Some(foreign)) = (has_format, foreign) {
            return Err(StoreError::Io(format!(
                "store directory {shown} holds files that are not a store's (\"{foreign}\" for one); \
                 choose an empty directory"
            )));
        }
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK_FILE))
            .map_err(|error| refused("write to it", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Io(format!(
                    "store directory {shown} is in use by another running server; stop it or choose another directory"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(refused("lock it", error)),
        }
        let disk =
            LocalDisk { path: path.clone(), lock: Mutex::new(Some(lock)), outdated: AtomicBool::new(false) };
        // Read again: another process may have created the store before we had the lock.
        match fs::read(path.join(FORMAT_FILE)) {
            Ok(text) => {
                let number = check_format(&text).map_err(|what| {
                    StoreError::Io(format!("store directory {shown} {what}; it was left untouched"))
                })?;
                disk.outdated.store(number < FORMAT_NUMBER, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.write_format().map_err(|error| refused("write to it", error))?;
            }
            Err(error) => return Err(refused("read its format file", error)),
        }
        Ok(disk)
    }

    fn write_format(&self) -> io::Result<()> {
        let temporary = self.path.join(FORMAT_TEMPORARY);
        let mut file = File::create(&temporary)?;
        file.write_all(format!("{FORMAT_PREFIX}{FORMAT_NUMBER}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.path.join(FORMAT_FILE))?;
        self.sync_dir()?;
        // The directory itself may be new, too.
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }
}

fn names_in(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn check_format(text: &[u8]) -> Result<u32, String> {
    let text = String::from_utf8_lossy(text);
    let number = text.trim_end().strip_prefix(FORMAT_PREFIX).and_then(|number| number.parse::<u32>().ok());
    match number {
        Some(number @ OLDEST_FORMAT..=FORMAT_NUMBER) => Ok(number),
        Some(number) if number > FORMAT_NUMBER => Err(format!(
            "was written by a newer version (format {number}, this one knows {FORMAT_NUMBER}); use that version"
        )),
        Some(number) => Err(format!("has format {number}, this version needs {FORMAT_NUMBER}")),
        None => Err("has a format file this version does not understand".into()),
    }
}

impl Disk for LocalDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))?;
        Ok(Arc::new(LocalFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(LocalFile(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = names_in(&self.path)?;
        names.retain(|name| ![FORMAT_FILE, FORMAT_TEMPORARY, LOCK_FILE].contains(&name.as_str()));
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn free_space(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.path)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn settle_format(&self) -> io::Result<()> {
        if self.outdated.load(Ordering::Relaxed) {
            self.write_format()?;
            self.outdated.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    fn close(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[derive(Debug)]
struct LocalFile(File);

impl DiskFile for LocalFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        LocalDisk::open(path).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_second_opener_is_refused_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = LocalDisk::open(dir.path()).unwrap();
        assert!(refusal(dir.path()).contains("in use by another running server"));
        first.close();
        LocalDisk::open(dir.path()).unwrap();
    }

    #[test]
    fn a_directory_with_foreign_files_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "precious").unwrap();
        assert!(refusal(dir.path()).contains("thesis.txt"));
        assert_eq!(names_in(dir.path()).unwrap(), ["thesis.txt"]);
    }

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(LocalDisk::open(dir.path()).unwrap());
        fs::write(dir.path().join(FORMAT_FILE), format!("{FORMAT_PREFIX}7\n")).unwrap();
        assert!(refusal(dir.path()).contains("newer version (format 7"));
        fs::write(dir.path().join(FORMAT_FILE), "something else").unwrap();
        assert!(refusal(dir.path()).contains("does not understand"));
        assert_eq!(fs::read_to_string(dir.path().join(FORMAT_FILE)).unwrap(), "something else");
    }

    #[test]
    fn an_older_format_is_taken_and_raised_only_when_something_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let older = format!("{FORMAT_PREFIX}1\n");
        fs::write(dir.path().join(FORMAT_FILE), &older).unwrap();
        let format = || fs::read_to_string(dir.path().join(FORMAT_FILE)).unwrap();
        let disk = LocalDisk::open(dir.path()).unwrap();
        assert_eq!(format(), older);
        disk.settle_format().unwrap();
        assert_eq!(format(), format!("{FORMAT_PREFIX}{FORMAT_NUMBER}\n"));
        drop(disk);
        fs::write(dir.path().join(FORMAT_FILE), format!("{FORMAT_PREFIX}0\n")).unwrap();
        assert!(refusal(dir.path()).contains("has format 0"));
    }

    #[test]
    fn a_path_that_cannot_be_a_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(refusal(&file.join("store")).contains("cannot create it"));
    }

    #[test]
    fn a_stop_while_creating_leaves_a_directory_that_can_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK_FILE), "").unwrap();
        fs::write(dir.path().join(FORMAT_TEMPORARY), "hst").unwrap();
        LocalDisk::open(dir.path()).unwrap();
    }

    #[test]
    fn files_are_listed_without_our_own_bookkeeping() {
        let dir = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(dir.path()).unwrap();
        let file = disk.create("a").unwrap();
        file.write_at(2, b"xyz").unwrap();
        let mut back = [9; 5];
        disk.open("a").unwrap().read_at(0, &mut back).unwrap();
        assert_eq!(&back, b"\0\0xyz");
        assert_eq!(disk.list().unwrap(), ["a"]);
        assert!(disk.free_space().unwrap() > 0);
    }
}
