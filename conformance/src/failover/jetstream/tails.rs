//! What every node says is the newest record of a shard, all the time.

use anyhow::{Result, ensure};
use hstreamdb_proto::api::{GetTailRecordIdRequest, h_stream_api_client::HStreamApiClient};
use std::{collections::HashMap, net::SocketAddr, time::Duration};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::STREAM;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// A node that is away is passed over.
const ASK: Duration = Duration::from_secs(1);

/// Looks at tails until it is told to end.
pub(super) struct Tails {
    ended: CancellationToken,
    task: JoinHandle<Result<usize>>,
}

impl Tails {
    pub(super) fn watch(nodes: Vec<SocketAddr>, shards: Vec<u64>) -> Tails {
        let ended = CancellationToken::new();
        let task = tokio::spawn(look(nodes, shards, ended.clone()));
        Tails { ended, task }
    }

    /// How many answers there were.
    pub(super) async fn end(self) -> Result<usize> {
        self.ended.cancel();
        self.task.await?
    }
}

/// Asks one node after the other. What one has told, none may take back: whoever is asked later knows at least as much.
async fn look(nodes: Vec<SocketAddr>, shards: Vec<u64>, ended: CancellationToken) -> Result<usize> {
    let mut wires: HashMap<SocketAddr, HStreamApiClient<Channel>> = HashMap::new();
    let mut known: HashMap<u64, (u64, u32)> = HashMap::new();
    let mut answers = 0;
    for number in 0_usize.. {
        if ended.is_cancelled() {
            break;
        }
        let (node, shard) = (nodes[number % nodes.len()], shards[(number / nodes.len()) % shards.len()]);
        if let Ok(Ok(id)) = timeout(ASK, ask(&mut wires, node, shard)).await {
            answers += 1;
            let before = known.insert(shard, id).unwrap_or_default();
            ensure!(
                before <= id,
                "shard {shard} went back from {before:?} to {id:?}, says the node at {node}"
            );
        } else {
            wires.remove(&node);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(answers)
}

async fn ask(
    wires: &mut HashMap<SocketAddr, HStreamApiClient<Channel>>,
    node: SocketAddr,
    shard_id: u64,
) -> Result<(u64, u32)> {
    let wire = match wires.remove(&node) {
        Some(wire) => wire,
        None => HStreamApiClient::connect(format!("http://{node}")).await?,
    };
    let wire = wires.entry(node).or_insert(wire);
    let request = GetTailRecordIdRequest { stream_name: STREAM.to_owned(), shard_id };
    let id = wire.get_tail_record_id(request).await?.into_inner().tail_record_id.unwrap_or_default();
    Ok((id.batch_id, id.batch_index))
}
