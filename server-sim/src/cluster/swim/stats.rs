//! What membership counts.

/// What one node's membership has done since it began, and how it is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwimStats {
    /// Packets sent.
    pub packets_sent: u64,
    /// Of these, packets that only carry news; there are none while nothing happens.
    pub gossip_sent: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Packets taken.
    pub packets_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Probes begun.
    pub probes: u64,
    /// Probes without any answer.
    pub probes_failed: u64,
    /// Times others were asked to probe.
    pub indirect_probes: u64,
    /// Times another node became a suspect.
    pub suspicions: u64,
    /// Times a suspect refuted.
    pub refutations: u64,
    /// Times this node refuted.
    pub own_refutations: u64,
    /// Times another node was found dead.
    pub downs: u64,
    /// Of these, suspects whose session was over, so that nobody had to wait for their time.
    pub confirmed: u64,
    /// Of those found dead, by mistake: the same run was back later.
    pub false_downs: u64,
    /// Verdicts of others that came out of the blue and were taken as suspicions.
    pub doubted_verdicts: u64,
    /// Times another node left.
    pub lefts: u64,
    /// Times this node was declared dead by mistake and came back.
    pub returns: u64,
    /// Packets and records that could not be read.
    pub malformed: u64,
    /// Packets and records that were readable and not taken: impossible addresses, more members than there may be.
    pub refused: u64,
    /// Packets that were meant for another node or another run of this one.
    pub misdirected: u64,
    /// Timers that came so late that answers may have been waiting unread.
    pub late_timers: u64,
    /// Local health: 0 is well.
    pub local_health: u32,
    /// Members that answer, this node included.
    pub alive: usize,
    /// Members that are suspected.
    pub suspect: usize,
    /// Members that are dead or have left and are still remembered.
    pub down: usize,
}
