//! The real binary: start-up, clear refusals, signals, and nothing acknowledged is lost by SIGKILL.
#![cfg(unix)]

mod support;

use hstream_testkit::{ServerOptions, ServerProcess, Store};
use hstreamdb_proto::api::*;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::*;

const BINARY: &str = env!("CARGO_BIN_EXE_hstream-server");

/// On the store that the tests run on.
fn options(data_dir: &Path) -> ServerOptions {
    ServerOptions { binary: BINARY.into(), ..ServerOptions::new(data_dir) }
}

/// On the data directory.
fn embedded_options(data_dir: &Path) -> ServerOptions {
    ServerOptions { store: Store::Embedded, ..options(data_dir) }
}

/// Runs the binary, which is expected to end by itself.
fn run(flags: &[&str], directory: &Path) -> Output {
    let mut child = Command::new(BINARY)
        .args(flags)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + DEADLINE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("{flags:?} did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

/// A process that does not outlive its test, however that ends.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_the_server_in_time_although_calls_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&options(dir.path())).unwrap();
    let mut client = connect(server.port()).await;
    let shard = create(&mut client, "s", 1).await[0];
    let follow = ReadShardStreamRequest { shard_id: shard, ..Default::default() };
    let mut answer = client.read_shard_stream(follow).await.unwrap().into_inner();
    assert!(Command::new("kill").arg(server.id().to_string()).status().unwrap().success());
    let outcome = tokio::time::timeout(DEADLINE, answer.message()).await.expect("the call ends");
    assert!(outcome.is_err());
    let port = server.port();
    hstream_testkit::eventually("the port is closed", DEADLINE, || async move {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.err()
    })
    .await;
    drop(server);
    // Its data can be used again at once.
    let server = ServerProcess::start(&options(dir.path())).unwrap();
    assert_eq!(shards(&mut connect(server.port()).await, "s").await, [shard]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_nodes_of_one_process_serve_one_store_and_stop_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let start = || ServerProcess::start(&ServerOptions { nodes: 3, ..options(dir.path()) }).unwrap();
    let server = start();
    let ports = server.ports().to_vec();
    assert_eq!(ports.len(), 3);
    let shard = create(&mut connect(ports[0]).await, "s", 1).await[0];
    let id = append(&mut connect(ports[1]).await, shard, "x").await;
    let read = read_all(&mut connect(ports[2]).await, shard).await;
    assert_eq!((payloads(&read), &read[0].record_ids), (vec!["x".to_owned()], &vec![id]));
    let mut cluster = connect(ports[2]).await;
    let mut members = async || {
        let described = cluster.describe_cluster(()).await.unwrap().into_inner();
        let mut ids: Vec<u32> = described.server_nodes.iter().map(|node| node.id).collect();
        ids.sort_unstable();
        ids
    };
    poll("they see each other", async || members().await == [1, 2, 3]).await;
    assert!(Command::new("kill").arg(server.id().to_string()).status().unwrap().success());
    hstream_testkit::eventually("all ports are closed", DEADLINE, || {
        let ports = ports.clone();
        async move {
            for port in ports {
                tokio::net::TcpStream::connect(("127.0.0.1", port)).await.err()?;
            }
            Some(())
        }
    })
    .await;
    drop(server);
    // Its data can be used again at once, also by a node alone.
    let server = ServerProcess::start(&options(dir.path())).unwrap();
    let read = read_all(&mut connect(server.port()).await, shard).await;
    assert_eq!(payloads(&read), ["x"]);
    server.kill().unwrap();
    // And by several again, although nobody gave a lease back.
    let server = start();
    server.kill().unwrap();
    let server = start();
    assert_eq!(payloads(&read_all(&mut connect(server.port()).await, shard).await), ["x"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_survives_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(RecordId, String)> = Vec::new();
    let mut shard_ids = Vec::new();
    for round in 0..3 {
        let server = ServerProcess::start(&options(dir.path())).unwrap();
        let mut client = connect(server.port()).await;
        if round == 0 {
            shard_ids = create(&mut client, "s", 2).await;
        }
        let before = read_ids(&mut client, &shard_ids).await;
        for (id, payload) in &acknowledged {
            assert!(before.contains(&(*id, payload.clone())), "{id} is lost after round {round}");
        }
        // Writers go on until the server is gone.
        let gone = Arc::new(AtomicBool::new(false));
        let noted = Arc::new(Mutex::new(Vec::new()));
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (mut client, gone, noted) = (client.clone(), gone.clone(), noted.clone());
                let shard = shard_ids[writer % 2];
                tokio::spawn(async move {
                    for number in 0.. {
                        let payload = format!("{round}-{writer}-{number}");
                        let request = append_request(shard, batch(vec![record("", &payload)]));
                        match client.append(request).await {
                            Ok(answer) => {
                                noted.lock().unwrap().push((answer.into_inner().record_ids[0], payload));
                            }
                            Err(_) if gone.load(Ordering::SeqCst) => return,
                            Err(status) => panic!("{status}"),
                        }
                    }
                })
            })
            .collect();
        hstream_testkit::eventually("some appends are acknowledged", DEADLINE, || {
            let enough = noted.lock().unwrap().len() >= 200;
            async move { enough.then_some(()) }
        })
        .await;
        gone.store(true, Ordering::SeqCst);
        server.kill().unwrap();
        for writer in writers {
            tokio::time::timeout(DEADLINE, writer).await.expect("every call ends").unwrap();
        }
        acknowledged.append(&mut noted.lock().unwrap());
    }
    let server = ServerProcess::start(&options(dir.path())).unwrap();
    let mut client = connect(server.port()).await;
    let found = read_ids(&mut client, &shard_ids).await;
    for entry in &acknowledged {
        assert!(found.contains(entry), "{} is lost", entry.0);
    }
    let mut unique: Vec<_> = found.iter().map(|(id, _)| *id).collect();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), found.len(), "an id was handed out twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stamped_producer_that_sends_again_after_sigkill_is_stored_exactly_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut shard = 0;
    let mut sequence = 0;
    for round in 1..=4 {
        let server = ServerProcess::start(&options(dir.path())).unwrap();
        let mut client = connect(server.port()).await;
        if round == 1 {
            shard = create(&mut client, "s", 1).await[0];
        }
        let mut server = Some(server);
        let mut killing = None;
        // The first call repeats the one whose answer the kill took away.
        while client.append(stamped(shard, 0, sequence, &sequence.to_string())).await.is_ok() {
            sequence += 1;
            if sequence >= round * 50 && killing.is_none() {
                let server = server.take();
                killing = Some(tokio::task::spawn_blocking(move || server.map(ServerProcess::kill)));
            }
        }
        let killed = killing.expect("no call fails before the kill").await.unwrap();
        killed.expect("a server was there").unwrap();
    }
    let server = ServerProcess::start(&options(dir.path())).unwrap();
    let mut client = connect(server.port()).await;
    client.append(stamped(shard, 0, sequence, &sequence.to_string())).await.unwrap();
    let expected: Vec<_> = (0..=sequence).map(|number| number.to_string()).collect();
    assert_eq!(payloads(&read_all(&mut client, shard).await), expected);
}

async fn read_ids(client: &mut Client, shards: &[u64]) -> std::collections::HashSet<(RecordId, String)> {
    let mut found = std::collections::HashSet::new();
    for shard in shards {
        for received in read_all(client, *shard).await {
            let ids = received.record_ids.clone();
            let fresh = ids.into_iter().zip(payloads(&[received]));
            for entry in fresh {
                assert!(found.insert(entry.clone()), "{} is read twice", entry.0);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn surprise_23_a_started_server_says_so_in_the_published_words_and_answers_lookups_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // Ready means that both markers were read from its log.
    let server = ServerProcess::start(&options(dir.path())).unwrap();
    let mut client = connect(server.port()).await;
    let found = client.lookup_shard(LookupShardRequest { shard_id: 5 }).await.unwrap().into_inner();
    assert_eq!(found.server_node.unwrap().port, u32::from(server.port()));
    // What `hstream init` sends.
    let command = AdminCommandRequest { command: "server init".into() };
    let answer = client.send_admin_command(command).await.unwrap().into_inner().result;
    assert!(answer.contains("Server successfully received init signal"), "{answer}");
}

/// What is said and refused whatever the store.
mod command_line {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::fs::write(dir.path().join("wrong.yaml"), "hserver:\n  prot: 1\n").unwrap();
        for (flags, word) in [
            (vec!["--port", &port], "cannot listen on"),
            (vec!["--port", "0", "--data-dir", "file"], "cannot use the data directory file"),
            (vec!["--prot", "1"], "--prot"),
            (vec!["--port", "0", "--enable-tls"], "--tls-key-path"),
            (
                vec!["--port", "0", "--enable-tls", "--tls-key-path", "file", "--tls-cert-path", "file"],
                "cannot use",
            ),
            (vec!["--advertised-listeners", "k:hstream://a.test"], "\"k:hstream://a.test\" has no port"),
            (vec!["--config-path", "missing.yaml"], "cannot read the configuration file missing.yaml"),
            (vec!["--config-path", "wrong.yaml"], "at line 2"),
            (vec!["--file-log-path", "file/log"], "--file-log-path file/log"),
        ] {
            let output = run(&flags, dir.path());
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success(), "{flags:?}");
            assert!(text.contains(word), "{flags:?}: {text}");
            assert!(!text.contains("panicked"), "{flags:?}: {text}");
        }
    }

    #[test]
    fn the_version_is_printed_with_either_flag() {
        let dir = tempfile::tempdir().unwrap();
        for flag in ["--version", "-v", "-V"] {
            let output = run(&[flag], dir.path());
            assert!(output.status.success(), "{flag}");
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(text.trim(), concat!("hstream-server ", env!("CARGO_PKG_VERSION")), "{flag}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_configuration_file_sets_up_listeners_tokens_and_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let log = dir.path().join("logs/server.log");
        let yaml = format!(
            "hserver:\n  id: 9\n  port: 1\n  metastore-uri: zk://h:1\n  tokens: [c2VjcmV0]\n  \
             advertised-listeners:\n    public:\n      - address: a.test\n        port: 0\n  \
             file-log-path: {}\nhstore:\n  data-dir: {}\n",
            log.display(),
            data_dir.display()
        );
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, yaml).unwrap();
        // The port of the file is not free for everybody: the flag wins.
        let child = Command::new(BINARY)
            .args(["--port", "0", "--config-path", path.to_str().unwrap()])
            .stdin(Stdio::null())
            .spawn();
        let _child = Killed(child.unwrap());
        let text = hstream_testkit::eventually("the server is ready", DEADLINE, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            async move { text.contains("Cluster is ready!").then_some(text) }
        })
        .await;
        let port = |marker: &str| -> u16 {
            let rest = text.split(marker).nth(1).unwrap_or_else(|| panic!("no {marker:?} in {text}"));
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
        };
        let extra = port("Extra listener is started on port ");
        port("Server is started on port ");
        let warning = text.lines().find(|line| line.contains("hserver.metastore-uri")).unwrap();
        assert!(warning.starts_with("[WARNING][") && warning.contains("NO ZOOKEEPER"), "{warning}");
        let mut request = tonic::Request::new(());
        request.metadata_mut().insert("authorization", "Basic c2VjcmV0".parse().unwrap());
        let cluster = connect(extra).await.describe_cluster(request).await.unwrap().into_inner();
        let this = &cluster.server_nodes[0];
        assert_eq!((this.id, &*this.host, this.port), (9, "a.test", u32::from(extra)));
        assert!(data_dir.exists());
    }

    #[test]
    fn several_nodes_say_who_speaks_and_what_they_are_for() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut child = Command::new(BINARY);
        child.args(["--nodes", "2", "--port", "0", "--server-id", "7", "--file-log-path"]).arg(&log);
        let _child = Killed(
            child.arg("--data-dir").arg(dir.path().join("data")).stdin(Stdio::null()).spawn().unwrap(),
        );
        let deadline = Instant::now() + DEADLINE;
        let text = loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("clients connect to") {
                break text;
            }
            assert!(Instant::now() < deadline, "{text}");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(text.contains("[WARNING]") && text.contains("for development and tests only"), "{text}");
        for marker in ["Server is started on port", "All servers have been initialized", "Cluster is ready!"]
        {
            for node in ["[node#7]", "[node#8]"] {
                let lines = text.lines().filter(|line| line.contains(marker) && line.contains(node)).count();
                assert_eq!(lines, 1, "{marker} of {node} in {text}");
            }
        }
    }
}

/// About the embedded store itself.
mod embedded {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_second_server_on_the_same_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let server = ServerProcess::start(&embedded_options(dir.path())).unwrap();
        let data_dir = dir.path().to_str().unwrap();
        let output = run(&["--port", "0", "--data-dir", data_dir], dir.path());
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("cannot use the data directory"), "{text}");
        server.kill().unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_damaged_log_is_refused_untouched_and_served_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let server = ServerProcess::start(&embedded_options(dir.path())).unwrap();
        let mut client = connect(server.port()).await;
        let shard = create(&mut client, "s", 1).await[0];
        for number in 0..20 {
            append(&mut client, shard, &format!("{number:01000}")).await;
        }
        server.kill().unwrap();
        let log = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == "log"))
            .unwrap();
        let mut bytes = std::fs::read(&log).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&log, &bytes).unwrap();

        let flags = ["--port", "0", "--internal-port", "0", "--data-dir", dir.path().to_str().unwrap()];
        let output = run(&flags, dir.path());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("is damaged at byte") && text.contains("--serve-damaged-log"), "{text}");
        assert_eq!(std::fs::read(&log).unwrap(), bytes, "a refused log is left as it is");

        let flags = vec!["--serve-damaged-log".to_owned()];
        let server = ServerProcess::start(&ServerOptions { flags, ..embedded_options(dir.path()) }).unwrap();
        let mut client = connect(server.port()).await;
        assert_eq!(read_all(&mut client, shard).await.len(), 19, "all but the damaged batch are served");
    }
}
