//! What a node may do about a resource, given what it knows. No waiting, no I/O.

use super::record::{Holder, OwnerRecord};
use crate::cluster::NodeId;

/// What this node knows about the others.
pub(super) trait View {
    /// This node.
    fn me(&self) -> NodeId;
    /// Whether what a node owns may be given to others.
    fn is_gone(&self, node: NodeId) -> bool;
    /// Where the resource goes if nobody has it.
    fn favourite(&self) -> Option<NodeId>;
    /// This node is about to stop and takes nothing.
    fn draining(&self) -> bool;
}

/// What to do when asked to serve a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Another node serves it, or is to.
    Elsewhere(NodeId),
    /// Nobody can take it.
    NoTaker,
    /// Serve it, once this session is over.
    Take(Option<Holder>),
    /// It is ours and we may not take it: give it to that node.
    PassOn(NodeId),
}

/// Where a resource is as the record has it, if that node is there and keeps it.
pub(super) fn stays(record: Option<&OwnerRecord>, view: &impl View) -> Option<NodeId> {
    let node = record?.node;
    let there = if node == view.me() { !view.draining() } else { !view.is_gone(node) };
    there.then_some(node)
}

/// Where a resource is, without changing anything.
pub(super) fn whereabouts(record: Option<&OwnerRecord>, view: &impl View) -> Option<NodeId> {
    if let Some(node) = stays(record, view) {
        return Some(node);
    }
    match record {
        Some(record) => view.favourite().or((record.node == view.me()).then_some(record.node)),
        None => view.favourite(),
    }
}

/// What this node does when it is asked to serve a resource it does not serve now. With `insist` it takes what nobody has
/// although it would place it elsewhere: another node, which may know better, has sent the call here.
pub(super) fn decide(record: Option<&OwnerRecord>, view: &impl View, insist: bool) -> Decision {
    let me = view.me();
    let holder = record.and_then(OwnerRecord::holder);
    if let Some(record) = record {
        if record.node == me {
            return match view.favourite().filter(|&other| view.draining() && other != me) {
                Some(other) => Decision::PassOn(other),
                None => Decision::Take(holder),
            };
        }
        if !view.is_gone(record.node) {
            return Decision::Elsewhere(record.node);
        }
    }
    match view.favourite() {
        _ if insist && !view.draining() => Decision::Take(holder),
        Some(favourite) if favourite == me => Decision::Take(holder),
        Some(favourite) => Decision::Elsewhere(favourite),
        None => Decision::NoTaker,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    struct Known {
        gone: &'static [u32],
        favourite: Option<u32>,
        draining: bool,
    }

    impl View for Known {
        fn me(&self) -> NodeId {
            NodeId(1)
        }
        fn is_gone(&self, node: NodeId) -> bool {
            self.gone.contains(&node.0)
        }
        fn favourite(&self) -> Option<NodeId> {
            self.favourite.map(NodeId)
        }
        fn draining(&self) -> bool {
            self.draining
        }
    }

    fn claimed(node: u32) -> OwnerRecord {
        OwnerRecord::claimed(4, Holder { node: NodeId(node), session: 9, lease_ms: 3000 })
    }

    #[test]
    fn a_stored_owner_stays_until_it_is_gone() {
        let holder = claimed(2).holder();
        let known = Known { gone: &[], favourite: Some(1), draining: false };
        let gone = Known { gone: &[2], ..known };
        let other = Known { favourite: Some(3), ..gone };
        let nobody = Known { favourite: None, ..gone };
        let two = claimed(2);
        assert_eq!(decide(Some(&two), &known, false), Decision::Elsewhere(NodeId(2)));
        assert_eq!(decide(Some(&two), &known, true), Decision::Elsewhere(NodeId(2)));
        assert_eq!(decide(Some(&two), &gone, false), Decision::Take(holder));
        assert_eq!(decide(Some(&two), &other, false), Decision::Elsewhere(NodeId(3)));
        assert_eq!(decide(Some(&two), &other, true), Decision::Take(holder));
        assert_eq!(decide(Some(&two), &nobody, false), Decision::NoTaker);
        assert_eq!(whereabouts(Some(&two), &known), Some(NodeId(2)));
        assert_eq!(whereabouts(Some(&two), &gone), Some(NodeId(1)));
        assert_eq!(whereabouts(Some(&two), &nobody), None);
    }

    #[test]
    fn what_nobody_has_goes_to_its_favourite_or_to_whoever_is_sent_it() {
        let known = Known { gone: &[], favourite: Some(3), draining: false };
        assert_eq!(decide(None, &known, false), Decision::Elsewhere(NodeId(3)));
        assert_eq!(decide(None, &known, true), Decision::Take(None));
        assert_eq!(decide(None, &Known { favourite: Some(1), ..known }, false), Decision::Take(None));
        assert_eq!(decide(None, &Known { favourite: None, ..known }, false), Decision::NoTaker);
        assert_eq!(whereabouts(None, &known), Some(NodeId(3)));
    }

    #[test]
    fn what_is_ours_is_taken_again_or_passed_on_before_a_stop() {
        let one = claimed(1);
        let known = Known { gone: &[1], favourite: Some(3), draining: false };
        assert_eq!(
            decide(Some(&one), &known, false),
            Decision::Take(one.holder()),
            "a rumour of our own death"
        );
        assert_eq!(whereabouts(Some(&one), &known), Some(NodeId(1)));
        let draining = Known { draining: true, ..known };
        assert_eq!(decide(Some(&one), &draining, true), Decision::PassOn(NodeId(3)));
        assert_eq!(whereabouts(Some(&one), &draining), Some(NodeId(3)));
        assert_eq!(decide(None, &draining, true), Decision::Elsewhere(NodeId(3)));
        let last = Known { favourite: None, ..draining };
        assert_eq!(decide(Some(&one), &last, false), Decision::Take(one.holder()), "nobody else is there");
        assert_eq!(whereabouts(Some(&one), &last), Some(NodeId(1)));
        assert_eq!(decide(None, &last, true), Decision::NoTaker);
    }
}
