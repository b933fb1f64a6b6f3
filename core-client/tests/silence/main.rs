//! Nodes that fall silent: no reset, no end, no answer. Every deadline here is longer than a test may take, so what goes
//! on does so because the silence was noticed.

#[path = "../members/mod.rs"]
mod members;
#[path = "../node_under_test/mod.rs"]
mod node_under_test;
#[path = "../relay/mod.rs"]
pub mod relay;

mod appending;
mod calling;
mod consuming;
mod reading;

use hstreamdb::{Client, ClientBuilder, Offset, StreamOptions};
use members::{Member, Script};
use node_under_test::soon;
use relay::Network;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(600);

/// Three nodes of one cluster, and a client that talks to the first.
struct World {
    script: Script,
    members: Vec<Member>,
    client: Client,
}

impl World {
    async fn start() -> World {
        World::with(|client| client).await
    }

    /// The client connects with the first node only, so calls go there, and it owns everything.
    async fn with(options: impl FnOnce(ClientBuilder) -> ClientBuilder) -> World {
        World::over(Script::default(), options).await
    }

    async fn over(script: Script, options: impl FnOnce(ClientBuilder) -> ClientBuilder) -> World {
        let first = Member::start(1, &script).await;
        let others = [first.another(2, &script, None).await, first.another(3, &script, None).await];
        script.running(&[&first]);
        script.owner(&first);
        let builder = Client::builder()
            .url(format!("hstream://{}", first.address()))
            .request_timeout(LONG)
            .unwrap()
            .total_timeout(LONG)
            .unwrap()
            .connect_timeout(LONG)
            .unwrap();
        let client = soon(options(builder).connect()).await.unwrap();
        soon(client.create_stream("s", StreamOptions::new())).await.unwrap();
        let members: Vec<Member> = [first].into_iter().chain(others).collect();
        // Known before anything fails, and not before the client has chosen its first node.
        script.running(&members.iter().collect::<Vec<_>>());
        soon(client.refresh_nodes()).await.unwrap();
        World { script, members, client }
    }

    /// The node that the client talks to says nothing any more.
    fn silence(&self) {
        self.members[0].relay.set(Network::Silent);
    }

    /// The same for good: the others learn that its connections are gone.
    fn kill(&self) {
        self.members[0].relay.set(Network::Dead);
    }

    fn resume(&self) {
        self.members[0].relay.set(Network::Well);
    }

    fn count(&self, metric: &str) -> u64 {
        self.client.metrics().get(metric).unwrap()
    }

    /// Everything in the stream, read through another node.
    async fn stored(&self) -> Vec<String> {
        let url = format!("hstream://{}", self.members[1].address());
        let client = soon(Client::connect(&url)).await.unwrap();
        let reader = soon(client.stream_reader("s").until(Offset::Latest).open()).await.unwrap();
        let mut stored = Vec::new();
        while let Some(batch) = soon(reader.next_batch()).await.unwrap() {
            let records = batch.records().unwrap();
            stored.extend(records.iter().map(|record| String::from_utf8(record.payload.to_vec()).unwrap()));
        }
        stored
    }
}
