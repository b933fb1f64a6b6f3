//! Following the leases and the owner records of others.

use super::claim::Claim;
use super::owners::State;
use super::record::{Holder, OwnerRecord};
use super::resource::Resource;
use super::table;
use crate::store::{Expect, MetaChange, MetaWatch, Seen, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Pause after the store failed.
const RETRY: Duration = Duration::from_millis(200);

impl State {
    /// Follows leases and owner records as long as the node lives.
    pub(super) async fn follow(self: Arc<Self>, mut leases: MetaWatch, mut owners: MetaWatch) {
        let mut terms = self.session.terms();
        loop {
            tokio::select! {
                seen = leases.next() => match seen {
                    Some(Seen::Change(MetaChange { key, value, version })) => {
                        self.leases.note(&key, value.as_deref(), version);
                    }
                    Some(Seen::Missed) => {
                        while let Err(error) = self.leases.list(&*self.meta).await {
                            tracing::debug!(%error, "cannot list the leases, trying again");
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                    None => return,
                },
                seen = owners.next() => match seen {
                    Some(Seen::Change(change)) => self.changed(&change),
                    Some(Seen::Missed) => self.compare_all().await,
                    None => return,
                },
                changed = terms.changed() => match changed {
                    // Claims of the term that ended are worth nothing any more.
                    Ok(()) => self.claims().retain(|_, claim| claim.is_valid()),
                    Err(_) => return,
                },
            }
        }
    }

    fn changed(self: &Arc<Self>, change: &MetaChange) {
        let Some(resource) = Resource::parse(&change.key) else { return };
        let record = match change.value.as_ref().map(|value| OwnerRecord::decode(&change.key, value)) {
            Some(Ok(record)) => Some(record),
            Some(Err(_)) | None => None,
        };
        self.compare_one(&resource, record.as_ref(), change.version);
        if let Some(turn) = self.turns().get(&resource) {
            turn.news.notify_one();
        }
    }

    fn compare_one(self: &Arc<Self>, resource: &Resource, record: Option<&OwnerRecord>, version: u64) {
        let held = self.claims().get(resource).cloned();
        if let Some(claim) = held
            && !self.compare(&claim, record, version)
        {
            tracing::info!(%resource, "another node takes over");
        }
        let previous = record.and_then(|record| record.previous);
        if previous.is_some_and(|previous| self.is_ours(&previous, &self.session.term())) {
            tokio::spawn(self.clone().let_go(resource.clone()));
        }
    }

    /// Says that we do not serve any more what was given to another node.
    async fn let_go(self: Arc<Self>, resource: Resource) {
        let key = resource.key();
        loop {
            let term = self.session.term();
            let done = self
                .in_turn(&resource, async |_: &Notify| {
                    let Some((record, version)) = self.stored(&key).await? else { return Ok(()) };
                    let ours = |previous: &Holder| self.is_ours(previous, &term);
                    if !record.previous.as_ref().is_some_and(ours) || self.held(&resource).is_some() {
                        return Ok(());
                    }
                    let free = OwnerRecord::assigned(record.epoch + 1, record.node, None);
                    match self.write(&key, &free, Expect::Version(version)).await {
                        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
                        Err(error) => Err(error),
                    }
                })
                .await;
            match done {
                Err(error) if term.is_valid() => {
                    tracing::debug!(%resource, %error, "cannot say that this was let go, trying again");
                    tokio::time::sleep(RETRY).await;
                }
                Ok(()) | Err(_) => return,
            }
        }
    }

    /// Compares all claims with the store after changes were missed.
    async fn compare_all(self: &Arc<Self>) {
        let listed = loop {
            match table::list(&*self.meta).await {
                Ok(listed) => break listed,
                Err(error) => {
                    tracing::debug!(%error, "cannot list the owner records, trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let mut held: HashMap<Resource, Claim> = self.claims().clone();
        for (resource, record, version) in &listed {
            self.compare_one(resource, Some(record), *version);
            held.remove(resource);
        }
        // Those that are not there any more; one claimed just now is found by its write.
        for (resource, claim) in held {
            if let Ok(None) = self.stored(&resource.key()).await {
                self.end(&claim);
            }
        }
        for turn in self.turns().values() {
            turn.news.notify_one();
        }
    }
}
