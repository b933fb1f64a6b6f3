//! Whatever happens in whatever order, all agree in the end.

use crate::cluster::swim::sim::{Op, World, id_of};
use crate::cluster::swim::{Event, GossipSettings};
use crate::cluster::{MemberState, NodeId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const NODES: usize = 5;

fn op() -> impl Strategy<Value = Op> {
    let node = 0..NODES;
    let some = prop::collection::vec(0..NODES, 1..3);
    prop_oneof![
        2 => node.clone().prop_map(Op::Start),
        2 => node.clone().prop_map(Op::Crash),
        2 => node.clone().prop_map(Op::Pause),
        2 => node.clone().prop_map(Op::Resume),
        1 => node.prop_map(Op::Leave),
        2 => some.prop_map(Op::CutOff),
        2 => Just(Op::Heal),
        1 => (0.0..0.3).prop_map(Op::Loss),
        6 => (100_u64..9000).prop_map(|ms| Op::Wait(Duration::from_millis(ms))),
    ]
}

/// What must hold at every moment.
#[derive(Default)]
struct Watched {
    /// By observer and node: the highest generation seen, and the last that left.
    newest: BTreeMap<(usize, NodeId), u64>,
    left: BTreeMap<(usize, NodeId), u64>,
}

impl Watched {
    fn look(&mut self, world: &World) {
        for node in world.up() {
            for member in world.view(node).nodes.values() {
                let key = (node, member.id);
                let newest = self.newest.entry(key).or_default();
                assert!(member.generation >= *newest, "an older run of node {} is back", member.id);
                *newest = member.generation;
                match member.state {
                    MemberState::Left => {
                        self.left.insert(key, member.generation);
                    }
                    MemberState::Down => {}
                    MemberState::Alive | MemberState::Suspect => {
                        let left = self.left.get(&key);
                        assert_ne!(left, Some(&member.generation), "node {} left and is here", member.id);
                    }
                }
            }
        }
    }

    /// A new process knows nothing of what the old one saw.
    fn forget(&mut self, node: usize) {
        self.newest.retain(|(observer, _), _| *observer != node);
        self.left.retain(|(observer, _), _| *observer != node);
    }
}

fn play(ops: Vec<Op>, seed: u64) {
    let mut world = World::settled(NODES, GossipSettings::default(), seed);
    let mut watched = Watched::default();
    for op in ops {
        if let Op::Start(node) | Op::Crash(node) | Op::Leave(node) = op {
            watched.forget(node);
        }
        let end = match op {
            Op::Wait(time) => world.now + time,
            op => {
                world.perform(op);
                world.now
            }
        };
        while world.now < end {
            world.run(Duration::from_millis(250).min(end - world.now));
            watched.look(&world);
        }
    }
    world.play([Op::Heal, Op::Loss(0.0)]);
    (0..NODES).for_each(|node| world.perform(Op::Resume(node)));
    // Who started while it could reach nobody asks again, as the runtime does for it.
    for node in world.up() {
        world.join(node);
    }
    let agreed = world.periods_until(300, World::all_agree);
    assert!(agreed, "they do not agree after 300 periods: {}", world.opinions());
    let end = world.now;
    for _ in 0..40 {
        world.run(Duration::from_millis(500));
        watched.look(&world);
    }
    assert!(world.all_agree(), "they agreed and do not any more: {}", world.opinions());
    // Suspects that are dead are still found dead; nobody who is there is.
    let up: Vec<NodeId> = world.up().into_iter().map(id_of).collect();
    let late = world.noticed(end, |event| matches!(event, Event::Down(peer) if up.contains(&peer.id)));
    assert!(late.is_empty(), "{late:?}");
    // Everybody knows everybody's latest run.
    for node in world.up() {
        for other in world.up() {
            let seen = world.view(node).get(id_of(other)).map(|member| member.generation);
            assert_eq!(seen, Some(world.generation(other)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_agree_in_the_end(ops in prop::collection::vec(op(), 1..25), seed in 0_u64..1000) {
        play(ops, seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[ignore = "minutes; run it when the protocol or its settings change"]
    fn all_agree_after_a_thousand_schedules(ops in prop::collection::vec(op(), 1..40), seed in 0_u64..100_000) {
        play(ops, seed);
    }
}

/// Found by the thousand.
#[test]
fn who_comes_back_does_not_take_an_older_run_for_the_latest() {
    let ms = |ms| Op::Wait(Duration::from_millis(ms));
    let cut_off = |nodes: &[usize]| Op::CutOff(nodes.to_vec());
    play(
        vec![
            cut_off(&[2, 0]),
            Op::Start(4),
            Op::Leave(4),
            ms(1570),
            ms(877),
            ms(1922),
            cut_off(&[3]),
            ms(100),
        ],
        12492,
    );
}
