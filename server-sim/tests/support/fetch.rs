//! What most tests of subscriptions need around a consumer.

pub use super::consumer::{Consumer, fetch_request};
use super::{Client, DEADLINE};
use hstreamdb_proto::api::*;
use std::time::{Duration, Instant};
use tonic::Status;

/// A subscription from the beginning that redelivers after `ack_timeout_seconds`.
pub fn subscription(id: &str, stream_name: &str, ack_timeout_seconds: i32) -> Subscription {
    Subscription {
        subscription_id: id.into(),
        stream_name: stream_name.into(),
        ack_timeout_seconds,
        max_unacked_records: 10_000,
        offset: SpecialOffset::Earliest as i32,
        creation_time: None,
    }
}

pub async fn subscribe(client: &mut Client, id: &str, stream_name: &str) {
    client.create_subscription(subscription(id, stream_name, 600)).await.expect("subscription is created");
}

pub async fn unsubscribe(client: &mut Client, id: &str, force: bool) -> Result<(), Status> {
    let request = DeleteSubscriptionRequest { subscription_id: id.into(), force };
    client.delete_subscription(request).await.map(|_| ())
}

/// Attaches a consumer that nothing stands against.
pub async fn attach(client: &Client, id: &str, name: &str) -> Consumer {
    Consumer::attach(client, id, name).await.expect("the call opens")
}

/// How a fetch is refused.
pub async fn refused(client: &Client, id: &str, name: &str) -> Status {
    let requests = tokio_stream::iter([fetch_request(id, name, vec![])]);
    match client.clone().streaming_fetch(requests).await {
        Err(status) => status,
        Ok(call) => tokio::time::timeout(DEADLINE, call.into_inner().message())
            .await
            .expect("the call ends")
            .expect_err("the call is refused"),
    }
}

pub async fn consumers(client: &mut Client, id: &str) -> Vec<hstreamdb_proto::api::Consumer> {
    let request = ListConsumersRequest { subscription_id: id.into() };
    client.list_consumers(request).await.unwrap().into_inner().consumers
}

/// Waits until exactly these consumers are attached.
pub async fn wait_for_consumers(client: &mut Client, id: &str, names: &[&str]) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut attached: Vec<String> = consumers(client, id).await.into_iter().map(|c| c.name).collect();
        attached.sort();
        if attached == names {
            return;
        }
        assert!(Instant::now() < deadline, "consumers become {names:?}, they are {attached:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
