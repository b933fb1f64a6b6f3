//! Nodes that are thought dead and are not.

use crate::cluster::MemberState;
use crate::cluster::swim::sim::{Op, World, id_of};
use crate::cluster::swim::{Event, GossipSettings, Input};
use std::time::Duration;

fn settled(nodes: usize, seed: u64) -> World {
    World::settled(nodes, GossipSettings::default(), seed)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn is_down(event: Event) -> bool {
    matches!(event, Event::Down(_))
}

#[test]
fn a_suspicion_is_refuted() {
    for seed in 0..10 {
        let mut world = settled(5, seed);
        world.play([Op::CutOff(vec![2])]);
        assert!(world.run_until(seconds(10), |world| {
            (0..5).any(|node| node != 2 && world.sees(node, 2) == Some(MemberState::Suspect))
        }));
        world.perform(Op::Heal);
        assert!(world.periods_until(20, World::all_agree), "seed {seed}");
        world.run(seconds(30));
        assert!(world.all_agree() && world.noticed(Duration::ZERO, is_down).is_empty(), "seed {seed}");
        let refuted = world
            .noticed(Duration::ZERO, |event| matches!(event, Event::Refuted(peer) if peer.id == id_of(2)));
        assert!(!refuted.is_empty() && world.membership(2).stats().own_refutations > 0, "seed {seed}");
        assert_eq!(world.membership(2).stats().returns, 0, "seed {seed}");
    }
}

#[test]
fn a_node_that_stops_for_long_is_dead_and_returns_by_itself() {
    for seed in 0..10 {
        let mut world = settled(5, seed);
        let generation = world.view(0).get(id_of(1)).unwrap().generation;
        world.perform(Op::Pause(1));
        assert!(world.run_until(seconds(5), |world| world.sees(0, 1) == Some(MemberState::Suspect)));
        assert!(world.run_until(seconds(15), |world| world.all_see(1, MemberState::Down)));
        world.run(seconds(10));
        let woken = world.now;
        world.perform(Op::Resume(1));
        assert!(world.periods_until(10, World::all_agree), "seed {seed}");
        world.run(seconds(60));
        assert!(world.all_agree(), "seed {seed}");
        assert_eq!(world.noticed(woken, is_down), [], "seed {seed}: nobody is dead now");
        assert_eq!(world.view(0).get(id_of(1)).unwrap().generation, generation);
        let stats = |node| world.membership(node).stats();
        assert!(stats(1).returns >= 1 && stats(0).false_downs == 1, "seed {seed}");
    }
}

#[test]
fn a_node_that_stops_for_a_moment_suspects_nobody_for_it() {
    for seed in 0..20 {
        let mut world = settled(5, seed);
        world.play([
            Op::Pause(1),
            Op::Wait(Duration::from_millis(1700)),
            Op::Resume(1),
            Op::Wait(seconds(20)),
        ]);
        assert!(world.all_agree(), "seed {seed}");
        let by_it: Vec<_> = world.log.iter().filter(|(_, node, _)| *node == 1).collect();
        let suspects = by_it.iter().filter(|(.., event)| matches!(event, Event::Suspect(_) | Event::Down(_)));
        assert_eq!(suspects.count(), 0, "seed {seed}: {by_it:?}");
    }
}

#[test]
fn an_answer_that_waited_while_the_process_was_stopped_counts() {
    for seed in 0..5 {
        let mut world = settled(3, seed);
        let probes = world.membership(1).stats().probes;
        assert!(world.run_until(seconds(5), |world| world.membership(1).stats().probes > probes));
        world.play([
            Op::Pause(1),
            Op::Wait(Duration::from_millis(1700)),
            Op::Resume(1),
            Op::Wait(seconds(20)),
        ]);
        let suspects =
            world.log.iter().filter(|(_, node, event)| *node == 1 && matches!(event, Event::Suspect(_)));
        assert_eq!(suspects.count(), 0, "seed {seed}");
        assert!(world.membership(1).stats().late_timers > 0);
    }
}

#[test]
fn who_has_left_listens_to_nobody() {
    let mut world = settled(3, 1);
    let records = world.membership(0).records();
    world.handle(2, Input::Leave);
    world.run(seconds(1));
    let after = world.membership(2).stats();
    world.handle(2, Input::Records(&records));
    world.run(seconds(60));
    assert_eq!(world.membership(2).stats(), after);
    assert_eq!((world.sees(0, 2), world.sees(2, 2)), (Some(MemberState::Left), Some(MemberState::Left)));
}

#[test]
fn both_sides_of_a_partition_find_each_other_again() {
    for (nodes, cut_off) in [(2, vec![1]), (3, vec![2]), (5, vec![0, 1]), (8, vec![0, 1, 2, 3]), (9, vec![8])]
    {
        for seed in 0..5 {
            let mut world = settled(nodes, seed);
            world.perform(Op::CutOff(cut_off.clone()));
            assert!(world.periods_until(400, |world| (0..nodes).all(|node| {
                let other_side =
                    (0..nodes).filter(|other| cut_off.contains(other) != cut_off.contains(&node));
                other_side.into_iter().all(|other| world.sees(node, other) == Some(MemberState::Down))
            })));
            let healed = world.now;
            world.perform(Op::Heal);
            let what = format!("{nodes} nodes, {cut_off:?} cut off, seed {seed}");
            assert!(world.periods_until(40, World::all_agree), "{what}");
            world.run(seconds(90));
            assert!(world.all_agree(), "{what}");
            // What each side thought of the other while it was cut off must not get around afterwards.
            assert_eq!(world.noticed(healed, is_down), [], "{what}");
        }
    }
}

#[test]
fn who_was_alone_for_long_forgets_what_it_thought_of_others() {
    let mut world = settled(5, 4);
    world.play([Op::CutOff(vec![3]), Op::Wait(seconds(60))]);
    assert_eq!(world.membership(3).stats().down, 4);
    world.play([Op::Crash(4), Op::Wait(seconds(30)), Op::Heal]);
    // Of node 4, which is really dead, it must not think otherwise at any moment.
    let mut doubts = 0;
    assert!(world.run_until(seconds(10), |world| {
        doubts += usize::from(world.sees(3, 4) != Some(MemberState::Down));
        (0..3).all(|node| {
            world.sees(3, node) == Some(MemberState::Alive) && world.sees(node, 3) == Some(MemberState::Alive)
        })
    }));
    assert_eq!(doubts, 0);
    assert!(world.all_see(4, MemberState::Down));
}

#[test]
fn a_new_session_is_no_death() {
    let mut world = settled(5, 5);
    let generation = world.view(0).get(id_of(2)).unwrap().generation + 10;
    world.handle(2, Input::Generation(generation));
    let known =
        |world: &World| (0..5).all(|node| world.view(node).get(id_of(2)).unwrap().generation == generation);
    assert!(world.run_until(world.settings.gossip_interval * 2, known));
    let serves = |world: &World| (0..5).all(|node| world.view(node).takers().count() == 5);
    assert!(world.run_until(world.settings.gossip_interval * 2, serves));
    world.run(seconds(60));
    assert!(world.all_agree() && known(&world) && serves(&world));
    assert_eq!(
        world.noticed(Duration::ZERO, |event| matches!(event, Event::Suspect(_) | Event::Down(_))),
        []
    );
}
