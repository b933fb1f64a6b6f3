//! Settings of a polled reader, and opening it.

use super::session::{Session, Spec};
use super::{PolledReader, calls::Remains};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::options::{OptionScope, OptionValue, Setting};
use crate::reader::gap::Gaps;
use crate::reader::opening;
use crate::reader::position::{ReadFrom, Start};
use crate::record::Offset;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait of one poll; a longer wait is made of several, so that a dead connection is noticed in time.
const LONGEST_POLL: Duration = Duration::from_secs(30);

/// Builds a [`PolledReader`]; made by [`Client::polled_reader`].
#[derive(Debug, Clone)]
#[must_use = "a reader does nothing before it is opened"]
pub struct PolledReaderBuilder {
    client: Client,
    stream: String,
    shard: u64,
    from: ReadFrom,
    timeout: Duration,
    reader_id: Option<String>,
}

impl Client {
    /// A reader of one shard that the server keeps and that is polled.
    pub fn polled_reader(&self, stream: &str, shard: u64) -> PolledReaderBuilder {
        PolledReaderBuilder {
            client: self.clone(),
            stream: stream.to_owned(),
            shard,
            from: ReadFrom::Offset(Offset::Earliest),
            timeout: Duration::ZERO,
            reader_id: None,
        }
    }
}

impl PolledReaderBuilder {
    /// Sets an option by its name in the table of options (scope `Reader`): `from`, `timeout_ms`, `reader_id`.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown name, with the known ones, for one that only other readers take, and for a value
    /// out of range.
    pub fn set(mut self, name: &str, value: impl Into<OptionValue>) -> Result<Self> {
        let setting = Setting::new(OptionScope::Reader, name, value)?;
        match setting.name() {
            "from" => self.from = setting.text()?.parse()?,
            "timeout_ms" => self.timeout = setting.millis()?,
            "reader_id" => {
                let id = setting.text()?;
                self.reader_id = (!id.is_empty()).then_some(id);
            }
            _ => {
                return Err(setting
                    .refuse("a polled reader does not take it; it takes from, timeout_ms and reader_id"));
            }
        }
        Ok(self)
    }

    /// Where to start; default [`Offset::Earliest`]. See [`ReaderBuilder::from`](crate::ReaderBuilder::from).
    pub fn from(mut self, from: impl Into<ReadFrom>) -> Self {
        self.from = from.into();
        self
    }

    /// How long a read waits when nothing is there; zero, the default, answers at once.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The id the server is to know the reader by; default `reader-` and 16 random hexadecimal digits. Where the reader has
    /// to be created anew, 16 random digits are appended to it.
    pub fn reader_id(mut self, id: impl Into<String>) -> Self {
        self.reader_id = Some(id.into());
        self
    }

    /// Creates the reader on the server. What "latest" means is fixed here.
    ///
    /// # Errors
    /// `AlreadyExists` for a reader id that is taken, `NotFound` for an unknown shard, `InvalidArgument` for a bad id, for a
    /// record id of another shard and for a position of other shards; `Unavailable`, `Timeout`, `Closed`.
    pub async fn open(self) -> Result<PolledReader> {
        let from = self.start().await?;
        // As many polls as it takes, each as long as the others.
        let polls = self.timeout.as_millis().div_ceil(LONGEST_POLL.as_millis()).max(1);
        let wait = self.timeout / u32::try_from(polls).unwrap_or(u32::MAX);
        let session = self.session(from, wait);
        // What goes wrong from here on, dropping this future included, deletes what was created.
        let reader = PolledReader::new(self.client.cluster, session)?;
        reader.0.session.lock().await.open().await?;
        Ok(reader)
    }

    /// Creates the reader on the server and leaves it there, for whoever knows its id, in whatever process: it is read with
    /// [`Client::read_shard_reader`] and deleted with [`Client::delete_shard_reader`]. Returns the id.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); `OutcomeUnknown` when a reader of the id that was given may be there now.
    pub async fn create(self) -> Result<String> {
        let from = self.start().await?;
        let mut session = self.session(from, self.timeout);
        let created = session.open().await;
        let id = session.remains.newest().unwrap_or_default();
        created.map(|()| id)
    }

    /// Where "from" is now.
    async fn start(&self) -> Result<Start> {
        if let ReadFrom::Position(position) = &self.from
            && !position.is_empty()
            && position.start_of(self.shard).is_none()
        {
            return Err(Error::new(ErrorKind::InvalidArgument, "open reader")
                .with_resource(self.resource())
                .with_message(format!("the position {position} is of other shards")));
        }
        Ok(opening::bounds(&self.client, &self.stream, self.shard, &self.from, None).await?.from)
    }

    fn session(&self, from: Start, wait: Duration) -> Session {
        let cluster = self.client.cluster.clone();
        let gaps = Arc::new(Gaps::new(self.resource(), cluster.shared_metrics()));
        let spec = Spec { stream: self.stream.clone(), shard: self.shard, timeout: self.timeout, wait };
        Session::new(cluster, spec, from, self.reader_id.clone(), gaps, Arc::<Remains>::default())
    }

    fn resource(&self) -> String {
        format!("stream {:?} shard {}", self.stream, self.shard)
    }
}
