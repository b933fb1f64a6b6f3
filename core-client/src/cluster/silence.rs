//! Nodes that fall silent: a call that waits is not left to its deadline when its node says nothing at all and another
//! one is there.
//!
//! A dead machine, a frozen process and a broken path look alike: no reset, no end, no answer. What tells them from a node
//! that is only slow is that a slow one says something, on the same connection, when it is asked something easy.

use super::{Cluster, NodeAddress, line::Line, pool::Contact};
use crate::error::{Error, ErrorKind, Result};
use hstreamdb_proto::api::EchoRequest;
use std::{pin::pin, time::Duration};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// A session of a consumer is dearer than a call: its records come again. And nothing is gained by leaving it earlier, as
/// the cluster takes seconds to give the subscription to another node.
const SESSION_FACTOR: u32 = 3;
/// Connecting takes several round trips where TLS is spoken.
const CONNECT_FACTOR: u32 = 2;
/// A line is given this many of its round trips, where that is more.
const ROUND_TRIPS: u32 = 4;
/// A call that takes long is asked about ever more seldom, at last after this many times the first pause.
const SELDOM: u32 = 8;

/// What a silent node means for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It is repeated elsewhere as soon as the node is silent.
    Brief,
    /// The same, after some more time.
    Session,
    /// It must not be repeated, or nobody else could answer: it waits for its deadline. Others learn of the silence.
    Stays,
}

impl Cluster {
    /// The outcome of a call that is under way on `contact`, unless its node falls silent before it comes and the call
    /// may be repeated at another node.
    ///
    /// # Errors
    /// `Unavailable` when the call was left; it may have been applied. The node is suspect then.
    pub(crate) async fn answered<F: Future>(
        &self,
        node: &NodeAddress,
        contact: &Contact,
        patience: Patience,
        call: F,
    ) -> Result<F::Output> {
        let mut call = pin!(call);
        let limit = self.silence_limit(patience);
        let started = Instant::now();
        let mut news = self.0.members.news();
        let mut since = started;
        // Whether the node was found silent on this line before.
        let mut found = false;
        loop {
            tokio::select! {
                biased;
                answer = &mut call => {
                    contact.line.took(started.elapsed());
                    return Ok(answer);
                }
                () = self.silence(contact, since, limit) => {}
            }
            // It has answered meanwhile, and not here.
            let line_is_dead = found && !self.is_suspect(node);
            let error = silent(node, contact.line.patience(limit));
            self.mark_suspect(node, &error);
            found = true;
            loop {
                if patience != Patience::Stays && (line_is_dead || self.has_other(node)) {
                    return Err(error);
                }
                tokio::select! {
                    biased;
                    answer = &mut call => return Ok(answer),
                    changed = news.changed() => if changed.is_err() { return Ok(call.await) },
                }
                if !self.is_suspect(node) {
                    break;
                }
            }
            since = Instant::now();
        }
    }

    fn silence_limit(&self, patience: Patience) -> Duration {
        let limit = self.settings().silence_timeout;
        match patience {
            Patience::Brief | Patience::Stays => limit,
            Patience::Session => limit.saturating_mul(SESSION_FACTOR),
        }
    }

    /// Resolves when nothing was heard on the line for the limit, although it was asked in the middle of it. All who wait on
    /// the line ask once.
    async fn silence(&self, contact: &Contact, since: Instant, limit: Duration) {
        if limit.is_zero() {
            return std::future::pending().await;
        }
        let line = &contact.line;
        let half = line.patience(limit) / 2;
        let mut pause = half;
        loop {
            let from = line.hearing().heard().max(since);
            sleep_until(from + pause).await;
            if line.hearing().heard() > from {
                continue;
            }
            let (asked, first) = line.hearing().ask_once(from);
            if first {
                self.ask(contact);
            }
            sleep_until(asked + half).await;
            // Late ourselves: what came meanwhile may not have been read yet.
            if asked.elapsed() > half + half / 2 {
                sleep(half).await;
            }
            if line.hearing().heard() <= from {
                return;
            }
            pause = (pause * 2).min(half * SELDOM);
        }
    }

    /// Any answer will do, and whoever waits on the line hears it.
    fn ask(&self, contact: &Contact) {
        self.metrics().line_checks.add(1);
        let (mut client, limit) = (contact.client.clone(), self.request_timeout());
        tokio::spawn(async move {
            let _ = timeout(limit, client.echo(EchoRequest { msg: String::new() })).await;
        });
    }

    /// The connection, unless it takes so long that another node is the better choice. It is made all the same.
    pub(super) async fn reached<T>(
        &self,
        node: &NodeAddress,
        connecting: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let limit = self.settings().silence_timeout.saturating_mul(CONNECT_FACTOR);
        if limit.is_zero() {
            return connecting.await;
        }
        let mut news = self.0.members.news();
        let mut connecting = pin!(connecting);
        if let Ok(connected) = timeout(limit, &mut connecting).await {
            return connected;
        }
        while !self.has_other(node) {
            tokio::select! {
                biased;
                connected = &mut connecting => return connected,
                changed = news.changed() => if changed.is_err() { return connecting.await },
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "connect")
            .with_node(node)
            .with_message(format!("no connection within {limit:?}, and another node is there"))
            .with_transport(true))
    }

    /// Resolves when one who listens on the line for what the node may say at any time should ask it for a word: nothing
    /// was heard of it over any line for the check interval, or something else failed on the way to it.
    ///
    /// Of all who listen to a silent node one asks, so the cost is one small call per node and interval. All of them ask
    /// once it is suspect, each over its own line.
    pub(crate) async fn owes_a_word(&self, node: &NodeAddress, line: &Line) {
        let interval = self.settings().node_check_interval;
        if interval.is_zero() {
            return std::future::pending().await;
        }
        let mut news = self.0.members.news();
        let hearing = line.node_hearing();
        loop {
            if self.is_suspect(node) {
                return;
            }
            let due = hearing.heard_or_asked() + interval;
            tokio::select! {
                () = sleep_until(due) => {
                    if hearing.heard_or_asked() + interval <= Instant::now() && hearing.ask_once(due).1 {
                        return;
                    }
                }
                changed = news.changed() => if changed.is_err() { return std::future::pending().await },
            }
        }
    }
}

fn silent(node: &NodeAddress, limit: Duration) -> Error {
    Error::new(ErrorKind::Unavailable, "call")
        .with_node(node)
        .with_message(format!("not a sign of life within {limit:?}, not even an echo"))
        .with_may_have_been_applied(true)
        .with_transport(true)
}

impl Line {
    /// How long it may be silent, if it may be for `limit` where answers come quickly.
    fn patience(&self, limit: Duration) -> Duration {
        limit.max(self.round_trip().saturating_mul(ROUND_TRIPS))
    }
}
