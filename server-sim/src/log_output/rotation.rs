//! A log file that is put aside when it is large enough: `name` is the newest, `name.1` the one before it.

use crate::config::LogFile;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct RotatingFile {
    settings: LogFile,
    file: File,
    bytes: u64,
}

impl RotatingFile {
    /// Goes on with the newest file if there is one.
    pub(super) fn open(settings: &LogFile) -> io::Result<Self> {
        if let Some(folder) = settings.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&settings.path)?;
        let bytes = file.metadata()?.len();
        Ok(RotatingFile { settings: settings.clone(), file, bytes })
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.settings.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.settings.files).rev() {
            let from = if number == 1 { self.settings.path.clone() } else { self.numbered(number - 1) };
            match fs::rename(from, self.numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.settings.files == 1 {
            fs::remove_file(&self.settings.path)?;
        }
        *self = RotatingFile::open(&self.settings)?;
        Ok(())
    }
}

/// Each write is one line and lands in one file.
impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes > 0 && self.bytes.saturating_add(line.len() as u64) > self.settings.max_bytes {
            // A log that cannot be put aside goes on growing: better than losing lines.
            let _ = self.rotate();
        }
        self.file.write_all(line)?;
        self.bytes = self.bytes.saturating_add(line.len() as u64);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &tempfile::TempDir, files: u32) -> LogFile {
        LogFile { path: dir.path().join("logs/server.log"), max_bytes: 10, files }
    }

    fn content(settings: &LogFile, suffix: &str) -> Option<String> {
        fs::read_to_string(format!("{}{suffix}", settings.path.display())).ok()
    }

    #[test]
    fn full_files_are_put_aside_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, 3);
        let mut log = RotatingFile::open(&settings).unwrap();
        for line in ["one\n", "two\n", "three\n", "four\n", "a line longer than a file\n", "six\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(content(&settings, "").as_deref(), Some("six\n"));
        assert_eq!(content(&settings, ".1").as_deref(), Some("a line longer than a file\n"));
        assert_eq!(content(&settings, ".2").as_deref(), Some("four\n"));
        assert_eq!(content(&settings, ".3"), None);
        drop(log);
        let mut log = RotatingFile::open(&settings).unwrap();
        log.write_all(b"7\n").unwrap();
        assert_eq!(content(&settings, "").as_deref(), Some("six\n7\n"), "a restart goes on with the newest");
    }

    #[test]
    fn a_single_file_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, 1);
        let mut log = RotatingFile::open(&settings).unwrap();
        for line in ["12345678\n", "new\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(content(&settings, "").as_deref(), Some("new\n"));
        assert_eq!(content(&settings, ".1"), None);
    }

    #[test]
    fn a_log_that_cannot_be_put_aside_loses_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, 2);
        let mut log = RotatingFile::open(&settings).unwrap();
        // A folder with something in it stands where the file would go.
        fs::create_dir_all(settings.path.with_file_name("server.log.1/x")).unwrap();
        for line in ["12345678\n", "more\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(content(&settings, "").as_deref(), Some("12345678\nmore\n"));
    }
}
