//! Points 4, 5, 6, 17 and 18: consumers.

mod acks;
mod demand;
mod handlers;
mod leaving;
mod reconnecting;

use crate::node_under_test::{TestNode, soon};
use hstream_testkit::{Fault, RpcProxy, eventually};
use hstreamdb::{Client, Consumer, ConsumerEvent, RecordId, StartFrom, SubscriptionOptions};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What stops and waits may take where nothing hangs.
const GRACE: Duration = Duration::from_secs(10);

/// Receives `count` records without acknowledging them.
async fn receive(consumer: &Consumer, count: usize) -> Vec<RecordId> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let batch = soon(consumer.next_batch()).await.unwrap().expect("the consumer goes on");
        ids.extend_from_slice(batch.ids());
    }
    ids
}

/// A client of the proxy, quick to try again.
async fn client_of(url: &str) -> Client {
    let builder = Client::builder().url(url).set("retry_base_ms", 20).unwrap();
    builder.set("retry_max_ms", 200).unwrap().connect().await.unwrap()
}

/// A proxy in front of the node that is broken in this way, and a client of it.
async fn through_proxy(node: &TestNode, broken: Fault) -> (Arc<RpcProxy>, Client) {
    let proxy = RpcProxy::start_broken(node.address().port(), broken).await.unwrap();
    let client = client_of(&proxy.url()).await;
    (Arc::new(proxy), client)
}

/// A subscription whose open records go to the next consumer at once.
async fn subscription(client: &Client, id: &str, ack_timeout_secs: u32) {
    let options = SubscriptionOptions::new()
        .offset(StartFrom::Earliest)
        .ack_timeout_secs(ack_timeout_secs)
        .redeliver_on_disconnect(true);
    client.create_subscription(id, "s", options).await.unwrap();
}

/// Events of a consumer, in order.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<ConsumerEvent>>>);

impl Events {
    fn listener(&self) -> impl Fn(&ConsumerEvent) + Send + Sync + 'static {
        let events = self.0.clone();
        move |event| events.lock().unwrap().push(event.clone())
    }

    fn all(&self) -> Vec<ConsumerEvent> {
        self.0.lock().unwrap().clone()
    }

    fn names(&self) -> Vec<&'static str> {
        self.all().iter().map(ConsumerEvent::name).collect()
    }

    fn count(&self, name: &str) -> usize {
        self.names().iter().filter(|event| **event == name).count()
    }

    /// Waits until there are so many of that name.
    async fn reach(&self, name: &str, count: usize) {
        eventually(name, Duration::from_secs(20), || async { (self.count(name) >= count).then_some(()) })
            .await;
    }
}

/// A real server process on a directory of its own, and what its clients need to know.
struct Process {
    server: Option<hstream_testkit::ServerProcess>,
    options: hstream_testkit::ServerOptions,
    _directory: tempfile::TempDir,
}

impl Process {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = hstream_testkit::ServerOptions::new(directory.path().join("data"));
        let server = hstream_testkit::ServerProcess::start(&options).unwrap();
        options.port = server.port();
        Process { server: Some(server), options, _directory: directory }
    }

    fn server(&self) -> &hstream_testkit::ServerProcess {
        self.server.as_ref().unwrap()
    }

    /// SIGKILL, then the same again.
    fn kill_and_start_again(&mut self) {
        self.kill();
        self.server = Some(hstream_testkit::ServerProcess::start(&self.options).unwrap());
    }

    fn kill(&mut self) {
        self.server.take().unwrap().kill().unwrap();
    }

    fn signal(&self, name: &str) {
        let id = self.server().id().to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap();
        assert!(sent.success());
    }
}
