//! The engine keeps the promises of every log.

use super::*;
use crate::store::contract::{Subject, contract};

async fn fresh() -> Subject {
    let mut world = World::on(Nats::shared().expect("a server")).await;
    let clock = Arc::new(AtomicU64::new(1));
    let now = Arc::clone(&clock);
    world.settings.clock = Arc::new(move || now.load(Ordering::Relaxed));
    let log = world.node().await;
    Subject { log, clock, _keep: Box::new(world) }
}

contract!(fresh);
