//! Where something goes that nobody owns: rendezvous hashing.
//!
//! Each node scores the key together with its own number; the highest score wins. When a node goes, what it had spreads
//! over all others and nothing else moves. The hash is part of what nodes of different releases must agree on.

use super::resource::Resource;
use crate::cluster::NodeId;
use xxhash_rust::xxh3::xxh3_64;

/// The node, out of `nodes`, for a key. `None` if there are no nodes.
pub fn place(key: &str, nodes: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    let mut bytes = Vec::with_capacity(4 + key.len());
    nodes.into_iter().max_by_key(|&node| {
        bytes.clear();
        bytes.extend(node.0.to_le_bytes());
        bytes.extend(key.as_bytes());
        (xxh3_64(&bytes), node)
    })
}

/// The node, out of `nodes`, for a resource.
pub fn place_resource(resource: &Resource, nodes: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    place(&resource.key(), nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(count: u32) -> impl Iterator<Item = NodeId> + Clone {
        (1..=count).map(NodeId)
    }

    /// Nodes of different releases must place alike.
    #[test]
    fn the_hash_never_changes() {
        let placed = |key: &str, count| place(key, nodes(count)).map(|node| node.0);
        // As the reference implementation has it.
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(xxh3_64(b"\x01\0\0\0a"), 0xeeca_542e_bdc7_4773, "node 1, key \"a\"");
        let golden = [
            ("", [1, 6, 55]),
            ("a", [1, 1, 67]),
            ("orders", [1, 8, 24]),
            ("owner/subscription/billing", [2, 6, 18]),
            ("1000000000000000001", [2, 2, 45]),
            ("ключ", [2, 6, 61]),
        ];
        for (key, expected) in golden {
            assert_eq!([3, 8, 128].map(|count| placed(key, count)), expected.map(Some), "{key:?}");
        }
        assert_eq!(place("a", []), None);
    }

    #[test]
    fn what_a_node_had_spreads_over_the_others_and_nothing_else_moves() {
        const KEYS: usize = 20_000;
        for (count, share) in [(3, 33.3), (5, 20.0), (9, 11.1)] {
            for gone in nodes(count) {
                let mut moved = 0;
                for key in 0..KEYS {
                    let key = format!("subscription-{key}");
                    let before = place(&key, nodes(count));
                    let after = place(&key, nodes(count).filter(|&node| node != gone));
                    if before == Some(gone) {
                        moved += 1;
                        assert_ne!(after, Some(gone));
                    } else {
                        assert_eq!(before, after, "{key} moved though its node is there");
                    }
                }
                let percent = moved as f64 * 100.0 / KEYS as f64;
                assert!((percent - share).abs() < 1.5, "{percent:.1} % moved when {gone} of {count} went");
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_of_the_nodes_does_not_matter(
            key in ".*",
            mut ids in proptest::collection::vec(any::<u32>(), 1..20),
        ) {
            let one = place(&key, ids.iter().copied().map(NodeId));
            ids.reverse();
            prop_assert_eq!(one, place(&key, ids.iter().copied().map(NodeId)));
            prop_assert!(one.is_some());
        }

        #[test]
        fn a_new_node_takes_things_and_nothing_moves_between_others(
            key in ".*",
            ids in proptest::collection::btree_set(any::<u32>(), 1..20),
            new in any::<u32>(),
        ) {
            let before = place(&key, ids.iter().copied().map(NodeId));
            let after = place(&key, ids.iter().copied().chain([new]).map(NodeId));
            prop_assert!(after == before || after == Some(NodeId(new)));
        }
    }
}
