//! The same load on three server processes over three NATS peers, of which one, or one of each, is killed or stands still in
//! every round.

mod machines;
mod rounds;
mod tails;

pub use rounds::{Figures, Round, Victim, Way};

use super::{
    PATIENCE, SHARDS, STREAM, everything,
    load::{self, Appending, Clock, Consuming, Load, Phase},
    subscription,
    witness::{self, Witness},
};
use crate::adapter::AdapterCommand;
use anyhow::Result;
use futures::future::try_join_all;
use hstream_testkit::history::{Event, History, Id, Summary, record_of};
use hstreamdb::{Client, Offset, StartFrom, StreamOptions, SubscriptionOptions};
use machines::Machines;
use rounds::Plan;
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tails::Tails;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

/// Copies of everything, one on each peer.
const COPIES: u32 = 3;
/// Between two readers that read a shard from its first record to its newest.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// What to do.
#[derive(Debug, Clone)]
pub struct JetStreamSettings {
    /// So many rounds.
    pub rounds: usize,
    /// Decides about all of them.
    pub seed: u64,
    /// Who fails.
    pub victims: Vec<Victim>,
    /// How.
    pub ways: Vec<Way>,
    /// `sync_interval` of the peers.
    pub sync_interval: Option<String>,
    /// Who makes the load; each of them appends, and consumes from a subscription of its own.
    pub languages: Vec<AdapterCommand>,
    /// The executable, if it is not the one of this build.
    pub server: Option<PathBuf>,
}

/// How it went.
#[derive(Debug)]
pub struct JetStreamReport {
    /// What the history holds.
    pub summary: Summary,
    /// How long everybody waited.
    pub figures: Figures,
    /// Longest time in which two nodes delivered the records of one subscription.
    pub longest_overlap: Duration,
    /// Moves of the subscription that was watched for it.
    pub moves: usize,
    /// Looks at checkpoints, and at tails.
    pub looks: (usize, usize),
    /// Shards that were read from their first to their newest record meanwhile.
    pub readings: usize,
}

/// Runs it.
///
/// # Errors
/// Everything that must not happen: what the history checker found, a checkpoint or a shard that went back, owners that
/// overlapped for longer than a lease, a call that failed, anything that did not go on.
pub async fn run_on_jetstream(settings: &JetStreamSettings) -> Result<JetStreamReport> {
    let machines = Machines::start(settings.sync_interval.clone(), settings.server.clone()).await?;
    let history = Arc::new(History::default());
    let url = machines.url();
    let direct = Client::connect(&url).await?;
    let stream = StreamOptions::new().shard_count(SHARDS).replication_factor(COPIES);
    direct.create_stream(STREAM, stream).await?;
    let names: Vec<String> = settings.languages.iter().map(|language| language.language.clone()).collect();
    for name in names.iter().map(String::as_str).chain([witness::NAME]) {
        let options = SubscriptionOptions::new().offset(StartFrom::Earliest).ack_timeout_secs(20);
        direct.create_subscription(&subscription(name), STREAM, options).await?;
    }
    let keys = Arc::new(load::keys(&direct, STREAM).await?);
    let (phase, phases) = watch::channel(Phase::Load);
    let load =
        Load { url: url.clone(), history: history.clone(), clock: Arc::new(Clock::default()), keys, phases };
    let appending: Vec<Arc<Appending>> = names.iter().map(|name| Appending::new(name)).collect();
    let consuming: Vec<Arc<Consuming>> =
        names.iter().enumerate().map(|(number, name)| Consuming::new(name, number as u32)).collect();
    let witness = Witness::start(&url, &subscription(witness::NAME)).await?;
    let checkpoints =
        witness::Checkpoints::watch(direct.clone(), names.iter().map(|name| subscription(name)).collect());
    let tails =
        Tails::watch(machines.addresses(), direct.list_shards(STREAM).await?.iter().map(|s| s.id).collect());
    let reading_ends = CancellationToken::new();
    let reading = tokio::spawn(read_again(url.clone(), history.clone(), reading_ends.clone()));

    let pairs = || settings.languages.iter().cloned();
    let appends =
        try_join_all(pairs().zip(&appending).map(|(language, of)| of.clone().run(language, load.clone())));
    let deliveries =
        try_join_all(pairs().zip(&consuming).map(|(language, of)| of.clone().run(language, load.clone())));
    let main = async {
        load::begun(&appending, &consuming).await?;
        let rounds = disturb(&machines, settings, &names, &history).await?;
        phase.send_replace(Phase::Drain);
        load::ended(&appending).await?;
        reading_ends.cancel();
        let stored = everything(&url).await?;
        load::drained(&consuming, &stored).await?;
        for number in 0..consuming.len() {
            history.note(Event::Drained { subscription: number as u32 });
        }
        history.keep(&stored);
        phase.send_replace(Phase::Leave);
        Ok::<_, anyhow::Error>(rounds)
    };
    let (rounds, _, _) = tokio::try_join!(main, appends, deliveries)?;

    let readings = reading.await??;
    let looks = (checkpoints.end().await?, tails.end().await?);
    let (moves, longest_overlap) = witness.end(witness::LEASE_OVER_STORE).await?;
    let figures = Figures::of(&rounds, &appending, &consuming);
    match &figures {
        Ok(figures) => println!("\n{figures}\n"),
        Err(error) => println!("\n{error:#}\n"),
    }
    // What was lost matters more than who waited too long.
    let summary = history.check().map_err(|violations| anyhow::anyhow!("{violations}"))?;
    let figures = figures?;
    direct.close(PATIENCE).await?;
    Ok(JetStreamReport { summary, figures, longest_overlap, moves, looks, readings })
}

/// One fault after another.
async fn disturb(
    machines: &Machines,
    settings: &JetStreamSettings,
    names: &[String],
    history: &History,
) -> Result<Vec<Round>> {
    let mut plan = Plan::new(settings);
    let mut rounds = Vec::new();
    for number in 1..=settings.rounds {
        let owners = machines.owners(names).await?;
        let round = plan.round(owners);
        // What the server did not make durable may come again from here on …
        history.note(Event::Restarted);
        let round = round.happen(machines).await?;
        // … until here.
        history.note(Event::Restarted);
        println!("{number}: {round}");
        rounds.push(round);
        sleep(plan.rest()).await;
    }
    Ok(rounds)
}

/// Reads one shard after the other from its first record to its newest; how many of them.
async fn read_again(url: String, history: Arc<History>, ended: CancellationToken) -> Result<usize> {
    let client = Client::connect(&url).await?;
    let shards: Vec<u64> = client.list_shards(STREAM).await?.iter().map(|shard| shard.id).collect();
    let mut readings = 0;
    for shard in shards.into_iter().cycle() {
        if ended.is_cancelled() {
            break;
        }
        let number = history.open(Some(shard));
        // One that could not be opened, or not go on, has read what it has read.
        if let Ok(reader) = client.shard_reader(STREAM, shard).until(Offset::Latest).open().await {
            let begun = Instant::now();
            loop {
                match reader.next_batch().await {
                    Ok(Some(batch)) => {
                        let records = batch.records()?;
                        let of = |record: &hstreamdb::ReceivedRecord| {
                            let id = Id {
                                shard: record.id.shard_id,
                                batch: record.id.batch_id,
                                index: record.id.batch_index,
                            };
                            record_of(&record.payload).map(|number| (id, number))
                        };
                        let records: Option<Vec<(Id, u64)>> = records.iter().map(of).collect();
                        let records = records
                            .ok_or_else(|| anyhow::anyhow!("a record of shard {shard} was altered"))?;
                        history.read(number, &records);
                    }
                    Ok(None) => {
                        history.note(Event::Finished { reader: number });
                        readings += 1;
                        break;
                    }
                    Err(error) => {
                        println!("reading shard {shard} ended after {:.1?}: {error}", begun.elapsed());
                        break;
                    }
                }
            }
        }
        sleep(READ_AGAIN).await;
    }
    client.close(PATIENCE).await?;
    Ok(readings)
}
