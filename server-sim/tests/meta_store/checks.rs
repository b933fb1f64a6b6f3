//! What is wrong is said at the start, in one sentence, by servers that are really set up so.

use crate::engines::{DEADLINE, namespace, nats, options, value};
use hstream_server::store::Expect;
use hstream_server::store::jetstream::{JetStreamOptions, JetStreamStore, OpenError};
use hstream_testkit::nats::{Nats, NatsOptions, NatsTls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Why a store does not open; in one line, without a secret, and soon if trying again changes nothing.
async fn refusal(options: JetStreamOptions) -> (OpenError, String) {
    let error = JetStreamStore::open(options).await.unwrap_err();
    let text = error.to_string();
    assert!(text.lines().count() == 1 && !text.contains("hunter2"), "{text}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    (error, text)
}

fn impatient(nats: &Nats) -> JetStreamOptions {
    let mut options = options(nats, &namespace());
    options.open_within = DEADLINE;
    options
}

#[tokio::test]
async fn a_server_without_jetstream() {
    let nats = Nats::start(NatsOptions { jetstream: false, ..NatsOptions::default() }).unwrap();
    let began = Instant::now();
    let (error, text) = refusal(impatient(&nats)).await;
    assert!(matches!(error, OpenError::NoJetStream { .. }), "{error:?}");
    assert!(
        text.starts_with("JetStream is off at nats://127.0.0.1:") && text.contains("store_dir"),
        "{text}"
    );
    assert!(began.elapsed() < DEADLINE / 2);
}

#[tokio::test]
async fn an_account_without_jetstream() {
    let further =
        "accounts { A { users: [{ user: a, password: hunter2 }] }, B { jetstream: enabled, users: [] } }";
    let nats = Nats::start(NatsOptions { further: further.into(), ..NatsOptions::default() }).unwrap();
    let mut options = impatient(&nats);
    options.url = format!("nats://a:hunter2@127.0.0.1:{}/x", nats.port(0)).parse().unwrap();
    let (error, text) = refusal(options).await;
    assert!(matches!(error, OpenError::NoJetStream { .. }), "{error:?}");
    assert!(text.contains("a:***@") && text.contains("account"), "{text}");
}

#[tokio::test]
async fn messages_that_are_too_small_for_the_largest_batch() {
    let small = Nats::start(NatsOptions::default()).unwrap();
    let mut options = impatient(&small);
    options.max_batch_bytes = 1 << 20;
    let (error, text) = refusal(options).await;
    assert!(matches!(error, OpenError::SmallPayload { found: 1_048_576, .. }), "{error:?}");
    for part in ["max_payload", "1048576 bytes", "`max_payload: 2MB`", "--max-record-size 1044480"] {
        assert!(text.contains(part), "{text}");
    }
    // What it advises works.
    let mut options = impatient(&small);
    options.max_batch_bytes = 1_044_480;
    JetStreamStore::open(options).await.unwrap();
    let nats = Nats::start(NatsOptions { max_payload: Some(2_000_000), ..NatsOptions::default() }).unwrap();
    let mut options = impatient(&nats);
    options.max_batch_bytes = 1 << 20;
    JetStreamStore::open(options).await.unwrap();
}

#[tokio::test]
async fn a_wrong_user_or_password_and_none_at_all() {
    let user = Some(("me".to_owned(), "hunter2@/:".to_owned()));
    let nats = Nats::start(NatsOptions { user, ..NatsOptions::default() }).unwrap();
    JetStreamStore::open(impatient(&nats)).await.unwrap();
    for login in ["me:hunter22@", "you:hunter2@", "hunter2@", ""] {
        let mut options = impatient(&nats);
        options.url = format!("nats://{login}127.0.0.1:{}/x", nats.port(0)).parse().unwrap();
        let (error, text) = refusal(options).await;
        assert!(matches!(error, OpenError::Refused { .. }), "{error:?}");
        assert!(text.contains("refuse the user, password or token in --store"), "{text}");
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sign(&self, name: &str, host: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let (cert_path, key_path) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        std::fs::write(&cert_path, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        (cert_path, key_path)
    }

    fn servers(&self, host: &str, client_ca: bool) -> Nats {
        let (cert, key) = self.sign("server", host);
        let tls = Some(NatsTls { cert, key, client_ca: client_ca.then(|| self.path("ca.pem")) });
        Nats::start(NatsOptions { tls, ..NatsOptions::default() }).unwrap()
    }
}

async fn tls_refusal(options: JetStreamOptions) -> String {
    let (error, text) = refusal(options).await;
    assert!(matches!(error, OpenError::Tls { .. }), "{error:?}");
    assert!(text.starts_with("TLS with the NATS servers of"), "{text}");
    text
}

#[tokio::test]
async fn tls_with_authorities_of_ones_own() {
    let authority = Authority::new();
    let nats = authority.servers("127.0.0.1", false);
    let plain = format!("nats://127.0.0.1:{}/x", nats.port(0));
    let trusting = |path: &Path| {
        let mut options = impatient(&nats);
        options.tls_ca = Some(path.to_owned());
        options
    };
    JetStreamStore::open(trusting(&authority.path("ca.pem"))).await.unwrap();
    // The server asks for TLS, whatever the address says.
    let mut options = trusting(&authority.path("ca.pem"));
    options.url = plain.parse().unwrap();
    JetStreamStore::open(options).await.unwrap();
    // Of an authority that nobody here trusts.
    assert!(tls_refusal(impatient(&nats)).await.contains("UnknownIssuer"));
    assert!(tls_refusal(trusting(&Authority::new().path("ca.pem"))).await.contains("--store-tls-ca-path"));
    // Files that are none.
    let nothing = authority.path("nothing.pem");
    std::fs::write(&nothing, "nothing").unwrap();
    for (path, says) in [(nothing, "it is no PEM file"), (authority.path("missing.pem"), "No such file")] {
        let (error, text) = refusal(trusting(&path)).await;
        assert!(matches!(error, OpenError::File { .. }), "{error:?}");
        assert!(text.starts_with("--store-tls-ca-path ") && text.contains(says), "{text}");
    }
}

#[tokio::test]
async fn tls_for_another_host_and_with_certificates_of_clients() {
    let authority = Authority::new();
    let nats = authority.servers("elsewhere.example.com", false);
    let mut options = impatient(&nats);
    options.tls_ca = Some(authority.path("ca.pem"));
    assert!(tls_refusal(options).await.contains("not valid for name"));
    let nats = authority.servers("127.0.0.1", true);
    let mut options = impatient(&nats);
    options.tls_ca = Some(authority.path("ca.pem"));
    let mut known = options.clone();
    known.tls_identity = Some(authority.sign("client", "client"));
    JetStreamStore::open(known).await.unwrap();
    options.open_within = Duration::from_secs(1);
    let (_, text) = refusal(options).await;
    assert!(text.contains("ertificate"), "{text}");
}

#[tokio::test]
async fn tls_that_the_server_does_not_speak() {
    let mut options = impatient(nats());
    options.url = format!("tls://127.0.0.1:{}/x", nats().port(0)).parse().unwrap();
    options.open_within = Duration::from_secs(2);
    let (_, text) = refusal(options).await;
    assert!(text.contains("TLS") || text.contains("tls"), "{text}");
}

/// Says that it is a server of this version.
async fn server_of(version: &str) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let info = format!(
        "INFO {{\"server_id\":\"X\",\"server_name\":\"old\",\"version\":\"{version}\",\"proto\":1,\"headers\":true,\
         \"max_payload\":1048576,\"jetstream\":true,\"host\":\"127.0.0.1\",\"port\":{port}}}\r\n"
    );
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let info = info.clone();
            tokio::spawn(async move {
                let _ = socket.write_all(info.as_bytes()).await;
                let mut read = [0; 4096];
                while let Ok(1..) = socket.read(&mut read).await {
                    let _ = socket.write_all(b"PONG\r\n").await;
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_is_too_old() {
    for version in ["2.9.10", "2.11.8"] {
        let mut options = impatient(nats());
        options.url = format!("nats://127.0.0.1:{}/x", server_of(version).await).parse().unwrap();
        let (error, text) = refusal(options).await;
        assert!(matches!(error, OpenError::TooOld { .. }), "{error:?}");
        assert!(text.contains(version) && text.contains("2.12 or later") && text.contains("old"), "{text}");
    }
}

#[tokio::test]
async fn more_copies_than_a_lone_server_can_have() {
    let mut options = impatient(nats());
    options.replicas = Some(3);
    let (error, text) = refusal(options).await;
    assert!(matches!(error, OpenError::TooFewPeers { replicas: 3, .. }), "{error:?}");
    assert!(text.contains("3 copies") && text.contains("--store-replicas"), "{text}");
}

#[tokio::test]
async fn a_stream_of_that_name_that_is_somebody_elses() {
    let options = impatient(nats());
    let name = options.url.name().to_owned();
    let client = async_nats::connect(nats().urls()).await.unwrap();
    let config = async_nats::jetstream::kv::Config { bucket: format!("{name}_meta"), ..Default::default() };
    let bucket = async_nats::jetstream::new(client).create_key_value(config).await.unwrap();
    bucket.put("theirs", "x".into()).await.unwrap();
    let (error, text) = refusal(options).await;
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
    assert!(text.contains(&format!("KV_{name}_meta")) && text.contains("another /name"), "{text}");
    assert_eq!(bucket.get("theirs").await.unwrap().unwrap(), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_not_there_are_waited_for_and_not_for_ever() {
    let nats = Nats::start(NatsOptions::default()).unwrap();
    nats.kill(0).unwrap();
    let mut options = options(&nats, "x");
    options.open_within = Duration::from_secs(1);
    let began = Instant::now();
    let (error, text) = refusal(options.clone()).await;
    assert!(matches!(error, OpenError::NoAnswer { .. }), "{error:?}");
    assert!(text.contains("within 1s") && text.contains("refused"), "{text}");
    assert!(began.elapsed() < DEADLINE / 2);
    options.open_within = DEADLINE;
    let opening = tokio::spawn(JetStreamStore::open(options));
    // Long enough for several attempts.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!opening.is_finished());
    nats.restart(0).unwrap();
    let store = opening.await.unwrap().unwrap();
    store.meta().put("k", value("v"), Expect::Absent).await.unwrap();
}

#[tokio::test]
async fn hosts_that_have_no_address_or_do_not_answer_do_not_hold_up_the_others() {
    let mut options = options(nats(), &namespace());
    let port = nats().port(0);
    options.url = format!("nats://nowhere.invalid,127.0.0.1:1,127.0.0.1:{port}/x").parse().unwrap();
    JetStreamStore::open(options).await.unwrap();
}
