//! The published clients that cannot run here, by their wire use: the sequences of calls each of them makes, with
//! the metadata, deadlines and parsing it depends on, played over raw gRPC.

#[path = "../support/mod.rs"]
mod support;

mod erlang;
mod go;
mod java;
mod rust;

use support::Client;
use tonic::transport::Channel;

/// A connection with the client's own user agent in front of the transport's.
async fn connect_as(port: u16, agent: &'static str) -> Client {
    let channel =
        Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap().user_agent(agent).unwrap();
    Client::new(channel.connect().await.expect("server accepts"))
}
