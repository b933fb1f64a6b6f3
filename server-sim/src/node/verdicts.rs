//! Suspects that have no session any more are dead.
//!
//! A suspect is given time because it may be alive, and then what it serves should stay with it. Once its lease has run
//! out it serves nothing, so that there is nothing to wait for: gossip is told, and finds it dead at once. On a machine
//! that is short of processor time, where gossip takes its time with verdicts, this is what ends the wait.

use crate::cluster::gossip::Gossip;
use crate::cluster::ownership::Ownership;
use crate::cluster::{MemberState, Members, NodeId};
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause after the store failed.
const RETRY: Duration = Duration::from_millis(200);

/// A run of a node.
type Run = (NodeId, u64);

/// Tells gossip which suspects have no session any more, until the node stops.
pub(super) async fn confirm(gossip: Gossip, ownership: Arc<Ownership>, stop: CancellationToken) {
    let mut members = gossip.members();
    let mut told = BTreeSet::<Run>::new();
    loop {
        let suspects = suspects(&members.borrow_and_update());
        told.retain(|run| suspects.contains(run));
        let waits = suspects.difference(&told).map(|&run| {
            let ownership = &ownership;
            async move {
                over(ownership, run).await;
                run
            }
        });
        let mut waits: FuturesUnordered<_> = waits.collect();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = members.changed() => if changed.is_err() { return },
            Some(run) = waits.next() => {
                told.insert(run);
                gossip.session_over(run.0, run.1).await;
            }
        }
    }
}

fn suspects(members: &Members) -> BTreeSet<Run> {
    let suspects = members.nodes.values().filter(|member| member.state == MemberState::Suspect);
    suspects.map(|member| (member.id, member.generation)).collect()
}

async fn over(ownership: &Ownership, (node, generation): Run) {
    while let Err(error) = ownership.session_over(node, generation).await {
        tracing::debug!(%node, %error, "whether a suspect has a session is not known, trying again");
        tokio::time::sleep(RETRY).await;
    }
}
