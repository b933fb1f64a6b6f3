//! Reading the log at start: what is there, what is torn, what is lost.
//!
//! Usually only the newest segment is read: it begins with the state of all shards, and what else is needed of
//! older ones stands in the index beside each. Bodies in those are compared with their checksums whenever they
//! are read, and once in the background. As soon as anything does not fit together (damage in what was looked
//! at, an LSN that is nowhere), the whole log is read and judged byte by byte; so it is on demand.

mod scan;
mod state;

use super::EmbeddedOptions;
use super::segment_id::SegmentId;
use super::segment_index;
use super::segments::{Segment, SegmentUse, Segments, UNFINISHED};
use super::shard::Shard;
use super::writer::{create_segment, empty_snapshot};
use crate::store::disk::Disk;
use crate::store::{Result, ShardId, StoreError};
use scan::{End, Scan};
use state::State;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// A log ready to be continued.
#[derive(Debug)]
pub struct Recovered {
    pub shards: HashMap<ShardId, Arc<Shard>>,
    pub segments: Segments,
    /// The segment to continue.
    pub active: Segment,
    /// Where to continue it.
    pub len: u64,
}

/// A position no segment can be continued at: the next group begins another one.
const NOT_CONTINUED: u64 = u32::MAX as u64 + 1;

/// Reads the log and makes what was found durable. A log that is refused is left as it is.
pub fn recover(disk: &dyn Disk, options: &EmbeddedOptions) -> Result<Recovered> {
    let files = Files::list(disk)?;
    let segments = Segments::default();
    for id in &files.segments {
        let len = disk.open(&id.name()).and_then(|file| file.len()).map_err(|error| failed("open", error))?;
        segments.add(*id, None, len);
    }
    let reader = Reader { disk, options, segments: &segments, known: segments.in_order() };
    let indexed = if options.verify_log { None } else { reader.read_indexed()? };
    let read = match indexed {
        Some(read) => read,
        None => reader.read_all()?,
    };
    if let (false, Some(damage)) = (options.serve_damaged, &read.state.damage) {
        return Err(StoreError::Corrupt(format!(
            "{damage}; restore the directory from a backup, or start with --serve-damaged-log, which tells readers \
             what is lost"
        )));
    }
    let from_the_start = files.segments.first().is_some_and(|id| id.number == 1 && !id.is_compacted());
    let torn_start = read.last.as_ref().is_some_and(|last| last.end.len == 0);
    if torn_start && read.previous.is_none() && !from_the_start {
        return Err(StoreError::Corrupt(
            "nothing in the only segment of the log can be read; restore the directory from a backup".into(),
        ));
    }
    if (read.state.frames == 0 || (!from_the_start && read.state.snapshots == 0))
        && (read.previous.is_some() || read.last.is_some() && !torn_start)
    {
        return Err(StoreError::Corrupt(
            "the log is damaged so badly that its shards are not known; restore the directory from a backup"
                .into(),
        ));
    }

    // Nothing was changed up to here.
    disk.settle_format().map_err(|error| failed("upgrade", error))?;
    files.clean(disk).map_err(|error| failed("clean", error))?;
    for slot in &read.indexed {
        segments.mark_indexed(*slot);
    }
    for slot in &read.verified {
        segments.mark_verified(*slot);
    }
    for slot in &read.state.damaged {
        segments.mark_damaged(*slot);
    }
    let active = match (read.last, read.previous) {
        (Some(torn), previous) if torn_start => {
            // A crash while it was made; all it could say is in the segments before it.
            disk.remove(&torn.segment.id.name())
                .and_then(|()| disk.sync_dir())
                .map_err(|error| failed("clean", error))?;
            segments.seal(torn.segment.slot, 0);
            previous
        }
        (Some(last), _) => Some(last.settle(disk).map_err(|error| failed("repair", error))?),
        (None, _) => None,
    };
    let (active, len) = match active {
        Some(active) => active,
        None => create_segment(disk, &segments, 1, &empty_snapshot())
            .map_err(|(error, _)| failed("create", error))?,
    };
    let shards = read.state.finish(&segments);
    for known in &reader.known {
        if known.slot != active.slot {
            segments.seal(known.slot, known.len);
        }
    }
    Ok(Recovered { shards, segments, active, len })
}

fn failed(what: &str, error: io::Error) -> StoreError {
    StoreError::Io(format!("cannot {what} the log: {error}"))
}

/// What of the log is in the directory.
#[derive(Debug, Default)]
struct Files {
    /// In log order; none replaces another.
    segments: Vec<SegmentId>,
    /// Names of what a crash left behind and nobody needs.
    leftovers: Vec<String>,
}

impl Files {
    fn list(disk: &dyn Disk) -> Result<Files> {
        let names = disk.list().map_err(|error| failed("list", error))?;
        let mut found: Vec<SegmentId> = names.iter().filter_map(|name| SegmentId::parse(name)).collect();
        found.sort();
        let mut files = Files::default();
        for id in &found {
            // What a segment replaces has the same number or a smaller one.
            if found.iter().any(|other| other.replaces(id)) {
                files.leftovers.push(id.name());
            } else {
                files.segments.push(*id);
            }
        }
        for pair in files.segments.windows(2) {
            if let [before, after] = pair
                && after.first <= before.number
            {
                return Err(StoreError::Corrupt(format!(
                    "the log holds {} and {}, which cannot both be of it",
                    before.name(),
                    after.name()
                )));
            }
        }
        for name in names {
            let orphan = SegmentId::parse_index(&name).is_some_and(|id| !files.segments.contains(&id));
            let unfinished =
                name.strip_suffix(UNFINISHED).is_some_and(|name| SegmentId::parse(name).is_some());
            if orphan || unfinished {
                files.leftovers.push(name);
            }
        }
        Ok(files)
    }

    /// Removes what nobody needs.
    fn clean(&self, disk: &dyn Disk) -> io::Result<()> {
        for name in &self.leftovers {
            match disk.remove(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// What was read.
struct Read {
    state: State,
    /// The last segment.
    last: Option<Last>,
    /// The one before it and where it could be continued, should the last one be no more than a beginning.
    previous: Option<(Segment, u64)>,
    /// Slots of segments whose index was good.
    indexed: Vec<u32>,
    /// Slots of segments all of whose checksums were compared.
    verified: Vec<u32>,
}

/// The last segment of the log.
struct Last {
    segment: Segment,
    bytes: Vec<u8>,
    end: End,
}

impl Last {
    /// Ends the segment behind its last whole write; returns it and where to continue.
    fn settle(self, disk: &dyn Disk) -> io::Result<(Segment, u64)> {
        let Last { segment, bytes, end } = self;
        if !segment.id.is_compacted() {
            // What a crashed process wrote may be in memory only, whatever a sync now says: write it again.
            let rewrite = bytes.get(end.rewrite_from..end.len).unwrap_or_default();
            if end.len < bytes.len() {
                segment.file.truncate(end.len as u64)?;
            }
            if !rewrite.is_empty() {
                segment.file.write_at(end.rewrite_from as u64, rewrite)?;
            }
            segment.file.sync_data()?;
            disk.sync_dir()?;
        }
        let len = continued_at(&segment, &end);
        Ok((segment, len))
    }
}

/// Where a segment is continued: neither a compacted one nor behind a damaged end.
fn continued_at(segment: &Segment, end: &End) -> u64 {
    if end.damaged_end || segment.id.is_compacted() { NOT_CONTINUED } else { end.len as u64 }
}

struct Reader<'a> {
    disk: &'a dyn Disk,
    options: &'a EmbeddedOptions,
    segments: &'a Segments,
    /// In log order.
    known: Vec<SegmentUse>,
}

impl Reader<'_> {
    /// A segment and all its bytes.
    fn content(&self, known: &SegmentUse) -> Result<(Segment, Vec<u8>)> {
        let found = self.segments.get(self.disk, known.slot).map_err(|error| failed("open", error))?;
        let gone = || failed("open", io::ErrorKind::NotFound.into());
        let segment = found.ok_or_else(gone)?;
        let len = usize::try_from(known.len).map_err(|_| StoreError::Io("segment too long".into()))?;
        let mut bytes = vec![0; len];
        segment.file.read_at(0, &mut bytes).map_err(|error| failed("read", error))?;
        Ok((segment, bytes))
    }

    /// Reads and judges every byte.
    fn read_all(&self) -> Result<Read> {
        let mut read = self.nothing();
        for (at, known) in self.known.iter().enumerate() {
            self.scan(known, at, &mut read)?;
        }
        read.state.settle_holes();
        if read.state.damage.is_none() {
            read.state.damage = read.state.missing();
        }
        Ok(read)
    }

    fn nothing(&self) -> Read {
        let state = State::new(&self.options.producers);
        Read { state, last: None, previous: None, indexed: Vec::new(), verified: Vec::new() }
    }

    /// Takes a whole segment into what was read before.
    fn scan(&self, known: &SegmentUse, at: usize, read: &mut Read) -> Result<()> {
        let (segment, bytes) = self.content(known)?;
        let last = at + 1 == self.known.len();
        let scan = Scan { segment: &segment, bytes: &bytes, last: last && !known.id.is_compacted() };
        let end = scan.run(&mut read.state);
        read.verified.push(known.slot);
        if last {
            read.last = Some(Last { segment, bytes, end });
        } else {
            let len = continued_at(&segment, &end);
            read.previous = Some((segment, len));
        }
        Ok(())
    }

    /// Reads the newest segment, or the newest two if the last is no more than a beginning, and of the others
    /// the index; `None` if something is wrong anywhere.
    fn read_indexed(&self) -> Result<Option<Read>> {
        let Some(newest) = self.known.len().checked_sub(1) else { return Ok(None) };
        for base in [Some(newest), newest.checked_sub(1)].into_iter().flatten() {
            let Some(known) = self.known.get(base).filter(|known| !known.id.is_compacted()) else {
                return Ok(None);
            };
            let (segment, bytes) = self.content(known)?;
            if let Some(start) = (Scan { segment: &segment, bytes: &bytes, last: false }).start() {
                drop(bytes);
                let mut read = self.nothing();
                read.state.apply_snapshot(start);
                return Ok(self.read_from(base, &mut read)?.then_some(read));
            }
        }
        Ok(None)
    }

    /// Reads everything, given the state that the segment at `base` begins with. False if something is wrong.
    fn read_from(&self, base: usize, read: &mut Read) -> Result<bool> {
        for known in self.known.get(..base).unwrap_or_default() {
            let entries = match segment_index::read(self.disk, &known.id, known.len, known.slot) {
                Some(entries) => {
                    read.indexed.push(known.slot);
                    entries
                }
                None => {
                    let (segment, bytes) = self.content(known)?;
                    let scan = Scan { segment: &segment, bytes: &bytes, last: false };
                    let Some(entries) = scan.batches() else { return Ok(false) };
                    read.verified.push(known.slot);
                    entries
                }
            };
            if !read.state.load(entries) {
                return Ok(false);
            }
        }
        for (at, known) in self.known.iter().enumerate().skip(base) {
            self.scan(known, at, read)?;
            if read.state.damage.is_some() {
                return Ok(false);
            }
        }
        if let Some(what) = read.state.missing() {
            tracing::warn!("{what}; the whole log is read to find out why");
            return Ok(false);
        }
        Ok(true)
    }
}
