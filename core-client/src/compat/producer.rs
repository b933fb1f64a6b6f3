//! The side of a producer that waits for the end.

pub use super::settings::{FlushSettings, FlushSettingsBuilder};

use crate::producer;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Told of every batch: whether it was stored, how many records and how many encoded bytes it has.
pub type FlushCallback = Arc<dyn Fn(bool, usize, usize) + Send + Sync>;

/// How long the end waits for what the delivery timeout has let go by then.
const END: Duration = Duration::from_secs(5);

/// Sends what its [`Appender`](super::Appender)s take. Dropping it stops nothing: they go on.
#[derive(Debug)]
pub struct Producer {
    producer: producer::Producer,
    appenders: mpsc::Receiver<Infallible>,
}

impl Producer {
    pub(super) fn new(producer: producer::Producer, appenders: mpsc::Receiver<Infallible>) -> Self {
        Producer { producer, appenders }
    }

    /// Resolves when all appenders are dropped and everything they took has a result: at the latest when the delivery
    /// timeout (120 s) of the last record is over.
    pub async fn start(mut self) {
        // Nothing is ever sent: this is the end of the last appender.
        if let Some(never) = self.appenders.recv().await {
            match never {}
        }
        // Who wants to know what failed has the results of the records.
        let _ = self.producer.flush().await;
        match self.producer.close(END).await {
            Ok(report) if report.failed + report.unresolved == 0 => {}
            Ok(report) => tracing::warn!(
                stream = self.producer.stream(),
                failed = report.failed,
                unresolved = report.unresolved,
                "records were not stored; their results say why"
            ),
            Err(error) => {
                tracing::warn!(stream = self.producer.stream(), %error, "the producer did not end in order")
            }
        }
    }
}
