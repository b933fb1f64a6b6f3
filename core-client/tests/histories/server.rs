//! The server of a round: real in both cases, and killed in both.

use super::plan::ServerKind;
use hstream_server::{
    node::{Node, NodeConfig},
    store::disk::FaultDisk,
};
use hstream_testkit::ServerProcess;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{process::Command, sync::Arc, time::Duration};
use tokio::runtime::Runtime;

/// Names the data directory to the process that is killed.
pub const DIRECTORY: &str = "HSTREAM_HISTORY_SERVER";

pub enum Server {
    Disk { disk: FaultDisk, running: Option<Box<Running>>, random: Box<StdRng> },
    Process { directory: tempfile::TempDir, running: Option<ServerProcess> },
}

/// A node on a runtime of its own, so that it can vanish without any cleanup.
pub struct Running {
    node: Option<Node>,
    runtime: Option<Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // First the tasks, so that none of them sees its node stop.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    pub fn new(kind: ServerKind, seed: u64) -> Server {
        match kind {
            ServerKind::Disk => Server::Disk {
                disk: FaultDisk::new(),
                running: None,
                random: Box::new(StdRng::seed_from_u64(seed)),
            },
            ServerKind::Process => Server::Process { directory: tempfile::tempdir().unwrap(), running: None },
        }
    }

    /// Starts it on what is stored; the port it took.
    pub async fn start(&mut self) -> u16 {
        match self {
            Server::Disk { disk, running, .. } => {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .unwrap();
                let disk = disk.clone();
                let config = NodeConfig { port: 0, ..NodeConfig::default() };
                let node = runtime.spawn(Node::start_on(config, move |_| Ok(Arc::new(disk))));
                let node = node.await.unwrap().unwrap();
                let port = node.address().port();
                *running = Some(Box::new(Running { node: Some(node), runtime: Some(runtime) }));
                port
            }
            Server::Process { directory, running } => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command
                    .args(["serve_until_killed", "--exact", "--ignored", "--nocapture"])
                    .env(DIRECTORY, directory.path().join("data"));
                let process =
                    tokio::task::spawn_blocking(move || ServerProcess::start_command(command)).await;
                let process = process.unwrap().unwrap();
                let port = process.port();
                *running = Some(process);
                port
            }
        }
    }

    /// Power loss, or SIGKILL.
    pub async fn kill(&mut self) {
        match self {
            Server::Disk { disk, running, random } => {
                // Of what was not synced, any part may have reached the disk.
                let after = disk.crash_keeping(|_, length| Some(random.random_range(0..=length)));
                *disk = after;
                *running = None;
            }
            Server::Process { running, .. } => {
                let process = running.take();
                tokio::task::spawn_blocking(move || process.map(ServerProcess::kill)).await.unwrap();
            }
        }
    }

    /// In order where that can be asked for.
    pub async fn stop(&mut self) {
        match self {
            Server::Disk { running, .. } => {
                if let Some(mut running) = running.take()
                    && let (Some(node), Some(runtime)) = (running.node.take(), running.runtime.as_ref())
                {
                    runtime.spawn(node.shutdown(Duration::from_millis(500))).await.unwrap();
                }
            }
            Server::Process { .. } => self.kill().await,
        }
    }

    /// The disk, where there is one to play with.
    pub fn disk(&self) -> Option<&FaultDisk> {
        match self {
            Server::Disk { disk, .. } => Some(disk),
            Server::Process { .. } => None,
        }
    }
}
