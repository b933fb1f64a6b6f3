//! One round from its seed to its verdict.

use super::{
    consuming::{Consuming, Phase, Restarts},
    plan::{Plan, ServerKind},
    producing::Producing,
    reading::{Reading, everything},
    world::World,
};
use futures::{FutureExt as _, future::join_all};
use hstream_testkit::{
    Ending, eventually,
    history::{Event, History, Id, Summary},
};
use hstreamdb::{StartFrom, StreamOptions, SubscriptionOptions};
use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

const SEED: &str = "HSTREAM_HISTORY_SEED";
const ROUNDS: &str = "HSTREAM_HISTORY_ROUNDS";
const DUMP: &str = "HSTREAM_HISTORY_DUMP";
/// Rounds of each test unless told otherwise.
const FEW: u64 = 3;
/// Once everything works again, everything is delivered and read this soon.
const PATIENCE: Duration = Duration::from_secs(60);
const STREAM: &str = "s";

/// Runs the rounds that the environment asks for.
pub async fn rounds(server: ServerKind, capable: bool) {
    let number = |name: &str| {
        std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number in the environment"))
    };
    let seeds: Vec<u64> = match (number(SEED), number(ROUNDS)) {
        (Some(seed), rounds) => vec![seed; rounds.unwrap_or(1) as usize],
        (None, Some(rounds)) => (0..rounds).map(|_| rand::random::<u32>().into()).collect(),
        (None, None) => (1..=FEW).collect(),
    };
    // A second test finds it done.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .try_init();
    for seed in seeds {
        let plan = Plan::draw(seed, server, capable);
        let history = Arc::new(History::default());
        let started = std::time::Instant::now();
        let outcome = AssertUnwindSafe(run(&plan, &history)).catch_unwind().await;
        let problem = match outcome {
            Ok(Ok(report)) => {
                println!("seed {seed} {server:?} capable {capable}: {report} in {:?}", started.elapsed());
                continue;
            }
            Ok(Err(problem)) => problem,
            Err(panic) => {
                let words = panic.downcast_ref::<String>().map(String::as_str);
                words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
            }
        };
        if let Some(path) = std::env::var_os(DUMP) {
            let lines: Vec<String> =
                history.events().iter().map(|event| serde_json::to_string(event).unwrap()).collect();
            std::fs::write(path, lines.join("\n")).unwrap();
        }
        panic!("{problem}\nrepeat it with {SEED}={seed}\n{plan:?}");
    }
}

async fn run(plan: &Plan, history: &Arc<History>) -> Result<String, String> {
    let world = World::start(plan, history.clone()).await;
    let direct = world.direct().await;
    let producers = world.client(&world.producers).await;
    direct.create_stream(STREAM, StreamOptions::new().shard_count(plan.shards)).await.unwrap();
    let shards = direct.list_shards(STREAM).await.unwrap();
    let shards: Vec<u64> = shards.iter().map(|shard| shard.id).collect();

    let consumers = world.client(&world.consumers).await;
    let mut consuming = Vec::new();
    for (number, of) in plan.subscriptions.iter().enumerate() {
        let name = format!("sub{number}");
        let options = SubscriptionOptions::new()
            .offset(StartFrom::Earliest)
            .ack_timeout_secs(of.ack_timeout_secs)
            .max_unacked_records(of.max_unacked_records)
            .redeliver_on_disconnect(of.redeliver_on_disconnect);
        direct.create_subscription(&name, STREAM, options).await.unwrap();
        let restarts = Restarts((!plan.capable).then(|| world.restarts.clone()));
        consuming.push(Consuming::new(name, number as u32, consumers.clone(), history.clone(), restarts));
    }
    direct.close(PATIENCE).await.unwrap();
    let readers = world.client(&world.readers).await;
    let reading = Reading::new(readers.clone(), STREAM, history.clone());
    let mut producing = Vec::new();
    for (number, of) in plan.producers.iter().enumerate() {
        producing.push(Producing::start(&producers, STREAM, of, number as u32, history).await);
    }

    let (over, is_over) = watch::channel(false);
    let (phase, phases) = watch::channel(Phase::Chaos);
    let (stop_reading, reading_is_over) = watch::channel(false);
    let main = async {
        // The faults, and callers who append all the while.
        let appends = join_all(
            producing.iter().zip(&plan.producers).map(|(producer, of)| producer.append(plan, of, &is_over)),
        );
        let chaos = async {
            tokio::join!(
                World::disturb(&world.producers, &plan.producer_link),
                World::disturb(&world.consumers, &plan.consumer_link),
                World::disturb(&world.readers, &plan.reader_link),
                world.harm(&plan.server_faults),
                async {
                    tokio::time::sleep(plan.chaos).await;
                    over.send_replace(true);
                    join_all(producing.iter().map(Producing::close_early)).await;
                },
            );
        };
        tokio::join!(appends, chaos);
        // From here on everything works.
        join_all(producing.drain(..).map(Producing::finish)).await;
        producers.close(PATIENCE).await.unwrap();
        // What the network still held has arrived or never will.
        world.producers.cut(Ending::Reset);
        eventually("what was late", PATIENCE, || async { world.has_settled().then_some(()) }).await;
        phase.send_replace(Phase::Drain);
        let direct = world.direct().await;
        let mut stored = everything(&direct, STREAM).await;
        loop {
            drained(&consuming, &reading, &stored).await;
            let again = everything(&direct, STREAM).await;
            if again == stored {
                break;
            }
            stored = again;
        }
        for number in 0..consuming.len() {
            history.note(Event::Drained { subscription: number as u32 });
        }
        history.keep(&stored);
        stop_reading.send_replace(true);
        phase.send_replace(Phase::Leave);
        direct.close(PATIENCE).await.unwrap();
    };
    let ((), _, (), ()) = tokio::join!(
        main,
        join_all(consuming.iter().zip(&plan.subscriptions).map(|(of, how)| of.run(plan, how, &phases))),
        reading.follow(reading_is_over),
        reading.look(plan.seed, &shards, is_over.clone()),
    );
    for subscription in &consuming {
        subscription.look_for_leftovers().await;
    }
    consumers.close(PATIENCE).await.map_err(|error| error.to_string())?;
    readers.close(PATIENCE).await.map_err(|error| error.to_string())?;

    let complaints: Vec<String> =
        consuming.iter().flat_map(|of| std::mem::take(&mut *of.complaints.lock().unwrap())).collect();
    if !complaints.is_empty() {
        return Err(complaints.join("\n"));
    }
    let summary = history.check().map_err(|violations| violations.to_string())?;
    Ok(report(plan, &summary, &world, &reading))
}

/// Waits until consumers and the follower have had everything.
async fn drained(consuming: &[Consuming], reading: &Reading, stored: &[(Id, u64)]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let followed = reading.followed.load(Ordering::Acquire);
        if followed >= stored.len() && consuming.iter().all(|of| of.has_acked(stored)) {
            return;
        }
        let acked: Vec<usize> = consuming.iter().map(Consuming::acked).collect();
        let of = stored.len();
        assert!(Instant::now() < end, "of {of} records {followed} were followed and {acked:?} acknowledged");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn report(plan: &Plan, summary: &Summary, world: &World, reading: &Reading) -> String {
    let (broken, accepted) = world.connections();
    format!(
        "{} appended ({} stored, {} failed, {} unknown, {} doubled), {} delivered ({} again), {} read \
         ({} readers finished, {} failed), {} server faults, {} link faults, {broken} of {accepted} connections broken",
        summary.appended,
        summary.stored,
        summary.failed,
        summary.unknown,
        summary.doubled,
        summary.delivered,
        summary.redelivered,
        summary.read,
        reading.finished.load(Ordering::Acquire),
        reading.failed.load(Ordering::Acquire),
        plan.server_faults.len(),
        plan.producer_link.len() + plan.consumer_link.len() + plan.reader_link.len(),
    )
}
