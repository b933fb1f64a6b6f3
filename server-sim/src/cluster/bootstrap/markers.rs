//! The sentences that operators and test harnesses wait for, word for word those of published servers.

use crate::cluster::NodeId;
use std::time::Duration;

/// The main listener is open.
pub fn started(node: NodeId, port: u16) {
    tracing::info!(%node, "Server is started on port {port}, waiting for cluster to get ready");
}

/// A further listener is open.
pub fn extra_listener(node: NodeId, key: &str, port: u16) {
    tracing::info!(%node, key, "Extra listener is started on port {port}");
}

pub(super) fn alone(node: NodeId) {
    tracing::info!(%node, "Only one node in the cluster, no bootstrapping needed");
}

pub(super) fn founded(node: NodeId) {
    tracing::info!(%node, "All servers have been initialized");
}

pub(super) fn delaying(node: NodeId, delay: Duration) {
    let ms = delay.as_millis();
    tracing::info!(%node, "Delaying for {ms}ms before I can make resource allocation decisions...");
}

pub(super) fn ready(node: NodeId) {
    tracing::info!(%node, "Cluster is ready!");
}
