//! What a store needs of a disk, and the disk of this machine.
//!
//! Everything the embedded store reads or writes goes through [`Disk`], so that a test can lose power, tear a
//! write or fail a sync at any point ([`FaultDisk`]).

mod fault;
mod local;

pub use fault::FaultDisk;
pub use local::LocalDisk;

use std::fmt;
use std::io;
use std::sync::Arc;

/// One flat directory of files. All calls block.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Creates an empty file; fails if the name is taken. Survives a power loss only after [`Disk::sync_dir`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; whoever has it open can still read it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes that can still be written.
    fn free_space(&self) -> io::Result<u64>;

    /// Called before an opened store is changed for the first time: if the directory was written in an older
    /// format, older versions must not open it from now on.
    fn settle_format(&self) -> io::Result<()> {
        Ok(())
    }

    /// Gives up exclusive use of the directory; nothing is called afterwards.
    fn close(&self);
}

/// An open file of a [`Disk`]. All calls block.
pub trait DiskFile: Send + Sync + fmt::Debug + 'static {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// True if there is nothing in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`, growing the file if needed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Cuts or grows (with zeros) the file to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes content and length durable.
    fn sync_data(&self) -> io::Result<()>;
}
