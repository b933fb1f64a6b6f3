//! What flags and file say about the cluster.

use super::file::{Gossip, Server};
use super::secret::Secret;
use crate::cluster::gossip::GossipKey;
use crate::cluster::swim::GossipSettings;
use crate::cluster::{ClusterConfig, Seed};
use std::path::PathBuf;
use std::time::Duration;

/// Leases in milliseconds: shorter ones lapse at every hiccup of a disk, longer ones hold up whoever takes over.
const LEASE_MS: std::ops::RangeInclusive<u64> = 500..=600_000;
/// The default over a store that is replicated: when one of its servers dies nothing can be renewed until another one leads,
/// which takes 4 to 10 seconds, and a healthy node should not lose everything it serves by that.
const LEASE_OVER_STORE: Duration = Duration::from_secs(10);
/// Longest name of a cluster in bytes.
const MAX_NAME: usize = 255;

/// Flags about the cluster.
#[derive(Debug, clap::Args)]
pub(super) struct ClusterFlags {
    /// Where to look for other nodes, this one included if it founds the cluster with them [default: none, a node alone]
    #[arg(long, value_name = "HOST[:INTERNAL-PORT],...", env = "HSTREAM_SEED_NODES")]
    seed_nodes: Option<String>,
    /// Host name or address that other nodes are told [default: the advertised address]
    #[arg(long, value_name = "HOST", env = "HSTREAM_GOSSIP_ADDRESS")]
    gossip_address: Option<String>,
    /// Nodes of another name are strangers [default: hstream]
    #[arg(long, value_name = "NAME", env = "HSTREAM_CLUSTER_NAME")]
    cluster_name: Option<String>,
    /// Found the cluster as soon as all seeds are up, without `hstream init`
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    auto_init: Option<bool>,
    /// What authenticates gossip: 16 bytes or more in hexadecimal or base64, the same on every node; better in
    /// the environment or a file than on a command line [default: nodes do not prove who they are]
    #[arg(long, value_name = "KEY", env = "HSTREAM_GOSSIP_KEY", hide_env_values = true)]
    gossip_key: Option<Secret>,
    /// File with that key
    #[arg(long, value_name = "FILE", env = "HSTREAM_GOSSIP_KEY_PATH")]
    gossip_key_path: Option<PathBuf>,
    /// How long a node may serve what it owns without having renewed its lease [default: 3000, with --store 10000]
    #[arg(long, value_name = "MILLISECONDS")]
    lease_ms: Option<u64>,
}

/// Brings both together; `internal_port` is this node's, and `shared` whether it has a --store.
///
/// # Errors
/// One sentence: which setting is wrong, and why.
pub(super) fn cluster(
    flags: ClusterFlags,
    file: &mut Server,
    internal_port: u16,
    shared: bool,
) -> Result<ClusterConfig, String> {
    let mut cluster = ClusterConfig::default();
    let seed_nodes = flags.seed_nodes.or(file.seed_nodes.take()).unwrap_or_default();
    let seed_nodes: Vec<String> =
        seed_nodes.split(',').map(str::trim).filter(|seed| !seed.is_empty()).map(str::to_owned).collect();
    for seed in &seed_nodes {
        Seed::parse(seed, internal_port).map_err(|error| format!("--seed-nodes: {error}"))?;
    }
    let cluster_name =
        flags.cluster_name.or(file.cluster_name.take()).unwrap_or_else(|| cluster.cluster_name.clone());
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if cluster_name.is_empty() || cluster_name.len() > MAX_NAME || !cluster_name.chars().all(fits) {
        return Err(format!(
            "--cluster-name: {cluster_name:?} is none; a name is 1 to {MAX_NAME} bytes of letters, digits, dashes, \
             underscores and dots"
        ));
    }
    let gossip_address = flags.gossip_address.or(file.gossip_address.take());
    if let Some(address) = &gossip_address {
        // It has the port that is put in only if it has none of its own.
        let host_alone =
            [1, 2].iter().all(|&port| Seed::parse(address, port).is_ok_and(|seed| seed.port() == port));
        if !host_alone {
            return Err(format!(
                "--gossip-address: {address:?} is no host name or address; the port goes into --internal-port"
            ));
        }
    }
    let lease_ms = flags.lease_ms.or(file.lease_ms);
    if let Some(ms) = lease_ms.filter(|ms| !LEASE_MS.contains(ms)) {
        let (least, most) = (LEASE_MS.start(), LEASE_MS.end());
        return Err(format!("--lease-ms: {ms} is not between {least} and {most} milliseconds"));
    }
    let gossip = settings(file.gossip.take().unwrap_or_default());
    gossip.check().map_err(|error| format!("hserver.gossip, in microseconds: {error}"))?;
    let key = flags.gossip_key.or(file.gossip_key.take());
    let path = flags.gossip_key_path.or(file.gossip_key_path.take());
    let gossip_key = match (key, path) {
        (None, None) => None,
        (Some(key), None) => Some(key.reveal().parse().map_err(|error| format!("--gossip-key: {error}"))?),
        (None, Some(path)) => {
            Some(GossipKey::from_file(&path).map_err(|error| format!("--gossip-key-path: {error}"))?)
        }
        (Some(_), Some(_)) => return Err("--gossip-key and --gossip-key-path: give one of them".to_owned()),
    };
    cluster.seed_nodes = seed_nodes;
    cluster.gossip_address = gossip_address;
    cluster.cluster_name = cluster_name;
    cluster.auto_init = flags.auto_init.or(file.auto_init).unwrap_or(cluster.auto_init);
    let usual = if shared { LEASE_OVER_STORE } else { cluster.lease };
    cluster.lease = lease_ms.map_or(usual, Duration::from_millis);
    cluster.gossip = gossip;
    cluster.gossip_key = gossip_key;
    Ok(cluster)
}

fn settings(file: Gossip) -> GossipSettings {
    let default = GossipSettings::default();
    // As published servers have it.
    let micros = |given: Option<u64>, default| given.map_or(default, Duration::from_micros);
    GossipSettings {
        probe_interval: micros(file.probe_interval, default.probe_interval),
        roundtrip_timeout: micros(file.roundtrip_timeout, default.roundtrip_timeout),
        gossip_interval: micros(file.gossip_interval, default.gossip_interval),
        push_pull_interval: micros(file.push_pull_interval, default.push_pull_interval),
        gossip_fanout: file.gossip_fanout.unwrap_or(default.gossip_fanout),
        retransmit_mult: file.retransmit_mult.unwrap_or(default.retransmit_mult),
        indirect_probes: file.indirect_probes.unwrap_or(default.indirect_probes),
        suspicion_mult: file.suspicion_mult.unwrap_or(default.suspicion_mult),
        max_local_health: file.max_local_health.unwrap_or(default.max_local_health),
    }
}
