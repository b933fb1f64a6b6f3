//! Who is let in, and how long a node tries.

use super::*;

#[tokio::test]
async fn a_node_without_others_is_alone_and_no_error() {
    // A port on which nobody listens, and its own.
    let absent = Net::new().listen_both("127.0.0.1:0".parse().unwrap()).unwrap().0.local_addr().unwrap();
    let node = TestNode::start(&Spec::new(1, &[absent]));
    node.gossip.join().await.unwrap();
    let status = node.gossip.seeds().borrow()[0].clone();
    assert_eq!((status.seed, status.nodes), (absent.to_string(), vec![]));
    assert!(status.trouble.unwrap().contains("refused"), "{absent}");
    assert_eq!(node.members().nodes.len(), 1);
}

#[tokio::test]
async fn a_seed_that_comes_later_is_found() {
    let taken = Net::new().listen_both("127.0.0.1:0".parse().unwrap()).unwrap();
    let bind = taken.0.local_addr().unwrap();
    drop(taken);
    let early = TestNode::join(&Spec::new(1, &[bind])).await.unwrap();
    // The later one knows of nobody: it is found.
    let late = TestNode::start(&Spec { bind, ..Spec::new(2, &[]) });
    early.until_alive(2).await;
    late.until_alive(2).await;
}

#[tokio::test]
async fn a_number_that_a_living_node_has_is_refused() {
    let nodes = cluster(3).await;
    for seed in [nodes[0].address, nodes[1].address] {
        let error = TestNode::join(&Spec { generation: 5000, ..Spec::new(2, &[seed]) }).await.unwrap_err();
        let expected = GossipError::DuplicateId { id: NodeId(2), address: nodes[1].address };
        assert_eq!(error, expected, "asked {seed}");
        let text = error.to_string();
        assert!(text.contains("--server-id 2 is taken") && text.contains("another number"), "{text}");
    }
    for node in &nodes {
        let member = node.members().get(NodeId(2)).cloned().unwrap();
        assert_eq!((member.generation, member.internal), (1000, nodes[1].address));
    }
    let refused = |reason| nodes.iter().map(|node| node.gossip.stats().refused(reason)).sum::<u64>();
    assert!(refused(super::super::Refusal::SameId) >= 1);
    assert!(refused(super::super::Refusal::TakenId) >= 1);
}

#[tokio::test]
async fn a_node_that_moved_waits_until_its_former_place_is_found_dead() {
    let mut nodes = cluster_with(3, |spec| spec.settings.probe_interval = Duration::from_millis(310)).await;
    let old = nodes.pop().unwrap();
    old.net.kill();
    let spec = Spec { generation: 2000, ..Spec::new(3, &[nodes[0].address]) };
    let moved = tokio::time::timeout(SOON, TestNode::join(&spec)).await.unwrap().unwrap();
    assert_ne!(moved.address, old.address);
    for node in &nodes {
        let new = |members: &Members| {
            let member = members.get(NodeId(3)).unwrap();
            (member.internal, member.state) == (moved.address, MemberState::Alive)
        };
        node.until("node 3 at its new place", new).await;
    }
}

#[tokio::test]
async fn too_many_seeds_are_refused() {
    let net = Net::new();
    let socket = net.datagrams("127.0.0.1:0".parse().unwrap()).unwrap();
    let me = TestNode::start(&Spec::new(1, &[])).members().get(NodeId(1)).cloned().unwrap();
    let error = Gossip::start(GossipStart {
        me,
        seeds: vec![Seed::parse("a:1", 1).unwrap(); 65],
        settings: GossipSettings::default(),
        cluster_name: "tests".to_owned(),
        store_id: STORE,
        key: None,
        net,
        socket,
        seed: 1,
    })
    .unwrap_err();
    assert_eq!(error, GossipError::Seeds(65));
}
