//! How a node takes part in a cluster.

use super::gossip::GossipKey;
use super::swim::GossipSettings;
use std::time::Duration;

/// How a node takes part in a cluster. [`Default`] is a node that stays alone.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Where to look for other nodes: `host` or `host:internal-port`. Nodes that list the same seeds, themselves among
    /// them, found a cluster together. Default none: the node is alone and opens no internal port.
    pub seed_nodes: Vec<String>,
    /// Host name or address that other nodes are told; default what the internal port is bound to, or the advertised
    /// address if it is bound to every address.
    pub gossip_address: Option<String>,
    /// Nodes with another name are strangers; default `hstream`.
    pub cluster_name: String,
    /// Whether the seeds found the cluster as soon as all of them are up, without waiting for `hstream init`. Default
    /// false.
    pub auto_init: bool,
    /// How long a node may serve what it owns without having renewed its lease; default 3 s.
    pub lease: Duration,
    /// How fast nodes notice what happens to others; defaults for three to eight nodes on one network.
    pub gossip: GossipSettings,
    /// What nodes prove with that they belong to the cluster; the same for all of them. Default none: whoever reaches the
    /// internal port may say who is a member.
    pub gossip_key: Option<GossipKey>,
    /// Where chance in gossip comes from, so that a test can repeat it. Default `None`: from the system.
    pub random_seed: Option<u64>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            seed_nodes: Vec::new(),
            gossip_address: None,
            cluster_name: "hstream".to_owned(),
            auto_init: false,
            lease: Duration::from_secs(3),
            gossip: GossipSettings::default(),
            gossip_key: None,
            random_seed: None,
        }
    }
}
