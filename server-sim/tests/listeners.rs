//! Extra listeners with their addresses, TLS, and tokens on every way in, over real connections.

mod support;

use hstream_server::auth::Tokens;
use hstream_server::listener::{ExtraListener, apply_protocols, parse_listeners};
use hstream_server::node::{Node, NodeConfig, StartError};
use hstream_server::tls::TlsFiles;
use hstreamdb_proto::api::h_stream_api_client::HStreamApiClient;
use hstreamdb_proto::api::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::*;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Code, Request, Status};

fn config(data_dir: &Path, listeners: &str) -> NodeConfig {
    NodeConfig {
        port: 0,
        data_dir: data_dir.to_owned(),
        extra_listeners: parse_listeners(listeners).unwrap(),
        ..NodeConfig::default()
    }
}

/// Ports of the listeners with this key, in the order of the configuration.
fn ports(node: &Node, key: &str) -> Vec<u16> {
    let extra = node.advertised().extra.iter().filter(|(its_key, _)| **its_key == *key);
    extra.map(|(_, address)| address.port).collect()
}

fn addresses(nodes: &[ServerNode]) -> Vec<(String, u32)> {
    nodes.iter().map(|node| (node.host.clone(), node.port)).collect()
}

#[tokio::test]
async fn every_lookup_answers_with_the_addresses_of_the_listener_it_came_through() {
    let dir = tempfile::tempdir().unwrap();
    let listeners =
        "inside:hstream://inside.test:0,outside:hstream://one.test:0,outside:hstream://two.test:0";
    let node = Node::start(config(dir.path(), listeners)).await.unwrap();
    let (inside, outside) = (ports(&node, "inside"), ports(&node, "outside"));
    assert!(inside.iter().chain(&outside).all(|port| *port != 0));
    let main = node.address().port();
    let expected = [
        (main, vec![("127.0.0.1", main)]),
        (inside[0], vec![("inside.test", inside[0])]),
        (outside[0], vec![("one.test", outside[0]), ("two.test", outside[1])]),
        (outside[1], vec![("one.test", outside[0]), ("two.test", outside[1])]),
    ];
    for (port, told) in expected {
        let told: Vec<_> = told.into_iter().map(|(host, port)| (host.to_owned(), u32::from(port))).collect();
        let mut client = connect(port).await;
        let cluster = client.describe_cluster(()).await.unwrap().into_inner();
        assert_eq!(addresses(&cluster.server_nodes), told);
        let status: Vec<_> =
            cluster.server_nodes_status.iter().map(|status| status.node.clone().unwrap()).collect();
        assert_eq!(status, cluster.server_nodes);
        assert!(cluster.server_nodes_status.iter().all(|status| status.state() == NodeState::Running));

        let first = &told[..1];
        let shard = client.lookup_shard(LookupShardRequest { shard_id: 7 }).await.unwrap().into_inner();
        assert_eq!((shard.shard_id, addresses(shard.server_node.as_slice())), (7, first.to_vec()));
        let key = client.lookup_key(LookupKeyRequest { partition_key: "k".into() }).await.unwrap();
        assert_eq!(addresses(&[key.into_inner()]), first);
        let lookup = LookupSubscriptionRequest { subscription_id: "sub".into() };
        let sub = client.lookup_subscription(lookup).await.unwrap().into_inner();
        assert_eq!((&*sub.subscription_id, addresses(sub.server_node.as_slice())), ("sub", first.to_vec()));
        let lookup = LookupShardReaderRequest { reader_id: "r".into() };
        let reader = client.lookup_shard_reader(lookup).await.unwrap().into_inner();
        assert_eq!((&*reader.reader_id, addresses(reader.server_node.as_slice())), ("r", first.to_vec()));
        let lookup = LookupResourceRequest { res_type: ResourceType::ResStream as i32, res_id: "s".into() };
        let resource = client.lookup_resource(lookup).await.unwrap();
        assert_eq!(addresses(&[resource.into_inner()]), first);
    }
    node.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn data_is_the_same_through_every_listener_and_all_close_together() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path(), "k:hstream://localhost:0")).await.unwrap();
    let port = ports(&node, "k")[0];
    let shard = create(&mut connect(port).await, "s", 1).await[0];
    append(&mut connect(port).await, shard, "through k").await;
    let mut main = connect(node.address().port()).await;
    assert_eq!(payloads(&read_all(&mut main, shard).await), ["through k"]);
    node.shutdown(Duration::from_secs(5)).await;
    hstream_testkit::eventually("the extra port is closed", DEADLINE, || async move {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.err()
    })
    .await;
}

#[tokio::test]
async fn listeners_that_cannot_be_opened_are_refused_before_the_data_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let data_dir = dir.path().join("never");
    let start = |listeners: &str| Node::start(config(&data_dir, listeners));
    let error = start(&format!("k:hstream://a.test:{port}")).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    let error = start("k:hstream://a.test:1234,l:hstream://b.test:1234").await.unwrap_err().to_string();
    assert!(error.contains("--advertised-listeners") && error.contains("l:hstream://b.test:1234"), "{error}");
    assert!(!data_dir.exists());
}

/// An authority and what it signed.
struct Authority {
    dir: tempfile::TempDir,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), &pem).unwrap();
        Authority { dir, pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key for a name, as PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Files of a server for `server.test`.
    fn files(&self, client_authorities: Option<PathBuf>) -> TlsFiles {
        let (certificate, key) = self.sign("server.test");
        std::fs::write(self.path("server.pem"), certificate).unwrap();
        std::fs::write(self.path("server.key"), key).unwrap();
        TlsFiles { key: self.path("server.key"), certificate: self.path("server.pem"), client_authorities }
    }

    fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.pem)).domain_name("server.test")
    }
}

async fn connect_tls(port: u16, tls: ClientTlsConfig) -> Result<Client, tonic::transport::Error> {
    let endpoint = Channel::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    let channel = endpoint.tls_config(tls)?.timeout(DEADLINE).connect().await?;
    Ok(HStreamApiClient::new(channel))
}

/// Whether a connection of this kind can call; a refused certificate may show only at the first call.
async fn can_call(port: u16, tls: ClientTlsConfig) -> bool {
    match connect_tls(port, tls).await {
        Ok(mut client) => client.describe_cluster(()).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn a_tls_listener_serves_who_trusts_it_and_nobody_in_plain_text() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let tls = Some(authority.files(None));
    let node = Node::start(NodeConfig { enable_tls: true, tls, ..config(dir.path(), "") }).await.unwrap();
    let port = node.address().port();
    let mut client = connect_tls(port, authority.client()).await.unwrap();
    let shard = create(&mut client, "s", 1).await[0];
    append(&mut client, shard, "hidden").await;
    assert_eq!(payloads(&read_all(&mut client, shard).await), ["hidden"]);

    assert!(!can_call(port, Authority::new().client()).await, "another authority");
    assert!(!can_call(port, authority.client().domain_name("other.test")).await, "another name");
    let plain = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect().await;
    if let Ok(channel) = plain {
        HStreamApiClient::new(channel).describe_cluster(()).await.unwrap_err();
    }
    // Those who were refused have not disturbed the others.
    assert_eq!(payloads(&read_all(&mut client, shard).await), ["hidden"]);
    drop(client);
    node.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn with_an_authority_for_clients_only_its_clients_come_in() {
    let dir = tempfile::tempdir().unwrap();
    let (servers, clients) = (Authority::new(), Authority::new());
    let tls = Some(servers.files(Some(clients.path("ca.pem"))));
    let node = Node::start(NodeConfig { enable_tls: true, tls, ..config(dir.path(), "") }).await.unwrap();
    let port = node.address().port();
    let identity = |(certificate, key)| servers.client().identity(Identity::from_pem(certificate, key));
    assert!(!can_call(port, servers.client()).await, "no certificate");
    assert!(!can_call(port, identity(servers.sign("client.test"))).await, "signed by somebody else");
    assert!(can_call(port, identity(clients.sign("client.test"))).await);
    node.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn each_listener_speaks_what_the_map_says() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut config = config(dir.path(), "secret:hstream://a.test:0,open:hstream://b.test:0");
    apply_protocols(&mut config.extra_listeners, "secret:tls,open:plaintext").unwrap();
    config.tls = Some(authority.files(None));
    let node = Node::start(config).await.unwrap();
    let secret = ports(&node, "secret")[0];
    let cluster = connect_tls(secret, authority.client()).await.unwrap().describe_cluster(()).await.unwrap();
    assert_eq!(addresses(&cluster.into_inner().server_nodes), [("a.test".to_owned(), u32::from(secret))]);
    for port in [node.address().port(), ports(&node, "open")[0]] {
        connect(port).await.describe_cluster(()).await.unwrap();
        assert!(!can_call(port, authority.client()).await);
    }
    node.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn tls_without_key_and_certificate_is_refused_and_says_for_which_listener() {
    let dir = tempfile::tempdir().unwrap();
    let main = NodeConfig { enable_tls: true, ..config(&dir.path().join("never"), "") };
    let error = Node::start(main).await.unwrap_err().to_string();
    assert!(error.contains("the main listener") && error.contains("--tls-key-path"), "{error}");
    let mut extra = config(&dir.path().join("never"), "k:hstream://a.test:0");
    extra.extra_listeners[0].tls = true;
    let error = Node::start(extra).await.unwrap_err().to_string();
    assert!(error.contains("k:hstream://a.test:0") && error.contains("--tls-cert-path"), "{error}");
    assert!(!dir.path().join("never").exists());
}

#[tokio::test]
async fn a_stalled_handshake_holds_up_nobody_and_ends() {
    use tokio::io::AsyncReadExt as _;
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut config = NodeConfig { enable_tls: true, ..config(dir.path(), "") };
    config.tls = Some(authority.files(None));
    config.limits.opening = Duration::from_millis(500);
    let node = Node::start(config).await.unwrap();
    let port = node.address().port();
    let mut stalled = Vec::new();
    for _ in 0..100 {
        stalled.push(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    assert!(can_call(port, authority.client()).await, "while a hundred handshakes are stalled");
    for mut socket in stalled {
        let end = tokio::time::timeout(DEADLINE, socket.read(&mut [0; 64])).await;
        assert!(matches!(end.expect("it is closed"), Ok(0) | Err(_)));
    }
    node.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn surprise_34_tokens_protect_every_listener() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut config = config(dir.path(), "secret:hstream://a.test:0,open:hstream://b.test:0");
    config
        .extra_listeners
        .iter_mut()
        .for_each(|extra: &mut ExtraListener| extra.tls = &*extra.key == "secret");
    config.tls = Some(authority.files(None));
    config.tokens = Tokens::new(["c2VjcmV0".to_owned()]);
    let node = Node::start(config).await.unwrap();
    let clients = [
        connect(node.address().port()).await,
        connect(ports(&node, "open")[0]).await,
        connect_tls(ports(&node, "secret")[0], authority.client()).await.unwrap(),
    ];
    let with = |token: &str| {
        let mut request = Request::new(());
        request.metadata_mut().insert("authorization", token.parse().unwrap());
        request
    };
    for mut client in clients {
        for request in [Request::new(()), with("Basic wrong"), with("c2VjcmV0"), with("Bearer c2VjcmV0")] {
            let (code, body) = refusal(client.describe_cluster(request).await);
            let (error, class, _) = body.expect("a JSON body");
            assert_eq!((code, error, &*class), (Code::Unauthenticated, 0, "Unauthenticated"));
        }
        // Streaming calls are calls, too.
        let status: Status = client.read_shard_stream(ReadShardStreamRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        let requests = tokio_stream::iter([StreamingFetchRequest::default()]);
        let status = client.streaming_fetch(requests).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        client.describe_cluster(with("Basic c2VjcmV0")).await.unwrap();
    }
    node.shutdown(Duration::from_secs(5)).await;
}
