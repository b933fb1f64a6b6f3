use super::*;
use crate::eventually;
use std::io::{self, ErrorKind};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for anything that is going to happen on loopback.
const A_WHILE: Duration = Duration::from_millis(100);

/// A server that sends back what it gets, and a link to it.
async fn echo() -> Link {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = socket.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Link::start(port, 7).await.unwrap()
}

async fn connect(link: &Link) -> TcpStream {
    TcpStream::connect(link.address()).await.unwrap()
}

async fn say(socket: &mut TcpStream, words: &[u8]) -> io::Result<Vec<u8>> {
    socket.write_all(words).await?;
    let mut back = vec![0; words.len()];
    timeout(PATIENCE, socket.read_exact(&mut back)).await.expect("an answer within 20 seconds")?;
    Ok(back)
}

/// What the socket ends with, after everything that still comes.
async fn end(socket: &mut TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("an end within 20 seconds");
    read.map(|_| rest).map_err(|error| error.kind())
}

async fn is_silent(socket: &mut TcpStream) -> bool {
    timeout(A_WHILE, socket.read_u8()).await.is_err()
}

#[tokio::test]
async fn a_good_network_carries_everything_and_both_ends() {
    let link = echo().await;
    let mut socket = connect(&link).await;
    let much: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    let (mut from, mut to) = socket.split();
    let (sent, back) = tokio::join!(
        async {
            to.write_all(&much).await.unwrap();
            to.shutdown().await
        },
        async {
            let mut back = Vec::new();
            from.read_to_end(&mut back).await.unwrap();
            back
        }
    );
    sent.unwrap();
    assert!(back == much);
    let stats = link.stats();
    assert_eq!((stats.accepted, stats.broken), (1, 0));
    assert_eq!((stats.to_server, stats.to_client), (1_000_000, 1_000_000));
}

#[tokio::test]
async fn latency_and_jitter_delay_each_way_and_keep_the_order() {
    let link = echo().await;
    let mut socket = connect(&link).await;
    let slow =
        Flow { latency: Duration::from_millis(60), jitter: Duration::from_millis(40), ..Flow::default() };
    link.set(Way::ToServer, slow);
    link.set(Way::ToClient, slow);
    let started = Instant::now();
    let words: Vec<u8> = (0..40).collect();
    let (mut from, mut to) = socket.split();
    let mut back = vec![0; words.len()];
    let (_, read) = tokio::join!(
        async {
            for word in &words {
                to.write_all(&[*word]).await.unwrap();
                tokio::task::yield_now().await;
            }
        },
        timeout(PATIENCE, from.read_exact(&mut back))
    );
    read.unwrap().unwrap();
    assert_eq!(back, words);
    assert!(started.elapsed() >= Duration::from_millis(120), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_throttled_way_takes_its_time() {
    let link = echo().await;
    let mut socket = connect(&link).await;
    link.set(Way::ToServer, Flow { bytes_per_second: Some(10_000), ..Flow::default() });
    let started = Instant::now();
    say(&mut socket, &[1; 3000]).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
    link.resume();
    let started = Instant::now();
    say(&mut socket, &[1; 300_000]).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "30 s when throttled");
}

#[tokio::test]
async fn a_cut_is_a_reset_or_an_end_as_asked() {
    let link = echo().await;
    let (mut reset, mut closed) = (connect(&link).await, connect(&link).await);
    say(&mut reset, b"a").await.unwrap();
    link.cut(Ending::Reset);
    assert_eq!(end(&mut reset).await, Err(ErrorKind::ConnectionReset));
    // Both were open.
    assert_eq!(end(&mut closed).await, Err(ErrorKind::ConnectionReset));
    let mut closed = connect(&link).await;
    say(&mut closed, b"a").await.unwrap();
    link.cut(Ending::Close);
    assert_eq!(end(&mut closed).await, Ok(Vec::new()));
    say(&mut connect(&link).await, b"new ones work").await.unwrap();
    assert_eq!(link.stats().broken, 3);
}

#[tokio::test]
async fn a_connection_ends_after_the_bytes_it_is_given() {
    let link = echo().await;
    for ending in [Ending::Reset, Ending::Close, Ending::Silence] {
        let mut socket = connect(&link).await;
        say(&mut socket, b"not counted").await.unwrap();
        link.set(Way::ToClient, Flow { ends_after: Some((5, ending)), ..Flow::default() });
        socket.write_all(b"hello world").await.unwrap();
        let mut back = [0; 5];
        timeout(PATIENCE, socket.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(&back, b"hello");
        match ending {
            Ending::Reset => assert_eq!(end(&mut socket).await, Err(ErrorKind::ConnectionReset)),
            Ending::Close => assert_eq!(end(&mut socket).await, Ok(Vec::new())),
            Ending::Silence => assert!(is_silent(&mut socket).await),
        }
        link.resume();
    }
}

#[tokio::test]
async fn half_open_loses_one_way_and_resets_when_it_is_over() {
    let link = echo().await;
    let mut socket = connect(&link).await;
    say(&mut socket, b"a").await.unwrap();
    link.set(Way::ToClient, Flow { swallow: true, ..Flow::default() });
    let before = link.stats();
    socket.write_all(b"lost on the way back").await.unwrap();
    eventually("the bytes at the server", PATIENCE, || async {
        (link.stats().to_server == before.to_server + 20).then_some(())
    })
    .await;
    assert!(is_silent(&mut socket).await);
    assert_eq!(link.stats().to_client, before.to_client);
    let mut untouched = connect(&link).await;
    link.resume();
    assert_eq!(end(&mut socket).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(say(&mut untouched, b"x").await.unwrap(), b"x", "it had lost nothing");
}

#[tokio::test]
async fn half_open_hides_the_end_as_well() {
    let link = echo().await;
    let mut socket = connect(&link).await;
    say(&mut socket, b"a").await.unwrap();
    link.set(Way::ToServer, Flow { swallow: true, ..Flow::default() });
    socket.shutdown().await.unwrap();
    assert!(is_silent(&mut socket).await, "the server would have ended its side");
    link.resume();
    assert!(end(&mut socket).await.is_err());
}

#[tokio::test]
async fn a_black_hole_keeps_everything_still_until_it_is_over() {
    let link = echo().await;
    let mut old = connect(&link).await;
    say(&mut old, b"a").await.unwrap();
    link.freeze();
    old.write_all(b"b").await.unwrap();
    let mut new = connect(&link).await;
    new.write_all(b"c").await.unwrap();
    assert!(is_silent(&mut old).await && is_silent(&mut new).await);
    link.resume();
    assert_eq!(timeout(PATIENCE, old.read_u8()).await.unwrap().unwrap(), b'b');
    assert_eq!(timeout(PATIENCE, new.read_u8()).await.unwrap().unwrap(), b'c');
}

#[tokio::test]
async fn what_stands_still_can_be_cut() {
    let link = echo().await;
    let mut old = connect(&link).await;
    say(&mut old, b"a").await.unwrap();
    link.freeze();
    let mut new = connect(&link).await;
    eventually("the second connection", PATIENCE, || async { (link.stats().accepted == 2).then_some(()) })
        .await;
    link.cut(Ending::Reset);
    assert!(end(&mut old).await.is_err() && end(&mut new).await.is_err());
}

#[tokio::test]
async fn refused_is_refused_and_the_port_is_kept() {
    let link = echo().await;
    let mut open = connect(&link).await;
    say(&mut open, b"a").await.unwrap();
    link.refuse();
    eventually("a refusal", PATIENCE, || async {
        TcpStream::connect(link.address())
            .await
            .err()
            .filter(|error| error.kind() == ErrorKind::ConnectionRefused)
    })
    .await;
    say(&mut open, b"still there").await.unwrap();
    link.resume();
    let mut again =
        eventually("a connection", PATIENCE, || async { TcpStream::connect(link.address()).await.ok() })
            .await;
    say(&mut again, b"back").await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_gone_shows_and_another_takes_its_place() {
    let link = echo().await;
    let other = echo().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    link.point_at(gone);
    assert!(end(&mut connect(&link).await).await.is_err());
    link.point_at(other.port());
    say(&mut connect(&link).await, b"x").await.unwrap();
}

#[tokio::test]
async fn a_stalled_reader_stops_the_sender() {
    let link = echo().await;
    let mut socket = connect(&link).await;
    link.set(Way::ToServer, Flow { bytes_per_second: Some(1000), ..Flow::default() });
    let written = timeout(Duration::from_secs(1), async {
        let mut written = 0usize;
        while written < 64 << 20 {
            written += socket.write(&[0; 65536]).await.unwrap();
        }
    });
    assert!(written.await.is_err(), "64 MiB were taken by a link that passes on 1 KB a second");
}

#[tokio::test]
async fn silence_is_heard_by_the_server_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = Link::start(listener.local_addr().unwrap().port(), 7).await.unwrap();
    let mut client = connect(&link).await;
    let (mut server, _) = listener.accept().await.unwrap();
    client.write_all(b"x").await.unwrap();
    assert_eq!(timeout(PATIENCE, server.read_u8()).await.unwrap().unwrap(), b'x');
    link.cut(Ending::Silence);
    assert_eq!(end(&mut server).await, Err(ErrorKind::ConnectionReset));
    client.write_all(b"into the void").await.unwrap();
    assert!(is_silent(&mut client).await);
    link.resume();
    assert!(is_silent(&mut client).await, "it is for good");
    connect(&link).await;
    timeout(PATIENCE, listener.accept()).await.expect("new ones work").unwrap();
}
