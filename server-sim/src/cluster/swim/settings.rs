//! How fast membership notices, and how sure it wants to be.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// How fast nodes notice what happens to others. [`Default`] suits three to eight nodes on one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipSettings {
    /// One other node is probed per interval; default 500 ms. A dead node is first noticed after about two of them.
    pub probe_interval: Duration,
    /// How long a probed node may take before others are asked to probe it; default 150 ms. Less than half of the probe
    /// interval, so that their answers can arrive in it.
    pub roundtrip_timeout: Duration,
    /// How many others are asked; default 3.
    pub indirect_probes: u32,
    /// How often news are sent beside those on probes; default 200 ms.
    pub gossip_interval: Duration,
    /// To how many nodes each time; default 3.
    pub gossip_fanout: u32,
    /// News are sent `retransmit_mult * ceil(ln(nodes + 1))` times, at least 6 times; default 4.
    pub retransmit_mult: u32,
    /// A suspect is dead after `suspicion_mult * ceil(ln(nodes + 1))` probe intervals; default 3, which is 3 s for three to
    /// six nodes.
    pub suspicion_mult: u32,
    /// How often everything is compared with another node, through TCP; default 30 s. More than 32 nodes do it less often.
    pub push_pull_interval: Duration,
    /// How far a node that misses answers, or wakes up late, slows down its own probes and verdicts: up to this many
    /// times more; default 7. 0 switches it off.
    pub max_local_health: u32,
}

impl Default for GossipSettings {
    fn default() -> Self {
        GossipSettings {
            probe_interval: Duration::from_millis(500),
            roundtrip_timeout: Duration::from_millis(150),
            indirect_probes: 3,
            gossip_interval: Duration::from_millis(200),
            gossip_fanout: 3,
            retransmit_mult: 4,
            suspicion_mult: 3,
            push_pull_interval: Duration::from_secs(30),
            max_local_health: 7,
        }
    }
}

/// Below this number of sends news get lost at a few per cent of loss, however small the cluster is.
const MIN_TRANSMISSIONS: u32 = 6;
/// Dead nodes are remembered so long: whoever is older than that cannot come back unnoticed.
pub(super) const REMEMBER_DOWN: Duration = Duration::from_hours(24);
/// How often two dead nodes are called by UDP; the push/pull that dead nodes are tried with comes more often.
const ANNOUNCE: Duration = Duration::from_secs(30);

impl GossipSettings {
    /// Looks for settings that contradict each other.
    ///
    /// # Errors
    /// The setting that is wrong, and what it has to be.
    pub fn check(&self) -> Result<(), String> {
        let ms = |time: Duration| time.as_millis();
        for (name, time) in [
            ("probe-interval", self.probe_interval),
            ("roundtrip-timeout", self.roundtrip_timeout),
            ("gossip-interval", self.gossip_interval),
            ("push-pull-interval", self.push_pull_interval),
        ] {
            if time < Duration::from_millis(1) || time > Duration::from_hours(1) {
                return Err(format!("{name} is {} ms; it has to be 1 ms to 1 hour", ms(time)));
            }
        }
        if self.roundtrip_timeout.saturating_mul(2) >= self.probe_interval {
            return Err(format!(
                "roundtrip-timeout is {} ms; it has to be less than half of probe-interval, {} ms, or indirect probes come too late",
                ms(self.roundtrip_timeout),
                ms(self.probe_interval),
            ));
        }
        for (name, number, most) in [
            ("indirect-probes", self.indirect_probes, 32),
            ("gossip-fanout", self.gossip_fanout, 32),
            ("retransmit-mult", self.retransmit_mult, 32),
            ("suspicion-mult", self.suspicion_mult, 100),
        ] {
            if number == 0 || number > most {
                return Err(format!("{name} is {number}; it has to be 1 to {most}"));
            }
        }
        if self.max_local_health > 32 {
            return Err(format!("max-local-health is {}; it has to be 0 to 32", self.max_local_health));
        }
        Ok(())
    }

    /// How long a suspect of a cluster of so many nodes may take to refute.
    pub fn suspicion(&self, nodes: usize) -> Duration {
        self.probe_interval.saturating_mul(self.suspicion_mult.max(1)).saturating_mul(log(nodes))
    }

    /// How often news are sent in a cluster of so many nodes.
    pub fn transmissions(&self, nodes: usize) -> u8 {
        let sends = self.retransmit_mult.saturating_mul(log(nodes)).max(MIN_TRANSMISSIONS);
        u8::try_from(sends).unwrap_or(u8::MAX)
    }

    /// How often everything is compared in a cluster of so many nodes: memberlist's rule, with which the load of one
    /// node stays the same above 32 nodes.
    pub(super) fn push_pull(&self, nodes: usize) -> Duration {
        let doublings = (nodes.max(1) as f64 / 32.0).log2().ceil().max(0.0) as u32;
        self.push_pull_interval.saturating_mul(doublings + 1)
    }

    /// How often a dead node is asked whether it is back. It is what a partition heals by.
    pub(super) fn reconnect(&self) -> Duration {
        self.probe_interval.saturating_mul(6)
    }

    /// The same in foca's words.
    pub(super) fn of_foca(&self, nodes: usize, max_packet: NonZeroUsize) -> foca::Config {
        let some = |number: u32| NonZeroUsize::new(number as usize).unwrap_or(NonZeroUsize::MIN);
        let every = |frequency, nodes| foca::PeriodicParams { frequency, num_members: some(nodes) };
        foca::Config {
            probe_period: self.probe_interval,
            probe_rtt: self.roundtrip_timeout,
            num_indirect_probes: some(self.indirect_probes),
            max_transmissions: NonZeroU8::new(self.transmissions(nodes)).unwrap_or(NonZeroU8::MAX),
            suspect_to_down_after: self.suspicion(nodes),
            remove_down_after: Some(REMEMBER_DOWN),
            max_packet_size: max_packet,
            notify_down_members: true,
            // Push/pull compares more, and through TCP.
            periodic_announce: None,
            periodic_announce_to_down_members: Some(every(ANNOUNCE, 2)),
            periodic_gossip: Some(every(self.gossip_interval, self.gossip_fanout)),
        }
    }
}

/// ceil(ln(nodes + 1)), at least 1.
fn log(nodes: usize) -> u32 {
    ((nodes as f64 + 1.0).ln().ceil() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspicion_grows_with_the_logarithm_of_the_cluster() {
        let settings = GossipSettings::default();
        let periods = |nodes| settings.suspicion(nodes).as_millis() / 500;
        assert_eq!([1, 3, 5, 6, 7, 8, 16, 64, 128].map(periods), [3, 6, 6, 6, 9, 9, 9, 15, 15]);
    }

    #[test]
    fn news_are_sent_six_times_at_least() {
        let settings = GossipSettings { retransmit_mult: 2, ..Default::default() };
        assert_eq!([1, 3, 8, 128].map(|nodes| settings.transmissions(nodes)), [6, 6, 6, 10]);
        let eager = GossipSettings { retransmit_mult: 32, ..Default::default() };
        assert_eq!(eager.transmissions(usize::MAX / 2), 255);
    }

    #[test]
    fn large_clusters_compare_everything_less_often() {
        let settings = GossipSettings::default();
        let seconds = |nodes| settings.push_pull(nodes).as_secs();
        assert_eq!([1, 32, 33, 64, 65, 128].map(seconds), [30, 30, 60, 60, 90, 90]);
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        assert_eq!(GossipSettings::default().check(), Ok(()));
        let refused = |change: fn(&mut GossipSettings)| {
            let mut settings = GossipSettings::default();
            change(&mut settings);
            settings.check().unwrap_err()
        };
        let text = refused(|s| s.roundtrip_timeout = Duration::from_millis(250));
        assert!(text.contains("roundtrip-timeout is 250 ms") && text.contains("500 ms"), "{text}");
        assert!(refused(|s| s.gossip_interval = Duration::ZERO).contains("gossip-interval is 0 ms"));
        assert!(refused(|s| s.gossip_fanout = 0).contains("gossip-fanout is 0; it has to be 1 to 32"));
        assert!(refused(|s| s.suspicion_mult = 101).contains("suspicion-mult"));
        assert!(refused(|s| s.max_local_health = 33).contains("max-local-health"));
    }
}
