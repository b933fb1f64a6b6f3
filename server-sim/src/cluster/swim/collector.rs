//! What foca wants to be done, collected while it handles one input.

use super::identity::Identity;
use super::signal::Packet;
use bytes::Bytes;
use foca::{Incarnation, Message, Notification, Runtime, Timer};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Collector {
    pub packets: Vec<Packet>,
    pub timers: Vec<(Duration, Timer<Identity>)>,
    /// Who was probed.
    pub pinged: Option<Identity>,
    pub indirect: u64,
    /// Packets that only carry news.
    pub gossip: u64,
    /// Whom a probe has not reached.
    pub failed: Option<Identity>,
    /// Whether others declared this node dead.
    pub defunct: bool,
    /// The highest one that a packet was sent with.
    pub incarnation: Option<Incarnation>,
}

impl Runtime<Identity> for Collector {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::DataSent(header) => {
                self.incarnation = self.incarnation.max(Some(header.src_incarnation));
                match header.message {
                    Message::Ping(_) => self.pinged = Some(header.dst.clone()),
                    Message::PingReq { .. } => self.indirect += 1,
                    Message::Gossip => self.gossip += 1,
                    _ => {}
                }
            }
            Notification::ProbeFailed(_, identity) => self.failed = Some(identity.clone()),
            Notification::Defunct => self.defunct = true,
            // The table tells what changed.
            _ => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.packets.push(Packet { to: to.peer(), bytes: Bytes::copy_from_slice(data) });
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.timers.push((after, event));
    }
}
