//! `deploy/jetstream/cluster.sh` as somebody runs it: three peers, three nodes, the loss of one of each.

use crate::support::{self, DEADLINE, append, connect, payloads, read_all, shards, stream};
use hstream_testkit::{end_with_this_process, eventually, nats::nats_binary};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/jetstream/cluster.sh");

/// What the script has started, ended with the test.
struct Deployment {
    folder: PathBuf,
    nats: u16,
    nodes: u16,
}

impl Deployment {
    fn new(folder: &Path) -> Deployment {
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        let mut bases = (20_000_u16..26_000).step_by(40).cycle().skip(std::process::id() as usize % 150);
        let mut base = |wanted: &dyn Fn(u16) -> Vec<u16>| {
            bases.find(|base| wanted(*base).into_iter().all(free)).expect("free ports")
        };
        let nats = base(&|base| (0..3).flat_map(|n| [base + n, base + n + 2000, base + n + 4000]).collect());
        let nodes = base(&|base| (0..3).flat_map(|n| [base + 10 * n, base + 10 * n + 1]).collect());
        Deployment { folder: folder.to_owned(), nats, nodes }
    }

    /// Runs the script; what it printed.
    fn run(&self, command: &str) -> Result<String, String> {
        let output = Command::new(SCRIPT)
            .arg(command)
            .env("HSTREAM_DEPLOY_DIR", &self.folder)
            .env("HSTREAM_SERVER_BINARY", env!("CARGO_BIN_EXE_hstream-server"))
            .env("HSTREAM_NATS_SERVER", nats_binary().unwrap())
            .env("HSTREAM_NATS_PORT", self.nats.to_string())
            .env("HSTREAM_PORT", self.nodes.to_string())
            .output()
            .unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        if output.status.success() { Ok(out.trim().to_owned()) } else { Err(format!("{out}{err}")) }
    }

    fn start(&self) -> String {
        let url = self.run("start").unwrap_or_else(|error| panic!("{error}"));
        for what in ["nats-1", "nats-2", "nats-3", "node-1", "node-2", "node-3"] {
            end_with_this_process(self.process(what));
        }
        url
    }

    fn process(&self, what: &str) -> u32 {
        let text = std::fs::read_to_string(self.folder.join(format!("{what}.pid"))).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    fn kill(&self, what: &str) {
        let process = self.process(what).to_string();
        assert!(Command::new("kill").args(["-KILL", &process]).status().unwrap().success());
    }

    fn node(&self, number: u16) -> u16 {
        self.nodes + 10 * (number - 1)
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let _ = self.run("clean");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_survives_the_loss_of_a_peer_and_a_node_and_keeps_its_data_over_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(&dir.path().join("with a blank"));
    let url = deployment.start();
    let [one, two, three] = [1, 2, 3].map(|number| deployment.node(number));
    assert_eq!(url, format!("hstream://127.0.0.1:{one},127.0.0.1:{two},127.0.0.1:{three}"));
    let mut client = connect(one).await;
    client
        .create_stream(hstreamdb_proto::api::Stream { replication_factor: 3, ..stream("s", 1) })
        .await
        .unwrap();
    let shard = shards(&mut client, "s").await[0];
    append(&mut client, shard, "through one").await;
    append(&mut connect(two).await, shard, "through two").await;

    deployment.kill("nats-1");
    deployment.kill("node-1");
    let said = eventually("both are gone", DEADLINE, || {
        let said = deployment.run("status").err();
        async move { said.filter(|said| said.contains("node-1 does not run")) }
    })
    .await;
    assert!(said.contains("nats-1 does not run") && said.contains("node-2 runs"), "{said}");
    eventually("an append without them is acknowledged", DEADLINE * 3, || async {
        let record = support::batch(vec![support::record("", "without them")]);
        connect(three).await.append(support::append_request(shard, record)).await.ok()
    })
    .await;
    assert_eq!(deployment.start(), url, "what does not run is started again");
    deployment.run("status").unwrap();
    let read = payloads(&read_all(&mut connect(one).await, shard).await);
    // An attempt whose answer was lost may be stored, too: it had no stamp.
    assert_eq!(read[..2], ["through one", "through two"]);
    assert!(read.len() > 2 && read[2..].iter().all(|payload| payload == "without them"), "{read:?}");

    deployment.run("stop").unwrap();
    assert!(deployment.run("status").is_err());
    assert_eq!(deployment.start(), url);
    assert_eq!(payloads(&read_all(&mut connect(two).await, shard).await), read);
    deployment.run("clean").unwrap();
    assert!(!deployment.folder.exists(), "nothing is left");
}

/// Every flag and setting of the containers is one that the binaries take.
#[test]
fn the_compose_file_gives_flags_that_the_server_takes_and_a_configuration_that_nats_takes() {
    let folder = Path::new(SCRIPT).parent().unwrap();
    let compose: serde_json::Value =
        serde_saphyr::from_str(&std::fs::read_to_string(folder.join("compose.yaml")).unwrap()).unwrap();
    let services = compose["services"].as_object().unwrap();
    let help = Command::new(env!("CARGO_BIN_EXE_hstream-server")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let mut nodes = 0;
    for (name, service) in services {
        let command = service["command"].as_array().unwrap();
        let command: Vec<&str> = command.iter().map(|word| word.as_str().unwrap()).collect();
        if name.starts_with("hstream-") {
            nodes += 1;
            for flag in command {
                let flag = flag.split('=').next().unwrap();
                assert!(help.split_whitespace().any(|word| word == flag), "{name}: {flag} is no flag");
            }
            continue;
        }
        assert_eq!(command, ["--config", "/etc/nats/nats.conf"]);
        let mut check = Command::new(nats_binary().unwrap());
        check.arg("-t").arg("-c").arg(folder.join("nats.conf")).env_clear();
        for (key, value) in service["environment"].as_object().unwrap() {
            check.env(key, value.as_str().unwrap());
        }
        let output = check.output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!((nodes, services.len()), (3, 6));
}

/// What the example promises about acknowledged records rests on this line.
#[test]
fn the_example_syncs_before_it_acknowledges() {
    let config = std::fs::read_to_string(Path::new(SCRIPT).with_file_name("nats.conf")).unwrap();
    assert!(config.lines().any(|line| line.trim() == "sync_interval: always"), "{config}");
}
