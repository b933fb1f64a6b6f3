//! The engine keeps the promises of every log.

use super::*;
use crate::store::contract::{Subject, contract};
use std::sync::atomic::{AtomicU64, Ordering};

async fn fresh() -> Subject {
    let clock = Arc::new(AtomicU64::new(1));
    let now = Arc::clone(&clock);
    let options = EmbeddedOptions { clock: Arc::new(move || now.load(Ordering::Relaxed)), ..options() };
    let store = open_with(&FaultDisk::new(), options).await.expect("the store opens");
    Subject { log: store.log(), clock, _keep: Box::new(store) }
}

contract!(fresh);
