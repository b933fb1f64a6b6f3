//! Against the real thing.

use super::*;
use async_nats::{
    ConnectOptions,
    jetstream::{self, stream},
};
use std::time::Duration;

async fn publish(context: &jetstream::Context, text: &str) -> anyhow::Result<u64> {
    let answer = async { context.publish("log.a", text.to_owned().into()).await?.await };
    Ok(tokio::time::timeout(Duration::from_secs(5), answer).await??.sequence)
}

/// A stream on all peers.
async fn stream_on(nats: &Nats, options: ConnectOptions) -> (async_nats::Client, jetstream::Context) {
    let client = options.connect(nats.urls()).await.unwrap();
    let context = jetstream::new(client.clone());
    let config = stream::Config {
        name: "LOG".into(),
        subjects: vec!["log.>".into()],
        num_replicas: nats.peers(),
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    (client, context)
}

#[tokio::test]
async fn a_lone_server_keeps_what_it_had_when_it_is_killed() {
    let nats =
        Nats::start(NatsOptions { sync_interval: Some("always".into()), ..NatsOptions::default() }).unwrap();
    let (_, context) = stream_on(&nats, ConnectOptions::new()).await;
    assert_eq!(publish(&context, "one").await.unwrap(), 1);
    nats.kill(0).unwrap();
    assert!(nats.kill(0).unwrap_err().to_string().contains("does not run"));
    assert!(publish(&context, "two").await.is_err(), "nobody is there");
    nats.restart(0).unwrap();
    nats.ready().await.unwrap();
    let (_, context) = stream_on(&nats, ConnectOptions::new()).await;
    assert!(publish(&context, "two").await.unwrap() >= 2);
}

#[tokio::test]
async fn a_cluster_goes_on_without_the_peer_that_leads() {
    let nats = Nats::start(NatsOptions { peers: 3, ..NatsOptions::default() }).unwrap();
    let (_client, context) = stream_on(&nats, ConnectOptions::new()).await;
    publish(&context, "one").await.unwrap();
    nats.ready().await.unwrap();
    let leader = nats.leader_of("LOG").unwrap();
    nats.kill(leader).unwrap();
    nats.ready().await.unwrap();
    assert_ne!(nats.leader_of("LOG").unwrap(), leader);
    assert_ne!(nats.leader().unwrap(), leader);
    crate::eventually("a publish after the election", Duration::from_secs(30), || async {
        publish(&context, "two").await.ok()
    })
    .await;
    nats.restart(leader).unwrap();
    nats.ready().await.unwrap();
    nats.stop(leader).unwrap();
    nats.restart(leader).unwrap();
    nats.ready().await.unwrap();
}

#[tokio::test]
async fn a_paused_server_answers_when_it_is_resumed() {
    let nats = Nats::start(NatsOptions::default()).unwrap();
    let (_, context) = stream_on(&nats, ConnectOptions::new()).await;
    nats.pause(0).unwrap();
    assert!(nats.leader_of("LOG").unwrap_err().to_string().contains("no peer that runs"));
    let publishing = tokio::spawn(async move { publish(&context, "late").await });
    nats.resume(0).unwrap();
    assert_eq!(publishing.await.unwrap().unwrap(), 1);
    nats.pause(0).unwrap();
    nats.kill(0).unwrap();
}

#[tokio::test]
async fn options_are_what_clients_meet() {
    let options = NatsOptions {
        user: Some(("me".into(), "it is \"secret\"".into())),
        max_payload: Some(3 << 20),
        ..NatsOptions::default()
    };
    assert!(!format!("{options:?}").contains("secret"));
    let nats = Nats::start(options).unwrap();
    let nobody = ConnectOptions::new().connect(nats.urls()).await;
    assert!(nobody.is_err(), "without the password");
    let somebody = ConnectOptions::with_user_and_password("me".into(), "it is \"secret\"".into());
    let client = somebody.connect(nats.urls()).await.unwrap();
    assert_eq!(client.server_info().max_payload, 3 << 20);
    assert!(nats.store_url("here").contains("://me:it%20is%20%22secret%22@127.0.0.1:"));
    assert!(nats.store_url("here").ends_with(&format!(":{}/here", nats.port(0))));
}

#[tokio::test]
async fn clients_need_tls_if_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = NatsTls { cert: cert.clone(), key, client_ca: None };
    let nats = Nats::start(NatsOptions { tls: Some(tls), ..NatsOptions::default() }).unwrap();
    assert!(nats.store_url("x").starts_with("tls://"));
    let (client, context) = stream_on(&nats, ConnectOptions::new().add_root_certificates(cert)).await;
    assert!(client.server_info().tls_required);
    assert_eq!(publish(&context, "secret").await.unwrap(), 1);
}

#[tokio::test]
async fn without_jetstream_there_are_plain_messages_only() {
    let nats = Nats::start(NatsOptions { jetstream: false, ..NatsOptions::default() }).unwrap();
    let client = ConnectOptions::new().connect(nats.urls()).await.unwrap();
    assert!(jetstream::new(client).query_account().await.is_err());
}

#[test]
fn a_server_that_ends_early_is_an_error_with_its_words() {
    let options = NatsOptions { further: "max_payload: nonsense".into(), ..NatsOptions::default() };
    let error = Nats::start(options).unwrap_err().to_string();
    assert!(error.contains("has ended by itself") && error.contains("peer-0.conf:"), "{error}");
}

#[test]
fn processes_and_folders_end_with_the_value() {
    let nats = Nats::start(NatsOptions::default()).unwrap();
    let (folder, port) = (nats.folder().to_owned(), nats.port(0));
    assert!(folder.join("peer-0.conf").exists());
    drop(nats);
    assert!(!folder.exists());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}
