//! Log lines on their way to a language's own logging: one bounded queue that drops the oldest and counts.

use crate::error::{Error, ErrorKind, Result};
use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Longest message kept, in bytes.
const MAX_MESSAGE: usize = 4096;

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What an operator may like to know.
    Info,
    /// Something is wrong, and the client deals with it.
    Warn,
    /// Something is wrong, and the client cannot deal with it.
    Error,
}

impl LogLevel {
    /// Name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }

    fn of(level: &Level) -> Self {
        match *level {
            Level::TRACE => LogLevel::Trace,
            Level::DEBUG => LogLevel::Debug,
            Level::INFO => LogLevel::Info,
            Level::WARN => LogLevel::Warn,
            Level::ERROR => LogLevel::Error,
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How important it is.
    pub level: LogLevel,
    /// Module it comes from.
    pub target: String,
    /// Its text with its fields, at most 4 KiB.
    pub message: String,
}

/// The queue. Cheap to clone; all clones are one queue.
#[derive(Debug, Clone)]
pub struct LogQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    arrived: Notify,
    /// For a thread that waits.
    awake: Condvar,
    capacity: usize,
    least: LogLevel,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<LogLine>,
    dropped: u64,
    closed: bool,
}

impl LogQueue {
    /// A queue of at most `capacity` lines (at least 1) of at least this level.
    pub fn new(capacity: usize, least: LogLevel) -> Self {
        LogQueue(Arc::new(Shared {
            state: Mutex::default(),
            arrived: Notify::new(),
            awake: Condvar::new(),
            capacity: capacity.max(1),
            least,
        }))
    }

    /// Receives the log lines of this process from now on: those of this crate, and warnings of others.
    ///
    /// # Errors
    /// `FailedPrecondition` when the process has another receiver already, which then keeps receiving them.
    pub fn install(&self) -> Result<()> {
        tracing::subscriber::set_global_default(Receiver(self.clone())).map_err(|error| {
            Error::new(ErrorKind::FailedPrecondition, "receive log lines")
                .with_message("the process has a receiver of log lines already")
                .with_source(error)
        })
    }

    /// Adds a line; the oldest is dropped and counted when the queue is full. Never waits.
    pub fn push(&self, line: LogLine) {
        {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            if state.lines.len() >= self.0.capacity {
                state.lines.pop_front();
                state.dropped = state.dropped.saturating_add(1);
            }
            state.lines.push_back(line);
        }
        self.notify();
    }

    fn notify(&self) {
        self.0.arrived.notify_one();
        self.0.awake.notify_one();
    }

    /// The oldest line, if there is one. Never waits.
    pub fn try_next(&self) -> Option<LogLine> {
        self.lock().lines.pop_front()
    }

    /// The oldest line, when there is one; `None` after `close`. Dropping the future loses nothing. For one reader.
    pub async fn next(&self) -> Option<LogLine> {
        loop {
            {
                let mut state = self.lock();
                if let Some(line) = state.lines.pop_front() {
                    return Some(line);
                }
                if state.closed {
                    // Another reader may wait as well.
                    self.0.arrived.notify_one();
                    return None;
                }
            }
            self.0.arrived.notified().await;
        }
    }

    /// As [`next`](Self::next), for a thread that waits with nothing else. A forked child may go on using the queue although that
    /// thread stayed in the parent; with a future that waits there it may not.
    pub fn wait_next(&self) -> Option<LogLine> {
        let waiting = |state: &mut State| state.lines.is_empty() && !state.closed;
        let waited = self.0.awake.wait_while(self.lock(), waiting);
        let line = waited.unwrap_or_else(PoisonError::into_inner).lines.pop_front();
        if line.is_none() {
            // Another thread may wait as well.
            self.0.awake.notify_one();
        }
        line
    }

    /// How many lines were dropped.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Takes no further lines; readers end after what is there.
    pub fn close(&self) {
        self.lock().closed = true;
        self.notify();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let level = LogLevel::of(metadata.level());
        let ours = metadata.target().starts_with("hstreamdb");
        level >= self.0.least && (ours || level >= LogLevel::Warn)
    }
}

/// The side that the `tracing` macros see; spans are not followed.
struct Receiver(LogQueue);

impl Subscriber for Receiver {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.0.wants(metadata)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.0.push(LogLine {
            level: LogLevel::of(event.metadata().level()),
            target: event.metadata().target().to_owned(),
            message: text.finish(),
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The message followed by the other fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(mut self) -> String {
        self.message.push_str(&self.fields);
        if self.message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE).rev().find(|end| self.message.is_char_boundary(*end)).unwrap_or(0);
            self.message.truncate(end);
        }
        self.message
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> LogLine {
        LogLine { level: LogLevel::Info, target: "hstreamdb".into(), message: message.into() }
    }

    #[tokio::test]
    async fn a_full_queue_drops_the_oldest_and_counts() {
        let queue = LogQueue::new(2, LogLevel::Trace);
        for message in ["a", "b", "c"] {
            queue.push(line(message));
        }
        assert_eq!(queue.dropped(), 1);
        assert_eq!(queue.next().await, Some(line("b")));
        queue.close();
        assert_eq!(queue.next().await, Some(line("c")));
        assert_eq!(queue.next().await, None);
        queue.push(line("late"));
        assert_eq!(queue.try_next(), None);
    }

    #[test]
    fn a_thread_gets_lines_as_they_come_and_ends_with_the_queue() {
        let queue = LogQueue::new(2, LogLevel::Trace);
        let waiting = queue.clone();
        let reader =
            std::thread::spawn(move || std::iter::from_fn(|| waiting.wait_next()).collect::<Vec<_>>());
        queue.push(line("a"));
        queue.push(line("b"));
        queue.close();
        assert_eq!(reader.join().unwrap(), [line("a"), line("b")]);
    }

    #[test]
    fn lines_of_the_level_arrive_with_their_fields() {
        let queue = LogQueue::new(10, LogLevel::Info);
        tracing::subscriber::with_default(Receiver(queue.clone()), || {
            tracing::info!(target: "hstreamdb::test", node = "a:1", "connected");
            tracing::debug!(target: "hstreamdb::test", "too fine");
            tracing::info!(target: "h2", "not ours");
            tracing::warn!(target: "h2", "{}", "x".repeat(10_000));
        });
        let first = queue.try_next().unwrap();
        assert_eq!((first.level, first.message.as_str()), (LogLevel::Info, "connected node=\"a:1\""));
        assert_eq!(queue.try_next().unwrap().message.len(), MAX_MESSAGE);
        assert_eq!(queue.try_next(), None);
    }
}
