//! A consumer that speaks the wire.

use super::{Client, DEADLINE, payloads};
use hstreamdb_proto::api::*;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};

pub fn fetch_request(id: &str, name: &str, ack_ids: Vec<RecordId>) -> StreamingFetchRequest {
    StreamingFetchRequest { subscription_id: id.into(), consumer_name: name.into(), ack_ids }
}

/// One attached consumer.
pub struct Consumer {
    pub requests: Option<mpsc::Sender<StreamingFetchRequest>>,
    pub responses: Streaming<StreamingFetchResponse>,
}

impl Consumer {
    pub async fn attach(client: &Client, id: &str, name: &str) -> Result<Consumer, Status> {
        Self::attach_with(client, id, name, MetadataMap::new()).await.map(|(consumer, _)| consumer)
    }

    /// Attaches with metadata; returns those of the response, too.
    pub async fn attach_with(
        client: &Client,
        id: &str,
        name: &str,
        keys: MetadataMap,
    ) -> Result<(Consumer, MetadataMap), Status> {
        let (requests, receiver) = mpsc::channel(16);
        requests.send(fetch_request(id, name, vec![])).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(receiver));
        *request.metadata_mut() = keys;
        let (keys, responses, _) = client.clone().streaming_fetch(request).await?.into_parts();
        Ok((Consumer { requests: Some(requests), responses }, keys))
    }

    pub async fn next(&mut self) -> ReceivedRecord {
        let message =
            tokio::time::timeout(DEADLINE, self.responses.message()).await.expect("a batch arrives");
        message.unwrap().expect("the call goes on").received_records.unwrap()
    }

    /// Nothing comes for a moment.
    pub async fn silent(&mut self) {
        let moment = tokio::time::timeout(Duration::from_millis(150), self.responses.message()).await;
        assert!(moment.is_err(), "{moment:?}");
    }

    pub async fn ack(&self, ack_ids: Vec<RecordId>) {
        self.requests.as_ref().unwrap().send(fetch_request("", "", ack_ids)).await.unwrap();
    }

    /// Next batch, acknowledged; its payloads.
    pub async fn take(&mut self) -> Vec<String> {
        let received = self.next().await;
        self.ack(received.record_ids.clone()).await;
        payloads(&[received])
    }

    /// Closes this side; the server has to end the call with OK.
    pub async fn finish(mut self) {
        self.requests = None;
        let end = async { while self.responses.message().await.unwrap().is_some() {} };
        tokio::time::timeout(DEADLINE, end).await.expect("the call ends");
    }

    /// How the server ends the call.
    pub async fn end(&mut self) -> Result<(), Status> {
        tokio::time::timeout(DEADLINE, async {
            loop {
                match self.responses.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(status),
                }
            }
        })
        .await
        .expect("the call ends")
    }
}
