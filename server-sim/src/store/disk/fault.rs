//! A disk in memory that fails on command, for tests.

use super::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A disk in memory that forgets what was not synced when it crashes, and fails when told to.
///
/// Clones are the same disk. After a crash every call on the old disk fails, like those of a process that is
/// gone; the disk that was left behind is a new one.
#[doc(hidden)]
#[derive(Debug, Clone, Default)]
pub struct FaultDisk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Inodes; never removed, so that open handles stay readable.
    files: Vec<FileData>,
    /// Names as the running process sees them.
    names: BTreeMap<String, usize>,
    /// Names as they are after a power loss.
    durable_names: BTreeMap<String, usize>,
    crashed: bool,
    hold_syncs: bool,
    waiting_syncs: usize,
    syncs: u64,
    fail_sync: Option<u64>,
    writes: u64,
    fail_write: Option<(u64, usize, io::ErrorKind)>,
    capacity: Option<u64>,
    changes: u64,
    cut_at: Option<u64>,
}

#[derive(Debug, Default, Clone)]
struct FileData {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl FileData {
    fn change(content: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write(offset, data) => {
                let offset = *offset as usize;
                let end = offset + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[offset..end].copy_from_slice(data);
            }
            Change::Truncate(len) => content.resize(*len as usize, 0),
        }
    }
}

impl State {
    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("this disk has crashed")) } else { Ok(()) }
    }

    /// Like [`State::alive`], for what changes the disk.
    fn change(&mut self) -> io::Result<()> {
        self.alive()?;
        if self.cut_at.is_some_and(|cut| self.changes >= cut) {
            self.crashed = true;
            return self.alive();
        }
        self.changes += 1;
        Ok(())
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn used(&self) -> u64 {
        self.names.values().map(|&inode| self.files[inode].current.len() as u64).sum()
    }
}

impl FaultDisk {
    /// An empty disk without limits or faults.
    pub fn new() -> FaultDisk {
        FaultDisk::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power loss: returns the disk with only what was synced; this one is dead.
    pub fn crash(&self) -> FaultDisk {
        self.crash_keeping(|_, _| Some(0))
    }

    /// Power loss before the `n`-th change from now (0 is the next): it and all calls after it fail. What is
    /// left is what [`FaultDisk::crash`] and its like return.
    pub fn cut_at(&self, n: u64) {
        let mut state = self.state();
        state.cut_at = Some(state.changes + n);
    }

    /// True once [`FaultDisk::cut_at`] has happened, or any other crash.
    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Power loss after which files have the names the running process saw, synced or not, and with them
    /// everything that was written or only what was synced.
    pub fn crash_keeping_names(&self, writes: bool) -> FaultDisk {
        {
            let mut state = self.state();
            state.durable_names = state.names.clone();
        }
        self.crash_keeping(|_, len| Some(if writes { len } else { 0 }))
    }

    /// Power loss that spares some unsynced writes. `kept` is asked for each (number, length) in the order in
    /// which they were made and answers how many bytes reached the disk; `None` means all of them.
    pub fn crash_keeping(&self, mut kept: impl FnMut(usize, usize) -> Option<usize>) -> FaultDisk {
        let mut state = self.state();
        state.crashed = true;
        self.shared.changed.notify_all();
        let mut after = State::default();
        let mut number = 0;
        for (name, &inode) in &state.durable_names {
            let file = &state.files[inode];
            let mut content = file.durable.clone();
            for change in &file.unsynced {
                match change {
                    Change::Write(offset, data) => {
                        let bytes = kept(number, data.len()).unwrap_or(data.len()).min(data.len());
                        if bytes > 0 {
                            FileData::change(&mut content, &Change::Write(*offset, data[..bytes].to_vec()));
                        }
                        number += 1;
                    }
                    // Lengths are metadata: journalled with the next sync, lost without one.
                    Change::Truncate(_) => {}
                }
            }
            after.names.insert(name.clone(), after.files.len());
            after.files.push(FileData { durable: content.clone(), current: content, unsynced: Vec::new() });
        }
        after.durable_names = after.names.clone();
        after.capacity = state.capacity;
        FaultDisk { shared: Arc::new(Shared { state: Mutex::new(after), changed: Condvar::new() }) }
    }

    /// A copy of what the running process sees, as if everything had been synced.
    pub fn copy(&self) -> FaultDisk {
        let state = self.state();
        let mut copy = State::default();
        for (name, &inode) in &state.names {
            let content = state.files[inode].current.clone();
            copy.names.insert(name.clone(), copy.files.len());
            copy.files.push(FileData { durable: content.clone(), current: content, unsynced: Vec::new() });
        }
        copy.durable_names = copy.names.clone();
        FaultDisk { shared: Arc::new(Shared { state: Mutex::new(copy), changed: Condvar::new() }) }
    }

    /// Lets the `n`-th sync of file content from now fail (0 is the next); what it should have synced stays
    /// unsynced.
    pub fn fail_sync(&self, n: u64) {
        let mut state = self.state();
        state.fail_sync = Some(state.syncs + n);
    }

    /// Lets the `n`-th write from now fail (0 is the next) after its first `bytes` bytes.
    pub fn fail_write(&self, n: u64, bytes: usize) {
        let mut state = self.state();
        state.fail_write = Some((state.writes + n, bytes, io::ErrorKind::Other));
    }

    /// Like [`FaultDisk::fail_write`], as if the disk had become full.
    pub fn fail_write_as_full(&self, n: u64, bytes: usize) {
        let mut state = self.state();
        state.fail_write = Some((state.writes + n, bytes, io::ErrorKind::StorageFull));
    }

    /// Limits the bytes in all files; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes in all files.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Syncs of file content that returned or are being held.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Keeps every sync of file content from returning until [`FaultDisk::release_syncs`] or a crash.
    pub fn hold_syncs(&self) {
        self.state().hold_syncs = true;
    }

    /// Ends [`FaultDisk::hold_syncs`].
    pub fn release_syncs(&self) {
        self.state().hold_syncs = false;
        self.shared.changed.notify_all();
    }

    /// Syncs being held.
    pub fn waiting_syncs(&self) -> usize {
        self.state().waiting_syncs
    }

    /// Content of a file as the running process sees it.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = state.inode(name).ok()?;
        state.files.get(inode).map(|file| file.current.clone())
    }

    /// Replaces the content of an existing file, durably: decay of the medium.
    pub fn replace(&self, name: &str, content: Vec<u8>) {
        let mut state = self.state();
        if let Ok(inode) = state.inode(name)
            && let Some(file) = state.files.get_mut(inode)
        {
            *file = FileData { durable: content.clone(), current: content, unsynced: Vec::new() };
        }
    }

    fn handle(&self, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(FaultFile { disk: self.clone(), inode })
    }
}

impl Disk for FaultDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.change()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.files.len();
        state.files.push(FileData::default());
        state.names.insert(name.to_owned(), inode);
        Ok(self.handle(inode))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        state.alive()?;
        Ok(self.handle(state.inode(name)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let inode = state.names.remove(from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.names.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn free_space(&self) -> io::Result<u64> {
        let state = self.state();
        state.alive()?;
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }

    fn close(&self) {}
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    inode: usize,
}

impl DiskFile for FaultFile {
    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive()?;
        Ok(state.files[self.inode].current.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        state.alive()?;
        let content = &state.files[self.inode].current;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let found = from.checked_add(buffer.len()).and_then(|end| content.get(from..end));
        buffer.copy_from_slice(found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        let number = state.writes;
        state.writes += 1;
        let (mut written, mut failure) = (data.len(), None);
        if let Some((failing, bytes, kind)) = state.fail_write
            && failing == number
        {
            written = bytes.min(written);
            failure = Some(io::Error::new(kind, "write failed on command"));
        }
        if let Some(capacity) = state.capacity {
            let grown =
                (offset + written as u64).saturating_sub(state.files[self.inode].current.len() as u64);
            let over = (state.used() + grown).saturating_sub(capacity);
            if over > 0 {
                written = written.saturating_sub(over as usize);
                failure = Some(io::ErrorKind::StorageFull.into());
            }
        }
        if written > 0 {
            let change = Change::Write(offset, data[..written].to_vec());
            let file = &mut state.files[self.inode];
            FileData::change(&mut file.current, &change);
            file.unsynced.push(change);
        }
        failure.map_or(Ok(()), Err)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        let file = &mut state.files[self.inode];
        let change = Change::Truncate(len);
        FileData::change(&mut file.current, &change);
        file.unsynced.push(change);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        let number = state.syncs;
        state.syncs += 1;
        // What is synced is what was written before the call.
        let pending = state.files[self.inode].unsynced.len();
        state.waiting_syncs += 1;
        while state.hold_syncs && !state.crashed {
            state = self.disk.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting_syncs -= 1;
        state.alive()?;
        if state.fail_sync == Some(number) {
            return Err(io::Error::other("sync failed on command"));
        }
        let file = &mut state.files[self.inode];
        let synced: Vec<Change> = file.unsynced.drain(..pending.min(file.unsynced.len())).collect();
        for change in &synced {
            FileData::change(&mut file.durable, change);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &FaultDisk, name: &str) -> Option<Vec<u8>> {
        disk.content(name)
    }

    #[test]
    fn a_crash_forgets_what_was_not_synced() {
        let disk = FaultDisk::new();
        let file = disk.create("a").unwrap();
        file.write_at(0, b"kept").unwrap();
        file.sync_data().unwrap();
        disk.sync_dir().unwrap();
        file.write_at(4, b" lost").unwrap();
        disk.create("unseen").unwrap();
        let after = disk.crash();
        assert_eq!(read(&after, "a").unwrap(), b"kept");
        assert_eq!(after.list().unwrap(), ["a"]);
        assert!(file.write_at(0, b"x").is_err() && disk.list().is_err());
    }

    #[test]
    fn a_crash_can_tear_a_write() {
        let disk = FaultDisk::new();
        let file = disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        file.write_at(0, b"abc").unwrap();
        file.write_at(3, b"def").unwrap();
        let after = disk.crash_keeping(|number, _| Some([1, 2][number]));
        assert_eq!(read(&after, "a").unwrap(), b"a\0\0de");
    }

    #[test]
    fn faults_happen_when_told() {
        let disk = FaultDisk::new();
        let file = disk.create("a").unwrap();
        disk.fail_write(1, 1);
        file.write_at(0, b"ab").unwrap();
        assert!(file.write_at(2, b"cd").is_err());
        assert_eq!(read(&disk, "a").unwrap(), b"abc");
        disk.fail_sync(0);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        disk.set_capacity(Some(4));
        assert_eq!(file.write_at(3, b"def").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(read(&disk, "a").unwrap(), b"abcd");
        assert_eq!(disk.free_space().unwrap(), 0);
    }
}
