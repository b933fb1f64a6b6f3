//! Two nodes tell each other who they are before one tells the other anything else.
//!
//! Strangers part here, with a sentence about what is different. With a key nobody can pretend to be a node: the proof
//! covers everything that was said, and the answer's covers the nonce of the question.

use super::refusal::Refusal;
use super::seal::{Circle, Run};
use crate::cluster::NodeId;
use bytes::{BufMut as _, Bytes, BytesMut};
use hstreamdb_proto::internal::{HelloRequest, HelloResponse, Introduction};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a nonce.
const NONCE: usize = 16;
/// Longest name of a cluster that is looked at.
const MAX_NAME: usize = 256;

const QUESTION: &[u8] = b"HStG question";
const ANSWER: &[u8] = b"HStG answer";

/// A node as it introduces itself.
#[derive(Debug)]
pub struct Myself {
    id: NodeId,
    first_generation: u64,
    generation: AtomicU64,
    internal: SocketAddr,
    cluster_name: String,
    store_id: u128,
    circle: Circle,
}

/// A node of the same cluster that introduced itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Which run of which node.
    pub run: Run,
    /// Where it gossips.
    pub internal: SocketAddr,
}

/// Why somebody who introduced itself is none of us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Why, in short.
    pub why: Refusal,
    /// Its number, as it says.
    pub id: NodeId,
    /// What is different, as the end of a sentence about it.
    pub difference: String,
}

impl Myself {
    /// This run of this node, gossiping at `internal`, of that cluster over that store.
    pub fn new(me: Run, internal: SocketAddr, cluster_name: String, store_id: u128, circle: Circle) -> Self {
        let Run { id, generation: first_generation } = me;
        let generation = AtomicU64::new(first_generation);
        Myself { id, first_generation, generation, internal, cluster_name, store_id, circle }
    }

    /// Which run of which node it is now.
    pub fn run(&self) -> Run {
        Run { id: self.id, generation: self.generation.load(Ordering::Acquire) }
    }

    /// Goes on as a later run; whether it is a later one.
    pub fn renew(&self, generation: u64) -> bool {
        self.generation.fetch_max(generation, Ordering::AcqRel) < generation
    }

    /// Whether this process is or was that run.
    pub fn is_me(&self, run: Run) -> bool {
        run.id == self.id && (self.first_generation..=self.run().generation).contains(&run.generation)
    }

    /// The question, with a nonce that was never used before.
    pub fn ask(&self, nonce: [u8; NONCE]) -> HelloRequest {
        let from = self.introduction();
        let proof = self.prove(&statement(QUESTION, &from, "", &nonce));
        HelloRequest { from: Some(from), nonce: Bytes::copy_from_slice(&nonce), proof }
    }

    /// Who asks.
    ///
    /// # Errors
    /// [`Stranger`].
    pub fn hear(&self, question: &HelloRequest) -> Result<Peer, Stranger> {
        let from = question.from.as_ref();
        self.recognize(from, &question.proof, |from| statement(QUESTION, from, "", &question.nonce))
    }

    /// The answer to a question; `taken_by` is where another living node has the asking one's number.
    pub fn answer(&self, question: &HelloRequest, taken_by: Option<SocketAddr>) -> HelloResponse {
        let from = self.introduction();
        let taken_by = taken_by.map(|address| address.to_string()).unwrap_or_default();
        let proof = self.prove(&statement(ANSWER, &from, &taken_by, &question.nonce));
        HelloResponse { from: Some(from), taken_by, proof }
    }

    /// Who answers the question with this nonce.
    ///
    /// # Errors
    /// [`Stranger`].
    pub fn hear_answer(&self, answer: &HelloResponse, nonce: [u8; NONCE]) -> Result<Peer, Stranger> {
        let from = answer.from.as_ref();
        self.recognize(from, &answer.proof, |from| statement(ANSWER, from, &answer.taken_by, &nonce))
    }

    fn introduction(&self) -> Introduction {
        let run = self.run();
        Introduction {
            id: run.id.0,
            generation: run.generation,
            address: self.internal.to_string(),
            cluster: self.cluster_name.clone(),
            store: Bytes::copy_from_slice(&self.store_id.to_be_bytes()),
            keyed: self.circle.has_key(),
        }
    }

    fn prove(&self, statement: &[u8]) -> Bytes {
        self.circle.prove(statement).map(|proof| Bytes::copy_from_slice(&proof)).unwrap_or_default()
    }

    fn recognize(
        &self,
        from: Option<&Introduction>,
        proof: &[u8],
        statement: impl FnOnce(&Introduction) -> Bytes,
    ) -> Result<Peer, Stranger> {
        let id = NodeId(from.map(|from| from.id).unwrap_or_default());
        let stranger = |why: Refusal, difference: String| Stranger { why, id, difference };
        let internal = from.and_then(|from| from.address.parse::<SocketAddr>().ok());
        let (Some(from), Some(internal)) = (from, internal) else {
            let text = "did not introduce itself; it runs another release, or is no node";
            return Err(stranger(Refusal::Malformed, text.to_owned()));
        };
        if from.cluster != self.cluster_name {
            let theirs: String = from.cluster.chars().take(MAX_NAME).collect();
            return Err(stranger(
                Refusal::OtherCluster,
                format!(
                    "belongs to the cluster {theirs:?} and this node to {:?}; give both the same cluster name, or \
                     different seeds",
                    self.cluster_name
                ),
            ));
        }
        if from.store[..] != self.store_id.to_be_bytes() {
            return Err(stranger(
                Refusal::OtherStore,
                "is a node over another store; every node of a cluster must use the same store, nodes with \
                 separate data directories are separate servers"
                    .to_owned(),
            ));
        }
        let key = match (from.keyed, self.circle.has_key()) {
            (false, true) => Some((Refusal::NoKey, "has no gossip key and this node has one")),
            (true, false) => Some((Refusal::UnexpectedKey, "has a gossip key and this node has none")),
            _ if !self.circle.is_proven(&statement(from), proof) => {
                Some((Refusal::WrongKey, "has another gossip key than this node"))
            }
            _ => None,
        };
        if let Some((why, difference)) = key {
            return Err(stranger(why, format!("{difference}; give every node the same key")));
        }
        Ok(Peer { run: Run { id, generation: from.generation }, internal })
    }
}

/// What a proof covers; each field that varies in length has its length in front.
fn statement(kind: &[u8], from: &Introduction, taken_by: &str, nonce: &[u8]) -> Bytes {
    let mut text = BytesMut::new();
    text.put_u32(from.id);
    text.put_u64(from.generation);
    text.put_u8(from.keyed.into());
    let fields: [&[u8]; 6] =
        [kind, from.address.as_bytes(), from.cluster.as_bytes(), &from.store, taken_by.as_bytes(), nonce];
    for field in fields {
        text.put_u64(field.len() as u64);
        text.put_slice(field);
    }
    text.freeze()
}

#[cfg(test)]
mod tests {
    use super::super::key::GossipKey;
    use super::*;

    fn node(id: u32, cluster: &str, store: u128, key: Option<u8>) -> Myself {
        let key = key.map(|byte| GossipKey::new(&[byte; 16]).unwrap());
        let run = Run { id: NodeId(id), generation: u64::from(id) * 100 };
        let circle = Circle::new(cluster, store, key.as_ref());
        Myself::new(run, SocketAddr::from(([10, 0, 0, 1], 6571)), cluster.to_owned(), store, circle)
    }

    #[test]
    fn nodes_of_one_cluster_recognize_each_other() {
        for key in [None, Some(1)] {
            let (alice, bob) = (node(1, "c", 7, key), node(2, "c", 7, key));
            let question = alice.ask([5; 16]);
            assert_eq!(bob.hear(&question).unwrap(), Peer { run: alice.run(), internal: alice.internal });
            let answer = bob.answer(&question, None);
            assert_eq!(alice.hear_answer(&answer, [5; 16]).unwrap().run, bob.run());
        }
    }

    #[test]
    fn a_node_knows_itself_under_all_its_sessions() {
        let alice = node(1, "c", 7, None);
        assert!(alice.renew(105) && !alice.renew(104) && !alice.renew(105));
        let is_me = |id, generation| alice.is_me(Run { id: NodeId(id), generation });
        assert_eq!(
            [99, 100, 103, 105, 106].map(|generation| is_me(1, generation)),
            [false, true, true, true, false]
        );
        assert!(!is_me(2, 103));
        assert_eq!(alice.ask([0; 16]).from.unwrap().generation, 105);
    }

    #[test]
    fn strangers_learn_what_is_different_on_both_sides() {
        let alice = node(1, "c", 7, Some(1));
        for (bob, here, there, words) in [
            (node(2, "d", 7, Some(1)), Refusal::OtherCluster, Refusal::OtherCluster, "\"d\""),
            (node(2, "c", 8, Some(1)), Refusal::OtherStore, Refusal::OtherStore, "use the same store"),
            (node(2, "c", 7, None), Refusal::NoKey, Refusal::UnexpectedKey, "no gossip key"),
            (node(2, "c", 7, Some(2)), Refusal::WrongKey, Refusal::WrongKey, "another gossip key"),
        ] {
            let question = alice.ask([5; 16]);
            assert_eq!(bob.hear(&question).unwrap_err().why, there);
            let stranger = alice.hear_answer(&bob.answer(&question, None), [5; 16]).unwrap_err();
            assert_eq!((stranger.why, stranger.id), (here, NodeId(2)));
            assert!(stranger.difference.contains(words), "{}", stranger.difference);
        }
        let nobody = HelloRequest::default();
        assert_eq!(alice.hear(&nobody).unwrap_err().why, Refusal::Malformed);
    }

    #[test]
    fn with_a_key_nothing_in_an_answer_can_be_changed() {
        let (alice, bob) = (node(1, "c", 7, Some(1)), node(2, "c", 7, Some(1)));
        let question = alice.ask([5; 16]);
        let answer = bob.answer(&question, None);
        let refused = |change: &dyn Fn(&mut HelloResponse, &mut Introduction)| {
            let mut altered = answer.clone();
            let mut from = altered.from.take().unwrap();
            change(&mut altered, &mut from);
            altered.from = Some(from);
            alice.hear_answer(&altered, [5; 16]).unwrap_err().why
        };
        assert_eq!(refused(&|_, from| from.generation += 1), Refusal::WrongKey);
        assert_eq!(refused(&|_, from| from.id += 1), Refusal::WrongKey);
        assert_eq!(refused(&|_, from| from.address = "10.0.0.2:6571".to_owned()), Refusal::WrongKey);
        assert_eq!(refused(&|answer, _| answer.taken_by = "10.0.0.2:6571".to_owned()), Refusal::WrongKey);
        assert_eq!(refused(&|answer, _| answer.proof = Bytes::new()), Refusal::WrongKey);
        assert_eq!(refused(&|answer, _| answer.proof.truncate(1)), Refusal::WrongKey);
        // An answer to somebody else's question.
        assert_eq!(alice.hear_answer(&answer, [6; 16]).unwrap_err().why, Refusal::WrongKey);
        // A question is no answer.
        let echo = HelloResponse {
            from: question.from.clone(),
            taken_by: String::new(),
            proof: question.proof.clone(),
        };
        assert_eq!(alice.hear_answer(&echo, [5; 16]).unwrap_err().why, Refusal::WrongKey);
    }
}
