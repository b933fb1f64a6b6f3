//! Which nodes there are: what the user gave, what the cluster says, and what failed lately.

use super::address::{HostMapping, NodeAddress};
use hstreamdb_proto::api::{DescribeClusterResponse, NodeState as WireState, ServerNode};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// More nodes than any cluster has; bounds what an answer can make this client hold.
const MAX_NODES: usize = 1024;
/// How long a suspicion is a new one. A cluster notices a dead node in about five seconds.
const NEW_SUSPICION: Duration = Duration::from_secs(10);

/// State of a node, as the cluster sees it.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// It starts.
    Starting,
    /// It serves.
    Running,
    /// It does not answer the others.
    Unavailable,
    /// It is gone.
    Dead,
}

impl NodeState {
    /// Name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Starting => "starting",
            NodeState::Running => "running",
            NodeState::Unavailable => "unavailable",
            NodeState::Dead => "dead",
        }
    }

    pub(crate) fn from_wire(state: i32) -> Self {
        match WireState::try_from(state) {
            Ok(WireState::Starting) => NodeState::Starting,
            Ok(WireState::Running) => NodeState::Running,
            Ok(WireState::Dead) => NodeState::Dead,
            // A state this version does not know is none to send calls to.
            Ok(WireState::Unavailable) | Err(_) => NodeState::Unavailable,
        }
    }
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Number of the node in its cluster.
    pub id: u32,
    /// Where this client connects to it, after `host_mapping`.
    pub address: NodeAddress,
    /// Its state as the cluster sees it.
    pub state: NodeState,
    /// Version of its software, empty when it does not say.
    pub version: String,
    /// Commit its software was built from, empty when it does not say.
    pub commit: String,
}

/// All nodes of a description; those without a usable address are left out.
pub(crate) fn nodes_of(response: &DescribeClusterResponse, mapping: &HostMapping) -> Vec<Node> {
    let node = |node: &ServerNode, state| {
        Some(Node {
            id: node.id,
            address: mapping.node(node)?,
            state,
            version: node.version.as_ref().map(|version| version.version.clone()).unwrap_or_default(),
            commit: node.version.as_ref().map(|version| version.commit.clone()).unwrap_or_default(),
        })
    };
    let mut nodes: Vec<Node> = response
        .server_nodes_status
        .iter()
        .filter_map(|status| node(status.node.as_ref()?, NodeState::from_wire(status.state)))
        .take(MAX_NODES)
        .collect();
    for running in response.server_nodes.iter().take(MAX_NODES) {
        if !nodes.iter().any(|known| known.id == running.id)
            && let Some(running) = node(running, NodeState::Running)
        {
            nodes.push(running);
        }
    }
    nodes
}

/// What changed with a new list.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub added: Vec<Node>,
    pub removed: Vec<Node>,
    /// Nodes on both lists, with their state before.
    pub changed: Vec<(Node, NodeState)>,
}

/// The nodes of one client.
#[derive(Debug)]
pub(crate) struct Members {
    bootstrap: Vec<NodeAddress>,
    state: Mutex<State>,
    /// Changes with every node's standing.
    news: watch::Sender<()>,
}

/// A node failed, and has not answered since.
#[derive(Debug, Clone, Copy)]
struct Suspicion {
    since: Instant,
    number: u64,
}

impl Suspicion {
    fn is_new(&self) -> bool {
        self.since.elapsed() < NEW_SUSPICION
    }
}

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Node>,
    suspects: HashMap<NodeAddress, Suspicion>,
    /// Suspicions there have been.
    suspicions: u64,
    preferred: Option<NodeAddress>,
}

impl Members {
    pub(crate) fn new(bootstrap: Vec<NodeAddress>) -> Self {
        Members { bootstrap, state: Mutex::default(), news: watch::Sender::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nodes as the cluster named them last.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        self.lock().nodes.clone()
    }

    /// Takes a new list. Nodes that it says serve stay suspect: the cluster may be slower to notice than this client. So do
    /// those it suspects itself. Of those that it gives up nothing more has to be found out.
    pub(crate) fn replace(&self, nodes: Vec<Node>) -> Changes {
        let running = |list: &[Node], node: &Node| serves(list, &node.address);
        let mut state = self.lock();
        let mut changes = Changes::default();
        for node in nodes.iter().filter(|node| node.state == NodeState::Running) {
            if !running(&state.nodes, node) {
                changes.added.push(node.clone());
            }
        }
        for node in state.nodes.iter().filter(|node| node.state == NodeState::Running) {
            if !running(&nodes, node) {
                changes.removed.push(node.clone());
            }
        }
        for node in &nodes {
            if let Some(before) = state.nodes.iter().find(|before| before.address == node.address)
                && before.state != node.state
            {
                changes.changed.push((node.clone(), before.state));
            }
        }
        let suspects = state.suspects.len();
        state.suspects.retain(|address, _| self.bootstrap.contains(address) || is_open(&nodes, address));
        let is_news = nodes != state.nodes || suspects != state.suspects.len();
        // It was the best choice once.
        let is_out = |address: &NodeAddress| {
            nodes.iter().any(|node| node.address == *address) && !serves(&nodes, address)
        };
        if state.preferred.as_ref().is_some_and(is_out) {
            state.preferred = None;
        }
        state.nodes = nodes;
        drop(state);
        if is_news {
            self.news.send_replace(());
        }
        changes
    }

    /// Wakes whenever a node's standing changes.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Whether the node is suspect, and its state as the cluster named it last.
    pub(crate) fn standing(&self, address: &NodeAddress) -> (bool, Option<NodeState>) {
        let state = self.lock();
        let named = state.nodes.iter().find(|node| node.address == *address).map(|node| node.state);
        (state.suspects.contains_key(address), named)
    }

    /// Whether the cluster names it and does not count on it.
    pub(crate) fn is_out(&self, address: &NodeAddress) -> bool {
        self.standing(address).1.is_some_and(|state| state != NodeState::Running)
    }

    /// Whether there is another node that serves, and has not failed since it last answered.
    pub(crate) fn has_other(&self, address: &NodeAddress) -> bool {
        let state = self.lock();
        let is_good = |other: &NodeAddress| other != address && !state.suspects.contains_key(other);
        let mut running = state.nodes.iter().filter(|node| node.state == NodeState::Running).peekable();
        // What the user gave may be other names of nodes that are listed.
        if running.peek().is_some() {
            running.any(|node| is_good(&node.address))
        } else {
            self.bootstrap.iter().any(is_good)
        }
    }

    pub(crate) fn is_newly_suspect(&self, address: &NodeAddress) -> bool {
        self.lock().suspects.get(address).is_some_and(Suspicion::is_new)
    }

    /// Whether the cluster has not given up a node that became suspect lately: what it owns is not given to others yet.
    pub(crate) fn is_unsettled(&self) -> bool {
        let state = self.lock();
        let suspects = state.suspects.iter().filter(|(_, suspicion)| suspicion.is_new());
        suspects.into_iter().any(|(address, _)| is_open(&state.nodes, address))
    }

    /// Tells, outside the lock, of a suspicion that ended.
    fn ended(&self, was_suspect: bool) -> bool {
        if was_suspect {
            self.news.send_replace(());
        }
        was_suspect
    }

    /// Prefers a node for calls that any node can answer, so that one connection serves them all. Tells whether it was
    /// suspect until now.
    pub(crate) fn prefer(&self, address: &NodeAddress) -> bool {
        self.lock().preferred = Some(address.clone());
        self.trust(address)
    }

    /// Prefers it unless another one is preferred: an answer to a call must not undo a choice. Otherwise as
    /// [`prefer`](Self::prefer).
    pub(crate) fn prefer_if_free(&self, address: &NodeAddress) -> bool {
        let mut state = self.lock();
        if state.preferred.is_none() {
            state.preferred = Some(address.clone());
        }
        let was_suspect = !state.suspects.is_empty() && state.suspects.remove(address).is_some();
        drop(state);
        self.ended(was_suspect)
    }

    /// Prefers it no longer: it is there, but refuses what others may do.
    pub(crate) fn leave(&self, address: &NodeAddress) {
        let mut state = self.lock();
        if state.preferred.as_ref() == Some(address) {
            state.preferred = None;
        }
    }

    /// An answer came from the node. Tells whether it was suspect until now.
    pub(crate) fn trust(&self, address: &NodeAddress) -> bool {
        let mut state = self.lock();
        let was_suspect = !state.suspects.is_empty() && state.suspects.remove(address).is_some();
        drop(state);
        self.ended(was_suspect)
    }

    /// Asks this node last until it is trusted again. Gives the suspicion's number if it is a new one: one failure reaches
    /// every call under way.
    pub(crate) fn suspect(&self, address: &NodeAddress) -> Option<u64> {
        let mut state = self.lock();
        if state.preferred.as_ref() == Some(address) {
            state.preferred = None;
        }
        if state.suspects.contains_key(address) {
            return None;
        }
        state.suspicions += 1;
        let number = state.suspicions;
        state.suspects.insert(address.clone(), Suspicion { since: Instant::now(), number });
        drop(state);
        self.news.send_replace(());
        Some(number)
    }

    /// Whether this very suspicion still stands.
    pub(crate) fn stands(&self, address: &NodeAddress, number: u64) -> bool {
        self.lock().suspects.get(address).is_some_and(|suspicion| suspicion.number == number)
    }

    pub(crate) fn is_suspect(&self, address: &NodeAddress) -> bool {
        self.lock().suspects.contains_key(address)
    }

    /// A running node of at least two, by chance, if it is not the one that is preferred already.
    pub(crate) fn other_home(&self, chance: usize) -> Option<NodeAddress> {
        let state = self.lock();
        let running: Vec<_> = state.nodes.iter().filter(|node| node.state == NodeState::Running).collect();
        if running.len() < 2 {
            return None;
        }
        let home = &running.get(chance % running.len())?.address;
        (state.preferred.as_ref() != Some(home)).then(|| home.clone())
    }

    /// Every address there is, best first: the preferred one, running nodes in the order `shift` begins at, what the
    /// user gave, nodes that are not running, and at last those that failed lately.
    pub(crate) fn candidates(&self, shift: usize) -> Vec<NodeAddress> {
        let state = self.lock();
        let suspect = |address: &NodeAddress| state.suspects.contains_key(address);
        let running: Vec<_> = state
            .nodes
            .iter()
            .filter(|node| node.state == NodeState::Running)
            .map(|node| &node.address)
            .collect();
        let (first, second) = running.split_at(if running.is_empty() { 0 } else { shift % running.len() });
        let others =
            state.nodes.iter().filter(|node| node.state != NodeState::Running).map(|node| &node.address);
        let all = (state.preferred.iter())
            .chain(second.iter().copied())
            .chain(first.iter().copied())
            .chain(self.bootstrap.iter())
            .chain(others);
        let mut good: Vec<NodeAddress> = Vec::new();
        let mut bad: Vec<NodeAddress> = Vec::new();
        for address in all {
            let list = if suspect(address) { &mut bad } else { &mut good };
            if !list.contains(address) {
                list.push(address.clone());
            }
        }
        // The one that failed longest ago first.
        bad.sort_by_key(|address| state.suspects.get(address).map(|suspicion| suspicion.since));
        good.append(&mut bad);
        good
    }

    /// What the user gave; kept for ever.
    pub(crate) fn bootstrap(&self) -> &[NodeAddress] {
        &self.bootstrap
    }
}

/// Whether the cluster counts on it, or has not decided yet.
fn is_open(nodes: &[Node], address: &NodeAddress) -> bool {
    let open = |state| matches!(state, NodeState::Running | NodeState::Unavailable);
    nodes.iter().any(|node| node.address == *address && open(node.state))
}

fn serves(nodes: &[Node], address: &NodeAddress) -> bool {
    nodes.iter().any(|node| node.address == *address && node.state == NodeState::Running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hstreamdb_proto::api::ServerNodeStatus;

    fn address(name: &str) -> NodeAddress {
        NodeAddress::new(name, 1)
    }

    fn node(id: u32, name: &str, state: NodeState) -> Node {
        Node { id, address: address(name), state, version: String::new(), commit: String::new() }
    }

    fn names(members: &Members, shift: usize) -> Vec<String> {
        members.candidates(shift).iter().map(|address| address.host().to_owned()).collect()
    }

    #[test]
    fn failed_nodes_are_asked_last_until_they_answer() {
        let members = Members::new(vec![address("boot")]);
        members.replace(vec![node(1, "a", NodeState::Running), node(2, "b", NodeState::Running)]);
        assert_eq!(names(&members, 0), ["a", "b", "boot"]);
        assert_eq!(names(&members, 1), ["b", "a", "boot"]);
        assert!(!members.prefer(&address("b")));
        assert!(!members.prefer_if_free(&address("a")));
        assert_eq!(names(&members, 0), ["b", "a", "boot"]);
        members.leave(&address("a"));
        assert_eq!(names(&members, 0), ["b", "a", "boot"]);
        members.leave(&address("b"));
        members.prefer_if_free(&address("boot"));
        assert_eq!(names(&members, 0), ["boot", "a", "b"]);
        members.prefer(&address("b"));
        let number = members.suspect(&address("b")).unwrap();
        assert_eq!(members.suspect(&address("b")), None);
        assert_eq!(names(&members, 0), ["a", "boot", "b"]);
        assert!(members.stands(&address("b"), number));
        assert!(members.trust(&address("b")) && !members.trust(&address("b")));
        assert!(!members.is_suspect(&address("b")));
        let again = members.suspect(&address("b")).unwrap();
        assert!(!members.stands(&address("b"), number) && members.stands(&address("b"), again));
    }

    #[test]
    fn suspicion_ends_when_the_cluster_gives_the_node_up() {
        let members = Members::new(vec![address("boot")]);
        let running = |name| node(1, name, NodeState::Running);
        members.replace(vec![running("a"), running("b")]);
        for name in ["a", "b", "boot"] {
            members.suspect(&address(name));
        }
        members.replace(vec![running("a"), node(2, "b", NodeState::Dead)]);
        assert!(members.is_suspect(&address("a")), "the cluster may be slower to notice");
        assert!(!members.is_suspect(&address("b")), "nothing is left to find out");
        assert!(members.is_suspect(&address("boot")), "it is kept for ever, so whether it is back matters");
    }

    #[test]
    fn a_node_that_the_cluster_does_not_count_on_is_preferred_no_longer() {
        let members = Members::new(vec![address("boot")]);
        members.replace(vec![node(1, "a", NodeState::Running), node(2, "b", NodeState::Running)]);
        members.prefer(&address("a"));
        members.replace(vec![node(1, "a", NodeState::Unavailable), node(2, "b", NodeState::Running)]);
        assert_eq!(names(&members, 0), ["b", "boot", "a"]);
        members.prefer(&address("boot"));
        members.replace(vec![node(1, "a", NodeState::Running), node(2, "b", NodeState::Running)]);
        assert_eq!(
            names(&members, 0),
            ["boot", "a", "b"],
            "what the cluster does not name is not judged by it"
        );
    }

    #[test]
    fn another_node_is_one_that_serves_and_has_not_failed() {
        let members = Members::new(vec![address("boot")]);
        assert!(members.has_other(&address("a")) && !members.has_other(&address("boot")));
        members.replace(vec![node(1, "a", NodeState::Running)]);
        assert!(!members.has_other(&address("a")), "what the user gave may be another name of it");
        members.replace(vec![node(1, "a", NodeState::Running), node(2, "b", NodeState::Running)]);
        assert!(members.has_other(&address("a")));
        members.suspect(&address("b"));
        assert!(!members.has_other(&address("a")) && members.has_other(&address("b")));
    }

    #[test]
    fn changes_of_state_are_told_with_the_state_before() {
        let members = Members::new(Vec::new());
        members.replace(vec![node(1, "a", NodeState::Starting)]);
        let changes = members.replace(vec![node(1, "a", NodeState::Running)]);
        assert_eq!(changes.changed, [(node(1, "a", NodeState::Running), NodeState::Starting)]);
        assert_eq!((changes.added.len(), changes.removed.len()), (1, 0));
        let changes = members.replace(vec![node(1, "a", NodeState::Unavailable)]);
        assert_eq!(changes.changed, [(node(1, "a", NodeState::Unavailable), NodeState::Running)]);
        assert_eq!(changes.removed.len(), 1);
    }

    #[test]
    fn another_home_is_one_of_several_running_nodes() {
        let members = Members::new(vec![address("boot")]);
        members.replace(vec![node(1, "a", NodeState::Running), node(2, "b", NodeState::Dead)]);
        assert_eq!(members.other_home(0), None);
        members.replace(vec![node(1, "a", NodeState::Running), node(2, "b", NodeState::Running)]);
        assert_eq!(members.other_home(0), Some(address("a")));
        assert_eq!(members.other_home(1), Some(address("b")));
        members.prefer(&address("a"));
        assert_eq!(members.other_home(2), None);
    }

    #[test]
    fn bootstrap_addresses_are_kept_when_the_cluster_names_others() {
        let members = Members::new(vec![address("boot")]);
        let changes = members.replace(vec![node(1, "a", NodeState::Running)]);
        assert_eq!(changes.added.len(), 1);
        let changes = members.replace(vec![node(1, "a", NodeState::Dead)]);
        assert_eq!(changes.removed.len(), 1);
        assert_eq!(names(&members, 0), ["boot", "a"]);
    }

    #[test]
    fn nodes_without_a_usable_address_are_left_out() {
        let wire = |id, host: &str, port| ServerNode { id, host: host.into(), port, version: None };
        let response = DescribeClusterResponse {
            server_nodes: vec![wire(1, "a", 6570), wire(2, "", 6570), wire(3, "c", 0), wire(4, "d", 70_000)],
            server_nodes_status: vec![
                ServerNodeStatus { node: Some(wire(1, "a", 6570)), state: 1 },
                ServerNodeStatus { node: Some(wire(5, "e", 6570)), state: 3 },
                ServerNodeStatus { node: Some(wire(6, "f", 6570)), state: 99 },
                ServerNodeStatus { node: None, state: 1 },
            ],
            ..Default::default()
        };
        let nodes = nodes_of(&response, &HostMapping::default());
        let shown: Vec<_> = nodes.iter().map(|node| (node.id, node.state)).collect();
        assert_eq!(shown, [(1, NodeState::Running), (5, NodeState::Dead), (6, NodeState::Unavailable)]);
    }
}
