//! Taking a resource, and what keeps a claim up to date.

use super::claim::{Claim, ClaimError};
use super::decision::{Decision, decide};
use super::lease::wait_for;
use super::owners::State;
use super::record::{Holder, OwnerRecord};
use super::resource::Resource;
use super::session::Term;
use crate::store::{Expect, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a store may take over one answer of a claim.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

impl State {
    pub(super) async fn claim(
        self: Arc<Self>,
        resource: Resource,
        insist: bool,
    ) -> Result<Claim, ClaimError> {
        // In a task: a caller that goes away must not leave a claim behind that nobody knows of.
        let work = async move {
            self.in_turn(&resource, async |news: &Notify| self.take(&resource, insist, news).await).await
        };
        tokio::spawn(work)
            .await
            .unwrap_or_else(|error| Err(ClaimError::NotYet(format!("the claim ended early: {error}"))))
    }

    /// Takes a resource if it may be taken; the caller has its turn.
    async fn take(&self, resource: &Resource, insist: bool, news: &Notify) -> Result<Claim, ClaimError> {
        let key = resource.key();
        let wait = wait_for(self.session.term().lease());
        let give_up = Instant::now() + wait * 3;
        // The record's version, and since when this claim has seen it.
        let mut seen: Option<(Option<u64>, Instant)> = None;
        loop {
            if let Some(claim) = self.held(resource) {
                return Ok(claim);
            }
            let mut members = self.members.clone();
            members.mark_unchanged();
            let term = self.session.term();
            if !term.is_valid() {
                return Err(ClaimError::NotYet(format!(
                    "node {} has no lease right now; try again",
                    self.me()
                )));
            }
            if let Some(&to) = self.leaving().get(resource) {
                return Err(ClaimError::Elsewhere(to));
            }
            let found = self.stored(&key).await?;
            let (epoch, version) =
                found.as_ref().map_or((0, None), |(record, version)| (record.epoch, Some(*version)));
            let expect = version.map_or(Expect::Absent, Expect::Version);
            let since = match seen {
                Some((last, since)) if last == version => since,
                _ => Instant::now(),
            };
            seen = Some((version, since));
            let holder = match decide(found.as_ref().map(|(record, _)| record), &self.view(resource), insist)
            {
                Decision::Elsewhere(node) => return Err(ClaimError::Elsewhere(node)),
                Decision::NoTaker => return Err(ClaimError::NoTaker),
                Decision::PassOn(node) => {
                    let holder = found.and_then(|(record, _)| record.holder());
                    let previous = holder.filter(|holder| !self.is_ours(holder, &term));
                    match self.write(&key, &OwnerRecord::assigned(epoch + 1, node, previous), expect).await {
                        Ok(_) => return Err(ClaimError::Elsewhere(node)),
                        Err(StoreError::Conflict { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                Decision::Take(holder) => holder.filter(|holder| !self.is_ours(holder, &term)),
            };
            if let Some(holder) = holder {
                // An owner that gossip holds for dead and that renews its lease all the same gets that long to come back.
                let wanted = found.is_some_and(|(record, _)| record.node == self.me());
                let force_at = if wanted { give_up } else { give_up.min(since + wait) };
                tokio::select! {
                    over = self.leases.over(&*self.meta, &holder) => over?,
                    () = news.notified() => continue,
                    Ok(()) = members.changed() => continue,
                    () = tokio::time::sleep_until(force_at) => {
                        if force_at == give_up {
                            return Err(ClaimError::NotYet(format!(
                                "{resource} is still held by node {}; try again", holder.node
                            )));
                        }
                        // It is told to let go by that, and says when it has.
                        let wanted = OwnerRecord::assigned(epoch + 1, self.me(), Some(holder));
                        match self.write(&key, &wanted, expect).await {
                            Ok(_) | Err(StoreError::Conflict { .. }) => continue,
                            Err(error) => return Err(error.into()),
                        }
                    }
                }
            }
            let claimed = OwnerRecord::claimed(epoch + 1, self.holder(&term));
            match self.write(&key, &claimed, expect).await {
                Ok(version) => return self.register(Claim::new(resource.clone(), term, Some(version))),
                Err(StoreError::Conflict { .. }) => {}
                // Should it have been written all the same, the next claim finds it to be ours.
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn is_ours(&self, holder: &Holder, term: &Term) -> bool {
        holder.node == self.me() && holder.session == term.generation()
    }

    fn holder(&self, term: &Term) -> Holder {
        let lease_ms = u64::try_from(term.lease().as_millis()).unwrap_or(u64::MAX);
        Holder { node: self.me(), session: term.generation(), lease_ms }
    }

    pub(super) async fn write(
        &self,
        key: &str,
        record: &OwnerRecord,
        expect: Expect,
    ) -> Result<u64, StoreError> {
        bounded(self.meta.put(key, record.encode()?, expect)).await
    }

    fn register(&self, claim: Claim) -> Result<Claim, ClaimError> {
        self.claims().insert(claim.resource().clone(), claim.clone());
        // What was written between our write and this line found no claim to end.
        let known = {
            let mut table = self.table();
            table.catch_up();
            table.get(claim.resource()).cloned()
        };
        if let Some((record, version)) = known {
            self.compare(&claim, Some(&record), version);
        }
        if claim.is_valid() {
            return Ok(claim);
        }
        Err(ClaimError::NotYet(format!("{} went elsewhere at once; try again", claim.resource())))
    }

    /// Ends a claim if its owner record, in a later version, says something else. True if it goes on.
    pub(super) fn compare(&self, claim: &Claim, record: Option<&OwnerRecord>, version: u64) -> bool {
        let later = claim.version().is_some_and(|held| held < version);
        let ours = record.is_some_and(|record| {
            record.session.is_some()
                && record.holder().is_some_and(|holder| self.is_ours(&holder, claim.term()))
        });
        if !later || ours {
            return true;
        }
        self.end(claim);
        false
    }

    /// Ends a claim on this node.
    pub(super) fn end(&self, claim: &Claim) {
        claim.revoke();
        let mut claims = self.claims();
        if claims.get(claim.resource()).is_some_and(|there| there.is(claim)) {
            claims.remove(claim.resource());
        }
    }

    /// The owner record under a key as it is in the store now, with its version.
    pub(super) async fn stored(&self, key: &str) -> Result<Option<(OwnerRecord, u64)>, StoreError> {
        let found = bounded(self.meta.get(key)).await?;
        found.map(|found| OwnerRecord::found(key, &found)).transpose()
    }

    pub(super) async fn renew_guard(&self, claim: &Claim) -> Result<(), StoreError> {
        let key = claim.resource().key();
        let lost = || {
            self.end(claim);
            Err(StoreError::Conflict { key: key.clone() })
        };
        let Some((record, version)) = self.stored(&key).await? else { return lost() };
        let ours =
            record.session.is_some() && record.holder().is_some_and(|one| self.is_ours(&one, claim.term()));
        if !ours || !claim.is_valid() {
            return lost();
        }
        let next = OwnerRecord::claimed(record.epoch + 1, self.holder(claim.term()));
        match self.write(&key, &next, Expect::Version(version)).await {
            Ok(version) => {
                claim.set_version(version);
                Ok(())
            }
            Err(StoreError::Conflict { .. }) => lost(),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn forget(&self, claim: &Claim) -> Result<(), StoreError> {
        let key = claim.resource().key();
        self.in_turn(claim.resource(), async |_: &Notify| {
            self.end(claim);
            let Some((record, version)) = self.stored(&key).await? else { return Ok(()) };
            if !record.holder().is_some_and(|holder| self.is_ours(&holder, claim.term())) {
                return Ok(());
            }
            match bounded(self.meta.delete(&key, Expect::Version(version))).await {
                Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(STORE_PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Io(format!(
            "the metadata store has not answered within {STORE_PATIENCE:?}; whether it did what was asked is not known"
        ))),
    }
}
