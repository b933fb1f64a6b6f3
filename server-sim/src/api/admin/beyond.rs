//! What operators can do with subscriptions beyond the published commands: see how far they are, move them, and
//! change their redelivery policy.

use super::answer::Answer;
use crate::error::Result;
use crate::node::context::NodeContext;
use crate::subscription::{Policy, PolicyChange, Position};
use clap::Subcommand;
use hstreamdb_proto::api::RecordId;

#[derive(Debug, Subcommand)]
pub(super) enum Beyond {
    /// How far a subscription is behind the end of each shard
    Lag {
        /// Its id
        id: String,
    },
    /// Move a subscription to another position; what was acknowledged does not count any more
    Seek {
        /// Its id
        id: String,
        /// earliest, latest, a time in milliseconds since 1970, or a record id (other shards then stay)
        #[arg(long, value_parser = position)]
        to: Position,
        /// Even if consumers are attached: they are sent away and come back to the new position
        #[arg(short, long)]
        force: bool,
    },
    /// Show the redelivery policy of a subscription, or change what is given of it
    Policy {
        /// Its id
        id: String,
        /// Whether what a departed consumer has goes to others at once
        #[arg(long)]
        redeliver_on_disconnect: Option<bool>,
        /// Deliveries of a record before it goes to the dead-letter stream; 0 lifts the limit
        #[arg(long)]
        max_deliveries: Option<u32>,
        /// The dead-letter stream
        #[arg(long)]
        dead_letter_stream: Option<String>,
    },
}

fn position(text: &str) -> std::result::Result<Position, String> {
    match text {
        "earliest" => Ok(Position::Earliest),
        "latest" => Ok(Position::Latest),
        _ => {
            let time = text.parse().map(Position::Time).ok();
            let record = || text.parse::<RecordId>().map(Position::Record).ok();
            time.or_else(record).ok_or_else(|| {
                "it must be earliest, latest, a time in milliseconds since 1970 or a record id (shard-batch-index)"
                    .to_owned()
            })
        }
    }
}

impl Beyond {
    pub(super) async fn run(self, node: &NodeContext) -> Result<Answer> {
        let subscriptions = &node.subscriptions;
        match self {
            Beyond::Lag { id } => {
                let headers =
                    ["Shard ID", "Committed", "Delivered", "Tail", "Batches Behind", "Unacked Records"];
                let rows = subscriptions.lag(&id).await?.into_iter().map(|lag| {
                    [lag.shard, lag.committed, lag.delivered, lag.tail, lag.batches, lag.unacked_records]
                        .map(|number| number.to_string())
                });
                Ok(Answer::table(headers, rows))
            }
            Beyond::Seek { id, to, force } => {
                let starts = subscriptions.seek(&id, to, force).await?;
                let rows = starts.into_iter().map(|(shard, first)| [shard.to_string(), first.to_string()]);
                Ok(Answer::table(["Shard ID", "First Batch"], rows))
            }
            Beyond::Policy { id, redeliver_on_disconnect, max_deliveries, dead_letter_stream } => {
                let change = PolicyChange { redeliver_on_disconnect, max_deliveries, dead_letter_stream };
                let policy = match change == PolicyChange::default() {
                    true => subscriptions.get(&id)?.policy.clone(),
                    false => subscriptions.set_policy(&id, change).await?,
                };
                Ok(shown(id, policy))
            }
        }
    }
}

fn shown(id: String, policy: Policy) -> Answer {
    let headers = ["Subscription ID", "Redeliver On Disconnect", "Max Deliveries", "Dead Letter Stream"];
    let row = [
        id,
        policy.redeliver_on_disconnect.to_string(),
        policy.max_deliveries.to_string(),
        policy.dead_letter.map(|dead_letter| dead_letter.name).unwrap_or_default(),
    ];
    Answer::table(headers, [row])
}
