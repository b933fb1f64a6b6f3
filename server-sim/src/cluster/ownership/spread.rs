//! Giving resources to other nodes: all of them before a planned stop, single ones to newcomers.

use super::owners::State;
use super::placement::place_resource;
use super::record::OwnerRecord;
use super::resource::Resource;
use crate::cluster::NodeId;
use crate::store::{Expect, StoreError};
use futures::stream::{self, StreamExt as _};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;

/// A node with more than its share gives one resource away this often.
const SPREAD_EVERY: Duration = Duration::from_secs(5);
/// Resources given away at the same time before a stop.
const DRAINED_AT_ONCE: usize = 16;
/// Longest wait for what serves a resource to write what is to be kept.
const LET_GO: Duration = Duration::from_secs(5);

/// The nodes that should get something from `me`: those with less than their share, while `me` has clearly more than its
/// own, which is a tenth and one more. `counts` is what each node has, `takers` are those that take anything.
pub(super) fn receivers(me: NodeId, takers: &[NodeId], counts: &BTreeMap<NodeId, usize>) -> Vec<NodeId> {
    let count = |node: &NodeId| counts.get(node).copied().unwrap_or(0);
    let total: usize = takers.iter().map(count).sum();
    let share = total / takers.len().max(1);
    if !takers.contains(&me) || count(&me) <= share + share / 10 + 1 {
        return Vec::new();
    }
    takers.iter().copied().filter(|node| *node != me && count(node) < share.max(1)).collect()
}

/// What to give away first, and to whom: what nobody would notice, and what belongs there by its placement.
pub(super) fn choose<'a>(
    mine: impl Iterator<Item = (&'a Resource, bool)>,
    takers: &[NodeId],
    receivers: &[NodeId],
) -> Option<(&'a Resource, NodeId)> {
    let rated = mine.filter_map(|(resource, idle)| {
        let to = place_resource(resource, receivers.iter().copied())?;
        let belongs_there = place_resource(resource, takers.iter().copied()) == Some(to);
        Some(((!idle, !belongs_there, resource), to))
    });
    rated.min().map(|((_, _, resource), to)| (resource, to))
}

impl State {
    /// Gives single resources away as long as this node has clearly more than its share.
    pub(super) async fn spread(&self) {
        loop {
            tokio::time::sleep(SPREAD_EVERY).await;
            if self.draining.load(Ordering::Acquire) || !self.session.term().is_valid() {
                continue;
            }
            if self.catch_up().await.is_err() {
                continue;
            }
            let Some((resource, to)) = self.too_much() else { continue };
            match self.hand_over(&resource, to).await {
                Ok(()) => tracing::info!(%resource, %to, "given to a node that has less"),
                Err(error) => tracing::warn!(%resource, %to, %error, "cannot be given to another node"),
            }
        }
    }

    /// What this node should give away next.
    fn too_much(&self) -> Option<(Resource, NodeId)> {
        let takers = self.takers();
        let table = self.table();
        let to = receivers(self.me(), &takers, &table.counts());
        if to.is_empty() {
            return None;
        }
        let mine = table.of(self.me()).map(|resource| {
            let idle = self.keeper(resource.kind).is_none_or(|keeper| keeper.is_idle(&resource.id));
            (resource, idle)
        });
        choose(mine, &takers, &to).map(|(resource, to)| (resource.clone(), to))
    }

    /// Before a planned stop: takes nothing any more and gives everything away.
    pub(super) async fn drain(&self, patience: Duration) {
        self.draining.store(true, Ordering::Release);
        let all = async {
            if let Err(error) = self.catch_up().await {
                tracing::warn!(%error, "cannot read what this node owns");
            }
            let mine: Vec<Resource> = self.table().of(self.me()).cloned().collect();
            let given = stream::iter(mine).map(async |resource: Resource| {
                let Some(to) = place_resource(&resource, self.takers()) else { return };
                if let Err(error) = self.hand_over(&resource, to).await {
                    tracing::warn!(%resource, %to, %error, "cannot be given to another node; it takes it when this one has left");
                }
            });
            given.buffer_unordered(DRAINED_AT_ONCE).collect::<Vec<()>>().await;
        };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!(
                "not everything was given to other nodes in time; they take it when this one has left"
            );
        }
    }

    /// Gives a resource of ours to another node, which can serve it at once.
    pub(super) async fn hand_over(&self, resource: &Resource, to: NodeId) -> Result<(), StoreError> {
        self.leaving().insert(resource.clone(), to);
        let _stays = Leaving { state: self, resource };
        // From here on nothing leaves; what is to be kept can be written until the record changes.
        let held = self.claims().get(resource).cloned();
        if let Some(claim) = &held {
            self.end(claim);
            if let Some(keeper) = self.keeper(resource.kind)
                && tokio::time::timeout(LET_GO, keeper.let_go(&resource.id)).await.is_err()
            {
                tracing::warn!(%resource, "moves before its last acknowledgements were written");
            }
        }
        let key = resource.key();
        self.in_turn(resource, async |_: &Notify| {
            let Some((record, version)) =
                self.stored(&key).await?.filter(|(record, _)| record.node == self.me())
            else {
                return Ok(());
            };
            let term = self.session.term();
            let term = held.as_ref().map_or(&term, |claim| claim.term());
            let previous = record.holder().filter(|holder| !self.is_ours(holder, term));
            let next = OwnerRecord::assigned(record.epoch + 1, to, previous);
            match self.write(&key, &next, Expect::Version(version)).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await
    }
}

/// Ends a hand-over, however it ends.
struct Leaving<'a> {
    state: &'a State,
    resource: &'a Resource,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.state.leaving().remove(self.resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ownership::Kind;
    use proptest::prelude::*;

    fn nodes(ids: &[u32]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn counts(of: &[(u32, usize)]) -> BTreeMap<NodeId, usize> {
        of.iter().map(|&(node, count)| (NodeId(node), count)).collect()
    }

    #[test]
    fn only_who_has_clearly_more_gives_and_only_to_those_who_have_less() {
        let all = nodes(&[1, 2, 3]);
        let to = |me, of: &[(u32, usize)]| receivers(NodeId(me), &all, &counts(of));
        assert_eq!(to(1, &[(1, 10), (2, 10)]), nodes(&[3]));
        assert_eq!(to(3, &[(1, 10), (2, 10)]), []);
        assert_eq!(to(1, &[(1, 8), (2, 7), (3, 6)]), [], "near enough");
        assert_eq!(to(1, &[(1, 1)]), [], "one thing cannot be shared");
        assert_eq!(to(1, &[(1, 3)]), nodes(&[2, 3]));
        assert_eq!(to(1, &[(1, 2)]), nodes(&[2, 3]));
        assert_eq!(
            to(1, &[(1, 30), (9, 60)]),
            nodes(&[2, 3]),
            "what a node has that is gone counts for nobody"
        );
        assert_eq!(
            receivers(NodeId(1), &nodes(&[2, 3]), &counts(&[(1, 30)])),
            [],
            "who drains does that otherwise"
        );
        assert_eq!(receivers(NodeId(1), &[], &counts(&[(1, 30)])), []);
    }

    #[test]
    fn idle_things_go_first_and_among_them_those_that_belong_there() {
        let all = nodes(&[1, 2, 3]);
        let things: Vec<Resource> =
            (0..40).map(|id| Resource::new(Kind::Subscription, format!("s{id:02}"))).collect();
        let belongs =
            |thing: &Resource, node| place_resource(thing, all.iter().copied()) == Some(NodeId(node));
        let idle = |thing: &Resource| thing.id.as_str() >= "s20";
        let mine = || things.iter().map(|thing| (thing, idle(thing)));
        let (first, to) = choose(mine(), &all, &nodes(&[3])).unwrap();
        assert_eq!(to, NodeId(3));
        assert!(idle(first) && belongs(first, 3), "{first}");
        let foreign = mine().filter(|(thing, _)| !(idle(thing) && belongs(thing, 3)));
        let (second, _) = choose(foreign, &all, &nodes(&[3])).unwrap();
        assert!(idle(second), "{second}");
        assert_eq!(choose(std::iter::empty(), &all, &nodes(&[3])), None);
    }

    proptest! {
        /// All nodes give at the same time, each knowing what all had before.
        #[test]
        fn giving_comes_to_an_end_and_leaves_nobody_with_much_more(start in proptest::collection::vec(0_usize..60, 1..8)) {
            let takers: Vec<NodeId> = (0..start.len() as u32).map(NodeId).collect();
            let mut counts: BTreeMap<NodeId, usize> = takers.iter().copied().zip(start).collect();
            let total: usize = counts.values().sum();
            let mut rounds = 0;
            loop {
                let before = counts.clone();
                for &me in &takers {
                    let to = receivers(me, &takers, &before);
                    let chosen = place_resource(&Resource::new(Kind::Subscription, format!("{me}-{rounds}")), to);
                    if let Some(to) = chosen {
                        *counts.get_mut(&me).unwrap() -= 1;
                        *counts.get_mut(&to).unwrap() += 1;
                    }
                }
                if counts == before {
                    break;
                }
                rounds += 1;
                prop_assert!(rounds <= 2 * total, "it goes round and round");
            }
            let share = total / takers.len();
            prop_assert!(counts.values().all(|&count| count <= share + share / 10 + takers.len()));
        }
    }
}
