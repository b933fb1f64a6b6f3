//! What a NATS server says about itself, over its monitoring port: it answers whatever clients need to show.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Of one exchange. A server that stands still does not answer at all.
const WITHIN: Duration = Duration::from_secs(2);

/// The monitoring port of one server.
#[derive(Debug, Clone)]
pub(super) struct Monitor(SocketAddr);

/// Who leads, as one server sees it.
#[derive(Debug, Default)]
pub(super) struct Leaders {
    /// Of the cluster's own matters. A lone server has none.
    pub meta: Option<String>,
    /// Of each stream it holds.
    pub streams: Vec<(String, Option<String>)>,
}

impl Monitor {
    pub(super) fn new(port: u16) -> Monitor {
        Monitor(([127, 0, 0, 1], port).into())
    }

    /// An error with its reason unless the server is well: what it holds is up to date.
    pub(super) fn healthy(&self) -> Result<()> {
        let health = self.get("/healthz")?;
        match health.get("status").and_then(Value::as_str) {
            Some("ok") => Ok(()),
            _ => bail!("it says {health}"),
        }
    }

    pub(super) fn leaders(&self) -> Result<Leaders> {
        let answer = self.get("/jsz?accounts=1&streams=1")?;
        let name =
            |value: &Value| value["leader"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
        let mut leaders = Leaders { meta: name(&answer["meta_cluster"]), streams: Vec::new() };
        for account in answer["account_details"].as_array().into_iter().flatten() {
            for stream in account["stream_detail"].as_array().into_iter().flatten() {
                let of = stream["name"].as_str().unwrap_or_default().to_owned();
                leaders.streams.push((of, name(&stream["cluster"])));
            }
        }
        Ok(leaders)
    }

    /// Any status: the body says what is wrong.
    fn get(&self, path: &str) -> Result<Value> {
        let mut stream = TcpStream::connect_timeout(&self.0, WITHIN)?;
        stream.set_read_timeout(Some(WITHIN))?;
        stream.set_write_timeout(Some(WITHIN))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.0).as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (_, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
        Ok(serde_json::from_str(body)?)
    }
}
