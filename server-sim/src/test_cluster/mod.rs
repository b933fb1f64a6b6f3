//! A whole cluster in one process, for tests: nodes that talk through real sockets and can be stopped, killed, paused and
//! cut off one by one.
//!
//! ```
//! # use hstream_server::test_cluster::{TestCluster, TestClusterError};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), TestClusterError> {
//! let cluster = TestCluster::start(3).await?;
//! println!("clients connect to {}", cluster.url()); // hstream://127.0.0.1:41001,127.0.0.1:41003,…
//!
//! cluster.kill(2).await?; // its sockets fall silent; the others have to notice
//! // … whatever the test is about …
//! cluster.restart(2).await?;
//! cluster.await_ready(std::time::Duration::from_secs(30)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! All nodes share one embedded store in a folder of the cluster's own; each has a thread, a network and a way to that store
//! of its own. What they know of each other goes through gossip, the metadata and calls between nodes, as between machines;
//! what they do not have is a machine of their own: memory and processors are shared, and a disk that fails fails for all.
//!
//! Every method can be awaited in any executor. Nodes are named by their numbers, which begin at 1.

mod builder;
mod error;
mod machine;
mod offshore;
mod pause;
mod seat;
mod store;
mod threads;
mod waiting;

pub use builder::TestClusterBuilder;
pub use error::TestClusterError;
pub use seat::NodeStatus;

use crate::cluster::Members;
use seat::Seat;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use store::SharedStore;
use threads::Threads;
use tokio::time::Instant;

/// How long running calls may take to finish when a node is stopped.
const GRACE: Duration = Duration::from_secs(10);
/// Dropping a cluster gives up waiting for its end after this long.
const DROP_WITHIN: Duration = Duration::from_secs(30);

/// A cluster in this process. Dropping it ends all of it at once, waits for that and removes what it stored, unless the
/// folder was given by the user; [`TestCluster::shutdown`] is the orderly way.
#[derive(Debug)]
pub struct TestCluster {
    inner: Arc<Inner>,
    /// Of the store and of what is done to the nodes.
    threads: Option<Threads>,
}

/// What is done to a cluster goes on if the caller gives up, so that no node is left half stopped.
#[derive(Debug)]
struct Inner {
    seats: Vec<Seat>,
    store: SharedStore,
    /// Goes last.
    _folder: Option<tempfile::TempDir>,
}

impl TestCluster {
    /// Starts so many nodes on free ports and waits until each of them serves and sees all others do so.
    ///
    /// # Errors
    /// [`TestClusterError`].
    pub async fn start(nodes: u32) -> Result<TestCluster, TestClusterError> {
        TestCluster::builder().nodes(nodes).start().await
    }

    /// To start one that differs from [`TestCluster::start`].
    pub fn builder() -> TestClusterBuilder {
        TestClusterBuilder::default()
    }

    /// Numbers of all nodes, whatever state they are in.
    pub fn nodes(&self) -> impl Iterator<Item = u32> + '_ {
        self.inner.seats.iter().map(Seat::id)
    }

    /// For clients: all nodes.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.addresses().iter().map(ToString::to_string).collect();
        format!("hstream://{}", addresses.join(","))
    }

    /// Where clients reach the nodes, in the order of their numbers. They stay the same for the life of the cluster.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.inner.seats.iter().map(|seat| seat.client).collect()
    }

    /// Where clients reach this node.
    ///
    /// # Errors
    /// [`TestClusterError::UnknownNode`].
    pub fn address(&self, node: u32) -> Result<SocketAddr, TestClusterError> {
        Ok(self.inner.seat(node)?.client)
    }

    /// Where other nodes reach this node, UDP and TCP.
    ///
    /// # Errors
    /// [`TestClusterError::UnknownNode`].
    pub fn internal_address(&self, node: u32) -> Result<SocketAddr, TestClusterError> {
        Ok(self.inner.seat(node)?.internal)
    }

    /// How this node is.
    ///
    /// # Errors
    /// [`TestClusterError::UnknownNode`].
    pub async fn status(&self, node: u32) -> Result<NodeStatus, TestClusterError> {
        Ok(self.inner.seat(node)?.status().await)
    }

    /// Whom this node sees, itself included; `None` unless it runs.
    ///
    /// # Errors
    /// [`TestClusterError::UnknownNode`].
    pub async fn members(&self, node: u32) -> Result<Option<Members>, TestClusterError> {
        Ok(self.inner.seat(node)?.view().await.map(|(members, _)| members))
    }

    /// Stops a node in an orderly way, as SIGTERM does: it hands over what it owns, ends its calls and says goodbye.
    ///
    /// # Errors
    /// [`TestClusterError::Status`] unless it runs.
    pub async fn stop(&self, node: u32) -> Result<(), TestClusterError> {
        self.on(node, |_, seat| Box::pin(seat.stop(GRACE))).await
    }

    /// Switches a node off, as a power cut does: its sockets fall silent without being closed, nothing it was at is finished,
    /// nothing is handed over or cleaned up. Clients and nodes that are connected to it hear nothing any more, not even that.
    ///
    /// # Errors
    /// [`TestClusterError::Status`] unless it runs or is paused.
    pub async fn kill(&self, node: u32) -> Result<(), TestClusterError> {
        self.on(node, |_, seat| Box::pin(seat.kill())).await
    }

    /// Makes a node stand still: none of its tasks runs, no timer of it fires and no socket of it is looked at, while time
    /// goes on. What it had asked of the store happens all the same.
    ///
    /// # Errors
    /// [`TestClusterError::Status`] unless it runs; [`TestClusterError::Timeout`] if it is too busy to be stopped.
    pub async fn pause(&self, node: u32) -> Result<(), TestClusterError> {
        self.on(node, |_, seat| Box::pin(seat.pause())).await
    }

    /// Lets a paused node go on. Nobody tells it that it was away.
    ///
    /// # Errors
    /// [`TestClusterError::Status`] unless it is paused.
    pub async fn resume(&self, node: u32) -> Result<(), TestClusterError> {
        self.on(node, |_, seat| Box::pin(seat.resume())).await
    }

    /// Starts a node again that was stopped or killed; one that runs is stopped first. It has the same number and the same
    /// ports as before. Returns when it is up; [`TestCluster::await_ready`] waits until it serves.
    ///
    /// # Errors
    /// [`TestClusterError::Status`] if it is paused; [`TestClusterError::Start`].
    pub async fn restart(&self, node: u32) -> Result<(), TestClusterError> {
        self.on(node, |inner, seat| Box::pin(seat.restart(&inner.store, &inner.seats, GRACE))).await
    }

    /// Loses every packet between this node and all others until [`TestCluster::heal`]. Clients still reach it, and it still
    /// reaches the store; see [`TestCluster::cut_off_store`].
    ///
    /// # Errors
    /// [`TestClusterError::UnknownNode`].
    pub async fn partition(&self, node: u32) -> Result<(), TestClusterError> {
        let others: Vec<u32> = self.nodes().filter(|other| *other != node).collect();
        self.partition_between(&[node], &others).await
    }

    /// Loses every packet between the nodes of one group and those of the other until [`TestCluster::heal`]. A restart does
    /// not end it, either.
    ///
    /// # Errors
    /// [`TestClusterError::UnknownNode`].
    pub async fn partition_between(&self, one: &[u32], other: &[u32]) -> Result<(), TestClusterError> {
        for node in one.iter().chain(other) {
            self.inner.seat(*node)?;
        }
        let (one, other) = (one.to_vec(), other.to_vec());
        self.run(async move |inner| {
            let group = |nodes: &[u32]| nodes.iter().filter_map(|node| inner.seat(*node).ok()).collect();
            let (one, other): (Vec<&Seat>, Vec<&Seat>) = (group(&one), group(&other));
            for (here, there) in [(&one, &other), (&other, &one)] {
                for seat in here {
                    seat.part_from(there).await;
                }
            }
            Ok(())
        })
        .await
    }

    /// Ends all partitions; connections that were not given up meanwhile go on where they stood.
    ///
    /// # Errors
    /// [`TestClusterError::Died`].
    pub async fn heal(&self) -> Result<(), TestClusterError> {
        self.run(async move |inner| {
            for seat in &inner.seats {
                seat.rejoin(&inner.seats).await;
            }
            Ok(())
        })
        .await
    }

    /// Cuts a node's way to the store: its calls wait and fail in the end, and it sees nothing of what others store. A
    /// restart does not heal it.
    ///
    /// # Errors
    /// [`TestClusterError::UnknownNode`].
    pub async fn cut_off_store(&self, node: u32) -> Result<(), TestClusterError> {
        self.on(node, |_, seat| Box::pin(seat.set_store(false))).await
    }

    /// Ends [`TestCluster::cut_off_store`].
    ///
    /// # Errors
    /// [`TestClusterError::UnknownNode`].
    pub async fn heal_store(&self, node: u32) -> Result<(), TestClusterError> {
        self.on(node, |_, seat| Box::pin(seat.set_store(true))).await
    }

    /// Stops the nodes that run one after the other, in an orderly way, and closes the store. Running calls get ten seconds
    /// in all to finish.
    pub async fn shutdown(mut self) {
        let stopped = self.run(async move |inner| {
            let deadline = Instant::now() + GRACE;
            for seat in &inner.seats {
                if seat.status().await == NodeStatus::Running {
                    seat.stop(deadline.saturating_duration_since(Instant::now())).await?;
                }
            }
            Ok(())
        });
        if let Err(error) = stopped.await {
            tracing::warn!("a node of the test cluster did not stop in an orderly way: {error}");
        }
        if let Some(ended) = self.end() {
            // An error means that nobody could wait.
            let _ = ended.0.await;
        }
    }

    async fn on(
        &self,
        node: u32,
        work: impl for<'a> FnOnce(&'a Inner, &'a Seat) -> Work<'a> + Send + 'static,
    ) -> Result<(), TestClusterError> {
        self.inner.seat(node)?;
        self.run(async move |inner| work(&inner, inner.seat(node)?).await).await
    }

    /// Runs work on the cluster's own threads.
    async fn run<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> Result<T, TestClusterError>
    where
        F: Future<Output = Result<T, TestClusterError>> + Send + 'static,
    {
        let died = |reason: String| TestClusterError::Died { what: "the test cluster", reason };
        let runtime = self.threads.as_ref().and_then(Threads::handle);
        let runtime = runtime.ok_or_else(|| died("it has ended".into()))?;
        runtime.spawn(work(self.inner.clone())).await.unwrap_or_else(|error| Err(died(error.to_string())))
    }
}

type Work<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), TestClusterError>> + Send + 'a>>;

/// Hears when everything of a cluster has ended.
struct Ended(tokio::sync::oneshot::Receiver<()>, mpsc::Receiver<()>);

impl TestCluster {
    /// Ends all of it in a thread of its own; nothing the second time.
    fn end(&mut self) -> Option<Ended> {
        let threads = self.threads.take()?;
        let inner = self.inner.clone();
        let ((done, ended), (done_too, ended_too)) = (tokio::sync::oneshot::channel(), mpsc::channel());
        let end = move || {
            if let Some(runtime) = threads.handle() {
                runtime.block_on(async {
                    // All at once: together they take no longer than the slowest.
                    futures::future::join_all(inner.seats.iter().map(Seat::end)).await;
                    inner.store.close().await;
                });
            }
            // The folder goes with the last of them, which is one of these two.
            let ended = threads.end(());
            let _ = ended.blocking_recv();
            drop(inner);
            let _ = (done.send(()), done_too.send(()));
        };
        match std::thread::Builder::new().name("hstream-end".into()).spawn(end) {
            Ok(_) => Some(Ended(ended, ended_too)),
            Err(error) => {
                tracing::warn!(%error, "no thread to end a test cluster in");
                None
            }
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if let Some(Ended(_, ended)) = self.end()
            && ended.recv_timeout(DROP_WITHIN).is_err()
        {
            tracing::warn!("a test cluster did not end within {DROP_WITHIN:?}");
        }
    }
}

impl Inner {
    fn seat(&self, node: u32) -> Result<&Seat, TestClusterError> {
        self.seats.iter().find(|seat| seat.id() == node).ok_or_else(|| TestClusterError::UnknownNode {
            node,
            first: self.seats.first().map_or(0, Seat::id),
            last: self.seats.last().map_or(0, Seat::id),
        })
    }
}
