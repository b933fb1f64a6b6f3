//! The calls about readers that a server keeps.

use crate::cluster::{Cluster, NodeAddress, Patience, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::retry::Operation;
use futures::future::join_all;
use hstreamdb_proto::api::{
    CreateShardReaderRequest, DeleteShardReaderRequest, ListShardReadersRequest, LookupShardReaderRequest,
    ReadShardRequest, ReceivedRecord,
};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The class that says that there is no reader of this id, in a FAILED_PRECONDITION status.
const NO_READER: &str = "EmptyShardReader";
/// Owners asked one after another while the reader moves.
const OWNERS: u32 = 3;
/// Ids kept for deletion. More can only come together while a server takes creations and refuses deletions.
const MOST_REMAINS: usize = 100;

/// Whether the error says that the server has no such reader.
pub(crate) fn is_gone(error: &Error) -> bool {
    error.kind() == ErrorKind::FailedPrecondition && error.message() == NO_READER
}

/// Creates a reader; `repeatable` where an id that exists already can only be our own.
pub(super) async fn create(
    cluster: &Cluster,
    request: &CreateShardReaderRequest,
    repeatable: bool,
) -> Result<()> {
    let name = "create shard reader";
    let operation = if repeatable { Operation::repeatable(name) } else { Operation::once(name) };
    let created = cluster.call(operation, Some(&request.reader_id), Target::Any, |mut client| {
        let request = request.clone();
        async move { client.create_shard_reader(request).await }
    });
    match created.await {
        Ok(_) => Ok(()),
        Err(error) if repeatable && error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The node a reader lives on: elsewhere it would begin anew, and could not be deleted.
pub(super) async fn owner(cluster: &Cluster, id: &str) -> Result<NodeAddress> {
    let request = LookupShardReaderRequest { reader_id: id.to_owned() };
    let answer =
        cluster.call(Operation::read("look up shard reader"), Some(id), Target::Any, |mut client| {
            let request = request.clone();
            async move { client.lookup_shard_reader(request).await }
        });
    cluster.address_of(answer.await?.server_node.as_ref())
}

/// One poll, tried once: it moves the reader.
pub(super) async fn poll(
    cluster: &Cluster,
    node: &NodeAddress,
    id: &str,
    max_batches: u32,
    wait: Duration,
) -> Result<Vec<ReceivedRecord>> {
    let limit = wait.saturating_add(cluster.request_timeout());
    let request = ReadShardRequest { reader_id: id.to_owned(), max_records: max_batches };
    let call = async {
        let contact = cluster.channel_with_deadline(node, limit).await?;
        let mut client = contact.client.clone();
        let answer = cluster.answered(node, &contact, Patience::Brief, client.read_shard(request)).await;
        answer
            .map_err(|silent| silent.with_operation("read"))?
            .map_err(|status| Error::from_status("read", &status))
    };
    let error = match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => return Ok(response.into_inner().received_records),
        Ok(Err(error)) => error,
        Err(_) => Error::new(ErrorKind::Timeout, "read")
            .with_message(format!("no answer within {limit:?}"))
            .with_transport(true),
    };
    if error.is_transport() {
        cluster.mark_suspect(node, &error);
    }
    // Wherever the server's reader is now, what was not delivered is read again.
    Err(error.with_node(node).with_may_have_been_applied(false))
}

/// One poll of a reader of which only the id is known, at its owner.
///
/// # Errors
/// `NotFound` when there is none. What may have moved the reader says so.
pub(crate) async fn read(
    cluster: &Cluster,
    id: &str,
    max_batches: u32,
    wait: Duration,
) -> Result<Vec<ReceivedRecord>> {
    let mut asked = 0;
    loop {
        asked += 1;
        let node = owner(cluster, id).await?;
        let error = match poll(cluster, &node, id, max_batches, wait).await {
            Ok(received) => return Ok(received),
            Err(error) => error.with_resource(id),
        };
        // It has moved to another node, and did not answer.
        if error.kind() == ErrorKind::Routing && asked < OWNERS {
            continue;
        }
        let unclear = error.is_transport();
        return Err(if is_gone(&error) { error.with_kind(ErrorKind::NotFound) } else { error }
            .with_may_have_been_applied(unclear));
    }
}

/// Ids of all readers that the cluster keeps.
pub(crate) async fn list(cluster: &Cluster) -> Result<Vec<String>> {
    let answer =
        cluster.call(Operation::read("list shard readers"), None, Target::Any, |mut client| async move {
            client.list_shard_readers(ListShardReadersRequest {}).await
        });
    let mut ids = answer.await?.reader_id;
    ids.sort_unstable();
    Ok(ids)
}

/// Deletes a reader at its owner.
///
/// # Errors
/// `NotFound` when there was none.
pub(crate) async fn delete(cluster: &Cluster, id: &str) -> Result<()> {
    let operation = Operation::repeatable("delete shard reader");
    let request = DeleteShardReaderRequest { reader_id: id.to_owned() };
    let mut asked = 0;
    let mut unclear = false;
    loop {
        asked += 1;
        let owner = owner(cluster, id).await?;
        let deleted = cluster.call(operation, Some(id), Target::Node(owner), |mut client| {
            let request = request.clone();
            async move { client.delete_shard_reader(request).await }
        });
        let error = match deleted.await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        // An earlier try may have done it, and its answer been lost.
        if is_gone(&error) && (unclear || error.tries() > 1) {
            return Ok(());
        }
        unclear |= error.may_have_been_applied();
        let moved = error.kind() == ErrorKind::Routing || error.is_transport();
        if !moved || asked == OWNERS {
            return Err(if is_gone(&error) { error.with_kind(ErrorKind::NotFound) } else { error });
        }
    }
}

/// Readers that may be on the server because of us, the newest last.
#[derive(Debug, Default)]
pub(super) struct Remains(Mutex<Vec<String>>);

impl Remains {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, id: &str) {
        let mut ids = self.lock();
        if ids.iter().any(|known| known == id) {
            return;
        }
        if ids.len() >= MOST_REMAINS {
            let id = ids.remove(0);
            tracing::warn!(id, "a polled reader is left on the server: too many could not be deleted");
        }
        ids.push(id.to_owned());
    }

    pub fn remove(&self, id: &str) {
        self.lock().retain(|known| known != id);
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub fn newest(&self) -> Option<String> {
        self.lock().last().cloned()
    }

    fn all(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// All but the one in use.
    pub fn abandoned(&self, in_use: &str) -> Vec<String> {
        self.lock().iter().filter(|id| *id != in_use).cloned().collect()
    }
}

/// Deletes these; what cannot be deleted now stays in `remains`.
pub(super) async fn delete_these(cluster: &Cluster, remains: &Remains, ids: &[String]) -> Result<()> {
    let deletions = ids.iter().map(|id| async move {
        match delete(cluster, id).await {
            Ok(()) => remains.remove(id),
            Err(error) if error.kind() == ErrorKind::NotFound => remains.remove(id),
            Err(error) => return Err(error),
        }
        Ok(())
    });
    join_all(deletions).await.into_iter().collect()
}

/// Deletes all that remains, within the time.
pub(super) async fn delete_all(
    cluster: Cluster,
    remains: std::sync::Arc<Remains>,
    timeout: Duration,
) -> Result<()> {
    let ids = remains.all();
    match tokio::time::timeout(timeout, delete_these(&cluster, &remains, &ids)).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(ErrorKind::Timeout, "delete shard reader")
            .with_resource(remains.all().join(", "))
            .with_message(format!("not done within {timeout:?}; delete_shard_reader can do it later"))
            .with_may_have_been_applied(true)),
    }
}
