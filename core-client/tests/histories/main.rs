//! Whole histories: producers, consumers and readers at work while connections, replies, disks and servers fail by a
//! schedule drawn from a seed. Afterwards everything that happened is held against the delivery contract
//! (`hstream_testkit::history`).
//!
//! `HSTREAM_HISTORY_ROUNDS=100` runs that many rounds of each test from a random seed instead of a few fixed ones. A
//! failure prints its seed and schedule; `HSTREAM_HISTORY_SEED=<seed>` runs that schedule again. `HSTREAM_HISTORY_DUMP=<file>`
//! writes the events of a failed round as lines of JSON; `RUST_LOG=hstreamdb=debug` shows what clients and servers say. Schedules are repeated exactly, what happens in between is up to
//! the machine, so a rare failure may need several rounds of its seed.

mod consuming;
mod plan;
mod producing;
mod reading;
mod round;
mod server;
mod world;

use hstream_server::node::{Node, NodeConfig};
use plan::ServerKind;
use round::rounds;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_hold_on_disks_that_fail_and_lose_power() {
    rounds(ServerKind::Disk, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_hold_when_server_processes_are_killed() {
    rounds(ServerKind::Process, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_hold_without_capabilities_on_disks_that_fail_and_lose_power() {
    rounds(ServerKind::Disk, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_hold_without_capabilities_when_server_processes_are_killed() {
    rounds(ServerKind::Process, false).await;
}

/// Not a test of its own: the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by histories_hold_when_server_processes_are_killed"]
async fn serve_until_killed() {
    let Some(data_dir) = std::env::var_os(server::DIRECTORY) else { return };
    let config = NodeConfig { port: 0, data_dir: data_dir.into(), ..NodeConfig::default() };
    let node = Node::start(config).await.unwrap();
    hstream_testkit::announce_ready(node.address().port());
    // A test that was killed itself leaves nothing behind.
    let parent = std::os::unix::process::parent_id();
    while std::os::unix::process::parent_id() == parent {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}
