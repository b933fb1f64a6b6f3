//! What tells one run of one node from all others.

use super::signal::Peer;
use crate::cluster::NodeId;
use crate::listener::Address;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Longest host name that travels in every packet; a longer one is learnt from the node's description.
const MAX_HOST: usize = 64;

/// One run of one node. It is in every packet two or three times, so it is small: about 30 bytes, at most 120.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub id: NodeId,
    pub internal: SocketAddr,
    /// The node's session in the metadata store: later runs have higher ones.
    pub generation: u64,
    /// How often this run was declared dead by mistake and came back.
    pub returns: u32,
    /// What its clients connect to; shown until its description is known. The host is empty if it is long.
    pub client: Address,
}

impl Identity {
    pub fn new(id: NodeId, internal: SocketAddr, generation: u64, client: &Address) -> Self {
        let host = if client.host.len() <= MAX_HOST { client.host.clone() } else { String::new() };
        Identity { id, internal, generation, returns: 0, client: Address { host, port: client.port } }
    }

    /// Whether a node could really be called so.
    pub fn is_plausible(&self) -> bool {
        let reachable = match self.internal.ip() {
            IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
            IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
        };
        reachable && self.internal.port() != 0 && self.client.host.len() <= MAX_HOST
    }

    /// Which of two runs of a node at one address is the later one.
    pub fn age(&self) -> (u64, u32) {
        (self.generation, self.returns)
    }

    pub fn place(&self) -> Place {
        (self.id, self.internal)
    }

    /// The name under which a run goes on that was declared dead by mistake.
    pub fn again(&self) -> Option<Self> {
        Some(Identity { returns: self.returns.checked_add(1)?, ..self.clone() })
    }

    pub fn peer(&self) -> Peer {
        Peer { id: self.id, generation: self.generation, internal: self.internal }
    }

    /// What clients are told while the description is not known.
    pub fn client(&self) -> Address {
        let mut client = self.client.clone();
        if client.host.is_empty() {
            client.host = self.internal.ip().to_string();
        }
        client
    }
}

/// The place of a node: runs of one node at one address follow each other, so only the latest is kept. The number is part
/// of it because generations of different nodes cannot be compared, and an address may be given to another node.
pub(super) type Place = (NodeId, SocketAddr);

impl foca::Identity for Identity {
    type Addr = Place;

    fn addr(&self) -> Place {
        self.place()
    }

    /// Not foca's concern: it would come back with all rumours that it could not spread while nobody heard it, that
    /// everybody else is dead for one.
    fn renew(&self) -> Option<Self> {
        None
    }

    /// Any order will do for equals, but all nodes have to agree on it.
    fn win_addr_conflict(&self, other: &Self) -> bool {
        let rank = |identity: &Self| (identity.age(), identity.client.host.clone(), identity.client.port);
        rank(self) > rank(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Identity as _;

    fn identity(generation: u64, host: &str) -> Identity {
        let client = Address { host: host.to_owned(), port: 65535 };
        Identity::new(NodeId(u32::MAX), "[2001:db8:1:2:3:4:5:6]:65535".parse().unwrap(), generation, &client)
    }

    #[test]
    fn an_identity_stays_small() {
        let largest = Identity { returns: u32::MAX, ..identity(u64::MAX, &"h".repeat(MAX_HOST)) };
        assert!(largest.is_plausible());
        assert!(postcard::to_stdvec(&largest).unwrap().len() <= 120);
        let client = Address { host: "10.0.0.3".to_owned(), port: 6570 };
        let usual = Identity::new(NodeId(3), "10.0.0.3:6571".parse().unwrap(), 1_700_000_000_000, &client);
        assert!(postcard::to_stdvec(&usual).unwrap().len() <= 32);
    }

    #[test]
    fn a_long_host_is_left_to_the_description() {
        let long = identity(1, &"h".repeat(MAX_HOST + 1));
        assert_eq!(long.client, Address { host: String::new(), port: 65535 });
        assert_eq!(long.client().host, "2001:db8:1:2:3:4:5:6");
    }

    #[test]
    fn a_later_run_wins_and_so_does_a_return() {
        let (old, new) = (identity(1, "a"), identity(2, "a"));
        assert!(new.win_addr_conflict(&old) && !old.win_addr_conflict(&new));
        let back = old.again().unwrap();
        assert!(back.win_addr_conflict(&old) && new.win_addr_conflict(&back));
        assert_eq!(Identity { returns: u32::MAX, ..old }.again(), None);
    }

    #[test]
    fn all_nodes_agree_which_of_two_equals_wins() {
        let (a, b) = (identity(1, "a"), identity(1, "b"));
        assert_ne!(a.win_addr_conflict(&b), b.win_addr_conflict(&a));
    }

    #[test]
    fn names_that_no_node_can_have_are_recognized() {
        for internal in
            ["0.0.0.0:1", "10.0.0.1:0", "224.0.0.1:1", "255.255.255.255:1", "[::]:1", "[ff02::1]:1"]
        {
            let wrong = Identity { internal: internal.parse().unwrap(), ..identity(1, "a") };
            assert!(!wrong.is_plausible(), "{internal}");
        }
        let mut long = identity(1, "a");
        long.client.host = "h".repeat(MAX_HOST + 1);
        assert!(!long.is_plausible());
    }
}
