//! Nodes, the network between them, and what the test does to both.

use crate::DEADLINE;
use crate::namespaces::Namespaces;
use crate::node::View;
use crate::process::Process;
use crate::relay::Way;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// All randomness of the relay comes from it.
const SEED: u64 = 42;

/// A running cluster. Everything of it is gone when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: BTreeMap<u32, Process>,
    paused: BTreeSet<u32>,
    relay: Process,
    answered: usize,
    usual: Way,
    count: u32,
    // Last, so that it is dropped after the processes in it.
    _namespaces: Namespaces,
}

impl Cluster {
    /// Nodes `1..=count`, all of which list all as seeds. Nothing, with a printed reason, where namespaces cannot be made.
    pub fn start(count: u32, way: Way) -> Option<Cluster> {
        let namespaces = match Namespaces::create(count) {
            Ok(namespaces) => namespaces,
            Err(reason) => {
                eprintln!("skipped, there are no network namespaces here: {reason}");
                return None;
            }
        };
        let relay = Process::start(namespaces.relay(), "be_the_relay", &format!("{count} {SEED}"));
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            paused: BTreeSet::new(),
            relay,
            answered: 0,
            usual: way,
            count,
            _namespaces: namespaces,
        };
        cluster.await_relay();
        cluster.heal();
        for node in 1..=count {
            let process =
                Process::start(cluster._namespaces.node(node), "be_a_node", &format!("{node} {count}"));
            cluster.nodes.insert(node, process);
        }
        Some(cluster)
    }

    fn await_relay(&mut self) {
        let wanted = self.answered + 1;
        poll(
            "the relay does as it was told",
            || (self.relay.said().len() >= wanted).then_some(()),
            String::new,
        );
        self.answered = wanted;
    }

    fn set(&mut self, from: u32, to: u32, way: Way) {
        self.relay.tell(&way.command(from, to));
        self.await_relay();
    }

    /// Lets nothing through in that direction.
    pub fn block(&mut self, from: u32, to: u32) {
        self.set(from, to, Way { blocked: true, ..self.usual });
    }

    /// Makes every way as it was at the start.
    pub fn heal(&mut self) {
        for from in 1..=self.count {
            for to in 1..=self.count {
                self.set(from, to, self.usual);
            }
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: u32) {
        self.nodes.remove(&node).unwrap().signal("KILL");
    }

    /// SIGTERM.
    pub fn terminate(&mut self, node: u32) {
        let mut process = self.nodes.remove(&node).unwrap();
        process.signal("TERM");
        poll("the process ends", || process.has_ended().then_some(()), String::new);
    }

    /// SIGSTOP.
    pub fn pause(&mut self, node: u32) {
        self.paused.insert(node);
        self.nodes[&node].signal("STOP");
    }

    /// SIGCONT.
    pub fn go_on(&mut self, node: u32) {
        self.paused.remove(&node);
        self.nodes[&node].signal("CONT");
    }

    /// What a node sees now.
    pub fn seen(&self, node: u32) -> View {
        self.nodes[&node].said().iter().rev().find_map(|line| View::read(line)).unwrap_or_default()
    }

    /// All states in which `node` has seen `other`, each once in a row.
    pub fn history(&self, node: u32, other: u32) -> Vec<String> {
        let views = self.nodes[&node].said();
        let views = views.iter().filter_map(|line| View::read(line));
        let mut states: Vec<String> = views.map(|view| view.state(other).to_owned()).collect();
        states.dedup();
        states
    }

    /// Waits until a node sees that.
    pub fn until(&self, node: u32, what: &str, wanted: impl Fn(&View) -> bool) {
        let all = || format!("{:#?}", self.seen(node));
        poll(&format!("node {node} sees {what}"), || wanted(&self.seen(node)).then_some(()), all);
    }

    fn running(&self) -> impl Iterator<Item = &u32> {
        self.nodes.keys().filter(|node| !self.paused.contains(node))
    }

    /// Waits until all nodes that run see that.
    pub fn until_all(&self, what: &str, wanted: impl Fn(&View) -> bool) {
        for node in self.running() {
            self.until(*node, what, &wanted);
        }
    }

    /// Waits until some node sees that.
    pub fn until_any(&self, what: &str, wanted: impl Fn(&View) -> bool) {
        let any = || self.running().find(|node| wanted(&self.seen(**node))).map(|_| ());
        poll(&format!("some node sees {what}"), any, String::new);
    }
}

fn poll(what: &str, mut done: impl FnMut() -> Option<()>, else_show: impl Fn() -> String) {
    let end = Instant::now() + DEADLINE;
    while done().is_none() {
        assert!(Instant::now() < end, "not in time: {what}\n{}", else_show());
        std::thread::sleep(Duration::from_millis(5));
    }
}
