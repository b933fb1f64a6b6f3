//! What is stored about streams, and the copy of it that a node keeps in memory.

use super::{Stream, StreamId};
use crate::error::{Result, ServerError};
use crate::store::{Mirror, ShardId, Versioned};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use tonic::Code;

/// Streams that have a name, by name.
pub(super) const LIVE: &str = "stream/";
/// Streams that lost theirs, by identity.
pub(super) const ARCHIVE: &str = "archive/";

/// How far a stream is on its way out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Not at all.
    #[default]
    Stays,
    /// Somebody wants to delete it and looks whether a subscription reads it. It is there as before; whoever creates a
    /// subscription takes this back.
    Asked,
    /// Its name is gone, its data stays for the subscriptions that read it.
    Kept,
    /// It is gone; so is its data in a moment.
    Doomed,
}

impl Stage {
    /// Whether the stream has its name.
    pub(super) fn is_named(self) -> bool {
        matches!(self, Stage::Stays | Stage::Asked)
    }

    fn stays(&self) -> bool {
        *self == Stage::Stays
    }
}

/// What stands under `stream/`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    pub(super) stream: Stream,
    #[serde(default, skip_serializing_if = "Stage::stays")]
    pub(super) stage: Stage,
}

/// What stands under `archive/`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Leaving {
    pub(super) stream: Stream,
    /// Its data goes, too; false while subscriptions still read it.
    pub(super) doomed: bool,
}

/// A stream under a name.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) stream: Arc<Stream>,
    pub(super) stage: Stage,
    pub(super) version: u64,
}

/// A stream under its identity.
#[derive(Debug, Clone)]
pub(super) struct Archived {
    pub(super) stream: Arc<Stream>,
    pub(super) doomed: bool,
    pub(super) version: u64,
}

/// Told of every stream that is gone or archived.
type WhenGone = Box<dyn Fn(StreamId) + Send + Sync>;

/// Every stream as this node knows it.
#[derive(Default)]
pub(super) struct Index {
    named: BTreeMap<String, Named>,
    archived: HashMap<StreamId, Archived>,
    by_id: HashMap<StreamId, Arc<Stream>>,
    by_shard: HashMap<ShardId, Arc<Stream>>,
    when_gone: Option<WhenGone>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("by_id", &self.by_id).finish_non_exhaustive()
    }
}

impl Index {
    /// What stands under a name, on its way out or not.
    pub(super) fn entry(&self, name: &str) -> Option<&Named> {
        self.named.get(name)
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Arc<Stream>> {
        self.named.get(name).and_then(|named| self.if_named(named))
    }

    pub(super) fn by_id(&self, id: StreamId) -> Option<&Arc<Stream>> {
        self.by_id.get(&id)
    }

    pub(super) fn by_shard(&self, shard: ShardId) -> Option<&Arc<Stream>> {
        self.by_shard.get(&shard)
    }

    /// Streams whose name starts with `prefix`, in name order.
    pub(super) fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = &Arc<Stream>> {
        self.named
            .range(prefix.to_owned()..)
            .take_while(move |(name, _)| name.starts_with(prefix))
            .filter_map(|(_, named)| self.if_named(named))
    }

    /// Streams that are on their way out under their name.
    pub(super) fn leaving(&self) -> Vec<Named> {
        let leaving = |named: &&Named| !named.stage.is_named() || self.is_archived(named.stream.id);
        self.named.values().filter(leaving).cloned().collect()
    }

    pub(super) fn archived(&self) -> impl Iterator<Item = &Archived> {
        self.archived.values()
    }

    /// What stands under an identity.
    pub(super) fn archived_entry(&self, id: StreamId) -> Option<&Archived> {
        self.archived.get(&id)
    }

    /// Every shard that a stream has.
    pub(super) fn shards(&self) -> impl Iterator<Item = (ShardId, &Arc<Stream>)> {
        self.by_shard.iter().map(|(shard, stream)| (*shard, stream))
    }

    pub(super) fn has_shard(&self, shard: ShardId) -> bool {
        self.by_shard.contains_key(&shard)
    }

    /// Tells `when_gone` of every stream that goes from now on.
    pub(super) fn when_gone(&mut self, when_gone: WhenGone) {
        self.when_gone = Some(when_gone);
    }

    fn is_archived(&self, id: StreamId) -> bool {
        self.archived.contains_key(&id)
    }

    fn if_named<'a>(&self, named: &'a Named) -> Option<&'a Arc<Stream>> {
        (named.stage.is_named() && !self.is_archived(named.stream.id)).then_some(&named.stream)
    }

    /// Follows what stands under a name from now on.
    fn name(&mut self, name: &str, named: Option<Named>) {
        let id = named.as_ref().map(|named| named.stream.id);
        let before = match named {
            Some(named) => self.named.insert(name.to_owned(), named),
            None => self.named.remove(name),
        };
        for id in before.map(|before| before.stream.id).into_iter().filter(|before| id != Some(*before)) {
            self.find(id, name);
        }
        if let Some(id) = id {
            self.find(id, name);
        }
    }

    fn archive(&mut self, id: StreamId, archived: Option<Archived>) {
        let name = match &archived {
            Some(archived) => Some(archived.stream.name.clone()),
            None => self.archived.get(&id).map(|archived| archived.stream.name.clone()),
        };
        match archived {
            Some(archived) => self.archived.insert(id, archived),
            None => self.archived.remove(&id),
        };
        self.find(id, name.as_deref().unwrap_or_default());
    }

    /// Sees what is known of an identity, which has or had this name.
    fn find(&mut self, id: StreamId, name: &str) {
        let named = self.named.get(name).filter(|named| named.stream.id == id);
        let found = self.archived.get(&id).map(|archived| &archived.stream);
        let found = found.or_else(|| named.map(|named| &named.stream)).cloned();
        if found.as_ref().is_none_or(|stream| stream.archived)
            && let Some(when_gone) = &self.when_gone
        {
            when_gone(id);
        }
        match found {
            Some(stream) => {
                for shard in &stream.shards {
                    self.by_shard.insert(shard.id, stream.clone());
                }
                self.by_id.insert(id, stream);
            }
            None => {
                let gone = self.by_id.remove(&id);
                for shard in gone.iter().flat_map(|stream| &stream.shards) {
                    self.by_shard.remove(&shard.id);
                }
            }
        }
    }
}

impl Mirror for Index {
    type Error = ServerError;

    fn apply(&mut self, key: &str, value: Option<&Versioned>) -> Result<()> {
        if let Some(name) = key.strip_prefix(LIVE) {
            let named = match value {
                Some(found) => {
                    let Entry { mut stream, stage } = decode(key, &found.value)?;
                    stream.archived = !stage.is_named();
                    Some(Named { stream: Arc::new(stream), stage, version: found.version })
                }
                None => None,
            };
            self.name(name, named);
        } else if let Some(id) = key.strip_prefix(ARCHIVE) {
            let archived = match value {
                Some(found) => {
                    let Leaving { stream, doomed } = decode(key, &found.value)?;
                    let stream = Arc::new(Stream { archived: true, ..stream });
                    Some(Archived { stream, doomed, version: found.version })
                }
                None => None,
            };
            let id = archived.as_ref().map(|archived| archived.stream.id).or(id.parse().ok().map(StreamId));
            if let Some(id) = id {
                self.archive(id, archived);
            }
        }
        Ok(())
    }
}

pub(super) fn live_key(name: &str) -> String {
    format!("{LIVE}{name}")
}

pub(super) fn archive_key(id: StreamId) -> String {
    format!("{ARCHIVE}{id}")
}

pub(super) fn encode(value: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        ServerError::plain(Code::Internal, format!("cannot write a catalogue entry: {error}"))
    })
}

pub(super) fn decode<'a, T: Deserialize<'a>>(key: &str, value: &'a [u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|error| {
        ServerError::plain(Code::Internal, format!("the catalogue entry {key:?} cannot be read: {error}"))
    })
}
