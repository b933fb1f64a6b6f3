//! A client on a cluster of real nodes that are killed, paused, cut off, stopped and started again: it keeps appending,
//! consuming and reading, and what it was told stays true.

mod faults;
mod histories;
mod load;

use std::sync::OnceLock;
use tokio::sync::{Mutex, MutexGuard};

/// One cluster at a time: several on one machine would suspect each other's nodes for being slow.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: OnceLock<Mutex<()>> = OnceLock::new();
    TURN.get_or_init(Mutex::default).lock().await
}
