//! A reader as a stream of batches.

use super::Reader;
use crate::error::Result;
use crate::record::ReceivedBatch;
use futures::Stream;
use futures::stream::{BoxStream, StreamExt as _};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The batches of a reader, one at a time; made by [`Reader::batches`]. Ends where the reader ends; the error that ended
/// it, if one did, is the last item. (With a timeout, `Timeout` is an item like others, and more may follow.)
///
/// Nothing is taken from the reader before it is polled for, and dropping the stream loses nothing.
pub struct ReaderBatches(BoxStream<'static, Result<ReceivedBatch>>);

impl ReaderBatches {
    pub(super) fn new(reader: Reader) -> Self {
        let next = |reader: Reader| async move {
            let item = reader.next_batch().await.transpose()?;
            Some((item, reader))
        };
        ReaderBatches(futures::stream::unfold(reader, next).boxed())
    }
}

impl Stream for ReaderBatches {
    type Item = Result<ReceivedBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for ReaderBatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderBatches").finish_non_exhaustive()
    }
}
