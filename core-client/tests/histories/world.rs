//! Everything between the clients and the disk of one round.

use super::{
    plan::{LinkFault, Plan, ServerFault, Step},
    server::Server,
};
use hstream_testkit::{
    Ending, Fault, Flow, Link, RpcProxy, Way,
    history::{Event, History},
};
use hstreamdb::Client;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Mutex, time::sleep};

/// Deadline of one try where faults are, shorter than most of them.
const IMPATIENT: Duration = Duration::from_millis(400);
/// The same where there are none.
const PATIENT: Duration = Duration::from_secs(20);

/// What a full disk has left: less than the server keeps for trims and checkpoints, so that it refuses batches and nothing
/// else. Without any of it the metadata would take nothing either, until the next start.
const RESERVED: u64 = 32 << 20;

/// Clients reach the proxy through links of their own, and the server through the proxy.
pub struct World {
    server: Mutex<(Server, u16)>,
    proxy: RpcProxy,
    history: Arc<History>,
    pub restarts: Arc<AtomicU32>,
    pub producers: Link,
    pub consumers: Link,
    pub readers: Link,
}

impl World {
    pub async fn start(plan: &Plan, history: Arc<History>) -> World {
        let mut server = Server::new(plan.server, plan.seed);
        let port = server.start().await;
        let broken = if plan.capable { Fault::None } else { Fault::Published };
        let proxy = RpcProxy::start_broken(port, broken).await.unwrap();
        let link = |number| Link::start(proxy.port(), plan.seed.wrapping_add(number));
        World {
            producers: link(1).await.unwrap(),
            consumers: link(2).await.unwrap(),
            readers: link(3).await.unwrap(),
            server: Mutex::new((server, port)),
            proxy,
            history,
            restarts: Arc::default(),
        }
    }

    /// A client that goes through a link.
    pub async fn client(&self, link: &Link) -> Client {
        let proxy = format!("127.0.0.1:{}", self.proxy.port());
        connect(&link.url(), vec![(proxy, link.address().to_string())], IMPATIENT).await
    }

    /// A client of the server itself, which bears with a busy machine.
    pub async fn direct(&self) -> Client {
        let port = self.server.lock().await.1;
        connect(&format!("hstream://127.0.0.1:{port}"), Vec::new(), PATIENT).await
    }

    /// Does to the link what the steps say; how many there were when `ended` is over.
    pub async fn disturb(link: &Link, steps: &[Step<LinkFault>]) {
        for step in steps {
            sleep(step.after).await;
            let both = |flow| {
                link.set(Way::ToServer, flow);
                link.set(Way::ToClient, flow);
            };
            match step.fault {
                LinkFault::Slow { latency, jitter } => both(Flow { latency, jitter, ..Flow::default() }),
                LinkFault::Throttled(rate) => both(Flow { bytes_per_second: Some(rate), ..Flow::default() }),
                LinkFault::Cut(ending) => link.cut(ending),
                LinkFault::EndsAfter(way, bytes, ending) => {
                    link.set(way, Flow { ends_after: Some((bytes, ending)), ..Flow::default() })
                }
                LinkFault::HalfOpen(way) => link.set(way, Flow { swallow: true, ..Flow::default() }),
                LinkFault::BlackHole => link.freeze(),
                LinkFault::Refused => {
                    link.refuse();
                    link.cut(Ending::Reset);
                }
            }
            sleep(step.lasting).await;
            link.resume();
        }
    }

    /// Does to the server what the steps say.
    pub async fn harm(&self, steps: &[Step<ServerFault>]) {
        for step in steps {
            sleep(step.after).await;
            match step.fault {
                ServerFault::LostReplies(count) => {
                    self.proxy.set(Fault::LoseReplies(count));
                    sleep(step.lasting).await;
                    self.proxy.set(Fault::None);
                }
                ServerFault::LateAppends(most) => {
                    self.proxy.set(Fault::Late(most));
                    sleep(step.lasting).await;
                    self.proxy.set(Fault::None);
                }
                ServerFault::CutAtTheServer => self.proxy.cut_connections(),
                ServerFault::Killed => self.end(false, step.lasting).await,
                ServerFault::Stopped => self.end(true, step.lasting).await,
                ServerFault::FailedSync => {
                    if let Some(disk) = self.server.lock().await.0.disk() {
                        disk.fail_sync(0);
                    }
                    sleep(step.lasting).await;
                    self.end(false, Duration::ZERO).await;
                }
                ServerFault::SlowSync => {
                    if let Some(disk) = self.server.lock().await.0.disk() {
                        disk.hold_syncs();
                    }
                    sleep(step.lasting).await;
                    if let Some(disk) = self.server.lock().await.0.disk() {
                        disk.release_syncs();
                    }
                }
                ServerFault::FullDisk => {
                    if let Some(disk) = self.server.lock().await.0.disk() {
                        disk.set_capacity(Some(disk.used() + RESERVED));
                    }
                    sleep(step.lasting).await;
                    if let Some(disk) = self.server.lock().await.0.disk() {
                        disk.set_capacity(None);
                    }
                }
            }
        }
    }

    /// Whether all that was held up on its way to the server has arrived.
    pub fn has_settled(&self) -> bool {
        self.proxy.late() == 0
    }

    /// Ends the server and starts it again after a while.
    async fn end(&self, in_order: bool, away: Duration) {
        let mut server = self.server.lock().await;
        self.restarts.fetch_add(1, Ordering::AcqRel);
        self.history.note(Event::Restarted);
        if in_order {
            server.0.stop().await
        } else {
            server.0.kill().await
        }
        self.history.note(Event::Restarted);
        sleep(away).await;
        let port = server.0.start().await;
        server.1 = port;
        self.proxy.point_at(port).unwrap();
    }

    /// Connections that links and proxy have broken so far, and accepted.
    pub fn connections(&self) -> (u64, u64) {
        let all = [&self.producers, &self.consumers, &self.readers].map(|link| link.stats());
        (all.iter().map(|stats| stats.broken).sum(), all.iter().map(|stats| stats.accepted).sum())
    }
}

async fn connect(url: &str, mapping: Vec<(String, String)>, request_timeout: Duration) -> Client {
    Client::builder()
        .url(url)
        .set("host_mapping", mapping)
        .unwrap()
        .request_timeout(request_timeout)
        .unwrap()
        .connect_timeout(Duration::from_secs(5))
        .unwrap()
        .set("retry_base_ms", 5)
        .unwrap()
        .set("retry_max_ms", 100)
        .unwrap()
        .connect()
        .await
        .unwrap()
}
