//! The envelope of everything that nodes tell each other about membership.
//!
//! It says which cluster and which store the sender belongs to, which run of which node it is, and for which run of
//! which node it is meant; with a key, all of it is authenticated. So a packet counts once, at one process, and never
//! again: not at a node that was started anew, not at another one.

use super::key::GossipKey;
use super::refusal::Refusal;
use super::replay::Heard;
use crate::cluster::NodeId;
use bytes::{BufMut as _, Bytes, BytesMut};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::time::Instant;

/// Largest datagram: fits into an Ethernet frame with room for tunnels.
pub const MAX_DATAGRAM: usize = 1400;
/// What the envelope adds to its content.
pub const OVERHEAD: usize = HEADER + TAG;
/// Largest content of a datagram.
const MAX_DATAGRAM_CONTENT: usize = MAX_DATAGRAM - OVERHEAD;
const _: () = assert!(crate::cluster::swim::MAX_PACKET <= MAX_DATAGRAM_CONTENT);

const MAGIC: [u8; 4] = *b"HStG";
const VERSION: u8 = 1;
/// Magic, version, kind, cluster, store, sender, receiver, counter.
const HEADER: usize = 4 + 1 + 1 + 8 + 16 + RUN + RUN + 8;
const RUN: usize = 4 + 8;
/// Bytes of the authenticator; half of HMAC-SHA256 (RFC 2104, section 5).
pub(super) const TAG: usize = 16;
/// Bit of the kind that says that there is an authenticator at the end.
const AUTHENTICATED: u8 = 0x80;

/// What an envelope holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A datagram of the failure detector.
    Datagram = 1,
    /// All a node knows, sent to have the same in return.
    Push = 2,
    /// The answer to that.
    Pull = 3,
}

/// One run of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// The node.
    pub id: NodeId,
    /// Which run of it.
    pub generation: u64,
}

/// What was in an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Who sent it.
    pub from: Run,
    /// The content.
    pub content: Bytes,
}

/// An envelope that stays closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub why: Refusal,
    /// Who it claims to be from, as far as it could be read.
    pub sender: Option<NodeId>,
}

/// What distinguishes a cluster from all others, and its key.
#[derive(Debug, Clone)]
pub struct Circle {
    cluster: u64,
    store: u128,
    /// The first is the one to prove with.
    keys: Vec<Hmac<Sha256>>,
}

impl Circle {
    /// Nodes of this cluster over this store, holders of this key.
    pub fn new(cluster_name: &str, store_id: u128, key: Option<&GossipKey>) -> Self {
        let cluster = xxhash_rust::xxh3::xxh3_64(cluster_name.as_bytes());
        // HMAC takes keys of any length.
        let keys = key.into_iter().flat_map(GossipKey::each);
        let keys = keys.filter_map(|key| Hmac::new_from_slice(key).ok()).collect();
        Circle { cluster, store: store_id, keys }
    }

    /// Whether its members authenticate what they say.
    pub fn has_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Authenticates this, or nothing without a key.
    pub fn prove(&self, what: &[u8]) -> Option<[u8; TAG]> {
        let mac = self.keys.first()?.clone().chain_update(what).finalize().into_bytes();
        mac.first_chunk().copied()
    }

    /// Whether `proof` was made from this with one of our keys; compares in constant time.
    pub fn is_proven(&self, what: &[u8], proof: &[u8]) -> bool {
        if self.keys.is_empty() {
            return proof.is_empty();
        }
        let fits = |key: &Hmac<Sha256>| key.clone().chain_update(what).verify_truncated_left(proof).is_ok();
        proof.len() == TAG && self.keys.iter().any(fits)
    }
}

/// Closes and opens the envelopes of one node.
#[derive(Debug)]
pub struct Seal {
    circle: Circle,
    me: Run,
    /// The first generation of this process; packets to all since then are for it.
    first: u64,
    sent: u64,
    heard: Heard,
}

impl Seal {
    /// For a run of a node that has sent nothing yet.
    pub fn new(circle: Circle, me: Run) -> Self {
        Seal { circle, me, first: me.generation, sent: 0, heard: Heard::default() }
    }

    /// Goes on as a later run. What is on its way to an earlier run of this process still counts.
    pub fn renew(&mut self, generation: u64) {
        self.me.generation = self.me.generation.max(generation);
    }

    /// Puts `content` into an envelope that only this run of that node opens, once.
    pub fn close(&mut self, kind: Kind, to: Run, content: &[u8]) -> Bytes {
        self.sent += 1;
        let mut packet = BytesMut::with_capacity(OVERHEAD + content.len());
        packet.put_slice(&MAGIC);
        packet.put_u8(VERSION);
        packet.put_u8(kind as u8 | if self.circle.has_key() { AUTHENTICATED } else { 0 });
        packet.put_u64(self.circle.cluster);
        packet.put_u128(self.circle.store);
        put_run(&mut packet, self.me);
        put_run(&mut packet, to);
        packet.put_u64(self.sent);
        packet.put_slice(content);
        if let Some(tag) = self.circle.prove(&packet) {
            packet.put_slice(&tag);
        }
        packet.freeze()
    }

    /// Opens an envelope of this kind that is meant for this run and was not opened before.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed.
    pub fn open(&mut self, kind: Kind, packet: &Bytes, now: Instant) -> Result<Opened, Refused> {
        let mut sender = None;
        self.check(kind, packet, now, &mut sender).map_err(|why| Refused { why, sender })
    }

    fn check(
        &mut self,
        kind: Kind,
        packet: &Bytes,
        now: Instant,
        sender: &mut Option<NodeId>,
    ) -> Result<Opened, Refusal> {
        let mut header = Fields(packet);
        if header.take::<4>()? != MAGIC {
            return Err(Refusal::Alien);
        }
        if header.take::<1>()? != [VERSION] {
            return Err(Refusal::Version);
        }
        let [flags] = header.take::<1>()?;
        if flags & !AUTHENTICATED != kind as u8 {
            return Err(Refusal::Alien);
        }
        let (cluster, store) = (u64::from_be_bytes(header.take()?), u128::from_be_bytes(header.take()?));
        let (from, to) = (header.run()?, header.run()?);
        let counter = u64::from_be_bytes(header.take()?);
        *sender = Some(from.id);
        // Before the key, which strangers do not have: the reason must be the one that helps.
        if cluster != self.circle.cluster {
            return Err(Refusal::OtherCluster);
        }
        if store != self.circle.store {
            return Err(Refusal::OtherStore);
        }
        let end = match (flags & AUTHENTICATED != 0, self.circle.has_key()) {
            (false, false) => packet.len(),
            (false, true) => return Err(Refusal::NoKey),
            (true, false) => return Err(Refusal::UnexpectedKey),
            (true, true) => {
                let (signed, tag) = packet.split_last_chunk::<TAG>().ok_or(Refusal::Alien)?;
                if !self.circle.is_proven(signed, tag) {
                    return Err(Refusal::WrongKey);
                }
                signed.len()
            }
        };
        if end < HEADER {
            return Err(Refusal::Alien);
        }
        if to.id != self.me.id || !(self.first..=self.me.generation).contains(&to.generation) {
            return Err(Refusal::NotForUs);
        }
        if from.id == self.me.id {
            return Err(Refusal::SameId);
        }
        self.heard.note(from.id, from.generation, counter, now)?;
        Ok(Opened { from, content: packet.slice(HEADER..end) })
    }
}

fn put_run(packet: &mut BytesMut, run: Run) {
    packet.put_u32(run.id.0);
    packet.put_u64(run.generation);
}

/// What is left of a header.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Refusal::Alien)?;
        self.0 = rest;
        Ok(*field)
    }

    fn run(&mut self) -> Result<Run, Refusal> {
        let id = NodeId(u32::from_be_bytes(self.take()?));
        Ok(Run { id, generation: u64::from_be_bytes(self.take()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Run = Run { id: NodeId(1), generation: 100 };
    const BOB: Run = Run { id: NodeId(2), generation: 200 };
    const STORE: u128 = 77;

    fn key(byte: u8) -> GossipKey {
        GossipKey::new(&[byte; 32]).unwrap()
    }

    fn seal(me: Run, cluster: &str, store: u128, key: Option<GossipKey>) -> Seal {
        Seal::new(Circle::new(cluster, store, key.as_ref()), me)
    }

    fn keyed(me: Run) -> Seal {
        seal(me, "c", STORE, Some(key(1)))
    }

    fn open(seal: &mut Seal, packet: &Bytes) -> Result<Bytes, Refusal> {
        let opened = seal.open(Kind::Datagram, packet, Instant::now());
        opened.map(|opened| opened.content).map_err(|refused| refused.why)
    }

    #[test]
    fn what_is_sealed_is_read_by_whom_it_is_for() {
        for key in [None, Some(key(1))] {
            let tagged = key.is_some();
            let (mut alice, mut bob) = (seal(ALICE, "c", STORE, key.clone()), seal(BOB, "c", STORE, key));
            for content in [&b"hello"[..], b"", &[7; MAX_DATAGRAM_CONTENT]] {
                let packet = alice.close(Kind::Datagram, BOB, content);
                assert_eq!(packet.len(), HEADER + content.len() + if tagged { TAG } else { 0 });
                assert!(packet.len() <= MAX_DATAGRAM);
                let opened = bob.open(Kind::Datagram, &packet, Instant::now()).unwrap();
                assert_eq!((opened.from, &opened.content[..]), (ALICE, content));
            }
        }
    }

    #[test]
    fn a_packet_with_any_bit_changed_is_refused() {
        let (mut alice, mut bob) = (keyed(ALICE), keyed(BOB));
        let packet = alice.close(Kind::Datagram, BOB, b"node 3 is down");
        for position in 0..packet.len() {
            for bit in 0..8 {
                let mut altered = packet.to_vec();
                altered[position] ^= 1 << bit;
                let outcome = open(&mut bob, &altered.into());
                assert!(outcome.is_err(), "bit {bit} of byte {position} does not count: {outcome:?}");
            }
        }
        // None of them has used up the counter of the true one.
        assert_eq!(open(&mut bob, &packet).unwrap(), "node 3 is down");
    }

    #[test]
    fn a_packet_that_was_cut_or_made_longer_is_refused() {
        for with_key in [true, false] {
            let key = with_key.then(|| key(1));
            let (mut alice, mut bob) = (seal(ALICE, "c", STORE, key.clone()), seal(BOB, "c", STORE, key));
            let packet = alice.close(Kind::Datagram, BOB, b"node 3 is down");
            // Without a key, what is left of the content cannot be told from a whole one.
            let told_apart = if with_key { packet.len() } else { HEADER };
            for length in 0..told_apart {
                assert!(open(&mut bob, &packet.slice(..length)).is_err(), "{length} bytes, key: {with_key}");
            }
            if with_key {
                let longer = [&packet[..], b"x"].concat();
                assert_eq!(open(&mut bob, &longer.into()), Err(Refusal::WrongKey));
            }
            assert!(open(&mut bob, &packet).is_ok());
        }
    }

    #[test]
    fn a_packet_counts_once_and_at_one_run_of_one_node() {
        let (mut alice, mut bob) = (keyed(ALICE), keyed(BOB));
        let packet = alice.close(Kind::Datagram, BOB, b"x");
        assert!(open(&mut bob, &packet).is_ok());
        assert_eq!(open(&mut bob, &packet), Err(Refusal::Replayed));
        let mut restarted = keyed(Run { generation: 201, ..BOB });
        assert_eq!(open(&mut restarted, &packet), Err(Refusal::NotForUs));
        let mut carol = keyed(Run { id: NodeId(3), ..BOB });
        assert_eq!(open(&mut carol, &packet), Err(Refusal::NotForUs));
        assert_eq!(open(&mut alice, &packet), Err(Refusal::NotForUs));
        let mut double = keyed(Run { generation: 150, ..BOB });
        assert_eq!(open(&mut bob, &double.close(Kind::Datagram, BOB, b"x")), Err(Refusal::SameId));
        let push = alice.close(Kind::Push, BOB, b"x");
        assert_eq!(open(&mut bob, &push), Err(Refusal::Alien));
        assert!(bob.open(Kind::Push, &push, Instant::now()).is_ok());
    }

    #[test]
    fn an_earlier_run_is_not_heard_after_a_later_one() {
        let (mut old, mut bob) = (keyed(ALICE), keyed(BOB));
        let kept_back = old.close(Kind::Datagram, BOB, b"x");
        let mut new = keyed(Run { generation: 101, ..ALICE });
        assert!(open(&mut bob, &new.close(Kind::Datagram, BOB, b"y")).is_ok());
        assert_eq!(open(&mut bob, &kept_back), Err(Refusal::OldRun));
    }

    #[test]
    fn a_new_session_of_the_same_process_still_opens_what_was_on_its_way() {
        let (mut alice, mut bob) = (keyed(ALICE), keyed(BOB));
        let packets = [200, 203, 205, 206, 199]
            .map(|generation| alice.close(Kind::Datagram, Run { generation, ..BOB }, b"x"));
        bob.renew(205);
        let outcomes = packets.map(|packet| open(&mut bob, &packet).err());
        assert_eq!(outcomes, [None, None, None, Some(Refusal::NotForUs), Some(Refusal::NotForUs)]);
        let answer = bob.close(Kind::Datagram, ALICE, b"x");
        let from = alice.open(Kind::Datagram, &answer, Instant::now()).unwrap().from;
        assert_eq!(from, Run { generation: 205, ..BOB });
    }

    #[test]
    fn strangers_are_told_apart_by_what_is_wrong_with_them() {
        let mut bob = keyed(BOB);
        for (mut stranger, why) in [
            (seal(ALICE, "d", STORE, Some(key(1))), Refusal::OtherCluster),
            (seal(ALICE, "d", 78, None), Refusal::OtherCluster),
            (seal(ALICE, "c", 78, Some(key(1))), Refusal::OtherStore),
            (seal(ALICE, "c", STORE, None), Refusal::NoKey),
            (seal(ALICE, "c", STORE, Some(key(2))), Refusal::WrongKey),
        ] {
            let packet = stranger.close(Kind::Datagram, BOB, b"x");
            let refused = bob.open(Kind::Datagram, &packet, Instant::now()).unwrap_err();
            assert_eq!(refused, Refused { why, sender: Some(ALICE.id) });
        }
        let packet = keyed(ALICE).close(Kind::Datagram, BOB, b"x");
        assert_eq!(open(&mut seal(BOB, "c", STORE, None), &packet), Err(Refusal::UnexpectedKey));
        // Taking the authenticator off does not help.
        let mut stripped = packet[..packet.len() - TAG].to_vec();
        stripped[5] &= !AUTHENTICATED;
        assert_eq!(open(&mut bob, &stripped.into()), Err(Refusal::NoKey));
        let mut newer = packet.to_vec();
        newer[4] = 2;
        assert_eq!(open(&mut bob, &newer.into()), Err(Refusal::Version));
        assert_eq!(open(&mut bob, &Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n")), Err(Refusal::Alien));
    }

    #[test]
    fn a_key_is_changed_while_nodes_talk() {
        let ring = |bytes: &[u8]| {
            let keys: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}").repeat(32)).collect();
            keys.join(",").parse::<GossipKey>().unwrap()
        };
        // Old; the new one behind it; the new one first; new. Neighbours understand each other both ways.
        let steps = [&[1][..], &[1, 2], &[2, 1], &[2]].map(ring);
        let hears = |from: usize, to: usize| {
            let packet = seal(ALICE, "c", STORE, Some(steps[from].clone())).close(Kind::Datagram, BOB, b"x");
            open(&mut seal(BOB, "c", STORE, Some(steps[to].clone())), &packet).is_ok()
        };
        for step in 0..3 {
            assert!(hears(step, step + 1) && hears(step + 1, step), "{step}");
        }
        assert!(!hears(0, 3) && !hears(3, 0) && !hears(2, 0));
    }

    #[test]
    fn a_key_does_not_show_in_what_holds_it() {
        let circle = Circle::new("c", 1, Some(&GossipKey::new(b"0123456789abcdef").unwrap()));
        let shown = format!("{circle:?}");
        assert!(!shown.contains("48, 49") && !shown.contains("0123"), "{shown}");
    }

    mod fuzz {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn no_bytes_make_it_panic_and_none_get_in(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
                let mut bob = keyed(BOB);
                let mut framed = b"HStG\x01\x81".to_vec();
                framed.extend(&bytes);
                prop_assert!(open(&mut bob, &bytes.into()).is_err());
                prop_assert!(open(&mut bob, &framed.into()).is_err());
            }
        }
    }
}
