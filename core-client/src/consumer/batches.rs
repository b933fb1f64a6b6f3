//! A consumer as a stream of batches.

use super::Consumer;
use crate::error::Result;
use crate::record::ReceivedBatch;
use futures::Stream;
use futures::stream::{BoxStream, StreamExt as _};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The batches of a consumer, one at a time; made by [`Consumer::batches`]. Ends when the consumer has stopped; the error
/// that ended it, if one did, is the last item.
///
/// Nothing is taken from the consumer before it is polled for, and dropping the stream loses nothing.
pub struct Batches(BoxStream<'static, Result<ReceivedBatch>>);

impl Batches {
    pub(super) fn new(consumer: Consumer) -> Self {
        let next = |consumer: Consumer| async move {
            let item = consumer.next_batch().await.transpose()?;
            Some((item, consumer))
        };
        Batches(futures::stream::unfold(consumer, next).boxed())
    }
}

impl Stream for Batches {
    type Item = Result<ReceivedBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").finish_non_exhaustive()
    }
}
