//! Nodes that do not belong together do not come together, and say why.

use super::super::Refusal;
use super::*;

async fn refused(spec: Spec, there: Refusal, words: &str) {
    let nodes = cluster(2).await;
    let mut spec = spec;
    spec.seeds = nodes.iter().map(|node| node.address).collect();
    let stranger = TestNode::start(&spec);
    let error = stranger.gossip.join().await.unwrap_err();
    let GossipError::Stranger { address, .. } = &error else { panic!("{error:?}") };
    assert!(spec.seeds.contains(address));
    assert!(error.to_string().contains(words), "{error}");
    // Both sides have noticed.
    for node in &nodes {
        poll("the refusal is counted", || node.gossip.stats().refused(there) > 0).await;
    }
    // Its datagrams do not count either: it knows where to send, and for which run.
    forge(&stranger, &spec, &nodes[0]).await;
    assert_eq!(stranger.members().nodes.len(), 1);
    for node in &nodes {
        assert_eq!(node.members().nodes.len(), 2, "{:?}", node.members());
    }
}

/// Sends a push that is sealed with what this stranger has, through both ways in.
async fn forge(stranger: &TestNode, spec: &Spec, node: &TestNode) {
    use super::super::seal::{Circle, Kind, Run, Seal};
    use hstreamdb_proto::internal::Sealed;
    use hstreamdb_proto::internal::node_client::NodeClient;
    let me = Run { id: NodeId(spec.id), generation: spec.generation };
    let to = Run { id: NodeId(1), generation: 1000 };
    let mut seal = Seal::new(Circle::new(spec.cluster, spec.store, spec.key.as_ref()), me);
    let socket = stranger.net.datagrams("127.0.0.1:0".parse().unwrap()).unwrap();
    let before: u64 = node.gossip.stats().refused.iter().map(|(_, count)| count).sum();
    socket.send_to(&seal.close(Kind::Datagram, to, b"x"), node.address).await.unwrap();
    let mut client = NodeClient::connect(format!("http://{}", node.address)).await.unwrap();
    let status = client.push_pull(Sealed { packet: seal.close(Kind::Push, to, b"x") }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    poll("both are refused", || {
        node.gossip.stats().refused.iter().map(|(_, count)| count).sum::<u64>() >= before + 2
    })
    .await;
    assert_eq!(node.gossip.stats().refused(Refusal::Malformed), 0);
}

#[tokio::test]
async fn a_node_of_another_cluster() {
    let spec = Spec { cluster: "others", ..Spec::new(9, &[]) };
    refused(spec, Refusal::OtherCluster, "belongs to the cluster \"tests\"").await;
}

#[tokio::test]
async fn a_node_over_another_store() {
    let spec = Spec { store: STORE + 1, ..Spec::new(9, &[]) };
    refused(spec, Refusal::OtherStore, "must use the same store").await;
}

#[tokio::test]
async fn a_node_with_another_key() {
    let spec = Spec { key: Some(key(2)), ..Spec::new(9, &[]) };
    refused(spec, Refusal::WrongKey, "has another gossip key").await;
}

#[tokio::test]
async fn a_node_without_a_key() {
    let spec = Spec { key: None, ..Spec::new(9, &[]) };
    refused(spec, Refusal::NoKey, "this node has none").await;
}

#[tokio::test]
async fn nodes_without_a_key_find_each_other_and_refuse_one_that_has_a_key() {
    let nodes = cluster_with(2, |spec| spec.key = None).await;
    let error = TestNode::join(&Spec::new(9, &[nodes[0].address])).await.unwrap_err();
    assert!(error.to_string().contains("has no gossip key and this node has one"), "{error}");
    assert_eq!(nodes[0].gossip.stats().refused(Refusal::UnexpectedKey), 1);
    assert_eq!(nodes[0].members().nodes.len(), 2);
}
