//! What happens to whom, step by step.

use crate::cluster::swim::identity::Identity;
use crate::cluster::swim::sim::{Op, World, address_of, id_of};
use crate::cluster::swim::{Event, GossipSettings};
use crate::cluster::{MemberState, Phase};
use std::collections::BTreeMap;
use std::time::Duration;

fn settled(nodes: usize, seed: u64) -> World {
    World::settled(nodes, GossipSettings::default(), seed)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn nodes_find_each_other_and_know_what_each_says_of_itself() {
    let world = settled(5, 1);
    for node in 0..5 {
        let view = world.view(node);
        assert_eq!(view.me, id_of(node));
        assert_eq!(view.takers().count(), 5);
        for other in 0..5 {
            let member = view.get(id_of(other)).unwrap();
            assert_eq!((member.phase, member.internal), (Phase::Running, address_of(other)));
            let public = member.advertised.through(Some("public"));
            assert_eq!(public.first().unwrap().host, format!("n{}.example.com", id_of(other)));
            assert_eq!(member.version, "1.2.3");
        }
    }
}

#[test]
fn a_change_of_phase_is_known_to_all_within_a_gossip_interval() {
    let mut world = settled(5, 2);
    world.phase(3, Phase::Draining);
    let drains =
        |world: &World| (0..5).all(|node| world.view(node).get(id_of(3)).unwrap().phase == Phase::Draining);
    assert!(world.run_until(world.settings.gossip_interval, drains));
    assert!((0..5).all(|node| world.view(node).takers().all(|member| member.id != id_of(3))));
}

#[test]
fn who_leaves_is_seen_leaving_by_all_at_once() {
    for seed in 0..10 {
        let mut world = settled(8, seed);
        world.leave(2);
        world.run(world.network.latency);
        assert!(world.all_see(2, MemberState::Left), "seed {seed}");
        world.run(seconds(120));
        assert!(world.all_see(2, MemberState::Left), "seed {seed}");
        let told =
            world.log.iter().filter(|(.., event)| matches!(event, Event::Left(peer) if peer.id == id_of(2)));
        assert_eq!(told.count(), 7);
        assert_eq!(world.log.len(), 7, "{:?}", world.log);
    }
}

#[test]
fn a_node_that_starts_again_is_up_everywhere_under_its_new_generation() {
    let mut world = settled(5, 3);
    let before = world.view(0).get(id_of(4)).unwrap().generation;
    world.play([Op::Crash(4), Op::Wait(seconds(20))]);
    assert!(world.all_see(4, MemberState::Down));
    world.start(4);
    assert!(world.run_until(world.settings.gossip_interval * 2, World::all_agree));
    assert_eq!(world.view(0).get(id_of(4)).unwrap().generation, before + 1);

    // Not noticed to be dead at all: the new run takes the old one's place.
    world.log.clear();
    world.play([Op::Crash(4), Op::Start(4)]);
    world.run(seconds(30));
    assert!(world.all_agree());
    assert_eq!(world.view(0).get(id_of(4)).unwrap().generation, before + 2);
    let downs = world.log.iter().filter(|(.., event)| matches!(event, Event::Down(_)));
    assert_eq!(downs.count(), 0);
}

#[test]
fn the_dead_are_found_dead_and_nobody_else() {
    let mut world = settled(8, 6);
    world.play([Op::Crash(1), Op::Crash(5), Op::Wait(seconds(40))]);
    assert!(world.all_agree());
    assert!(world.all_see(1, MemberState::Down) && world.all_see(5, MemberState::Down));
    let downs = world.noticed(Duration::ZERO, |event| matches!(event, Event::Down(_)));
    assert_eq!(downs.len(), 12, "{downs:?}");
}

#[test]
fn a_suspect_whose_session_is_over_is_dead_at_once_and_everywhere() {
    for seed in 0..20 {
        let mut world = settled(5, seed);
        world.crash(1);
        assert!(world.run_until(seconds(10), |world| world.sees(0, 1) == Some(MemberState::Suspect)));
        // Wait until all have heard of the suspicion.
        assert!(world.run_until(seconds(1), |world| world.all_see(1, MemberState::Suspect)), "seed {seed}");
        world.session_over(0, 1);
        assert_eq!(world.sees(0, 1), Some(MemberState::Down));
        let soon = world.settings.gossip_interval * 2;
        assert!(world.run_until(soon, |world| world.all_see(1, MemberState::Down)), "seed {seed}");
        assert_eq!(world.membership(0).stats().confirmed, 1);
        // Once, and nobody else.
        world.run(seconds(60));
        let downs = world.noticed(Duration::ZERO, |event| matches!(event, Event::Down(_)));
        assert_eq!(downs.len(), 4, "seed {seed}: {downs:?}");
        world.start(1);
        assert!(world.run_until(world.settings.gossip_interval * 2, World::all_agree), "seed {seed}");
    }
}

#[test]
fn the_end_of_a_session_means_nothing_for_a_node_that_answers() {
    let mut world = settled(5, 11);
    world.session_over(0, 1);
    world.crash(2);
    assert!(world.run_until(seconds(10), |world| world.sees(0, 2) == Some(MemberState::Suspect)));
    // Of an earlier run.
    let earlier = world.generation(2) - 1;
    world.session_of_run_over(0, 2, earlier);
    assert_eq!(world.sees(0, 2), Some(MemberState::Suspect));
    world.run(seconds(2));
    assert!(world.all_see(1, MemberState::Alive) && !world.all_see(2, MemberState::Down));
}

#[test]
fn others_vouch_for_a_node_that_one_cannot_reach() {
    let cut_link = |censor: fn(&[u8]) -> bool| {
        let mut world = settled(5, 9);
        world.network.loss_of = BTreeMap::from([((0, 1), 1.0), ((1, 0), 1.0)]);
        world.censor = censor;
        world.run(seconds(60));
        world.noticed(Duration::ZERO, |event| matches!(event, Event::Suspect(_) | Event::Down(_))).len()
    };
    assert_eq!(cut_link(|_| false), 0);
    // Without proxies.
    assert!(cut_link(asks_for_a_probe) > 0);
}

fn asks_for_a_probe(packet: &[u8]) -> bool {
    let header: (foca::Header<Identity>, _) = postcard::take_from_bytes(packet).unwrap();
    matches!(header.0.message, foca::Message::PingReq { .. })
}

#[test]
fn a_node_that_moved_is_listed_once_and_its_old_place_is_not_called() {
    let mut world = settled(4, 7);
    let old = address_of(2);
    world.crash(2);
    let new = "10.1.0.9:6571".parse().unwrap();
    world.move_to(2, new);
    world.start(2);
    assert!(world.periods_until(4, World::all_agree));
    world.run(seconds(60));
    for node in [0, 1, 3] {
        let view = world.view(node);
        assert_eq!((view.nodes.len(), view.get(id_of(2)).unwrap().internal), (4, new));
    }
    assert!(world.all_agree());
    let twins = world.noticed(Duration::ZERO, |event| {
        matches!(event, Event::Duplicate { older, newer } if older.internal == old && newer.internal == new)
    });
    assert!(!twins.is_empty(), "both seemed to be alive for a while");
}

#[test]
fn two_nodes_with_one_number_are_noticed_by_both_and_by_others() {
    let mut world = settled(3, 8);
    let mut world = {
        world.crash(2);
        world.run(seconds(30));
        world
    };
    world.log.clear();
    world.call_it(2, id_of(0));
    world.start(2);
    world.run(seconds(2));
    let mut noticed: Vec<usize> = world
        .noticed(Duration::ZERO, |event| {
            matches!(event, Event::Duplicate { older, newer }
                if older.id == id_of(0) && older.internal == address_of(0) && newer.internal == address_of(2))
        })
        .into_iter()
        .map(|(_, node, _)| node)
        .collect();
    noticed.dedup();
    noticed.sort_unstable();
    noticed.dedup();
    assert_eq!(noticed, [0, 1, 2]);

    // The second one gives up: the first goes on as if nothing had been.
    world.leave(2);
    world.run(seconds(30));
    assert_eq!(world.sees(1, 0), Some(MemberState::Alive));
    assert_eq!(world.view(1).get(id_of(0)).unwrap().internal, address_of(0));
    assert_eq!(world.view(1).takers().count(), 2);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world = settled(6, seed);
        world.play([
            Op::Loss(0.1),
            Op::Crash(1),
            Op::Wait(seconds(9)),
            Op::CutOff(vec![2, 3]),
            Op::Wait(seconds(9)),
            Op::Heal,
            Op::Pause(4),
            Op::Start(1),
            Op::Wait(seconds(9)),
            Op::Resume(4),
            Op::Leave(5),
            Op::Wait(seconds(9)),
        ]);
        assert!(world.log.len() > 20);
        (world.digest, world.log)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}
