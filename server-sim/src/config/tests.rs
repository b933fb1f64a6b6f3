use super::*;
use crate::cluster::swim::GossipSettings;
use clap::Parser as _;
use std::time::Duration;

fn parse(words: &[&str]) -> Result<Arguments, String> {
    let words = std::iter::once("hstream-server").chain(words.iter().copied());
    Arguments::try_parse_from(words).map_err(|error| error.to_string())
}

/// What flags over a file amount to; the file of this machine, if any, plays no part.
fn settle(words: &[&str], yaml: &str) -> Result<Settings, String> {
    parse(words)?.over(File::parse(yaml)?)
}

#[test]
fn flags_of_published_deployments_are_taken_and_named_as_meaningless() {
    let settings = settle(
        &[
            "--bind-address",
            "0.0.0.0",
            "--port",
            "0",
            "--internal-port",
            "6580",
            "--server-id",
            "7",
            "--metastore-uri",
            "zk://h1:2181",
            "--store-config",
            "/data/store/logdevice.conf",
            "--log-flush-immediately",
            "--enable-server-cache",
            "--io-connector-image",
            "source mysql image",
            "--log-with-color",
            "--log-level",
            "warning",
        ],
        "",
    )
    .unwrap();
    let expected = ["--store-config", "--io-connector-image", "--enable-server-cache"];
    assert_eq!(settings.meaningless, expected);
    assert_eq!(settings.warnings.len(), 1);
    assert!(settings.warnings[0].starts_with("--metastore-uri: NO ZOOKEEPER"), "{:?}", settings.warnings);
    assert_eq!((settings.log.level, settings.log.color), (Level::WARN, Some(true)));
    assert_eq!((settings.node.port, settings.node.server_id), (0, 7));
    assert!(settings.node.bind_address.is_unspecified());
}

#[test]
fn unknown_flags_and_values_out_of_range_are_refused_by_name() {
    assert!(parse(&["--prot", "1"]).unwrap_err().contains("--prot"));
    assert!(parse(&["--token", " "]).unwrap_err().contains("an empty token would let nobody in"));
    for (words, text) in [
        (["--max-record-size", "0"], "--max-record-size: 0 is not between 1 and 8388608"),
        (["--max-record-size", "8388609"], "--max-record-size: 8388609"),
        (["--max-connections", "0"], "--max-connections: 0"),
        (["--log-level", "loud"], "--log-level: \"loud\" is none of the levels"),
        (
            ["--advertised-listeners", "k:hstream://a"],
            "--advertised-listeners: \"k:hstream://a\" has no port",
        ),
        (
            ["--listeners-security-protocol-map", "k:tls"],
            "--listeners-security-protocol-map: \"k:tls\" names",
        ),
    ] {
        let error = settle(&words, "").unwrap_err();
        assert!(error.contains(text), "{words:?}: {error}");
    }
    let words = ["--file-log-path", "x", "--file-log-num", "0"];
    assert!(settle(&words, "").unwrap_err().contains("--file-log-num"));
}

#[test]
fn without_flags_and_file_the_defaults_of_the_library_hold() {
    let (settings, default) = (settle(&[], "").unwrap(), NodeConfig::default());
    assert_eq!(settings.node.data_dir, default.data_dir);
    assert_eq!(settings.node.max_record_size, default.max_record_size);
    assert_eq!((settings.node.port, settings.node.internal_port), (default.port, default.internal_port));
    assert_eq!(settings.node.limits.max_connections, default.limits.max_connections);
    assert_eq!((settings.log.level, settings.log.color, settings.log.file), (Level::INFO, None, None));
    assert_eq!(settings.meaningless, Vec::<String>::new());
}

const YAML: &str = r#"
hserver:
  id: 3
  bind-address: "0.0.0.0"
  port: 7570
  internal-port: 7571
  advertised-address: hstream.example.com
  advertised-listeners:
    public:
      - address: a.example.com
        port: 7580
      - address: "[::1]"
        port: 0
    private: []
  listeners-security-protocol-map: "public:tls"
  metastore-uri: "zk://h1:2181,h2:2181"
  seed-nodes: "h1,h2:7000"
  gossip-address: inside.example.com
  gossip-key: 000102030405060708090a0b0c0d0e0f
  cluster-name: blue
  auto-init: true
  lease-ms: 4000
  gossip:
    gossip-fanout: 2
    retransmit-mult: 5
    gossip-interval: 1000000
    probe-interval: 2000000
    roundtrip-timeout: 500000
    join-worker-concurrency: 10
    suspicion-mult: 4
    push-pull-interval: 60000000
  max-record-size: 2097152
  max-connections: 12
  tokens:
    - aHN0cmVhbTpoc3RyZWFt
  log-level: debug
  log-with-color: false
  enable-tls: true
  tls-key-path: /k.pem
  tls-cert-path: /c.pem
  tls-ca-path: /ca.pem
  hstream-io:
    tasks-path: /tmp/io
hstore:
  data-dir: /data
  log-level: info
  store-admin:
    host: h
    port: 6440
kafka:
  id: 1
"#;

#[test]
fn the_file_sets_what_flags_leave_open() {
    let settings =
        settle(&["--port", "1", "--tls-ca-path", "/other.pem", "--log-level", "info"], YAML).unwrap();
    let node = &settings.node;
    assert_eq!((node.server_id, node.port, node.internal_port), (3, 1, 7571));
    assert_eq!(node.advertised_address.as_deref(), Some("hstream.example.com"));
    let listeners: Vec<_> = node.extra_listeners.iter().map(|extra| (extra.to_string(), extra.tls)).collect();
    let expected = [("public:hstream://a.example.com:7580", true), ("public:hstream://[::1]:0", true)];
    assert_eq!(listeners, expected.map(|(text, tls)| (text.to_owned(), tls)));
    let files = node.tls.as_ref().unwrap();
    assert!(node.enable_tls);
    assert_eq!(
        (files.key.as_path(), files.certificate.as_path()),
        (Path::new("/k.pem"), Path::new("/c.pem"))
    );
    assert_eq!(files.client_authorities.as_deref(), Some(Path::new("/other.pem")));
    assert_eq!((node.max_record_size, node.limits.max_connections), (2_097_152, 12));
    assert_eq!(node.data_dir, Path::new("/data"));
    assert_eq!(format!("{:?}", node.tokens), "Tokens(1 accepted)");
    assert_eq!((settings.log.level, settings.log.color), (Level::INFO, Some(false)));
    let expected = [
        "hserver.hstream-io",
        "hserver.gossip.join-worker-concurrency",
        "hstore.log-level",
        "hstore.store-admin",
        "kafka",
    ];
    assert_eq!(settings.meaningless, expected);
}

#[test]
fn the_file_says_how_a_node_takes_part_in_a_cluster() {
    let cluster = settle(&[], YAML).unwrap().node.cluster;
    assert_eq!(cluster.seed_nodes, ["h1", "h2:7000"]);
    assert_eq!(cluster.gossip_address.as_deref(), Some("inside.example.com"));
    assert_eq!((cluster.cluster_name.as_str(), cluster.auto_init), ("blue", true));
    assert_eq!(cluster.lease, Duration::from_secs(4));
    assert!(cluster.gossip_key.is_some());
    let expected = GossipSettings {
        gossip_fanout: 2,
        retransmit_mult: 5,
        gossip_interval: Duration::from_secs(1),
        probe_interval: Duration::from_secs(2),
        roundtrip_timeout: Duration::from_millis(500),
        suspicion_mult: 4,
        push_pull_interval: Duration::from_secs(60),
        ..GossipSettings::default()
    };
    assert_eq!(cluster.gossip, expected);
}

#[test]
fn flags_say_more_about_the_cluster_than_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "000102030405060708090a0b0c0d0e0f\n").unwrap();
    let words = [
        "--seed-nodes=a, b:1,",
        "--gossip-address=::1",
        "--cluster-name=green",
        "--auto-init=false",
        "--lease-ms=500",
    ];
    let cluster = settle(&words, YAML).unwrap().node.cluster;
    assert_eq!(cluster.seed_nodes, ["a", "b:1"]);
    assert_eq!(cluster.gossip_address.as_deref(), Some("::1"));
    assert_eq!((cluster.cluster_name.as_str(), cluster.auto_init), ("green", false));
    assert_eq!(cluster.lease, Duration::from_millis(500));
    let cluster = settle(&["--gossip-key-path", path.to_str().unwrap()], "").unwrap().node.cluster;
    assert_eq!(cluster.gossip_key, settle(&[], YAML).unwrap().node.cluster.gossip_key);
}

#[test]
fn without_seeds_a_node_is_alone_and_one_seed_is_no_reason_to_warn_of_separate_stores() {
    let alone = settle(&[], "").unwrap();
    assert_eq!((alone.node.cluster.seed_nodes.len(), alone.warnings.len()), (0, 0));
    let warnings = |words: &[&str]| settle(words, "").unwrap().warnings.join("\n");
    let key = "--gossip-key=000102030405060708090a0b0c0d0e0f";
    assert_eq!(warnings(&["--seed-nodes=a", key]), "");
    assert!(warnings(&["--seed-nodes=a"]).contains("gossip is not authenticated"));
    assert!(warnings(&["--seed-nodes=a,b", key]).contains("DO NOT SHARE A STORE"));
}

#[test]
fn wrong_settings_of_the_cluster_are_refused_with_one_sentence() {
    for (words, yaml, says) in [
        (&["--seed-nodes=a:0"][..], "", "--seed-nodes: \"a:0\" has the port 0"),
        (&["--seed-nodes=a,b c"], "", "--seed-nodes: \"b c\" names no host"),
        (&["--seed-nodes=a", "--internal-port=0"], "", "--seed-nodes: \"a\" has no port"),
        (&["--seed-nodes=a", "--internal-port=6570"], "", "--internal-port: 6570 is --port, too"),
        (
            &["--seed-nodes=a", "--advertised-listeners=k:hstream://h:6571"],
            "",
            "--internal-port: 6571 is the port of the listener k:hstream://h:6571, too",
        ),
        (&["--gossip-address=a:1"], "", "--gossip-address: \"a:1\""),
        (&["--gossip-address=a:6571"], "", "--internal-port"),
        (&["--cluster-name="], "", "--cluster-name: \"\" is none"),
        (&["--cluster-name=a b"], "", "--cluster-name: \"a b\" is none"),
        (&["--lease-ms=499"], "", "--lease-ms: 499 is not between 500 and 600000"),
        (&["--gossip-key=c0ffee"], "", "--gossip-key: the gossip key has 3 bytes"),
        (
            &["--gossip-key-path=/nowhere/key"],
            "",
            "--gossip-key-path: cannot read the gossip key from /nowhere/key",
        ),
        (
            &["--gossip-key=000102030405060708090a0b0c0d0e0f", "--gossip-key-path=k"],
            "",
            "--gossip-key and --gossip-key-path: give one of them",
        ),
        (
            &[],
            "hserver:\n  gossip:\n    roundtrip-timeout: 250000\n",
            "hserver.gossip, in microseconds: roundtrip-timeout is 250 ms",
        ),
        (&[], "hserver:\n  gossip:\n    gossip-fanout: 0\n", "gossip-fanout is 0"),
        (&[], "hserver:\n  gossip:\n    probe-interval: 500\n", "probe-interval"),
        (&[], "hserver:\n  gossip:\n    fanout: 3\n", "line 3"),
        (&[], "hserver:\n  seed-nodes: [a]\n", "line 2"),
    ] {
        let error = settle(words, yaml).unwrap_err();
        assert!(error.contains(says) && error.lines().count() == 1, "{words:?} {yaml:?}: {error}");
        assert!(!error.contains("c0ffee"), "{error}");
    }
}

#[test]
fn the_key_of_gossip_shows_nowhere() {
    const KEY: &str = "000102030405060708090a0b0c0d0e0f";
    let words = ["--gossip-key", KEY];
    let shown = format!("{:?} {:?}", parse(&words).unwrap(), settle(&words, "").unwrap());
    assert!(!shown.contains(KEY), "{shown}");
    let file = File::parse(&format!("hserver:\n  gossip-key: \"{KEY}\"\n")).unwrap();
    assert!(!format!("{file:?}").contains(KEY));
}

#[test]
fn the_example_file_has_every_key_and_is_taken() {
    let text = include_str!("../../config.example.yaml");
    assert_eq!(settle(&[], text).unwrap().meaningless, Vec::<String>::new());
    // The refusal of an unknown key lists all there are.
    let refusal =
        ["hserver:\n  x: 1\n", "hserver:\n  gossip:\n    x: 1\n", "hstore:\n  x: 1\n", "store:\n  x: 1\n"]
            .map(|wrong| File::parse(wrong).unwrap_err())
            .join("");
    let lists =
        refusal.split("one of ").skip(1).map(|list| list.split(" at line").next().unwrap_or_default());
    let keys: Vec<&str> = lists.flat_map(|list| list.split(", ")).collect();
    assert!(keys.len() > 20, "{refusal}");
    let meaningless = "metastore-uri join-worker-concurrency hstream-io hstream-processing cache-store grpc \
                       log-flush-immediately experimental checkpoint-replication-factor store-admin store-config";
    for key in keys.into_iter().filter(|key| !meaningless.split(' ').any(|other| other == *key)) {
        assert!(text.contains(&format!("  {key}:")), "{key} is missing");
    }
}

#[test]
fn what_is_on_in_the_file_or_as_a_flag_is_on() {
    let both = |flags: &[&str], yaml: &str| {
        let node = settle(flags, yaml).unwrap().node;
        (node.serve_damaged_log, node.verify_log)
    };
    assert_eq!(both(&[], ""), (false, false));
    assert_eq!(both(&["--serve-damaged-log", "--verify-log"], ""), (true, true));
    assert_eq!(both(&["--verify-log"], "hstore:\n  serve-damaged-log: true\n"), (true, true));
    assert_eq!(both(&[], "hstore:\n  verify-log: true\n"), (false, true));
}

#[test]
fn sections_may_be_empty() {
    for yaml in ["", "# nothing\n", "hserver:\nhstore:\n", "hserver:\n  tokens:\n  tls-key-path: ~\n"] {
        assert_eq!(settle(&[], yaml).unwrap().node.port, NodeConfig::default().port, "{yaml:?}");
    }
}

#[test]
fn a_wrong_file_is_refused_with_line_and_key() {
    for (yaml, words) in [
        ("hserver:\n  prot: 1\n", &["line 2", "prot", "max-record-size"][..]),
        ("hserver:\n  port: 1\nhserve: 1\n", &["line 3", "hserve", "hstore"]),
        ("hserver:\n  id: 1\n  port: 65536\n", &["line 3", "at \"port\""]),
        ("hserver:\n  port: many\n", &["line 2"]),
        ("hserver:\n  tokens: one\n", &["line 2", "at \"tokens\""]),
        ("hserver:\n  tokens: ['']\n", &["line 2", "an empty token"]),
        ("hserver:\n  enable-tls: perhaps\n", &["line 2"]),
        ("hserver:\n  bind-address: nowhere\n", &["line 2"]),
        ("hserver:\n  port: 1\n  port: 2\n", &["line 3", "port"]),
        ("hserver:\n\tport: 1\n", &["line 2"]),
        ("hserver:\n  advertised-listeners:\n    k:\n      - address: a\n", &["port"]),
        ("hserver:\n  advertised-listeners:\n    k:\n      - {address: a, prot: 1}\n", &["line 4", "prot"]),
        ("hserver:\n  advertised-listeners:\n    k:\n      - {address: a/b, port: 1}\n", &["a/b", "\"k\""]),
        ("- a\n", &["line 1"]),
    ] {
        let error = settle(&[], yaml).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{yaml:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn errors_in_the_file_do_not_repeat_what_may_be_secret() {
    for yaml in ["hserver:\n  tokens: hunter2\n", "hserver:\n  tokens:\n    - {a: hunter2}\n"] {
        let error = settle(&[], yaml).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn debug_output_hides_the_tokens_of_the_file() {
    let file = File::parse("hserver:\n  tokens: [hunter2]\n").unwrap();
    assert!(!format!("{file:?}").contains("hunter2"));
    assert!(!format!("{:?}", parse(&["--token", "hunter2"]).unwrap()).contains("hunter2"));
}

#[test]
fn a_named_file_that_cannot_be_read_is_an_error() {
    let error = parse(&["--config-path", "/nowhere/config.yaml"]).unwrap().settle().unwrap_err();
    assert!(error.contains("/nowhere/config.yaml") && error.contains("No such file"), "{error}");
}

#[test]
fn a_store_is_named_by_flag_or_file_and_the_flag_wins() {
    let yaml = "store:\n  url: nats://a,b/blue\n  replicas: 5\n  timeout-ms: 700\n  start-timeout-ms: 2000\n  tls-ca-path: /ca\n";
    let store = settle(&[], yaml).unwrap().node.store.unwrap();
    assert_eq!(store.url.to_string(), "nats://a:4222,b:4222/blue");
    assert_eq!((store.replicas, store.timeout), (Some(5), Duration::from_millis(700)));
    assert_eq!(store.open_within, Duration::from_secs(2));
    assert_eq!(store.tls_ca.as_deref(), Some(Path::new("/ca")));
    let words = [
        "--store=tls://c:1",
        "--store-replicas=1",
        "--store-tls-ca-path=/d",
        "--store-tls-cert-path=/e",
        "--store-tls-key-path=/f",
    ];
    let store = settle(&words, yaml).unwrap().node.store.unwrap();
    assert_eq!(store.url.to_string(), "tls://c:1/hstream");
    assert_eq!((store.replicas, store.tls_ca.as_deref()), (Some(1), Some(Path::new("/d"))));
    assert_eq!(store.tls_identity, Some(("/e".into(), "/f".into())));
    let default = settle(&["--store=nats://a"], "").unwrap().node.store.unwrap();
    assert_eq!((default.replicas, default.timeout), (None, Duration::from_secs(5)));
    assert!(settle(&[], "").unwrap().node.store.is_none());
}

#[test]
fn over_a_store_leases_are_longer_and_seeds_are_no_reason_to_warn_of_separate_stores() {
    let key = "--gossip-key=000102030405060708090a0b0c0d0e0f";
    let settings = settle(&["--store=nats://a", "--seed-nodes=a,b", key], "").unwrap();
    assert_eq!(settings.node.cluster.lease, Duration::from_secs(10));
    assert_eq!(settings.warnings, Vec::<String>::new());
    let settings =
        settle(&["--store=nats://a", "--lease-ms=3000", "--data-dir=/d", "--metastore-uri=zk://x"], "")
            .unwrap();
    assert_eq!(settings.node.cluster.lease, Duration::from_secs(3));
    let warnings = settings.warnings.join("\n");
    assert!(warnings.contains("--data-dir: NOTHING IS KEPT THERE"), "{warnings}");
    assert!(warnings.contains("metadata are kept in --store"), "{warnings}");
}

#[test]
fn wrong_settings_of_the_store_are_refused_with_one_sentence_and_without_the_password() {
    for (words, yaml, says) in [
        (&["--store=nats://me:hunter2@"][..], "", "--store: it names no host"),
        (&["--store=zk://me:hunter2@a"], "", "--store: it begins with neither nats:// nor tls://"),
        (&["--store=nats://me:hunter2@a/x.y"], "", "--store: the name of the store, \"x.y\""),
        (&["--store=nats://a", "--store-replicas=6"], "", "--store-replicas: 6 is not between 1 and 5"),
        (&["--store=nats://a", "--store-replicas=0"], "", "--store-replicas: 0"),
        (&["--store=nats://a", "--store-tls-key-path=/k"], "", "give both or none"),
        (&["--store-replicas=3"], "", "--store-replicas: there is no --store"),
        (&["--store-tls-ca-path=/k"], "", "--store-tls-ca-path: there is no --store"),
        (&[], "store:\n  timeout-ms: 900\n", "store.timeout-ms: there is no --store"),
        (
            &[],
            "store:\n  url: nats://a\n  timeout-ms: 99\n",
            "store.timeout-ms: 99 is not between 100 and 30000",
        ),
        (&[], "store:\n  url: nats://a\n  start-timeout-ms: 1\n", "store.start-timeout-ms: 1"),
        (&[], "store:\n  uri: nats://me:hunter2@a\n", "line 2"),
        (&[], "store:\n  url: [hunter2]\n", "line 2"),
    ] {
        let error = settle(words, yaml).unwrap_err();
        assert!(error.contains(says) && error.lines().count() == 1, "{words:?} {yaml:?}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let words = ["--store", "nats://me:hunter2@a"];
    let shown = format!("{:?} {:?}", parse(&words).unwrap(), settle(&words, "").unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    let file = File::parse("store:\n  url: nats://me:hunter2@a\n").unwrap();
    assert!(!format!("{file:?}").contains("hunter2"));
}

#[test]
fn the_store_of_the_example_file_is_one_once_it_is_uncommented() {
    let text = include_str!("../../config.example.yaml");
    let (_, store) = text.split_once("#store:").unwrap();
    let text = format!("store:{}", store.replace("\n  #  ", "\n  "));
    let store = settle(&[], &text).unwrap().node.store.unwrap();
    assert_eq!(
        store.url.to_string(),
        "nats://nats-0.example.com:4222,nats-1.example.com:4222,nats-2.example.com:4222/hstream"
    );
    assert_eq!((store.replicas, store.timeout), (Some(3), Duration::from_secs(5)));
}
