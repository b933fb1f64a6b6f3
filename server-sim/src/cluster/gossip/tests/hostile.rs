//! Whoever reaches the port without the key changes nothing, and holds nobody up for long.

use super::super::seal::{Circle, Kind, Run, Seal};
use super::super::{MAX_DATAGRAM, Refusal};
use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// A node of the same cluster that only listens: what it is sent can be looked at and used again.
struct Tapped {
    socket: UdpSocket,
    calls: TcpListener,
}

/// Datagrams that pass the tap before one is held back.
const ARRIVED: usize = 20;

/// What went over the wire to a node.
struct Recorded {
    arrived: Vec<Vec<u8>>,
    /// This one was held back; the node has never heard it.
    withheld: Vec<u8>,
}

/// Lets everything that the others send to a node pass through, and keeps copies.
async fn tap(nodes: &[TestNode], spec: &Spec) -> (TestNode, Recorded) {
    // Whoever gossips at the tap's address is reached through it.
    let tap = loop {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(calls) = TcpListener::bind(socket.local_addr().unwrap()).await {
            break Tapped { socket, calls };
        }
    };
    let address = tap.socket.local_addr().unwrap();
    let node = TestNode::start_at(spec, Some(address));
    let real = node.address;
    let (sender, mut copies) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut ours, _) = tap.calls.accept().await.unwrap();
            tokio::spawn(async move {
                let mut theirs = TcpStream::connect(real).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
            });
        }
    });
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        for number in 0.. {
            let (length, _) = tap.socket.recv_from(&mut buffer).await.unwrap();
            if number != ARRIVED {
                tap.socket.send_to(&buffer[..length], real).await.unwrap();
            }
            let _ = sender.send(buffer[..length].to_vec());
        }
    });
    node.gossip.join().await.unwrap();
    for other in nodes {
        other.until_alive(nodes.len() + 1).await;
    }
    let mut arrived = Vec::new();
    while arrived.len() <= ARRIVED {
        arrived.push(tokio::time::timeout(SOON, copies.recv()).await.unwrap().unwrap());
    }
    let withheld = arrived.pop().unwrap();
    (node, Recorded { arrived, withheld })
}

fn total_refused(node: &TestNode) -> u64 {
    node.gossip.stats().refused.iter().map(|(_, count)| count).sum()
}

#[tokio::test]
async fn recorded_packets_count_nowhere_again() {
    let nodes = cluster(2).await;
    let spec = Spec::new(3, &[nodes[0].address]);
    let (tapped, Recorded { arrived: recorded, .. }) = tap(&nodes, &spec).await;
    let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // To the node they were meant for, again.
    let before = tapped.gossip.stats().refused(Refusal::Replayed);
    for packet in &recorded {
        attacker.send_to(packet, tapped.address).await.unwrap();
    }
    poll("all are recognized", || {
        tapped.gossip.stats().refused(Refusal::Replayed) >= before + recorded.len() as u64
    })
    .await;
    // To another node.
    let before = nodes[1].gossip.stats().refused(Refusal::NotForUs);
    for packet in &recorded {
        attacker.send_to(packet, nodes[1].address).await.unwrap();
    }
    poll("all are recognized", || {
        nodes[1].gossip.stats().refused(Refusal::NotForUs) >= before + recorded.len() as u64
    })
    .await;
    // To a later run of the node they were meant for. It has heard nothing yet.
    let restarted = TestNode::start(&Spec { generation: spec.generation + 1, seeds: Vec::new(), ..spec });
    for packet in &recorded {
        attacker.send_to(packet, restarted.address).await.unwrap();
    }
    poll("all are recognized", || {
        restarted.gossip.stats().refused(Refusal::NotForUs) >= recorded.len() as u64
    })
    .await;
    assert_eq!(restarted.members().nodes.len(), 1);
    assert_eq!(restarted.gossip.stats().swim.packets_received, 0);
}

#[tokio::test]
async fn forged_and_altered_datagrams_change_nothing() {
    let nodes = cluster(2).await;
    let spec = Spec::new(3, &[nodes[0].address]);
    let (tapped, Recorded { withheld: packet, .. }) = tap(&nodes, &spec).await;
    let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let before = total_refused(&tapped);
    let mut sent = 0;
    for position in 0..packet.len() {
        let mut altered = packet.clone();
        altered[position] ^= 1 << (position % 8);
        attacker.send_to(&altered, tapped.address).await.unwrap();
        attacker.send_to(&packet[..position], tapped.address).await.unwrap();
        sent += 2;
        if sent % 100 == 0 {
            // The socket's buffer has an end.
            poll("they are refused", || total_refused(&tapped) >= before + sent).await;
        }
    }
    attacker.send_to(&[0; MAX_DATAGRAM + 1], tapped.address).await.unwrap();
    attacker.send_to(&[0xff; 9000], tapped.address).await.unwrap();
    poll("they are refused", || total_refused(&tapped) >= before + sent + 2).await;
    assert_eq!(tapped.gossip.stats().refused(Refusal::TooLarge), 2);
    // Those in whom nothing but the proof was wrong got as far as that, and no further.
    let [malformed, replayed] =
        [Refusal::Malformed, Refusal::Replayed].map(|why| tapped.gossip.stats().refused(why));
    assert_eq!((malformed, replayed), (0, 0));
    assert!(tapped.gossip.stats().refused(Refusal::WrongKey) > packet.len() as u64);
    // The true one still counts.
    attacker.send_to(&packet, tapped.address).await.unwrap();
    attacker.send_to(&packet, tapped.address).await.unwrap();
    poll("the second copy is recognized", || tapped.gossip.stats().refused(Refusal::Replayed) == 1).await;
    tapped.until_alive(3).await;
    assert_eq!(tapped.gossip.stats().swim.false_downs, 0);
}

#[tokio::test]
async fn a_recorded_push_counts_once_and_at_one_run_of_one_node() {
    use crate::cluster::swim::Membership;
    use hstreamdb_proto::internal::Sealed;
    use hstreamdb_proto::internal::node_client::NodeClient;
    let node = TestNode::start(&Spec::new(1, &[]));
    // A node that knows another one, which nobody else has heard of.
    let other = Member { id: NodeId(8), ..node.members().get(NodeId(1)).cloned().unwrap() };
    let now = std::time::Instant::now();
    let (membership, _) = Membership::new(&other, GossipSettings::default(), 1, now).unwrap();
    let mut seal =
        Seal::new(Circle::new("tests", STORE, Some(&key(1))), Run { id: NodeId(8), generation: 1 });
    let to = |id, generation| Run { id: NodeId(id), generation };
    let records = membership.records();
    let for_another = seal.close(Kind::Push, to(2, 1000), &records);
    let for_a_former_run = seal.close(Kind::Push, to(1, 999), &records);
    let right = seal.close(Kind::Push, to(1, 1000), &records);
    let mut client = NodeClient::connect(format!("http://{}", node.address)).await.unwrap();
    for packet in [for_another, for_a_former_run] {
        let status = client.push_pull(Sealed { packet }).await.unwrap_err();
        assert!(status.message().contains("another node or for an earlier run"), "{status}");
    }
    for position in 0..right.len() {
        let mut altered = right.to_vec();
        altered[position] ^= 1 << (position % 8);
        assert!(client.push_pull(Sealed { packet: altered.into() }).await.is_err(), "byte {position}");
    }
    assert_eq!(node.members().nodes.len(), 1);
    client.push_pull(Sealed { packet: right.clone() }).await.unwrap();
    assert_eq!(node.members().nodes.len(), 2);
    let status = client.push_pull(Sealed { packet: right }).await.unwrap_err();
    assert!(status.message().contains("it came before"), "{status}");
}

#[tokio::test]
async fn an_insider_who_talks_nonsense_is_counted_and_changes_nothing() {
    let nodes = cluster(2).await;
    let me = Run { id: NodeId(7), generation: 1 };
    let mut seal = Seal::new(Circle::new("tests", STORE, Some(&key(1))), me);
    let to = Run { id: NodeId(1), generation: 1000 };
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for content in [&b""[..], b"\xff\xff\xff", &[0; 1200]] {
        socket.send_to(&seal.close(Kind::Datagram, to, content), nodes[0].address).await.unwrap();
    }
    poll("they are counted", || {
        let stats = nodes[0].gossip.stats();
        stats.swim.malformed + stats.swim.misdirected + stats.swim.refused >= 3
    })
    .await;
    nodes[0].until_alive(2).await;
    assert_eq!(nodes[0].members().nodes.len(), 2);
}

#[tokio::test]
async fn a_peer_that_hangs_or_babbles_holds_a_join_up_for_a_bounded_time() {
    let nodes = cluster(2).await;
    // It takes the connection and says nothing, it speaks something else, it sends for ever.
    let mut seeds = Vec::new();
    for behaviour in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        seeds.push(listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    match behaviour {
                        0 => std::future::pending().await,
                        1 => {
                            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                            let _ = socket.read_to_end(&mut Vec::new()).await;
                        }
                        _ => while socket.write_all(&[0; 65536]).await.is_ok() {},
                    }
                });
            }
        });
    }
    let alone = tokio::time::timeout(SOON, TestNode::join(&Spec::new(8, &seeds))).await.unwrap().unwrap();
    assert_eq!(alone.members().nodes.len(), 1);
    seeds.push(nodes[0].address);
    let joined = tokio::time::timeout(SOON, TestNode::join(&Spec::new(9, &seeds))).await.unwrap().unwrap();
    joined.until_alive(3).await;
}

#[tokio::test]
async fn callers_that_hang_send_too_much_or_garbage_leave_the_node_as_it_was() {
    use hstreamdb_proto::internal::node_client::NodeClient;
    use hstreamdb_proto::internal::{HelloRequest, Sealed};
    let nodes = cluster(2).await;
    let mut hanging = Vec::new();
    for _ in 0..50 {
        let mut socket = TcpStream::connect(nodes[0].address).await.unwrap();
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        hanging.push(socket);
        let mut garbage = TcpStream::connect(nodes[0].address).await.unwrap();
        garbage.write_all(&[0xff; 100]).await.unwrap();
        hanging.push(garbage);
    }
    let mut client = NodeClient::connect(format!("http://{}", nodes[0].address)).await.unwrap();
    for length in [2, 8].map(|mebibytes| mebibytes * 1024 * 1024) {
        let huge = Sealed { packet: vec![0; length].into() };
        assert!(client.push_pull(huge).await.is_err(), "{length} bytes");
    }
    assert_eq!(nodes[0].gossip.stats().refused(Refusal::TooLarge), 1);
    for length in [0, 1, 61, 62, 100, 100_000] {
        let status = client.push_pull(Sealed { packet: vec![0; length].into() }).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    }
    // Without an introduction there is an answer all the same, and it lets nobody in.
    let answer = client.hello(HelloRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.from.unwrap().id, 1);
    assert!(nodes[0].gossip.stats().refused(Refusal::Malformed) >= 1);
    // The node answers others meanwhile.
    let third = TestNode::join(&Spec::new(3, &[nodes[0].address])).await.unwrap();
    third.until_alive(3).await;
}
