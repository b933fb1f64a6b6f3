//! Point 12, who may: TLS, client certificates and tokens on every connection, those to nodes found later, too.

use super::members::{Member, MemberOptions, Script};
use super::relay::Network;
use crate::node_under_test::soon;
use futures::future::join_all;
use hstream_server::{
    node::{Node, NodeConfig},
    tls::TlsFiles,
};
use hstreamdb::{
    AuthToken, Client, ClientBuilder, ClientEvent, Error, ErrorKind, Offset, Record, StartFrom,
    StreamOptions, SubscriptionOptions,
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// An authority and what it signed, as files.
struct Authority {
    directory: tempfile::TempDir,
}

impl Authority {
    /// Signs a certificate `server` for the names and a certificate `client`; `other` is signed by nobody.
    fn signing(names: &[&str]) -> Authority {
        let directory = tempfile::tempdir().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = parameters.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, key);
        let write = |name: &str, text: String| std::fs::write(directory.path().join(name), text).unwrap();
        write("ca.pem", ca.pem());
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        for (file, names) in [("server", names), ("client", vec!["client.test".to_owned()])] {
            let key = rcgen::KeyPair::generate().unwrap();
            let signed = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
            write(&format!("{file}.pem"), signed.pem());
            write(&format!("{file}.key"), key.serialize_pem());
        }
        let other = rcgen::generate_simple_self_signed(["client.test".to_owned()]).unwrap();
        write("other.pem", other.cert.pem());
        write("other.key", other.signing_key.serialize_pem());
        Authority { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// TLS of a gateway that asks for client certificates.
    fn gateway(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(self.text("server.pem"), self.text("server.key")))
            .client_ca_root(Certificate::from_pem(self.text("ca.pem")))
    }
}

/// A real node that speaks TLS to those who show a certificate.
async fn tls_node(authority: &Authority, ip: &str, data: &Path) -> Node {
    let config = NodeConfig {
        bind_address: ip.parse().unwrap(),
        port: 0,
        data_dir: data.to_owned(),
        enable_tls: true,
        tls: Some(TlsFiles {
            key: authority.path("server.key"),
            certificate: authority.path("server.pem"),
            client_authorities: Some(authority.path("ca.pem")),
        }),
        ..NodeConfig::default()
    };
    Node::start(config).await.unwrap()
}

/// Appends, consumes and reads through the client.
async fn use_everything(client: &Client) {
    let producer = soon(client.producer("s").build()).await.unwrap();
    soon(soon(producer.append(Record::raw("x"))).await.unwrap()).await.unwrap();
    let consumer = soon(client.consumer("c").start()).await.unwrap();
    let batch = soon(consumer.next_batch()).await.unwrap().unwrap();
    consumer.ack_batch(&batch).unwrap();
    soon(consumer.stop(Duration::from_secs(10))).await.unwrap();
    let reader = soon(client.stream_reader("s").from(Offset::Earliest).open()).await.unwrap();
    assert_eq!(soon(reader.next_batch()).await.unwrap().unwrap().len(), 1);
}

async fn create_everything(client: &Client) {
    soon(client.create_stream("s", StreamOptions::new())).await.unwrap();
    let options = SubscriptionOptions::new().offset(StartFrom::Earliest);
    soon(client.create_subscription("c", "s", options)).await.unwrap();
}

#[tokio::test]
async fn p12_a_client_certificate_from_files_opens_a_real_node_for_everything() {
    let authority = Authority::signing(&["127.0.0.1"]);
    let data = tempfile::tempdir().unwrap();
    let node = tls_node(&authority, "127.0.0.1", data.path()).await;
    let builder = || {
        Client::builder()
            .url(format!("hstreams://{}", node.address()))
            .ca_path(authority.path("ca.pem"))
            .unwrap()
    };
    let client = builder().identity_path(authority.path("client.pem"), authority.path("client.key")).unwrap();
    let client = soon(client.connect()).await.unwrap();
    create_everything(&client).await;
    use_everything(&client).await;

    let nameless = soon(builder().connect()).await.unwrap_err();
    assert_eq!(nameless.kind(), ErrorKind::Unavailable, "{nameless}");
    let stranger = builder().identity_path(authority.path("other.pem"), authority.path("other.key")).unwrap();
    assert!(soon(stranger.connect()).await.is_err());
    // Certificate and key of two: told before anything is sent.
    let mixed = builder().identity_path(authority.path("client.pem"), authority.path("other.key")).unwrap();
    let error = soon(mixed.connect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}

#[tokio::test]
async fn p12_tls_to_an_ipv6_address_is_checked_by_that_address() {
    let authority = Authority::signing(&["::1"]);
    let data = tempfile::tempdir().unwrap();
    let node = tls_node(&authority, "::1", data.path()).await;
    let builder = |authority: &Authority| {
        Client::builder()
            .host(format!("[::1]:{}", node.address().port()))
            .unwrap()
            .tls(true)
            .unwrap()
            .ca_pem(authority.text("ca.pem"))
            .unwrap()
            .identity_pem(authority.text("client.pem"), authority.text("client.key"))
            .unwrap()
    };
    let client = soon(builder(&authority).connect()).await.unwrap();
    assert_eq!(soon(client.echo("x")).await.unwrap(), "x");
    let error = soon(builder(&Authority::signing(&["::1"])).connect()).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn p12_nodes_found_later_get_tls_certificates_and_tokens_on_every_connection() {
    let authority = Authority::signing(&["127.0.0.1"]);
    let script = Script::default();
    let tokens = vec!["open-sesame".to_owned()];
    let options = MemberOptions { tls: Some(authority.gateway()), tokens };
    let first = Member::start_with(1, &script, options).await;
    script.running(&[&first]);
    let client = Client::builder()
        .url(format!("hstreams://{}", first.address()))
        .ca_pem(authority.text("ca.pem"))
        .unwrap()
        .identity_pem(authority.text("client.pem"), authority.text("client.key"))
        .unwrap()
        .auth_token("open-sesame")
        .unwrap();
    let client = soon(client.connect()).await.unwrap();
    create_everything(&client).await;
    let later = first.another(2, &script, Some(authority.gateway())).await;
    script.running(&[&first, &later]);
    script.owner(&later);
    soon(client.refresh_nodes()).await.unwrap();
    use_everything(&client).await;
    for method in ["Append", "StreamingFetch", "ReadShardStream"] {
        assert!(later.calls(method) > 0, "{method} went to the node that was found later");
        assert_eq!(first.calls(method), 0, "{method}");
    }
}

#[tokio::test]
async fn p12_callers_of_a_node_that_hangs_in_its_handshake_learn_of_it_together() {
    let authority = Authority::signing(&["127.0.0.1"]);
    let script = Script::default();
    let options = MemberOptions { tls: Some(authority.gateway()), ..MemberOptions::default() };
    let member = Member::start_with(1, &script, options).await;
    script.running(&[&member]);
    let client = Client::builder()
        .url(format!("hstreams://{}", member.address()))
        .ca_pem(authority.text("ca.pem"))
        .unwrap()
        .identity_pem(authority.text("client.pem"), authority.text("client.key"))
        .unwrap()
        .connect_timeout(Duration::from_secs(2))
        .unwrap()
        .request_timeout(Duration::from_secs(600))
        .unwrap()
        .total_timeout(Duration::from_secs(600))
        .unwrap()
        .retry_max_attempts(1)
        .unwrap();
    let client = soon(client.connect()).await.unwrap();
    let mut events = client.events();
    member.relay.set(Network::Silent);
    member.relay.cut();
    soon(async { while !matches!(events.next().await, Some(ClientEvent::Disconnected { .. })) {} }).await;
    // One after another they would need longer than there is time.
    for result in soon(join_all((0..20).map(|_| client.echo("x")))).await {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("no connection within 2s"), "{error}");
    }
}

/// A real node that takes the token `good`.
async fn guarded(data: &Path) -> Node {
    let config = NodeConfig {
        port: 0,
        data_dir: data.to_owned(),
        tokens: hstream_server::auth::Tokens::new(["good".to_owned()]),
        ..NodeConfig::default()
    };
    Node::start(config).await.unwrap()
}

/// A client whose provider answers by the number of the asking, from 1.
fn asking(
    node: &Node,
    answer: impl Fn(u32) -> Result<AuthToken, Error> + Send + Sync + 'static,
) -> (ClientBuilder, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let builder = Client::builder()
        .url(format!("hstream://{}", node.address()))
        .retry_backoff(Duration::from_millis(5), Duration::from_millis(20))
        .unwrap()
        .token_provider(move || {
            let token = answer(count.fetch_add(1, Ordering::SeqCst) + 1);
            async move {
                tokio::task::yield_now().await;
                token
            }
        });
    (builder, asked)
}

#[tokio::test]
async fn p12_a_token_is_asked_for_once_and_once_more_when_it_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let node = guarded(data.path()).await;
    let (builder, asked) = asking(&node, |_| Ok("good".into()));
    let client = soon(builder.connect()).await.unwrap();
    for _ in 0..20 {
        soon(client.echo("x")).await.unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let (builder, asked) = asking(&node, |_| Ok("bad".into()));
    let error = soon(builder.connect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);

    let (builder, asked) = asking(&node, |number| Ok(if number == 1 { "ended" } else { "good" }.into()));
    let client = soon(builder.connect()).await.unwrap();
    soon(client.echo("x")).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// Every token ends at once, and every other one is bad: each call is refused once, on whatever connection.
#[tokio::test]
async fn p12_refused_tokens_are_replaced_on_every_connection_and_for_every_call() {
    let data = tempfile::tempdir().unwrap();
    let node = guarded(data.path()).await;
    let (builder, asked) = asking(&node, |number| {
        let token = if number % 2 == 1 { "good" } else { "bad" };
        Ok(AuthToken::new(token).valid_for(Duration::ZERO))
    });
    let client = soon(builder.connect()).await.unwrap();
    create_everything(&client).await;
    use_everything(&client).await;
    assert!(asked.load(Ordering::SeqCst) > 10);
    assert_eq!(client.metrics().get("node_suspects"), Some(0), "a node that refuses is well");
}

#[tokio::test]
async fn p12_a_second_refusal_is_final_and_a_failing_provider_says_why() {
    let data = tempfile::tempdir().unwrap();
    let node = guarded(data.path()).await;
    let (builder, asked) = asking(&node, |number| {
        Ok(AuthToken::new(if number == 1 { "good" } else { "bad" }).valid_for(Duration::ZERO))
    });
    let client = soon(builder.connect()).await.unwrap();
    let error = soon(client.list_streams()).await.unwrap_err();
    assert_eq!((error.kind(), error.tries()), (ErrorKind::Unauthenticated, 2), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 3);

    let (builder, _) = asking(&node, |number| match number {
        1 => Ok(AuthToken::new("good").valid_for(Duration::ZERO)),
        _ => Err(Error::new(ErrorKind::PermissionDenied, "log in").with_message("the account is locked")),
    });
    let client = soon(builder.connect()).await.unwrap();
    let error = soon(client.list_streams()).await.unwrap_err();
    assert_eq!((error.kind(), error.tries()), (ErrorKind::PermissionDenied, 1));
    assert!(error.to_string().contains("the account is locked"), "{error}");

    let (builder, asked) = asking(&node, |number| match number {
        1 | 4 => Ok(AuthToken::new("good").valid_for(Duration::ZERO)),
        _ => Err(Error::new(ErrorKind::Unavailable, "log in")),
    });
    let client = soon(builder.connect()).await.unwrap();
    soon(client.list_streams()).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 4, "what may help later is tried again");
}
