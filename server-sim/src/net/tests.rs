use super::*;
use std::future::Future;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const DEADLINE: Duration = Duration::from_secs(20);

/// A connection between a node and the outside.
struct Pair {
    net: Net,
    inside: Socket,
    outside: TcpStream,
    /// Where the outside listens.
    peer: SocketAddr,
}

async fn connected() -> Pair {
    connected_on(Net::new()).await
}

async fn connected_on(net: Net) -> Pair {
    let outside = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let peer = outside.local_addr().unwrap();
    let inside = net.connect(peer).await.unwrap();
    Pair { net, inside, outside: outside.accept().await.unwrap().0, peer }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

/// Whether it is not ready although everything that was to happen has happened.
async fn waits<T>(what: impl Future<Output = T>) -> bool {
    let mut what = pin!(what);
    for _ in 0..100 {
        if futures::poll!(&mut what).is_ready() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

/// On loopback what was sent or closed is there at once.
async fn sees_nothing(stream: &TcpStream) -> bool {
    // Lets the driver take in what is there.
    waits(stream.readable()).await
        || matches!(stream.try_read(&mut [0; 8]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[tokio::test]
async fn what_is_open_passes_both_ways() {
    let Pair { mut inside, mut outside, .. } = connected().await;
    inside.write_all(b"ping").await.unwrap();
    let mut read = [0; 4];
    in_time(outside.read_exact(&mut read)).await.unwrap();
    outside.write_all(b"pong").await.unwrap();
    in_time(inside.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"pong");
    drop(inside);
    assert_eq!(
        in_time(outside.read(&mut read)).await.unwrap(),
        0,
        "an open connection is closed by dropping it"
    );
}

#[tokio::test]
async fn a_blocked_connection_stands_still_and_goes_on_where_it_stood() {
    let Pair { net, mut inside, mut outside, peer } = connected().await;
    let mut other = connected_on(net.clone()).await;
    net.block([peer]);
    outside.write_all(b"in").await.unwrap();
    let mut read = [0; 3];
    assert!(waits(inside.read(&mut read)).await);
    assert!(waits(inside.write(b"out")).await);
    assert!(sees_nothing(&outside).await);
    other.inside.write_all(b"x").await.unwrap();
    in_time(other.outside.read_exact(&mut [0; 1])).await.expect("other peers are not blocked");

    let (mut reader, mut writer) = tokio::io::split(inside);
    let reading = tokio::spawn(async move {
        let mut read = [0; 2];
        reader.read_exact(&mut read).await.unwrap();
        read
    });
    let writing = tokio::spawn(async move { writer.write_all(b"out").await.map(|()| writer) });
    tokio::task::yield_now().await;
    net.unblock([peer]);
    assert_eq!(&in_time(reading).await.unwrap(), b"in");
    let _writer = in_time(writing).await.unwrap().unwrap();
    in_time(outside.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"out");
}

#[tokio::test]
async fn a_blocked_peer_is_connected_to_once_it_is_not_blocked_any_more() {
    let listener = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let (net, peer) = (Net::new(), listener.local_addr().unwrap());
    net.block([peer]);
    {
        let mut connecting = pin!(net.connect(peer));
        assert!(waits(&mut connecting).await);
        assert!(waits(listener.accept()).await, "not even the connection is opened");
        net.unblock([peer]);
        in_time(connecting).await.unwrap();
    }
    net.block([peer]);
    drop(net.connect(peer));
    assert!(waits(net.connect(peer)).await);
    assert!(net.switch.nobody_waits(), "who gave up leaves nothing behind");
}

#[tokio::test]
async fn a_blocked_peer_is_not_told_that_a_connection_was_dropped_until_it_can_be() {
    let Pair { net, inside, mut outside, peer } = connected().await;
    net.block([peer]);
    drop(inside);
    assert!(sees_nothing(&outside).await);
    net.unblock([peer]);
    let ended = in_time(outside.read(&mut [0; 1])).await;
    assert!(matches!(&ended, Err(error) if error.kind() == ErrorKind::ConnectionReset), "{ended:?}");
}

#[tokio::test]
async fn datagrams_of_a_blocked_peer_are_lost_both_ways() {
    let (near, far, other) = (Net::new(), Net::new(), Net::new());
    let here = near.datagrams(ANY).unwrap();
    let there = far.datagrams(ANY).unwrap();
    let third = other.datagrams(ANY).unwrap();
    let (here_at, there_at) = (here.local_addr().unwrap(), there.local_addr().unwrap());
    near.block([there_at]);
    here.send_to(b"lost", there_at).await.unwrap();
    there.send_to(b"lost", here_at).await.unwrap();
    third.send_to(b"third", here_at).await.unwrap();
    third.send_to(b"third", there_at).await.unwrap();
    let mut buffer = [0; 16];
    let (length, from) = in_time(here.recv_from(&mut buffer)).await.unwrap();
    assert_eq!((&buffer[..length], from), (&b"third"[..], third.local_addr().unwrap()));
    let (length, _) = in_time(there.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..length], b"third", "what was lost never arrives");

    near.unblock([there_at]);
    there.send_to(b"again", here_at).await.unwrap();
    let (length, _) = in_time(here.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..length], b"again");
}

#[tokio::test]
async fn a_dead_node_neither_reads_nor_writes_nor_accepts() {
    let Pair { net, mut inside, mut outside, peer } = connected().await;
    let (listener, datagrams) = net.listen_both(ANY).unwrap();
    let at = listener.local_addr().unwrap();
    net.kill();
    outside.write_all(b"x").await.unwrap();
    let client = TcpStream::connect(at).await.expect("the port is still bound");
    let sender = Net::new().datagrams(ANY).unwrap();
    sender.send_to(b"x", at).await.unwrap();
    datagrams.send_to(b"swallowed", sender.local_addr().unwrap()).await.unwrap();
    assert!(waits(inside.read(&mut [0; 1])).await);
    assert!(waits(inside.write(b"x")).await);
    assert!(waits(inside.shutdown()).await);
    assert!(waits(net.connect(peer)).await);
    assert!(waits(listener.accept()).await);
    assert!(waits(datagrams.recv_from(&mut [0; 1])).await);
    assert!(waits(sender.recv_from(&mut [0; 1])).await);
    assert!(sees_nothing(&client).await && sees_nothing(&outside).await);
    net.unblock([peer]);
    assert!(waits(inside.read(&mut [0; 1])).await, "nothing brings a dead node back");
}

#[tokio::test]
async fn nobody_is_told_when_the_tasks_of_a_dead_node_are_dropped() {
    let net = Net::new();
    let node = net.clone();
    let (opened, ready) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let outside = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let outside_at = outside.local_addr().unwrap();
    runtime.spawn(async move {
        let (listener, datagrams) = node.listen_both(ANY).unwrap();
        let mut out = node.connect(outside_at).await.unwrap();
        opened.send(listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().await;
        accepted.write_all(b"hello").await.unwrap();
        let (mut read, mut received) = ([0; 1], [0; 1]);
        let _ = tokio::join!(out.read(&mut read), listener.accept(), datagrams.recv_from(&mut received));
    });
    let at = tokio::task::spawn_blocking(move || ready.recv_timeout(DEADLINE)).await.unwrap().unwrap();
    let (mut served, _) = in_time(outside.accept()).await.unwrap();
    let mut client = in_time(TcpStream::connect(at)).await.unwrap();
    in_time(client.read_exact(&mut [0; 5])).await.unwrap();

    net.kill();
    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(DEADLINE)).await.unwrap();
    client.write_all(b"are you there").await.unwrap();
    served.write_all(b"are you there").await.unwrap();
    assert!(sees_nothing(&client).await && sees_nothing(&served).await);
    let late = in_time(TcpStream::connect(at)).await.expect("its listener is bound and silent");
    assert!(sees_nothing(&late).await);
    let again = Net::new();
    assert_eq!(again.listen(at).unwrap_err().kind(), ErrorKind::AddrInUse);
    assert_eq!(again.datagrams(at).unwrap_err().kind(), ErrorKind::AddrInUse);

    net.close_buried();
    for stream in [&mut client, &mut served] {
        let ended = in_time(stream.read(&mut [0; 1])).await;
        assert!(matches!(&ended, Err(error) if error.kind() == ErrorKind::ConnectionReset), "{ended:?}");
    }
    again.listen_both(at).expect("the ports are free for the next run");
}

#[tokio::test]
async fn an_internal_port_is_free_for_both_protocols() {
    let net = Net::new();
    let (listener, datagrams) = net.listen_both(ANY).unwrap();
    let at = listener.local_addr().unwrap();
    assert_eq!(datagrams.local_addr().unwrap(), at);
    drop(listener);
    let taken = net.listen_both(at).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse, "a port that was asked for is not replaced by another");
}

#[tokio::test]
async fn grpc_clients_of_a_node_get_its_connections() {
    use tower::Service as _;
    let outside = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let net = Net::new();
    let port = outside.local_addr().unwrap().port();
    let mut connector = net.connector();
    let socket = in_time(connector.call(format!("http://127.0.0.1:{port}").parse().unwrap())).await.unwrap();
    assert_eq!(socket.inner().peer(), outside.local_addr().unwrap());
    let text = in_time(connector.call("/path".parse().unwrap())).await.unwrap_err().to_string();
    assert!(text.contains("no host"), "{text}");
    net.kill();
    assert!(waits(connector.call(format!("http://127.0.0.1:{port}").parse().unwrap())).await);
}
