//! Suspect nodes are asked in the background until they answer or the cluster gives them up.

use super::{Cluster, Inner, NodeAddress, Patience};
use crate::retry::RetryPolicy;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// Pauses between two probes of a node: a restart takes about a second, and a node that is gone for good is worth one
/// connection in ten seconds. Without end: a bootstrap address is kept for ever.
const PROBES: RetryPolicy =
    RetryPolicy { max_attempts: u32::MAX, base: Duration::from_millis(250), max: Duration::from_secs(10) };

impl Cluster {
    /// Probes the node as long as this suspicion stands; its connection is made anew for it, so names are resolved again.
    pub(super) fn start_probing(&self, address: NodeAddress, suspicion: u64) {
        let (weak, closed) = (Arc::downgrade(&self.0), self.0.closed.clone());
        let pauses = PROBES.backoff(rand::random::<f64>);
        let probing = async move {
            for pause in pauses {
                tokio::time::sleep(pause).await;
                let Some(inner) = Weak::<Inner>::upgrade(&weak) else { return };
                if Cluster(inner).probe(&address, suspicion).await {
                    return;
                }
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = closed.cancelled() => {}
                () = probing => {}
            }
        });
    }

    /// Whether nothing is left to find out.
    async fn probe(&self, address: &NodeAddress, suspicion: u64) -> bool {
        if !self.0.members.stands(address, suspicion) {
            return true;
        }
        self.metrics().node_probes.add(1);
        match self.describe_in_time(address, Patience::Stays).await {
            Ok(response) => {
                self.trust(address);
                self.take_description(&response);
                true
            }
            Err(error) if error.is_transport() => {
                // Nobody else can have made it: the next probe gets one that was resolved again.
                self.0.pool.discard(address, Duration::ZERO);
                tracing::debug!(node = %address, %error, "suspect node does not answer");
                !self.0.members.stands(address, suspicion)
            }
            // A node that refuses is there.
            Err(_) => {
                self.trust(address);
                true
            }
        }
    }
}
