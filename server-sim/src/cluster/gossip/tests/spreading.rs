//! What happens to one node is soon known to all.

use super::super::Refusal;
use super::*;

#[tokio::test]
async fn nodes_that_start_together_see_each_other() {
    // All of them list all of them, themselves included, and none is there before the others.
    let mut specs: Vec<Spec> = Vec::new();
    let taken: Vec<_> =
        (0..5).map(|_| Net::new().listen_both("127.0.0.1:0".parse().unwrap()).unwrap()).collect();
    let seeds: Vec<SocketAddr> = taken.iter().map(|(calls, _)| calls.local_addr().unwrap()).collect();
    drop(taken);
    for (id, bind) in (1..).zip(&seeds) {
        specs.push(Spec { bind: *bind, ..Spec::new(id, &seeds) });
    }
    let nodes = futures::future::join_all(specs.iter().map(TestNode::join)).await;
    let nodes: Vec<TestNode> = nodes.into_iter().map(Result::unwrap).collect();
    for node in &nodes {
        let members = node.until_alive(5).await;
        let member = members.get(NodeId(3)).unwrap();
        assert_eq!((member.generation, member.internal), (1000, seeds[2]));
    }
    // Each knows which node is behind which seed, itself included.
    for node in &nodes {
        let mut statuses = node.gossip.seeds();
        let known = statuses.wait_for(|seeds| seeds.iter().all(|seed| !seed.nodes.is_empty()));
        let known = tokio::time::timeout(SOON, known).await.unwrap().unwrap().clone();
        let ids: Vec<u32> = known.iter().flat_map(|seed| &seed.nodes).map(|id| id.0).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5]);
    }
}

#[tokio::test]
async fn descriptions_and_phases_spread() {
    let nodes = cluster(4).await;
    for node in &nodes {
        let described = |members: &Members| {
            members.nodes.values().all(|member| member.advertised.through(Some("public")).len() == 1)
        };
        let members = node.until("all descriptions", described).await;
        assert_eq!(members.get(NodeId(2)).unwrap().advertised.main.host, "host2");
    }
    nodes[3].gossip.set_phase(Phase::Running).await;
    for node in &nodes {
        let running = |members: &Members| members.get(NodeId(4)).unwrap().phase == Phase::Running;
        node.until("node 4 running", running).await;
    }
    assert_eq!(nodes[0].members().takers().map(|member| member.id).collect::<Vec<_>>(), [NodeId(4)]);
}

#[tokio::test]
async fn a_leave_is_seen_at_once_and_is_no_death() {
    // Nobody would notice by probes in the time of the test.
    let nodes = cluster_with(4, |spec| {
        spec.settings.probe_interval = Duration::from_secs(600);
        spec.settings.roundtrip_timeout = Duration::from_secs(200);
    })
    .await;
    nodes[1].gossip.leave().await;
    for node in [0, 2, 3].map(|position| &nodes[position]) {
        node.until_state(2, MemberState::Left).await;
        assert_eq!(node.gossip.stats().swim.downs, 0);
    }
    // The port is free again, and a second leave is none.
    nodes[1].gossip.leave().await;
    Net::new().datagrams(nodes[1].address).unwrap();
}

#[tokio::test]
async fn a_node_that_ends_without_a_word_is_found_dead() {
    let nodes = cluster_with(3, |spec| spec.settings.probe_interval = Duration::from_millis(310)).await;
    nodes[2].net.kill();
    for node in &nodes[..2] {
        node.until_state(3, MemberState::Down).await;
    }
    assert_eq!(nodes[0].state_of(2), Some(MemberState::Alive));
}

#[tokio::test]
async fn a_restarted_node_is_known_as_its_new_run() {
    let mut nodes = cluster(3).await;
    let old = nodes.remove(1);
    let bind = old.address;
    old.gossip.leave().await;
    old.net.kill();
    old.net.close_buried();
    drop(old);
    let spec = Spec { bind, generation: 2000, ..Spec::new(2, &[nodes[0].address]) };
    let mut restarted = None;
    poll("the port is free", || {
        let free = Net::new().listen_both(bind).is_ok();
        restarted = free.then(|| TestNode::start(&spec));
        free
    })
    .await;
    let restarted = restarted.unwrap();
    restarted.gossip.join().await.unwrap();
    for node in &nodes {
        let new = |members: &Members| {
            let member = members.get(NodeId(2)).unwrap();
            (member.generation, member.state) == (2000, MemberState::Alive)
        };
        node.until("the new run of node 2", new).await;
    }
    restarted.until_alive(3).await;
}

#[tokio::test]
async fn a_new_session_of_a_running_node_is_seen_by_all() {
    let nodes = cluster(3).await;
    nodes[2].gossip.set_generation(1500).await;
    nodes[2].gossip.set_generation(1400).await;
    for node in &nodes {
        let new = |members: &Members| members.get(NodeId(3)).unwrap().generation == 1500;
        node.until("the new session of node 3", new).await;
        node.until_alive(3).await;
    }
    // It hears what is said to its new session, and knows itself under the old one.
    let before = nodes[2].gossip.stats().swim.packets_received;
    poll("packets to node 3", || nodes[2].gossip.stats().swim.packets_received >= before + 20).await;
    for node in &nodes {
        node.until_alive(3).await;
        let stats = node.gossip.stats();
        assert_eq!(stats.refused(Refusal::SameId) + stats.refused(Refusal::NotForUs), 0, "{stats:?}");
    }
}

#[tokio::test]
async fn both_sides_of_a_partition_find_each_other_again() {
    let nodes = cluster_with(4, |spec| spec.settings.probe_interval = Duration::from_millis(310)).await;
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address).collect();
    let (left, right) = (&addresses[..2], &addresses[2..]);
    for node in &nodes[..2] {
        node.net.block(right.iter().copied());
    }
    for node in &nodes[2..] {
        node.net.block(left.iter().copied());
    }
    for (node, others) in nodes.iter().zip([[3, 4], [3, 4], [1, 2], [1, 2]]) {
        for other in others {
            node.until_state(other, MemberState::Down).await;
        }
    }
    for node in &nodes {
        node.net.unblock(addresses.iter().copied());
    }
    for node in &nodes {
        node.until_alive(4).await;
    }
}
