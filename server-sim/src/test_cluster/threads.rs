//! Runtimes that may be dropped anywhere.

use super::error::TestClusterError;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// Tasks of a runtime end at their next wait, work that blocks (reading a file) when it is done.
const END_WITHIN: Duration = Duration::from_secs(10);

/// A runtime. Dropping it waits for nothing, so that it can be dropped where waiting is not allowed.
#[derive(Debug)]
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    /// So many worker threads of this name.
    pub(super) fn start(
        name: String,
        workers: usize,
        node: Option<u32>,
    ) -> Result<Threads, TestClusterError> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(workers).thread_name(name).enable_all();
        if let Some(node) = node {
            builder.on_thread_start(move || crate::log_output::of_node(node));
        }
        let runtime =
            builder.build().map_err(|source| TestClusterError::Machine { what: "start threads", source })?;
        Ok(Threads(Some(runtime)))
    }

    /// Where tasks are spawned.
    pub(super) fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }

    /// Drops every task, waits until all threads have ended, drops `rest` and says so. In a thread of its own.
    pub(super) fn end<T: Send + 'static>(mut self, rest: T) -> oneshot::Receiver<()> {
        let (done, ended) = oneshot::channel();
        let Some(runtime) = self.0.take() else { return ended };
        let end = move || {
            runtime.shutdown_timeout(END_WITHIN);
            drop(rest);
            // Fails when nobody waits.
            let _ = done.send(());
        };
        if let Err(error) = std::thread::Builder::new().name("hstream-end".into()).spawn(end) {
            // The closure is gone, and the runtime with it, unwaited for.
            tracing::warn!(%error, "no thread to end a runtime in");
        }
        ended
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
