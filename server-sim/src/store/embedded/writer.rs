//! The one thread that writes: takes what has gathered, writes it at once, syncs, then tells everybody.

use super::Shared;
use super::frame::{HEADER_LEN, Header, Kind, Place};
use super::queue::{BatchItem, Control, ControlItem, Item};
use super::segment_id::SegmentId;
use super::segments::{Segment, Segments};
use super::shard::{Entry, Shard};
use super::snapshot::{encode_ids, encode_snapshot, encode_specs, encode_trims};
use crate::store::disk::Disk;
use crate::store::{Result, StoreError};
use std::io;
use std::sync::Arc;

/// A segment is at least this many times as long as the state of all shards that it begins with, so that a large
/// state is not most of what is written.
const TIMES_ITS_START: u64 = 8;
/// A state up to this length does not lengthen segments.
const SMALL_START: u64 = 1 << 20;
/// No segment is planned to grow beyond this; offsets have 32 bits.
const LONGEST_SEGMENT: u64 = 3 << 30;

/// Writes the log until the queue ends.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    active: Segment,
    /// Where the next group goes.
    len: u64,
    /// The segment is full at this length.
    full: u64,
    buffer: Vec<u8>,
}

/// Why a group was not written.
enum Failure {
    /// Nothing of it is in the log; go on.
    Refused(StoreError),
    /// Nobody knows what is in the log.
    Fatal(StoreError),
}

/// A frame of the group being written.
struct Placed {
    item: Item,
    offset: u32,
}

impl Writer {
    /// A writer that continues `active` at `len`.
    pub fn new(shared: Arc<Shared>, active: Segment, len: u64) -> Writer {
        let full = full_length(&shared, segment_start_len(&shared.encode_snapshot()));
        Writer { shared, active, len, full, buffer: Vec::new() }
    }

    /// Works until the queue is closed or something fails for good.
    pub fn run(mut self) {
        // However this ends, nobody is left waiting.
        let _ending = Ending(Arc::clone(&self.shared));
        while let Some(items) = self.shared.queue.take(self.shared.options.group_bytes) {
            if let Err(error) = self.write_group(items) {
                tracing::error!(segment = self.active.id.number, offset = self.len, %error, "the log takes no more writes");
                self.shared.stop(error);
                return;
            }
        }
        if self.shared.queue.stopped().is_none()
            && let Err(error) = self.write_closing_snapshot()
        {
            // Everything acknowledged is durable; the snapshot only makes the next start surer.
            tracing::warn!(%error, "the log was closed without its closing snapshot");
        }
        self.shared.stop(StoreError::Closed);
    }

    /// Writes a group and answers everybody in it. An error means that the log must not be written again.
    fn write_group(&mut self, items: Vec<Item>) -> Result<()> {
        let mut items: Vec<Item> = items.into_iter().filter(is_wanted).collect();
        if items.is_empty() {
            return Ok(());
        }
        if self.len >= self.full {
            match self.roll() {
                Ok(()) => {}
                // The old segment can still take the group if there is room for it.
                Err(Failure::Refused(error)) => {
                    tracing::warn!(%error, "no new segment yet");
                    // Not with every group: putting the state of all shards together takes time.
                    self.full = self.len + u64::from(self.shared.options.segment_bytes / 16);
                }
                Err(Failure::Fatal(error)) => return Err(fail(items, error)),
            }
        }
        let bytes: usize = items.iter().map(Item::bytes).sum();
        if let Some(error) = self.lacks_space(bytes as u64) {
            items = self.refuse_batches(items, &error);
            if items.is_empty() {
                return Ok(());
            }
        }
        match self.write_items(&items) {
            Ok(offsets) => {
                let placed = items.into_iter().zip(offsets).map(|(item, offset)| Placed { item, offset });
                self.apply(placed.collect())
            }
            Err(Failure::Refused(error)) => {
                let rest = self.refuse_batches(items, &error);
                fail(rest, error);
                Ok(())
            }
            Err(Failure::Fatal(error)) => Err(fail(items, error)),
        }
    }

    /// Says so if writing `bytes` would eat into the reserve.
    fn lacks_space(&self, bytes: u64) -> Option<StoreError> {
        let reserve = self.shared.options.reserve_bytes;
        // If the disk cannot tell, the write itself will.
        let free = self.shared.disk.free_space().ok()?;
        (free < bytes.saturating_add(reserve)).then(|| {
            StoreError::DiskFull(format!(
                "{free} bytes are free and {reserve} are kept for trims and checkpoints; trim or delete streams, \
                 or give it more space"
            ))
        })
    }

    /// Fails the batches among `items`; returns the rest.
    fn refuse_batches(&self, items: Vec<Item>, error: &StoreError) -> Vec<Item> {
        let mut rest = Vec::new();
        for item in items {
            match item {
                Item::Batch(batch) => batch.shard.fail_generation(batch.generation, error),
                Item::Control(_) => rest.push(item),
            }
        }
        rest
    }

    /// Writes and syncs; returns the offset of each frame.
    fn write_items(&mut self, items: &[Item]) -> Result<Vec<u32>, Failure> {
        let group_start = self.offset(self.len)?;
        self.buffer.clear();
        let mut offsets = Vec::with_capacity(items.len());
        for item in items {
            let offset = self.offset(self.len + self.buffer.len() as u64)?;
            let place = self.active.place(offset);
            match item {
                Item::Batch(batch) => {
                    self.buffer.extend_from_slice(&batch_header(batch, group_start).encode(place));
                    self.buffer.extend_from_slice(&batch.bytes);
                }
                Item::Control(item) => {
                    let (header, body) = control_frame(&item.control, group_start);
                    self.buffer.extend_from_slice(&header.encode(place));
                    self.buffer.extend_from_slice(&body);
                }
            }
            offsets.push(offset);
        }
        self.commit_buffer()?;
        // One huge batch must not hold its memory for ever.
        self.buffer.shrink_to(self.shared.options.group_bytes.saturating_mul(2));
        Ok(offsets)
    }

    fn offset(&self, at: u64) -> Result<u32, Failure> {
        u32::try_from(at).map_err(|_| {
            Failure::Refused(StoreError::DiskFull("no room for another segment of the log".into()))
        })
    }

    /// Makes the buffer durable at the end of the active segment.
    fn commit_buffer(&mut self) -> Result<(), Failure> {
        if let Err(error) = self.active.file.write_at(self.len, &self.buffer) {
            let full = error.kind() == io::ErrorKind::StorageFull;
            // Taking back what was written of it leaves the log as it was.
            if full && self.active.file.truncate(self.len).is_ok() {
                return Err(Failure::Refused(StoreError::DiskFull(error.to_string())));
            }
            return Err(Failure::Fatal(StoreError::Poisoned(format!("writing the log failed: {error}"))));
        }
        // After a failed sync the kernel may call lost pages clean: never try again.
        self.active.file.sync_data().map_err(|error| {
            Failure::Fatal(StoreError::Poisoned(format!("syncing the log failed: {error}")))
        })?;
        self.len += self.buffer.len() as u64;
        Ok(())
    }

    /// Takes in what is durable now.
    fn apply(&mut self, group: Vec<Placed>) -> Result<()> {
        let (mut done, mut freed) = (Vec::new(), false);
        for Placed { item, offset } in group {
            match item {
                Item::Batch(batch) => self.apply_batch(&batch, offset),
                Item::Control(item) => {
                    freed |= !matches!(item.control, Control::Create(_));
                    self.apply_control(&item.control);
                    done.push(item);
                }
            }
        }
        // Whoever trims removes what is dead, and must find that the active segment can go, too.
        let result = if freed { self.leave_dead_segment() } else { Ok(()) };
        for item in done {
            let _ = item.done.send(Ok(()));
        }
        result
    }

    fn apply_batch(&self, batch: &BatchItem, offset: u32) {
        let entry = Entry {
            lsn: batch.lsn,
            time_ms: batch.time_ms,
            segment: self.active.slot,
            offset,
            body_len: batch.bytes.len() as u32,
            records: batch.records,
        };
        // Counted before it can be seen, so that a trim never counts it down first.
        self.shared.segments.hold([&entry]);
        if !batch.shard.complete(entry, batch.producer.as_ref(), &self.shared.options.producers) {
            self.shared.segments.release([&entry]);
        }
    }

    fn apply_control(&self, control: &Control) {
        match control {
            Control::Create(specs) => {
                let mut shards = self.shared.shards_mut();
                for spec in specs {
                    shards.entry(spec.shard).or_insert_with(|| Arc::new(Shard::empty(spec.clone())));
                }
            }
            Control::Delete(gone) => {
                for shard in gone {
                    self.shared.shards_mut().remove(&shard.spec.shard);
                    self.shared.segments.release(&shard.delete());
                }
            }
            Control::Trim(trims) => {
                for (shard, up_to) in trims {
                    if let Some(shard) = self.shared.find(*shard) {
                        self.shared.segments.release(&shard.trim(*up_to));
                    }
                }
            }
        }
    }

    /// Starts another segment if nobody can read anything from this one and that is worth it.
    fn leave_dead_segment(&mut self) -> Result<()> {
        let worth = u64::from(self.shared.options.segment_bytes / 16);
        if self.len > worth && self.shared.segments.is_dead(self.active.slot) {
            match self.roll() {
                Ok(()) => return Ok(()),
                Err(Failure::Refused(error)) => tracing::warn!(%error, "no new segment yet"),
                Err(Failure::Fatal(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Starts a new segment with the state of all shards, written twice: it may outlive all other copies.
    fn roll(&mut self) -> Result<(), Failure> {
        let snapshot = self.shared.encode_snapshot();
        let needed = segment_start_len(&snapshot);
        if self.shared.disk.free_space().is_ok_and(|free| free < needed) {
            return Err(Failure::Refused(StoreError::DiskFull(format!(
                "a new segment needs {needed} bytes"
            ))));
        }
        if needed > LONGEST_SEGMENT {
            return Err(Failure::Refused(StoreError::DiskFull(format!(
                "the state of all shards takes {needed} bytes, which is more than a segment may hold; delete shards, \
                 or let fewer producers write to each"
            ))));
        }
        let number =
            self.active.id.number.checked_add(1).ok_or_else(|| {
                Failure::Refused(StoreError::DiskFull("all segment numbers are used".into()))
            })?;
        match create_segment(&*self.shared.disk, &self.shared.segments, number, &snapshot) {
            Ok((segment, len)) => {
                self.shared.segments.seal(self.active.slot, self.len);
                self.active = segment;
                self.len = len;
                self.full = full_length(&self.shared, needed);
                self.shared.housekeeping.notify_one();
                Ok(())
            }
            Err((error, left_behind)) => {
                let text = format!("starting a new segment of the log failed: {error}");
                // A half-made segment that comes back after later writes to the old one would undo them.
                if error.kind() == io::ErrorKind::StorageFull && !left_behind {
                    Err(Failure::Refused(StoreError::DiskFull(text)))
                } else {
                    Err(Failure::Fatal(StoreError::Poisoned(text)))
                }
            }
        }
    }

    /// The last frame of a clean end: proves that all before it was durable.
    fn write_closing_snapshot(&mut self) -> Result<(), StoreError> {
        let snapshot = self.shared.encode_snapshot();
        let refused = |failure| match failure {
            Failure::Refused(error) | Failure::Fatal(error) => error,
        };
        let offset = self.offset(self.len).map_err(refused)?;
        self.buffer.clear();
        let header = Header::control(Kind::Snapshot, offset, &snapshot);
        self.buffer.extend_from_slice(&header.encode(self.active.place(offset)));
        self.buffer.extend_from_slice(&snapshot);
        self.commit_buffer().map_err(refused)
    }
}

/// When a segment that begins with so many bytes of state is full.
fn full_length(shared: &Shared, start_len: u64) -> u64 {
    let wanted = u64::from(shared.options.segment_bytes);
    if start_len <= SMALL_START {
        return wanted;
    }
    wanted.max(start_len.saturating_mul(TIMES_ITS_START)).min(LONGEST_SEGMENT)
}

/// Length of a segment that holds nothing but its first frames.
pub fn segment_start_len(snapshot: &[u8]) -> u64 {
    2 * (snapshot.len() as u64 + HEADER_LEN as u64)
}

/// The first frames of a segment: `snapshot`, twice.
pub fn segment_start(id: &SegmentId, snapshot: &[u8]) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(2 * (snapshot.len() + HEADER_LEN));
    for _ in 0..2 {
        let offset = u32::try_from(start.len()).map_err(io::Error::other)?;
        let header = Header::control(Kind::Snapshot, 0, snapshot);
        start.extend_from_slice(&header.encode(Place { segment: id.number, salt: id.salt, offset }));
        start.extend_from_slice(snapshot);
    }
    Ok(start)
}

/// Makes a durable segment that holds `snapshot` twice; returns it and its length.
///
/// # Errors
/// What failed, and whether anything of the segment may be left on the disk.
pub fn create_segment(
    disk: &dyn Disk,
    segments: &Segments,
    number: u32,
    snapshot: &[u8],
) -> Result<(Segment, u64), (io::Error, bool)> {
    let id = SegmentId::appended(number);
    let name = id.name();
    let start = segment_start(&id, snapshot).map_err(|error| (error, false))?;
    let file = disk.create(&name).map_err(|error| (error, false))?;
    let write = || {
        file.write_at(0, &start)?;
        file.sync_data()?;
        disk.sync_dir()
    };
    match write() {
        Ok(()) => {
            let len = start.len() as u64;
            let slot = segments.add(id, Some(Arc::clone(&file)), len);
            Ok((Segment { slot, id, file }, len))
        }
        Err(error) => {
            let undone = file.truncate(0).and_then(|()| disk.remove(&name)).and_then(|()| disk.sync_dir());
            Err((error, undone.is_err()))
        }
    }
}

/// The body of the first frame of a new log.
pub fn empty_snapshot() -> Vec<u8> {
    encode_snapshot(std::iter::empty())
}

fn is_wanted(item: &Item) -> bool {
    match item {
        Item::Batch(batch) => batch.shard.is_current(batch.generation),
        Item::Control(_) => true,
    }
}

fn batch_header(batch: &BatchItem, group_start: u32) -> Header {
    Header {
        kind: Kind::Batch,
        group_start,
        body_len: batch.bytes.len() as u32,
        body_crc: batch.body_crc,
        records: batch.records,
        shard: batch.shard.spec.shard,
        lsn: batch.lsn,
        time_ms: batch.time_ms,
        producer: batch.producer,
    }
}

fn control_frame(control: &Control, group_start: u32) -> (Header, Vec<u8>) {
    let (kind, body) = match control {
        Control::Create(specs) => (Kind::Create, encode_specs(specs)),
        Control::Delete(shards) => {
            (Kind::Delete, encode_ids(&shards.iter().map(|shard| shard.spec.shard).collect::<Vec<_>>()))
        }
        Control::Trim(trims) if trims.len() == 1 => (Kind::Trim, Vec::new()),
        Control::Trim(trims) => (Kind::Trims, encode_trims(trims)),
    };
    let mut header = Header::control(kind, group_start, &body);
    if let (Kind::Trim, Control::Trim(trims)) = (kind, control)
        && let Some((shard, up_to)) = trims.first()
    {
        header.shard = *shard;
        header.lsn = *up_to;
    }
    (header, body)
}

/// Answers everybody in `items` with `error`, and returns it.
pub fn fail(items: impl IntoIterator<Item = Item>, error: StoreError) -> StoreError {
    for item in items {
        match item {
            Item::Batch(batch) => batch.shard.fail_generation(batch.generation, &error),
            Item::Control(item) => refuse_control(item, &error),
        }
    }
    error
}

fn refuse_control(item: ControlItem, error: &StoreError) {
    if let Control::Delete(shards) = &item.control {
        shards.iter().for_each(|shard| shard.state().deleting = false);
    }
    let _ = item.done.send(Err(error.clone()));
}

/// Ends the queue when the writer ends, also when it panics.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.stop(StoreError::Poisoned("the writer of the log died".into()));
    }
}
