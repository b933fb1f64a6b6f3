//! Network namespaces: one for the relay, one per node, with a cable between the relay and each node.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// Every name begins with it, followed by the number of the process that made it.
const PREFIX: &str = "hstream-gossip-";

/// Address of a node in its namespace.
pub fn address(node: u32) -> Ipv4Addr {
    let [node, ..] = node.to_le_bytes();
    Ipv4Addr::new(10, 77, node, 2)
}

/// Address by which all others know a node; the relay has it.
pub fn known_as(node: u32) -> Ipv4Addr {
    let [node, ..] = node.to_le_bytes();
    Ipv4Addr::new(10, 88, 0, node)
}

/// Namespaces that are removed when this is dropped.
#[derive(Debug)]
pub struct Namespaces {
    relay: String,
    nodes: Vec<String>,
}

impl Namespaces {
    /// Namespaces for nodes `1..=nodes` and for the relay between them.
    ///
    /// # Errors
    /// Why there are none to be had here.
    pub fn create(nodes: u32) -> Result<Namespaces, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(remove_abandoned);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |which: &str| format!("{PREFIX}{}-{number}-{which}", std::process::id());
        let mut made = Namespaces { relay: name("relay"), nodes: Vec::new() };
        // If this works, everything else has to.
        ip(&format!("netns add {}", made.relay))?;
        let must = |arguments: String| ip(&arguments).unwrap_or_else(|error| panic!("{error}"));
        let relay = &made.relay;
        must(format!("-n {relay} link set lo up"));
        for node in 1..=nodes {
            let (own, [_, _, net, _]) = (name(&node.to_string()), address(node).octets());
            must(format!("netns add {own}"));
            made.nodes.push(own.clone());
            must(format!("link add eth0 netns {own} type veth peer name node{node} netns {relay}"));
            must(format!("-n {own} link set lo up"));
            must(format!("-n {own} address add {}/24 dev eth0", address(node)));
            must(format!("-n {own} link set eth0 up"));
            must(format!("-n {relay} address add 10.77.{net}.1/24 dev node{node}"));
            must(format!("-n {relay} link set node{node} up"));
            must(format!("-n {relay} address add {}/32 dev lo", known_as(node)));
            must(format!("-n {own} route add default via 10.77.{net}.1"));
        }
        Ok(made)
    }

    /// The one of the relay.
    pub fn relay(&self) -> &str {
        &self.relay
    }

    /// The one of a node.
    pub fn node(&self, node: u32) -> &str {
        &self.nodes[node as usize - 1]
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in self.nodes.iter().chain([&self.relay]) {
            // Removing is all that can be done; what is left over goes at the next run.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

/// Runs `ip` with these arguments.
fn ip(arguments: &str) -> Result<Output, String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .map_err(|error| format!("`ip` cannot be run ({error}); dev/setup.sh installs iproute2"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("`ip {arguments}`: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Removes what test processes have left that were killed.
fn remove_abandoned() {
    let Ok(list) = ip("netns list") else { return };
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let process = rest.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}
